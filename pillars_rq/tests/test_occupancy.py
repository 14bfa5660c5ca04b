"""The occupancy coder: laws, the twin, and the reference bytes on real frames."""

import hashlib

import numpy as np
import pytest
from rq_samples import real_cloud

from pillars_rq.bitstream import reference
from pillars_rq.bitstream.errors import CorruptStreamError
from pillars_rq.bitstream.occupancy import MAX_CELLS, decode_occupancy, encode_occupancy, ideal_bytes
from pillars_rq.grid import Grid
from pillars_rq.voxelize import voxelize

REFERENCE = {  # frame: occupied cells, ideal bytes of the context coder
    "000000": (3384, 839),
    "000001": (6815, 2435),
    "000003": (3032, 843),
    "000005": (8569, 2938),
    "000006": (5627, 1832),
    "000008": (3945, 1250),
    "000134": (6169, 1974),
    "testing/000002": (5366, 1998),
}

GOLDEN_CANVAS = 15035, 3059, "bd5d1f5e7bdc9bc61788e24ff64244ae2a592be73ac9bd36fc1a858957a9976a"  # cells, bytes, hash


def blobs(seed, height=40, width=56):
    """Maps with clusters, as clouds have them."""
    rng = np.random.default_rng(seed)
    occupied = np.zeros((height, width), dtype=bool)
    for y, x in zip(rng.integers(0, height, 12), rng.integers(0, width, 12), strict=True):
        occupied[y : y + 3, x : x + 8] |= rng.random(occupied[y : y + 3, x : x + 8].shape) < 0.7
    return occupied


@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.98, 1])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (9, 1), (2, 2), (8, 13)])
def test_maps_come_back_and_equal_the_twin(height, width, share):
    for seed in range(3):
        occupied = np.random.default_rng(seed).random((height, width)) < share
        cells = {(int(y), int(x)) for y, x in np.argwhere(occupied)}
        data = encode_occupancy(occupied)
        assert data == reference.encode_occupancy(cells, height, width)
        assert np.array_equal(decode_occupancy(data, height, width), occupied)
        assert reference.decode_occupancy(data, height, width) == cells


@pytest.mark.parametrize("seed", range(5))
def test_the_length_is_the_model_s(seed):
    occupied = blobs(seed)
    ideal = ideal_bytes(occupied)
    assert ideal - 1 <= len(encode_occupancy(occupied)) <= 1.005 * ideal + 4


def test_a_whole_canvas_keeps_its_bytes():
    """Golden: a map of the full grid, written by the first version of the compiled loops; the twin is too slow here."""
    occupied = np.tile(blobs(0), (13, 8))[:496, :432]
    data = encode_occupancy(occupied)
    assert (int(occupied.sum()), len(data), hashlib.sha256(data).hexdigest()) == GOLDEN_CANVAS
    assert np.array_equal(decode_occupancy(data, 496, 432), occupied)


def test_neighbours_are_worth_something():
    clustered = blobs(0)
    scattered = np.random.default_rng(0).permutation(clustered.ravel()).reshape(clustered.shape)
    assert len(encode_occupancy(clustered)) < 0.8 * len(encode_occupancy(scattered))


@pytest.mark.fault(18)
def test_any_bytes_are_a_map_or_refused():
    outcomes = set()
    for seed in range(200):
        data = np.random.default_rng(seed).bytes(seed % 60)
        try:
            outcomes.add(decode_occupancy(data, 16, 16).shape)
        except CorruptStreamError:
            outcomes.add("refused")
    assert outcomes == {(16, 16), "refused"}


def test_a_grid_beyond_the_coder_is_refused():
    with pytest.raises(ValueError, match="beyond the coder"):
        encode_occupancy(np.broadcast_to(False, (MAX_CELLS, 2)))


@pytest.mark.real
@pytest.mark.parametrize("name", REFERENCE)
def test_real_frames(real_samples, name):
    """Occupied counts exact; the ideal as the reference has it, the real bytes within 2 % of it."""
    grid = Grid.kitti()
    coords = voxelize(real_cloud(real_samples, name), grid, grid.max_voxels_eval).coords.numpy()
    occupied = np.zeros((grid.height, grid.width), dtype=bool)
    occupied[coords[:, 0], coords[:, 1]] = True
    count, expected = REFERENCE[name]
    data = encode_occupancy(occupied)
    print(f"{name}: {len(coords)} cells, {len(data)} bytes, ideal {ideal_bytes(occupied):.1f}, reference {expected}")
    assert len(coords) == occupied.sum() == count
    assert ideal_bytes(occupied) == pytest.approx(expected, rel=0.002)
    assert len(data) <= 1.02 * expected
    assert np.array_equal(decode_occupancy(data, grid.height, grid.width), occupied)
