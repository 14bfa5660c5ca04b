"""Measuring: running means, the metrics log, retrieval recall, and bootstrap intervals.

    means = RunningMeans()
    means.update({"loss": loss, "iou": iou}, count=len(batch))       # stays on the device, no host read
    log.log(step, means.compute(world), split="train", time={"samples_per_s": rate})

`metrics.jsonl` is the record of a run: one JSON object a line, appended in order. A resumed run first rewinds it to the
step of its checkpoint, so no step stands twice; everything that may differ between two equal runs lies under "time".
"""

# T text queries, G gallery images, N samples, S seeds

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .errors import DataError, StorageError
from .storage import storage_error, write_atomic

logger = logging.getLogger(__name__)
RESERVED = ("step", "split", "time")
Number = float | int | Tensor


class World(Protocol):
    """What is asked of the process group here (see run.World)."""

    rank: int
    size: int
    device: torch.device

    def sum(self, tensor: Tensor) -> Tensor: ...

    def gather(self, value: Any) -> list[Any]: ...


# --- running means ----------------------------------------------------------------------------------------------------


class RunningMeans:
    """Means over samples, from means over batches of any size, on any number of processes.

    Sums are kept in float64 on the device the values come from, so updating never waits for the device.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def update(self, values: Mapping[str, Number], count: int) -> None:
        """Add `values`, each a scalar mean over `count` samples; with a count of 0 they are not looked at.

        Raises ValueError for a negative count or a value that is not a scalar.
        """
        if count < 0:
            raise ValueError(f"count {count}: a mean is over at least 0 samples")
        if count == 0:
            return
        for name, value in values.items():
            term = torch.as_tensor(value, dtype=torch.float64).detach()
            if term.numel() != 1:
                raise ValueError(f"{name} has shape {tuple(term.shape)}; give the mean over the {count} samples")
            term = term.reshape(()) * count
            self._sums[name] = self._sums[name] + term if name in self._sums else term
            self._counts[name] = self._counts.get(name, 0) + count

    def compute(self, world: World | None = None) -> dict[str, float]:
        """The means over all samples of all processes (collective when world.size > 1; names may differ by process)."""
        sums, counts = self._totals(world)
        return {name: sums[name] / counts[name] for name in sums}

    def state_dict(self, world: World | None = None) -> dict[str, Any]:
        """Totals over all processes, as plain Python for a checkpoint (collective when world.size > 1)."""
        sums, counts = self._totals(world)
        return {"sums": sums, "counts": counts}

    def load_state_dict(self, state: Mapping[str, Any], world: World | None = None) -> None:
        """Continue from `state`; the totals go to rank 0 alone, so that they count once."""
        mine = world is None or world.rank == 0
        sums = state["sums"] if mine else {}
        self._sums = {name: torch.tensor(value, dtype=torch.float64) for name, value in sums.items()}
        self._counts = {name: int(state["counts"][name]) for name in sums}

    def _totals(self, world: World | None) -> tuple[dict[str, float], dict[str, int]]:
        """Sums and counts over all processes; one host read."""
        names = list(self._sums)
        if world is not None and world.size > 1:  # a process without samples knows no names
            names = list(dict.fromkeys(name for part in world.gather(names) for name in part))
        if not names:
            return {}, {}
        zero = torch.zeros((), dtype=torch.float64)
        device = world.device if world is not None else next(iter(self._sums.values())).device
        sums = torch.stack([self._sums.get(name, zero).to(device) for name in names])
        counts = torch.tensor([self._counts.get(name, 0) for name in names], dtype=torch.float64, device=device)
        both = torch.stack([sums, counts])
        if world is not None:
            both = world.sum(both)
        total, number = both.tolist()
        return dict(zip(names, total, strict=True)), dict(zip(names, map(int, number), strict=True))


# --- the metrics log --------------------------------------------------------------------------------------------------


class MetricsLog:
    """Appends records to `folder`/metrics.jsonl, to TensorBoard (`folder`/tensorboard/<split>), and to W&B if asked.

    wandb: also log to Weights & Biases, in `wandb_mode` ("offline" keeps the record in the folder for `wandb sync`).
        A resumed run begins a new W&B record of the same name.
    Raises ImportError with the remedy when W&B is asked for and not installed, StorageError without the folder.
    """

    def __init__(
        self, folder: Path, wandb: bool = False, *, wandb_mode: str = "offline", tensorboard: bool = True
    ) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "metrics.jsonl"
        self._tensorboard = tensorboard
        if not self.folder.is_dir():
            raise StorageError(f"cannot log to {folder}: it is not a folder; create it first")
        self._writers: dict[str, Any] = {}
        self._purge: dict[str, int] = {}  # split -> step from which TensorBoard must forget
        self._wandb = _start_wandb(self.folder, wandb_mode) if wandb else None
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
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
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
        if split not in self._writers:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            folder = self.folder / "tensorboard" / split.replace("/", "-")
            self._writers[split] = SummaryWriter(str(folder), purge_step=self._purge.pop(split, None))
        for name, value in values.items():
            self._writers[split].add_scalar(name, value, step)

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


def _start_wandb(folder: Path, mode: str) -> Any:
    try:
        import wandb
    except ImportError:
        raise ImportError(
            "logging to Weights & Biases was asked for, but wandb is not installed: "
            "`pip install wandb` (the `wandb` extra), or switch it off"
        ) from None
    return wandb.init(project=folder.parent.name or "runs", name=folder.name, dir=str(folder), mode=mode)


# --- retrieval --------------------------------------------------------------------------------------------------------


def recall_at_k(scores: Tensor, positives: Tensor, ks: Sequence[int]) -> dict[int, float]:
    """Share of the text queries that have at least one positive among their K best-scored images.

    scores: (T, G) float, higher is better; positives: (T, G) bool. K above G counts as G. Equal scores count against
    the query (a constant scorer gets 0, not luck). Raises ValueError for NaN, for other shapes, and for a query
    without any positive. This is CLIP_benchmark's image_retrieval_recall wherever no scores are equal.
    """
    if scores.ndim != 2 or scores.shape != positives.shape or scores.numel() == 0:
        raise ValueError(f"scores {tuple(scores.shape)}, positives {tuple(positives.shape)}: both must be (T, G)")
    if positives.dtype != torch.bool or scores.isnan().any():
        raise ValueError(f"positives are {positives.dtype} (must be bool), NaN scores: {int(scores.isnan().sum())}")
    if any(k < 1 for k in ks):
        raise ValueError(f"K in {list(ks)}: it must be at least 1")
    empty = (~positives.any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"{len(empty)} queries have no positive image (first rows {empty[:5]}); leave them out")
    best = scores.masked_fill(~positives, -math.inf).amax(1, keepdim=True)
    ahead = ((scores >= best) & ~positives).sum(1)  # (T,) wrong images at or before the first right one
    return {k: (ahead < k).double().mean().item() for k in ks}


def recall_chance(gallery: int, positives: int, k: int) -> float:
    """Recall@K of random scores: 1 - C(gallery - positives, k) / C(gallery, k), k clamped to the gallery.

    Raises ValueError unless 1 <= positives <= gallery and k >= 1.
    """
    if not 1 <= positives <= gallery or k < 1:
        raise ValueError(f"gallery {gallery}, positives {positives}, k {k}: need 1 <= positives <= gallery and k >= 1")
    k = min(k, gallery)
    return 1 - math.comb(gallery - positives, k) / math.comb(gallery, k)


# --- intervals --------------------------------------------------------------------------------------------------------


def bootstrap_interval(
    values: np.ndarray,
    groups: Sequence[Any] | None = None,
    statistic: Callable[[np.ndarray], float] = np.mean,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `statistic(values)`: (low, high).

    values: (N, ...), resampled along the first axis; groups: N labels (scenes), whose rows are drawn together, since
    samples of one scene are not independent. (nan, nan) when there are fewer than two groups: there is no interval.
    Raises ValueError when nothing is given, for other lengths, or a level outside (0, 1).
    """
    values = np.asarray(values)
    labels = np.arange(len(values)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if len(values) == 0 or len(labels) != len(values) or not 0 < level < 1:
        raise ValueError(f"{len(values)} values, {len(labels)} group labels, level {level}: nothing to resample")
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels)
    if len(sizes) < 2:
        return math.nan, math.nan
    starts = np.cumsum(sizes) - sizes  # group g holds order[starts[g] : starts[g] + sizes[g]]
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(sizes), size=(samples, len(sizes)))
    results = [statistic(values[order[_spans(starts[draw], sizes[draw])]]) for draw in draws]
    low, high = np.quantile(results, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _spans(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The numbers starts[i] .. starts[i] + sizes[i] - 1 of every i, one after another."""
    ends = np.cumsum(sizes)
    return np.arange(ends[-1]) + np.repeat(starts - ends + sizes, sizes)


@dataclass(frozen=True)
class PairedDifference:
    """Treated minus control on the same samples. `str()` gives the line for a report."""

    mean: float
    low: float
    high: float
    per_seed: tuple[float, ...]

    @property
    def one_sign(self) -> bool:
        return all(d > 0 for d in self.per_seed) or all(d < 0 for d in self.per_seed)

    @property
    def headline(self) -> bool:
        """Whether it may be claimed: five seeds or more, all of one sign, and an interval without 0.

        With three seeds the interval alone is wrong 14 % of the time.
        """
        return len(self.per_seed) >= 5 and self.one_sign and self.low * self.high > 0

    def __str__(self) -> str:
        seeds = ", ".join(f"{d:+.4f}" for d in self.per_seed)
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}], per seed {seeds}"


def paired_difference(
    treated: np.ndarray,
    control: np.ndarray,
    groups: Sequence[Any] | None = None,
    *,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> PairedDifference:
    """Mean of treated - control with its interval, scenes resampled jointly over the seeds.

    treated, control: (S, N) values of the same N samples (in one order) under S seeds; groups: N scene labels.
    Raises ValueError for other shapes.
    """
    treated, control = np.asarray(treated, dtype=np.float64), np.asarray(control, dtype=np.float64)
    if treated.ndim != 2 or treated.shape != control.shape:
        raise ValueError(f"treated {treated.shape}, control {control.shape}: both must be (seeds, samples), paired")
    difference = treated - control
    low, high = bootstrap_interval(difference.T, groups, samples=samples, seed=seed, level=level)
    return PairedDifference(float(difference.mean()), low, high, tuple(difference.mean(axis=1).tolist()))
