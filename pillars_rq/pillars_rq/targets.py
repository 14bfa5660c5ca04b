"""Which anchor learns what: overlap of anchors and boxes -> class, box and direction targets.

Every size meets every box, whatever its class, with the thresholds of the size (the published habit; mmdet3d now
assigns within a class). An anchor learns the box it overlaps most when the overlap reaches `positive_iou`; each box
also takes its best anchors of a size, if they reach `negative_iou`; what lies between the thresholds is ignored.
A box of no trained class has label -1: its anchors are background, and never count as positives.
"""

# N = h * w * S * 2 anchors, G boxes of a frame, B frames

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .anchors import BOX_CODE, AnchorClass, encode_boxes
from .boxes import limit_period, nearest_axis_bev

IGNORED = -1


@dataclass(frozen=True)
class Targets:
    """classes (B,N) int64: the label of a positive, `background` (= number of classes), or IGNORED. deltas (B,N,7)
    float32 and directions (B,N) int64: set where positive, else 0."""

    classes: Tensor
    deltas: Tensor
    directions: Tensor
    background: int

    @property
    def positive(self) -> Tensor:
        """(B,N) bool."""
        return (self.classes >= 0) & (self.classes < self.background)


@torch.no_grad()
def assign_targets(
    anchors: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor], classes: Sequence[AnchorClass]
) -> Targets:
    """Targets of a batch: anchors (h,w,S,2,7); for each frame boxes (G,7) and labels (G,), G may be 0."""
    frames = [_assign_frame(anchors, *frame, classes) for frame in zip(boxes, labels, strict=True)]
    found, deltas, directions = (torch.stack(part) for part in zip(*frames, strict=True))
    return Targets(found, deltas, directions, len(classes))


def direction_of(theta: Tensor) -> Tensor:
    """Which half turn an angle lies in: 0 for [0, pi), 1 for [pi, 2 pi), after whole turns are taken off."""
    return (limit_period(theta, 0.0, 2 * math.pi) / math.pi).floor().clamp(0, 1).long()


def _assign_frame(anchors: Tensor, boxes: Tensor, labels: Tensor, classes: Sequence[AnchorClass]):
    box_of = torch.stack([_box_of_anchor(anchors[:, :, k], boxes, one) for k, one in enumerate(classes)], 2)
    box_of = box_of.reshape(-1)  # index of a box, or one of the two below; in the order of the head's channels
    anchors = anchors.reshape(-1, BOX_CODE)
    found = torch.where(box_of == UNDECIDED, IGNORED, len(classes))
    deltas, directions = anchors.new_zeros(anchors.shape), torch.zeros_like(found)
    taken = (box_of >= 0).nonzero()[:, 0]
    taken = taken[labels[box_of[taken]] >= 0]
    matched = boxes[box_of[taken]]
    found[taken] = labels[box_of[taken]]
    deltas[taken] = encode_boxes(matched, anchors[taken])
    directions[taken] = direction_of(matched[:, 6])
    return found, deltas, directions


NOTHING, UNDECIDED = -1, -2  # no box near enough; between the thresholds


def _box_of_anchor(anchors: Tensor, boxes: Tensor, one: AnchorClass) -> Tensor:
    """For anchors (h,w,2,7) of one size: the box (index) each has to learn, NOTHING, or UNDECIDED -> (h,w,2) int64.

    Few of the N anchors reach a box at all, so all after the overlaps is done on the pairs that do.
    """
    iou = grid_iou(anchors, boxes)
    box, turn, row, column = (iou >= one.negative_iou).nonzero().unbind(1)
    overlap = iou[box, turn, row, column]
    anchor = (row * anchors.shape[1] + column) * anchors.shape[2] + turn
    best = iou.new_zeros(anchors[..., 0].numel()).scatter_reduce(0, anchor, overlap, "amax")
    best_of_box = iou.new_zeros(len(boxes)).scatter_reduce(0, box, overlap, "amax")
    nearest, favourite = overlap == best[anchor], overlap == best_of_box[box]
    box_of = torch.full_like(best, NOTHING, dtype=torch.int64)
    first = box_of.scatter_reduce(0, anchor[nearest], box[nearest], "amin", include_self=False)  # of equally near ones
    forced = box_of.scatter_reduce(0, anchor[favourite], box[favourite], "amax")  # of several boxes the last
    decided = first.where((best >= one.positive_iou) | (first == NOTHING), UNDECIDED)
    return forced.where(forced >= 0, decided).view(anchors.shape[:-1])


def grid_iou(anchors: Tensor, boxes: Tensor) -> Tensor:
    """`nearest_axis_iou` of boxes (G,7) and the anchors of one size (h,w,2,7) -> (G,2,h,w).

    The anchors' columns share x and their rows y, so overlaps are measured along each axis and multiplied.
    """
    across, down = nearest_axis_bev(anchors[0].transpose(0, 1)), nearest_axis_bev(anchors[:, 0].transpose(0, 1))
    bev = nearest_axis_bev(boxes)
    x, y = _shared_length(bev[:, 0::2], across[..., 0::2]), _shared_length(bev[:, 1::2], down[..., 1::2])
    overlap = x[:, :, None] * y[..., None]
    area = anchors[0, 0, 0, 3] * anchors[0, 0, 0, 4]  # of this size
    return overlap / (area + (boxes[:, 3] * boxes[:, 4]).view(-1, 1, 1, 1) - overlap)


def _shared_length(a: Tensor, b: Tensor) -> Tensor:
    """Intervals (G,2), (2,n,2) low, high -> (G,2,n) metres."""
    low, high = a[:, None, None].unbind(-1)
    return (torch.minimum(high, b[..., 1]) - torch.maximum(low, b[..., 0])).clamp(min=0)
