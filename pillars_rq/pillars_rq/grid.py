"""The bird's-eye grid: which part of space is cut into pillars, and how finely.

    x forward (W cells), y left (H cells), z up (one cell): KITTI's LiDAR frame, metres

A canvas has H rows (y) and W columns (x); row 0 is the smallest y. The backbone halves it three times, so H and W are
divisible by 8. Numbers of the default: zhulf0804/PointPillars.
"""

from dataclasses import dataclass

from shared.errors import ConfigError
from shared.metric_grid import MetricGrid

STRIDE = 8  # of the deepest block: three halvings


def strictly_inside(rows, low, high):
    """Which rows (N, 3 or more: x, y, z, ...) lie strictly between low (3,) and high (3,): (N,) bool, all arrays or all
    tensors. Axis by axis, because reducing over an axis of length 3 takes several times as long.
    """
    x, y, z = ((rows[:, axis] > low[axis]) & (rows[:, axis] < high[axis]) for axis in range(3))
    return x & y & z


@dataclass(frozen=True)
class Grid(MetricGrid):
    """Range and cell size in metres, and the limits of what is kept in it.

    range_m: x, y, z smallest, then x, y, z largest; points strictly inside count.
    voxel_m: cell size along x, y, z; z is one cell.
    max_points: points kept in a pillar, the first in input order.
    max_voxels_train, max_voxels_eval: pillars kept in a frame.

    Raises ConfigError when the range is no whole number of cells, z is not one cell, or H or W is not divisible by 8.
    """

    max_points: int = 32
    max_voxels_train: int = 16_000
    max_voxels_eval: int = 40_000

    def __post_init__(self):
        super().__post_init__()
        if self.cells_xyz[2] != 1:
            raise ConfigError(f"grid: {self.cells_xyz[2]} cells along z; a pillar is one cell: set voxel_m[2] to "
                              f"{self.range_m[5] - self.range_m[2]:g}")  # fmt: skip
        for axis, cells in (("x", self.width), ("y", self.height)):
            if cells % STRIDE:
                nearest = max(STRIDE, round(cells / STRIDE) * STRIDE)
                raise ConfigError(
                    f"grid: {cells} cells along {axis} are not divisible by {STRIDE}, the stride of the backbone: "
                    f"change range_m or voxel_m so that there are {nearest}"
                )

    @classmethod
    def kitti(cls) -> "Grid":
        """The grid of the published checkpoint: 496 x 432 cells of 0.16 m."""
        return cls((0.0, -39.68, -3.0, 69.12, 39.68, 1.0), (0.16, 0.16, 4.0))

    @property
    def height(self) -> int:
        """H, cells along y."""
        return self.cells_xyz[1]

    @property
    def width(self) -> int:
        """W, cells along x."""
        return self.cells_xyz[0]

    @property
    def cells(self) -> int:
        return self.height * self.width
