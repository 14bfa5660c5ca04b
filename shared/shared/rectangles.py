"""Rectangles seen from above that are turned: corners, overlap, IoU, greedy NMS. LiDAR boxes stand on them.

    (x, y, length, width, heading), metres and radians

(x, y) is the centre, `length` lies along the heading and `width` across; the heading turns COUNTER-CLOCKWISE seen from
above, 0 along +x. A package whose boxes follow another convention says so in its own `boxes.py`, which turns them into
these. Everything is numpy in float64, for some thousand rectangles; nothing needs a compiled extension.
"""

# N, M rectangles; K pairs; P points

import numpy as np
from numpy.typing import ArrayLike

QUARTERS = np.array([[0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]])  # corners in units of (length, width)


def corners(rectangles: np.ndarray) -> np.ndarray:
    """(N,5) -> (N,4,2): corners in metres, counter-clockwise from front left."""
    return turned(QUARTERS * rectangles[:, None, 2:4], rectangles[:, 4]) + rectangles[:, None, :2]


def turned(offsets: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Offsets (N,V,2) turned counter-clockwise by angles (N,)."""
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    x, y = offsets[..., 0], offsets[..., 1]
    return np.stack([x * cos - y * sin, x * sin + y * cos], -1)


def points_nearby(points_xy: np.ndarray, rectangles: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs of point and rectangle that can touch: (P,2), (N,5) -> p (K,), n (K,) and the point's place (K,2) in
    the rectangle's own frame, along and across its heading, in metres.

    Pairs farther apart than the half diagonal are sorted out first, so that only the rest is turned.
    """
    reach = np.hypot(rectangles[:, 2], rectangles[:, 3]) / 2 + 1e-6
    x, y = (np.abs(points_xy[:, axis] - rectangles[:, axis, None]) <= reach[:, None] for axis in (0, 1))
    n, p = np.nonzero(x & y)
    return p, n, turned((points_xy[p] - rectangles[n, :2])[:, None], -rectangles[n, 4])[:, 0]


def paired_overlap_m2(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Overlap of a[k] and b[k]: (K,5), (K,5) -> (K,) m2.

    In b's frame b is upright. Walk a's outline and replace every point by the nearest point of b: what lies outside
    collapses onto b's border, which encloses nothing more, so the area enclosed by the moved outline is exactly the
    overlap. Nearest point is a clamp, and the outline is straight between the places where it crosses one of b's four
    border lines: at most four a side.
    """
    start = turned(corners(a) - b[:, None, :2], -b[:, 4])  # (K,4,2) in b's frame
    half = b[:, None, 2:4] / 2
    step = np.roll(start, -1, axis=1) - start
    safe = np.where(step == 0, 1.0, step)  # a side along a border line never crosses it: any share will do
    crossings = np.concatenate([(-half - start) / safe, (half - start) / safe], 2).clip(0, 1)  # shares of a side
    shares = np.concatenate([np.zeros((*crossings.shape[:2], 1)), np.sort(crossings, 2)], 2)  # (K,4,5)
    path = start[:, :, None] + shares[..., None] * step[:, :, None]
    path = np.clip(path, -half[:, None], half[:, None]).reshape(len(a), 20, 2)
    following = np.roll(path, -1, axis=1)
    return np.abs((path[..., 0] * following[..., 1] - path[..., 1] * following[..., 0]).sum(1)) / 2


def overlap_m2(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Overlap of every pair: (N,5), (M,5) -> (N,M) m2. Pairs too far apart to touch cost nothing."""
    reach = np.hypot(a[:, 2], a[:, 3])[:, None] / 2 + np.hypot(b[:, 2], b[:, 3]) / 2
    apart = np.hypot(a[:, 0, None] - b[:, 0], a[:, 1, None] - b[:, 1])
    rows, columns = np.nonzero(apart < reach)
    overlap = np.zeros((len(a), len(b)))
    overlap[rows, columns] = paired_overlap_m2(a[rows], b[columns])
    return overlap


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union: (N,5), (M,5) -> (N,M), 0..1."""
    return _over_union(overlap_m2(a, b), a[:, 2] * a[:, 3], b[:, 2] * b[:, 3])


def iou_3d(a: np.ndarray, a_z: np.ndarray, b: np.ndarray, b_z: np.ndarray) -> np.ndarray:
    """Intersection over union of the volumes over rectangles (N,5), (M,5) from bottom to top: z (N,2), (M,2) in metres
    -> (N,M), 0..1."""
    height = np.minimum(a_z[:, None, 1], b_z[:, 1]) - np.maximum(a_z[:, None, 0], b_z[:, 0])
    volume_a, volume_b = (r[:, 2] * r[:, 3] * (z[:, 1] - z[:, 0]) for r, z in ((a, a_z), (b, b_z)))
    return _over_union(overlap_m2(a, b) * height.clip(min=0), volume_a, volume_b)


def _over_union(overlap: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    union = a[:, None] + b - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0).clip(max=1)


def nms(rectangles: np.ndarray, scores: ArrayLike, above: float, *, pre: int = 4096, post: int = 500) -> np.ndarray:
    """Greedy NMS: (N,5), (N,) -> indices kept, best score first, int64.

    A rectangle falls to a better one whose IoU with it is above `above`; of equal scores the earlier counts
    as better. Only the `pre` best enter and at most `post` leave. Each one kept is compared with those still alive: no
    table of all pairs is made.
    """
    alive, kept = np.argsort(-np.asarray(scores, np.float64), kind="stable")[:pre], []
    while len(alive) and len(kept) < post:
        best, rest = alive[0], alive[1:]
        kept.append(best)
        alive = rest[iou(rectangles[rest], rectangles[best : best + 1])[:, 0] <= above]
    return np.array(kept, np.int64)
