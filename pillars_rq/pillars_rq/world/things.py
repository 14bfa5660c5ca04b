"""The things of a street, built of a few bodies each, in their own frame: x along the heading, z up from the ground.

Labelled things fill the box that will be their label: a car has a body, a cabin of glass, a roof, wheels and plates; a
pedestrian legs in mid-step, a torso, arms and a head; a cyclist sits on two wheels and a frame.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .solids import BOX, CYLINDER, ELLIPSOID, Solid

Rng = np.random.Generator
RUBBER, GLASS, PLATE, SKIN = (30, 30, 32), (70, 84, 96), (235, 235, 225), (205, 165, 140)
LEAVES, BARK = (74, 104, 52), (92, 74, 58)
SPECKLED = 0.55  # share of rays that pass glass
GLOSS = 0.4  # of car paint


@dataclass(frozen=True)
class Thing:
    """name: KITTI's class, or "" for clutter; size_lwh of its box; bodies in its own frame; where it stands."""

    name: str
    size_lwh_m: tuple[float, float, float]
    solids: tuple[Solid, ...]
    place_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    yaw_rad: float = 0.0

    def at(self, place_m: tuple[float, float, float], yaw_rad: float) -> "Thing":
        return Thing(self.name, self.size_lwh_m, self.solids, place_m, yaw_rad)

    def bodies(self) -> list[Solid]:
        return [solid.placed(self.place_m, self.yaw_rad) for solid in self.solids]

    @property
    def box(self) -> np.ndarray:
        """(7,) x, y, z_bottom, w, l, h, theta; a heading `yaw` is theta = -yaw - pi/2."""
        l, w, h = self.size_lwh_m
        theta = (-self.yaw_rad - np.pi / 2 + np.pi) % (2 * np.pi) - np.pi
        return np.array([*self.place_m, w, l, h, theta])


def block(x, y, z, shape: str = BOX, **how) -> Solid:
    """A body between these limits: x, y, z are (low, high) metres."""
    lows, highs = np.array([x[0], y[0], z[0]]), np.array([x[1], y[1], z[1]])
    return Solid(shape, tuple((lows + highs) / 2), tuple((highs - lows) / 2), **how)


def sizes(rng: Rng, mean_lwh, spread_lwh) -> tuple[float, float, float]:
    """Sizes around a mean, never farther than 2.2 spreads."""
    drawn = np.clip(rng.standard_normal(3), -2.2, 2.2)
    return tuple(float(m + s * d) for m, s, d in zip(mean_lwh, spread_lwh, drawn, strict=True))


def _paint(rng: Rng) -> tuple[int, int, int]:
    grey = int(rng.integers(20, 240))
    return tuple(int(np.clip(grey + v, 0, 255)) for v in rng.integers(-45, 46, 3))


# --- vehicles ---------------------------------------------------------------------------------------------------------


def car(rng: Rng) -> Thing:
    """A saloon, a hatchback or an estate: they differ in how far back the cabin reaches."""
    l, w, h = size = sizes(rng, (3.88, 1.63, 1.53), (0.40, 0.10, 0.12))
    back, front = float(rng.choice([-0.34, -0.46, -0.49])) * l, 0.17 * l
    paint, shine = _paint(rng), float(rng.uniform(0.08, 0.6))
    body = {"reflectance": shine, "paint": paint, "gloss": GLOSS}
    belt = 0.60 * h
    solids = [
        block((-0.47 * l, 0.47 * l), (-0.5 * w, 0.5 * w), (0.16 * h, 0.50 * h), **body),
        block((-0.47 * l, 0.44 * l), (-0.47 * w, 0.47 * w), (0.48 * h, belt), **body),
        block((0.30 * l, 0.5 * l), (-0.47 * w, 0.47 * w), (0.18 * h, 0.52 * h), ELLIPSOID, **body),
        block((-0.5 * l, -0.30 * l), (-0.47 * w, 0.47 * w), (0.18 * h, 0.60 * h), ELLIPSOID, **body),
        block((back + 0.03 * l, front), (-0.44 * w, 0.44 * w), (belt, 0.80 * h), reflectance=0.1, leaky=SPECKLED,
              paint=GLASS),
        block((back + 0.06 * l, front - 0.07 * l), (-0.40 * w, 0.40 * w), (0.78 * h, 0.93 * h), reflectance=0.1,
              leaky=SPECKLED, paint=GLASS),
        block((back + 0.09 * l, front - 0.12 * l), (-0.38 * w, 0.38 * w), (0.91 * h, h), **body),
        block((-0.505 * l, -0.48 * l), (-0.25, 0.25), (0.32 * h, 0.40 * h), reflectance=0.95, paint=PLATE),
        block((0.485 * l, 0.505 * l), (-0.25, 0.25), (0.24 * h, 0.31 * h), reflectance=0.95, paint=PLATE),
        *_pillars(back + 0.05 * l, front - 0.03 * l, 0.42 * w, (belt, 0.93 * h), body),
        *_wheels(l, w, 0.31),
    ]  # fmt: skip
    return Thing("Car", size, tuple(solids))


