"""Training a base detector: the network whose two halves the quantizer is put between.

    python train_pointpillars.py                                         # the published recipe on KITTI
    python train_pointpillars.py --config exp/base_embedded.yaml         # small; writes its embedded world first

AdamW and a one-cycle schedule on `shared.loop`: the same command continues a cut run, on CPU bit for bit.
`<run>/base.pth` holds the weights of the newest evaluation, at the end those of the last epoch (a one-cycle run is at
its best there; nothing is selected on val).
"""

# B frames, P pillars, h x w cells of the head's map

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from shared import run as run_module
from shared.batches import ShuffledBatches, in_order
from shared.checkpoint import write_atomic
from shared.config import config_hash, load_config, to_yaml
from shared.embedded_world import is_embedded
from shared.errors import DataError
from shared.loop import Loop, LoopSettings
from shared.optim import lr_groups, one_cycle

from .anchors import make_anchors
from .base_config import BaseConfig
from .batches import Collate
from .decode import Decoding, Detections, detect
from .detection_loss import detection_losses
from .embedded import BANNER, MARK, embedded_root
from .evaluation.conversion import detections_to_kitti
from .evaluation.kitti_ap import kitti_ap
from .kitti.augmentation import AugmentationSettings
from .kitti.dataset import KittiDataset
from .kitti.layout import KittiRoot, find_kitti
from .network import PointPillars
from .targets import Targets, assign_targets
from .weights import save_base

STAGE, WEIGHTS, SCORES = "base", "base.pth", "scores.json"
# What changes neither the weights nor the numbers, so that a cut run can be continued with another value.
NOT_HASHED = (
    "data.results_dir", "data.embedded_dir", "data.world.workers", "training.device", "training.workers",
    "training.loader_timeout_s", "training.keep", "training.wandb",
)  # fmt: skip


# --- the paper's part -------------------------------------------------------------------------------------------------


def detection_epoch(
    model: nn.Module, loader, anchors: Tensor, loop: Loop, *, bf16: bool = False, **loss: Any
) -> dict[str, float]:
    """One pass: pillars -> maps -> targets -> losses -> step. Returns the epoch's means of cls, reg, dir and loss.

    loss: code_weights and published_angle_loss of `detection_losses`.
    """
    model.train()
    device, classes = loop.world.device, loop.bare.classes
    for batch in loop.batches(loader):
        batch = batch.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            predictions = model(batch.pillars)
        targets = assign_targets(anchors, batch.boxes, batch.labels, classes)
        divisor = positives_per_frame(loop.world, targets, len(batch.frame_ids))
        terms = detection_losses(predictions, targets, divisor=divisor, **loss)
        loop.step(terms, ids=batch.frame_ids, count=len(batch.frame_ids))
    return loop.close_epoch()


@torch.no_grad()
def positives_per_frame(world: run_module.World, targets: Targets, frames: int) -> Tensor:
    """What a process divides its sums by, so that their frame-weighted mean over the processes has the positives of all
    of them below it: all positives (at least 1), times its own share of the frames. Collective.
    """
    own = torch.stack([targets.positive.sum().float(), torch.tensor(float(frames), device=targets.classes.device)])
    positives, all_frames = world.sum(own)
    return positives.clamp(min=1) * (frames / all_frames)


@torch.no_grad()
def detections_of(model: PointPillars, loader, anchors: Tensor, decoding: Decoding) -> Iterator[Detections]:
    """Detections of every frame of a loader, in its order; the model is left in eval mode."""
    model.eval()
    for batch in run_module.iterate(loader):
        yield from detect(model(batch.pillars.to(anchors.device)), anchors, decoding)


# --- one run ----------------------------------------------------------------------------------------------------------


