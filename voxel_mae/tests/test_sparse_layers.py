"""Every sparse layer against the torch twin (forward, gradients, sites), the twin against dense convolution, and
spconv's habits."""

import warnings

import pytest
import torch
from sparse_cases import sites
from torch import nn

from voxel_mae import twin
from voxel_mae.sparse import (
    Chain,
    Conv2d,
    Conv3d,
    Norm,
    Pointwise,
    SubM2d,
    SubM3d,
    sparse_tensor,
    spconv,
    subm2d,
    subm3d,
    with_features,
)

SHAPE_3D, SHAPE_2D = (9, 10, 11), (12, 13)
LAYERS = {
    "subm3d": lambda: SubM3d(5, 7, key="k"),
    "subm3d_bias": lambda: SubM3d(5, 7, bias=True),
    "conv3d_stride2": lambda: Conv3d(5, 7, stride=2),
    "subm2d_bias": lambda: SubM2d(5, 7, bias=True),
    "subm2d_k5": lambda: SubM2d(5, 7, 5),
    "conv2d": lambda: Conv2d(5, 7),
}


def case(name: str):
    """The layer, features that want a gradient, sites, shape."""
    torch.manual_seed(1)
    shape = SHAPE_2D if "2d" in name else SHAPE_3D
    coords = sites(150, shape)
    return LAYERS[name](), torch.randn(150, 5, requires_grad=True), coords, shape


def twin_of(layer, features, coords, shape):
    """The layer's answer from the twin in float64: features, sites, shape."""
    weight, bias = layer.weight.double(), None if layer.bias is None else layer.bias.double()
    if layer.subm:
        return twin.subm(features.double(), coords, shape, weight, bias), coords, list(shape)
    return twin.conv(features.double(), coords, shape, weight, bias, layer.stride[0], layer.padding[0])


def gradients(answer, features, layer, pull):
    wanted = [features, *layer.parameters()]
    return torch.autograd.grad((answer * pull).sum(), wanted)


def close(a, b):
    """Within 1e-5 of the largest value (at least 1)."""
    assert a.shape == b.shape
    a, b = a.detach().double(), b.detach().double()
    assert (a - b).abs().max() <= 1e-5 * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize("name", LAYERS)
def test_layer_equals_its_twin_forward_and_backward(name):
    layer, features, coords, shape = case(name)
    found = layer(sparse_tensor(features, coords, shape, 2))
    wanted, wanted_sites, wanted_shape = twin_of(layer, features, coords, shape)
    order, wanted_order = (twin.site_keys(c, wanted_shape).argsort() for c in (found.indices, wanted_sites))
    assert torch.equal(found.indices[order], wanted_sites[wanted_order])
    assert list(found.spatial_shape) == wanted_shape
    close(found.features[order], wanted[wanted_order])
    pull = torch.randn(len(order), 7)
    ours = gradients(found.features[order], features, layer, pull)
    theirs = gradients(wanted[wanted_order], features, layer, pull.double())
    for mine, other in zip(ours, theirs, strict=True):
        close(mine, other)


@pytest.mark.parametrize("name", LAYERS)
def test_twin_equals_dense_convolution(name):
    layer, features, coords, shape = case(name)
    found, found_sites, _ = twin_of(layer, features, coords, shape)
    bias = None if layer.bias is None else layer.bias.double()
    grid = twin.filled(features.double(), coords, shape, 2)
    dense = twin.dense_conv(grid, layer.weight.double(), bias, layer.stride[0], layer.padding[0])
    close(found, twin.picked(dense, found_sites))
    if not layer.subm:  # outside its sites a sparse convolution is zero
        rest = dense if bias is None else dense - bias.view(-1, *[1] * len(shape))
        assert int((rest.abs().amax(1) > 1e-9).sum()) <= len(found_sites)


@pytest.mark.parametrize("bias", [True, False])
def test_pointwise_equals_the_dense_1x1_convolution(bias):
    features, coords = torch.randn(20, 6), sites(20, SHAPE_2D)
    layer = subm2d(6, 4, 1, bias=bias)
    assert isinstance(layer, Pointwise)
    grid = twin.filled(features, coords, SHAPE_2D, 2)
    dense = torch.nn.functional.conv2d(grid, layer.weight[:, :, None, None], layer.bias)
    close(layer(sparse_tensor(features, coords, SHAPE_2D, 2)).features, twin.picked(dense, coords))


