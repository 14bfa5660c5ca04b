"""What the comparison found, as experiments.json, figures and report.html, and in sentences."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from shared import benchmark
from shared.metrics import PairedDifference
from shared.report import Report

from .evaluation.export import EMBEDDED_MARK, write_figure
from .evaluation.kaist_files import Detections
from .experiment_plan import Plan
from .experiment_scores import Summary, contrast_nats, difference, found_first, matched, scene_weights, summary
from .pictures import arms_figure

PACKAGES = ("torch", "numpy", "onedl-mmdetection", "onedl-mmcv", "onedl-mmengine", "pycocotools")
SCORES = {  # name: (title, better when larger)
    "mr": ("miss rate, reasonable, %", False),
    "ap50": ("COCO AP50, %", True),
    "ap": ("COCO AP, %", True),
}


@dataclass(frozen=True)
class Findings:
    """Judgements by arm and seed on the test pairs; truth: their boxes."""

    plan: Plan
    truth: Any
    judged: Mapping[str, Sequence[Any]]

    @cached_property
    def weights(self) -> np.ndarray:
        """(R,N) draws of scenes."""
        return scene_weights([scene_of(name) for name in self.truth.names], self.plan.draws)

    @cached_property
    def matched(self) -> dict[str, list[Any]]:
        return {arm: [matched(self.truth, Detections(one.image_index, one.boxes_xywh_px, one.scores)) for one in seeds]
                for arm, seeds in self.judged.items()}  # fmt: skip

    @cached_property
    def retrieval(self) -> dict[str, list["Retrieval"]]:
        """Of the arms that see both modalities."""
        return {arm: [Retrieval(found_first(one.visible, one.infrared), one.persons_image) for one in seeds]
                for arm, seeds in self.judged.items() if len(seeds[0].visible)}  # fmt: skip

    def score(self, name: str, arm: str) -> Summary:
        return summary(self.matched[arm], SCORE_OF[name], self.weights)

    def against(self, name: str, arm: str, other: str) -> PairedDifference:
        return difference(self.matched[arm], self.matched[other], SCORE_OF[name], self.weights)

    def best_single(self) -> str | None:
        """Of the arms of one modality, the one with the lower miss rate."""
        single = [arm for arm, seeds in self.judged.items() if not len(seeds[0].visible)]
        means = {arm: np.mean([one.miss_rate() for one in self.matched[arm]]) for arm in single}
        return min(means, key=means.get) if means else None


@dataclass(frozen=True, eq=False)
class Retrieval:
    """found: (K,) share of directions in which a person's partner is found first; images: (K,) where it was seen."""

    found: np.ndarray
    images: np.ndarray

    def rate(self, weights: np.ndarray | None = None) -> float:
        """Percent of partners found first; weights (N,) of images."""
        counted = np.ones(len(self.found)) if weights is None else weights[self.images]
        return 100 * float(counted @ self.found / counted.sum()) if counted.sum() else math.nan


SCORE_OF = {
    "mr": lambda judged, weights: judged.miss_rate(weights),
    "ap50": lambda judged, weights: judged.ap50(weights),
    "ap": lambda judged, weights: judged.ap(weights),
    "found": lambda judged, weights: judged.rate(weights),
}


def scene_of(name: str) -> str:
    """The street of a test pair: set06/V000 of its path."""
    parts = Path(name).parts
    place = next((i for i, part in enumerate(parts) if part.startswith("set")), None)
    return "/".join(parts[place : place + 2]) if place is not None else Path(name).stem[:2]


# --- numbers ----------------------------------------------------------------------------------------------------------


