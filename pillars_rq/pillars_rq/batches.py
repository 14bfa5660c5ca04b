"""How frames become a batch of pillars; voxelization happens in the loader's workers."""

# B frames, P pillars, M points of a pillar, G boxes of a frame

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shared.errors import DataError

from .grid import Grid
from .voxelize import PillarBatch, batch_pillars, voxelize


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
