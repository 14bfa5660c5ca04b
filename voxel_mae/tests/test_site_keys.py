"""Keys, look-ups, alignment and neighbourhoods against brute force."""

import pytest
import torch
from sparse_cases import SHAPE, sites

from voxel_mae.keys import align, grown, look_up, shifts, site_keys, sites_of, unique_sites


@pytest.mark.parametrize("shape", [SHAPE, (5, 7)])
def test_keys_number_the_sites_in_raster_order_and_back(shape):
    cells = 3 * int(torch.tensor(shape).prod())
    coords = sites_of(torch.arange(cells), shape)
    assert coords.dtype == torch.int32
    assert site_keys(coords, shape).tolist() == list(range(cells))


def test_the_key_is_the_formula():
    site = torch.tensor([[2, 3, 5, 7]], dtype=torch.int32)
    assert site_keys(site, (11, 13, 17)).item() == ((2 * 11 + 3) * 13 + 5) * 17 + 7


def test_keys_of_a_large_batch_do_not_overflow():
    last = torch.tensor([[63, 80, 1407, 1407]], dtype=torch.int32)
    assert site_keys(last, (81, 1408, 1408)).item() == 64 * 81 * 1408 * 1408 - 1


def test_coordinates_of_another_dimension_are_refused():
    with pytest.raises(ValueError, match="shape of 2 axes"):
        site_keys(sites(3), (4, 4))


def test_look_up_equals_a_dictionary():
    keys = torch.randperm(500)[:200]
    wanted = torch.arange(-5, 505)
    table = {key: row for row, key in enumerate(keys.tolist())}
    assert look_up(keys, wanted).tolist() == [table.get(key, -1) for key in wanted.tolist()]


def test_nothing_is_found_among_nothing():
    assert look_up(torch.zeros(0, dtype=torch.int64), torch.arange(3)).tolist() == [-1, -1, -1]
    assert look_up(torch.arange(3), torch.zeros(0, dtype=torch.int64)).tolist() == []
    assert [len(rows) for rows in align(torch.arange(3), torch.zeros(0, dtype=torch.int64))] == [0, 0]


def test_alignment_pairs_equal_keys_whatever_the_order_of_the_rows():
    a, b = torch.randperm(300)[:120], torch.randperm(300)[:150]
    rows_a, rows_b = align(a, b)
    assert torch.equal(a[rows_a], b[rows_b])
    assert set(a[rows_a].tolist()) == set(a.tolist()) & set(b.tolist())


def test_growing_is_the_3x3x3_neighbourhood_inside_the_shape():
    shape, coords = (4, 5, 6), sites(12, (4, 5, 6))
    wanted = set()
    for b, z, y, x in coords.tolist():
        for dz, dy, dx in shifts(3):
            cell = (z + dz, y + dy, x + dx)
            if all(0 <= c < n for c, n in zip(cell, shape, strict=True)):
                wanted.add((b, *cell))
    found = grown(coords, shape)
    assert [tuple(site) for site in found.tolist()] == sorted(wanted)
    assert found.dtype == torch.int32


def test_unique_sites_drop_repeats_and_what_lies_outside():
    coords = torch.tensor([[0, 1, 1], [0, 1, 1], [0, -1, 0], [0, 0, 9], [1, 0, 0]], dtype=torch.int32)
    assert unique_sites(coords, (4, 4)).tolist() == [[0, 1, 1], [1, 0, 0]]
