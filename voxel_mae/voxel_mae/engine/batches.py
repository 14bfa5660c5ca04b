"""Frames as batches: whose turn it is, and how frames become voxels, masks and padded boxes.

Voxels and masks are made in the loader's workers; a mask follows from (seed, epoch, index), whichever worker draws it.
"""

# B frames, V voxels, M boxes of a frame (padded)

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from shared.batches import Key, ShuffledBatches
from shared.errors import ConfigError, DataError

from ..grid import Grid
from ..masking import KeepShares, Masking, mask_batch, mask_rng
from ..voxelize import VoxelBatch, Voxels, batch_voxels, voxelize


class FrameSampler(ShuffledBatches):
    """`rounds` passes count as one epoch (--merge_all_iters_to_one_epoch); a key names the pass.

    Raises ConfigError when the batch does not divide by the processes, or there are fewer frames than processes.
    """

    def __init__(self, frames: int, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1, rounds: int = 1):
        if batch_size % world_size or frames < world_size:
            raise ConfigError(
                f"--batch_size {batch_size} with {frames} frames on {world_size} processes: it is the total and must "
                f"divide by them; take {max(1, batch_size // world_size) * world_size}"
            )
        super().__init__(frames, batch_size, seed=seed, rank=rank, world_size=world_size)
        self.rounds = rounds

    def __iter__(self) -> Iterator[list[Key]]:
        first, skipped = divmod(self.start_batch, self.count)
        for number in range(self.epoch * self.rounds + first, (self.epoch + 1) * self.rounds):
            for batch in self.batches(number)[skipped:]:
                yield [(number, index) for index in self.share(batch)]
            skipped = 0

    def __len__(self) -> int:
        return self.count * self.rounds


class KeyedFrames(Dataset):
    """Frames by (epoch, index), each with its key, which the mask is drawn from."""

    def __init__(self, frames: Dataset):
        self.frames = frames

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, key: Key) -> tuple[Key, Any]:
        return key, self.frames[key]

    def names_of(self, keys: Sequence[Key]) -> str:
        return self.frames.names_of(keys)


@dataclass(frozen=True)
class FrameBatch:
    """frame_ids: B names. voxels: of all points. keep: (V,) bool, what the student sees, None without masking; shares:
    what was kept. gt_boxes: (B,M,8) float32 x, y, z, dx, dy, dz, heading, class from 1, rows of zeros beyond a frame's
    own; None when a frame has no labels. dropped: voxels beyond MAX_NUMBER_OF_VOXELS."""

    frame_ids: list[str]
    voxels: VoxelBatch
    keep: Tensor | None = None
    shares: KeepShares | None = None
    gt_boxes: Tensor | None = None
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.frame_ids)

    def facts(self) -> dict[str, float]:
        """For the log: voxels that were dropped, and what the mask kept, in all and by range band (keep_0_10m, ...)."""
        return {"dropped_voxels": float(self.dropped), **(self.shares.metrics() if self.shares is not None else {})}

    def to(self, device: torch.device) -> "FrameBatch":
        keep, boxes = (part if part is None else part.to(device, non_blocking=True)
                       for part in (self.keep, self.gt_boxes))  # fmt: skip
        return replace(self, voxels=self.voxels.to(device, non_blocking=True), keep=keep, gt_boxes=boxes)


@dataclass(frozen=True)
class Collate:
    """Keyed frames -> FrameBatch; a picklable callable for the loader's workers. masking: None outside pretraining."""

    grid: Grid
    max_voxels: int
    masking: Masking | None = None
    seed: int = 0
    labels: bool = True

    def __call__(self, items: Sequence[tuple[Key, Any]]) -> FrameBatch:
        frames = [frame for _, frame in items]
        voxels = [self._voxels(frame) for frame in frames]
        batch = batch_voxels(voxels, [frame.sensor_xy for frame in frames])
        keep, shares = None, None
        if self.masking is not None:
            keep, shares = mask_batch(batch, self.grid, self.masking, [mask_rng(self.seed, *key) for key, _ in items])
        boxes = padded_boxes(frames) if self.labels else None
        return FrameBatch([str(frame.frame_id) for frame in frames], batch, keep, shares, boxes,
                          sum(one.dropped for one in voxels))  # fmt: skip

    def _voxels(self, frame: Any) -> Voxels:
        try:
            return voxelize(frame.points, self.grid, self.max_voxels)
        except DataError as error:
            raise DataError(f"frame {frame.frame_id}: {error}") from error


def padded_boxes(frames: Sequence[Any]) -> Tensor | None:
    """Boxes and labels of frames as (B,M,8) float32, M >= 1; None when a frame has none to give."""
    if any(frame.boxes is None for frame in frames):
        return None
    most = max(1, *(len(frame.boxes) for frame in frames))
    boxes = torch.zeros(len(frames), most, 8)
    for row, frame in zip(boxes, frames, strict=True):
        row[: len(frame.boxes), :7] = torch.as_tensor(np.asarray(frame.boxes, np.float32).reshape(-1, 7))
        row[: len(frame.boxes), 7] = torch.as_tensor(np.asarray(frame.labels, np.float32))
    return boxes