def _pillars(back: float, front: float, side: float, heights, body) -> list[Solid]:
    """The posts between a cabin's windows."""
    places = [(x, y) for x in (back, (back + front) / 2, front) for y in (-side, side)]
    return [block((x - 0.05, x + 0.05), (y - 0.03, y + 0.03), heights, **body) for x, y in places]


def _wheels(l: float, w: float, radius: float) -> list[Solid]:
    places = [(x, y) for x in (-0.31 * l, 0.31 * l) for y in (-0.43 * w, 0.43 * w)]
    return [block((x - radius, x + radius), (y - 0.06 * w, y + 0.06 * w), (0, 2 * radius), ELLIPSOID, reflectance=0.06,
                  paint=RUBBER) for x, y in places]  # fmt: skip


def van(rng: Rng) -> Thing:
    l, w, h = size = sizes(rng, (5.0, 1.9, 2.2), (0.5, 0.1, 0.25))
    body = {"reflectance": float(rng.uniform(0.1, 0.6)), "paint": _paint(rng)}
    solids = [
        block((-0.5 * l, 0.28 * l), (-0.5 * w, 0.5 * w), (0.14 * h, h), **body),
        block((0.25 * l, 0.5 * l), (-0.49 * w, 0.49 * w), (0.15 * h, 0.52 * h), **body),
        block((0.2 * l, 0.38 * l), (-0.46 * w, 0.46 * w), (0.5 * h, 0.86 * h), reflectance=0.1, leaky=0.4, paint=GLASS),
        *_wheels(l, w, 0.34),
    ]
    return Thing("Van", size, tuple(solids))


def truck(rng: Rng) -> Thing:
    l, w, h = size = sizes(rng, (9.5, 2.55, 3.3), (1.5, 0.1, 0.25))
    solids = [
        block((-0.5 * l, 0.28 * l), (-0.5 * w, 0.5 * w), (0.3 * h, h), reflectance=0.4, paint=_paint(rng)),
        block((-0.48 * l, 0.4 * l), (-0.25 * w, 0.25 * w), (0.15 * h, 0.32 * h), reflectance=0.1, paint=RUBBER),
        block((0.31 * l, 0.5 * l), (-0.48 * w, 0.48 * w), (0.14 * h, 0.85 * h), reflectance=0.3, paint=_paint(rng)),
        *_wheels(l, w, 0.5),
    ]
    return Thing("Truck", size, tuple(solids))


# --- people -----------------------------------------------------------------------------------------------------------


def pedestrian(rng: Rng) -> Thing:
    """Someone in mid-step; the step and the swing of the arms fill the box's length."""
    l, w, h = size = sizes(rng, (0.88, 0.63, 1.77), (0.18, 0.09, 0.10))
    step = 0.30 * l * float(rng.choice([-1, 1]))
    cloth = {"reflectance": float(rng.uniform(0.1, 0.6)), "paint": _paint(rng)}
    trousers = {"reflectance": float(rng.uniform(0.08, 0.4)), "paint": _paint(rng)}
    solids = [
        block((-0.17, 0.17), (-0.34 * w, 0.34 * w), (0.46 * h, 0.86 * h), ELLIPSOID, **cloth),
        block((-0.13, 0.13), (-0.30 * w, 0.30 * w), (0.50 * h, 0.82 * h), CYLINDER, **cloth),
        block((-0.11, 0.11), (-0.09, 0.09), (0.85 * h, h), ELLIPSOID, reflectance=0.3, paint=SKIN),
    ]
    for side in (-1, 1):
        y, x = side * 0.16 * w, side * step
        solids += [
            block((x / 2 - 0.09, x / 2 + 0.09), (y - 0.08, y + 0.08), (0.25 * h, 0.5 * h), CYLINDER, **trousers),
            block((x - 0.07, x + 0.07), (y - 0.06, y + 0.06), (0.03 * h, 0.28 * h), CYLINDER, **trousers),
            block((x - 0.08, x + 0.2), (y - 0.05, y + 0.05), (0, 0.05 * h), reflectance=0.1, paint=RUBBER),
            *_arm(-side * step, side * 0.42 * w, 0.08 * w, h, cloth),
        ]
    return Thing("Pedestrian", size, tuple(solids))


