"""The record of a run: metrics.jsonl, with TensorBoard and, if asked, W&B beside it.

    log = MetricsLog(folder)
    log.log(step, means.compute(world), split="train", time={"samples_per_s": rate})

One JSON object a line, appended in order. A resumed run first rewinds it to the step of its checkpoint, so no step
stands twice; everything that may differ between two equal runs lies under "time".
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .errors import DataError, StorageError
from .storage import storage_error, write_atomic

logger = logging.getLogger(__name__)
RESERVED = ("step", "split", "time")
Number = float | int | Tensor


class MetricsLog:
    """Appends records to `folder`/metrics.jsonl, to TensorBoard (`folder`/tensorboard/<split>), and to W&B if asked.

    wandb: a started run (`shared.wandb_run`) that gets every record too; closing this closes it.
    Raises StorageError without the folder.
    """

    def __init__(self, folder: Path, wandb: Any | None = None, *, tensorboard: bool = True) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "metrics.jsonl"
        self._tensorboard = tensorboard
        if not self.folder.is_dir():
            raise StorageError(f"cannot log to {folder}: it is not a folder; create it first")
        self._writers: dict[str, Any] = {}
        self._purge: dict[str, int] = {}  # split -> step from which TensorBoard must forget
        self._wandb = wandb
        self._wandb_splits: set[str] = set()
        self._keep(lambda end, record: True)  # a torn last line would swallow the next record

    def log(
        self, step: int, values: Mapping[str, Number], *, split: str, time: Mapping[str, Number] | None = None
    ) -> None:
        """Write one record: {"step", "split", the values, "time": {what may differ between equal runs}}.

        Values are scalars; NaN and infinities are written as the strings "nan", "inf", "-inf" (plain JSON knows none).
        Raises ValueError for a value named step, split or time, or one that is not a scalar; StorageError when the disk
        is full.
        """
        taken = [name for name in RESERVED if name in values]
        if taken:
            raise ValueError(f"a value cannot be named {taken[0]!r}: the record itself has that key")
        numbers = {name: _scalar(name, value) for name, value in values.items()}
        times = {name: _scalar(name, value) for name, value in (time or {}).items()}
        record = {"step": step, "split": split, **_writable(numbers)}
        if times:
            record["time"] = _writable(times)
        self._append((json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode())
        everything = numbers | {f"time/{name}": value for name, value in times.items()}
        self._log_tensorboard(step, everything, split)
        self._log_wandb(step, everything, split)

    def rewind(self, split_prefix: str | None, step: int = -1) -> None:
        """Forget the records after `step` whose split begins with `split_prefix` (None: of every split).

        The file is replaced atomically; the lines that stay are byte for byte the same. Raises DataError for a broken
        line that is not the last.
        """
        prefix = split_prefix or ""
        self._keep(lambda end, record: not (record["split"].startswith(prefix) and record["step"] > step))

    def position(self) -> int:
        """Length of metrics.jsonl in bytes: save it in a checkpoint, give it to `truncate` on resume."""
        return self.path.stat().st_size if self.path.exists() else 0

    def truncate(self, position: int) -> None:
        """Forget everything logged since `position`; as `rewind`, but exact where several stages share step numbers."""
        if self.position() < position:
            logger.warning("%s is shorter than at the checkpoint: records before it were lost", self.path)
        self._keep(lambda end, record: end <= position)

    def close(self) -> None:
        """Finish the TensorBoard and W&B records; metrics.jsonl needs no closing."""
        while self._writers:
            split, writer = self._writers.popitem()
            with self._events_of(split):
                writer.close()
        if self._wandb is not None:
            self._wandb.finish()
            self._wandb = None

    def _keep(self, wanted: Callable[[int, dict], bool]) -> None:
        """Drop the lines that are not `wanted` (called with the byte where the line ends), and a torn last one."""
        if not self.path.exists():
            return
        before, kept, end = self.path.read_bytes(), [], 0
        for line, record in _lines(before, self.path):
            end += len(line) + 1
            if wanted(end, record):
                kept.append(line + b"\n")
            else:
                self._forget(record["split"], record["step"])
        if b"".join(kept) != before:
            write_atomic(self.path, b"".join(kept))

    def _forget(self, split: str, step: int) -> None:
        """TensorBoard hides what it has of `split` from `step` on when its next writer starts."""
        self._purge[split] = min(step, self._purge.get(split, step))
        if split in self._writers:
            self._writers.pop(split).close()

    def _append(self, line: bytes) -> None:
        try:
            with self.path.open("ab") as file:  # opened anew each time: a rewind replaces the file
                file.write(line)
        except OSError as error:
            raise storage_error(self.path, error, len(line)) from error

    def _log_tensorboard(self, step: int, values: Mapping[str, float], split: str) -> None:
        if not self._tensorboard:
            return
        with self._events_of(split) as folder:
            if split not in self._writers:
                from torch.utils.tensorboard import SummaryWriter  # slow to import

                self._writers[split] = SummaryWriter(str(folder), purge_step=self._purge.pop(split, None))
            for name, value in values.items():
                self._writers[split].add_scalar(name, value, step)

    @contextlib.contextmanager
    def _events_of(self, split: str) -> Iterator[Path]:
        """The folder of a split's events. TensorBoard writes in a thread of its own and fails at some later call."""
        folder = self.folder / "tensorboard" / split.replace("/", "-")
        try:
            yield folder
        except OSError as error:
            raise storage_error(folder, error) from error

    def _log_wandb(self, step: int, values: Mapping[str, float], split: str) -> None:
        if self._wandb is None:
            return
        if split not in self._wandb_splits:  # its own step axis: W&B's single one refuses steps that go back
            self._wandb_splits.add(split)
            self._wandb.define_metric(f"{split}/*", step_metric=f"{split}/step")
        self._wandb.log({f"{split}/{name}": value for name, value in values.items()} | {f"{split}/step": step})


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl in order, numbers as numbers again; a torn last line is left out.

    Raises DataError for a missing file or a broken line that is not the last.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the metrics {path}: {error.strerror}; has the run logged anything yet?") from None
    return [_readable(record) for _, record in _lines(data, Path(path))]


def _lines(data: bytes, path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each whole line with its record; a last line that was cut short is left out."""
    lines = data.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or "step" not in record or "split" not in record:
                raise ValueError("no record with step and split")
        except ValueError as error:
            if number == len(lines):
                logger.warning("%s: the last line was cut short and is left out", path)
                return
            raise DataError(f"{path} line {number} is broken ({error}); mend or remove that line") from None
        yield line, record


def _scalar(name: str, value: Number) -> float | int:
    if isinstance(value, Tensor | np.generic | np.ndarray):
        if math.prod(value.shape) != 1:
            raise ValueError(f"{name} has shape {tuple(value.shape)}; the log takes scalars")
        value = value.item()
    if not isinstance(value, int | float):
        raise ValueError(f"{name} is {value!r}, a {type(value).__name__}; the log takes numbers")
    return value


def _writable(values: Mapping[str, float]) -> dict[str, float | str]:
    return {name: value if math.isfinite(value) else str(value) for name, value in values.items()}


def _readable(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value if name == "split" else _number(value) for name, value in record.items()}


def _number(value: Any) -> Any:
    if isinstance(value, dict):
        return _readable(value)
    return float(value) if value in ("nan", "inf", "-inf") else value
