"""What are fusion, MSP, MACL, DHN and stage 1 worth? The comparison, in pieces that can be cut and continued.

    python -m llvip_macl.experiments [--quick | --plan FILE] [--work-dir DIR] [--minutes 25]

Every piece is an ordinary run of tools/train.py under one seed; what is finished is not trained again, what was cut
continues where it was, and what changed since is refused. After --minutes the command saves and ends with 143: run it
again until it ends with 0. results/<plan>/ of the work dir: experiments.json, report.html, figures/, pieces/.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.pieces import add_plan_options, hold_to, make_folders, plan_file, time_limit
from shared.run import run_command

from .experiment_plan import DEFAULT_PLAN, PACKAGE_ROOT, QUICK_PLAN, Piece, Plan, read_plan
from .experiment_report import Findings, write_results
from .runtime.preparation import read_config


@dataclass(frozen=True)
class Study:
    """A plan with the bench that does its work (tests give another bench), and the folder of its results."""

    plan: Plan
    bench: Any  # experiment_work.Bench
    folder: Path


def run(study: Study) -> Findings:
    """Train, judge and report what is not there yet. UserError: a piece changed since it was recorded."""
    make_folders(study.folder, "pieces", "figures")
    pieces = train_all(study)
    plan, bench = study.plan, study.bench
    judged = {arm: [bench.judged(Piece(arm, seed)) for seed in plan.seeds] for arm in plan.arms}
    found = Findings(plan, bench.truth(), judged)
    write_results(found, study.folder)
    print(f"experiments: {len(pieces)} pieces", flush=True)
    return found


def train_all(study: Study) -> dict[Piece, Path]:
    """The last checkpoint of every piece, pretrainings first."""
    made: dict[Piece, Path] = {}
    pieces = study.plan.pieces()
    for number, piece in enumerate(pieces, start=1):
        print(f"experiments: {number} of {len(pieces)}: {piece.tag}", flush=True)
        arm = study.plan.arms.get(piece.name)
        start = made[Piece(arm.start, piece.seed)] if arm and arm.start else None
        made[piece] = trained(study, piece, start)
    return made


def trained(study: Study, piece: Piece, start: Path | None) -> Path:
    """The last checkpoint of a piece, and a record of what it was made of. UserError when one of these has changed."""
    record = study.folder / "pieces" / f"{piece.tag}.json"
    settings = digest(study.plan, piece)
    hold_to(record, piece.tag, {"settings": settings}, finished=False)
    study.bench.train(piece, start)
    path = study.bench.checkpoint(piece)
    now = {"settings": settings, "checkpoint": study.bench.sha256(path),
           "start": study.bench.sha256(start) if start else None}  # fmt: skip
    hold_to(record, piece.tag, now)
    return path


def digest(plan: Plan, piece: Piece) -> str:
    """Of a piece's config, with all it inherits, and its options."""
    config = read_config(str(plan.config_of(piece.name)))
    content = [config.to_dict(), *plan.options_of(piece)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


# --- the command ------------------------------------------------------------------------------------------------------


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m llvip_macl.experiments",
        description="Single modalities, fusion, MSP, MACL, DHN, stage 1. The same command continues a cut comparison.",
        allow_abbrev=False,
    )
    add_plan_options(parser, "--plan", str(DEFAULT_PLAN.relative_to(PACKAGE_ROOT)), "a few pairs, one epoch")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/experiments"), help="(default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    args = parse(argv)
    return run_command(lambda: _execute(args))


def _execute(args: argparse.Namespace) -> int:
    plan = read_plan(plan_file(args, "--plan", DEFAULT_PLAN, QUICK_PLAN))
    from . import register  # noqa: F401 - once here, for all children
    from .experiment_work import Bench

    with time_limit(args.minutes):
        run(Study(plan, Bench(plan, args.work_dir), args.work_dir / "results" / plan.name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
