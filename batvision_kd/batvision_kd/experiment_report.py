"""What a comparison found, as experiments.json, figures and report.html; the sentences come from comparison.py."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared import benchmark
from shared.json_files import finite
from shared.metrics import PairedDifference
from shared.report import Report

from .comparison import (
    Gains,
    Question,
    Tables,
    as_json,
    control_in_words,
    curve_in_words,
    difference,
    effect_in_words,
    gains,
    includes_zero,
    order_in_words,
    preferred,
    stacked_mean,
    summary,
)
from .evaluation import ImageTable, column_means
from .experiment_plan import DEPTH_ARM, FULL_ARM, Plan
from .metrics import BANDS_M, MAIN
from .pictures import arms_figure, curve_figure

PACKAGES = ("torch", "numpy", "matplotlib", "pillow")
CONTROL_TITLES = {"shuffled": "echo of another image", "swapped": "ears exchanged", "silence": "no sound",
                  "one_ear": "left ear in both"}  # fmt: skip


@dataclass(frozen=True)
class Findings:
    """All scores of a comparison. validation, test, holes: {arm: tables by seed}; controls: {(arm, control): tables};
    constant: name of the best constant map on validation, flat: its test scores; curve: {samples: {arm: tables}}."""

    plan: Plan
    question: Question
    mark: str
    fingerprint: str
    validation: dict[str, Tables]
    test: dict[str, Tables]
    constant: str
    flat: ImageTable
    controls: dict[tuple[str, str], Tables]
    holes: dict[str, Tables]
    curve: dict[int, dict[str, Tables]]

    def against_audio(self, arm: str) -> PairedDifference:
        return difference(self.test[arm], self.test[self.plan.baseline], self.question)

    def constant_against_audio(self) -> PairedDifference:
        return difference([self.flat] * len(self.plan.seeds), self.test[self.plan.baseline], self.question)

    def control_against(self, arm: str, control: str) -> PairedDifference:
        """The arm under the control minus the arm as it is."""
        return difference(self.controls[arm, control], self.test[arm], self.question)

    def gains(self) -> Gains | None:
        """Where the plan has both arms of the note's hypothesis."""
        if not {DEPTH_ARM, FULL_ARM} <= self.test.keys():
            return None
        return gains(self.test[self.plan.baseline], self.test[DEPTH_ARM], self.test[FULL_ARM], self.question)

    def in_holes(self) -> PairedDifference | None:
        if not self.holes:
            return None
        return difference(self.holes[self.question.chosen], self.holes[self.plan.baseline], self.question)

    def curve_differences(self) -> dict[int, PairedDifference]:
        """By number of training samples, ascending; the whole training set last, by the number it has."""
        baseline, chosen = self.plan.baseline, self.question.chosen
        return {
            size: difference(arms[chosen], arms[baseline], self.question) for size, arms in sorted(self.curve.items())
        }


def sentences(found: Findings) -> list[str]:
    """The verdict, claim first."""
    plan, question, titles = found.plan, found.question, {name: arm.title for name, arm in found.plan.arms.items()}
    main = found.against_audio(question.chosen)
    best = preferred({arm: found.validation[arm] for arm in plan.taught}, question)
    lines = [effect_in_words(titles[question.chosen], main, question.metric)]
    if best != question.chosen:
        lines.append(f"Validation would have preferred {titles[best]}; the plan had fixed {titles[question.chosen]}.")
    order = found.gains()
    lines += [order_in_words(order)] if order else []
    errors = {arm: stacked_mean(found.test[arm], question) for arm in plan.arms}
    first = min(errors, key=lambda arm: errors[arm])
    lines.append(f"RGB is {'best' if first == plan.teacher else 'NOT best: ' + titles[first] + ' is'} "
                 f"({errors[first]:.4f} m).")  # fmt: skip
    lines.append(control_in_words(f"The best constant map ({found.constant})", found.constant_against_audio()))
    lines += [control_in_words(f"Audio with {CONTROL_TITLES[c]}", found.control_against(plan.baseline, c))
              for c in plan.controls]  # fmt: skip
    return [*lines, *_why_not(found)] if includes_zero(main) else lines


