"""The VoxelNeXt backbone: a sparse residual tower of six levels, and its bird's-eye view.

    conv_input   SubM3  C -> 16                                      stride 1   (81, 1408, 1408) at the default grid
    conv1        2 residual blocks, 16                               stride 1
    conv2..6     SparseConv3d k3 s2 p1, BN, ReLU, 2 residual blocks  32/64/128/128/128, strides 2, 4, 8, 16, 32
    fusion       conv4 + conv5 (indices x 2) + conv6 (x 4), z dropped, equal (b, y, x) summed
    conv_out     SparseConv2d 3x3, BN, ReLU; shared_conv SubM 3x3 with bias, BN, ReLU    stride 8, 128 channels

`levels` are the features before the fusion, which changes none of them. Pretraining needs conv1..conv4 only
(`encode(..., depth=4)`); the detector reads `bev` and nothing else. Parameter names are OpenPCDet's.
Source: VoxelNeXt, arXiv 2303.11301.
"""

# N sites; coords (N, 4) are (b, z, y, x); shapes are (z, y, x)

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from .keys import site_keys, sites_of
from .sparse import Chain, Conv2d, Conv3d, Norm, SparseTensor, SubM2d, SubM3d, sparse_tensor, with_features

DEPTH = 6
PRETRAINED_DEPTH = 4  # stride 8: what the pretraining losses reach
CONSTRUCTION_SHAPE_ZYX = (81, 1408, 1408)
WIDTHS = (16, 32, 64, 128, 128)
UNTRAINED_BY_PRETRAINING = ("conv5", "conv6", "conv_out", "shared_conv")


class VoxelInput(Protocol):
    """What a batch of voxels offers: features (V, C) float32, coords (V, 4) int32, and the number of clouds."""

    features: Tensor
    coords: Tensor
    batch_size: int


class Encoded(NamedTuple):
    """levels: conv1..conv6 as 3D tensors before the fusion; bev: the fused 2D tensor, sites (b, y, x)."""

    levels: Mapping[str, SparseTensor]
    bev: SparseTensor


class Residual(nn.Module):
    """SubM3, BN, ReLU, SubM3, BN, plus the input, ReLU; convolutions with bias."""

    sparse = True

    def __init__(self, channels: int, key: str):
        super().__init__()
        self.conv1, self.bn1 = SubM3d(channels, channels, bias=True, key=key), Norm(channels)
        self.conv2, self.bn2 = SubM3d(channels, channels, bias=True, key=key), Norm(channels)

    def forward(self, x: SparseTensor) -> SparseTensor:
        y = self.conv1(x)
        y = self.conv2(with_features(y, self.bn1(y.features).relu()))
        return with_features(y, (self.bn2(y.features) + x.features).relu())


class RMAECMAEBackbonePhase1(nn.Module):
    """Both phases' encoder. shape_zyx: cells of the grid (with OpenPCDet's extra one in z); widths: channels of
    conv1..conv5, conv6 like conv5, which must equal conv4 (the fusion puts their features into one column).
    """

    def __init__(
        self,
        point_features: int = 3,
        shape_zyx: Sequence[int] = CONSTRUCTION_SHAPE_ZYX,
        widths: Sequence[int] = WIDTHS,
        bev_features: int = 128,
    ):
        super().__init__()
        _check_widths(widths)
        self.point_features, self.shape_zyx, self.widths = point_features, tuple(shape_zyx), tuple(widths)
        self.bev_features = bev_features
        self.conv_input = Chain(SubM3d(point_features, widths[0], key="level1"), Norm(widths[0]), nn.ReLU())
        self.conv1 = Chain(Residual(widths[0], "level1"), Residual(widths[0], "level1"))
        self.conv2 = _level(widths[0], widths[1], "level2")
        self.conv3 = _level(widths[1], widths[2], "level3")
        self.conv4 = _level(widths[2], widths[3], "level4")
        self.conv5 = _level(widths[3], widths[4], "level5")
        self.conv6 = _level(widths[4], widths[4], "level6")
        self.conv_out = Chain(Conv2d(widths[4], bev_features), Norm(bev_features), nn.ReLU())
        self.shared_conv = Chain(SubM2d(bev_features, bev_features, bias=True), Norm(bev_features), nn.ReLU())

    def forward(self, batch: VoxelInput) -> Encoded:
        """All levels and the bird's-eye view of a batch of voxels."""
        levels = self.encode(batch.features, batch.coords, batch.batch_size)
        return Encoded(levels, self.shared_conv(self.conv_out(fused(levels))))

    def encode(self, features: Tensor, coords: Tensor, batch_size: int, depth: int = DEPTH) -> dict[str, SparseTensor]:
        """conv1..conv<depth> of voxels: features (V, C) float, coords (V, 4) int32. ValueError for another C."""
        if features.shape[1] != self.point_features:
            raise ValueError(
                f"voxels carry {features.shape[1]} features and this backbone was built for {self.point_features}: "
                "check the data set's used_feature_list against the checkpoint or config"
            )
        x = self.conv_input(sparse_tensor(features, coords, self.shape_zyx, batch_size))
        levels = {}
        for number in range(1, depth + 1):
            x = levels[f"conv{number}"] = getattr(self, f"conv{number}")(x)
        return levels


def _level(inputs: int, outputs: int, key: str) -> Chain:
    down = Chain(Conv3d(inputs, outputs, stride=2), Norm(outputs), nn.ReLU())
    return Chain(down, Residual(outputs, key), Residual(outputs, key))


def _check_widths(widths: Sequence[int]) -> None:
    if len(widths) != 5 or widths[3] != widths[4] or min(widths) < 1:
        raise ValueError(
            f"widths {list(widths)}: five positive numbers for conv1..conv5, the last two equal, because the fusion "
            f"adds conv4, conv5 and conv6; the paper's are {list(WIDTHS)}"
        )


def fused(levels: Mapping[str, SparseTensor]) -> SparseTensor:
    """The 2D tensor of conv4 + conv5 + conv6 at conv4's stride: features of equal (b, y, x) summed, whatever their z.
    The levels stay as they are (upstream's in-place edits turn conv4 into the concatenation, trap T14)."""
    coords, features = [], []
    for name, factor in (("conv4", 1), ("conv5", 2), ("conv6", 4)):
        sites = levels[name].indices
        coords.append(torch.stack([sites[:, 0], sites[:, 2] * factor, sites[:, 3] * factor], 1))
        features.append(levels[name].features)
    shape_yx = list(levels["conv4"].spatial_shape[1:])
    keys, column = torch.unique(site_keys(torch.cat(coords), shape_yx), return_inverse=True)
    features = torch.cat(features)
    summed = features.new_zeros(len(keys), features.shape[1]).index_add(0, column, features)
    return sparse_tensor(summed, sites_of(keys, shape_yx), shape_yx, levels["conv4"].batch_size)


BACKBONES = {"RMAECMAEBackbonePhase1": RMAECMAEBackbonePhase1}  # BACKBONE_3D.NAME of the configs
