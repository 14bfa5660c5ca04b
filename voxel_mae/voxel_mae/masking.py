"""Which voxels the student sees: metric, centred at the sensor, one draw a sample, no loop over voxels.

    mask, shares = mask_batch(batch, grid, TwoStage(), [mask_rng(seed, epoch, index), ...])
    student_input = batch.select(mask);   log(shares.metrics())     # keep, keep_0_10m, keep_10_30m, keep_30m_up

    kind          sectors (stage 1)                       voxels inside (stage 2)             far voxels are
    radial        a fixed number, round((1-m) S)          all (at least least_keep)           kept alike
    range_aware   as radial (or none)                     keep min(1, (1-m) + extra[band])    kept MORE ([R-MAE])
    range_only    none                                    mask with mask_probs[band]          kept LESS
    two_stage     each with probability 1-m               mask with mask_probs[band]          kept LESS (the note)
    calibrated    each with g = min(1, (1-m) / share)     mask with mask_probs[band]          kept LESS, 1-m overall

S counts the sectors that hold a voxel. In two_stage the stages multiply, so its realised share is far below 1-m; that
is why `calibrated` divides by `share`, the share that stage 2 keeps. No mask is empty or full:
see `_neither_empty_nor_full`. Every field of a kind changes its masks; what a kind does not use it does not have.
"""

# B samples, V voxels, G sectors, K range bands

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from shared.errors import ConfigError

from .grid import Grid
from .voxelize import VoxelBatch

REPORT_BANDS_M = (10.0, 30.0)  # of the realised shares that a run logs
MASK_STREAM = 1  # keeps a sample's mask apart from its augmentation, which draws from (seed, epoch, index) alone


def mask_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator of one sample's mask in one epoch, whichever process draws it."""
    return np.random.default_rng(np.random.SeedSequence((seed, epoch, index), spawn_key=(MASK_STREAM,)))


# --- geometry ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Polar:
    """Voxel centres of one sample seen from its sensor: dx, dy (V,) float64 metres."""

    dx: np.ndarray
    dy: np.ndarray

    def __len__(self) -> int:
        return len(self.dx)

    @cached_property
    def squared_m2(self) -> np.ndarray:
        """(V,) float64: horizontal distance, squared."""
        return self.dx * self.dx + self.dy * self.dy

    def sectors(self, count: int) -> np.ndarray:
        """(V,) int64, 0..count-1: floor((theta + pi) / (2 pi) count) mod count; 0 begins at -x, counter-clockwise."""
        turns = torch.atan2(torch.from_numpy(self.dy), torch.from_numpy(self.dx)).numpy()  # vectorised on every CPU
        turns += math.pi
        turns *= count / (2 * math.pi)
        sector = turns.astype(np.int64)  # turns >= 0, so cutting off is the floor
        if sector.max(initial=0) == count:  # theta = pi, where the circle closes
            sector[sector == count] = 0
        return sector

    def bands(self, limits_m: Sequence[float]) -> np.ndarray:
        """(V,) int8, 0..K-1: how many of the limits the horizontal distance exceeds (r <= limit is inside)."""
        band = np.zeros(len(self), np.int8)
        for limit in limits_m:
            band += self.beyond(limit)
        return band

    def beyond(self, limit_m: float) -> np.ndarray:
        """(V,) bool."""
        return self.squared_m2 > limit_m * limit_m


def seen_from(coords: Tensor, grid: Grid, sensor_xy: Tensor | Sequence[float]) -> Polar:
    """coords (V, 3 or 4: [sample], z, y, x) on the CPU; sensor_xy (2,) metres."""
    cells, (sensor_x, sensor_y) = coords.numpy(), map(float, sensor_xy)
    dx, dy = cells[:, -1] * grid.voxel_m[0], cells[:, -2] * grid.voxel_m[1]
    dx += grid.range_m[0] + grid.voxel_m[0] / 2 - sensor_x
    dy += grid.range_m[1] + grid.voxel_m[1] / 2 - sensor_y
    return Polar(dx, dy)


# --- kinds ------------------------------------------------------------------------------------------------------------


class Masking(Protocol):
    """What `mask_batch` asks of a kind."""

    def draw(self, polar: Polar, rng: np.random.Generator) -> np.ndarray:
        """(V,) bool, True where a voxel is kept."""


