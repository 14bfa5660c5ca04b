"""PointPillars in the two halves of split inference.

    headnet   pillars (P,M,4) -> features (P,D)              on the edge
    scatter   features, coords -> canvas (B,D,H,W)           zeros where no pillar is
    tailnet   canvas -> class, box and direction maps        on the server

Paper: Lang et al., PointPillars, CVPR 2019 (1812.05784). Layer names, sizes and habits are those of the published
checkpoint of zhulf0804/PointPillars: at the defaults the state holds its 126 entries and loads
strictly. Three habits of it look like mistakes and are kept, because its weights depend on them:

- the offsets to the cell's centre enter twice (as channels 0, 1 and 7, 8), absolute x and y never;
- a pillar with fewer than M points is floored: its empty slots enter the maximum as relu(bn(0));
- batch statistics of the encoder count the empty slots too.
"""

# B frames, P pillars, M points of a pillar, D feature channels, H x W cells, h x w = H/2 x W/2, A anchors of a cell

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.errors import ConfigError

from .anchors import BOX_CODE, KITTI_CLASSES, ROTATIONS, AnchorClass
from .grid import Grid
from .voxelize import PillarBatch

POINT_CHANNELS = 9
DIRECTIONS = 2
PRIOR = 0.01  # share of positives that the class bias starts from: -log(99)


@dataclass(frozen=True)
class Widths:
    """Channels and depth; the defaults are the published network's.

    pillar: D, the channels at the split point. blocks, layers: channels of each backbone block, and its 3x3
    convolutions after the first, strided one. neck: channels that each block contributes to the head.
    """

    pillar: int = 64
    blocks: tuple[int, int, int] = (64, 128, 256)
    layers: tuple[int, int, int] = (3, 5, 5)
    neck: int = 128

    def __post_init__(self):
        object.__setattr__(self, "blocks", tuple(self.blocks))
        object.__setattr__(self, "layers", tuple(self.layers))
        if len(self.blocks) != 3 or len(self.layers) != 3:
            raise ConfigError(f"widths: {len(self.blocks)} blocks and {len(self.layers)} layers; the network has 3")
        if min(self.pillar, self.neck, *self.blocks) < 1 or min(self.layers) < 0:
            raise ConfigError(f"widths: {self}: channels are at least 1, layers at least 0")

    def as_dict(self) -> dict[str, Any]:
        """Plain Python for a checkpoint; `Widths(**widths.as_dict()) == widths`."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


class Predictions(NamedTuple):
    """Raw maps of the head, (B, channels, h, w); the channels of a cell's A anchors stand one after the other.

    cls: A * classes logits. reg: A * 7 box deltas. dir: A * 2 direction logits.
    """

    cls: Tensor
    reg: Tensor
    dir: Tensor


class PillarEncoder(nn.Module):
    """One linear layer for each point, then the maximum over the pillar's slots.

    Most slots are empty, and all empty ones are alike: zero before the batch norm. Only occupied slots are computed;
    the empty ones enter the batch statistics by their number, and the maximum as bn(0). `every_slot` is the same by the
    formula of the paper, for graphs of fixed shape.
    """

    def __init__(self, grid: Grid, channels: int):
        super().__init__()
        self.grid = grid
        self.conv = nn.Conv1d(POINT_CHANNELS, channels, 1, bias=False)
        self.bn = batch_norm(nn.BatchNorm1d, channels)

    def forward(self, points: Tensor, counts: Tensor, cells: Tensor) -> Tensor:
        """points (P,M,4), counts (P,), cells (P,2) y, x -> (P,D) float32."""
        if points.shape[0] == 0:  # batch statistics of nothing do not exist
            return points.new_zeros(0, self.conv.out_channels)
        pillar = torch.arange(len(points), device=points.device).repeat_interleave(counts)  # (N,)
        rows = decorate_rows(points[occupied_slots(points, counts)], pillar, counts, cells, self.grid)
        rows = F.linear(rows, self.conv.weight[..., 0]).to(points.dtype)  # (N,D), pillar by pillar
        scale, shift = self._normalization(rows, points.shape[0] * points.shape[1])
        rows = torch.addcmul(shift, rows, scale)
        best = rows.new_full((len(points), rows.shape[1]), -torch.inf)
        best = best.scatter_reduce(0, pillar[:, None].expand_as(rows), rows, "amax", include_self=False)
        floored = torch.where((counts < points.shape[1])[:, None], torch.maximum(best, shift), best)
        return F.relu(floored)  # ReLU and maximum change places: both are monotone

    def _normalization(self, rows: Tensor, slots: int) -> tuple[Tensor, Tensor]:
        """(scale, shift), (D,) each: the batch norm as rows * scale + shift; shift is bn(0), the value of a slot that
        is empty. In training from the statistics of all `slots`, which also move the running ones."""
        bn = self.bn
        if bn.training:
            mean = rows.sum(0) / slots
            variance = ((rows - mean).square().sum(0) + (slots - len(rows)) * mean.square()) / slots
            _move_statistics(bn, mean, variance * (slots / max(1, slots - 1)))
        else:
            mean, variance = bn.running_mean, bn.running_var
        scale = bn.weight * torch.rsqrt(variance + bn.eps)
        return scale, bn.bias - mean * scale

    def every_slot(self, points: Tensor, counts: Tensor, cells: Tensor) -> Tensor:
        """As `forward`, with all P * M slots."""
        slots = decorate(points, counts, cells, self.grid).flatten(0, 1)  # (P * M, 9)
        slots = self.bn(F.linear(slots, self.conv.weight[..., 0]))  # a kernel of one slot is a linear layer
        return F.relu(slots.view(*points.shape[:2], -1).amax(1))


@torch.no_grad()
def _move_statistics(bn: nn.Module, mean: Tensor, unbiased_variance: Tensor) -> None:
    """Running statistics after one more batch, as torch's batch norm moves them."""
    bn.running_mean.lerp_(mean, bn.momentum)
    bn.running_var.lerp_(unbiased_variance, bn.momentum)
    bn.num_batches_tracked += 1


