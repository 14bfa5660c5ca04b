"""Scores of a detector on a set of pairs, under any weights of its images: what a bootstrap over scenes needs.

    judged = matched(truth, detections)
    judged.miss_rate(weights), judged.ap(weights)          # weights (N,): how often each image counts

Detections are matched once; a draw only weighs images anew. With all weights 1 the values are those of `kaist_mr`
(protocol matlab, subset reasonable) and of pycocotools. Scenes are drawn, not images: images of a street are alike.
"""

# N images, D detections, G boxes, T overlap thresholds, S seeds, R draws, K persons

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared.metrics import PairedDifference

from .evaluation.kaist_files import Detections, Truth
from .evaluation.kaist_mr import log_average, match

LEVEL = 0.95
RECALLS = np.linspace(0, 1, 101)
RULE = "reasonable"
TAU = 0.07  # of features without a temperature of their own


@dataclass(frozen=True, eq=False)
class Matched:
    """What became of every detection, all of falling score.

    Miss rate: mr_image (D,) its image, mr_hit and mr_false (D,) bool; mr_persons (N,) persons that count in an image.
    AP: ap_image (E,), ap_hit and ap_false (T,E) bool; ap_persons (N,).
    """

    mr_image: np.ndarray
    mr_hit: np.ndarray
    mr_false: np.ndarray
    mr_persons: np.ndarray
    ap_image: np.ndarray
    ap_hit: np.ndarray
    ap_false: np.ndarray
    ap_persons: np.ndarray

    @property
    def images(self) -> int:
        return len(self.mr_persons)

    def miss_rate(self, weights: np.ndarray | None = None) -> float:
        """Log-average miss rate in percent; nan when no person is drawn. weights (N,)."""
        weights = np.ones(self.images) if weights is None else weights
        persons = float(weights @ self.mr_persons)
        if not persons:
            return math.nan
        counted = weights[self.mr_image]
        fppi, recall = np.cumsum(counted * self.mr_false) / weights.sum(), np.cumsum(counted * self.mr_hit) / persons
        kept = (self.mr_hit | self.mr_false) & (counted > 0)
        return 100 * log_average(fppi[kept], recall[kept], "matlab")

    def ap_by_overlap(self, weights: np.ndarray | None = None) -> np.ndarray:
        """(T,) COCO average precision at every overlap threshold, 0..1; nan when no person is drawn."""
        weights = np.ones(self.images) if weights is None else weights
        persons = float(weights @ self.ap_persons)
        if not persons:
            return np.full(len(self.ap_hit), math.nan)
        counted = weights[self.ap_image]
        hits, misses = np.cumsum(counted * self.ap_hit, 1), np.cumsum(counted * self.ap_false, 1)
        precision = hits / np.maximum(hits + misses, np.spacing(1))
        best_from_here = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        return np.array([_at_recalls(h / persons, p) for h, p in zip(hits, best_from_here, strict=True)])

    def ap50(self, weights: np.ndarray | None = None) -> float:
        """COCO AP at overlap 0.5, percent."""
        return 100 * float(self.ap_by_overlap(weights)[0])

    def ap(self, weights: np.ndarray | None = None) -> float:
        """COCO AP, mean over overlaps 0.50:0.05:0.95, percent."""
        return 100 * float(self.ap_by_overlap(weights).mean())


def _at_recalls(recall: np.ndarray, precision: np.ndarray) -> float:
    place = np.searchsorted(recall, RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(place, len(precision))].mean())  # 0 where it is not reached


def matched(truth: Truth, detections: Detections) -> Matched:
    """Match detections under both rules. Needs pycocotools and mmdet (for COCO's matching)."""
    found = match(truth, detections, (RULE,))
    order = np.argsort(-found.scores, kind="stable")
    hit, dropped = found.matched[0][order], found.dropped[0][order]
    count = len(truth.image_ids)
    persons = np.bincount(truth.image_index[found.persons[0]], minlength=count)
    return Matched(found.image_index[order], hit, ~hit & ~dropped, persons, *_coco(truth, detections, count))