def test_spconvs_own_1x1_is_not_a_linear_layer_and_is_refused():
    layer = spconv.SubMConv3d(4, 4, 1, bias=False, algo=spconv.ConvAlgo.Native)
    features, coords = torch.randn(9, 4), sites(9, SHAPE_3D)
    linear = features @ layer.weight.detach().view(4, 4).T
    assert not torch.allclose(layer(sparse_tensor(features, coords, SHAPE_3D, 2)).features, linear, atol=1e-3)
    with pytest.raises(ValueError, match="Pointwise"):
        SubM3d(4, 4, 1)
    assert isinstance(subm3d(4, 4, 1), Pointwise)


def test_spconvs_default_algorithm_fails_without_cuda_and_ours_does_not():
    features, coords = torch.randn(9, 4), sites(9, SHAPE_3D)
    x = sparse_tensor(features, coords, SHAPE_3D, 2)
    with pytest.raises((RuntimeError, AssertionError)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spconv.SubMConv3d(4, 4, 3)(x)
    assert SubM3d(4, 4)(x).features.shape == (9, 4)


@pytest.mark.parametrize("name", LAYERS)
def test_evaluation_mode_computes_the_same(name):
    layer, features, coords, shape = case(name)
    training = layer(sparse_tensor(features, coords, shape, 2)).features
    assert torch.equal(layer.eval()(sparse_tensor(features, coords, shape, 2)).features, training)


def test_repeats_are_bitwise_equal_on_cpu():
    layer, features, coords, shape = case("conv3d_stride2")
    once, again = (layer(sparse_tensor(features, coords, shape, 2)) for _ in range(2))
    assert torch.equal(once.features, again.features)
    assert torch.equal(once.indices, again.indices)


@pytest.mark.fault(12)
def test_an_empty_input_gives_an_empty_output_with_zero_gradients():
    tower = Chain(SubM3d(3, 4, bias=True), Norm(4), nn.ReLU(), Conv3d(4, 5, stride=2), Pointwise(5, 2))
    x = sparse_tensor(torch.zeros(0, 3, requires_grad=True), torch.zeros(0, 4, dtype=torch.int32), SHAPE_3D, 2)
    found = tower(x)
    assert found.features.shape == (0, 2)
    assert list(found.spatial_shape) == [5, 5, 6]
    found.features.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in tower.parameters())
    assert torch.equal(tower[1].running_mean, torch.zeros(4))


def test_one_site_is_normalised_by_the_running_statistics():
    norm = Norm(3)
    norm(torch.randn(50, 3) * 2 + 1)
    before = norm.running_mean.clone()
    single = torch.randn(1, 3)
    found = norm(single)
    assert torch.equal(norm.running_mean, before)
    assert torch.allclose(found, norm.eval()(single.expand(2, -1))[:1])


def test_layers_stay_outside_cpu_autocast():
    layer, features, coords, shape = case("subm3d")
    plain = layer(sparse_tensor(features, coords, shape, 2)).features
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(sparse_tensor(features.bfloat16(), coords, shape, 2)).features
    assert found.dtype == torch.float32
    assert torch.allclose(found, plain, atol=0.1)


def test_bfloat16_is_refused_with_the_reason():
    layer, features, coords, shape = case("subm3d")
    with pytest.raises(ValueError, match="no bfloat16 kernels"):
        layer(sparse_tensor(features.bfloat16(), coords, shape, 2))


def test_replacing_features_leaves_the_given_tensor_alone():
    x = sparse_tensor(torch.ones(5, 2), sites(5, SHAPE_3D), SHAPE_3D, 2)
    assert with_features(x, torch.zeros(5, 3)).features.shape == (5, 3)
    assert torch.equal(x.features, torch.ones(5, 2))


@pytest.mark.parametrize(
    ("features", "coords", "words"),
    [
        (torch.ones(2, 3), torch.zeros(2, 4), "int32"),
        (torch.ones(2, 3), torch.zeros(2, 4).long(), "int32"),
        (torch.ones(2, 3), torch.zeros(3, 4).int(), "coords"),
        (torch.ones(2, 3), torch.zeros(2, 3).int(), "coords"),
        (torch.ones(2, 3).int(), torch.zeros(2, 4).int(), "floating"),
        (torch.ones(2, 3), torch.zeros(2, 4).int(), "more than once"),
        (torch.ones(2, 3), torch.tensor([[0, 0, 0, 0], [0, 9, 0, 0]]).int(), r"outside.*\[0, 9, 0, 0\]"),
        (torch.ones(2, 3), torch.tensor([[0, 0, 0, 0], [2, 0, 0, 0]]).int(), "outside"),
        (torch.ones(2, 3), torch.tensor([[0, 0, 0, 0], [0, 0, -1, 0]]).int(), "outside"),
    ],
)  # fmt: skip
def test_wrong_sites_are_refused(features, coords, words):
    with pytest.raises(ValueError, match=words):
        sparse_tensor(features, coords, SHAPE_3D, 2)
