"""What the head shall answer at each active site: heat of every class, and one site with eight numbers a box (A14).

A box has its centre c in cells of the bird's-eye map. Its positive site v* is the ACTIVE site nearest to c, wherever
that is: on a sparse map the cell under the centre of a machine is often empty. The heat of a class is a Gaussian drawn
from c and a second one from v*, the larger of all boxes counting. v* alone regresses the box.

Ground truth comes padded, (B,M,8) x, y, z, dx, dy, dz, heading, class with classes from 1; a row of class 0 is padding.
It is never written to. There is no loop over boxes or sites, and nothing is read back to the host.
"""

# B samples, M boxes of a sample (padded), S active sites of the batch, C classes of a head

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.errors import ConfigError, DataError

CODES = 8  # offset x, offset y, z, log dx, log dy, log dz, cos, sin


@dataclass(frozen=True)
class BevMap:
    """Where the cells of the bird's-eye map lie: cell (iy, ix) begins at origin_xy_m + (ix, iy) * cell_xy_m."""

    origin_xy_m: tuple[float, float]
    cell_xy_m: tuple[float, float]  # FEATURE_MAP_STRIDE times the voxel
    size_yx: tuple[int, int]

    @classmethod
    def of(cls, range_m: Sequence[float], voxel_m: Sequence[float], stride: int) -> "BevMap":
        """The map of a range (x0,y0,z0,x1,y1,z1), a voxel (x,y,z) and a stride, as k3 s2 p1 convolutions leave it."""
        cells = [round((range_m[axis + 3] - range_m[axis]) / voxel_m[axis]) for axis in (0, 1)]
        for _ in range(round(math.log2(stride))):
            cells = [(count - 1) // 2 + 1 for count in cells]
        cell = (float(voxel_m[0]) * stride, float(voxel_m[1]) * stride)
        return cls((float(range_m[0]), float(range_m[1])), cell, (cells[1], cells[0]))

    def cells(self, xy_m: Tensor) -> Tensor:
        """Metres (...,2) x, y -> cells (...,2) x, y."""
        return (xy_m - xy_m.new_tensor(self.origin_xy_m)) / xy_m.new_tensor(self.cell_xy_m)

    def metres(self, xy_cells: Tensor) -> Tensor:
        """Cells (...,2) x, y -> metres (...,2) x, y."""
        return xy_cells * xy_cells.new_tensor(self.cell_xy_m) + xy_cells.new_tensor(self.origin_xy_m)


@dataclass(frozen=True)
class AssignmentSettings:
    """TARGET_ASSIGNER_CONFIG: gaussian_overlap is the IoU a shifted box shall keep, min_radius in cells."""

    gaussian_overlap: float = 0.1
    min_radius: int = 2
    max_boxes: int = 500

    def __post_init__(self) -> None:
        if not 0 < self.gaussian_overlap < 1 or self.min_radius < 0 or self.max_boxes < 1:
            raise ConfigError(
                f"TARGET_ASSIGNER_CONFIG: GAUSSIAN_OVERLAP {self.gaussian_overlap} must lie in (0, 1), MIN_RADIUS "
                f"{self.min_radius} be at least 0, NUM_MAX_OBJS {self.max_boxes} at least 1."
            )


@dataclass(frozen=True)
class Targets:
    """Of one head.

    heat: (S,C) 0..1, exactly 1 at the positive site of every box.
    site: (B,M) int64, v* as a row of the active sites (0 where not valid).
    valid: (B,M) bool, whether this box is assigned here.
    codes: (B,M,8), what v* shall answer (0 where not valid).
    """

    heat: Tensor
    site: Tensor
    valid: Tensor
    codes: Tensor


def encode(boxes: Tensor, site_xy: Tensor, bev: BevMap) -> Tensor:
    """Boxes (...,7) at sites (...,2) x, y -> codes (...,8); the sizes are positive."""
    offset = bev.cells(boxes[..., :2]) - site_xy
    cos, sin = boxes[..., 6:7].cos(), boxes[..., 6:7].sin()
    return torch.cat([offset, boxes[..., 2:3], boxes[..., 3:6].log(), cos, sin], -1)


def gaussian_radius(size_cells: Tensor, overlap: float) -> Tensor:
    """How far a box (...,2) in cells may be off and keep this IoU: (...), in cells, CenterNet's smallest of three."""
    h, w = size_cells.unbind(-1)
    total, area = h + w, h * w
    o = overlap
    r1 = (total + (total**2 - 4 * area * (1 - o) / (1 + o)).sqrt()) / 2
    r2 = (2 * total + (4 * total**2 - 16 * (1 - o) * area).sqrt()) / 2
    r3 = (-2 * o * total + (4 * o**2 * total**2 - 16 * o * (o - 1) * area).sqrt()) / 2
    return torch.minimum(torch.minimum(r1, r2), r3)


def assign_targets(
    sites: Tensor, boxes: Tensor, classes: Sequence[int], bev: BevMap, settings: AssignmentSettings
) -> Targets:
    """Targets of one head for a batch.

    Args:
        sites: (S,3) integers b, y, x: the active sites of the map; any order, any number, none of a sample too.
        boxes: (B,M,8) padded ground truth; left as it is.
        classes: labels (from 1) of this head, in the order of its heat columns.

    A box is left out when its class is another head's, a size is not positive, its centre does not lie on the map
    (0 <= c < size: decoding could not give it back), or its sample has no active site.

    Raises:
        DataError: more rows than NUM_MAX_OBJS.
    """
    if boxes.shape[1] > settings.max_boxes:
        raise DataError(f"{boxes.shape[1]} boxes a sample, NUM_MAX_OBJS is {settings.max_boxes}: raise it.")
    boxes = boxes.float()
    size_xy = boxes.new_tensor(bev.size_yx[::-1])
    centres = bev.cells(boxes[..., :2])  # (B,M,2) x, y in cells
    column = _columns(boxes[..., 7], classes)
    valid = (column >= 0) & (boxes[..., 3:6] > 0).all(-1) & ((centres >= 0) & (centres < size_xy)).all(-1)
    centres = torch.minimum(centres.clamp(min=0), size_xy - 0.5)
    sample, site_xy = sites[:, 0].long(), sites[:, [2, 1]].to(boxes)
    distance = ((site_xy[:, None] - centres[sample]) ** 2).sum(-1)  # (S,M), to the boxes of the own sample
    nearest = _nearest(distance, sample, len(boxes))
    valid &= nearest < len(sites)
    nearest = torch.where(valid, nearest, 0)
    positive_xy = _take(site_xy, nearest)
    heat = _heat(distance, site_xy, sample, positive_xy, _sigma(boxes, valid, bev, settings), valid, column, classes)
    safe = torch.where(valid[..., None], boxes[..., :7], 1.0)
    codes = torch.where(valid[..., None], _codes(safe, centres, positive_xy, bev), 0.0)
    return Targets(heat, nearest, valid, codes)


def _columns(labels: Tensor, classes: Sequence[int]) -> Tensor:
    """(B,M) labels -> place in `classes`, -1 for others and padding."""
    same = labels[..., None] == labels.new_tensor(list(classes))
    return torch.where(same.any(-1), same.int().argmax(-1), -1)


def _nearest(distance: Tensor, sample: Tensor, batch: int) -> Tensor:
    """(S,M) -> (B,M): the row of the nearest site of the own sample, the first of equals; S where there is none."""
    total, boxes = distance.shape
    index = sample[:, None].expand(-1, boxes)
    least = distance.new_full((batch, boxes), torch.inf).scatter_reduce(0, index, distance, "amin")
    rows = torch.arange(total, device=sample.device)[:, None].expand(-1, boxes)
    rows = torch.where(distance == least[sample], rows, total)
    return torch.full((batch, boxes), total, device=sample.device).scatter_reduce(0, index, rows, "amin")


def _take(site_xy: Tensor, rows: Tensor) -> Tensor:
    """site_xy (S,2) at rows (B,M); zeros when there are no sites."""
    return site_xy[rows] if len(site_xy) else site_xy.new_zeros(*rows.shape, 2)


def _sigma(boxes: Tensor, valid: Tensor, bev: BevMap, settings: AssignmentSettings) -> Tensor:
    """(B,M) standard deviation of each box's Gaussian, in cells: a sixth of the diameter 2 r + 1."""
    size = torch.where(valid[..., None], boxes[..., 3:5], 1.0) / boxes.new_tensor(bev.cell_xy_m)
    radius = gaussian_radius(size, settings.gaussian_overlap).floor().clamp(min=settings.min_radius)
    return (2 * radius + 1) / 6


def _heat(
    distance: Tensor,
    site_xy: Tensor,
    sample: Tensor,
    positive_xy: Tensor,
    sigma: Tensor,
    valid: Tensor,
    column: Tensor,
    classes: Sequence[int],
) -> Tensor:
    """(S,C): of each class the largest of its boxes' Gaussians, from the centre and from the positive site."""
    from_positive = ((site_xy[:, None] - positive_xy[sample]) ** 2).sum(-1)
    nearer = torch.minimum(distance, from_positive)  # the larger of two Gaussians of one width is the nearer's
    drawn = torch.exp(-nearer / (2 * sigma[sample] ** 2)) * valid[sample]
    into = torch.where(valid, column, 0)[sample]
    return drawn.new_zeros(len(site_xy), len(classes)).scatter_reduce(1, into, drawn, "amax")


def _codes(boxes: Tensor, centres: Tensor, positive_xy: Tensor, bev: BevMap) -> Tensor:
    """As `encode`, with the centre clamped onto the map."""
    return encode(torch.cat([bev.metres(centres), boxes[..., 2:]], -1), positive_xy, bev)
