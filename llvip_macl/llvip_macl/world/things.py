"""What stands in a street besides persons: cars, lamps, trees, posts; and what is mistaken for a person.

Mistaken in the visible picture alone: statues, posters, mannequins and mirror images in glass; all are as warm as the
air. Mistaken in the infrared picture alone: bodies mirrored in metal, hot pipes, vents, engines.
"""

from dataclasses import replace

import numpy as np

from .figure import Look, person
from .parts import Colour, Part, box, ellipse, jitter, limb, moved

PAINTS: tuple[Colour, ...] = (
    (0.7, 0.7, 0.7),
    (0.05, 0.05, 0.05),
    (0.1, 0.1, 0.5),
    (0.4, 0.2, 0.08),
    (0.35, 0.35, 0.35),
    (0.1, 0.55, 0.65),
)
STONE: Colour = (0.4, 0.42, 0.43)


def car(rng: np.random.Generator, celsius: float, night: bool, side: bool) -> tuple[Part, ...]:
    """From the side, or from the front with its lights on by night. The engine and the tyres may be warm."""
    paint, driven = jitter(rng, PAINTS[rng.integers(len(PAINTS))], 0.25), rng.random() < 0.55
    metal, engine = celsius + rng.uniform(-1, 2), celsius + (rng.uniform(8, 20) if driven else 0.5)
    tyre = celsius + (rng.uniform(3, 9) if driven else 0)
    build = _car_side if side else _car_front
    return build(rng, paint, metal, engine, tyre, night and driven)


def _car_side(rng, paint: Colour, metal: float, engine: float, tyre: float, _lit: bool) -> tuple[Part, ...]:
    way = float(rng.choice((-1, 1)))
    body = np.array(
        [(-2.1, 0.3), (2.15, 0.3), (2.15, 0.75), (1.1, 0.95), (0.5, 1.42), (-1.1, 1.45), (-1.9, 1.0), (-2.1, 0.85)]
    )
    glass = np.array([(0.85, 0.97), (0.42, 1.33), (-1.0, 1.36), (-1.6, 1.0)])
    wheels = [Part(ellipse(x, 0.33, 0.33, 0.33), (0.03, 0.03, 0.03), tyre) for x in (-1.3, 1.35)]
    bonnet = Part(np.array([(1.1, 0.45), (2.1, 0.45), (2.1, 0.72), (1.15, 0.9)]), paint, engine, visible=0.0)
    parts = [Part(body, paint, metal), Part(glass, (0.12, 0.1, 0.09), metal - 1.5), bonnet, *wheels]
    return tuple(replace(part, outline=part.outline * (way, 1)) for part in parts)


def _car_front(rng, paint: Colour, metal: float, engine: float, tyre: float, lit: bool) -> tuple[Part, ...]:
    body = np.array([(-0.88, 0.28), (0.88, 0.28), (0.9, 0.85), (0.66, 1.42), (-0.66, 1.42), (-0.9, 0.85)])
    glass = np.array([(-0.72, 0.92), (0.72, 0.92), (0.58, 1.34), (-0.58, 1.34)])
    wheels = [Part(box(x - 0.12, 0, x + 0.12, 0.4), (0.03, 0.03, 0.03), tyre) for x in (-0.74, 0.74)]
    shine = (9.0, 10.0, 10.0) if lit else (0.0, 0.0, 0.0)
    lights = [Part(ellipse(x, 0.66, 0.13, 0.09), (0.6, 0.6, 0.6), metal + 6 * lit, glow=shine) for x in (-0.66, 0.66)]
    grille = Part(box(-0.5, 0.36, 0.5, 0.7), tuple(0.4 * c for c in paint), engine)
    return (*wheels, Part(body, paint, metal), Part(glass, (0.12, 0.1, 0.09), metal - 1.5), grille, *lights)


def lamp_post(height_m: float, side: float, celsius: float, colour: Colour, night: bool) -> tuple[Part, ...]:
    """A pole with an arm towards the road; by night its head shines and is warm."""
    steel, reach = (0.2, 0.2, 0.2), -1.1 * np.sign(side)
    glow = tuple(6 * c for c in colour) if night else (0.0, 0.0, 0.0)
    pole = limb([(0, 0), (0, height_m)], (0.16, 0.1))
    arm = limb([(0, height_m), (reach, height_m + 0.15)], (0.09, 0.09))
    head = ellipse(reach, height_m + 0.1, 0.34, 0.13)
    return (Part(pole, steel, celsius), Part(arm, steel, celsius),
            Part(head, (0.5, 0.5, 0.5), celsius + (16 if night else 1), glow=glow))  # fmt: skip


def tree(rng: np.random.Generator, celsius: float) -> tuple[Part, ...]:
    """A trunk and leaves in three tones, a little cooler than the air by day."""
    crown = [(rng.normal(0, 0.8), rng.uniform(2.9, 4.9), rng.uniform(0.6, 1.2)) for _ in range(11)]
    leaves = [Part(ellipse(x, y, r, r * 0.85), jitter(rng, (0.06, 0.2, 0.1), 0.55), celsius + rng.normal(-0.5, 0.7))
              for x, y, r in crown]  # fmt: skip
    return (Part(limb([(0, 0), (0.05, 1.6), (0, 3.2)], (0.36, 0.28, 0.24)), (0.09, 0.12, 0.16), celsius), *leaves)


