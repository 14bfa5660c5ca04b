"""Depth maps: what is valid, in which unit, and how they are resized."""

import numpy as np
import pytest
import torch

from batvision_kd.depth import RESIZE_RULES, erode, load_depth_m, resize_masked, resize_plain
from shared.errors import DataError


def saved(folder, array):
    np.save(folder / "depth_0.npy", array)
    return folder / "depth_0.npy"


def test_only_finite_positive_values_are_measurements(tmp_path):
    stored = np.array([[1000.0, 0.0, np.nan], [np.inf, -np.inf, -5.0], [2500.0, 12_000.0, 1.0]])
    depth, valid = load_depth_m(saved(tmp_path, stored))
    np.testing.assert_array_equal(valid, [[1, 0, 0], [0, 0, 0], [1, 1, 1]])
    np.testing.assert_allclose(depth, [[1, 0, 0], [0, 0, 0], [2.5, 12, 0.001]], rtol=1e-6)
    assert depth.dtype == np.float32


@pytest.mark.fault(15)
def test_metres_and_micrometres_are_refused_by_value(tmp_path):
    with pytest.raises(DataError, match=r"largest value is 3\.5.*metres"):
        load_depth_m(saved(tmp_path, np.full((4, 4), 3.5, np.float32)))
    with pytest.raises(DataError, match="another unit"):
        load_depth_m(saved(tmp_path, np.full((4, 4), 3_500_000, np.int32)))
    assert not load_depth_m(saved(tmp_path, np.zeros((4, 4), np.uint16)))[1].any()  # nothing measured is no error


@pytest.mark.fault(15)
@pytest.mark.parametrize("content", [b"", b"<html>", b"\x93NUMPY\x01\x00"])
def test_broken_files_are_refused(tmp_path, content):
    (tmp_path / "d.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"d\.npy cannot be read"):
        load_depth_m(tmp_path / "d.npy")


@pytest.mark.fault(15)
def test_pickles_and_other_shapes_are_refused(tmp_path):
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object))
    with pytest.raises(DataError, match="cannot be read"):
        load_depth_m(tmp_path / "o.npy")
    with pytest.raises(DataError, match="no map"):
        load_depth_m(saved(tmp_path, np.zeros((2, 3, 4), np.uint16)))


def test_invalid_pixels_never_reach_a_result():
    rng = np.random.default_rng(0)
    depth, valid = rng.uniform(1, 5, (60, 90)).astype(np.float32), rng.random((60, 90)) < 0.7
    first = resize_masked(depth, valid, (20, 30))
    second = resize_masked(np.where(valid, depth, np.nan), valid, (20, 30))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_resizing_is_the_mean_of_the_measured_pixels_of_each_block():
    rng = np.random.default_rng(1)
    depth, valid = rng.uniform(1, 5, (12, 20)).astype(np.float32), rng.random((12, 20)) < 0.6
    found, measured = resize_masked(depth, valid, (3, 5))
    for y in range(3):
        for x in range(5):
            block = np.s_[4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
            assert measured[y, x] == (valid[block].mean() > 0.5)
            expected = depth[block][valid[block]].mean() if measured[y, x] else 0
            assert found[y, x] == pytest.approx(expected, rel=1e-5)


def test_a_constant_stays_constant_and_bounds_hold_at_any_size():
    valid = np.random.default_rng(2).random((50, 70)) < 0.8
    for size in ((16, 16), (7, 31), (50, 70), (100, 140)):
        depth, measured = resize_masked(np.full((50, 70), 2.5), valid, size)
        assert depth.shape == measured.shape == size and measured.any()
        np.testing.assert_allclose(depth[measured], 2.5, rtol=1e-6)
        assert not depth[~measured].any()
    same, measured = resize_masked(np.arange(6.0).reshape(2, 3), np.ones((2, 3), bool), (2, 3))
    np.testing.assert_array_equal(same, np.arange(6.0).reshape(2, 3))


def test_a_map_without_measurements_stays_without():
    depth, measured = resize_masked(np.ones((8, 8)), np.zeros((8, 8), bool), (4, 4))
    assert not measured.any() and not depth.any()


def test_plain_rules_invent_depths_at_the_edge_of_a_hole():
    depth = np.zeros((64, 64), np.float32)
    depth[:, 34:] = 4.0
    for rule in RESIZE_RULES:
        values = set(np.round(np.unique(resize_plain(depth, (16, 16), rule)), 3))
        assert (values == {0.0, 4.0}) == rule.startswith("nearest"), rule
    with pytest.raises(ValueError, match="bicubic"):
        resize_plain(depth, (8, 8), "bicubic")


def test_erosion_shrinks_by_exactly_the_radius():
    valid = torch.ones(2, 1, 11, 11, dtype=torch.bool)
    valid[:, :, 5, 5] = False
    assert torch.equal(erode(valid, 0), valid)
    eroded = erode(valid, 2)
    assert eroded.shape == valid.shape and not eroded[..., 3:8, 3:8].any()
    assert int((~eroded).sum()) == 2 * 25
    assert not (eroded & ~valid).any()
