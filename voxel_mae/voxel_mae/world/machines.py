"""The four machines, built of a few bodies each, in their own frame: x along the heading, z up from the ground.

Every machine fills the box that will be its label (length, width, height) and has a silhouette of its own: an open bed
behind a cab; tracks, a house and a boom; a long thin frame with a blade across; a drum. Mean sizes are those of the
class anchors that are customary for these machines (excavator 6.2 x 2.7 x 2.9, grader 8.5 x 2.5 x 3.2, roller
5.8 x 2.3 x 2.8 m), the dump truck's about 8 x 3 x 3.2 m.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .bodies import DRUM, Body, beam, block

Rng = np.random.Generator
RUBBER, STEEL, GLASS = {"reflectance": 0.06}, {"reflectance": 0.2}, {"reflectance": 0.1, "leaky": 0.5}
MESH_LEAKY = 0.4  # of canopies on posts
FARTHEST_DRAW = 2.0  # of a size, in spreads


@dataclass(frozen=True, eq=False)
class Thing:
    """name: a class, or "" for clutter; size_lwh_m of its box, which stands on the ground; bodies in its own frame."""

    name: str
    size_lwh_m: tuple[float, float, float]
    bodies: tuple[Body, ...]

    @property
    def radius_m(self) -> float:
        """Of the circle around its footprint."""
        return float(np.hypot(self.size_lwh_m[0], self.size_lwh_m[1]) / 2)


def _sizes(rng: Rng, mean_lwh: Sequence[float], spread: float = 0.07) -> tuple[float, float, float]:
    drawn = np.clip(rng.standard_normal(3), -FARTHEST_DRAW, FARTHEST_DRAW)
    return tuple(float(mean * (1 + spread * d)) for mean, d in zip(mean_lwh, drawn, strict=True))


def _paint(rng: Rng) -> dict[str, float]:
    return {"reflectance": float(rng.uniform(0.2, 0.6))}


def _wheels(places_x: Sequence[float], w: float, radius: float, wide: float) -> list[Body]:
    """A wheel on both sides at each place."""
    return [block((x - radius, x + radius), sorted((side * w / 2, side * (w / 2 - wide))), (0, 2 * radius), DRUM,
                  **RUBBER) for x in places_x for side in (-1, 1)]  # fmt: skip


def dumptruck(rng: Rng) -> Thing:
    """A cab in front, an open bed with walls behind, a canopy over the cab."""
    l, w, h = size = _sizes(rng, (8.0, 3.0, 3.2))
    paint, radius, floor = _paint(rng), 0.21 * h, 0.40 * h
    bed_front, side = 0.22 * l, 0.10
    wall = 0.80 * h
    bodies = [
        *_wheels((-0.36 * l, -0.16 * l, 0.34 * l), w, radius, 0.55),
        block((-0.46 * l, 0.48 * l), (-0.2 * w, 0.2 * w), (0.22 * h, floor), **STEEL),
        block((-0.5 * l, bed_front), (-0.5 * w, 0.5 * w), (floor, floor + 0.15), **paint),
        block((-0.46 * l, bed_front), (-0.5 * w, -0.5 * w + side), (floor, wall), **paint),
        block((-0.46 * l, bed_front), (0.5 * w - side, 0.5 * w), (floor, wall), **paint),
        block((bed_front - 0.15, bed_front), (-0.5 * w, 0.5 * w), (floor, h), **paint),
        block((bed_front, 0.40 * l), (-0.5 * w, 0.5 * w), (0.96 * h, h), **paint),
        block((0.27 * l, 0.44 * l), (-0.46 * w, 0.1 * w), (0.30 * h, 0.62 * h), **paint),
        block((0.28 * l, 0.42 * l), (-0.45 * w, 0.08 * w), (0.62 * h, 0.90 * h), **GLASS),
        block((0.42 * l, 0.5 * l), (-0.48 * w, 0.48 * w), (0.22 * h, 0.52 * h), **paint),
    ]
    if rng.random() < 0.5:  # a load
        bodies.append(block((-0.42 * l, bed_front - 0.2), (-0.4 * w, 0.4 * w), (floor, 0.74 * h), reflectance=0.25))
    return Thing("dumptruck", size, tuple(bodies))


def excavator(rng: Rng) -> Thing:
    """Two tracks, a house with counterweight and cab, a boom that rises, a stick that falls, a bucket."""
    l, w, h = size = _sizes(rng, (6.2, 2.7, 2.9))
    paint, track, house = _paint(rng), 0.30 * h, (0.36 * h, 0.78 * h)
    tip, knee = float(rng.uniform(0.40, 0.46)) * l, float(rng.uniform(0.18, 0.30)) * l
    bodies = []
    for side in (-1, 1):
        y = sorted((side * 0.5 * w, side * 0.29 * w))
        bodies += [
            block((-0.30 * l, 0.22 * l), y, (0, track), **STEEL),
            *(block((x - track / 2, x + track / 2), y, (0, track), DRUM, **STEEL) for x in (-0.30 * l, 0.22 * l)),
        ]
    bodies += [
        block((-0.12 * l, 0.04 * l), (-0.2 * w, 0.2 * w), (track, house[0]), **STEEL),
        block((-0.40 * l, 0.08 * l), (-0.46 * w, 0.46 * w), house, **paint),
        block((-0.5 * l, -0.36 * l), (-0.46 * w, 0.46 * w), (0.40 * h, 0.74 * h), DRUM, **paint),
        block((-0.14 * l, 0.12 * l), (0.12 * w, 0.46 * w), (house[1], 0.97 * h), **GLASS),
        block((-0.14 * l, 0.12 * l), (0.10 * w, 0.46 * w), (0.96 * h, h), **paint),
        beam((0.06 * l, 0.50 * h), (knee, 0.95 * h), -0.06 * w, 0.30, 0.35, **paint),
        beam((knee, 0.93 * h), (tip, 0.25 * h), -0.06 * w, 0.24, 0.28, **paint),
        block((tip - 0.12 * l, 0.5 * l), (-0.24 * w, 0.14 * w), (0.02, 0.26 * h), **STEEL),
    ]
    return Thing("excavator", size, tuple(bodies))


def grader(rng: Rng) -> Thing:
    """A long thin frame, the engine behind, a cab in the middle, two tandem axles, a blade across underneath."""
    l, w, h = size = _sizes(rng, (8.5, 2.5, 3.2))
    paint, radius = _paint(rng), 0.20 * h
    slant = float(rng.uniform(-0.12, 0.12)) * l
    bodies = [
        *_wheels((-0.33 * l, -0.16 * l, 0.42 * l), w, radius, 0.38),
        block((-0.5 * l, -0.14 * l), (-0.32 * w, 0.32 * w), (0.28 * h, 0.66 * h), **paint),
        block((-0.12 * l, 0.46 * l), (-0.14, 0.14), (0.44 * h, 0.56 * h), **paint),
        block((0.40 * l, 0.5 * l), (-0.22 * w, 0.22 * w), (0.24 * h, 0.50 * h), **STEEL),
        block((-0.13 * l, 0.06 * l), (-0.30 * w, 0.30 * w), (0.44 * h, 0.60 * h), **paint),
        block((-0.13 * l, 0.06 * l), (-0.28 * w, 0.28 * w), (0.60 * h, 0.96 * h), **GLASS),
        block((-0.14 * l, 0.07 * l), (-0.30 * w, 0.30 * w), (0.95 * h, h), **paint),
        block((0.06 * l, 0.20 * l), (-0.26 * w, 0.26 * w), (0.20 * h, 0.30 * h), **STEEL),
    ]
    pieces = 4  # the blade, slanting: short boxes one behind the other
    for k in range(pieces):
        x, y = 0.13 * l + slant * (k / (pieces - 1) - 0.5), -0.5 * w + w * k / pieces
        bodies.append(block((x - 0.08, x + 0.08), (y, y + w / pieces), (0.02, 0.20 * h), **STEEL))
    return Thing("grader", size, tuple(bodies))


def roller(rng: Rng) -> Thing:
    """A steel drum in front in its frame, tyres and engine behind, a roof on posts between."""
    l, w, h = size = _sizes(rng, (5.8, 2.3, 2.8))
    paint, radius = _paint(rng), 0.27 * h
    drum = 0.5 * l - radius
    bodies = [
        block((drum - radius, 0.5 * l), (-0.44 * w, 0.44 * w), (0, 2 * radius), DRUM, reflectance=0.35),
        *(block((drum - 1.1 * radius, drum + 0.5 * radius), sorted((side * 0.5 * w, side * 0.45 * w)),
                (0.7 * radius, 1.3 * radius), **paint) for side in (-1, 1)),
        *_wheels((-0.28 * l,), w, 0.26 * h, 0.5),
        block((-0.5 * l, -0.12 * l), (-0.36 * w, 0.36 * w), (0.30 * h, 0.62 * h), **paint),
        block((-0.14 * l, 0.12 * l), (-0.34 * w, 0.34 * w), (0.30 * h, 0.46 * h), **paint),
        block((-0.20 * l, 0.13 * l), (-0.40 * w, 0.40 * w), (0.95 * h, h), **paint),
    ]  # fmt: skip
    posts = [(x, y) for x in (-0.18 * l, 0.11 * l) for y in (-0.36 * w, 0.36 * w)]
    bodies += [block((x - 0.06, x + 0.06), (y - 0.06, y + 0.06), (0.45 * h, 0.95 * h), **STEEL) for x, y in posts]
    if rng.random() < 0.5:  # a closed cab
        bodies.append(block((-0.16 * l, 0.10 * l), (-0.34 * w, 0.34 * w), (0.46 * h, 0.95 * h), **GLASS))
    return Thing("roller", size, tuple(bodies))


MACHINES: dict[str, Callable[[Rng], Thing]] = {
    "dumptruck": dumptruck,
    "excavator": excavator,
    "grader": grader,
    "roller": roller,
}
