"""A street: its lanes, sidewalks, crossing, light, and what stands along it (drawn by scenery.py).

All frames of a scene share one `Street`; the car moves ahead along it (`travelled_m`). Scenery stands outside the
sidewalks, so by perspective it never hides an object: at the same column of the picture it is farther away.
"""

from dataclasses import dataclass, replace

import numpy as np

from .canvas import Light

LANE_M, PARKING_M, SIDEWALK_M = 3.5, 2.3, 3.4  # widths
CROSS_M = 8.0  # width of a crossing street
STREET_M = 115.0  # houses, trees and lamps stand along so much of it


def _sun(x, y, z):
    vector = np.array([x, y, z], float)
    return tuple(vector / np.linalg.norm(vector))


# name, sky above, sky at the horizon, haze, tint, sun, contrast, shadow (, lamps lit)
LIGHTS = (
    Light(
        "noon", (74, 138, 212), (196, 222, 240), (204, 220, 232),
        (1.0, 1.0, 1.0), _sun(0.5, 1.0, -0.6), 0.28, 0.52,
    ),
    Light(
        "morning", (112, 164, 222), (240, 226, 204), (226, 220, 208),
        (1.03, 1.0, 0.93), _sun(0.9, 0.6, -0.3), 0.30, 0.50,
    ),
    Light(
        "afternoon", (86, 146, 206), (226, 230, 226), (216, 220, 218),
        (1.02, 1.0, 0.95), _sun(-0.8, 0.8, -0.5), 0.30, 0.50,
    ),
    Light(
        "overcast", (152, 162, 174), (214, 218, 220), (206, 210, 213),
        (0.97, 0.98, 1.0), _sun(0.0, 1.0, -0.4), 0.22, 0.36,
    ),
    Light(
        "evening", (110, 128, 182), (252, 204, 148), (236, 198, 160),
        (1.03, 0.94, 0.82), _sun(-0.9, 0.35, -0.5), 0.30, 0.46,
    ),
    Light(
        "dusk", (64, 76, 128), (236, 164, 128), (176, 146, 142),
        (0.88, 0.84, 0.88), _sun(0.3, 0.8, -0.6), 0.26, 0.40, True,
    ),
)  # fmt: skip
LIGHT_SHARES = (0.26, 0.18, 0.18, 0.18, 0.12, 0.08)

FACADES = (
    (178, 112, 88), (206, 186, 156), (150, 148, 150), (196, 158, 120),
    (222, 214, 200), (132, 92, 78), (164, 174, 184), (188, 172, 178),
)  # fmt: skip
HEIGHTS_M = {"city": (9, 26), "suburb": (5, 9), "industrial": (6, 12)}  # of buildings
GAPS_M = {"city": (0, 2.5), "suburb": (4, 14), "industrial": (2, 20)}  # between buildings
SETBACK_M = {"city": 0.6, "suburb": 5.0, "industrial": 4.0}  # of buildings from the sidewalk
TREE_SPACING_M = {"city": 17.0, "suburb": 9.0, "industrial": 24.0}


@dataclass(frozen=True)
class Block:
    """A building along the street: its side (-1, 1), extent ahead, distance from the road axis, height, looks."""

    side: int
    near_m: float
    far_m: float
    x_m: float
    height_m: float
    rgb: tuple[float, float, float]
    storeys: int
    lit: bool
    shops: bool


@dataclass(frozen=True)
class Street:
    """What the frames of one scene share. The car drives in the lane around x = 0; traffic keeps to the right.

    Attributes:
        left_edge_m, right_edge_m: x of the kerbs.
        left_lanes, right_lanes: Lanes beside the car's own.
        same_way: How many of the left lanes run in the car's direction.
        crossing_m: Where a crossing street starts, measured from the start of the scene; None without one.
    """

    setting: str
    light: Light
    left_lanes: int
    right_lanes: int
    same_way: int
    parking: tuple[bool, bool]
    crossing_m: float | None
    blocks: tuple[Block, ...] = ()
    trees: tuple[tuple[float, float, float, int], ...] = ()  # x, z, height, looks
    lamps: tuple[tuple[float, float], ...] = ()

    @property
    def left_edge_m(self) -> float:
        return -(self.left_lanes + 0.5) * LANE_M - self.parking[0] * PARKING_M

    @property
    def right_edge_m(self) -> float:
        return (self.right_lanes + 0.5) * LANE_M + self.parking[1] * PARKING_M


