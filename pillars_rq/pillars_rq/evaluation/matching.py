"""KITTI's greedy matching, for all frames and all score thresholds at once.

Within a frame the protocol goes through the labelled objects in the order of the file, and each takes a detection that
is still free. Frames do not touch each other, so the r-th objects of all frames choose in one step. An object only
ever chooses among the few detections that overlap it enough, so a step works on (objects, candidates, thresholds).
"""

# G objects, D detections, C candidates of an object (padded), T thresholds, R objects of one step

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .overlaps import Pairs


@dataclass(frozen=True, eq=False)
class Candidates:
    """Objects that overlap some detection, with those detections.

    gt: (M,) places of the objects, those of one frame in the order of the file; rank (M,): the how manieth of its
    frame; det (M,C): places of the detections in ascending order, D where there is none; iou (M,C), -1 where none.
    """

    gt: np.ndarray
    rank: np.ndarray
    det: np.ndarray
    iou: np.ndarray

    def steps(self) -> Iterator[np.ndarray]:
        """Rows of the objects that choose at the same time: no two of one frame."""
        order = np.argsort(self.rank, kind="stable")
        bounds = np.searchsorted(self.rank[order], np.arange(self.rank.max(initial=-1) + 2))
        for start, end in pairwise(bounds):
            yield order[start:end]


@dataclass(frozen=True, eq=False)
class Matches:
    """det (M,T): the detection an object took at a threshold, D for none; taken (D,T): detections that were taken."""

    det: np.ndarray
    taken: np.ndarray


def candidates(pairs: Pairs, frame_of_gt: np.ndarray, detections: int) -> Candidates:
    """Pairs (ordered by object, then detection) as padded rows, one for each object that occurs."""
    gt, first, count = np.unique(pairs.gt, return_index=True, return_counts=True)
    row = np.repeat(np.arange(len(gt)), count)
    column = np.arange(len(pairs.gt)) - np.repeat(first, count)
    shape = (len(gt), int(count.max(initial=1)))
    det, iou = np.full(shape, detections), np.full(shape, -1.0)
    det[row, column], iou[row, column] = pairs.det, pairs.iou
    frames = frame_of_gt[gt]
    rank = np.arange(len(gt)) - np.searchsorted(frames, frames, "left")
    return Candidates(gt, rank, det, iou)


def match_by_score(found: Candidates, scores: np.ndarray) -> Matches:
    """Pass 1: each object takes the free detection of highest score (the first of equals). T = 1."""
    padded = np.append(scores, -np.inf)
    taken = np.zeros((len(scores) + 1, 1), bool)
    chosen = np.full((len(found.gt), 1), len(scores))
    for rows in found.steps():
        det = found.det[rows]
        value = np.where(taken[det, 0], -np.inf, padded[det])
        best = value.argmax(1)
        some = value[np.arange(len(rows)), best] > -np.inf
        chosen[rows, 0] = np.where(some, det[np.arange(len(rows)), best], len(scores))
        taken[chosen[rows, 0]] = True
        taken[-1] = False
    return Matches(chosen, taken[:-1])


def match_by_overlap(found: Candidates, scores: np.ndarray, ignored: np.ndarray, thresholds: np.ndarray) -> Matches:
    """Pass 2, at every threshold: the free detection of highest overlap, the first of equals.

    Ignored detections (D,) are taken, the first of them, only where no other one is to be had.
    """
    none = len(scores)
    score, passed_over = np.append(scores, -np.inf), np.append(ignored, False)
    taken = np.zeros((none + 1, len(thresholds)), bool)
    chosen = np.full((len(found.gt), len(thresholds)), none)
    columns = np.arange(len(thresholds))
    for rows in found.steps():
        det = found.det[rows]  # (R,C)
        usable = (score[det][:, :, None] >= thresholds) & ~taken[det]  # (R,C,T)
        value = np.where(passed_over[det], 0.0, 1.0 + found.iou[rows])[:, :, None]
        best = np.where(usable, value, -1.0).argmax(1)  # (R,T)
        picked = np.take_along_axis(det, best, 1)
        picked[~usable.any(1)] = none
        chosen[rows] = picked
        taken[picked, columns] = True
        taken[-1] = False
    return Matches(chosen, taken[:-1])
