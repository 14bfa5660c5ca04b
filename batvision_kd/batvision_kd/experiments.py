"""Does a teacher that sees make a student that hears better? The comparison, in pieces that can be cut and continued.

    python train_distillation.py --experiments [--quick] [--config FILE] [--output_dir DIR] [--minutes 25]

Every arm is trained under every seed by the ordinary training (experiment `<plan>-<arm>-seed<n>`), judged on the
validation split, and only when the plan's file says which distillation arm the claim is about, on the test split. From
then on that choice is fixed: another one under the same name is refused. When the interval of the claim includes 0, the
holes and a data-size curve are looked at as well. results/<plan>/: experiments.json, report.html, scores/, figures/.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.config import config_hash
from shared.errors import UserError
from shared.pieces import add_plan_options, hold_to, make_folders, plan_file, recorded, time_limit
from shared.run import run_command
from shared.storage import write_atomic

from .comparison import Question, Tables, difference, includes_zero, preferred, stacked_mean
from .controls import CONSTANTS, best_constant
from .evaluation import ImageTable, read_table, write_table
from .experiment_plan import DEFAULT_PLAN, QUICK_PLAN, Piece, Plan, read_plan
from .experiment_report import Findings, write_results
from .experiment_work import Bench


@dataclass(frozen=True)
class Study:
    """A plan with the bench that does its work (tests give another bench)."""

    plan: Plan
    output_dir: Path
    bench: Bench

    @property
    def folder(self) -> Path:
        return self.output_dir / "results" / self.plan.name

    @property
    def question(self) -> Question:
        return Question(self.plan.chosen or "", self.plan.metric, self.plan.protocol)

    def source(self, arm: str) -> str:
        return "rgb" if arm == self.plan.teacher else "audio"


def run(study: Study) -> None:
    """Train, judge and report what is not there yet. UserError: nothing is chosen yet, or something does not fit."""
    found, best = findings(study)
    picture = study.bench.draw(_drawn(study, best), study.folder / "figures" / "predictions.png")
    write_results(found, study.folder, picture)


def findings(study: Study) -> tuple[Findings, dict[Piece, Path]]:
    """All scores of the comparison, trained and judged where they are missing, and the best weights of every piece."""
    make_folders(study.folder, "pieces", "scores", "figures")
    plan, question = study.plan, study.question
    best = {piece: trained(study, piece) for piece in plan.pieces()}
    validation = {arm: tables(study, best, arm, "val") for arm in plan.arms}
    fix_the_question(study, validation)
    test = {arm: tables(study, best, arm, "test") for arm in plan.arms}
    constant, flat = judged_constant(study)
    controls = {(arm, control): tables(study, best, arm, "test", control)
                for arm in (plan.baseline, plan.chosen) for control in plan.controls}  # fmt: skip
    nothing_shown = includes_zero(difference(test[plan.chosen], test[plan.baseline], question))
    holes, curve = _further(study, best) if nothing_shown else ({}, {})
    found = Findings(
        plan=plan,
        question=question,
        mark=study.bench.mark,
        fingerprint=study.bench.fingerprint,
        validation=validation,
        test=test,
        constant=constant,
        flat=flat,
        controls=controls,
        holes=holes,
        curve=curve,
    )
    return found, best


# --- training ---------------------------------------------------------------------------------------------------------


def trained(study: Study, piece: Piece) -> Path:
    """The best weights of a piece: trained now, or there already and verified.

    Verified are its settings and its data (by the training itself, which refuses others), its bytes, and the teacher
    that a student had. UserError when one of them has changed since.
    """
    settings = study.plan.settings_of(piece, study.output_dir)
    record = study.folder / "pieces" / f"{piece.name}.json"
    print(f"experiments: {piece.name}", flush=True)
    best = study.bench.train(settings)
    now = {"settings": config_hash(settings, ("output_dir", "distillation.teacher")), "best": study.bench.sha256(best)}
    if settings.kind == "distillation":
        now["teacher"] = study.bench.sha256(settings.distillation.teacher)
    hold_to(record, piece.experiment(study.plan.name), now)
    return best


# --- judging ----------------------------------------------------------------------------------------------------------


def tables(study: Study, best: dict[Piece, Path], arm: str, split: str, control: str | None = None,
           samples: int | None = None) -> list[ImageTable]:  # fmt: skip
    """Scores of an arm on a split, one table for each seed, kept in scores/."""
    pieces = [Piece(arm, seed, samples) for seed in study.plan.seeds]
    return [_judged(study, piece, best[piece], split, control) for piece in pieces]


def _judged(study: Study, piece: Piece, best: Path, split: str, control: str | None) -> ImageTable:
    what = {"piece": piece.name, "split": split, "control": control, "data": study.bench.fingerprint,
            "best": study.bench.sha256(best)}  # fmt: skip
    name = "-".join(part for part in (split, piece.name, control) if part)
    make = lambda: study.bench.judge(best, split, study.source(piece.arm), control)  # noqa: E731
    return _kept(study.folder / "scores" / f"{name}.json", what, make)


def _kept(path: Path, what: dict, make) -> ImageTable:
    """The table of that file when it is of the same weights and data, else a new one."""
    if path.exists():
        table, about = read_table(path)
        if about == what:
            return table
    table = make()
    write_table(path, table, **what)
    return table


def judged_constant(study: Study) -> tuple[str, ImageTable]:
    """The constant map that is best on the validation split, and its scores on the test split."""
    scores = study.folder / "scores"

    def kept(name: str, split: str) -> ImageTable:
        what = {"constant": name, "split": split, "data": study.bench.fingerprint}
        return _kept(scores / f"{split}-constant-{name}.json", what, lambda: study.bench.judge_constant(name, split))

    errors = {name: stacked_mean([kept(name, "val")], study.question) for name in CONSTANTS}
    best = best_constant(errors)
    return best, kept(best, "test")


def fix_the_question(study: Study, validation: dict[str, Tables]) -> None:
    """Refuse to look at the test split before the claim is fixed, or under another claim than it was first looked at.

    UserError: `chosen` is null (validation's preference is named), or the choice changed after the test split was used.
    """
    plan, question = study.plan, study.question
    best = preferred({arm: validation[arm] for arm in plan.taught}, question)
    errors = ", ".join(f"{arm} {stacked_mean(validation[arm], question):.4f}" for arm in plan.arms)
    print(f"experiments: validation {plan.metric.upper()} ({plan.protocol}), m: {errors}", flush=True)
    if plan.chosen is None:
        raise UserError(
            f"no distillation arm is chosen yet; validation prefers {best}. Write `chosen: {best}` into the plan's "
            "file and run the same command again: only then is the test split looked at"
        )
    path = study.folder / "fixed.json"
    now = {"chosen": plan.chosen, "metric": plan.metric, "protocol": plan.protocol, "seeds": list(plan.seeds)}
    before = recorded(path)
    if before and {key: before.get(key) for key in now} != now:
        raise UserError(
            f"{path} fixed {before}, and the plan now says {now}: the test split was already looked at, so another "
            "choice would be made on it. Restore the plan, or give it another name (and say so where you report it)"
        )
    if not before:
        write_atomic(path, json.dumps({**now, "preferred_by_validation": best}, indent=1) + "\n")


def _further(study: Study, best: dict[Piece, Path]) -> tuple[dict[str, Tables], dict[int, dict[str, Tables]]]:
    """When no effect is shown: the holes (embedded data), and the same comparison on fewer samples."""
    plan, arms = study.plan, (study.plan.teacher, study.plan.baseline, study.plan.chosen)
    holes = {arm: tables(study, best, arm, "test", "holes") for arm in arms} if study.bench.mark else {}
    best = best | {piece: trained(study, piece) for piece in plan.curve_pieces()}
    curve = {size: {arm: tables(study, best, arm, "test", samples=size) for arm in arms} for size in plan.curve_samples}
    return holes, curve


def _drawn(study: Study, best: dict[Piece, Path]) -> dict[str, tuple[Path, str]]:
    plan = study.plan
    shown = (plan.teacher, plan.baseline, plan.chosen)
    return {plan.arms[arm].title: (best[Piece(arm, plan.seeds[0])], study.source(arm)) for arm in shown}


# --- the command ------------------------------------------------------------------------------------------------------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="train_distillation.py --experiments",
        description="Compare RGB, audio alone and the distilled students. The same command continues a cut comparison.",
        allow_abbrev=False,
    )
    add_plan_options(parser, "--config", f"config/{DEFAULT_PLAN.name}", "a few samples, one epoch")
    parser.add_argument("--output_dir", type=Path, default=Path(), help="checkpoints/, logs/ and results/ stand here")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(sys.argv[1:] if argv is None else argv)
    return run_command(lambda: _execute(args))


def _execute(args: argparse.Namespace) -> int:
    plan = read_plan(plan_file(args, "--config", DEFAULT_PLAN, QUICK_PLAN))
    with time_limit(args.minutes):
        run(Study(plan, args.output_dir, Bench(plan, args.output_dir)))
    return 0
