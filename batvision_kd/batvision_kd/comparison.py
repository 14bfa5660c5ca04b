"""From tables of scores to what may be said: paired differences, the order of the gains, and a verdict in words.

A difference is always error minus error of audio alone on the same images under the same seeds, so below 0 is better.
Nothing here knows how the scores came about; tests plant an effect, or none, and read the words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from shared.metrics import PairedDifference

from .evaluation import ImageTable, stacked
from .intervals import interval, paired

Tables = Sequence[ImageTable]  # one for each seed


@dataclass(frozen=True)
class Question:
    """What the comparison is about; fixed before the test split is looked at."""

    chosen: str
    metric: str = "rmse"
    protocol: str = "strict"


@dataclass(frozen=True)
class Gains:
    """gain = error of audio alone - error of the arm; above 0 is better."""

    gain1: PairedDifference  # depth
    gain2: PairedDifference  # depth and features
    gap: PairedDifference  # gain2 - gain1


def difference(treated: Tables, control: Tables, question: Question) -> PairedDifference:
    """treated - control on the same images, paired over seeds. DataError when their images differ."""
    stack = stacked([*treated, *control], question.protocol, question.metric)
    counted, scenes = treated[0].counted(question.protocol), treated[0].scenes
    return paired(stack[: len(treated)], stack[len(treated) :], counted, scenes)


def summary(tables: Tables, question: Question) -> dict[str, Any]:
    """Means over seeds of every metric, the chosen metric by seed, and its interval (JSON data)."""
    by_seed = [table.means(question.protocol) for table in tables]
    stack = stacked(tables, question.protocol, question.metric)
    low, high = interval(stack, tables[0].counted(question.protocol), tables[0].scenes)
    means = {name: sum(row[name] for row in by_seed) / len(by_seed) for name in by_seed[0]}
    return {"means": means, "by_seed": [row[question.metric] for row in by_seed], "low": low, "high": high}


def as_json(found: PairedDifference) -> dict[str, Any]:
    return {**asdict(found), "per_seed": list(found.per_seed), "text": str(found)}


def includes_zero(found: PairedDifference) -> bool:
    """Also where there is no interval at all (a single room): then nothing is shown."""
    return not (found.low > 0 or found.high < 0)


def gains(audio: Tables, depth: Tables, full: Tables, question: Question) -> Gains:
    return Gains(
        difference(audio, depth, question), difference(audio, full, question), difference(depth, full, question)
    )


def order_in_words(found: Gains) -> str:
    """Whether "gain2 > gain1 > 0" held: in the means, and whether the intervals show it."""
    numbers = f"gain1 {found.gain1.mean:+.4f} m, gain2 {found.gain2.mean:+.4f} m"
    broken = [text for text, holds in (("gain1 > 0", found.gain1.mean > 0), ("gain2 > gain1", found.gap.mean > 0))
              if not holds]  # fmt: skip
    if broken:
        return f"gain2 > gain1 > 0 did not hold ({' and '.join(broken)} failed: {numbers})."
    if found.gain1.low > 0 and found.gap.low > 0:
        return f"gain2 > gain1 > 0 held ({numbers}; both steps have intervals above 0)."
    open_steps = [text for text, part in (("gain1 > 0", found.gain1), ("gain2 > gain1", found.gap)) if not part.low > 0]
    unsure = " and of ".join(open_steps)
    return f"gain2 > gain1 > 0 held in the means only ({numbers}; the interval of {unsure} includes 0)."


def effect_in_words(name: str, found: PairedDifference, metric: str) -> str:
    """One sentence about an arm against audio alone, with its interval and its seeds."""
    count = len(found.per_seed)
    seeds = f"{count} seed{'s' if count > 1 else ''}"
    numbers = f"{found.mean:+.4f} m {metric.upper()}, 95 % interval [{found.low:+.4f}, {found.high:+.4f}], {seeds}"
    if includes_zero(found):
        return f"{name} against audio alone: no effect is shown ({numbers}; the interval includes 0)."
    word = "lower" if found.high < 0 else "HIGHER"
    if not found.one_sign:
        return f"{name} has a {word} error than audio alone ({numbers}), but its seeds disagree in sign: no claim."
    claim = "" if found.headline else " Fewer than five seeds: an indication, not a headline."
    return f"{name} has a {word} error than audio alone ({numbers}), every seed of one sign.{claim}"


def control_in_words(name: str, found: PairedDifference) -> str:
    """A control against audio alone: above 0, the model uses what the control takes away."""
    numbers = f"{found.mean:+.4f} m [{found.low:+.4f}, {found.high:+.4f}]"
    if found.low > 0:
        return f"{name} is worse than audio ({numbers})."
    return f"{name} is NOT shown to be worse than audio ({numbers})."


def curve_in_words(sizes: Sequence[int], differences: Sequence[PairedDifference]) -> str:
    """Whether the difference to audio alone moves with the size of the training set; sizes ascending."""
    steps = ", ".join(f"{n}: {d.mean:+.4f} m" for n, d in zip(sizes, differences, strict=True))
    shown = [n for n, d in zip(sizes, differences, strict=True) if d.high < 0]
    first, last = differences[0], differences[-1]
    if last.mean < first.mean and last.high < first.low:
        trend = "the gain grows with the data beyond the intervals: more data may show it"
    elif last.mean > first.mean and last.low > first.high:
        trend = "the gain shrinks with the data beyond the intervals: more data would not bring it back"
    else:
        trend = "no trend is visible beyond the intervals: nothing here says that more data would change it"
    where = f"; an effect is shown at {', '.join(map(str, shown))} samples" if shown else ""
    return f"Error minus audio alone by training samples: {steps}{where}; {trend}."


def preferred(validation: Mapping[str, Tables], question: Question) -> str:
    """The arm with the lowest mean validation error over the seeds."""
    return min(validation, key=lambda arm: float(stacked_mean(validation[arm], question)))


def stacked_mean(tables: Tables, question: Question) -> float:
    counted = tables[0].counted(question.protocol)
    return float(stacked(tables, question.protocol, question.metric)[:, counted].mean())
