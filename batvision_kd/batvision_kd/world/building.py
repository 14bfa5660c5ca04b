"""Buildings and their rooms: sizes, materials, furniture, and where the rig stands.

A building has its own taste (room sizes, how absorbing its surfaces are, how much furniture of which kinds, colours and
patterns), and its rooms are drawn from that. So rooms of one building resemble each other, and a building that was
never heard is news.

Frames: metres; x and y along the walls from a corner, z up from the floor. A room is the box 0..size.
"""

# F surfaces: 6 of the room (x low, x high, y low, ... z high), then 6 of every body; K bodies; B octave bands

from dataclasses import dataclass

import numpy as np

from .surfaces import Look, Taste, make_look, make_taste

BANDS_HZ = np.array([250.0, 500, 1000, 2000, 4000, 8000, 16000])  # centres; the outer ones reach to 0 and to Nyquist
KINDS = ("cabinet", "table", "sofa", "column", "crate")
WALL_GAP_M = 0.35  # rig to wall at least
BODY_GAP_M = 0.3  # rig to furniture at least
FLOOR, CEILING = 4, 5


@dataclass(frozen=True, eq=False)
class Building:
    """What the rooms of one building have in common."""

    side_m: float  # typical length of a wall
    elongation: float  # standard deviation of the logarithm of a side: corridors and squares
    height_m: float
    absorption: np.ndarray  # (3, B) energy share: walls, floor, ceiling
    body_absorption: np.ndarray  # (B,)
    scattering: float  # of walls, energy share that leaves diffusely
    bodies: float  # mean number of pieces of furniture on 25 square metres
    kinds: np.ndarray  # (KINDS,) shares
    colours: np.ndarray  # (8, 3) 0..1: walls, floor, ceiling, five of furniture
    glass: float  # share of surfaces that a depth camera does not see
    taste: Taste


@dataclass(frozen=True, eq=False)
class Room:
    """A room with its furniture. bodies_m (K, 2, 3): low and high corners."""

    size_m: np.ndarray  # (3,)
    bodies_m: np.ndarray
    absorption: np.ndarray  # (F, B)
    scattering: np.ndarray  # (F,)
    colours: np.ndarray  # (F, 3)
    glass: np.ndarray  # (F,) bool
    look: Look


@dataclass(frozen=True, eq=False)
class Rig:
    """Camera, speaker and ears in one place. yaw: of the view, counted from x to y (radians)."""

    position_m: np.ndarray  # (3,) between the ears
    yaw: float

    @property
    def forward(self) -> np.ndarray:
        return np.array([np.cos(self.yaw), np.sin(self.yaw), 0.0])

    @property
    def left(self) -> np.ndarray:
        return np.array([-np.sin(self.yaw), np.cos(self.yaw), 0.0])


def make_building(seed: int, number: int) -> Building:
    """The building of this number in the world of this seed."""
    rng = np.random.default_rng((seed, 1, number))
    return Building(
        side_m=float(np.exp(rng.uniform(np.log(3.5), np.log(9.0)))),
        elongation=rng.uniform(0.1, 0.4),
        height_m=rng.uniform(2.4, 4.0),
        absorption=np.stack([_absorption(rng, least, most) for least, most in ((0.03, 0.2), (0.02, 0.4), (0.05, 0.5))]),
        body_absorption=_absorption(rng, 0.08, 0.4),
        scattering=rng.uniform(0.05, 0.2),
        bodies=rng.uniform(3.0, 10.0),
        kinds=rng.dirichlet(np.full(len(KINDS), 2.0)),
        colours=np.clip(rng.uniform(0.3, 0.85, (8, 1)) + rng.normal(0, 0.12, (8, 3)), 0.05, 0.98),
        glass=rng.uniform(0.0, 0.12),
        taste=make_taste(rng),
    )


def _absorption(rng: np.random.Generator, least: float, most: float) -> np.ndarray:
    """Energy shares (B,): a level, and more of it at high frequencies (porous) or at low ones (panels)."""
    level = np.exp(rng.uniform(np.log(least), np.log(most)))
    tilt = rng.uniform(-0.3, 1.0)
    return np.clip(level * (BANDS_HZ / 1000) ** (0.25 * tilt), 0.01, 0.9)