def occupied_slots(points: Tensor, counts: Tensor) -> Tensor:
    """Which slots of points (P,M,4) hold a point: (P,M) bool."""
    return torch.arange(points.shape[1], device=points.device) < counts[:, None]


def decorate_rows(rows: Tensor, pillar: Tensor, counts: Tensor, cells: Tensor, grid: Grid) -> Tensor:
    """Points (N,4) of pillars (N,) -> (N,9): x - xc, y - yc, z, r, x - mean, y - mean, z - mean, x - xc, y - yc.

    (xc, yc) is the centre of the cell (P,2), the mean is that of the pillar's points.
    """
    xyz = rows[:, :3]
    mean = xyz.new_zeros(len(counts), 3).index_add(0, pillar, xyz) / counts[:, None]
    offset = rows[:, :2] - _centres(cells, grid, rows)[pillar]
    return torch.cat([offset, rows[:, 2:], xyz - mean[pillar], offset], 1)


def decorate(points: Tensor, counts: Tensor, cells: Tensor, grid: Grid) -> Tensor:
    """(P,M,4) -> (P,M,9): `decorate_rows` of all slots, the empty ones zero."""
    xyz = points[..., :3]
    mean = xyz.sum(1, keepdim=True) / counts[:, None, None]
    offset = xyz[..., :2] - _centres(cells, grid, points)[:, None]
    full = torch.cat([offset, points[..., 2:], xyz - mean, offset], 2)
    return full * occupied_slots(points, counts)[..., None]


def _centres(cells: Tensor, grid: Grid, like: Tensor) -> Tensor:
    """x, y of the cells' centres in metres: (P,2) y, x -> (P,2)."""
    low, size = like.new_tensor(grid.range_m[:2]), like.new_tensor(grid.voxel_m[:2])
    return cells.flip(1) * size + size / 2 + low


def scatter(features: Tensor, coords: Tensor, batch_size: int, grid: Grid) -> Tensor:
    """features (P,D), coords (P,3) frame, y, x -> canvas (B,D,H,W); cells without a pillar are exactly 0.

    It stays channels-last in memory, as it is written: convolutions on a CPU are faster so.
    """
    flat = (coords[:, 0] * grid.height + coords[:, 1]) * grid.width + coords[:, 2]
    canvas = features.new_zeros(batch_size * grid.cells, features.shape[1]).index_copy(0, flat, features)
    return canvas.view(batch_size, grid.height, grid.width, -1).permute(0, 3, 1, 2)