def _why_not(found: Findings) -> list[str]:
    """What was looked at because the interval includes 0."""
    gap = difference(found.test[found.plan.baseline], found.test[found.plan.teacher], found.question)
    lines = [f"Between audio alone and its teacher lie {gap.mean:+.4f} m [{gap.low:+.4f}, {gap.high:+.4f}]: more than "
             "that no teacher can give."]  # fmt: skip
    if (inside := found.in_holes()) is not None:
        lines.append("In the holes only: " + effect_in_words(found.plan.arms[found.question.chosen].title, inside,
                                                             found.question.metric))  # fmt: skip
    if found.curve:
        by_size = found.curve_differences()
        whole = found.against_audio(found.question.chosen)
        lines.append(curve_in_words([*by_size, "all"], [*by_size.values(), whole]))
    return lines


# --- JSON -------------------------------------------------------------------------------------------------------------


def results(found: Findings) -> dict[str, Any]:
    """Every number of the comparison, JSON data."""
    plan, question = found.plan, found.question
    order = found.gains()
    return {
        "mark": found.mark,
        "data_fingerprint": found.fingerprint,
        "question": {"chosen": question.chosen, "metric": question.metric, "protocol": question.protocol},
        "unit": found.flat.scenes.unit,
        "images": len(found.flat.ids),
        "seeds": list(plan.seeds),
        "plan": plan.model_dump(mode="json"),
        "verdict": sentences(found),
        "validation": {arm: summary(tables, question) for arm, tables in found.validation.items()},
        "test": {arm: summary(tables, question) for arm, tables in found.test.items()},
        "constant": {"name": found.constant, **summary([found.flat], question)},
        "controls": {f"{arm}, {c}": summary(tables, question) for (arm, c), tables in found.controls.items()},
        "minus_audio": {arm: as_json(found.against_audio(arm)) for arm in plan.arms if arm != plan.baseline},
        "constant_minus_audio": as_json(found.constant_against_audio()),
        "control_minus_model": {f"{arm}, {c}": as_json(found.control_against(arm, c)) for arm, c in found.controls},
        "order": {"words": order_in_words(order), **{n: as_json(getattr(order, n)) for n in ("gain1", "gain2", "gap")}}
        if order else None,
        "bands": {arm: band_rmse(tables) for arm, tables in found.test.items()},
        "holes": {arm: summary(tables, question) for arm, tables in found.holes.items()},
        "holes_minus_audio": None if (inside := found.in_holes()) is None else as_json(inside),
        "curve": {str(size): {arm: summary(tables, question) for arm, tables in arms.items()}
                  for size, arms in found.curve.items()},
        "curve_minus_audio": {str(size): as_json(one) for size, one in found.curve_differences().items()},
    }  # fmt: skip


def band_rmse(tables: Tables) -> dict[str, dict[str, float]]:
    """RMSE and ABS_REL of each range band, mean over seeds, with the number of images that have pixels there."""
    found = {}
    for band in BANDS_M:
        rows = [column_means(table.bands[band]) for table in tables]
        if rows[0]["counted"]:
            found[band] = {name: float(np.mean([row[name] for row in rows])) for name in ("rmse", "abs_rel", "counted")}
    return found


# --- the page ---------------------------------------------------------------------------------------------------------


def write_results(found: Findings, folder: Path, picture: Path) -> None:
    """experiments.json, figures/ and report.html in `folder`; prints the verdict."""
    data = results(found)
    benchmark.write(folder / "experiments.json", benchmark.record("experiments", finite(data), PACKAGES))
    plots = _plots(found, folder / "figures")
    size = f"{found.plan.name}: {data['images']} test images, {len(found.plan.seeds)} seeds"
    report = Report("What a teacher that sees is worth to a student that hears", found.mark or None, size)
    report.heading("Verdict")
    report.text("\n\n".join(data["verdict"]))
    report.text(f"Fixed before the test split was looked at: {found.question.chosen}, {found.question.metric.upper()}, "
                f"protocol {found.question.protocol}. Intervals (95 %) resample {data['unit']}, jointly over seeds. "
                "Differences are error minus error of audio alone: below 0 is better.")  # fmt: skip
    _tables(report, found, data)
    report.heading("Pictures")
    for path, caption in plots:
        report.figure(path, caption)
    report.figure(picture, "Evenly spread test images, first seed. Grey: nothing was measured.")
    report.write(folder / "report.html")
    for line in data["verdict"]:
        print(f"experiments: {line}", flush=True)
    print(f"wrote {folder / 'report.html'}", flush=True)


