"""Average precision of boxes, per class, by rotated 3D and bird's-eye IoU, also by range from the sensor (A18).

    judged = Evaluation(frames, ("dumptruck", "excavator"), iou={"dumptruck": 0.7, "excavator": 0.5})
    result = judged.ap()
    result["R40"]["3d"]["dumptruck"]["all"]      # 0..1; NaN where there is no object to find
    result["R40"]["3d"]["mAP"]["30-70.4"]        # mean over the classes that have objects in the band

In each frame the detections of a class choose in order of score; each takes the free object of its class that it
overlaps most, if by at least the class's IoU. Precision is made monotone from the right and read at the recalls
1/40..40/40 (R40) or 0, .1..1 (R11). Detections of one score count together: the order of frames changes nothing.

In a range band, the objects whose centre lies in it are to be found; a detection that took an object elsewhere counts
neither way, one that took none is false where it lies itself.

This is not KITTI's protocol: classes never ignore each other. `as_kitti` gives KITTI's names and its neighbours (no
miss and no false alarm: Van for Car), as OpenPCDet's MAP_CLASS_TO_KITTI has it; without a camera there is one
difficulty only.
"""

# D detections, G objects of a frame; N detections of all frames; K recall points

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from shared.errors import ConfigError, DataError

from .boxes import bev_iou, iou_3d

OVERLAPS = {"3d": iou_3d, "bev": bev_iou}
RECALLS = {"R40": np.arange(1, 41) / 40, "R11": np.arange(11) / 10}
BANDS_M = ((0.0, 10.0), (10.0, 30.0), (30.0, 70.4))
ALL, MEAN = "all", "mAP"
KITTI_NEIGHBOURS = {"Car": ("Van",), "Pedestrian": ("Person_sitting",)}
FREE, NEITHER = -1, -2  # what a detection took: no object; one that counts neither way

Scores = dict[str, dict[str, dict[str, dict[str, float]]]]


@dataclass(frozen=True)
class JudgedFrame:
    """One frame's truth and answer: boxes (G,7) and (D,7) as in boxes.py, labels from 1, scores 0..1.

    sensor_xy_m: where the sensor stands, for the range bands.
    """

    frame_id: str
    gt_boxes: np.ndarray
    gt_labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    sensor_xy_m: tuple[float, float] = (0.0, 0.0)


class _Found(NamedTuple):
    """All detections of one class and metric: score (N,), frame (N,), the object each took (N,: its place among all
    objects of the class, FREE or NEITHER), its own distance from the sensor (N,)."""

    score: np.ndarray
    frame: np.ndarray
    took: np.ndarray
    distance_m: np.ndarray


class _Objects(NamedTuple):
    frame: np.ndarray
    distance_m: np.ndarray