class Backbone(nn.Module):
    """Three blocks of 3x3 convolutions, each halving the map: strides 2, 4, 8."""

    def __init__(self, widths: Widths):
        super().__init__()
        inputs = (widths.pillar, *widths.blocks[:2])
        self.multi_blocks = nn.ModuleList(
            _block(*sizes) for sizes in zip(inputs, widths.blocks, widths.layers, strict=True)
        )

    def forward(self, canvas: Tensor) -> list[Tensor]:
        """(B,D,H,W) -> the blocks' maps at strides 2, 4, 8."""
        maps = []
        for block in self.multi_blocks:
            canvas = block(canvas)
            maps.append(canvas)
        return maps


class Neck(nn.Module):
    """Every block's map brought to stride 2 and concatenated."""

    def __init__(self, widths: Widths):
        super().__init__()
        self.decoder_blocks = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(channels, widths.neck, scale, stride=scale, bias=False),
                batch_norm(nn.BatchNorm2d, widths.neck),
                nn.ReLU(),
            )
            for channels, scale in zip(widths.blocks, (1, 2, 4), strict=True)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return torch.cat([up(one) for up, one in zip(self.decoder_blocks, maps, strict=True)], 1)


class Head(nn.Module):
    """Three 1x1 convolutions."""

    def __init__(self, channels: int, anchors: int, classes: int):
        super().__init__()
        self.conv_cls = nn.Conv2d(channels, anchors * classes, 1)
        self.conv_reg = nn.Conv2d(channels, anchors * BOX_CODE, 1)
        self.conv_dir_cls = nn.Conv2d(channels, anchors * DIRECTIONS, 1)

    def forward(self, features: Tensor) -> Predictions:
        parts = [self.conv_cls, self.conv_reg, self.conv_dir_cls]
        weight, bias = torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
        maps = F.conv2d(features, weight, bias)  # one pass over the features instead of three
        return Predictions(*maps.split([part.out_channels for part in parts], 1))


class PointPillars(nn.Module):
    """The detector on a grid, for some classes; each brings one anchor size, in two rotations."""

    def __init__(self, grid: Grid, classes: Sequence[AnchorClass] = KITTI_CLASSES, widths: Widths | None = None):
        super().__init__()
        if not classes:
            raise ConfigError("no classes: a detector needs at least one")
        widths = widths or Widths()
        self.grid, self.classes, self.widths = grid, tuple(classes), widths
        self.pillar_encoder = PillarEncoder(grid, widths.pillar)
        self.backbone = Backbone(widths)
        self.neck = Neck(widths)
        self.head = Head(3 * widths.neck, len(classes) * ROTATIONS, len(classes))
        self.apply(_initialise)
        nn.init.constant_(self.head.conv_cls.bias, -math.log((1 - PRIOR) / PRIOR))

    def headnet(self, batch: PillarBatch) -> Tensor:
        """Pillar features (P,D) float32, never negative (ReLU), in the batch's order."""
        return self.pillar_encoder(batch.points, batch.counts, batch.coords[:, 1:])

    def tailnet(self, canvas: Tensor) -> Predictions:
        """(B,D,H,W) -> maps of (B, ., H/2, W/2)."""
        return self.head(self.neck(self.backbone(canvas)))

    def forward(self, batch: PillarBatch) -> Predictions:
        features = self.headnet(batch)
        return self.tailnet(scatter(features, batch.coords, batch.batch_size, self.grid))


def batch_norm(kind: type[nn.Module], channels: int) -> nn.Module:
    return kind(channels, eps=1e-3, momentum=0.01)


def _block(inputs: int, channels: int, layers: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for number in range(1 + layers):
        conv = nn.Conv2d(channels if number else inputs, channels, 3, stride=1 if number else 2, padding=1, bias=False)
        parts += [conv, batch_norm(nn.BatchNorm2d, channels), nn.ReLU()]
    return nn.Sequential(*parts)


def _initialise(module: nn.Module) -> None:
    """Kaiming (fan out) for backbone and neck, N(0, 0.01) for the head's 1x1 convolutions, torch's own for the rest."""
    if isinstance(module, Head):
        for conv in module.children():
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is None:
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
