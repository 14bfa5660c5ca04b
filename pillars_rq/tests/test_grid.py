import pytest

from pillars_rq.grid import Grid
from shared.errors import ConfigError

FLAT = (0.0, -10.24, -3.0, 20.48, 10.24, 1.0)


def test_the_published_grid_has_496_rows_and_432_columns():
    grid = Grid.kitti()
    assert (grid.height, grid.width, grid.cells) == (496, 432, 214_272)
    assert (grid.max_points, grid.max_voxels_train, grid.max_voxels_eval) == (32, 16_000, 40_000)


def test_cells_are_counted_by_rounding_not_by_truncation():
    assert int((39.68 - -39.68) / 0.16) == 496 and int(20.48 / 0.32) == 64
    grid = Grid((0.0, -1.2, -3.0, 2.4, 1.2, 1.0), (0.1, 0.1, 4.0))
    assert int(2.4 / 0.1) == 23  # what truncation would give
    assert (grid.height, grid.width) == (24, 24)


def test_a_grid_survives_plain_python():
    grid = Grid(FLAT, (0.32, 0.16, 4.0), max_points=8)
    assert Grid(**grid.as_dict()) == grid and type(grid.as_dict()["range_m"]) is list
    assert (grid.height, grid.width) == (128, 64)


@pytest.mark.parametrize(
    ("range_m", "voxel_m", "message"),
    [
        ((0, -10.24, -3, 21.12, 10.24, 1), (0.32, 0.32, 4), "66 cells along x are not divisible by 8.*there are 64"),
        ((0, -10.08, -3, 20.48, 10.08, 1), (0.32, 0.32, 4), "63 cells along y.*there are 64"),
        ((0, -10.24, -3, 20.5, 10.24, 1), (0.32, 0.32, 4), "not a whole number"),
        (FLAT, (0.32, 0.32, 2), "2 cells along z"),
        (FLAT, (0.32, -0.32, 4), "cells above 0 m"),
        ((0, 0, -3, float("nan"), 10.24, 1), (0.32, 0.32, 4), "finite"),
        ((20.48, -10.24, -3, 0, 10.24, 1), (0.32, 0.32, 4), "not a whole number"),
        (FLAT[:5], (0.32, 0.32, 4), "range_m has 5 numbers"),
    ],
)
def test_a_grid_that_does_not_fit_is_refused_with_the_remedy(range_m, voxel_m, message):
    with pytest.raises(ConfigError, match=message):
        Grid(range_m, voxel_m)


def test_limits_below_one_are_refused():
    with pytest.raises(ConfigError, match="max_points"):
        Grid(FLAT, (0.32, 0.32, 4.0), max_points=0)
