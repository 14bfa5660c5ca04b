"""Which detections overlap which labelled objects, for all frames at once: the pairs of a frame that touch at all.

A pair list replaces the tables of frame by frame loops: of a frame's objects and detections only neighbours make a
pair, and one vectorised call measures the pairs of all frames.
"""

# F frames, G objects and D detections of all frames, K pairs

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pillars_rq.boxes import paired_bev_overlap_m2
from pillars_rq.kitti.calibration import nominal_boxes
from pillars_rq.kitti.labels import Annotations

METRICS = ("2d", "bev", "3d")


@dataclass(frozen=True, eq=False)
class Flat:
    """The rows of all frames in one: columns of N rows, the frame of each row, and N + 1 == starts[-1] + 1 bounds."""

    columns: Annotations
    frame: np.ndarray
    boxes: np.ndarray  # (N,7) the camera's boxes, axes exchanged


@dataclass(frozen=True, eq=False)
class Pairs:
    """gt, det: places (K,) in the flat lists, ordered by gt and then det; iou (K,) 0..1."""

    gt: np.ndarray
    det: np.ndarray
    iou: np.ndarray

    def above(self, least: float, gts: np.ndarray, dets: np.ndarray) -> "Pairs":
        """Pairs that overlap by more than `least`, of the objects and detections in the masks."""
        kept = (self.iou > least) & gts[self.gt] & dets[self.det]
        return Pairs(self.gt[kept], self.det[kept], self.iou[kept])


def flatten(frames: Sequence[Annotations]) -> Flat:
    columns = Annotations(
        **{name: np.concatenate([np.asarray(getattr(a, name)) for a in (*frames, Annotations.empty())])
           for name in Annotations.empty().as_json()}
    )  # fmt: skip
    frame = np.repeat(np.arange(len(frames)), [len(found) for found in frames]).astype(np.int64)
    return Flat(columns, frame, nominal_boxes(columns.location, columns.dimensions, columns.rotation_y))


def same_frame(gts: np.ndarray, dets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All (gt, det) of the same frame, ordered by gt, then det; frames (G,), (D,) ascending."""
    first = np.searchsorted(dets, gts, "left")
    count = np.searchsorted(dets, gts, "right") - first
    gt = np.repeat(np.arange(len(gts)), count)
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return gt, np.repeat(first, count) + within


def image_intersection_px2(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection of a[k] and b[k]: x1, y1, x2, y2 (K,4), (K,4) -> (K,)."""
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    return sides.clip(min=0).prod(1)


def areas_px2(boxes: np.ndarray) -> np.ndarray:
    """x1, y1, x2, y2 (N,4) -> (N,)."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def overlapping(gts: Flat, dets: Flat, metric: str) -> Pairs:
    """Pairs of one frame with an overlap above 0: in the image ("2d"), seen from above ("bev"), or of volumes."""
    gt, det = same_frame(gts.frame, dets.frame)
    measure = _image_iou if metric == "2d" else _ground_iou
    gt, det, iou = measure(gts, dets, gt, det, metric)
    touching = iou > 0
    return Pairs(gt[touching], det[touching], iou[touching])


def _image_iou(gts: Flat, dets: Flat, gt: np.ndarray, det: np.ndarray, _: str):
    a, b = gts.columns.bbox[gt], dets.columns.bbox[det]
    shared = image_intersection_px2(a, b)
    return gt, det, _ratio(shared, areas_px2(a) + areas_px2(b) - shared)


def _ground_iou(gts: Flat, dets: Flat, gt: np.ndarray, det: np.ndarray, metric: str):
    reach = [np.hypot(flat.boxes[:, 3], flat.boxes[:, 4]) / 2 for flat in (gts, dets)]
    apart = np.hypot(*(gts.boxes[gt, axis] - dets.boxes[det, axis] for axis in (0, 1)))
    near = apart < reach[0][gt] + reach[1][det]
    gt, det = gt[near], det[near]
    a, b = gts.boxes[gt], dets.boxes[det]
    shared = paired_bev_overlap_m2(a, b)
    if metric == "bev":
        return gt, det, _ratio(shared, a[:, 3] * a[:, 4] + b[:, 3] * b[:, 4] - shared)
    top, bottom = np.minimum(a[:, 2] + a[:, 5], b[:, 2] + b[:, 5]), np.maximum(a[:, 2], b[:, 2])
    shared = shared * (top - bottom).clip(min=0)
    return gt, det, _ratio(shared, a[:, 3:6].prod(1) + b[:, 3:6].prod(1) - shared)


def _ratio(shared: np.ndarray, union: np.ndarray) -> np.ndarray:
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
