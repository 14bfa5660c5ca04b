"""Bodies: walking and standing persons, cyclists, crowds, dogs; and things shaped like persons that are none.

Proportions of a grown person of height 1: hip 0.50, knee 0.27, shoulder 0.82, chin 0.86, as drawing manuals give them.
"""

from dataclasses import dataclass, replace
from math import cos, pi, sin

import numpy as np

from .parts import Colour, Part, box, ellipse, jitter, limb, moved

SKINS: tuple[Colour, ...] = ((0.42, 0.5, 0.68), (0.3, 0.38, 0.55), (0.16, 0.22, 0.34))
HAIRS: tuple[Colour, ...] = ((0.03, 0.03, 0.04), (0.06, 0.09, 0.14), (0.3, 0.32, 0.34))
CLOTHES: tuple[Colour, ...] = (
    (0.06, 0.06, 0.06), (0.3, 0.12, 0.07), (0.1, 0.1, 0.45), (0.7, 0.7, 0.7), (0.12, 0.3, 0.12),
    (0.15, 0.4, 0.6), (0.35, 0.3, 0.28), (0.45, 0.3, 0.15), (0.3, 0.12, 0.35), (0.12, 0.1, 0.09),
)  # fmt: skip


@dataclass(frozen=True)
class Look:
    """How one person looks: metres, radians, reflectances, and degrees Celsius at the surface."""

    height_m: float
    facing: float  # -1 left, 0 towards or away, 1 right
    phase: float  # of the gait
    stride: float  # 0 stands, 1 walks briskly
    away: bool  # turned away: no face
    coat: bool
    bag: bool
    top: Colour
    trousers: Colour
    skin: Colour
    hair: Colour
    skin_celsius: float
    top_celsius: float
    trousers_celsius: float


def draw_look(rng: np.random.Generator, skin_celsius: float, clothes_celsius: float) -> Look:
    """A person with clothes about `clothes_celsius` warm; the torso is warmer than the legs."""
    top, trousers = (jitter(rng, CLOTHES[rng.integers(len(CLOTHES))], 0.3) for _ in range(2))
    return Look(
        height_m=float(np.clip(rng.normal(1.7, 0.09), 1.45, 1.95)), facing=float(rng.choice((-1, 0, 1))),
        phase=float(rng.uniform(0, 2 * pi)), stride=float(rng.choice((0.0, 0.6, 1.0), p=(0.3, 0.3, 0.4))),
        away=bool(rng.random() < 0.4), coat=bool(rng.random() < 0.3), bag=bool(rng.random() < 0.3),
        top=top, trousers=trousers, skin=SKINS[rng.integers(3)], hair=HAIRS[rng.integers(3)],
        skin_celsius=skin_celsius + rng.normal(0, 0.7), top_celsius=clothes_celsius + rng.normal(0.8, 0.8),
        trousers_celsius=clothes_celsius + rng.normal(-1, 0.8),
    )  # fmt: skip


def person(look: Look) -> tuple[Part, ...]:
    """The body, feet on the ground, far limbs first."""
    swing = 0.42 * look.stride * sin(look.phase) * (1.0 if look.facing else 0.22)
    legs = [_leg(look, side, angle) for side, angle in ((-1, -swing), (1, swing))]
    arms = [part for side, angle in ((-1, swing), (1, -swing)) for part in _arm(look, side, angle * 0.8)]
    parts = [*legs[0], *arms[:2], *legs[1], *_torso(look), *arms[2:], *_head(look)]
    return tuple(moved(part, scale=look.height_m) for part in parts)


def _leg(look: Look, side: int, swing: float) -> list[Part]:
    hip = (side * (0.03 if look.facing else 0.055), 0.51)
    bend = 0.35 * look.stride * max(0.0, sin(look.phase * side)) * abs(look.facing)
    knee = (hip[0] + 0.24 * sin(swing), hip[1] - 0.24 * cos(swing))
    lower = swing - bend * look.facing
    ankle = (knee[0] + 0.23 * sin(lower), max(0.03, knee[1] - 0.24 * cos(lower)))
    toe = 0.075 * look.facing if look.facing else 0.02 * side
    foot = limb([(ankle[0] - 0.3 * toe, ankle[1] - 0.01), (ankle[0] + toe, ankle[1] - 0.015)], (0.035, 0.03))
    cloth = Part(limb([hip, knee, ankle], (0.115, 0.085, 0.06)), look.trousers, look.trousers_celsius)
    return [cloth, Part(foot, (0.05, 0.05, 0.06), look.trousers_celsius - 1.5)]


