"""The two epochs: masked pretraining with a teacher, and detection.

Position, saving, stopping and logging belong to `shared.loop.Loop`; what stands here is the method. Names are the
design note's: train_one_epoch_phase1 for pretraining, train_one_epoch for fine-tuning.
"""

# B frames, V voxels, M boxes of a frame (padded)

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shared.loop import Loop
from shared.run import World

from .batches import FrameBatch

Terms = Mapping[str, Tensor]
ModelFunc = Callable[[nn.Module, FrameBatch], tuple[Terms, Mapping[str, Any]]]  # -> unweighted terms, diagnostics


class AfterStep:
    """What follows an optimizer step: the teacher moves and the queues take in this batch. The Loop calls it where it
    would update a moving average, so that a save describes the moment after it; its state stands in the model's."""

    def update(self, model: nn.Module) -> None:
        model.after_step()

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing: the model's own state has it."""


@dataclass
class TimedSaves:
    """--ckpt_save_time_interval: whether it is time for a save (the same answer on every process)."""

    every_s: float
    loop: Loop
    last: float = 0.0

    def __post_init__(self) -> None:
        self.last = time.monotonic()

    def due(self) -> bool:
        late = self.loop.world.is_main and time.monotonic() - self.last > self.every_s
        if not self.loop.world.any(late):
            return False
        self.last = time.monotonic()
        return True


def train_one_epoch_phase1(
    model: nn.Module, loader, loop: Loop, model_func: ModelFunc, after_batch: Callable[[], None]
) -> dict[str, float]:
    """Masked pretraining: the student sees the kept voxels, the teacher all of them; occupancy and, where they are
    enabled, the teacher's terms pull; then the teacher follows. Returns the epoch's means."""
    model.train()
    for batch in loop.batches(loader):
        batch = batch.to(loop.world.device)
        terms, diagnostics = model_func(model, batch)
        loop.means.update({**diagnostics, **batch.facts()}, len(batch))
        counts = {name: diagnostics["occupancy_sites"] if name == "occupancy" else len(batch) for name in terms}
        loop.step(weighed(terms, counts, loop.world), ids=batch.frame_ids, count=1)
        after_batch()
    return loop.close_epoch()


def weighed(terms: Terms, counts: Mapping[str, Tensor | float], world: World) -> dict[str, Tensor]:
    """Means over each process's own sites (or frames) -> terms whose mean over the processes is the mean over all."""
    if world.size == 1:
        return dict(terms)
    own = torch.stack([torch.as_tensor(counts[name], dtype=torch.float32, device=world.device) for name in terms])
    shares = own * world.size / world.sum(own).clamp(min=1)
    return {name: term * share for (name, term), share in zip(terms.items(), shares, strict=True)}


def train_one_epoch(
    model: nn.Module, loader, loop: Loop, model_func: ModelFunc, after_batch: Callable[[], None]
) -> dict[str, float]:
    """Detection: voxels -> bird's-eye view -> head -> targets -> losses -> step. Returns the epoch's means.

    The terms are divided by the counts of all processes already, so each process counts the same.
    """
    model.train()
    for batch in loop.batches(loader):
        batch = batch.to(loop.world.device)
        terms, diagnostics = model_func(model, batch)
        loop.means.update({**diagnostics, **batch.facts()}, len(batch))
        loop.step(terms, ids=batch.frame_ids, count=1)
        after_batch()
    return loop.close_epoch()
