"""Average precision by KITTI's protocol, on the CPU, for all frames at once.

    ap = kitti_ap(ground_truths, detections, ("Pedestrian", "Cyclist", "Car"))
    ap["R40"]["3d"]["Car"]["moderate"]        # percent; "overall" is the mean over the classes

For each class, difficulty and metric: objects and detections are counted, ignored or left out; pass 1 collects the
scores of the true positives, which give up to 41 thresholds at equal steps of recall; pass 2 counts at each threshold;
precision is made monotone. R11 takes the recall points 0, 4, .., 40 and divides by 11; R40 takes the points 1..40.
AOS weights the true positives of the image metric by (1 + cos of the angle's error) / 2.

A perfect detector on g <= 41 counted objects reaches R11 = ceil(g/4)/11 and R40 = (g-1)/40, no more: the thresholds
are as many as the objects. A few frames give no meaningful AP.
"""

# G objects, D detections, T thresholds

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pillars_rq.kitti.labels import DIFFICULTIES, DONT_CARE, MIN_HEIGHT_PX, Annotations, harder_than, has_image_box
from shared.errors import ConfigError, DataError

from .matching import Candidates, candidates, match_by_overlap, match_by_score
from .overlaps import METRICS, Flat, Pairs, areas_px2, flatten, image_intersection_px2, overlapping, same_frame

MIN_IOU = {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5, "Van": 0.7, "Truck": 0.7, "Tram": 0.7}
NEIGHBOURS = {"Car": ("Van",), "Pedestrian": ("Person_sitting",)}  # neither hit nor miss
POINTS = 41  # recall points
RECALLS = ("R11", "R40")
OVERALL = "overall"

Result = dict[str, dict[str, dict[str, dict[str, float]]]]


def kitti_ap(
    ground_truths: Sequence[Annotations],
    detections: Sequence[Annotations],
    classes: Sequence[str],
    *,
    image: bool = True,
    metrics: Sequence[str] = METRICS,
    weights: np.ndarray | None = None,
) -> Result:
    """Average precision in percent: {R11, R40} -> metric -> class or "overall" -> {easy, moderate, hard}.

    Args:
        ground_truths: the labels of each frame, DontCare included (see KittiDataset.annotations).
        detections: the detections of the same frames in the same order; empty for a frame without any.
        image: whether the data have a camera. Without, "2d" and "aos" are left out, and the height of a detection in
            the image, which nobody knows, ignores none.
        metrics: some of 2d, bev, 3d; aos comes with 2d.
        weights: how often each frame counts (whole numbers; default once): for bootstrap over frames, use `Protocol`.

    Raises:
        ConfigError: unknown class or metric.
        DataError: other numbers of frames; scores or boxes that are not finite.
    """
    return Protocol(ground_truths, detections, classes, image=image, metrics=metrics).ap(weights)