def _arm(swing: float, y: float, half: float, h: float, cloth) -> list[Solid]:
    return [
        block((swing / 3 - 0.06, swing / 3 + 0.06), (y - half, y + half), (0.62 * h, 0.82 * h), CYLINDER, **cloth),
        block((swing - 0.06, swing + 0.06), (y - half, y + half), (0.45 * h, 0.65 * h), CYLINDER, **cloth),
    ]


def cyclist(rng: Rng) -> Thing:
    l, w, h = size = sizes(rng, (1.76, 0.60, 1.74), (0.15, 0.09, 0.09))
    cloth = {"reflectance": float(rng.uniform(0.1, 0.6)), "paint": _paint(rng)}
    trousers = {"reflectance": float(rng.uniform(0.08, 0.4)), "paint": _paint(rng)}
    steel = {"reflectance": 0.25, "paint": RUBBER}
    wheel = 0.19 * l
    solids = [
        *(block((x - wheel, x + wheel), (-0.03, 0.03), (0, 2 * wheel), ELLIPSOID, leaky=0.45, **steel)
          for x in (-0.5 * l + wheel, 0.5 * l - wheel)),
        block((-0.25 * l, 0.25 * l), (-0.03, 0.03), (0.3, 0.62), leaky=0.3, **steel),
        block((0.20 * l, 0.26 * l), (-0.46 * w, 0.46 * w), (0.54 * h, 0.60 * h), **steel),
        block((0.24 * l, 0.28 * l), (-0.04, 0.04), (0.3, 0.58 * h), **steel),
        block((-0.22 * l, 0.02 * l), (-0.30 * w, 0.30 * w), (0.48 * h, 0.72 * h), ELLIPSOID, **cloth),
        block((-0.16 * l, 0.12 * l), (-0.36 * w, 0.36 * w), (0.60 * h, 0.88 * h), ELLIPSOID, **cloth),
        block((0.02 * l, 0.15 * l), (-0.10, 0.10), (0.86 * h, h), ELLIPSOID, reflectance=0.35, paint=SKIN),
    ]  # fmt: skip
    for side in (-1, 1):
        y = side * 0.2 * w
        solids += [
            block((-0.14 * l, 0.10 * l), (y - 0.08, y + 0.08), (0.36 * h, 0.54 * h), ELLIPSOID, **trousers),
            block((-0.02 * l, 0.08 * l), (y - 0.06, y + 0.06), (0.12 * h, 0.42 * h), CYLINDER, **trousers),
            block((0.06 * l, 0.24 * l), (side * 0.36 * w - 0.05, side * 0.36 * w + 0.05), (0.58 * h, 0.76 * h),
                  ELLIPSOID, **cloth),
        ]  # fmt: skip
    return Thing("Cyclist", size, tuple(solids))


# --- clutter ----------------------------------------------------------------------------------------------------------


def _clutter(size_lwh, *solids: Solid) -> Thing:
    return Thing("", tuple(float(v) for v in size_lwh), tuple(solids))


def facade(rng: Rng, length: float) -> Thing:
    """A house front towards its own -y side: pieces set back by some decimetres, doors, glass, a ledge."""
    height, solids, x = float(rng.uniform(5, 12)), [], -length / 2
    tint = tuple(int(v) for v in rng.integers(110, 215) + rng.integers(-20, 21, 3))
    stone = {"reflectance": float(rng.uniform(0.2, 0.5)), "paint": tint}
    while x < length / 2 - 0.1:
        step = min(float(rng.uniform(1.2, 4.0)), length / 2 - x)
        setback = float(rng.choice([0.0, 0.12, 0.3, 0.9], p=[0.45, 0.25, 0.2, 0.1]))
        solids.append(block((x, x + step), (setback - 0.5, 0.6), (0, height), **stone))
        x += step
    solids.append(block((-length / 2, length / 2), (-0.62, -0.4), (2.7, 2.95), **stone))
    return _clutter((length, 1.2, height), *solids)


def wall(rng: Rng, length: float) -> Thing:
    height = float(rng.uniform(0.6, 2.0))
    return _clutter((length, 0.3, height), _upright(length, 0.15, height, reflectance=0.35, paint=(150, 140, 128)))