def sample_street(rng: np.random.Generator) -> Street:
    """A random street."""
    setting = str(rng.choice(["city", "suburb", "industrial"], p=[0.5, 0.32, 0.18]))
    light = LIGHTS[rng.choice(len(LIGHTS), p=LIGHT_SHARES)]
    left_lanes = int(rng.choice([1, 2, 3], p=[0.5, 0.38, 0.12]))
    right_lanes = int(rng.choice([0, 1, 2], p=[0.5, 0.38, 0.12]))
    same_way = int(rng.integers(0, left_lanes)) if left_lanes > 1 else 0
    parking = (bool(rng.random() < 0.62), bool(rng.random() < 0.62))
    crossing = float(rng.uniform(14, 44)) if rng.random() < 0.45 else None
    return _furnish(Street(setting, light, left_lanes, right_lanes, same_way, parking, crossing), rng)


def widen(street: Street, lanes: int, rng: np.random.Generator) -> Street:
    """The street with more lanes on both sides and new scenery along its new edges: a square."""
    return _furnish(replace(street, left_lanes=street.left_lanes + lanes, right_lanes=street.right_lanes + lanes), rng)


def _furnish(street: Street, rng) -> Street:
    blocks, trees, lamps = _sample_blocks(street, rng), _sample_trees(street, rng), _sample_lamps(street, rng)
    return replace(street, blocks=blocks, trees=trees, lamps=lamps)


def _edges(street: Street, side: int) -> float:
    return street.right_edge_m if side > 0 else -street.left_edge_m


def _in_crossing(street: Street, z: float, margin: float) -> bool:
    return street.crossing_m is not None and -margin < z - street.crossing_m < CROSS_M + margin


def _sample_blocks(street: Street, rng) -> tuple[Block, ...]:
    blocks = []
    for side in (-1, 1):
        z = rng.uniform(-6, 4)
        while z < STREET_M:
            length = rng.uniform(9, 24)
            if not any(_in_crossing(street, z + part * length, 2.5) for part in (0, 0.5, 1)):
                blocks.append(_sample_block(street, side, z, z + length, rng))
            z += length + rng.uniform(*GAPS_M[street.setting])
    return tuple(sorted(blocks, key=lambda block: -block.far_m))


def _sample_block(street: Street, side: int, near_m: float, far_m: float, rng) -> Block:
    x = _edges(street, side) + SIDEWALK_M + SETBACK_M[street.setting] + rng.uniform(0, 1.6)
    wall = np.clip(np.array(FACADES[rng.integers(len(FACADES))]) + rng.normal(0, 10, 3), 40, 245)
    height = rng.uniform(*HEIGHTS_M[street.setting])
    lit, shops = rng.random() < 0.3, rng.random() < 0.5
    return Block(side, near_m, far_m, side * x, height, tuple(wall.tolist()), max(1, int(height / 3.1)), lit, shops)


def _sample_trees(street: Street, rng):
    trees = []
    for side in (-1, 1):
        z = rng.uniform(6, 14)
        while z < STREET_M:
            if not _in_crossing(street, z, 3.0):
                x = side * (_edges(street, side) + SIDEWALK_M + rng.uniform(0.2, 1.4))
                trees.append((x, z, rng.uniform(4.5, 8.0), int(rng.integers(1 << 16))))
            z += TREE_SPACING_M[street.setting] * rng.uniform(0.6, 1.5)
    return tuple(sorted(trees, key=lambda tree: -tree[1]))


def _sample_lamps(street: Street, rng):
    start = rng.uniform(8, 20)
    zs = np.arange(start, STREET_M, 26.0)
    return tuple(
        (side * (_edges(street, side) + SIDEWALK_M - 0.1), float(z))
        for z in zs[::-1]
        for side in (-1, 1)
        if not _in_crossing(street, z, 2.0)
    )
