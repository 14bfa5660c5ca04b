"""Sparse layers: the one module that touches spconv, and the place where its habits are met.

    x = sparse_tensor(features, coords, shape_zyx, batch_size)         # checked
    x = Chain(SubM3d(3, 16, key="1"), Norm(16), nn.ReLU())(x)           # layers on tensors, others on their features

What spconv (2.3.6) does, and what is done here:

- its default algorithms need CUDA: the algorithm is chosen at every call from the features' device, Native on CPU;
- a kernel of 1 reads its weight transposed: those layers are `Pointwise`, a Linear layer;
- strided layers refuse an input without sites: an empty input gives an empty output that still leads to the weights;
- in evaluation mode a bias needs CUDA: the convolutions stay in training mode, which computes the same;
- int64 indices end in an assertion, sites outside the shape or given twice in silence: `sparse_tensor` refuses them;
- bfloat16 is not known, and on CPU autocast fails: bfloat16 is refused, on CPU the layers run outside autocast;
- layers with one indice key share one table of neighbours, kept in the tensor: each branch starts its own tensor;
- on CUDA sums are atomic: repeats are close there, and bitwise equal on CPU only.
"""

# N sites, C channels; coords are (b, z, y, x) or (b, y, x), int32

import logging
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .keys import site_keys

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", r"`torch\.cuda\.amp\.custom_(fwd|bwd)", FutureWarning)
    import spconv.pytorch as spconv
    from spconv.core import ConvAlgo

# torch says on every start that a function which spconv asks has a new name
logging.getLogger("torch.fx._symbolic_trace").addFilter(lambda record: "is_fx_tracing" not in record.getMessage())

SparseTensor = spconv.SparseConvTensor


def sparse_tensor(features: Tensor, coords: Tensor, shape: Sequence[int], batch_size: int) -> SparseTensor:
    """A tensor of sites: features (N, C) floating, coords (N, 1 + D) int32 of b and D cell indices, shape D cells.

    Raises ValueError for other shapes or types and, on CPU, for sites outside the shape or given twice (on CUDA the
    question would stop the device; what comes from `voxelize` keeps the rules).
    """
    width = len(shape) + 1
    if features.ndim != 2 or not features.is_floating_point() or coords.shape != (len(features), width):
        raise ValueError(
            f"features {tuple(features.shape)} {features.dtype} and coords {tuple(coords.shape)}: features are (N, C) "
            f"floating, coords (N, {width}) for a shape of {len(shape)} axes"
        )
    if coords.dtype != torch.int32:
        raise ValueError(f"coords are {coords.dtype}: spconv takes int32 only; call .int()")
    if not coords.is_cuda:
        check_sites(coords, shape, batch_size)
    return SparseTensor(features, coords.contiguous(), [int(n) for n in shape], batch_size)


def check_sites(coords: Tensor, shape: Sequence[int], batch_size: int) -> None:
    """Raise ValueError when a site (N, 1 + D) lies outside batch_size x shape, or stands there twice."""
    limits = coords.new_tensor([batch_size, *shape])
    outside = ((coords < 0) | (coords >= limits)).any(1)
    if outside.any():
        first = coords[outside][0].tolist()
        raise ValueError(
            f"{int(outside.sum())} of {len(coords)} sites lie outside batch x shape {limits.tolist()}, the first at "
            f"{first}: was the cloud voxelized with another grid?"
        )
    twice = len(coords) - len(torch.unique(site_keys(coords, shape)))
    if twice:
        raise ValueError(f"{twice} of {len(coords)} sites are given more than once: a site has one row of features")


def with_features(tensor: SparseTensor, features: Tensor) -> SparseTensor:
    """The same sites (and neighbour tables) with other features (N, C'); the tensor given stays as it is."""
    return tensor.replace_feature(features)


def output_shape(shape: Sequence[int], kernel: int, stride: int, padding: int) -> list[int]:
    """Cells per axis behind a strided layer: floor((n + 2 padding - kernel) / stride) + 1."""
    return [(n + 2 * padding - kernel) // stride + 1 for n in shape]


class _Guarded:
    """What every spconv layer here does before spconv's own forward: algorithm, precision, empty input."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        features = x.features
        if len(features) == 0:
            return self._empty(x)
        self.algo = self.fast_algo if features.is_cuda else ConvAlgo.Native
        _refuse_bfloat16(features)
        if features.is_cuda:
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(with_features(x, features.to(self.weight.dtype)))

    def train(self, mode: bool = True) -> "_Guarded":
        """Nothing: a convolution is the same in both modes, and spconv's evaluation mode adds the bias inside a kernel
        that CPU has not."""
        return self

    def _empty(self, x: SparseTensor) -> SparseTensor:
        """No sites in, none out; the (empty) features still hang on the weights, so that gradients are zero, not
        missing."""
        nothing = self.weight.sum() * 0 + (0 if self.bias is None else self.bias.sum() * 0)
        features = x.features.sum() * 0 + nothing + x.features.new_zeros(0, self.out_channels)
        if self.subm:
            return with_features(x, features)
        shape = output_shape(x.spatial_shape, self.kernel_size[0], self.stride[0], self.padding[0])
        return SparseTensor(features, x.indices[:0], shape, x.batch_size)


def _refuse_bfloat16(features: Tensor) -> None:
    cast = features.is_cuda and torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda")
    plain = features.dtype == torch.bfloat16 and not torch.is_autocast_enabled(features.device.type)
    if cast == torch.bfloat16 or plain:
        raise ValueError("sparse layers have no bfloat16 kernels: use float16 autocast on CUDA, or float32")


def _checked_kernel(kernel: int) -> int:
    if kernel < 2:
        raise ValueError(f"kernel {kernel}: spconv reads a 1x1 weight transposed; take Pointwise (or subm2d, subm3d)")
    return kernel


class SubM3d(_Guarded, spconv.SubMConv3d):
    """Submanifold convolution: sites stay. Layers of one `key` (one kernel, one level) share a neighbour table."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, *, bias: bool = False, key: str | None = None):
        super().__init__(inputs, outputs, _checked_kernel(kernel), padding=kernel // 2, bias=bias, indice_key=key)
        self.fast_algo = self.algo


class SubM2d(_Guarded, spconv.SubMConv2d):
    """`SubM3d` on (b, y, x)."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, *, bias: bool = False, key: str | None = None):
        super().__init__(inputs, outputs, _checked_kernel(kernel), padding=kernel // 2, bias=bias, indice_key=key)
        self.fast_algo = self.algo


class Conv3d(_Guarded, spconv.SparseConv3d):
    """Sparse convolution: an output site wherever the kernel meets an input site."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, bias: bool = False):
        super().__init__(inputs, outputs, _checked_kernel(kernel), stride=stride, padding=kernel // 2, bias=bias)
        self.fast_algo = self.algo


class Conv2d(_Guarded, spconv.SparseConv2d):
    """`Conv3d` on (b, y, x)."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, bias: bool = False):
        super().__init__(inputs, outputs, _checked_kernel(kernel), stride=stride, padding=kernel // 2, bias=bias)
        self.fast_algo = self.algo


class Pointwise(nn.Linear):
    """A 1x1 sparse convolution: weight (out, in), applied to every site's features."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        return with_features(x, super().forward(x.features))


def subm2d(inputs: int, outputs: int, kernel: int = 3, *, bias: bool = False, key: str | None = None) -> nn.Module:
    """A submanifold layer of any odd kernel: `Pointwise` for 1, else `SubM2d`."""
    return Pointwise(inputs, outputs, bias) if kernel == 1 else SubM2d(inputs, outputs, kernel, bias=bias, key=key)


def subm3d(inputs: int, outputs: int, kernel: int = 3, *, bias: bool = False, key: str | None = None) -> nn.Module:
    """A submanifold layer of any odd kernel: `Pointwise` for 1, else `SubM3d`."""
    return Pointwise(inputs, outputs, bias) if kernel == 1 else SubM3d(inputs, outputs, kernel, bias=bias, key=key)


class Norm(nn.BatchNorm1d):
    """Batch norm over sites (eps 1e-3, momentum .01). Fewer than two sites have no statistics: they are
    normalised by the running ones, which then stay as they are."""

    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-3, momentum=0.01)

    def forward(self, features: Tensor) -> Tensor:
        if len(features) > 1:
            return super().forward(features)
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return (features - self.running_mean) * scale + self.bias


class Chain(nn.Sequential):
    """Layers in turn: sparse ones take the tensor, all others (norms, activations, Linear) its features."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        for layer in self:
            x = layer(x) if takes_tensors(layer) else with_features(x, layer(x.features))
        return x


def takes_tensors(layer: nn.Module) -> bool:
    """Whether a layer is called with a sparse tensor (it says so, or is one of the layers above)."""
    return isinstance(layer, _Guarded | Pointwise | Chain) or getattr(layer, "sparse", False)
