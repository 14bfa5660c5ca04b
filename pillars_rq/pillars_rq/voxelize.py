"""Points to pillars: floor, unique, stable sort, rank. CPU and CUDA, nothing compiled.

    pillars = voxelize(points, grid, grid.max_voxels_eval)       # one frame
    batch = batch_pillars([pillars, ...]).to(device)             # several, frames without a pillar included

Rules: points strictly inside the range; cell = floor((p - min) / size) in float32; the first
`max_points` of a cell in input order; when there are more cells than `max_voxels`, those whose first point came first.
Pillars stand in raster order (rows of y, then x), which is the order of the bitstream too.
"""

# N points, P pillars, M points kept in a pillar; coords are cell indices, y before x

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shared.errors import DataError

from .grid import Grid, strictly_inside


@dataclass(frozen=True)
class Pillars:
    """One frame: points (P,M,4) float32 x, y, z, reflectance, zeros behind the last; counts (P,) int64, 1..M; coords
    (P,2) int64 y, x."""

    points: Tensor
    counts: Tensor
    coords: Tensor

    def __len__(self) -> int:
        return len(self.counts)


@dataclass(frozen=True)
class PillarBatch:
    """Frames together: points (P,M,4), counts (P,), coords (P,3) int64 frame, y, x, raster order within each frame.
    `batch_size` is stated, not read from the coordinates, so frames without a pillar keep their place."""

    points: Tensor
    counts: Tensor
    coords: Tensor
    batch_size: int

    def __len__(self) -> int:
        return len(self.counts)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PillarBatch":
        moved = (part.to(device, non_blocking=non_blocking) for part in (self.points, self.counts, self.coords))
        return PillarBatch(*moved, self.batch_size)


def voxelize(points: Tensor | np.ndarray, grid: Grid, max_voxels: int) -> Pillars:
    """The pillars of one frame: points (N,4) float32 x, y, z (metres, LiDAR frame), reflectance; N may be 0.

    Raises DataError for another shape or for coordinates that are not finite.
    """
    points = _checked(points)
    points, cells = _inside(points, grid)
    cells, order = torch.sort(cells, stable=True)  # within a cell: input order
    cell_ids, sizes = torch.unique_consecutive(cells, return_counts=True)
    starts = sizes.cumsum(0) - sizes
    rank = torch.arange(len(cells), device=cells.device) - starts.repeat_interleave(sizes)
    pillar = torch.arange(len(sizes), device=cells.device).repeat_interleave(sizes)
    kept = rank < grid.max_points
    padded = points.new_zeros(len(sizes), grid.max_points, 4)
    padded[pillar[kept], rank[kept]] = points[order[kept]]
    pillars = Pillars(padded, sizes.clamp(max=grid.max_points), _coords(cell_ids, grid))
    return pillars if len(pillars) <= max_voxels else _first_come(pillars, order[starts], max_voxels)


def _checked(points: Tensor | np.ndarray) -> Tensor:
    points = torch.as_tensor(points)
    if points.ndim != 2 or points.shape[1] != 4 or points.dtype != torch.float32:
        raise DataError(
            f"points of shape {tuple(points.shape)}, {points.dtype}: they are (N, 4) float32 = x, y, z, reflectance"
        )
    if not torch.isfinite(points).all():
        bad = int((~torch.isfinite(points)).any(1).sum())
        raise DataError(f"{bad} of {len(points)} points hold NaN or infinity: remove them, or re-extract the file")
    return points


def _inside(points: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Points strictly inside the range, and the raster index y * W + x of the cell of each."""
    low, high = points.new_tensor(grid.range_m).split(3)
    points = points[strictly_inside(points, low, high)]
    size = points.new_tensor(grid.voxel_m)
    x, y = ((points[:, :2] - low[:2]) / size[:2]).floor().long().unbind(1)
    within = (x < grid.width) & (y < grid.height)  # float32 may round the last sliver up into a cell that is not there
    return points[within], (y * grid.width + x)[within]


def _coords(cell_ids: Tensor, grid: Grid) -> Tensor:
    return torch.stack([cell_ids // grid.width, cell_ids % grid.width], 1)


def _first_come(pillars: Pillars, first_point: Tensor, max_voxels: int) -> Pillars:
    """The `max_voxels` pillars whose first point came first, still in raster order."""
    kept = first_point.argsort()[:max_voxels].sort().values
    return Pillars(pillars.points[kept], pillars.counts[kept], pillars.coords[kept])


def batch_pillars(frames: Sequence[Pillars]) -> PillarBatch:
    """Put frames (at least one; each may be without pillars) into one batch."""
    if not frames:
        raise ValueError("a batch needs at least one frame; a frame without pillars is one too")
    coords = [torch.nn.functional.pad(frame.coords, (1, 0), value=b) for b, frame in enumerate(frames)]
    points, counts = (torch.cat([getattr(frame, name) for frame in frames]) for name in ("points", "counts"))
    return PillarBatch(points, counts, torch.cat(coords), len(frames))