class Protocol:
    """Labels and detections with their overlaps, measured once; `ap` may be asked for any weights of the frames."""

    def __init__(
        self,
        ground_truths: Sequence[Annotations],
        detections: Sequence[Annotations],
        classes: Sequence[str],
        *,
        image: bool = True,
        metrics: Sequence[str] = METRICS,
        difficulties: Sequence[str] = DIFFICULTIES,
    ):
        _check(ground_truths, detections, classes, metrics, difficulties)
        self.classes, self.frames, self.image = tuple(classes), len(ground_truths), image
        self.metrics = tuple(metric for metric in metrics if image or metric != "2d")
        self.difficulties = tuple(difficulties)
        self.gts, self.dets = flatten(ground_truths), flatten(detections)
        _check_finite(self.dets)
        self.pairs = {metric: overlapping(self.gts, self.dets, metric) for metric in self.metrics}
        self.stuff = _dont_care_share(self.gts, self.dets) if "2d" in self.metrics else np.zeros(len(self.dets.frame))
        self._cases = {
            (metric, name, level): self._case(metric, name, DIFFICULTIES.index(level))
            for metric in self.metrics
            for name in self.classes
            for level in self.difficulties
        }

    def ap(self, weights: np.ndarray | None = None) -> Result:
        """See `kitti_ap`. weights: (F,) whole numbers, at least 0."""
        weights = np.ones(self.frames, np.int64) if weights is None else np.asarray(weights, np.int64)
        if weights.shape != (self.frames,) or (weights < 0).any():
            raise ValueError(f"weights of shape {weights.shape}: {self.frames} whole numbers of at least 0 are needed")
        names = [*self.metrics, *(["aos"] if "2d" in self.metrics else [])]
        result: Result = {
            recall: {metric: {name: {} for name in self.classes} for metric in names} for recall in RECALLS
        }
        for (metric, name, level), case in self._cases.items():
            for curve, values in _curves(case, weights, aos=metric == "2d").items():
                metric_name = "aos" if curve == "aos" else metric
                result["R11"][metric_name][name][level] = float(100 * values[::4].sum() / 11)
                result["R40"][metric_name][name][level] = float(100 * values[1:].sum() / 40)
        for by_metric in result.values():
            for by_class in by_metric.values():
                by_class[OVERALL] = _mean(by_class)
        return result

    def _case(self, metric: str, name: str, level: int) -> "_Case":
        gts, dets = self.gts.columns, self.dets.columns
        own = gts.name == name
        counted = own & ~harder_than(gts, level)
        considered = own | np.isin(gts.name, NEIGHBOURS.get(name, ()))
        small = np.zeros(len(dets), bool)
        if self.image:
            height = np.abs(dets.bbox[:, 3] - dets.bbox[:, 1])
            small = has_image_box(dets) & (height < MIN_HEIGHT_PX[level])
        own_det = (dets.name == name) | small  # small ones are ignored whatever their class
        pairs = self.pairs[metric].above(MIN_IOU.get(name, 0.5), considered, own_det)
        # The detections that may be chosen are renumbered: everything below is as long as they are.
        kept = np.nonzero(own_det)[0]
        pairs = Pairs(pairs.gt, np.searchsorted(kept, pairs.det), pairs.iou)
        found = candidates(pairs, self.gts.frame, len(kept))
        delta = gts.alpha[found.gt][:, None] - np.append(dets.alpha[kept], 0.0)[found.det]
        return _Case(
            found=found,
            scores=dets.score[kept],
            ignored=small[kept],
            in_stuff=(metric == "2d") & (self.stuff[kept] > MIN_IOU.get(name, 0.5)),
            counted=counted[found.gt],
            gt_frame=self.gts.frame[found.gt],
            det_frame=self.dets.frame[kept],
            frames_of_counted=self.gts.frame[counted],
            similarity=(1 + np.cos(delta)) / 2,
            first=match_by_score(found, dets.score[kept]).det[:, 0],
        )


@dataclass(frozen=True, eq=False)
class _Case:
    """One class, difficulty and metric. D' are the detections of the class and the small ones, M the objects that
    overlap some of them; `similarity` (M,C) belongs to the candidates; `first` (M,) is the match of pass 1."""

    found: Candidates
    scores: np.ndarray
    ignored: np.ndarray
    in_stuff: np.ndarray
    counted: np.ndarray
    gt_frame: np.ndarray
    det_frame: np.ndarray
    frames_of_counted: np.ndarray
    similarity: np.ndarray
    first: np.ndarray

    def is_hit(self, chosen: np.ndarray) -> np.ndarray:
        """Whether objects (M,...) with these chosen detections are true positives."""
        proper = np.append(~self.ignored, False)[chosen]
        return proper & self.counted.reshape(-1, *[1] * (chosen.ndim - 1))


# --- curves -----------------------------------------------------------------------------------------------------------


