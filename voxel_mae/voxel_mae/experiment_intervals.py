"""How sure a mean average precision is: sequences of the validation split are drawn, jointly over seeds and arms.

Frames of one sequence show the same site, so a sequence is what is drawn with replacement; average precision is taken
anew under the frames' new weights (it is no mean over frames). A difference of two arms uses the same draws for both,
and the same seeds.
"""

# D draws, F frames, S seeds

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shared.errors import DataError
from shared.metrics import PairedDifference

from .data.splits import sequence_of
from .evaluation import ALL, MEAN, Evaluation

LEVEL = 0.95
RECALL = "R40"


@dataclass(frozen=True, eq=False)
class Judged:
    """One detector on the validation frames: mAP and AP by class (0..1), mAP by range band, number of objects, and the
    mAP of every draw (D,)."""

    frame_ids: tuple[str, ...]
    mean_ap: float
    by_class: Mapping[str, float]
    by_band: Mapping[str, float]
    draws: np.ndarray


def judge(found: Evaluation, metric: str, draws: int, seed: int = 0) -> Judged:
    """The scores of matched frames. found: with `metric` among its metrics. DataError without any object to find."""
    scores = found.ap()[RECALL][metric]
    if np.isnan(scores[MEAN][ALL]):
        raise DataError("the validation split has no labelled object: there is nothing to judge")
    frame_ids = tuple(frame.frame_id for frame in found.frames)
    weights = sequence_weights(frame_ids, draws, seed)
    bare = Evaluation(found.frames, found.classes, iou=found.iou, metrics=(metric,), bands_m=())
    return Judged(
        frame_ids,
        scores[MEAN][ALL],
        {name: scores[name][ALL] for name in found.classes},
        {band: value for band, value in scores[MEAN].items() if band != ALL},
        np.array([bare.ap(one)[RECALL][metric][MEAN][ALL] for one in weights]),
    )


def sequence_weights(frame_ids: Sequence[str], draws: int, seed: int = 0) -> np.ndarray:
    """(D,F) whole numbers: how often each frame counts when as many sequences are drawn as there are."""
    names, which = np.unique([sequence_of(one) for one in frame_ids], return_inverse=True)
    rng = np.random.default_rng(seed)
    return rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)[:, which]


def interval(judged: Sequence[Judged]) -> tuple[float, float]:
    """95 % percentile interval of the mean over seeds; (nan, nan) with a single sequence."""
    return _bounds(_stacked(judged).mean(0), judged[0].frame_ids)


def paired(treated: Sequence[Judged], control: Sequence[Judged]) -> PairedDifference:
    """Mean of treated - control over seeds, with its interval. DataError when they saw different frames."""
    if len(treated) != len(control):
        raise ValueError(f"{len(treated)} and {len(control)} seeds: the same seeds of both are needed")
    both = _stacked([*treated, *control])
    by_draw = (both[: len(treated)] - both[len(treated) :]).mean(0)
    by_seed = tuple(a.mean_ap - b.mean_ap for a, b in zip(treated, control, strict=True))
    low, high = _bounds(by_draw, treated[0].frame_ids)
    return PairedDifference(float(np.mean(by_seed)), low, high, by_seed)


def _stacked(judged: Sequence[Judged]) -> np.ndarray:
    if len({one.frame_ids for one in judged}) != 1:
        raise DataError("the detectors were judged on different frames: judge them on one split")
    return np.stack([one.draws for one in judged])


def _bounds(by_draw: np.ndarray, frame_ids: Sequence[str]) -> tuple[float, float]:
    if len({sequence_of(one) for one in frame_ids}) < 2:
        return float("nan"), float("nan")
    low, high = np.nanquantile(by_draw, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
