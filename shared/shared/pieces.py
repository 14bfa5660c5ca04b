"""A comparison in pieces: trainings that can be cut, continued, and never mixed with those of another plan.

with time_limit(25):                        # then SIGTERM: the training at hand saves, and the command ends with 143
    for piece in plan.pieces():
        checkpoint = train(piece)
        hold_to(folder / f"{piece}.json", piece, {"settings": digest, "checkpoint": sha256(checkpoint)})
"""

import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import DataError, UserError
from .storage import storage_error, write_atomic


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
    try:
        for name in names:
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error


def recorded(path: Path) -> dict[str, Any] | None:
    """What a JSON record says; None without one. DataError for a broken one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}): remove it and run the same command again") from None


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
            f"studies. Give the plan another name, or remove {record} and the piece's run"
        )
