"""Boxes in the LiDAR frame: conventions, corners, overlaps, rotated NMS, points in boxes.

    (x, y, z_bottom, w, l, h, theta), metres and radians

(x, y) is the centre and z_bottom the height of the BOTTOM face. theta is KITTI's rotation_y unchanged: positive turns
CLOCKWISE seen from above. At theta = 0 the width w lies along x and the length l along y; a corner (dx, dy) of the
unturned box lies at (dx cos + dy sin, -dx sin + dy cos) from the centre (facts 2.6; a turn the other way is the
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

QUARTERS_BEV = np.array([[-0.5, -0.5], [-0.5, 0.5], [0.5, 0.5], [0.5, -0.5]])  # corners in units of (w, l)


def limit_period(value, offset: float, period: float):
    """value - floor(value / period + offset) * period, for arrays and tensors: brought into [-offset, 1 - offset) *
    period."""
    return value - (value / period + offset) // 1 * period


# --- corners and points -----------------------------------------------------------------------------------------------


def bev_corners(boxes: ArrayLike) -> np.ndarray:
    """(N,7) -> (N,4,2) float64: corners seen from above, x and y in metres, clockwise in the box's own frame."""
    boxes = _as_boxes(boxes)
    return _turned(QUARTERS_BEV * boxes[:, None, 3:5], boxes[:, 6]) + boxes[:, None, :2]


def corners(boxes: ArrayLike) -> np.ndarray:
    """(N,7) -> (N,8,3) float64: the four corners of the bottom face, then the same four of the top face."""
    boxes = _as_boxes(boxes)
    flat = bev_corners(boxes)
    heights = np.stack([boxes[:, 2], boxes[:, 2] + boxes[:, 5]], 1)  # (N,2)
    faces = [np.concatenate([flat, np.repeat(heights[:, None, k : k + 1], 4, 1)], 2) for k in (0, 1)]
    return np.concatenate(faces, 1)


def points_in_boxes(points: ArrayLike, boxes: ArrayLike) -> np.ndarray:
    """Which points lie in which boxes, faces included: (P,3 or more: x, y, z, ...), (N,7) -> (P,N) bool."""
    points, boxes = np.asarray(points, np.float64), _as_boxes(boxes)
    reach = np.hypot(boxes[:, 3], boxes[:, 4]) / 2 + 1e-6
    near = (np.abs(points[:, None, 0] - boxes[:, 0]) <= reach) & (np.abs(points[:, None, 1] - boxes[:, 1]) <= reach)
    p, n = np.nonzero(near)  # the few pairs that are worth turning
    dx, dy, dz = (points[p, k] - boxes[n, k] for k in range(3))
    w, l, h, theta = boxes[n, 3:].T
    cos, sin = np.cos(theta), np.sin(theta)
    across, along = dx * cos - dy * sin, dx * sin + dy * cos  # the inverse turn
    near[p, n] = (np.abs(across) <= w / 2) & (np.abs(along) <= l / 2) & (dz >= 0) & (dz <= h)
    return near


