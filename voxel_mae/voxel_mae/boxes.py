"""Boxes in the LiDAR frame: convention, corners, points in boxes, rotated overlaps, rotated NMS.

    (x, y, z, dx, dy, dz, heading), metres and radians: OpenPCDet's box

(x, y, z) is the CENTRE of the box, dx its length along the heading, dy across, dz its height. The heading turns
COUNTER-CLOCKWISE seen from above, 0 along +x. KITTI's label files use another convention (bottom centre in the camera
frame, clockwise rotation_y): `to_kitti_camera` and `from_kitti_camera` change between the two.

Everything here is numpy in float64, for some thousand boxes: evaluation, decoding and data preparation. Nothing needs
a compiled extension.
"""

# N, M boxes; K pairs; P points

import math

import numpy as np
from numpy.typing import ArrayLike

QUARTERS = np.array([[0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]])  # corners in units of (dx, dy), CCW


def limit_heading(heading: ArrayLike) -> np.ndarray:
    """The same angle in [-pi, pi), float64 of the argument's shape."""
    heading = np.asarray(heading, np.float64)
    return heading - np.floor(heading / (2 * math.pi) + 0.5) * 2 * math.pi


# --- corners and points -----------------------------------------------------------------------------------------------


def bev_corners(boxes: ArrayLike) -> np.ndarray:
    """(N,7) -> (N,4,2) float64: corners seen from above, metres, counter-clockwise from front left."""
    boxes = _as_boxes(boxes)
    return _turned(QUARTERS * boxes[:, None, 3:5], boxes[:, 6]) + boxes[:, None, :2]


def corners(boxes: ArrayLike) -> np.ndarray:
    """(N,7) -> (N,8,3) float64: the four corners of the bottom face, then the same four of the top face."""
    boxes = _as_boxes(boxes)
    flat = bev_corners(boxes)
    heights = boxes[:, 2:3] + boxes[:, 5:6] * np.repeat([-0.5, 0.5], 4)  # (N,8)
    return np.concatenate([np.tile(flat, (1, 2, 1)), heights[..., None]], 2)


def points_in_boxes(points: ArrayLike, boxes: ArrayLike) -> np.ndarray:
    """Which points lie strictly inside which boxes: (P,3 or more: x, y, z, ...), (N,7) -> (P,N) bool.

    A point on a face is outside. Points farther from a centre than the half diagonal are sorted out first, so that only
    the pairs that can touch are turned.
    """
    points, boxes = np.asarray(points, np.float64), _as_boxes(boxes)
    reach = np.hypot(boxes[:, 3], boxes[:, 4]) / 2
    inside = (np.abs(points[:, None, 0] - boxes[:, 0]) <= reach) & (np.abs(points[:, None, 1] - boxes[:, 1]) <= reach)
    p, n = np.nonzero(inside)
    dx, dy, dz = (points[p, axis] - boxes[n, axis] for axis in range(3))
    cos, sin = np.cos(boxes[n, 6]), np.sin(boxes[n, 6])
    along, across = dx * cos + dy * sin, dy * cos - dx * sin  # the inverse turn
    half = boxes[n, 3:6] / 2
    inside[p, n] = (np.abs(along) < half[:, 0]) & (np.abs(across) < half[:, 1]) & (np.abs(dz) < half[:, 2])
    return inside


