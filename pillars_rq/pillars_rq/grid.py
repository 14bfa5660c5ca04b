"""The bird's-eye grid: which part of space is cut into pillars, and how finely.

    x forward (W cells), y left (H cells), z up (one cell): KITTI's LiDAR frame, metres

A canvas has H rows (y) and W columns (x); row 0 is the smallest y. The backbone halves it three times, so H and W are
divisible by 8. Numbers of the default: zhulf0804/PointPillars.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from shared.errors import ConfigError

STRIDE = 8  # of the deepest block: three halvings
WHOLE = 1e-3  # cells; a range of 69.12 m in steps of 0.16 m is not exactly 432 in floating point


@dataclass(frozen=True)
class Grid:
    """Range and cell size in metres, and the limits of what is kept in it.

    range_m: x, y, z smallest, then x, y, z largest; points strictly inside count.
    voxel_m: cell size along x, y, z; z is one cell.
    max_points: points kept in a pillar, the first in input order.
    max_voxels_train, max_voxels_eval: pillars kept in a frame.

    Raises ConfigError when the range is no whole number of cells, z is not one cell, or H or W is not divisible by 8.
    """

    range_m: tuple[float, float, float, float, float, float]
    voxel_m: tuple[float, float, float]
    max_points: int = 32
    max_voxels_train: int = 16_000
    max_voxels_eval: int = 40_000

    def __post_init__(self):
        object.__setattr__(self, "range_m", tuple(float(value) for value in self.range_m))
        object.__setattr__(self, "voxel_m", tuple(float(value) for value in self.voxel_m))
        self._check_numbers()
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
        return round(self._cells(1))

    @property
    def width(self) -> int:
        """W, cells along x."""
        return round(self._cells(0))

    @property
    def cells(self) -> int:
        return self.height * self.width

    def as_dict(self) -> dict[str, Any]:
        """Plain Python for a checkpoint; `Grid(**grid.as_dict()) == grid`."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def _cells(self, axis: int) -> float:
        return (self.range_m[axis + 3] - self.range_m[axis]) / self.voxel_m[axis]

    def _check_numbers(self) -> None:
        if len(self.range_m) != 6 or len(self.voxel_m) != 3:
            raise ConfigError(
                f"grid: range_m has {len(self.range_m)} numbers and voxel_m {len(self.voxel_m)}; they are x, y, z "
                "smallest and x, y, z largest (6), and a cell's x, y, z (3)"
            )
        if not all(map(math.isfinite, self.range_m + self.voxel_m)) or min(self.voxel_m) <= 0:
            raise ConfigError(f"grid: range_m {self.range_m}, voxel_m {self.voxel_m}: finite, and cells above 0 m")
        for axis, name in enumerate("xyz"):
            cells = self._cells(axis)
            if cells < 0.5 or abs(cells - round(cells)) > WHOLE:
                raise ConfigError(
                    f"grid: {self.range_m[axis]} to {self.range_m[axis + 3]} m along {name} is {cells:.4g} cells of "
                    f"{self.voxel_m[axis]} m, not a whole number: change one of them"
                )
        if round(self._cells(2)) != 1:
            raise ConfigError(f"grid: {round(self._cells(2))} cells along z; a pillar is one cell: set voxel_m[2] to "
                              f"{self.range_m[5] - self.range_m[2]:g}")  # fmt: skip
        if min(self.max_points, self.max_voxels_train, self.max_voxels_eval) < 1:
            raise ConfigError("grid: max_points, max_voxels_train and max_voxels_eval must be at least 1")
