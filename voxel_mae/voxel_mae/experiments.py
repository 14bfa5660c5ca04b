"""How much is pretraining worth, at which label budget? The comparison, in pieces that can be cut and continued.

    python -m voxel_mae.experiments [--quick | --plan FILE] [--output_dir DIR] [--minutes 25]

Every piece is an ordinary run of tools/ (its folder: output/.../<plan>-<piece>); what is finished is not trained again,
what was cut continues where it was, and what changed since is refused. After --minutes the command saves and ends with
143: run it again until it ends with 0. results/<plan>/: experiments.json, report.html, figures/, pieces/.

A training keeps about one core busy (spconv on a CPU), so give every core its seeds, then ask for the report:

    python -m voxel_mae.experiments --minutes 300 --seeds 0 2 & python -m voxel_mae.experiments --minutes 300 --seeds 1
    wait; python -m voxel_mae.experiments
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import UserError
from shared.pieces import add_plan_options, hold_to, make_folders, plan_file, time_limit
from shared.run import run_command

from .config import PACKAGE_ROOT
from .experiment_plan import DEFAULT_PLAN, PLANS, QUICK_PLAN, Piece, Plan, arguments, read_plan
from .experiment_report import write_results
from .experiment_results import Findings


@dataclass(frozen=True)
class Study:
    """A plan with the bench that does its work (tests give another bench), and the folder of its results."""

    plan: Plan
    bench: Any  # experiment_work.Bench
    folder: Path


def run(study: Study) -> Findings:
    """Train, judge and report what is not there yet. UserError: a piece changed since it was recorded."""
    made = train_all(study)
    found = findings(study)
    write_results(found, study.folder)
    print(f"experiments: {len(made)} pieces", flush=True)
    return found


def train_all(study: Study, seeds: Sequence[int] | None = None) -> dict[Piece, Path]:
    """The last checkpoint of every piece of these seeds (None: all), pretrainings first. UserError: no such seed."""
    if unknown := sorted(set(seeds or ()) - set(study.plan.seeds)):
        raise UserError(
            f"--seeds {unknown[0]}: plan {study.plan.name} has seeds {', '.join(map(str, study.plan.seeds))}"
        )
    make_folders(study.folder, "pieces", "figures")
    made: dict[Piece, Path] = {}
    pieces = [piece for piece in study.plan.pieces() if seeds is None or piece.seed in seeds]
    for number, piece in enumerate(pieces, start=1):
        start = None if piece.budget is None else study.plan.arms[piece.name].pretraining
        weights = None if start is None else made[Piece(start, None, piece.seed)]
        print(f"experiments: {number} of {len(pieces)}: {piece.tag}", flush=True)
        made[piece] = trained(study, piece, weights)
    return made


def trained(study: Study, piece: Piece, weights: Path | None) -> Path:
    """The last checkpoint of a piece, and a record of what it was made of. UserError when one of these has changed."""
    record = study.folder / "pieces" / f"{piece.tag}.json"
    settings = _digest(study.plan, piece)
    hold_to(record, piece.tag, {"settings": settings}, finished=False)
    path = study.bench.train(piece, weights)
    now = {"settings": settings, "checkpoint": study.bench.sha256(path),
           "weights": study.bench.sha256(weights) if weights else None}  # fmt: skip
    hold_to(record, piece.tag, now)
    return path


def _digest(plan: Plan, piece: Piece) -> str:
    """Of the piece's command line, without where it writes."""
    return hashlib.sha256(json.dumps(arguments(plan, piece, Path())).encode()).hexdigest()[:16]


def findings(study: Study) -> Findings:
    """All scores of the finished pieces."""
    plan, bench = study.plan, study.bench
    judged = {(arm, budget): [bench.judge(Piece(arm, budget, seed)) for seed in plan.seeds]
              for arm in plan.arms for budget in plan.budgets_of(arm)}  # fmt: skip
    pretrained = {name: [bench.pretrained(Piece(name, None, seed)) for seed in plan.seeds]
                  for name in plan.needed_pretrainings}  # fmt: skip
    return Findings(plan, bench.mark, bench.fingerprint, judged, pretrained, bench.equality())


# --- the command ------------------------------------------------------------------------------------------------------


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m voxel_mae.experiments",
        description="Scratch, R-MAE and Phase 2 by label budget. The same command continues a cut comparison.",
        allow_abbrev=False,
    )
    add_plan_options(parser, "--plan", str(DEFAULT_PLAN.relative_to(PLANS.parent)), "a few small frames, one epoch")
    only = "train only these seeds of the plan and write no report: one process per core, then the command without it"
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help=only)
    parser.add_argument("--output_dir", type=Path, default=Path("output"), help="root of the runs (default: output)")
    parser.add_argument("--results_dir", type=Path, default=PACKAGE_ROOT / "results", help="default: results/")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    args = parse(argv)
    return run_command(lambda: _execute(args))


def _execute(args: argparse.Namespace) -> int:
    from .experiment_work import Bench  # torch and spconv: not for --help

    plan = read_plan(plan_file(args, "--plan", DEFAULT_PLAN, QUICK_PLAN))
    study = Study(plan, Bench(plan, args.output_dir), args.results_dir / plan.name)
    with time_limit(args.minutes):
        if args.seeds:
            made = train_all(study, args.seeds)
            print(f"experiments: {len(made)} pieces; without --seeds the same command judges and reports", flush=True)
        else:
            run(study)
    return 0


if __name__ == "__main__":
    sys.exit(main())