def results(found: Findings) -> dict[str, Any]:
    """Every number of the comparison, JSON data."""
    plan = found.plan
    comparisons = {
        name: {"question": one.question, "arm": one.arm, "against": one.against,
               **{score: as_json(found.against(score, one.arm, one.against)) for score in SCORES}}
        for name, one in plan.comparisons.items()
    }  # fmt: skip
    return {
        "mark": EMBEDDED_MARK,
        "plan": plan.model_dump(mode="json"),
        "images": len(found.truth.image_ids),
        "scenes": len({scene_of(name) for name in found.truth.names}),
        "persons_reasonable": int(next(iter(found.matched.values()))[0].mr_persons.sum()),
        "arms": {arm: {name: found.score(name, arm).to_json() for name in SCORES} for arm in plan.arms},
        "best_single_modality": found.best_single(),
        "comparisons": comparisons,
        "alignment": {arm: alignment(found, arm) for arm in found.retrieval},
    }


def alignment(found: Findings, arm: str) -> dict[str, Any]:
    """Retrieval, contrastive loss and modality probe of an arm, each beside its chance."""
    from .evaluation.alignment import probe_hits, unit_rows

    seeds = found.judged[arm]
    count = len(seeds[0].visible)
    nats = [contrast_nats(one.visible, one.infrared, one.tau) for one in seeds]
    units = [(unit_rows(one.visible), unit_rows(one.infrared), one.persons_image) for one in seeds]
    probe = [float(probe_hits(*one).mean()) for one in units]
    return {
        "space": seeds[0].space,
        "persons": count,
        "found_first": summary(found.retrieval[arm], SCORE_OF["found"], found.weights).to_json(),
        "found_first_chance": 100 / count,
        "nats": nats,
        "nats_chance": math.log(count),
        "probe": probe,
        "probe_chance": 0.5,
    }


def as_json(one: PairedDifference) -> dict[str, Any]:
    finite = {name: value if math.isfinite(value) else None for name, value in
              (("mean", one.mean), ("low", one.low), ("high", one.high))}  # fmt: skip
    return {**finite, "per_seed": list(one.per_seed), "one_sign": one.one_sign, "headline": one.headline}


# --- words ------------------------------------------------------------------------------------------------------------


def sentences(data: Mapping[str, Any], titles: Mapping[str, str]) -> list[str]:
    """The verdict, question by question, then alignment."""
    lines = []
    for one in data["comparisons"].values():
        parts = [in_words(name, one[name]) for name in ("mr", "ap50")]
        lines.append(f"{one['question']} {titles[one['arm']]} minus {titles[one['against']]}: {'; '.join(parts)}.")
    if data["best_single_modality"]:
        lines.append(f"The better single modality is {titles[data['best_single_modality']]}.")
    for arm, one in data["alignment"].items():
        found = one["found_first"]
        lines.append(
            f"{titles[arm]} ({one['space']}): a person's partner is found first in {found['mean']:.1f} % "
            f"{_range(found)} of {one['persons']} (chance {one['found_first_chance']:.1f} %); contrastive loss "
            f"{np.mean(one['nats']):.2f} nats (chance ln {one['persons']} = {one['nats_chance']:.2f}); a linear probe "
            f"names the modality in {100 * np.mean(one['probe']):.0f} % (chance 50 %)."
        )
    return lines


def in_words(score: str, one: Mapping[str, Any]) -> str:
    """A difference, and whether it is shown."""
    title, larger = SCORES[score]
    seeds = ", ".join(f"{value:+.1f}" for value in one["per_seed"])
    text = f"{title} {one['mean']:+.1f} {_range(one)} (by seed {seeds})"
    if one["low"] is None:
        return f"{text}, no interval"
    if one["low"] <= 0 <= one["high"]:
        return f"{text}, NOT shown"
    better = (one["mean"] > 0) == larger
    if not one["one_sign"]:
        return f"{text}, {'better' if better else 'WORSE'} on average, seeds disagree"
    return f"{text}, {'better' if better else 'WORSE'}{'' if one['headline'] else ' (fewer than five seeds)'}"


def _range(one: Mapping[str, Any]) -> str:
    return "[no interval]" if one["low"] is None else f"[{one['low']:+.1f}, {one['high']:+.1f}]"