def _curves(case: _Case, weights: np.ndarray, *, aos: bool) -> dict[str, np.ndarray]:
    """Monotone precision at the 41 recall points, and with `aos` the same of the orientation similarity."""
    total = int(weights[case.frames_of_counted].sum())
    hit = case.is_hit(case.first)
    scores = np.repeat(case.scores[case.first[hit]], weights[case.gt_frame[hit]])
    levels = thresholds(scores, total)
    curves = {"precision": np.zeros(POINTS)} | ({"aos": np.zeros(POINTS)} if aos else {})
    if not len(levels):
        return curves
    matches = match_by_overlap(case.found, case.scores, case.ignored, levels)
    hits = case.is_hit(matches.det)
    by_object = weights[case.gt_frame][:, None]
    true = (hits * by_object).sum(0)
    rest = (case.scores[:, None] >= levels) & ~matches.taken & ~(case.ignored | case.in_stuff)[:, None]
    positives = true + (rest * weights[case.det_frame][:, None]).sum(0)
    curves["precision"][: len(levels)] = _monotone(_share(true, positives))
    if aos:
        similarity = (hits * by_object * _similarity(case, matches.det)).sum(0)
        curves["aos"][: len(levels)] = _monotone(_share(similarity, positives))
    return curves


def thresholds(scores: np.ndarray, total: int) -> np.ndarray:
    """Up to 41 scores at which recall comes closest to 0, 1/40, .., 1 of `total` objects; descending.

    The i-th best score stands for recall i/total and is passed over while the next one is nearer to the wanted recall.
    """
    scores = np.sort(scores)[::-1]
    chosen: list[float] = []
    wanted = 0.0
    for i, score in enumerate(scores):
        left, right = (i + 1) / total, (i + 2) / total
        if i < len(scores) - 1 and right - wanted < wanted - left:
            continue
        chosen.append(score)
        wanted += 1 / (POINTS - 1)
    return np.array(chosen[:POINTS])


def _similarity(case: _Case, chosen: np.ndarray) -> np.ndarray:
    """(M,T) the similarity of each object with the detection it took; 0 for none."""
    place = (case.found.det[:, :, None] == chosen[:, None, :]).argmax(1)
    return np.where(chosen == len(case.scores), 0.0, np.take_along_axis(case.similarity, place, 1))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def _monotone(values: np.ndarray) -> np.ndarray:
    """Each value raised to the largest that follows it."""
    return np.maximum.accumulate(values[::-1])[::-1]


def _mean(by_class: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    levels = next(iter(by_class.values()))
    return {level: float(np.mean([values[level] for values in by_class.values()])) for level in levels}


def _dont_care_share(gts: Flat, dets: Flat) -> np.ndarray:
    """(D,) the largest share of a detection's 2D box that lies in one DontCare region of its frame."""
    regions = np.nonzero(gts.columns.name == DONT_CARE)[0]
    region, det = same_frame(gts.frame[regions], dets.frame)
    boxes = dets.columns.bbox[det]
    area = areas_px2(boxes)
    shared = image_intersection_px2(gts.columns.bbox[regions[region]], boxes)
    share = np.zeros(len(dets.frame))
    np.maximum.at(share, det, np.divide(shared, area, out=np.zeros_like(shared), where=area > 0))
    return share


# --- checks -----------------------------------------------------------------------------------------------------------


def _check(ground_truths, detections, classes, metrics, difficulties) -> None:
    if len(ground_truths) != len(detections):
        raise DataError(
            f"{len(ground_truths)} labelled frames and {len(detections)} of detections: one of each a frame."
        )
    for what, given, known in (("metric", metrics, METRICS), ("difficulty", difficulties, DIFFICULTIES)):
        strange = [name for name in given if name not in known]
        if strange:
            raise ConfigError(f"no {what} {strange[0]!r}: it is one of {', '.join(known)}.")
    if not classes or len(set(classes)) < len(classes) or {OVERALL, DONT_CARE} & set(classes):
        raise ConfigError(f"classes {list(classes)}: name at least one of KITTI's, and each once.")


def _check_finite(dets: Flat) -> None:
    finite = np.isfinite(dets.columns.score) & np.isfinite(dets.boxes).all(1)
    if not finite.all():
        frame = int(dets.frame[(~finite).argmax()])
        raise DataError(
            f"{(~finite).sum()} detections have a score or box that is not finite, the first in frame number {frame}: "
            "look at the detector's outputs."
        )
