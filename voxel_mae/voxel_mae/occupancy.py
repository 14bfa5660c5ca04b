"""Occupancy: which 8^3 blocks of the full cloud hold a voxel, asked at sparse places only.

    head = Occupancy(OccupancySettings(), channels=128)
    found = head(student_conv4, all_coords, keep)         # loss, logits, targets, sites, diagnostics

A site of conv4 (stride 8) sits at input cell 8 o; its block is [8 o - 4, 8 o + 4) ("centred") or [8 o, 8 o + 8)
("corner"). Its target is 1 when any voxel of the ORIGINAL cloud lies in the block, visible ones included. Asked are

    "active"   Q1: where the student has a site          blind where the student did not reach
    "dilated"  Q2: those and their 3^3 neighbours         the default
    "dense"    Q4: every block of the grid                the oracle of the tests: 340,736 at the construction grid

The places follow from the visible voxels alone, so the set tells nothing about the answer. A place without a student
site starts from zero features and hears of its neighbours through the decoder's convolutions.

A loss alone says little: the best constant predictor has the entropy of the positive share (0.43 at 15 %), which is
logged beside it (`occupancy_excess` = loss - entropy; below 0 means that something was learnt).
"""

# N query sites, V voxels, C channels; coords are (b, z, y, x) int32

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .keys import grown, look_up, site_keys, sites_of, unique_sites
from .sparse import Chain, Norm, Pointwise, SparseTensor, SubM3d, sparse_tensor

STRIDE = 8  # of conv4, in input cells


@dataclass(frozen=True)
class OccupancySettings:
    """pos_weight multiplies the loss of occupied blocks; visible_weight that of blocks which hold a visible voxel
    (0: hidden and empty blocks only)."""

    query: Literal["active", "dilated", "dense"] = "dilated"
    block: Literal["centred", "corner"] = "centred"
    pos_weight: float = 1.0
    visible_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.query not in ("active", "dilated", "dense") or self.block not in ("centred", "corner"):
            raise ValueError(
                f"query {self.query!r}, block {self.block!r}: active (Q1), dilated (Q2) or dense (Q4), and centred or "
                "corner"
            )
        if self.pos_weight <= 0 or self.visible_weight < 0:
            raise ValueError(f"pos_weight {self.pos_weight}: above 0; visible_weight {self.visible_weight}: 0 or more")


class OccupancyResult(NamedTuple):
    """loss: scalar; logits, targets (N,) float32; sites (N, 4); diagnostics: scalar tensors, without gradient."""

    loss: Tensor
    logits: Tensor
    targets: Tensor
    sites: Tensor
    diagnostics: dict[str, Tensor]


