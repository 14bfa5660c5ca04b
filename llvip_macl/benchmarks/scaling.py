"""How a training step grows with its pairs, MACL with its RoIs, and hard negatives with RoIs and with the queue.

    python benchmarks/scaling.py

The step is that of `step.py --size demo` with MACL and DHN, its queue full; MACL and the choice of hard negatives
stand alone beside it, on random unit vectors of 128 dimensions, forward and backward. One thread, CPU times. MACL
compares every RoI with every other, so its own time and memory grow with the square of the RoIs; a batch has a few
hundred at most, where it must stay unseen beside the detector's.
"""

# K paired RoIs, M keys of the queue, D embedding dimension

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from step import SIZES, build, timed_step
from torch import Tensor

from llvip_macl.models.dhn import hard_negatives
from llvip_macl.models.macl_loss import symmetric_contrast
from llvip_macl.self_checks import synthetic_batch
from shared.peak_memory import Action
from shared.scaling import Growth, command

D, QUEUE, TOP_K, ROIS, TAU = 128, 8_192, 256, 128, 0.1
ROIS_OF_A_PERSON = 4
SQUARE = (
    "every RoI is compared with every other; from 1,024 RoIs on the matrices leave the processor's cache, and the "
    "kernel clears their memory anew at every call, which costs more than the square"
)


def training_step(pairs: int) -> Action:
    """A whole step on so many pairs."""
    model, batch = build("demo", "full"), synthetic_batch(pairs, SIZES["demo"][0])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-5)
    return lambda: timed_step(model, optimizer, batch, 0)


def unit_rows(count: int, seed: int) -> Tensor:
    rows = torch.randn(count, D, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1).requires_grad_()


def contrast(rois: int) -> Action:
    vis, ir, groups = unit_rows(rois, 0), unit_rows(rois, 1), torch.arange(rois) // ROIS_OF_A_PERSON
    return lambda: symmetric_contrast(vis, ir, groups, TAU).loss.backward()


def negatives(rois: int, queue: int) -> Action:
    anchors, keys = unit_rows(rois, 0), unit_rows(queue, 1).detach()
    allowed = torch.ones(rois, queue, dtype=torch.bool)
    return lambda: hard_negatives(anchors, keys, allowed, TOP_K).cosine.sum().backward()


def growths() -> Sequence[Growth]:
    return [
        Growth("a training step, by its pairs", "pairs", (1, 2, 4, 8, 16), training_step),
        Growth("MACL alone, by RoIs", "RoIs", (64, 128, 256, 512, 1_024, 2_048), contrast, time_power=2.0,
               memory_power=2.0, why=SQUARE),
        Growth(f"hard negatives of a queue of {QUEUE:,}, by RoIs", "RoIs", (16, 32, 64, 128, 256, 512),
               lambda rois: negatives(rois, QUEUE)),
        Growth(f"hard negatives of {ROIS} RoIs, by the queue", "keys", (512, 1_024, 2_048, 4_096, 8_192, 16_384),
               lambda queue: negatives(ROIS, queue)),
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    return command(growths, Path(__file__), __doc__, argv, ("torch", "onedl-mmdetection", "onedl-mmcv"))


if __name__ == "__main__":
    sys.exit(main())
