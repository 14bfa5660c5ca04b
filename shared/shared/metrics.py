"""Measuring: running means, retrieval recall, and bootstrap intervals.

    means = RunningMeans()
    means.update({"loss": loss, "iou": iou}, count=len(batch))       # stays on the device, no host read
    means.compute(world)                                             # over all samples of all processes

The log of what was measured is `metrics_log`'s; its names stand here too.
"""

# T text queries, G gallery images, N samples, S seeds

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .metrics_log import MetricsLog, Number, read_records

if TYPE_CHECKING:
    from .run import World

__all__ = [
    "MetricsLog",
    "PairedDifference",
    "RunningMeans",
    "bootstrap_interval",
    "paired_difference",
    "read_records",
    "recall_at_k",
    "recall_chance",
]


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
