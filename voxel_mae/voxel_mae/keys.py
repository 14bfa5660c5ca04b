"""One number per site, and what follows from it: finding sites, matching two sets of them, neighbourhoods.

    keys = site_keys(coords, shape)                        # ((b D + z) H + y) W + x, int64
    rows_s, rows_t = align(student_keys, teacher_keys)     # the rows of the common sites, in one order

Sorting and binary search, no loop, no hash table; the order of the rows given never matters.
"""

# N, M sites; coords (N, 1 + D) are (b, z, y, x) or (b, y, x); shape holds the D cell counts

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor


def site_keys(coords: Tensor, shape: Sequence[int]) -> Tensor:
    """The raster number (N,) int64 of every site (N, 1 + D); unique as long as the sites lie inside the shape."""
    if coords.shape[1] != len(shape) + 1:
        raise ValueError(f"coords {tuple(coords.shape)} do not fit a shape of {len(shape)} axes: b and one index each")
    keys = coords[:, 0].long()
    for axis, cells in enumerate(shape, start=1):
        keys = keys * int(cells) + coords[:, axis]
    return keys


def sites_of(keys: Tensor, shape: Sequence[int]) -> Tensor:
    """The coords (N, 1 + D) int32 of keys: `site_keys` undone."""
    columns = []
    for cells in reversed(shape):
        columns.append(keys % int(cells))
        keys = keys // int(cells)
    return torch.stack([keys, *reversed(columns)], 1).int()


def look_up(keys: Tensor, wanted: Tensor) -> Tensor:
    """For each wanted key (M,) the row of `keys` (N,; unique, any order) that holds it, -1 where none does."""
    if len(keys) == 0:
        return torch.full_like(wanted, -1)
    ordered, order = keys.sort()
    place = torch.searchsorted(ordered, wanted).clamp(max=len(keys) - 1)
    return torch.where(ordered[place] == wanted, order[place], -1)


def align(keys_a: Tensor, keys_b: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (K,) of a and (K,) of b that hold the same keys, in the order of a. Keys are unique within each."""
    rows = look_up(keys_b, keys_a)
    found = (rows >= 0).nonzero().squeeze(1)
    return found, rows[found]


def inside(coords: Tensor, shape: Sequence[int]) -> Tensor:
    """Which sites (N,) bool lie inside the shape (the batch index is not looked at)."""
    limits = torch.as_tensor([int(n) for n in shape], dtype=coords.dtype).to(coords.device, non_blocking=True)
    return ((coords[:, 1:] >= 0) & (coords[:, 1:] < limits)).all(1)


def unique_sites(coords: Tensor, shape: Sequence[int]) -> Tensor:
    """The sites inside the shape, each once, in raster order: (M, 1 + D) int32."""
    return sites_of(torch.unique(site_keys(coords[inside(coords, shape)], shape)), shape)


def shifts(axes: int, reach: int = 1) -> list[tuple[int, ...]]:
    """The (2 reach + 1)^axes moves of a window, in raster order; the middle one is no move."""
    return list(itertools.product(range(-reach, reach + 1), repeat=axes))


def grown(coords: Tensor, shape: Sequence[int], reach: int = 1) -> Tensor:
    """The sites and all their neighbours in a (2 reach + 1)^D window, inside the shape, each once, in raster order."""
    moves = torch.tensor([(0, *move) for move in shifts(len(shape), reach)], dtype=coords.dtype)
    moved = coords[:, None] + moves.to(coords.device, non_blocking=True)
    return unique_sites(moved.flatten(0, 1), shape)
