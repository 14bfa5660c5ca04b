"""Frames as batches: whose turn it is, and how frames become pillars.

A sampler yields lists of (epoch, index) keys, so that persistent loader workers need not be told the epoch, and a cut
run continues at `set_position(epoch, batch)`. The batches of an epoch follow from (seed, epoch) alone and are the same
for any number of processes: each takes its share of every batch. Voxelization happens in the workers.
"""

# B frames, P pillars, M points of a pillar, G boxes of a frame

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shared.errors import ConfigError, DataError

from .grid import Grid
from .voxelize import PillarBatch, batch_pillars, voxelize

Key = tuple[int, int]  # epoch, index


class FrameSampler:
    """Shuffled batches of `batch_size` frames over all processes; of frames left over, one batch more if every process
    gets a share of it.

    Raises ConfigError when a batch has fewer frames than there are processes, or there are fewer frames than processes.
    """

    def __init__(self, frames: int, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1):
        if min(batch_size, frames) < world_size:
            raise ConfigError(
                f"batches of {batch_size} of {frames} frames leave some of {world_size} processes without a frame: "
                "use larger batches, more frames, or fewer processes"
            )
        self.frames, self.batch_size, self.seed = frames, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.count = frames // batch_size + (frames % batch_size >= world_size)
        self.epoch, self.start_batch = 0, 0

    def set_position(self, epoch: int, start_batch: int = 0) -> None:
        """The next iteration yields the batches of `epoch` from number `start_batch` on."""
        self.epoch, self.start_batch = epoch, start_batch

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.frames)
        for number in range(self.start_batch, self.count):
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield [(self.epoch, int(index)) for index in batch[self.rank :: self.world_size]]

    def __len__(self) -> int:
        return self.count


def in_order(frames: int, batch_size: int) -> list[list[Key]]:
    """The batches of an evaluation: every frame once, in order, unaugmented epoch 0."""
    return [[(0, i) for i in range(start, min(start + batch_size, frames))] for start in range(0, frames, batch_size)]


@dataclass(frozen=True)
class DetectionBatch:
    """frame_ids: B names. boxes: B tensors (G,7) float32; labels: B tensors (G,) int64, -1 for other classes; both None
    when a frame has no labels."""

    frame_ids: list[str]
    pillars: PillarBatch
    boxes: list[Tensor] | None
    labels: list[Tensor] | None

    def to(self, device: torch.device) -> "DetectionBatch":
        moved = [part and [one.to(device, non_blocking=True) for one in part] for part in (self.boxes, self.labels)]
        return DetectionBatch(self.frame_ids, self.pillars.to(device, non_blocking=True), *moved)


@dataclass(frozen=True)
class Collate:
    """Frames (see kitti.dataset.Frame) -> DetectionBatch; a picklable callable for the loader's workers."""

    grid: Grid
    max_voxels: int

    def __call__(self, frames: Sequence[Any]) -> DetectionBatch:
        labelled = all(frame.boxes is not None for frame in frames)
        return DetectionBatch(
            [frame.frame_id for frame in frames],
            batch_pillars([self._pillars(frame) for frame in frames]),
            [torch.from_numpy(np.asarray(frame.boxes, np.float32)) for frame in frames] if labelled else None,
            [torch.from_numpy(np.asarray(frame.labels, np.int64)) for frame in frames] if labelled else None,
        )

    def _pillars(self, frame: Any):
        try:
            return voxelize(frame.points, self.grid, self.max_voxels)
        except DataError as error:
            raise DataError(f"frame {frame.frame_id}: {error}") from error