def make_room(building: Building, seed: int, number: int, room: int) -> Room:
    """Room `room` of building `number`."""
    rng = np.random.default_rng((seed, 2, number, room))
    sides = building.side_m * np.exp(rng.normal(0, building.elongation, 2))
    size = np.array([*np.clip(sides, 2.5, 14.0), np.clip(building.height_m + rng.normal(0, 0.15), 2.2, 4.5)])
    count = rng.poisson(building.bodies * min(size[0] * size[1], 80.0) / 25)
    bodies = [part for _ in range(min(count, 16)) for part in _furniture(rng, building, size)]
    bodies_m = np.array(bodies).reshape(-1, 2, 3)
    return _surfaced(rng, building, size, bodies_m)


def _surfaced(rng: np.random.Generator, building: Building, size_m: np.ndarray, bodies_m: np.ndarray) -> Room:
    """The room with a material on every surface."""
    count = len(bodies_m)
    faces = np.array([0, 0, 0, 0, 1, 2])  # wall, floor or ceiling
    paint = rng.integers(3, 8, count)
    colours = np.concatenate([building.colours[faces], np.repeat(building.colours[paint], 6, axis=0)])
    return Room(
        size_m=size_m,
        bodies_m=bodies_m,
        absorption=np.concatenate([building.absorption[faces], np.tile(building.body_absorption, (6 * count, 1))]),
        scattering=np.concatenate([np.full(6, building.scattering), np.repeat(rng.uniform(0.25, 0.6, count), 6)]),
        colours=np.clip(colours + rng.normal(0, 0.04, colours.shape), 0.03, 1),
        glass=rng.random(6 + 6 * count) < building.glass * (np.arange(6 + 6 * count) != FLOOR),
        look=make_look(rng, building.taste, bodies_m),
    )


def _furniture(rng: np.random.Generator, building: Building, size_m: np.ndarray) -> list[tuple]:
    """One piece, as one or two bodies; most stand with their back to a wall."""
    kind = KINDS[rng.choice(len(KINDS), p=building.kinds)]
    low = {"cabinet": (0.5, 0.3, 0.8), "table": (0.8, 0.6, 0.68), "sofa": (1.2, 0.7, 0.4), "column": (0.2, 0.2, 9),
           "crate": (0.3, 0.3, 0.3)}[kind]  # fmt: skip
    high = {"cabinet": (1.8, 0.6, 2.1), "table": (1.8, 1.0, 0.8), "sofa": (2.2, 0.95, 0.5), "column": (0.5, 0.5, 9),
            "crate": (0.9, 0.9, 0.9)}[kind]  # fmt: skip
    width, thickness, height = rng.uniform(low, high)
    turned = rng.random() < 0.5
    extent = np.array([thickness, width] if turned else [width, thickness])
    extent = np.minimum(extent, size_m[:2] / 2)
    corner = rng.uniform(0, 1, 2) * (size_m[:2] - extent)
    back = 0 if turned else 1  # the axis along which it is thin
    if kind in ("cabinet", "sofa") or rng.random() < 0.3:
        corner[back] = 0 if rng.random() < 0.5 else size_m[back] - extent[back]
    return _parts(kind, corner, extent, min(height, size_m[2] - 0.02), back)


def _parts(kind: str, corner: np.ndarray, extent: np.ndarray, height: float, back: int) -> list[tuple]:
    low, high = corner, corner + extent
    if kind == "table":  # a top on a foot
        middle = (low + high) / 2
        return [((*low, height - 0.05), (*high, height)), ((*(middle - 0.1), 0), (*(middle + 0.1), height - 0.05))]
    if kind == "sofa":  # a seat and its back
        rest = high.copy()
        rest[back] = low[back] + 0.2
        return [((*low, 0), (*high, height)), ((*low, height), (*rest, height + 0.4))]
    return [((*low, 0), (*high, height))]


def place_rig(room: Room, rng: np.random.Generator) -> Rig:
    """A random place 0.6-1.2 m high, clear of walls and furniture, looking anywhere.

    Of 200 tries in a very full room the clearest is taken.
    """
    highest = room.size_m - WALL_GAP_M
    places = rng.uniform((WALL_GAP_M, WALL_GAP_M, 0.6), (*highest[:2], 1.2), (200, 3))
    gaps = np.maximum(room.bodies_m[None, :, 0] - places[:, None], places[:, None] - room.bodies_m[None, :, 1]).max(-1)
    clearance = np.minimum(gaps.min(axis=1, initial=9.0), BODY_GAP_M)
    return Rig(places[int(clearance.argmax())], float(rng.uniform(-np.pi, np.pi)))