class Evaluation:
    """Frames matched once; `ap` may then be asked for any weights of the frames (bootstrap)."""

    def __init__(
        self,
        frames: Sequence[JudgedFrame],
        classes: Sequence[str],
        *,
        iou: Mapping[str, float],
        metrics: Sequence[str] = ("3d", "bev"),
        bands_m: Sequence[tuple[float, float]] = BANDS_M,
        neighbours: Mapping[str, Sequence[str]] | None = None,
    ):
        """iou: least overlap of each class. neighbours: class -> classes whose objects count neither way.

        Raises:
            ConfigError: a class without IoU, an IoU outside (0, 1], an unknown metric.
            DataError: boxes, scores or labels that are not finite, in range or of equal number.
        """
        self.frames, self.classes, self.metrics = list(frames), tuple(classes), tuple(metrics)
        self.bands = {ALL: (0.0, np.inf)} | {f"{low:g}-{high:g}": (low, high) for low, high in bands_m}
        self.iou = dict(iou)
        _check_settings(self.classes, self.iou, self.metrics)
        for frame in self.frames:
            _check_frame(frame, len(self.classes))
        neighbours = neighbours or {}
        aside = [[self.classes.index(other) + 1 for other in neighbours.get(name, ())] for name in self.classes]
        self._objects = [_objects(self.frames, label) for label in self._labels]
        self._found = {
            (metric, label): _found(self.frames, metric, label, self.iou[name], aside[label - 1])
            for metric in self.metrics
            for label, name in zip(self._labels, self.classes, strict=True)
        }

    @property
    def _labels(self) -> range:
        return range(1, len(self.classes) + 1)

    def ap(self, weights: np.ndarray | None = None) -> Scores:
        """{R40, R11} -> metric -> class or "mAP" -> "all" or band -> AP in 0..1, NaN without objects.

        weights: (frames,) whole numbers, how often each frame counts; default once.
        """
        weights = np.ones(len(self.frames), np.int64) if weights is None else np.asarray(weights)
        if weights.shape != (len(self.frames),) or (weights < 0).any():
            raise ValueError(f"weights of shape {weights.shape}: {len(self.frames)} numbers of at least 0 are needed")
        result: Scores = {recall: {metric: {} for metric in self.metrics} for recall in RECALLS}
        for (metric, label), found in self._found.items():
            curves = {name: self._curve(found, label, band, weights) for name, band in self.bands.items()}
            for recall, points in RECALLS.items():
                by_band = {name: average_precision(*curve, points) for name, curve in curves.items()}
                result[recall][metric][self.classes[label - 1]] = by_band
        for by_metric in result.values():
            for by_class in by_metric.values():
                by_class[MEAN] = {name: _mean([one[name] for one in by_class.values()]) for name in self.bands}
        return result

    def objects(self) -> dict[str, dict[str, int]]:
        """Class -> "all" or band -> number of objects to find."""
        return {
            name: {band: int(_within(objects.distance_m, limits).sum()) for band, limits in self.bands.items()}
            for name, objects in zip(self.classes, self._objects, strict=True)
        }

    def _curve(self, found: _Found, label: int, band: tuple[float, float], weights: np.ndarray):
        """Cumulated hits and false alarms at each score, best first, and the number of objects."""
        objects = self._objects[label - 1]
        wanted = _within(objects.distance_m, band)
        hit = np.append(wanted, [False, False])[found.took]  # FREE and NEITHER are the last two places
        false = (found.took == FREE) & _within(found.distance_m, band)
        by_detection = weights[found.frame]
        true, false = hit * by_detection, false * by_detection
        counts = (true + false) > 0
        order = np.argsort(-found.score[counts], kind="stable")
        score, true, false = found.score[counts][order], true[counts][order].cumsum(), false[counts][order].cumsum()
        last = np.append(score[1:] != score[:-1], True)[: len(score)]  # of detections with one score
        return true[last], false[last], int((weights[objects.frame] * wanted).sum())


def average_precision(true: np.ndarray, false: np.ndarray, objects: int, recalls: np.ndarray) -> float:
    """Mean over the recalls (K,) of the best precision at that recall or a larger one; 0 where it is not reached.

    true, false: (N,) cumulated counts at falling scores. NaN when there are no objects.
    """
    if not objects:
        return float("nan")
    precision = true / np.maximum(true + false, 1)
    precision = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    needed = np.ceil(recalls * objects - 1e-9)  # whole objects; 40/40 of them is all of them
    return float(precision[np.searchsorted(true, needed)].mean())


def recall_at(frames: Sequence[JudgedFrame], thresholds: Sequence[float]) -> dict[str, float]:
    """Share of all objects, whatever the class, that some detection overlaps in 3D by more than each threshold.

    OpenPCDet's RECALL_THRESH_LIST. NaN without objects.
    """
    best = [iou_3d(f.gt_boxes, f.boxes).max(1, initial=0.0) for f in frames if len(f.gt_boxes)]
    best = np.concatenate(best) if best else np.zeros(0)
    return {f"recall@{limit:g}": float((best > limit).mean()) if len(best) else float("nan") for limit in thresholds}


def as_kitti(
    frames: Sequence[JudgedFrame], classes: Sequence[str], mapping: Mapping[str, str]
) -> tuple[list[JudgedFrame], tuple[str, ...], dict[str, tuple[str, ...]]]:
    """The same frames under KITTI's names: frames, names, and which names count neither way for which.

    Raises ConfigError when a class is not mapped.
    """
    missing = [name for name in classes if name not in mapping]
    if missing:
        raise ConfigError(f"MAP_CLASS_TO_KITTI lacks {', '.join(missing)}: name a KITTI class for each.")
    names = tuple(dict.fromkeys(mapping[name] for name in classes))
    relabel = np.array([0] + [names.index(mapping[name]) + 1 for name in classes])
    renamed = [replace(f, gt_labels=relabel[f.gt_labels], labels=relabel[f.labels]) for f in frames]
    aside = {name: tuple(other for other in KITTI_NEIGHBOURS.get(name, ()) if other in names) for name in names}
    return renamed, names, aside


# --- matching ---------------------------------------------------------------------------------------------------------