def _as_boxes(boxes: ArrayLike) -> np.ndarray:
    boxes = np.asarray(boxes, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 7:
        raise ValueError(f"boxes of shape {boxes.shape}: they are (N, 7) = x, y, z_bottom, w, l, h, theta")
    return boxes


def _turned(offsets: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """offsets (N,V,2) turned clockwise by theta (N,)."""
    cos, sin = np.cos(theta)[:, None], np.sin(theta)[:, None]
    x, y = offsets[..., 0], offsets[..., 1]
    return np.stack([x * cos + y * sin, -x * sin + y * cos], -1)


# --- overlaps ---------------------------------------------------------------------------------------------------------


def paired_bev_overlap_m2(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Overlap seen from above of a[k] and b[k]: (K,7), (K,7) -> (K,) m2.

    In b's frame b is an upright rectangle. Walk a's outline and replace every point by the nearest point of that
    rectangle: what lies outside collapses onto its border, which encloses nothing more, so the area enclosed by the
    moved outline is exactly the overlap. Nearest point is a clamp, and the outline is straight between the places where
    it crosses one of b's four border lines: at most four a side.
    """
    a, b = _as_boxes(a), _as_boxes(b)
    outline = bev_corners(a) - b[:, None, :2]
    outline = _turned(outline, -b[:, 6])  # (K,4,2) in b's frame
    half = b[:, None, 3:5] / 2  # (K,1,2)
    start, step = outline, np.roll(outline, -1, axis=1) - outline
    safe = np.where(step == 0, 1.0, step)  # a side along a border line never crosses it: any share will do
    crossings = np.concatenate([(-half - start) / safe, (half - start) / safe], 2).clip(0, 1)  # shares of a side
    shares = np.concatenate([np.zeros((*crossings.shape[:2], 1)), np.sort(crossings, 2)], 2)  # (K,4,5)
    path = start[:, :, None] + shares[..., None] * step[:, :, None]
    path = np.clip(path, -half[:, None], half[:, None]).reshape(len(a), 20, 2)
    following = np.roll(path, -1, axis=1)
    twice = path[..., 0] * following[..., 1] - path[..., 1] * following[..., 0]
    return np.abs(twice.sum(1)) / 2


def bev_overlap_m2(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Overlap seen from above of every pair: (N,7), (M,7) -> (N,M) m2. Pairs too far apart to touch cost nothing."""
    a, b = _as_boxes(a), _as_boxes(b)
    reach = np.hypot(a[:, 3], a[:, 4])[:, None] / 2 + np.hypot(b[:, 3], b[:, 4]) / 2
    apart = np.hypot(a[:, 0, None] - b[:, 0], a[:, 1, None] - b[:, 1])
    rows, columns = np.nonzero(apart < reach)
    overlap = np.zeros((len(a), len(b)))
    overlap[rows, columns] = paired_bev_overlap_m2(a[rows], b[columns])
    return overlap


def bev_iou(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Rotated intersection over union seen from above: (N,7), (M,7) -> (N,M), 0..1."""
    a, b = _as_boxes(a), _as_boxes(b)
    return _over_union(bev_overlap_m2(a, b), a[:, 3] * a[:, 4], b[:, 3] * b[:, 4])


def iou_3d(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Rotated intersection over union of volumes: (N,7), (M,7) -> (N,M), 0..1."""
    a, b = _as_boxes(a), _as_boxes(b)
    top = np.minimum((a[:, 2] + a[:, 5])[:, None], b[:, 2] + b[:, 5])
    shared_height = (top - np.maximum(a[:, 2, None], b[:, 2])).clip(min=0)
    return _over_union(bev_overlap_m2(a, b) * shared_height, a[:, 3:6].prod(1), b[:, 3:6].prod(1))


def _over_union(overlap: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    union = a[:, None] + b - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def nms_rotated(boxes: ArrayLike, scores: ArrayLike, iou: float) -> np.ndarray:
    """Greedy rotated NMS seen from above: (N,7), (N,) -> indices kept, best score first.

    A box falls to a better one that it overlaps by more than `iou`; of equal scores the earlier counts as better. Meant
    for at most some hundred boxes: the whole (N,N) table is made.
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    overlapping = bev_iou(np.asarray(boxes)[order], np.asarray(boxes)[order]) > iou
    alive = np.ones(len(order), bool)
    for rank in range(len(order)):
        if alive[rank]:
            alive[rank + 1 :] &= ~overlapping[rank, rank + 1 :]
    return order[alive]


# --- anchors ----------------------------------------------------------------------------------------------------------


def nearest_axis_bev(boxes: Tensor) -> Tensor:
    """(N,7) -> (N,4) x1, y1, x2, y2: each box turned to the nearest axis, w and l changing places beyond pi/4."""
    turn = limit_period(boxes[:, 6], 0.5, math.pi).abs()
    across = turn > math.pi / 4
    half = torch.where(across[:, None], boxes[:, [4, 3]], boxes[:, 3:5]) / 2
    return torch.cat([boxes[:, :2] - half, boxes[:, :2] + half], 1)


def nearest_axis_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes turned to their nearest axes: (N,7), (M,7) -> (N,M), for target assignment."""
    a, b = nearest_axis_bev(a), nearest_axis_bev(b)
    low, high = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
    overlap = (high - low).clamp(min=0).prod(2)
    area_a, area_b = ((box[:, 2:] - box[:, :2]).prod(1) for box in (a, b))
    return overlap / (area_a[:, None] + area_b - overlap)