def _coco(truth: Truth, detections: Detections, count: int) -> tuple[np.ndarray, ...]:
    """(image (E,), hit (T,E), false (T,E), persons (N,)) by pycocotools' own matching."""
    import contextlib
    import io

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    from .evaluation.pair_metrics import MAX_DETECTIONS, coco_truth

    rows = np.column_stack([detections.image_index, detections.boxes_xywh_px, detections.scores,
                            np.zeros(len(detections.scores))])  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = coco_truth(truth, np.zeros(len(truth.boxes_xywh_px), np.int64), ("person",))
        coco.createIndex()
        found = coco.loadRes(rows) if len(rows) else None
        if found is None:
            none = np.zeros((10, 0), bool)
            return np.zeros(0, np.int64), none, none, np.bincount(truth.image_index[~truth.ignore], minlength=count)
        judge = COCOeval(coco, found, "bbox")
        judge.params.areaRng, judge.params.areaRngLbl = [judge.params.areaRng[0]], ["all"]
        judge.params.maxDets = [MAX_DETECTIONS]
        judge.evaluate()
    parts = [one for one in judge.evalImgs if one is not None]
    image = np.concatenate([np.full(len(one["dtScores"]), one["image_id"]) for one in parts])
    scores = np.concatenate([one["dtScores"] for one in parts])
    flags = ("dtMatches", "dtIgnore")
    taken, ignored = (np.concatenate([np.asarray(one[key], bool) for one in parts], 1) for key in flags)
    persons = np.zeros(count, np.int64)
    for one in parts:
        persons[one["image_id"]] = int((np.asarray(one["gtIgnore"]) == 0).sum())
    order = np.argsort(-scores, kind="stable")
    return image[order].astype(np.int64), (taken & ~ignored)[:, order], (~taken & ~ignored)[:, order], persons


# --- alignment --------------------------------------------------------------------------------------------------------


def found_first(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """(K,) mean over both directions of: is the own partner nearest? Rows (K,D). Chance is 1 / K."""
    from .evaluation.alignment import partner_found, unit_rows

    cosines = unit_rows(visible) @ unit_rows(infrared).T
    return (partner_found(cosines, 1) + partner_found(cosines.T, 1)) / 2


def contrast_nats(visible: np.ndarray, infrared: np.ndarray, tau: float = TAU) -> float:
    """Contrastive loss of K pairs, both directions, in nats. Embeddings that know nothing give ln K."""
    from .evaluation.alignment import unit_rows

    logits = unit_rows(visible) @ unit_rows(infrared).T / tau
    return float(np.mean([_cross_entropy(logits), _cross_entropy(logits.T)]))


def _cross_entropy(logits: np.ndarray) -> float:
    top = logits.max(1, keepdims=True)
    total = top[:, 0] + np.log(np.exp(logits - top).sum(1))
    return float((total - np.diag(logits)).mean())


# --- intervals --------------------------------------------------------------------------------------------------------


def scene_weights(scenes: Sequence[Any], draws: int, seed: int = 0) -> np.ndarray:
    """(R,N): how often each image counts when whole scenes are drawn with replacement. scenes: (N,) labels."""
    names, place = np.unique(np.asarray(scenes), return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    return drawn[:, place].astype(float)


Score = Callable[[Any, np.ndarray | None], float]


@dataclass(frozen=True)
class Summary:
    """A score: mean over seeds, 95 % interval (nan without one), value of each seed."""

    mean: float
    low: float
    high: float
    per_seed: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        return {name: _plain(value) for name, value in vars(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value if math.isfinite(value) else None


def summary(judged: Sequence[Any], score: Score, weights: np.ndarray) -> Summary:
    """Of one arm: judged (S,) by seed; the same draws of scenes for every seed."""
    values = tuple(float(score(one, None)) for one in judged)
    drawn = np.array([[score(one, row) for one in judged] for row in weights]).mean(1)
    return Summary(float(np.mean(values)), *_interval(drawn), values)


def difference(treated: Sequence[Any], control: Sequence[Any], score: Score, weights: np.ndarray) -> PairedDifference:
    """treated minus control under the same seeds, scenes drawn jointly for all."""
    pairs = list(zip(treated, control, strict=True))
    values = tuple(float(score(a, None) - score(b, None)) for a, b in pairs)
    drawn = np.array([[score(a, row) - score(b, row) for a, b in pairs] for row in weights]).mean(1)
    return PairedDifference(float(np.mean(values)), *_interval(drawn), values)


def _interval(drawn: np.ndarray) -> tuple[float, float]:
    finite = drawn[np.isfinite(drawn)]
    if len(finite) < 2 or np.ptp(finite) == 0:
        return math.nan, math.nan
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