def train_base(
    config: BaseConfig,
    run: run_module.RunFolder,
    world: run_module.World,
    train: Dataset,
    val: KittiDataset | None,
    mark: str = "",
) -> Path:
    """Train on the frames of `train`, judge on `val` (None: not at all), and leave `<run>/base.pth`.

    train: frames by (epoch, index), with boxes and labels (kitti.dataset.Frame). mark: stands beside every figure.
    """
    training, settings = config.training, config.model
    run_module.seed_everything(training.seed)
    grid, classes = settings.build_grid(), settings.build_classes()
    model = PointPillars(grid, classes, settings.build_widths()).to(world.device)
    anchors = make_anchors(grid, classes, world.device)
    sampler = ShuffledBatches(
        len(train), training.batch_size, seed=training.seed, rank=world.rank, world_size=world.size
    )
    loader = _loader(config, train, sampler, grid.max_voxels_train)
    run.log.info("%d training frames in %d batches; %.2f M parameters", len(train), len(sampler),
                 sum(p.numel() for p in model.parameters()) / 1e6)  # fmt: skip
    loop = _loop(config, run, world, model, sampler)
    loop.resume()
    for epoch in loop.epochs():
        detection_epoch(loop.model, loader, anchors, loop, bf16=training.bf16, code_weights=training.code_weights,
                        published_angle_loss=settings.published_angle_loss)  # fmt: skip
        if (epoch + 1) % training.eval_every == 0 or epoch + 1 == training.epochs:
            _judge(config, run, model, val, loop, mark)
    return run.path / WEIGHTS


def evaluate_base(config: BaseConfig, model: PointPillars, val: KittiDataset, device: torch.device) -> dict[str, Any]:
    """KITTI's average precision of the unquantized detector on a labelled split (see evaluation.kitti_ap)."""
    batches = in_order(len(val), config.training.batch_size)
    loader = _loader(config, val, batches, model.grid.max_voxels_eval)
    anchors = make_anchors(model.grid, model.classes, device)
    found = list(detections_of(model, loader, anchors, config.model.decoding()))
    rows = [
        detections_to_kitti(one.boxes, one.scores, one.labels, info.calib, info.image_hw, config.model.classes)
        for one, info in zip(found, val.infos, strict=True)
    ]
    image = all(info.image_hw is not None and info.calib is not None for info in val.infos)
    return kitti_ap(val.annotations(), rows, config.model.classes, image=image)


def _judge(config: BaseConfig, run, model: PointPillars, val: KittiDataset | None, loop: Loop, mark: str) -> None:
    """Score on val, log, and write the weights as they are (main process; the others wait)."""
    if loop.world.is_main:
        scores = evaluate_base(config, model, val, loop.world.device) if val is not None else None
        if scores is not None:
            headline = {"map_3d_moderate_r40": scores["R40"]["3d"]["overall"]["moderate"],
                        "map_3d_moderate_r11": scores["R11"]["3d"]["overall"]["moderate"]}  # fmt: skip
            run.log.info("base step %d: 3D moderate mAP R40 %.2f, R11 %.2f on %d frames%s", loop.steps_done,
                         *headline.values(), len(val), f"; {mark}" if mark else "")  # fmt: skip
            run.metrics.log(loop.steps_done, headline, split=f"{STAGE}/val")
            write_atomic(run.file(SCORES), json.dumps({"mark": mark, **scores}, indent=1) + "\n")
        save_base(run.file(WEIGHTS), model, step=loop.steps_done, config=config.model_dump(mode="json"),
                  scores=scores, mark=mark)  # fmt: skip
    loop.world.barrier()


def _loader(config: BaseConfig, frames: Dataset, batches, max_voxels: int):
    training = config.training
    return run_module.make_loader(
        frames,
        batches,
        workers=training.workers,
        collate=Collate(config.model.build_grid(), max_voxels),
        timeout_s=training.loader_timeout_s,
    )