@dataclass(frozen=True)
class Radial:
    """R-MAE: whole sectors. ratio: share of the non-empty sectors that is masked; sectors: of the full circle;
    least_keep: where the drawn sectors hold a smaller share of the voxels, that share is kept at random instead
    ([R-MAE] with 0.1; 0: never)."""

    ratio: float = 0.8
    sectors: int = 36
    least_keep: float = 0.0

    def __post_init__(self):
        _check_ratio(self.ratio)
        _check_sectors(self.sectors)
        if not 0 <= self.least_keep < 1:
            raise ConfigError(f"masking: least_keep {self.least_keep} must lie in [0, 1); R-MAE has 0.1, 0 is never")

    def draw(self, polar: Polar, rng: np.random.Generator) -> np.ndarray:
        kept = _fixed_number_of_sectors(polar.sectors(self.sectors), self.sectors, self.ratio, rng)
        if np.count_nonzero(kept) >= self.least_keep * len(kept):
            return kept
        return _table(rng.choice(len(kept), _rounded(self.least_keep * len(kept)), replace=False), len(kept))


@dataclass(frozen=True)
class RangeAware:
    """R-MAE's second stage inside radial sectors; Occupancy-MAE's masking with sectors None and extra (0, .2, .2)."""

    ratio: float = 0.8
    sectors: int | None = 36
    bands_m: tuple[float, ...] = (30.0, 50.0)
    extra_keep: tuple[float, ...] = (0.0, 0.2, 0.4)

    def __post_init__(self):
        _check_ratio(self.ratio)
        if self.sectors is not None:
            _check_sectors(self.sectors)
        _check_bands(self.bands_m, self.extra_keep, "extra_keep")

    def draw(self, polar: Polar, rng: np.random.Generator) -> np.ndarray:
        wanted = np.minimum(1.0, (1 - self.ratio) + np.array(self.extra_keep))
        kept = rng.random(len(polar)) < wanted[polar.bands(self.bands_m)]
        if self.sectors is None:
            return kept
        return kept & _fixed_number_of_sectors(polar.sectors(self.sectors), self.sectors, self.ratio, rng)


@dataclass(frozen=True)
class RangeOnly:
    """Bernoulli by distance alone: mask_probs for r <= bands_m[0], up to bands_m[1], ..., and beyond the last."""

    bands_m: tuple[float, ...] = (10.0, 30.0)
    mask_probs: tuple[float, ...] = (0.5, 0.75, 0.9)

    def __post_init__(self):
        _check_bands(self.bands_m, self.mask_probs, "mask_probs")

    def draw(self, polar: Polar, rng: np.random.Generator) -> np.ndarray:
        return rng.random(len(polar)) >= np.array(self.mask_probs)[polar.bands(self.bands_m)]


@dataclass(frozen=True)
class TwoStage:
    """The note's masking: a sector is kept with probability 1 - ratio, and inside it Bernoulli by distance."""

    ratio: float = 0.8
    sectors: int = 36
    bands_m: tuple[float, ...] = (10.0, 30.0)
    mask_probs: tuple[float, ...] = (0.5, 0.75, 0.9)

    def __post_init__(self):
        _check_ratio(self.ratio)
        _check_sectors(self.sectors)
        _check_bands(self.bands_m, self.mask_probs, "mask_probs")

    def draw(self, polar: Polar, rng: np.random.Generator) -> np.ndarray:
        keep_probs = (1 - np.array(self.mask_probs))[polar.bands(self.bands_m)]
        inside = rng.random(len(polar)) < keep_probs
        return inside & _sectors_by_chance(polar.sectors(self.sectors), self.sectors, self._chance(keep_probs), rng)

    def _chance(self, keep_probs: np.ndarray) -> float:
        return 1 - self.ratio


@dataclass(frozen=True)
class Calibrated(TwoStage):
    """TwoStage whose sectors are kept so often that the expected share of all kept voxels is 1 - ratio (where that is
    possible: stage 2 alone may keep less)."""

    def _chance(self, keep_probs: np.ndarray) -> float:
        return calibrated_chance(self.ratio, keep_probs)


KINDS: dict[str, Callable[..., Masking]] = {
    "radial": Radial,
    "range_aware": RangeAware,
    "range_only": RangeOnly,
    "two_stage": TwoStage,
    "calibrated": Calibrated,
}


def calibrated_chance(ratio: float, keep_probs: np.ndarray) -> float:
    """g = min(1, (1 - ratio) / mean keep_probs) for voxels that stage 2 keeps with keep_probs (V,)."""
    share = float(keep_probs.mean()) if len(keep_probs) else 0.0
    return 1.0 if share <= 1 - ratio else (1 - ratio) / share


def _fixed_number_of_sectors(sector: np.ndarray, count: int, ratio: float, rng: np.random.Generator) -> np.ndarray:
    filled = np.flatnonzero(_table(sector, count))
    kept = rng.choice(filled, _rounded((1 - ratio) * len(filled)), replace=False) if len(filled) else filled
    return _table(kept, count).take(sector)


def _rounded(number: float) -> int:
    return max(1, math.floor(number + 0.5))


def _sectors_by_chance(sector: np.ndarray, count: int, chance: float, rng: np.random.Generator) -> np.ndarray:
    """Every sector for itself; when none of the filled ones is drawn, one of them."""
    drawn = rng.random(count) < chance
    filled = np.flatnonzero(_table(sector, count))
    if len(filled) and not drawn[filled].any():
        drawn[rng.choice(filled)] = True
    return drawn.take(sector)


