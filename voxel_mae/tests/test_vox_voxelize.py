"""Grid and voxels: cells, centres and keys; means, caps, order, empty frames; a brute-force oracle."""

import math

import numpy as np
import pytest
import torch
from custom_root_samples import SMALL, ring_cloud

from shared.errors import ConfigError, DataError
from voxel_mae.grid import Grid
from voxel_mae.voxelize import batch_voxels, voxelize


def rows(voxels):
    return {tuple(coord): feature for coord, feature in zip(voxels.coords.tolist(), voxels.features, strict=True)}


def by_hand(points, grid):
    """A dictionary of lists: the first max_points of every cell."""
    cells, (nz, ny, nx) = {}, grid.cells_zyx
    for point in points.astype(np.float64):
        x, y, z = (math.floor((point[k] - grid.range_m[k]) / grid.voxel_m[k]) for k in range(3))
        if 0 <= x < nx and 0 <= y < ny and 0 <= z < nz:
            cells.setdefault((z, y, x), []).append(point)
    return {cell: np.mean(found[: grid.max_points], 0).astype(np.float32) for cell, found in cells.items()}


# --- grid ---


def test_the_construction_grid_has_the_published_size():
    grid = Grid.construction()
    assert grid.cells_zyx == (80, 1408, 1408)
    assert grid.shape_zyx == (81, 1408, 1408)
    assert (grid.max_points, grid.max_voxels(True), grid.max_voxels(False)) == (5, 150_000, 150_000)
    assert Grid(**grid.as_dict()) == grid


def test_a_centre_lies_in_its_own_cell():
    voxels = voxelize(ring_cloud(), SMALL)
    centres = SMALL.centres_m(voxels.coords)
    cells, inside = SMALL.cells_of(centres)
    assert inside.all()
    assert torch.equal(cells.int(), voxels.coords)


def test_centres_are_metres_x_y_z_of_coords_z_y_x():
    centre = SMALL.centres_m(torch.tensor([[3, 1, 2, 5]], dtype=torch.int32))[0]
    assert centre.tolist() == pytest.approx([-20 + 5.5 * 0.2, -20 + 2.5 * 0.2, -3 + 1.5 * 0.4])


def test_the_range_ends_before_its_last_number():
    edge = torch.tensor([[-20.0, -20, -3], [20, 0, 0], [0, 20, 0], [0, 0, 5], [19.99, 19.99, 4.99]])
    assert SMALL.cells_of(edge)[1].tolist() == [True, False, False, False, True]


def test_keys_tell_all_sites_apart_in_raster_order():
    grid = Grid((0, 0, 0, 0.6, 0.4, 0.4), (0.2, 0.2, 0.2))
    d, h, w = grid.shape_zyx
    every = torch.cartesian_prod(torch.arange(2), torch.arange(d), torch.arange(h), torch.arange(w)).int()
    assert grid.keys(every).tolist() == list(range(2 * d * h * w))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"voxel_m": (0.3, 0.2, 0.4)}, "not a whole number"),
        ({"voxel_m": (0.0, 0.2, 0.4)}, "above 0 m"),
        ({"range_m": (-20, -20, -3, 20, 20)}, "range_m has 5 numbers"),
        ({"range_m": (-20, -20, -3, math.inf, 20, 5)}, "finite"),
        ({"range_m": (20, -20, -3, -20, 20, 5)}, "not a whole number"),
        ({"max_points": 0}, "at least 1"),
    ],
)
def test_a_grid_that_is_none_is_refused(change, says):
    with pytest.raises(ConfigError, match=says):
        Grid(**SMALL.as_dict() | change)


# --- voxels ---


@pytest.mark.parametrize("cap", [1, 5, 10_000])
def test_voxels_equal_the_dictionary_of_lists(cap):
    grid = Grid((-20, -20, -3, 20, 20, 5), (2.0, 2.0, 4.0), max_points=cap)
    points = ring_cloud()
    expected, voxels = by_hand(points, grid), voxelize(points, grid)
    found = rows(voxels)
    assert found.keys() == expected.keys()
    assert int(voxels.counts.max()) > 5  # the cap is put to work
    for cell, feature in expected.items():
        np.testing.assert_array_equal(found[cell].numpy(), feature)


def test_the_order_of_points_changes_neither_voxels_nor_uncapped_features():
    """Trap T29."""
    points = ring_cloud(40_000)
    first, other = voxelize(points, SMALL), voxelize(points[np.random.default_rng(1).permutation(len(points))], SMALL)
    assert torch.equal(first.coords, other.coords)
    assert torch.equal(first.counts, other.counts)
    uncapped = first.counts <= SMALL.max_points
    assert 0 < uncapped.sum() < len(first)
    assert torch.equal(first.features[uncapped], other.features[uncapped])
    assert not torch.equal(first.features, other.features)  # a capped cell keeps whoever came first


def test_voxels_are_unique_in_raster_order_and_of_the_kinds_spconv_wants():
    voxels = voxelize(ring_cloud(), SMALL)
    keys = SMALL.keys(batch_voxels([voxels]).coords)
    assert (keys.diff() > 0).all()
    assert (voxels.coords.dtype, voxels.features.dtype) == (torch.int32, torch.float32)


def test_beyond_the_limit_those_whose_first_point_came_first_stay():
    points = ring_cloud()
    every = voxelize(points, SMALL)
    few = voxelize(points, SMALL, 100)
    assert (len(few), few.dropped, every.dropped) == (100, len(every) - 100, 0)
    first_cells = dict.fromkeys(map(tuple, SMALL.cells_of(torch.from_numpy(points))[0].tolist()))
    assert set(rows(few)) == set(list(first_cells)[:100])
    assert (SMALL.keys(batch_voxels([few]).coords).diff() > 0).all()


@pytest.mark.parametrize("points", [np.zeros((0, 3), np.float32), np.full((4, 3), 99, np.float32)])
def test_a_frame_without_points_in_range_has_no_voxels(points):
    voxels = voxelize(points, SMALL)
    assert (len(voxels), voxels.features.shape, voxels.coords.shape) == (0, (0, 3), (0, 3))


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    ("points", "says"),
    [
        (np.zeros((4, 2), np.float32), r"shape \(4, 2\)"),
        (np.zeros((4, 3)), "float64"),
        (np.array([[0, 0, np.nan], [0, 0, 0]], np.float32), "1 of 2 points hold NaN"),
        (np.array([[0, np.inf, 0]], np.float32), "infinity"),
    ],
)
def test_points_that_are_none_are_refused(points, says):
    with pytest.raises(DataError, match=says):
        voxelize(points, SMALL)


def test_a_batch_keeps_samples_apart_and_empty_ones_in_place():
    one, none = voxelize(ring_cloud()[:, :3], SMALL), voxelize(np.zeros((0, 3), np.float32), SMALL)
    batch = batch_voxels([none, one, none, one], [(0, 0), (1, 2), (0, 0), (3, 4)])
    assert batch.sizes() == [0, len(one), 0, len(one)]
    assert batch.batch_size == 4
    assert torch.equal(batch.coords[: len(one), 1:], one.coords)
    assert torch.equal(batch.features[len(one) :], one.features)
    assert batch.sensor_xy.tolist() == [[0, 0], [1, 2], [0, 0], [3, 4]]
    part = batch.select(batch.coords[:, 0] == 3)
    assert (part.sizes(), part.batch_size) == ([0, 0, 0, len(one)], 4)


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one frame"):
        batch_voxels([])