def match(iou: np.ndarray, free: np.ndarray, least: float) -> np.ndarray:
    """Greedy choice: iou (D,G) with detections best first -> (D,) the object each takes, or FREE.

    free: (G,) bool, objects that may be taken; written to. Of equal overlaps the first object is taken.
    """
    took = np.full(len(iou), FREE)
    for d in np.nonzero((iou >= least).any(1))[0] if iou.size else ():
        overlap = np.where(free, iou[d], -1.0)
        best = int(overlap.argmax())
        if overlap[best] >= least:
            took[d], free[best] = best, False
    return took


def _found(frames: Sequence[JudgedFrame], metric: str, label: int, least: float, aside: Sequence[int]) -> _Found:
    parts, seen = [], 0
    for number, frame in enumerate(frames):
        own = np.nonzero(frame.labels == label)[0]
        own = own[np.argsort(-frame.scores[own], kind="stable")]
        wanted = frame.gt_boxes[frame.gt_labels == label]
        took = match(OVERLAPS[metric](frame.boxes[own], wanted), np.ones(len(wanted), bool), least)
        others = frame.gt_boxes[np.isin(frame.gt_labels, list(aside))]
        left = np.nonzero(took == FREE)[0]
        excused = match(OVERLAPS[metric](frame.boxes[own[left]], others), np.ones(len(others), bool), least) != FREE
        took = np.where(took >= 0, took + seen, took)
        took[left[excused]] = NEITHER
        seen += len(wanted)
        parts.append((frame.scores[own], np.full(len(own), number), took, _distance_m(frame.boxes[own], frame)))
    columns = zip(*parts, strict=True) if parts else [[np.zeros(0)]] * 4
    score, index, took, distance = (np.concatenate(column) for column in columns)
    return _Found(score, index.astype(np.int64), took.astype(np.int64), distance)


def _objects(frames: Sequence[JudgedFrame], label: int) -> _Objects:
    boxes = [frame.gt_boxes[frame.gt_labels == label] for frame in frames]
    index = np.repeat(np.arange(len(frames)), [len(part) for part in boxes])
    distance = [_distance_m(part, frame) for part, frame in zip(boxes, frames, strict=True)]
    return _Objects(index, np.concatenate([np.zeros(0), *distance]))


def _distance_m(boxes: np.ndarray, frame: JudgedFrame) -> np.ndarray:
    return np.hypot(boxes[:, 0] - frame.sensor_xy_m[0], boxes[:, 1] - frame.sensor_xy_m[1])


def _within(distance_m: np.ndarray, band: tuple[float, float]) -> np.ndarray:
    return (distance_m >= band[0]) & (distance_m < band[1])


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


# --- checks -----------------------------------------------------------------------------------------------------------


def _check_settings(classes: Sequence[str], iou: Mapping[str, float], metrics: Sequence[str]) -> None:
    missing = [name for name in classes if name not in iou]
    if missing:
        raise ConfigError(f"EVAL_IOU has no value for {', '.join(missing)}: give each class its least overlap.")
    wrong = {name: iou[name] for name in classes if not 0 < iou[name] <= 1}
    if wrong:
        raise ConfigError(f"EVAL_IOU {wrong}: an overlap lies in (0, 1].")
    unknown = [metric for metric in metrics if metric not in OVERLAPS]
    if unknown:
        raise ConfigError(f"evaluation metric {unknown[0]!r} is unknown: {', '.join(OVERLAPS)}.")


def _check_frame(frame: JudgedFrame, classes: int) -> None:
    sizes = len(frame.gt_boxes), len(frame.gt_labels), len(frame.boxes), len(frame.scores), len(frame.labels)
    if sizes[0] != sizes[1] or not sizes[2] == sizes[3] == sizes[4]:
        raise DataError(
            f"frame {frame.frame_id}: {sizes[0]} objects with {sizes[1]} labels, {sizes[2]} boxes with {sizes[3]} "
            f"scores and {sizes[4]} labels: one of each a box."
        )
    if not all(np.isfinite(part).all() for part in (frame.gt_boxes, frame.boxes, frame.scores)):
        raise DataError(f"frame {frame.frame_id}: a box or score is NaN or infinite; nothing can be matched with it.")
    for labels in (frame.gt_labels, frame.labels):
        if len(labels) and not (labels.min() >= 1 and labels.max() <= classes):
            raise DataError(f"frame {frame.frame_id}: labels {labels.min()}..{labels.max()}, they are 1..{classes}.")