def _table(rows: np.ndarray, count: int) -> np.ndarray:
    """(count,) bool, True at the rows."""
    table = np.zeros(count, bool)
    table[rows] = True
    return table


# --- a batch ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class KeepShares:
    """Realised shares: kept, total (K,) int64 voxels of the batch by range band, limits_m (K-1,) between the bands."""

    kept: np.ndarray
    total: np.ndarray
    limits_m: tuple[float, ...] = REPORT_BANDS_M

    @property
    def overall(self) -> float:
        """Share of all voxels that is kept; NaN without voxels."""
        return float(self.kept.sum() / self.total.sum()) if self.total.sum() else math.nan

    def metrics(self) -> dict[str, float]:
        """By name: keep, keep_0_10m, ...; a band without voxels is left out."""
        edges = [f"{limit:g}" for limit in (0, *self.limits_m)]
        names = [f"keep_{a}_{b}m" for a, b in itertools.pairwise(edges)] + [f"keep_{edges[-1]}m_up"]
        shares = {name: float(k / n) for name, k, n in zip(names, self.kept, self.total, strict=True) if n}
        return {"keep": self.overall, **shares} if shares else {}


def mask_batch(
    batch: VoxelBatch, grid: Grid, masking: Masking, rngs: Sequence[np.random.Generator]
) -> tuple[Tensor, KeepShares]:
    """Draw every sample's mask from its own generator.

    Args:
        batch: its samples' voxels stand together, in order. It may lie on any device; the draw happens on the CPU.
        rngs: B generators, see `mask_rng`.

    Returns:
        (V,) bool on the batch's device, True where the student sees the voxel; and the realised shares.
    """
    if len(rngs) != batch.batch_size:
        raise ValueError(f"{len(rngs)} generators for {batch.batch_size} samples: each sample has its own draw")
    parts, keeps, counts = batch.coords.cpu().split(batch.sizes()), [], []
    for part, sensor, rng in zip(parts, batch.sensor_xy.tolist(), rngs, strict=True):
        polar = seen_from(part, grid, sensor)
        keep = _neither_empty_nor_full(masking.draw(polar, rng), rng)
        keeps.append(keep)
        counts.append(_counts_by_band(keep, polar))
    kept, total = np.sum(counts, axis=0)
    return torch.from_numpy(np.concatenate(keeps)).to(batch.coords.device), KeepShares(kept, total)


def _counts_by_band(keep: np.ndarray, polar: Polar) -> tuple[list[int], list[int]]:
    """Kept voxels and all voxels in each band of REPORT_BANDS_M: a band holds what is beyond its near limit, less what
    is beyond its far one."""
    beyond = [polar.beyond(limit) for limit in REPORT_BANDS_M]
    kept = [np.count_nonzero(keep), *(np.count_nonzero(keep & far) for far in beyond), 0]
    total = [len(keep), *(np.count_nonzero(far) for far in beyond), 0]
    return tuple([near - far for near, far in itertools.pairwise(numbers)] for numbers in (kept, total))


def _neither_empty_nor_full(keep: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A draw that keeps nothing keeps one voxel instead, one that keeps all masks one (the only voxel of a sample stays
    visible; a sample without voxels has no mask)."""
    if len(keep) and not keep.any():
        return _table(rng.integers(len(keep)), len(keep))
    if len(keep) > 1 and keep.all():
        return ~_table(rng.integers(len(keep)), len(keep))
    return keep


# --- checks -----------------------------------------------------------------------------------------------------------


def _check_ratio(ratio: float) -> None:
    if not 0 < ratio < 1:
        raise ConfigError(
            f"masking: ratio {ratio} must lie between 0 and 1; where nothing is to be masked (fine-tuning, evaluation) "
            "leave the masking out"
        )


def _check_sectors(count: int) -> None:
    if not 2 <= count <= 36_000:
        raise ConfigError(f"masking: {count} sectors; a circle has 2 to 36,000 of them (36 are 10 degrees each)")


def _check_bands(limits_m: Sequence[float], values: Sequence[float], name: str) -> None:
    if len(values) != len(limits_m) + 1:
        raise ConfigError(
            f"masking: {len(values)} {name} for {len(limits_m)} distance limits; there is one more range band than "
            "limits (nearer than the first, between them, beyond the last)"
        )
    if list(limits_m) != sorted(set(limits_m)) or any(not 0 < limit < math.inf for limit in limits_m):
        raise ConfigError(f"masking: distance limits {list(limits_m)} m must be above 0 and ascend")
    if not all(0 <= value <= 1 for value in values):
        raise ConfigError(f"masking: {name} {list(values)} must lie between 0 and 1")