def _tables(report: Report, found: Findings, data: Mapping[str, Any]) -> None:
    titles = {arm: found.plan.arms[arm].title for arm in found.plan.arms}
    report.heading("Test split")
    rows = [[titles[arm], *_row(one)] for arm, one in data["test"].items()]
    rows += [
        [f"{titles[arm]}, {CONTROL_TITLES[c]}", *_row(data["controls"][f"{arm}, {c}"])] for arm, c in found.controls
    ]
    rows.append([f"constant map ({found.constant})", *_row(data["constant"])])
    report.table(["", *MAIN, "scale_error", "aligned_rmse", "left out"], rows, "Means over images, then over seeds. "
                 "scale_error: |median ln(p/g)|; aligned_rmse: after the scale is set right; left out: images without "
                 "enough measured depth.")  # fmt: skip
    report.heading(f"{found.question.metric.upper()} minus that of audio alone", 3)
    pairs = [(titles[arm], one) for arm, one in data["minus_audio"].items()]
    pairs.append(("constant map", data["constant_minus_audio"]))
    pairs += [(f"{name}: what the control costs", one) for name, one in data["control_minus_model"].items()]
    rows = [[name, one["mean"], f"[{one['low']:+.4f}, {one['high']:+.4f}]", _seeds(one)] for name, one in pairs]
    report.table(["", "mean", "95 % interval", "by seed"], rows)
    report.heading("By range", 3)
    report.table(["", *(f"{band}: RMSE" for band in BANDS_M), *(f"{band}: ABS_REL" for band in BANDS_M)],
                 [[titles[arm], *(bands.get(b, {}).get(m) for m in ("rmse", "abs_rel") for b in BANDS_M)]
                  for arm, bands in data["bands"].items()])  # fmt: skip
    if data["holes"]:
        report.heading("In the holes only", 3)
        report.table(
            ["", *MAIN], [[titles[arm], *(one["means"].get(m) for m in MAIN)] for arm, one in data["holes"].items()]
        )
    report.heading("Validation split")
    report.table(
        ["", *MAIN], [[titles[arm], *(one["means"].get(m) for m in MAIN)] for arm, one in data["validation"].items()]
    )


def _row(one: Mapping[str, Any]) -> list[float | None]:
    means = one["means"]
    return [means.get(name) for name in (*MAIN, "scale_error", "aligned_rmse")] + [round(means["skipped"])]


def _seeds(one: Mapping[str, Any]) -> str:
    return " ".join(f"{value:+.4f}" for value in one["per_seed"])


def _plots(found: Findings, folder: Path) -> list[tuple[Path, str]]:
    question, titles = found.question, {arm: found.plan.arms[arm].title for arm in found.plan.arms}
    rows = {titles[arm]: summary(tables, question) for arm, tables in found.test.items()}
    rows |= {
        f"{titles[arm]}, {CONTROL_TITLES[c]}": summary(tables, question) for (arm, c), tables in found.controls.items()
    }
    rows[f"constant map ({found.constant})"] = summary([found.flat], question)
    label = f"test {question.metric.upper()}, m ({question.protocol})" + (f"; {found.mark}" if found.mark else "")
    arms = arms_figure({name: one["by_seed"] for name, one in rows.items()},
                       {name: (one["low"], one["high"]) for name, one in rows.items()}, label)  # fmt: skip
    plots = [(arms, folder / "arms.png", "Line: mean over seeds; band: 95 % interval; dots: seeds.")]
    if found.curve:
        by_size = {**{str(size): found.curve[size] for size in sorted(found.curve)}, "all": found.test}
        sizes, smallest = list(by_size), found.curve[min(found.curve)]
        errors = {titles[arm]: [stacked_mean(arms[arm], question) for arms in by_size.values()] for arm in smallest}
        plots.append((curve_figure(sizes, errors, label), folder / "curve.png", "Error by training samples."))
    for figure, path, _ in plots:
        figure.savefig(path, dpi=130)
    return [(path, caption) for _, path, caption in plots]