def _loop(config: BaseConfig, run, world, model: PointPillars, sampler: ShuffledBatches) -> Loop:
    training = config.training
    groups = lr_groups(model, training.lr, {}, weight_decay=training.weight_decay, decay_1d=True)
    # A batch without a pillar leaves the encoder unused.
    wrapped = DistributedDataParallel(model, find_unused_parameters=True) if world.size > 1 else model
    return Loop(
        stage=STAGE,
        run=run,
        world=world,
        model=wrapped,
        optimizer=torch.optim.AdamW(groups, betas=training.betas),
        schedule=lambda step, total: one_cycle(step, total, rise=training.rise),
        weights=training.loss.model_dump(),
        sampler=sampler,
        settings=LoopSettings(
            training.epochs, 1, training.clip, training.log_every, training.save_every, training.keep
        ),
    )


# --- the command ------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="train_pointpillars.py",
        description="Train a base detector on a prepared KITTI root. The same command continues a cut run.",
    )
    parser.add_argument("--config", action="append", type=Path, default=[], metavar="FILE",
                        help="YAML laid over the published recipe; repeatable, later wins")  # fmt: skip
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", dest="overrides",
                        help="one setting; wins over all files")  # fmt: skip
    parser.add_argument("--run", metavar="NAME", help="folder below data.results_dir; default: continue the newest "
                        "unfinished run of this configuration, else a new one")  # fmt: skip
    args = parser.parse_args(argv)
    return run_module.run_command(lambda: execute(args.config, args.overrides, args.run))


def execute(files: Sequence[Path], overrides: Sequence[str], name: str | None) -> int:
    config = load_config(BaseConfig, files, overrides)
    with run_module.world_from_environment(config.training.device) as world:
        train, val = datasets(config, open_root(config, world))
        embedded = is_embedded(train.root.path)
        mark = MARK if embedded else config.data.mark
        with run_module.RunFolder.open(
            config.data.results_dir.absolute(),
            name=name,
            config_hash=config_hash(config, NOT_HASHED),
            config_yaml=to_yaml(config),
            stages=(STAGE,),
            world=world,
            command=sys.argv,
            wandb=config.training.wandb,
        ) as run:
            run.record(seed=config.training.seed, data="embedded" if embedded else str(train.root.path), mark=mark)
            if run.is_done(STAGE):
                run.log.info("%s is done: %s", run.path.name, run.path / WEIGHTS)
                return 0
            path = train_base(config, run, world, train, val, mark)
            run.mark_done(STAGE, weights=path.name)
            run.log.info("wrote %s", path)
    return 0


def open_root(config: BaseConfig, world: run_module.World) -> KittiRoot:
    """The root of the configuration; without one the embedded world, written and prepared first, said in a banner.

    Raises DataError when data.dir is set and is missing or no KITTI: a root that is named is never replaced.
    """
    data = config.data
    if data.dir is not None:
        try:
            root = find_kitti(data.dir)
        except DataError as error:
            raise DataError(f"data.dir: {error} (for the embedded world set data.dir: null)") from error
    if world.is_main and (data.dir is None or is_embedded(root.path)):
        run_module.announce(BANNER)
    if data.dir is None:
        root = embedded_root(data.embedded_dir, data.world.spec(), world, workers=data.world.workers)
    return root


def datasets(config: BaseConfig, root: KittiRoot) -> tuple[KittiDataset, KittiDataset | None]:
    """The training split, augmented, and the validation split as it is; DataError when they share a frame."""
    data, classes = config.data, config.model.classes
    augment = data.augment and AugmentationSettings(config.model.grid.range_m, **data.augment.model_dump())
    train = KittiDataset(root, data.train_split, classes, train=True, augment=augment, seed=config.training.seed)
    if data.val_split is None:
        return train, None
    val = KittiDataset(root, data.val_split, classes, train=True)
    shared = {info.frame_id for info in train.infos} & {info.frame_id for info in val.infos}
    if shared and data.train_split == "train":
        raise DataError(f"{root.path}: {len(shared)} frames are in both {data.train_split} and {data.val_split}, the "
                        f"first is {min(shared)}: mend ImageSets, or set data.val_split: null")  # fmt: skip
    return train, val.frames_of(range(len(val))[: data.val_frames])
