"""What are fusion, MSP, MACL, DHN and stage 1 worth? The comparison, in pieces that can be cut and continued.

    python -m llvip_macl.experiments [--quick | --plan FILE] [--work-dir DIR] [--minutes 25]

Every piece is an ordinary run of tools/train.py under one seed; what is finished is not trained again, what was cut
continues where it was, and what changed since is refused. After --minutes the command saves and ends with 143: run it
again until it ends with 0. results/<plan>/ of the work dir: experiments.json, report.html, figures/, pieces/.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import DataError, UserError
from shared.run import run_command
from shared.storage import storage_error, write_atomic

from .experiment_plan import DEFAULT_PLAN, PACKAGE_ROOT, QUICK_PLAN, Piece, Plan, read_plan
from .experiment_report import Findings, write_results

MINUTES = 25.0


@dataclass(frozen=True)
class Study:
    """A plan with the bench that does its work (tests give another bench), and the folder of its results."""

    plan: Plan
    bench: Any  # experiment_work.Bench
    folder: Path


def run(study: Study) -> Findings:
    """Train, judge and report what is not there yet. UserError: a piece changed since it was recorded."""
    _make_folders(study.folder)
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
    before = _recorded(record)
    settings = digest(study.plan, piece)
    _refuse_change(piece, record, before, {"settings": settings})
    study.bench.train(piece, start)
    path = study.bench.checkpoint(piece)
    now = {"settings": settings, "checkpoint": study.bench.sha256(path),
           "start": study.bench.sha256(start) if start else None}  # fmt: skip
    _refuse_change(piece, record, before, now)
    if not before:
        write_atomic(record, json.dumps(now, indent=1) + "\n")
    return path


def digest(plan: Plan, piece: Piece) -> str:
    """Of a piece's config file and its options."""
    content = [plan.config_of(piece.name).read_text(encoding="utf-8"), *plan.options_of(piece)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _refuse_change(piece: Piece, record: Path, before: dict, now: dict) -> None:
    changed = [key for key in now if before and before.get(key) != now[key]]
    if changed:
        raise UserError(
            f"{piece.tag}: its {' and '.join(changed)} changed since {record} was written: the comparison would mix "
            f"two studies. Give the plan another name, or remove {record} and the piece's run."
        )


def _recorded(path: Path) -> dict:
    """What a record says; empty without one. DataError for a broken one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}): remove it and run the same command again.") from None


def _make_folders(folder: Path) -> None:
    try:
        for name in ("pieces", "figures"):
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error


# --- the command ------------------------------------------------------------------------------------------------------


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m llvip_macl.experiments",
        description="Single modalities, fusion, MSP, MACL, DHN, stage 1. The same command continues a cut comparison.",
        allow_abbrev=False,
    )
    default = DEFAULT_PLAN.relative_to(PACKAGE_ROOT)
    parser.add_argument("--plan", type=Path, metavar="FILE", help=f"the plan (default: {default})")
    parser.add_argument(
        "--quick", action="store_true", help="a few pairs, one epoch: tries the command, measures nothing"
    )
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/experiments"), help="(default: %(default)s)")
    limit = "stop after so long with exit code 143; the same command continues (default: %(default)s)"
    parser.add_argument("--minutes", type=float, default=MINUTES, help=limit)
    return parser.parse_args(argv)


@contextmanager
def time_limit(minutes: float) -> Iterator[None]:
    """SIGTERM to this process when the time is over: the training saves, and the command ends with 143."""
    timer = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    args = parse(argv)
    return run_command(lambda: _execute(args))


def _execute(args: argparse.Namespace) -> int:
    if args.quick and args.plan:
        raise UserError("--quick has a plan of its own: give --quick or --plan, not both.")
    plan = read_plan(args.plan or (QUICK_PLAN if args.quick else DEFAULT_PLAN))
    from . import register  # noqa: F401 - once here, for all children
    from .experiment_work import Bench

    with time_limit(args.minutes):
        run(Study(plan, Bench(plan, args.work_dir), args.work_dir / "results" / plan.name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
