"""Points to voxels: floor, stable sort, rank, mean. CPU and CUDA, nothing compiled.

    voxels = voxelize(points, grid, grid.max_voxels_eval)         # one frame
    batch = batch_voxels([voxels, ...], sensors).to(device)       # several, frames without a voxel included

Rules: cell = floor((p - min) / size) in float64; the feature is the mean of the first `max_points` points of
a cell in input order (OpenPCDet's MeanVFE), summed in float64 so that the order of an uncapped cell's points changes
nothing; when there are more cells than `max_voxels`, those whose first point came first stay, and `dropped` counts the
others. Voxels stand in raster order (z, then y, then x).
"""

# B samples, N points, V voxels, C features of a point

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shared.errors import DataError

from .grid import Grid


@dataclass(frozen=True)
class Voxels:
    """One frame: features (V,C) float32; coords (V,3) int32 z, y, x; counts (V,) int64 points of the cell, all of them;
    dropped: voxels left out because there were more than `max_voxels`."""

    features: Tensor
    coords: Tensor
    counts: Tensor
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.coords)


@dataclass(frozen=True)
class VoxelBatch:
    """Frames together: features (V,C) float32; coords (V,4) int32 sample, z, y, x, samples in order; sensor_xy (B,2)
    float32 metres, where each sample's sensor stands. `batch_size` is stated, not read from the coordinates, so frames
    without a voxel keep their place."""

    features: Tensor
    coords: Tensor
    batch_size: int
    sensor_xy: Tensor

    def __len__(self) -> int:
        return len(self.coords)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "VoxelBatch":
        features, coords, sensor_xy = (
            part.to(device, non_blocking=non_blocking) for part in (self.features, self.coords, self.sensor_xy)
        )
        return VoxelBatch(features, coords, self.batch_size, sensor_xy)

    def select(self, rows: Tensor) -> "VoxelBatch":
        """The voxels of a mask or of indices, for the same samples."""
        return VoxelBatch(self.features[rows], self.coords[rows], self.batch_size, self.sensor_xy)

    def sizes(self) -> list[int]:
        """Voxels of each sample."""
        sample = self.coords[:, 0].cpu().numpy()
        ends = [bisect_right(sample, b) for b in range(self.batch_size - 1)]
        return [end - start for start, end in itertools.pairwise([0, *ends, len(sample)])]


def voxelize(points: Tensor | np.ndarray, grid: Grid, max_voxels: int | None = None) -> Voxels:
    """The voxels of one frame: points (N,C) float32, x, y, z in metres first; N may be 0.

    Args:
        max_voxels: `grid.max_voxels_train` when not given.

    Raises:
        DataError: another shape or dtype, or values that are not finite.
    """
    points = _checked(points)
    cells, inside = grid.cells_of(points)
    points, cells = points[inside], cells[inside]
    _, height, width = grid.cells_zyx
    flat = (cells[:, 0] * height + cells[:, 1]) * width + cells[:, 2]
    flat, order = torch.sort(flat, stable=True)  # within a cell: input order
    ids, counts = torch.unique_consecutive(flat, return_counts=True)
    starts = counts.cumsum(0) - counts
    features = _means(points[order], starts, counts, grid.max_points)
    coords = torch.stack([ids // (height * width), ids // width % height, ids % width], 1).int()
    limit = grid.max_voxels_train if max_voxels is None else max_voxels
    if len(ids) <= limit:
        return Voxels(features, coords, counts)
    kept = order[starts].argsort()[:limit].sort().values  # those whose first point came first, in raster order
    return Voxels(features[kept], coords[kept], counts[kept], len(ids) - limit)


def _checked(points: Tensor | np.ndarray) -> Tensor:
    points = torch.as_tensor(points)
    if points.ndim != 2 or points.shape[1] < 3 or points.dtype != torch.float32:
        raise DataError(
            f"points of shape {tuple(points.shape)}, {points.dtype}: they are (N, C) float32 = x, y, z and any features"
        )
    bad = int((~torch.isfinite(points)).any(1).sum())
    if bad:
        raise DataError(f"{bad} of {len(points)} points hold NaN or infinity: remove them, or re-export the file")
    return points


def _means(points: Tensor, starts: Tensor, counts: Tensor, max_points: int) -> Tensor:
    """Sorted points (N,C) -> (V,C) float32: the mean of each cell's first `max_points`."""
    cell = torch.arange(len(counts), device=points.device).repeat_interleave(counts)
    first = torch.arange(len(points), device=points.device) - starts[cell] < max_points
    sums = points.new_zeros(len(counts), points.shape[1], dtype=torch.float64)
    sums.index_add_(0, cell[first], points[first].double())
    return (sums / counts.clamp(max=max_points)[:, None]).float()


def batch_voxels(frames: Sequence[Voxels], sensor_xy: Sequence[np.ndarray] | Tensor | None = None) -> VoxelBatch:
    """Put frames (at least one; each may be without voxels) into one batch; sensors at the origin when not given."""
    if not frames:
        raise ValueError("a batch needs at least one frame; a frame without voxels is one too")
    coords = torch.cat([torch.nn.functional.pad(frame.coords, (1, 0), value=b) for b, frame in enumerate(frames)])
    features = torch.cat([frame.features for frame in frames])
    if sensor_xy is None:
        sensors = features.new_zeros(len(frames), 2)
    else:
        sensors = torch.stack([torch.as_tensor(one, dtype=torch.float32) for one in sensor_xy]).to(features.device)
    assert sensors.shape == (len(frames), 2), f"{len(frames)} frames, sensors of shape {tuple(sensors.shape)}"
    return VoxelBatch(features, coords, len(frames), sensors)
