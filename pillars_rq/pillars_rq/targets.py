"""Which anchor learns what: overlap of anchors and boxes -> class, box and direction targets.

Every size meets every box, whatever its class, with the thresholds of the size (the published habit; mmdet3d now
assigns within a class). An anchor learns the box it overlaps most when the overlap reaches `positive_iou`; each box
also takes its best anchors of a size, if they reach `negative_iou`; what lies between the thresholds is ignored.
A box of no trained class has label -1: its anchors are background, and never count as positives (facts 2.3, fix c).
"""

# N = h * w * S * 2 anchors, G boxes of a frame, B frames

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .anchors import BOX_CODE, AnchorClass, encode_boxes
from .boxes import limit_period, nearest_axis_iou

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
    h, w, sizes, rotations, _ = anchors.shape
    box_of = torch.stack(
        [_box_of_anchor(anchors[:, :, k].reshape(-1, BOX_CODE), boxes, one) for k, one in enumerate(classes)]
    )  # (S, h * w * 2), index of a box, or one of the two below
    box_of = box_of.view(sizes, h, w, rotations).permute(1, 2, 0, 3).reshape(-1)  # the order of the head's channels
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
    """For anchors (N,7) of one size: the box (index) each has to learn, NOTHING, or UNDECIDED -> (N,) int64."""
    if len(boxes) == 0:
        return torch.full((len(anchors),), NOTHING, device=anchors.device)
    iou = nearest_axis_iou(anchors, boxes)  # (N,G)
    best, box_of = iou.max(1)
    box_of = box_of.where(best >= one.positive_iou, UNDECIDED).where(best >= one.negative_iou, NOTHING)
    best_of_box = iou.amax(0)
    favourite = (iou == best_of_box) & (best_of_box >= one.negative_iou)
    last = favourite.long() * torch.arange(1, 1 + len(boxes), device=iou.device)  # of several boxes the last
    return torch.where(favourite.any(1), last.amax(1) - 1, box_of)