def _arm(look: Look, side: int, swing: float) -> list[Part]:
    shoulder = (side * (0.02 if look.facing else 0.115), 0.79)
    spread = 0.0 if look.facing else side * 0.12
    elbow = (shoulder[0] + 0.17 * sin(swing + spread), shoulder[1] - 0.17 * cos(swing))
    hand = (elbow[0] + 0.15 * sin(swing * 1.3 + 0.25 * look.facing * look.stride), elbow[1] - 0.155 * cos(swing))
    sleeve = Part(limb([shoulder, elbow, hand], (0.065, 0.055, 0.045)), look.top, look.top_celsius - 0.5)
    return [sleeve, Part(ellipse(*hand, 0.022, 0.028), look.skin, look.skin_celsius - 2)]


def _torso(look: Look) -> list[Part]:
    shoulder, waist, hip = (0.075, 0.07, 0.075) if look.facing else (0.125, 0.09, 0.1)
    right = [(hip, 0.47), (waist, 0.62), (shoulder, 0.78), (shoulder * 0.7, 0.825), (0.03, 0.85)]
    parts = [Part(np.array(right + [(-x, y) for x, y in right[::-1]]), look.top, look.top_celsius)]
    if look.coat:
        skirt = np.array([(hip * 1.25, 0.3), (hip, 0.5), (-hip, 0.5), (-hip * 1.25, 0.3)])
        parts.append(Part(skirt, look.top, look.top_celsius - 1))
    if look.bag and look.facing:
        back = -0.1 * look.facing
        parts.append(Part(ellipse(back, 0.69, 0.06, 0.1), look.trousers, look.trousers_celsius - 3))
    return parts


def _head(look: Look) -> list[Part]:
    neck = Part(box(-0.025, 0.83, 0.025, 0.88), look.skin, look.skin_celsius)
    face = Part(ellipse(0, 0.925, 0.05, 0.075), look.skin, look.skin_celsius)
    low = 0.0 if not look.away else -0.35 * pi
    hair = Part(ellipse(0, 0.94, 0.054, 0.06, low, pi - low), look.hair, look.skin_celsius - 3)
    return [neck, face, hair]


def cyclist(look: Look, celsius: float) -> tuple[Part, ...]:
    """Rider and bicycle from the side; the bicycle is as warm as the air."""
    steel = (0.08, 0.08, 0.1)
    wheels = [Part(limb([*ellipse(x, 0.34, 0.31, 0.31)], [0.06] * 17), steel, celsius) for x in (-0.52, 0.52)]
    saddle, fork = (-0.1, 0.85), (0.4, 1.0)
    bars = [((-0.52, 0.34), saddle), (saddle, (0.4, 0.9)), ((0.52, 0.34), fork), (saddle, (0, 0.3))]
    frame = [Part(limb(bar, (0.06, 0.06)), steel, celsius) for bar in bars]
    knee, foot = (0.28 + 0.06 * sin(look.phase), 0.75 + 0.08 * sin(look.phase)), (0.02 + 0.14 * cos(look.phase), 0.3)
    leg = Part(limb([(-0.12, 0.92), knee, foot], (0.19, 0.15, 0.1)), look.trousers, look.trousers_celsius)
    torso = Part(limb([(-0.12, 0.85), (0.02, 1.15), (0.14, 1.42)], (0.26, 0.27, 0.2)), look.top, look.top_celsius)
    arm = Part(limb([(0.12, 1.36), (0.26, 1.12), (0.42, 1.02)], (0.11, 0.09, 0.08)), look.top, look.top_celsius)
    head = [moved(part, x=0.2, y=-0.15, scale=1.75) for part in _head(look)]
    facing = look.facing or 1.0
    return tuple(replace(p, outline=p.outline * (facing, 1)) for p in (*wheels, *frame, leg, torso, arm, *head))


def dog(rng: np.random.Generator, celsius: float) -> tuple[Part, ...]:
    """Lower and wider than a person, and as warm."""
    fur, way = jitter(rng, (0.1, 0.14, 0.2), 0.6), float(rng.choice((-1, 1)))
    legs = [limb([(x, 0.32), (x + rng.normal(0, 0.04), 0.0)], (0.1, 0.06)) for x in (-0.3, -0.24, 0.22, 0.28)]
    shapes = [*legs, ellipse(0, 0.42, 0.42, 0.16), limb([(0.3, 0.46), (0.45, 0.62)], (0.2, 0.14)),
              ellipse(0.5, 0.64, 0.13, 0.09), limb([(-0.4, 0.46), (-0.55, 0.62)], (0.06, 0.04))]  # fmt: skip
    return tuple(Part(shape * (way, 1), fur, celsius + rng.normal(-3, 0.5)) for shape in shapes)
