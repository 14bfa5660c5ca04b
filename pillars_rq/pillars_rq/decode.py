"""From the head's maps to boxes: best anchors, decoding, rotated NMS within a class, direction, range.

The order of the published detector: sigmoid; the 100 anchors with the best class score; for each class
those above the score threshold, rotated NMS; at most 50 boxes of the frame; the angle from its half turn; at last only
boxes whose centre of the bottom face lies inside the limits. NMS sees at most 100 boxes a class, on the CPU.
"""

# B frames, N anchors of a frame, T the best of them, C classes, M detections

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .anchors import BOX_CODE, decode_boxes
from .boxes import limit_period, nms_rotated
from .detection_loss import flat_predictions
from .grid import strictly_inside
from .network import Predictions

KITTI_LIMIT_M = (0.0, -40.0, -3.0, 70.4, 40.0, 0.0)


@dataclass(frozen=True)
class Decoding:
    """What is kept. limit_m: x, y and bottom z of a box lie strictly inside (smallest three, largest three); None keeps
    all."""

    best_anchors: int = 100
    min_score: float = 0.1
    nms_iou: float = 0.01
    max_boxes: int = 50
    limit_m: tuple[float, float, float, float, float, float] | None = KITTI_LIMIT_M


@dataclass(frozen=True)
class Detections:
    """One frame, best score first: boxes (M,7) float32 (pillars_rq.boxes), scores (M,) float32, labels (M,) int64."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


@torch.no_grad()
def detect(predictions: Predictions, anchors: Tensor, decoding: Decoding = Decoding()) -> list[Detections]:
    """Detections of every frame of a batch; a frame without any has arrays of length 0.

    anchors: (h,w,S,2,7) of the same grid and classes, on the predictions' device.
    """
    logits, deltas, directions = flat_predictions(predictions, anchors.shape[2])
    scores = logits.sigmoid()  # (B,N,C)
    anchors = anchors.reshape(-1, BOX_CODE)
    best = scores.amax(2).topk(min(decoding.best_anchors, len(anchors)), dim=1).indices  # (B,T)
    frames = []
    for frame, chosen in enumerate(best):
        boxes = decode_boxes(deltas[frame, chosen], anchors[chosen])
        boxes[:, 6] = heading(boxes[:, 6], directions[frame, chosen].argmax(1))
        frames.append(_select(boxes.cpu().numpy(), scores[frame, chosen].cpu().numpy(), decoding))
    return frames


def heading(theta: Tensor, direction: Tensor) -> Tensor:
    """The angle in [-pi, pi) whose half turn is `direction` (see targets.direction_of), whole turns taken off."""
    return limit_period(theta, 1.0, math.pi) + (1 - direction) * math.pi


def _select(boxes: np.ndarray, scores: np.ndarray, decoding: Decoding) -> Detections:
    """boxes (T,7), scores (T,C) -> what survives NMS, the cap and the limits. A box may survive for two classes."""
    kept = [_kept_of_class(boxes, scores[:, label], decoding) for label in range(scores.shape[1])]
    rows = np.concatenate(kept)
    labels = np.repeat(np.arange(len(kept)), [len(part) for part in kept])
    order = np.argsort(-scores[rows, labels], kind="stable")[: decoding.max_boxes]
    rows, labels = rows[order], labels[order]
    inside = within(boxes[rows], decoding.limit_m)
    rows, labels = rows[inside], labels[inside]
    return Detections(boxes[rows], scores[rows, labels], labels)


def _kept_of_class(boxes: np.ndarray, scores: np.ndarray, decoding: Decoding) -> np.ndarray:
    candidates = np.flatnonzero(scores > decoding.min_score)
    return candidates[nms_rotated(boxes[candidates], scores[candidates], decoding.nms_iou)]


def within(boxes: np.ndarray, limit_m: Sequence[float] | None) -> np.ndarray:
    """(M,7) -> (M,) bool: x, y and bottom z strictly inside."""
    if limit_m is None:
        return np.ones(len(boxes), bool)
    low, high = np.split(np.asarray(limit_m), 2)
    return strictly_inside(boxes, low, high)