# --- the page ---------------------------------------------------------------------------------------------------------


def write_results(found: Findings, folder: Path) -> None:
    """experiments.json, figures/ and report.html in `folder`; prints the verdict."""
    data = results(found)
    titles = {name: one.title for name, one in found.plan.trainings().items()}
    verdict = sentences(data, titles)
    record = benchmark.record("experiments", {**data, "verdict": verdict}, PACKAGES)
    benchmark.write(folder / "experiments.json", record)
    page = Report("What fusion, MSP, MACL, DHN and stage 1 are worth", EMBEDDED_MARK,
                  f"{found.plan.name}: {data['images']} test pairs of {data['scenes']} streets, "
                  f"{len(found.plan.seeds)} seeds")  # fmt: skip
    page.heading("Verdict")
    page.text("\n\n".join(verdict))
    page.text("Intervals (95 %) draw whole streets, jointly over seeds. Every arm has the same steps, batches and test "
              "pairs; the last epoch is judged; every question was written before the first training.")  # fmt: skip
    _tables(page, data, titles)
    page.heading("Pictures")
    for path, caption in _plots(data, titles, folder / "figures"):
        page.figure(path, caption)
    page.write(folder / "report.html")
    for line in verdict:
        print(f"experiments: {line}", flush=True)
    print(f"wrote {folder / 'report.html'}", flush=True)


def _tables(page: Report, data: Mapping[str, Any], titles: Mapping[str, str]) -> None:
    page.heading("Arms")
    rows = [[titles[arm], *(_with_interval(scores[name]) for name in SCORES)] for arm, scores in data["arms"].items()]
    page.table(["", *(title for title, _ in SCORES.values())], rows, "Mean over seeds, 95 % interval.")
    page.heading("Differences")
    rows = [[f"{titles[one['arm']]} minus {titles[one['against']]}", *(_with_interval(one[name]) for name in SCORES)]
            for one in data["comparisons"].values()]  # fmt: skip
    page.table(["", *(title for title, _ in SCORES.values())], rows)
    page.heading("Alignment against chance")
    rows = [[titles[arm], one["space"], _with_interval(one["found_first"]), f"{one['found_first_chance']:.1f}",
             f"{np.mean(one['nats']):.2f}", f"{one['nats_chance']:.2f}", f"{np.mean(one['probe']):.2f}"]
            for arm, one in data["alignment"].items()]  # fmt: skip
    page.table(
        ["", "space", "partner first, %", "chance, %", "loss, nats", "chance, nats", "probe (chance 0.50)"], rows
    )


def _with_interval(one: Mapping[str, Any]) -> str:
    return f"{one['mean']:.1f} {_range(one)}"


def _plots(data: Mapping[str, Any], titles: Mapping[str, str], folder: Path) -> list[tuple[Path, str]]:
    plots = []
    for name, (title, _) in SCORES.items():
        arms = {titles[arm]: scores[name] for arm, scores in data["arms"].items()}
        plots.append(_plot(arms, title, folder / f"{name}.png"))
    found = {titles[arm]: one["found_first"] for arm, one in data["alignment"].items()}
    if found:
        chance = next(iter(data["alignment"].values()))["found_first_chance"]
        plots.append(_plot(found, "partner found first among all persons, %", folder / "retrieval.png", chance))
    return plots


def _plot(rows: Mapping[str, Any], title: str, path: Path, chance: float | None = None) -> tuple[Path, str]:
    intervals = {name: (_nan(one["low"]), _nan(one["high"])) for name, one in rows.items()}
    values = {name: [_nan(value) for value in one["per_seed"]] for name, one in rows.items()}
    figure = arms_figure(values, intervals, title, EMBEDDED_MARK, chance)
    return write_figure(path, figure), f"{title}. Line: mean over seeds; band: 95 % interval; dots: seeds."


def _nan(value: float | None) -> float:
    return math.nan if value is None else value
