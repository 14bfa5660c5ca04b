"""Boxes in the LiDAR frame: conventions, corners, overlaps, rotated NMS, points in boxes.

    (x, y, z_bottom, w, l, h, theta), metres and radians

(x, y) is the centre and z_bottom the height of the BOTTOM face. theta is KITTI's rotation_y unchanged: positive turns
CLOCKWISE seen from above. At theta = 0 the width w lies along x and the length l along y; a corner (dx, dy) of the
unturned box lies at (dx cos + dy sin, -dx sin + dy cos) from the centre (a turn the other way is the
commonest error of ports, and tests/test_pillar_boxes.py holds the case that tells them apart).

Everything here is numpy in float64 for a few hundred boxes (evaluation, decoding, data preparation), except the overlap
with the anchors of a whole grid, which is torch and runs where training runs.
"""

# N, M boxes; K pairs; P points

import math

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from shared import rectangles

CLOCKWISE = [2, 1, 0, 3]  # from the corner at (-w/2, -l/2), of the corners of shared.rectangles


def limit_period(value, offset: float, period: float):
    """value - floor(value / period + offset) * period, for arrays and tensors: brought into [-offset, 1 - offset) *
    period."""
    return value - (value / period + offset) // 1 * period


# --- from above -------------------------------------------------------------------------------------------------------


def bev(boxes: ArrayLike) -> np.ndarray:
    """(N,7) -> (N,5) float64: the boxes as `shared.rectangles`, whose heading turns the other way."""
    boxes = _as_boxes(boxes)
    return np.concatenate([boxes[:, [0, 1, 3, 4]], -boxes[:, 6:]], 1)


def bev_corners(boxes: ArrayLike) -> np.ndarray:
    """(N,7) -> (N,4,2) float64: corners seen from above, x and y in metres, clockwise in the box's own frame."""
    return rectangles.corners(bev(boxes))[:, CLOCKWISE]


def paired_bev_overlap_m2(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Overlap seen from above of a[k] and b[k]: (K,7), (K,7) -> (K,) m2."""
    return rectangles.paired_overlap_m2(bev(a), bev(b))


def bev_overlap_m2(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Overlap seen from above of every pair: (N,7), (M,7) -> (N,M) m2."""
    return rectangles.overlap_m2(bev(a), bev(b))


def bev_iou(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Rotated intersection over union seen from above: (N,7), (M,7) -> (N,M), 0..1."""
    return rectangles.iou(bev(a), bev(b))


def nms_rotated(boxes: ArrayLike, scores: ArrayLike, iou: float) -> np.ndarray:
    """Greedy rotated NMS seen from above: (N,7), (N,) -> indices kept, best score first (`shared.rectangles.nms`)."""
    return rectangles.nms(bev(boxes), scores, iou, post=len(boxes))


# --- in space ---------------------------------------------------------------------------------------------------------


def corners(boxes: ArrayLike) -> np.ndarray:
    """(N,7) -> (N,8,3) float64: the four corners of the bottom face, then the same four of the top face."""
    flat, heights = bev_corners(boxes), _bottom_top(boxes)
    faces = [np.concatenate([flat, np.repeat(heights[:, None, k : k + 1], 4, 1)], 2) for k in (0, 1)]
    return np.concatenate(faces, 1)


def points_in_boxes(points: ArrayLike, boxes: ArrayLike) -> np.ndarray:
    """Which points lie in which boxes, faces included: (P,3 or more: x, y, z, ...), (N,7) -> (P,N) bool."""
    points, boxes = np.asarray(points, np.float64), _as_boxes(boxes)
    p, n, place = rectangles.points_nearby(points[:, :2], bev(boxes))
    above = points[p, 2] - boxes[n, 2]
    inside = np.zeros((len(points), len(boxes)), bool)
    inside[p, n] = (np.abs(place) <= boxes[n, 3:5] / 2).all(1) & (above >= 0) & (above <= boxes[n, 5])
    return inside


def iou_3d(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Rotated intersection over union of volumes: (N,7), (M,7) -> (N,M), 0..1."""
    return rectangles.iou_3d(bev(a), _bottom_top(a), bev(b), _bottom_top(b))


def _bottom_top(boxes: ArrayLike) -> np.ndarray:
    boxes = _as_boxes(boxes)
    return np.stack([boxes[:, 2], boxes[:, 2] + boxes[:, 5]], 1)


def _as_boxes(boxes: ArrayLike) -> np.ndarray:
    boxes = np.asarray(boxes, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 7:
        raise ValueError(f"boxes of shape {boxes.shape}: they are (N, 7) = x, y, z_bottom, w, l, h, theta")
    return boxes


# --- anchors ----------------------------------------------------------------------------------------------------------


def nearest_axis_bev(boxes: Tensor) -> Tensor:
    """(...,7) -> (...,4) x1, y1, x2, y2: each box turned to the nearest axis, w and l changing places beyond pi/4."""
    turn = limit_period(boxes[..., 6], 0.5, math.pi).abs()
    across = turn > math.pi / 4
    half = torch.where(across[..., None], boxes[..., [4, 3]], boxes[..., 3:5]) / 2
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], -1)


def nearest_axis_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes turned to their nearest axes: (N,7), (M,7) -> (N,M), for target assignment."""
    a, b = nearest_axis_bev(a), nearest_axis_bev(b)
    low, high = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
    overlap = (high - low).clamp(min=0).prod(2)
    area_a, area_b = ((box[:, 2:] - box[:, :2]).prod(1) for box in (a, b))
    return overlap / (area_a[:, None] + area_b - overlap)
