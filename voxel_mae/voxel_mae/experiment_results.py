"""What a comparison found: scores by arm, budget and seed, and the sentences that may be said about them.

Nothing here knows how the scores came about; tests plant an effect, or none, and read the words. A difference is mAP
minus mAP on the same frames under the same seeds, in points (100 x), so above 0 is better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from shared.json_files import finite
from shared.metrics import PairedDifference

from .experiment_intervals import Judged, interval, paired
from .experiment_plan import Comparison, Plan

POINTS = 100.0


@dataclass(frozen=True)
class Findings:
    """judged: {(arm, budget): by seed}; pretrained: {pretraining: held-out means by seed}; equality: see Bench."""

    plan: Plan
    mark: str
    fingerprint: str
    judged: Mapping[tuple[str, str], Sequence[Judged]]
    pretrained: Mapping[str, Sequence[Mapping[str, float]]]
    equality: Mapping[str, Any]

    def difference(self, one: Comparison) -> PairedDifference:
        """In points of mAP."""
        found = paired(*(self.judged[side] for side in one.sides))
        scaled = tuple(POINTS * value for value in found.per_seed)
        return PairedDifference(POINTS * found.mean, POINTS * found.low, POINTS * found.high, scaled)


# --- words ------------------------------------------------------------------------------------------------------------


def includes_zero(found: PairedDifference) -> bool:
    """Also where there is no interval at all (a single sequence): then nothing is shown."""
    return not (found.low > 0 or found.high < 0)


def in_words(question: str, arm: str, against: str, found: PairedDifference) -> str:
    """One sentence: the question, what is shown, the numbers."""
    seeds = len(found.per_seed)
    numbers = f"{found.mean:+.1f} points of mAP, 95 % interval [{found.low:+.1f}, {found.high:+.1f}], {seeds} seed"
    numbers += "s" if seeds != 1 else ""
    if includes_zero(found):
        return f"{question} Not shown: {arm} against {against} {numbers}; the interval includes 0."
    word = "better" if found.mean > 0 else "WORSE"
    if not found.one_sign:
        return f"{question} No claim: {arm} is {word} than {against} ({numbers}), but its seeds disagree in sign."
    claim = "" if found.headline else " Fewer than five seeds: an indication, not a headline."
    return f"{question} {arm} is {word} than {against}: {numbers}, every seed of one sign.{claim}"


def equality_in_words(found: Mapping[str, Any]) -> str:
    hashes = found["sha256"]
    if found["equal"]:
        digest = next(iter(hashes.values()))[:16]
        return (f"Phase 1 at weight 0 IS plain R-MAE: after {found['steps']} steps the student's weights and buffers "
                f"have one hash ({digest}...), so they share an arm.")  # fmt: skip
    listed = ", ".join(f"{name} {value[:16]}..." for name, value in hashes.items())
    return f"Phase 1 at weight 0 is NOT plain R-MAE: after {found['steps']} steps the students differ ({listed})."


def occupancy_in_words(title: str, means: Sequence[Mapping[str, float]]) -> str:
    """The held-out occupancy loss above the constant predictor's entropy; below 0 something was learnt."""
    excess = float(np.mean([one["occupancy_excess"] for one in means]))
    entropy = float(np.mean([one["occupancy_entropy"] for one in means]))
    verdict = "below" if excess < 0 else "NOT below"
    return (f"{title}: held-out occupancy loss {entropy + excess:.3f}, {verdict} the constant predictor's entropy "
            f"{entropy:.3f} ({excess:+.3f}).")  # fmt: skip


def sentences(found: Findings) -> list[str]:
    """The verdict: the plan's questions in their order, then the proof of equality and the pretrainings."""
    plan = found.plan
    lines = [in_words(one.question, *plan.titles(one), found.difference(one)) for one in plan.comparisons.values()]
    lines.append(equality_in_words(found.equality))
    return lines + [occupancy_in_words(plan.pretrainings[name].title, means)
                    for name, means in found.pretrained.items() if "occupancy_excess" in means[0]]  # fmt: skip


# --- JSON -------------------------------------------------------------------------------------------------------------


def as_json(found: Findings) -> dict[str, Any]:
    """Every number of the comparison, JSON data; NaN becomes null."""
    plan, first = found.plan, next(iter(found.judged.values()))[0]
    scores = {f"{arm}, {budget}": _summary(judged) for (arm, budget), judged in found.judged.items()}
    differences = {}
    for name, one in plan.comparisons.items():
        difference = found.difference(one)
        differences[name] = {**asdict(difference), "per_seed": list(difference.per_seed), "question": one.question}
    return finite({
        "mark": found.mark,
        "data_fingerprint": found.fingerprint,
        "metric": f"mAP R40, {plan.metric}, IoU {plan.iou}",
        "frames": len(first.frame_ids),
        "seeds": list(plan.seeds),
        "plan": plan.model_dump(mode="json"),
        "verdict": sentences(found),
        "scores_points": scores,
        "differences_points": differences,
        "pretrained": {name: {key: float(np.mean([one[key] for one in means])) for key in means[0]}
                       for name, means in found.pretrained.items()},
        "equality": found.equality,
    })  # fmt: skip


def _summary(judged: Sequence[Judged]) -> dict[str, Any]:
    low, high = interval(judged)
    mean = lambda parts: {key: POINTS * float(np.mean([one[key] for one in parts])) for key in parts[0]}  # noqa: E731
    return {
        "mean": POINTS * float(np.mean([one.mean_ap for one in judged])),
        "low": POINTS * low,
        "high": POINTS * high,
        "by_seed": [POINTS * one.mean_ap for one in judged],
        "by_class": mean([one.by_class for one in judged]),
        "by_band": mean([one.by_band for one in judged]),
    }
