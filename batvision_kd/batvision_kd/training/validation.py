"""Judging a model on a split, in whatever number of processes: the same images in the same order, the same numbers."""

import torch
from torch import nn
from torch.utils.data import Dataset

from shared import run as run_module
from shared.batches import in_order
from shared.errors import DataError

from ..metrics import METRICS, image_metrics
from .batches import to_device

PROTOCOL = "strict"
SELECTION = "rmse"  # of PROTOCOL, per image, lowest: decides which epoch best_model.pth is


@torch.no_grad()
def validate(
    model: nn.Module,
    data: Dataset,
    source: str,
    *,
    max_depth_m: float,
    batch_size: int,
    world: run_module.World,
    workers: int = 0,
    timeout_s: float = 120.0,
) -> dict[str, float]:
    """Mean over the images of `data` of every metric (collective); `counted` and `skipped` images stand beside them.

    source: the item that the model takes, "rgb" or "audio". Raises DataError when no image has enough valid pixels.
    The model is left in eval mode.
    """
    model.eval()
    _share_buffers(model, world)
    loader = run_module.make_loader(data, in_order(len(data), batch_size, world.rank, world.size), workers=workers,
                                    timeout_s=timeout_s)  # fmt: skip
    rows: list[tuple[float, ...]] = []
    for batch in run_module.iterate(loader):
        moved = to_device(batch, world.device)
        depth = model(moved[source]).float()
        scores = image_metrics(depth, moved["depth"], moved["valid"], PROTOCOL, max_depth_m)
        table = torch.stack([scores[name].double() for name in (*METRICS, "counted")], 1)
        rows += [tuple(row) for row in table.tolist()]
    return _means(_in_sample_order(rows, world))


def _share_buffers(model: nn.Module, world: run_module.World) -> None:
    """Every process judges with the main one's batch-norm statistics, which are the ones that are saved: those of the
    others have since seen another batch."""
    if world.size > 1:
        model.load_state_dict(world.broadcast(dict(model.named_buffers())), strict=False)


def _in_sample_order(rows: list[tuple[float, ...]], world: run_module.World) -> list[tuple[float, ...]]:
    """Process r has the samples r, r + size, ...: back in their order, so that sums round alike."""
    parts = world.gather(rows)
    total = sum(map(len, parts))
    return [parts[index % world.size][index // world.size] for index in range(total)]


def _means(rows: list[tuple[float, ...]]) -> dict[str, float]:
    table = torch.tensor(rows, dtype=torch.float64)
    counted = table[:, -1] > 0
    if not counted.any():
        raise DataError(
            f"none of {len(table)} validation images has enough valid depth to be judged: check the depth maps with "
            "inspect_data.py"
        )
    means = table[counted, :-1].mean(0).tolist()
    skipped = int((~counted).sum())
    return {**dict(zip(METRICS, means, strict=True)), "counted": len(table) - skipped, "skipped": skipped}
