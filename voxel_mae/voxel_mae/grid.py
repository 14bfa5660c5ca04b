"""The voxel grid: which part of space is cut into cells, how finely, and where a cell lies in metres.

    grid = Grid.construction()                       # 1408 x 1408 x 80 cells of 0.1 x 0.1 x 0.2 m
    cells, inside = grid.cells_of(points)            # floor((p - low) / size) in float64, range_min <= p < range_max
    centres = grid.centres_m(coords)                 # low + (i + 0.5) size

Coordinates are stored z, y, x (with the sample before them in a batch), as sparse convolutions want them. The sparse
shape has one z layer more than there are cells (OpenPCDet's habit), so 80 layers give 81/41/21/11/6/3.
"""

# V voxels, N points; nx, ny, nz cells along x, y, z

from dataclasses import dataclass

import torch
from torch import Tensor

from shared.metric_grid import MetricGrid


@dataclass(frozen=True)
class Grid(MetricGrid):
    """Range and cell size in metres, and the limits of what is kept in it.

    range_m: x, y, z smallest, then x, y, z largest. voxel_m: cell size along x, y, z.
    max_points: points of a cell that its features are the mean of, the first in input order.
    max_voxels_train, max_voxels_eval: voxels kept in a frame.

    Raises ConfigError when the numbers do not make a whole number of cells.
    """

    max_points: int = 5
    max_voxels_train: int = 150_000
    max_voxels_eval: int = 150_000

    @classmethod
    def construction(cls) -> "Grid":
        """The construction set's grid: 1408 x 1408 x 80 cells."""
        return cls((-70.4, -70.4, -6.0, 70.4, 70.4, 10.0), (0.1, 0.1, 0.2))

    @property
    def cells_zyx(self) -> tuple[int, int, int]:
        """nz, ny, nx: cells that points can fall into."""
        nx, ny, nz = self.cells_xyz
        return nz, ny, nx

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """nz + 1, ny, nx: the spatial shape of the sparse tensors."""
        nz, ny, nx = self.cells_zyx
        return nz + 1, ny, nx

    def max_voxels(self, training: bool) -> int:
        return self.max_voxels_train if training else self.max_voxels_eval

    def cells_of(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """points (N, >= 3) -> cells (N,3) int64 z, y, x and (N,) bool, whether the cell exists."""
        xyz = points[:, :3].double()
        low = xyz.new_tensor(self.range_m[:3])
        cells = ((xyz - low) / xyz.new_tensor(self.voxel_m)).floor().long().flip(1)
        inside = ((cells >= 0) & (cells < torch.tensor(self.cells_zyx, device=points.device))).all(1)
        return cells, inside

    def centres_m(self, coords: Tensor) -> Tensor:
        """coords (V, 3 or 4: [sample], z, y, x) -> (V,3) float64 x, y, z in metres."""
        cells = coords[:, -3:].flip(1).double()
        return cells.new_tensor(self.range_m[:3]) + (cells + 0.5) * cells.new_tensor(self.voxel_m)

    def keys(self, coords: Tensor) -> Tensor:
        """coords (V,4) sample, z, y, x -> (V,) int64, a different number for every site."""
        depth, height, width = self.shape_zyx
        b, z, y, x = coords.long().unbind(1)
        return ((b * depth + z) * height + y) * width + x
