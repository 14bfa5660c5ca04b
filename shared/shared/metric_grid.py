"""The part of space that a LiDAR package cuts into cells: range and cell size in metres, and how much is kept.

Packages subclass it with their defaults and what their cells are for (pillars, voxels).
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from .errors import ConfigError

WHOLE = 1e-3  # cells; a range of 69.12 m in steps of 0.16 m is not exactly 432 in floating point


@dataclass(frozen=True)
class MetricGrid:
    """Range, cell size, limits.

    range_m: x, y, z smallest, then x, y, z largest. voxel_m: cell size along x, y, z.
    max_points: points kept in a cell, the first in input order. max_voxels_train, max_voxels_eval: cells of a frame.

    Raises ConfigError when the numbers do not make a whole number of cells.
    """

    range_m: tuple[float, float, float, float, float, float]
    voxel_m: tuple[float, float, float]
    max_points: int
    max_voxels_train: int
    max_voxels_eval: int

    def __post_init__(self):
        object.__setattr__(self, "range_m", tuple(float(value) for value in self.range_m))
        object.__setattr__(self, "voxel_m", tuple(float(value) for value in self.voxel_m))
        self._check_numbers()
        for axis, name in enumerate("xyz"):
            cells = self._cells(axis)
            if cells < 0.5 or abs(cells - round(cells)) > WHOLE:
                raise ConfigError(
                    f"grid: {self.range_m[axis]} to {self.range_m[axis + 3]} m along {name} is {cells:.4g} cells of "
                    f"{self.voxel_m[axis]} m, not a whole number: change one of them"
                )

    @property
    def cells_xyz(self) -> tuple[int, int, int]:
        """Number of cells along x, y, z."""
        return round(self._cells(0)), round(self._cells(1)), round(self._cells(2))

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
        if min(self.max_points, self.max_voxels_train, self.max_voxels_eval) < 1:
            raise ConfigError("grid: max_points, max_voxels_train and max_voxels_eval must be at least 1")
