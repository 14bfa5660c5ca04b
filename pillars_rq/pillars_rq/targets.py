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
    """For anchors (h,w,2,7) of one size: the box (index) each has to learn, NOTHING, or UNDECIDED -> (h,w,2) int64."""
    if len(boxes) == 0:
        return torch.full(anchors.shape[:-1], NOTHING, device=anchors.device)
    iou = grid_iou(anchors, boxes).flatten(0, 2)  # (N,G)
    best, box_of = iou.max(1)
    box_of = box_of.where(best >= one.positive_iou, UNDECIDED).where(best >= one.negative_iou, NOTHING)
    best_of_box = iou.amax(0)
    favourite, box = ((iou == best_of_box) & (best_of_box >= one.negative_iou)).nonzero().unbind(1)
    forced = torch.full_like(box_of, NOTHING).scatter_reduce(0, favourite, box, "amax")  # of several boxes the last
    return torch.where(forced >= 0, forced, box_of).view(anchors.shape[:-1])


def grid_iou(anchors: Tensor, boxes: Tensor) -> Tensor:
    """`nearest_axis_iou` of the anchors of one size (h,w,2,7) and boxes (G,7) -> (h,w,2,G).

    The anchors' columns share x and their rows y, so overlaps are measured along each axis and multiplied.
    """
    across, down = nearest_axis_bev(anchors[0].flatten(0, 1)), nearest_axis_bev(anchors[:, 0].flatten(0, 1))
    x = _shared_length(across[:, 0::2], nearest_axis_bev(boxes)[:, 0::2]).view(1, *anchors.shape[1:3], -1)
    y = _shared_length(down[:, 1::2], nearest_axis_bev(boxes)[:, 1::2]).view(anchors.shape[0], 1, anchors.shape[2], -1)
    overlap = x * y
    area = anchors[0, 0, 0, 3] * anchors[0, 0, 0, 4]  # of this size
    return overlap / (area + boxes[:, 3] * boxes[:, 4] - overlap)


def _shared_length(a: Tensor, b: Tensor) -> Tensor:
    """Intervals (N,2), (G,2) low, high -> (N,G) metres."""
    return (torch.minimum(a[:, None, 1], b[:, 1]) - torch.maximum(a[:, None, 0], b[:, 0])).clamp(min=0)
