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

from shared import rectangles


def limit_heading(heading: ArrayLike) -> np.ndarray:
    """The same angle in [-pi, pi), float64 of the argument's shape."""
    heading = np.asarray(heading, np.float64)
    return heading - np.floor(heading / (2 * math.pi) + 0.5) * 2 * math.pi


# --- from above -------------------------------------------------------------------------------------------------------


def bev(boxes: ArrayLike) -> np.ndarray:
    """(N,7) -> (N,5) float64: the boxes as `shared.rectangles`."""
    return _as_boxes(boxes)[:, [0, 1, 3, 4, 6]]


def bev_corners(boxes: ArrayLike) -> np.ndarray:
    """(N,7) -> (N,4,2) float64: corners seen from above, metres, counter-clockwise from front left."""
    return rectangles.corners(bev(boxes))


def bev_overlap_m2(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Overlap seen from above of every pair: (N,7), (M,7) -> (N,M) m2."""
    return rectangles.overlap_m2(bev(a), bev(b))


def bev_iou(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Rotated intersection over union seen from above: (N,7), (M,7) -> (N,M), 0..1."""
    return rectangles.iou(bev(a), bev(b))


def nms_rotated(boxes: ArrayLike, scores: ArrayLike, iou: float, *, pre: int = 4096, post: int = 500) -> np.ndarray:
    """Greedy rotated NMS seen from above: (N,7), (N,) -> indices kept, best score first (`shared.rectangles.nms`)."""
    return rectangles.nms(bev(boxes), scores, iou, pre=pre, post=post)


# --- in space ---------------------------------------------------------------------------------------------------------


def corners(boxes: ArrayLike) -> np.ndarray:
    """(N,7) -> (N,8,3) float64: the four corners of the bottom face, then the same four of the top face."""
    heights = np.repeat(_bottom_top(boxes), 4, 1)  # (N,8)
    return np.concatenate([np.tile(bev_corners(boxes), (1, 2, 1)), heights[..., None]], 2)


def points_in_boxes(points: ArrayLike, boxes: ArrayLike) -> np.ndarray:
    """Which points lie strictly inside which boxes: (P,3 or more: x, y, z, ...), (N,7) -> (P,N) bool.

    A point on a face is outside.
    """
    points, boxes = np.asarray(points, np.float64), _as_boxes(boxes)
    p, n, place = rectangles.points_nearby(points[:, :2], bev(boxes))
    offsets = np.concatenate([place, points[p, 2:3] - boxes[n, 2:3]], 1)
    inside = np.zeros((len(points), len(boxes)), bool)
    inside[p, n] = (np.abs(offsets) < boxes[n, 3:6] / 2).all(1)
    return inside


def iou_3d(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Rotated intersection over union of volumes: (N,7), (M,7) -> (N,M), 0..1."""
    return rectangles.iou_3d(bev(a), _bottom_top(a), bev(b), _bottom_top(b))


def _bottom_top(boxes: ArrayLike) -> np.ndarray:
    boxes = _as_boxes(boxes)
    return boxes[:, 2:3] + boxes[:, 5:6] * [-0.5, 0.5]


def _as_boxes(boxes: ArrayLike) -> np.ndarray:
    boxes = np.asarray(boxes, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 7:
        raise ValueError(f"boxes of shape {boxes.shape}: they are (N, 7) = x, y, z, dx, dy, dz, heading")
    return boxes


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