class Occupancy(nn.Module):
    """The decoder SubM3 C -> C/2 -> C/4 (BN, ReLU), 1x1 -> 1 logit, and its loss."""

    def __init__(self, settings: OccupancySettings, channels: int = 128):
        super().__init__()
        self.settings = settings
        half, quarter = max(1, channels // 2), max(1, channels // 4)
        self.decoder = Chain(
            SubM3d(channels, half, key="occupancy"), Norm(half), nn.ReLU(),
            SubM3d(half, quarter, key="occupancy"), Norm(quarter), nn.ReLU(),
            Pointwise(quarter, 1),
        )  # fmt: skip

    def forward(self, student: SparseTensor, coords: Tensor, keep: Tensor) -> OccupancyResult:
        """student: conv4 of the visible cloud; coords (V, 4) of all voxels; keep (V,) bool, the visible ones."""
        s, shape = self.settings, student.spatial_shape
        sites = query_sites(student.indices, shape, student.batch_size, s.query)
        keys = site_keys(sites, shape)
        occupied = block_keys(coords, shape, s.block)
        targets = (look_up(occupied, keys) >= 0).float()
        visible = look_up(block_keys(coords[keep], shape, s.block), keys) >= 0
        logits = self.decoder(placed(student, sites)).features.squeeze(1).float()
        weights = torch.where(visible, s.visible_weight, 1.0)
        loss = occupancy_loss(logits, targets, weights, s.pos_weight)
        reached = (look_up(keys, occupied) >= 0).float().sum() / max(1, len(occupied))
        measured = measure(loss, logits, targets, weights, s.pos_weight)
        return OccupancyResult(loss, logits, targets, sites, measured | {"occupancy_reached": reached})


def query_sites(sites: Tensor, shape: Sequence[int], batch_size: int, query: str) -> Tensor:
    """Where occupancy is asked, (N, 4) int32 in raster order, from the student's sites (M, 4)."""
    if query == "active":
        return unique_sites(sites, shape)
    if query == "dilated":
        return grown(sites, shape)
    cells = batch_size * int(torch.tensor(list(shape)).prod())
    return sites_of(torch.arange(cells, device=sites.device), shape)


def block_keys(coords: Tensor, shape: Sequence[int], block: str) -> Tensor:
    """Keys (K,), sorted, of the blocks that hold a voxel (V, 4); a block without a site of the level (the grid's last
    half block, when centred) has none."""
    moved = coords[:, 1:] + (STRIDE // 2 if block == "centred" else 0)
    blocks = torch.cat([coords[:, :1], torch.div(moved, STRIDE, rounding_mode="floor")], 1)
    return site_keys(unique_sites(blocks, shape), shape)


def placed(tensor: SparseTensor, sites: Tensor) -> SparseTensor:
    """The tensor on other sites (N, 4): its features where it has the site, zeros elsewhere. Differentiable."""
    rows = look_up(site_keys(tensor.indices, tensor.spatial_shape), site_keys(sites, tensor.spatial_shape))
    features = F.pad(tensor.features, (0, 0, 0, 1))[rows]  # row -1 is the row of zeros
    return sparse_tensor(features, sites, tensor.spatial_shape, tensor.batch_size)


def occupancy_loss(logits: Tensor, targets: Tensor, weights: Tensor, pos_weight: float = 1.0) -> Tensor:
    """Binary cross entropy with logits (N,) in float32, the mean over sites under `weights` (N,); 0 without sites."""
    factor = torch.full_like(logits, pos_weight, requires_grad=False)
    terms = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=factor, reduction="none")
    return (weights * terms).sum() / weights.sum().clamp(min=1e-6)


def constant_loss(positive: Tensor, pos_weight: float = 1.0) -> Tensor:
    """What the best constant predictor scores at a share of positives: the entropy H(q) when pos_weight is 1."""
    best = pos_weight * positive / (pos_weight * positive + 1 - positive).clamp(min=1e-12)
    return -(pos_weight * torch.xlogy(positive, best) + torch.xlogy(1 - positive, 1 - best))


@torch.no_grad()
def measure(
    loss: Tensor, logits: Tensor, targets: Tensor, weights: Tensor, pos_weight: float = 1.0
) -> dict[str, Tensor]:
    """Number of sites, (weighted) share of positives, the constant predictor's loss, the loss above it, AP and IoU at
    probability 1/2. No host read."""
    positive = (weights * targets).sum() / weights.sum().clamp(min=1e-6)
    constant = constant_loss(positive, pos_weight)
    answer, true = logits > 0, targets > 0
    union = (answer | true).sum().clamp(min=1)
    return {
        "occupancy_sites": torch.full_like(loss, len(logits)),
        "occupancy_positive": positive,
        "occupancy_entropy": constant,
        "occupancy_excess": loss.detach() - constant,
        "occupancy_ap": average_precision(logits, true),
        "occupancy_iou": (answer & true).sum() / union,
    }


def average_precision(scores: Tensor, positives: Tensor) -> Tensor:
    """Mean over positives of the precision among all that score at least as high; equal scores share one precision, so
    a constant has the share of positives. 0 without positives."""
    if len(scores) == 0:
        return scores.new_zeros(())
    ordered, order = scores.sort(descending=True)
    hits = positives[order].float()
    last = torch.searchsorted(-ordered, -ordered, right=True) - 1  # of the group of equal scores
    precision = hits.cumsum(0)[last] / (last + 1)
    return (precision * hits).sum() / hits.sum().clamp(min=1)