def pillar(rng: np.random.Generator, celsius: float) -> tuple[Part, ...]:
    """Of an arcade or a bridge, wider than a lamp's pole."""
    half = rng.uniform(0.13, 0.28)
    return (Part(box(-half, 0, half, 3.4), jitter(rng, STONE, 0.35), celsius + 0.5),)


def bollard(celsius: float) -> tuple[Part, ...]:
    return (
        Part(box(-0.1, 0, 0.1, 0.85), (0.3, 0.32, 0.34), celsius),
        Part(box(-0.1, 0.62, 0.1, 0.72), (0.1, 0.2, 0.7), celsius),
    )


def cabinet(rng: np.random.Generator, celsius: float, hot: bool) -> tuple[Part, ...]:
    """A switch box as tall as a person's chest; a hot one is as warm as a person."""
    half, tall = rng.uniform(0.3, 0.6), rng.uniform(1.0, 1.5)
    warm = celsius + (rng.uniform(8, 14) if hot else 0)
    return (Part(box(-half, 0, half, tall), jitter(rng, (0.35, 0.42, 0.38), 0.3), warm),
            Part(box(-0.02, 0.1, 0.02, tall - 0.1), (0.1, 0.1, 0.1), warm))  # fmt: skip


def sign(rng: np.random.Generator, celsius: float) -> tuple[Part, ...]:
    face = ((0.6, 0.25, 0.1), (0.1, 0.1, 0.6), (0.1, 0.6, 0.7))[rng.integers(3)]
    return (Part(box(-0.04, 0, 0.04, 2.1), (0.3, 0.3, 0.3), celsius),
            Part(ellipse(0, 2.3, 0.34, 0.34), (0.75, 0.75, 0.75), celsius),
            Part(ellipse(0, 2.3, 0.26, 0.26), face, celsius))  # fmt: skip


def statue(look: Look, celsius: float) -> tuple[Part, ...]:
    """A body of stone or bronze on a low plinth."""
    colour = STONE if look.bag else (0.1, 0.17, 0.2)
    body = [moved(part, y=0.25, colour=colour, celsius=celsius) for part in person(look)]
    return (Part(box(-0.35, 0, 0.35, 0.25), STONE, celsius), *body)


def mannequin(look: Look, celsius: float) -> tuple[Part, ...]:
    """A clothed doll out of doors, as warm as the air."""
    return tuple(replace(part, celsius=celsius) for part in person(look))


def poster(look: Look, celsius: float) -> tuple[Part, ...]:
    """A lit panel with a person printed on it."""
    print_ = [moved(part, y=0.3, scale=0.95, infrared=0.0) for part in person(look)]
    return (Part(box(-0.65, 0.15, 0.65, 2.25), (0.55, 0.5, 0.45), celsius + 1, glow=(0.03, 0.03, 0.03)), *print_)


def mirrored_in_glass(look: Look) -> tuple[Part, ...]:
    """Visible alone: a passer-by's mirror image in a shop window."""
    return tuple(replace(part, visible=0.55, infrared=0.0) for part in person(look))


def mirrored_in_metal(look: Look, celsius: float) -> tuple[Part, ...]:
    """Infrared alone: a body's heat mirrored in a sheet of metal as warm as the air, plain and pale in the visible."""
    sheet = Part(box(-0.75, -0.05, 0.75, 2.3), (0.62, 0.62, 0.6), celsius)
    return (sheet, *(replace(part, visible=0.0, infrared=0.9) for part in person(look)))


def mirrored_in_ground(parts: tuple[Part, ...], opacity: float) -> tuple[Part, ...]:
    """Infrared alone: the heat of somebody mirrored in wet or polished ground, upside down below the feet."""
    return tuple(replace(part, outline=part.outline * (1, -0.7), visible=0.0, infrared=opacity) for part in parts)


def hot_pipe(rng: np.random.Generator, celsius: float) -> tuple[Part, ...]:
    """Infrared alone: the warm foot of a downpipe, as tall and as warm as a person; the visible shows a tall pipe."""
    tall, half = rng.uniform(1.4, 1.9), rng.uniform(0.13, 0.24)
    pipe = Part(box(-half, 0, half, 4.5), (0.5, 0.5, 0.48), 0.0, infrared=0.0)
    return (pipe, Part(limb([(0, 0.1), (0.03, tall / 2), (0, tall)], (half * 2, half * 2.2, half)), STONE,
                 celsius + rng.uniform(8, 15), visible=0.0),)  # fmt: skip


def vent(rng: np.random.Generator, celsius: float) -> tuple[Part, ...]:
    """A manhole or grating that lets warm air out."""
    return (Part(ellipse(0, 0, rng.uniform(0.4, 0.6), 0.16), (0.08, 0.08, 0.08), celsius + rng.uniform(5, 14)),)
