"""The sparse layers once more, in plain torch, to hold spconv to: forward, gradients and sites.

    features, coords, shape = conv(features, coords, shape, weight, bias, stride=2, padding=1)
    features = subm(features, coords, shape, weight, bias)

Slow to read past, easy to believe: for every tap of the kernel, look the neighbour up by its key, multiply, add.
Weights have spconv's layout (out, k, ..., in). `dense_conv` is torch's own convolution on the filled grid, the
oracle of the oracle on small grids. Used by tests only.
"""

# N sites, C channels in, O out, D axes

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .keys import look_up, site_keys, unique_sites


def subm(features: Tensor, coords: Tensor, shape: Sequence[int], weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Submanifold convolution, odd kernel, stride 1: (N, C) -> (N, O) at the same sites."""
    padding = weight.shape[1] // 2
    return _gathered(features, coords, shape, coords, weight, bias, 1, padding)


def conv(
    features: Tensor, coords: Tensor, shape: Sequence[int], weight: Tensor, bias: Tensor | None = None,
    stride: int = 1, padding: int = 1,
) -> tuple[Tensor, Tensor, list[int]]:  # fmt: skip
    """Sparse convolution: features (M, O), sites (M, 1 + D) int32 in raster order, and their shape."""
    sites, out_shape = reached_sites(coords, shape, weight.shape[1], stride, padding)
    return _gathered(features, coords, shape, sites, weight, bias, stride, padding), sites, out_shape


def reached_sites(
    coords: Tensor, shape: Sequence[int], kernel: int = 3, stride: int = 2, padding: int = 1
) -> tuple[Tensor, list[int]]:
    """The output sites of a sparse convolution, and the output shape: i reaches o when o stride = i + padding - tap."""
    out_shape = [(n + 2 * padding - kernel) // stride + 1 for n in shape]
    found = []
    for taps in _taps(kernel, len(shape)):
        aligned = coords[:, 1:] + padding - coords.new_tensor(taps)
        fits = (aligned % stride == 0).all(1)
        found.append(torch.cat([coords[fits, :1], aligned[fits] // stride], 1))
    return unique_sites(torch.cat(found), out_shape), out_shape


def _gathered(features, coords, shape, sites, weight, bias, stride, padding) -> Tensor:
    """Sum over taps of the input found at o stride - padding + tap, times that tap's matrix."""
    keys = site_keys(coords, shape)
    result = features.new_zeros(len(sites), weight.shape[0])
    for taps in _taps(weight.shape[1], len(shape)):
        source = sites[:, 1:] * stride - padding + sites.new_tensor(taps)
        within = ((source >= 0) & (source < source.new_tensor(shape))).all(1)
        rows = look_up(keys, site_keys(torch.cat([sites[:, :1], source], 1), shape))
        hit = ((rows >= 0) & within).nonzero().squeeze(1)
        matrix = weight[(slice(None), *taps)]  # (O, C)
        result = result.index_add(0, hit, features[rows[hit]] @ matrix.T)
    return result if bias is None else result + bias


def _taps(kernel: int, axes: int):
    return itertools.product(range(kernel), repeat=axes)


def filled(features: Tensor, coords: Tensor, shape: Sequence[int], batch_size: int) -> Tensor:
    """The dense grid (B, C, *shape): zero wherever no site is."""
    grid = features.new_zeros(batch_size * int(torch.tensor(shape).prod()), features.shape[1])
    grid = grid.index_copy(0, site_keys(coords, shape), features)
    return grid.view(batch_size, *shape, -1).movedim(-1, 1)


def dense_conv(grid: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 1) -> Tensor:
    """torch's convolution of a dense grid with a weight in spconv's layout (out, k, ..., in)."""
    convolve = F.conv3d if grid.ndim == 5 else F.conv2d
    return convolve(grid, weight.movedim(-1, 1), bias, stride, padding)


def picked(grid: Tensor, coords: Tensor) -> Tensor:
    """The values (N, C) of a dense grid (B, C, *shape) at sites."""
    return grid.movedim(1, -1)[tuple(coords.long().unbind(1))]
