"""How sure a mean over images is: rooms are resampled within their locations, jointly over the seeds.

Images of one room are near-duplicates, so a room is what is drawn, and every location keeps its share of rooms: an
interval says how the mean would move with other rooms of the same buildings. A data set that records no rooms (each
location is one room, as in BatVision V2) has nothing to draw within a location; there the locations themselves are
drawn, and `unit` says so.
"""

# N images, S seeds, R rooms, D draws

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shared.metrics import PairedDifference

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Scenes:
    """The room and the location of each of N images."""

    rooms: tuple[str, ...]
    locations: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.rooms) != len(self.locations) or not self.rooms:
            raise ValueError(f"{len(self.rooms)} rooms, {len(self.locations)} locations: one of each for every image")

    @property
    def unit(self) -> str:
        """What is drawn: "rooms within locations", or "locations" where no location has a second room."""
        homes = {place: set() for place in self.locations}
        for room, place in zip(self.rooms, self.locations, strict=True):
            homes[place].add(room)
        return "rooms within locations" if max(map(len, homes.values())) > 1 else "locations"

    def indices(self) -> tuple[np.ndarray, np.ndarray]:
        """(room of each image (N,), location of each room (R,)), numbered; two locations may name a room alike."""
        names = np.array([f"{place}\0{room}" for place, room in zip(self.locations, self.rooms, strict=True)])
        _, first, room = np.unique(names, return_index=True, return_inverse=True)
        home = np.unique(np.array(self.locations)[first], return_inverse=True)[1]
        return room, home


def room_weights(scenes: Scenes, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """(D, R): how often each room is drawn, with replacement, each location as often as it has rooms."""
    _, home = scenes.indices()
    strata = [np.flatnonzero(home == place) for place in np.unique(home)]
    if scenes.unit == "locations":
        strata = [np.arange(len(home))]
    rng = np.random.default_rng(seed)
    weights = np.zeros((draws, len(home)))
    for rooms in strata:
        weights[:, rooms] = rng.multinomial(len(rooms), np.full(len(rooms), 1 / len(rooms)), size=draws)
    return weights


def interval(
    values: np.ndarray, counted: np.ndarray, scenes: Scenes, *, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the mean over counted images and seeds. values: (S,N); counted: (N,) bool.

    (nan, nan) when only one thing could be drawn. Raises ValueError for other shapes or without a counted image.
    """
    values = _checked(values, counted, scenes)
    weights = room_weights(scenes, draws, seed)
    if weights.shape[1] < 2:
        return float("nan"), float("nan")
    room, home = scenes.indices()
    sums = np.bincount(room, np.where(counted, values.mean(0), 0.0), minlength=len(home))
    counts = np.bincount(room, counted, minlength=len(home))
    drawn = weights @ counts
    means = (weights @ sums)[drawn > 0] / drawn[drawn > 0]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def paired(
    treated: np.ndarray, control: np.ndarray, counted: np.ndarray, scenes: Scenes, *, draws: int = DRAWS, seed: int = 0
) -> PairedDifference:
    """Mean of treated - control on the same images under the same seeds: values (S,N) each, counted (N,) bool."""
    if np.shape(treated) != np.shape(control):
        raise ValueError(f"treated {np.shape(treated)}, control {np.shape(control)}: both must be (seeds, images)")
    difference = _checked(np.asarray(treated, float) - np.asarray(control, float), counted, scenes)
    low, high = interval(difference, counted, scenes, draws=draws, seed=seed)
    by_seed = difference[:, np.asarray(counted)].mean(1)
    return PairedDifference(float(by_seed.mean()), low, high, tuple(by_seed.tolist()))


def _checked(values: np.ndarray, counted: Sequence[bool] | np.ndarray, scenes: Scenes) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != len(counted) or len(counted) != len(scenes.rooms):
        raise ValueError(f"values {values.shape}, counted {len(counted)}, rooms {len(scenes.rooms)}: (seeds, images)")
    if not np.any(counted):
        raise ValueError("no image counts: every one has too few valid pixels under this protocol")
    return values
