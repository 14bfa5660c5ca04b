"""A comparison as files: experiments.json, the label-efficiency plot, report.html; prints the verdict."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from shared import benchmark
from shared.report import LINES, Report

from .experiment_plan import Plan
from .experiment_results import Findings, as_json, sentences

PACKAGES = ("torch", "numpy", "spconv-cu120", "matplotlib")
ARM_DISTANCE = 0.06  # between neighbouring arms of one budget, of the distance between budgets
DOT, BLUE = "#5b6472", "#2f5fd0"
Drawn = Mapping[str, tuple[Figure, str]]  # {file name: (figure, caption)}


def write_results(found: Findings, folder: Path) -> None:
    """experiments.json, figures/ and report.html in `folder`. StorageError when the file system refuses."""
    data = as_json(found)
    benchmark.write(folder / "experiments.json", benchmark.record("experiments", data, PACKAGES))
    figures = draw(found.plan, data)
    for name, (figure, _) in figures.items():
        figure.savefig(folder / "figures" / f"{name}.png", dpi=130)
    write_report(found, data, figures, folder / "report.html")
    for line in data["verdict"]:
        print(f"experiments: {line}", flush=True)
    print(f"wrote {folder / 'report.html'}", flush=True)


def write_report(found: Findings, data: Mapping[str, Any], figures: Drawn, path: Path) -> None:
    """The page; `data` as from experiment_results.as_json."""
    plan = found.plan
    size = f"{plan.name}: {data['frames']} validation frames, {len(plan.seeds)} seeds, {data['metric']}"
    report = Report("What masked pretraining is worth to a sparse LiDAR detector", found.mark or None, size)
    report.heading("Verdict")
    report.text("\n\n".join(sentences(found)))
    report.text("Nothing was selected on the validation frames: the last epoch is judged, and the questions stood in "
                "the plan. Intervals (95 %) draw whole sequences, jointly over seeds and arms.")  # fmt: skip
    report.heading("Scores")
    _score_table(report, found, data)
    report.heading("Differences")
    rows = [[one["question"], one["mean"], _interval(one), _seeds(one["per_seed"])]
            for one in data["differences_points"].values()]  # fmt: skip
    report.table(["question", "points of mAP", "95 % interval", "by seed"], rows)
    report.heading("Pretraining, on held-out frames")
    _pretraining_table(report, found, data)
    report.heading("Pictures")
    for figure, caption in figures.values():
        report.figure(figure, caption)
    report.write(path)


def _score_table(report: Report, found: Findings, data: Mapping[str, Any]) -> None:
    plan, scores = found.plan, data["scores_points"]
    classes, bands = (list(next(iter(scores.values()))[key]) for key in ("by_class", "by_band"))
    rows = []
    for arm, budget in found.judged:
        one = scores[f"{arm}, {budget}"]
        rows.append([plan.arms[arm].title, plan.budgets[budget].described(), one["mean"], _interval(one),
                     *(one["by_class"][name] for name in classes), *(one["by_band"][band] for band in bands),
                     _seeds(one["by_seed"])])  # fmt: skip
    report.table(["arm", "labels", "mAP", "95 % interval", *classes, *(f"{band} m" for band in bands), "by seed"], rows,
                 f"{data['metric']}, in points (0..100), means over seeds.")  # fmt: skip


def _pretraining_table(report: Report, found: Findings, data: Mapping[str, Any]) -> None:
    keys = list(dict.fromkeys(key for one in data["pretrained"].values() for key in one))
    rows = [[found.plan.pretrainings[name].title, *(one.get(key) for key in keys)]
            for name, one in data["pretrained"].items()]  # fmt: skip
    report.table(["pretraining", *keys], rows, "Means over seeds. occupancy_excess: loss minus the entropy of the best "
                 "constant predictor; keep: share of voxels that the student sees.")  # fmt: skip


def _interval(one: Mapping[str, Any]) -> str:
    return "-" if one["low"] is None else f"[{one['low']:+.1f}, {one['high']:+.1f}]"


def _seeds(values: Sequence[float]) -> str:
    return " ".join(f"{value:.1f}" for value in values)


# --- plots ------------------------------------------------------------------------------------------------------------


def draw(plan: Plan, data: Mapping[str, Any]) -> Drawn:
    """The plots of a comparison; `data` as from experiment_results.as_json, or read back from experiments.json."""
    return {
        "label_efficiency": (label_efficiency(plan, data), "mAP by budget. Large dot: mean over seeds; line: its "
                             "95 % interval over sequences; small dots: seeds."),
        "differences": (differences(plan, data), "Differences in mAP. Upright line: mean over seeds; bar: its 95 % "
                        "interval over sequences; dots: seeds."),
    }  # fmt: skip


def label_efficiency(plan: Plan, data: Mapping[str, Any]) -> Figure:
    """A line for every arm that was trained on more than one budget; where none was, a point for every arm."""
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    panel = figure.subplots()
    columns = sorted(plan.budgets, key=lambda name: (plan.budgets[name].percent, plan.budgets[name].epochs))
    arms = [arm for arm in plan.arms if len(plan.budgets_of(arm)) > 1] or list(plan.arms)
    for number, (arm, colour) in enumerate(zip(arms, _colours(len(arms)), strict=True)):
        budgets = [name for name in columns if name in plan.budgets_of(arm)]
        beside = ARM_DISTANCE * (number - (len(arms) - 1) / 2)
        places = [columns.index(name) + beside for name in budgets]
        scores = [data["scores_points"][f"{arm}, {name}"] for name in budgets]
        panel.plot(places, [one["mean"] for one in scores], marker="o", color=colour, label=plan.arms[arm].title)
        bounds = np.array([[np.nan if one[end] is None else one[end] for end in ("low", "high")] for one in scores])
        panel.vlines(places, *bounds.T, color=colour, lw=1.5)
        for place, one in zip(places, scores, strict=True):
            panel.scatter([place] * len(one["by_seed"]), one["by_seed"], s=10, color=colour, alpha=0.6)
    panel.set_xlim(-0.5, len(columns) - 0.5)
    panel.set_xticks(range(len(columns)), labels=[plan.budgets[name].described() for name in columns])
    panel.set_xlabel("labelled train frames, and how long they were trained on")
    panel.set_ylabel("mAP, points")
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    figure.suptitle(data["mark"], fontsize=8, color="#c2364f", parse_math=False)
    return figure


def differences(plan: Plan, data: Mapping[str, Any]) -> Figure:
    """A bar for every question."""
    rows = data["differences_points"]
    figure = Figure(figsize=(7.5, 0.5 * len(rows) + 1.2), layout="constrained")
    panel = figure.subplots()
    for place, one in enumerate(rows.values()):
        if one["low"] is not None:
            panel.hlines(place, one["low"], one["high"], color=BLUE, lw=6, alpha=0.25)
        panel.vlines(one["mean"], place - 0.28, place + 0.28, color=BLUE, lw=2.5)
        panel.scatter(one["per_seed"], [place] * len(one["per_seed"]), s=14, color=DOT, zorder=3)
    panel.axvline(0, color=DOT, lw=0.8)
    panel.set_yticks(range(len(rows)), labels=[_pair(plan, name) for name in rows], fontsize=8, parse_math=False)
    panel.invert_yaxis()
    panel.set_xlabel("difference in mAP, points", fontsize=9)
    panel.grid(axis="x", alpha=0.3)
    panel.spines[["top", "right", "left"]].set_visible(False)
    figure.suptitle(data["mark"], fontsize=8, color="#c2364f", parse_math=False)
    return figure


def _pair(plan: Plan, name: str) -> str:
    """The two arms of a comparison and their labels."""
    one = plan.comparisons[name]
    arm, against = plan.titles(one)
    return f"{arm}\nless {against}" + ("" if one.against_budget else f", {plan.budgets[one.budget].described()}")


def _colours(count: int) -> list[str]:
    return [LINES[k % len(LINES)] for k in range(count)]
