"""A comparison in pieces: trainings that can be cut, continued, and never mixed with those of another plan.

with time_limit(25):                        # then SIGTERM: the training at hand saves, and the command ends with 143
    for piece in plan.pieces():
        checkpoint = train(piece)
        hold_to(folder / f"{piece}.json", piece, {"settings": digest, "checkpoint": sha256(checkpoint)})
"""

import argparse
import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UserError
from .json_files import read_json
from .storage import make_folder, write_atomic

MINUTES = 25.0


def add_plan_options(parser: argparse.ArgumentParser, flag: str, default: str, quick: str) -> None:
    """The plan's file as `flag`, --quick and --minutes. In the help: default, the plan's name; quick, what it tries."""
    parser.add_argument(flag, dest="plan", type=Path, metavar="FILE", help=f"the plan (default: {default})")
    parser.add_argument("--quick", action="store_true", help=f"{quick}: tries the command, measures nothing")
    limit = "stop after so long with exit code 143; the same command continues (default: %(default)s)"
    parser.add_argument("--minutes", type=float, default=MINUTES, help=limit)


def plan_file(args: argparse.Namespace, flag: str, default: Path, quick: Path) -> Path:
    """The plan's file that these options ask for. UserError: --quick and a file."""
    if args.quick and args.plan:
        raise UserError(f"--quick has a plan of its own: give --quick or {flag}, not both")
    return args.plan or (quick if args.quick else default)


@contextmanager
def time_limit(minutes: float) -> Iterator[None]:
    """SIGTERM to this process when the time is over."""
    timer = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def make_folders(folder: Path, *names: str) -> None:
    """Make folders below `folder`. StorageError when the file system refuses."""
    for name in names:
        make_folder(folder / name, folder)


def recorded(path: Path) -> dict[str, Any] | None:
    """What a JSON record says; None without one. DataError for a broken one."""
    return read_json(path, "remove it and run the same command again") if path.exists() else None


def hold_to(record: Path, piece: str, now: Mapping[str, Any], *, finished: bool = True) -> None:
    """Write down what a finished piece was made of, or hold it to what was written.

    finished: False compares only, for what is known before the training.

    Raises:
        UserError: something changed since, so that the comparison would mix two studies.
    """
    before = recorded(record)
    if before is None:
        if finished:
            write_atomic(record, json.dumps(dict(now), indent=1) + "\n")
        return
    changed = [key for key in now if before.get(key) != now[key]]
    if changed:
        raise UserError(
            f"{piece}: its {' and '.join(changed)} changed since {record} was written: the comparison would mix two "
            f"studies. Give the plan another name or folder, or remove {record} and the piece's run"
        )