def _as_boxes(boxes: ArrayLike) -> np.ndarray:
    boxes = np.asarray(boxes, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 7:
        raise ValueError(f"boxes of shape {boxes.shape}: they are (N, 7) = x, y, z, dx, dy, dz, heading")
    return boxes


def _turned(offsets: np.ndarray, heading: np.ndarray) -> np.ndarray:
    """offsets (N,V,2) turned counter-clockwise by heading (N,)."""
    cos, sin = np.cos(heading)[:, None], np.sin(heading)[:, None]
    x, y = offsets[..., 0], offsets[..., 1]
    return np.stack([x * cos - y * sin, x * sin + y * cos], -1)


# --- overlaps ---------------------------------------------------------------------------------------------------------


def paired_bev_overlap_m2(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Overlap seen from above of a[k] and b[k]: (K,7), (K,7) -> (K,) m2.

    In b's frame b is an upright rectangle. Walk a's outline and replace every point by the nearest point of that
    rectangle: what lies outside collapses onto its border, which encloses nothing more, so the area enclosed by the
    moved outline is exactly the overlap. Nearest point is a clamp, and the outline is straight between the places where
    it crosses one of b's four border lines: at most four a side.
    """
    a, b = _as_boxes(a), _as_boxes(b)
    start = _turned(bev_corners(a) - b[:, None, :2], -b[:, 6])  # (K,4,2) in b's frame
    half = b[:, None, 3:5] / 2
    step = np.roll(start, -1, axis=1) - start
    safe = np.where(step == 0, 1.0, step)  # a side along a border line never crosses it: any share will do
    crossings = np.concatenate([(-half - start) / safe, (half - start) / safe], 2).clip(0, 1)  # shares of a side
    shares = np.concatenate([np.zeros((*crossings.shape[:2], 1)), np.sort(crossings, 2)], 2)  # (K,4,5)
    path = start[:, :, None] + shares[..., None] * step[:, :, None]
    path = np.clip(path, -half[:, None], half[:, None]).reshape(len(a), 20, 2)
    following = np.roll(path, -1, axis=1)
    return np.abs((path[..., 0] * following[..., 1] - path[..., 1] * following[..., 0]).sum(1)) / 2


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
    top = np.minimum((a[:, 2] + a[:, 5] / 2)[:, None], b[:, 2] + b[:, 5] / 2)
    bottom = np.maximum((a[:, 2] - a[:, 5] / 2)[:, None], b[:, 2] - b[:, 5] / 2)
    overlap = bev_overlap_m2(a, b) * (top - bottom).clip(min=0)
    return _over_union(overlap, a[:, 3:6].prod(1), b[:, 3:6].prod(1))


def _over_union(overlap: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    union = a[:, None] + b - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0).clip(max=1)


def nms_rotated(boxes: ArrayLike, scores: ArrayLike, iou: float, *, pre: int = 4096, post: int = 500) -> np.ndarray:
    """Greedy rotated NMS seen from above: (N,7), (N,) -> indices kept, best score first.

    A box falls to a better one that it overlaps by more than `iou`; of equal scores the earlier counts as better. Only
    the `pre` best enter and at most `post` leave. Each box kept is compared with those still alive near it: no table of
    all pairs is made.
    """
    boxes = _as_boxes(boxes)
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")[:pre]
    alive, kept = order, []
    while len(alive) and len(kept) < post:
        best, rest = alive[0], alive[1:]
        kept.append(best)
        alive = rest[bev_iou(boxes[rest], boxes[best : best + 1])[:, 0] <= iou]
    return np.array(kept, np.int64)


# --- KITTI's convention -----------------------------------------------------------------------------------------------


def to_kitti_camera(boxes: ArrayLike) -> np.ndarray:
    """LiDAR boxes (N,7) -> (N,7) h, w, l, x, y, z, rotation_y: the last seven numbers of a KITTI label line.

    For data without a camera: the axes change as x = -y, y = -z, z = x, without the tilt and offset of a calibration.
    The location is the bottom centre, rotation_y = -(heading + pi/2).
    """
    boxes = _as_boxes(boxes)
    x, y, z, dx, dy, dz, heading = boxes.T
    return np.stack([dz, dy, dx, -y, dz / 2 - z, x, limit_heading(-(heading + math.pi / 2))], 1)


def from_kitti_camera(rows: ArrayLike, camera_to_lidar: np.ndarray | None = None) -> np.ndarray:
    """Rows (N,7) h, w, l, x, y, z, rotation_y of a KITTI label -> LiDAR boxes (N,7).

    camera_to_lidar: 4x4, inv(R0_rect Tr_velo_to_cam); None for the plain exchange of axes (see `to_kitti_camera`).
    """
    h, w, l, x, y, z, rotation_y = np.asarray(rows, np.float64).reshape(-1, 7).T
    if camera_to_lidar is None:
        bottom = np.stack([z, -x, -y], 1)
    else:
        bottom = np.stack([x, y, z], 1) @ camera_to_lidar[:3, :3].T + camera_to_lidar[:3, 3]
    centre_z = bottom[:, 2] + h / 2
    return np.stack([bottom[:, 0], bottom[:, 1], centre_z, l, w, h, limit_heading(-(rotation_y + math.pi / 2))], 1)