def fence(rng: Rng, length: float) -> Thing:
    height = float(rng.uniform(0.9, 1.6))
    mesh = _upright(length, 0.05, height, reflectance=0.25, leaky=0.65, paint=(120, 120, 116))
    return _clutter((length, 0.1, height), mesh)


def _upright(length: float, half: float, height: float, **how) -> Solid:
    return block((-length / 2, length / 2), (-half, half), (0, height), **how)


def rail(rng: Rng, length: float) -> Thing:
    """A crash barrier on posts."""
    posts = [block((x - 0.06, x + 0.06), (-0.06, 0.06), (0, 0.6), reflectance=0.3)
             for x in np.arange(-length / 2 + 1, length / 2, 4.0)]  # fmt: skip
    beam = block((-length / 2, length / 2), (-0.1, 0.1), (0.42, 0.75), reflectance=0.45, paint=(170, 172, 176))
    return _clutter((length, 0.2, 0.8), beam, *posts)


def hedge(rng: Rng, length: float) -> Thing:
    height, half, pieces = float(rng.uniform(0.9, 2.2)), float(rng.uniform(0.3, 0.6)), []
    leaves = {"reflectance": 0.35, "density_per_m": 3.5, "paint": LEAVES}
    for x in np.arange(-length / 2, length / 2 - 0.2, 2.0):
        top = height + float(rng.normal(0, 0.1))
        pieces.append(block((x, min(x + 2, length / 2)), (-half, half), (0, top), **leaves))
    return _clutter((length, 2 * half, height), *pieces)


def bush(rng: Rng) -> Thing:
    half, height, lumps = float(rng.uniform(0.5, 1.4)), float(rng.uniform(0.8, 2.2)), []
    leaves = {"reflectance": 0.35, "density_per_m": 2.2, "paint": LEAVES}
    for _ in range(3):
        x, y = rng.normal(0, 0.3 * half, 2)
        top = height * float(rng.uniform(0.7, 1))
        lumps.append(block((x - half, x + half), (y - half, y + half), (-0.3, top), ELLIPSOID, **leaves))
    return _clutter((2 * half, 2 * half, height), *lumps)


def tree(rng: Rng) -> Thing:
    radius, height, clear = float(rng.uniform(0.12, 0.32)), float(rng.uniform(4, 9)), float(rng.uniform(1.8, 3.0))
    spread = float(rng.uniform(1.2, 2.8))
    crown = [block((x - spread, x + spread), (y - spread, y + spread), (clear + dz, height + dz), ELLIPSOID,
                   reflectance=0.35, density_per_m=0.55, paint=LEAVES)
             for x, y, dz in rng.normal(0, 0.5, (3, 3))]  # fmt: skip
    trunk = block((-radius, radius), (-radius, radius), (0, clear + 1.5), CYLINDER, reflectance=0.25, paint=BARK)
    return _clutter((2 * radius, 2 * radius, height), trunk, *crown)


def pole(rng: Rng) -> Thing:
    """A lamp post or a traffic sign."""
    radius, height = float(rng.uniform(0.04, 0.11)), float(rng.uniform(2.2, 6))
    post = block((-radius, radius), (-radius, radius), (0, height), CYLINDER, reflectance=0.3, paint=(128, 130, 132))
    sign = block((-0.04, 0.02), (-0.32, 0.32), (height - 0.7, height), reflectance=0.9, paint=(210, 60, 50))
    solids = (post, sign) if height < 3.4 else (post,)
    return _clutter((2 * radius, 2 * radius, height), *solids)


def bollard(rng: Rng) -> Thing:
    post = block((-0.09, 0.09), (-0.09, 0.09), (0, 0.95), CYLINDER, reflectance=0.35, paint=(90, 90, 94))
    return _clutter((0.2, 0.2, 0.95), post)


def bin_(rng: Rng) -> Thing:
    """A rubbish bin, a letter box or a switch box."""
    half, height = float(rng.uniform(0.22, 0.55)), float(rng.uniform(0.9, 1.5))
    return _clutter((2 * half, 2 * half, height), block((-half, half), (-half, half), (0, height), reflectance=0.3,
                                                      paint=_paint(rng)))  # fmt: skip


OBJECTS: dict[str, Callable[[Rng], Thing]] = {
    "Car": car,
    "Van": van,
    "Truck": truck,
    "Pedestrian": pedestrian,
    "Cyclist": cyclist,
}
SMALL_CLUTTER: dict[str, Callable[[Rng], Thing]] = {
    "bush": bush,
    "tree": tree,
    "pole": pole,
    "bollard": bollard,
    "bin": bin_,
}
