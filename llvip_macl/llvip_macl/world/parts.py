"""What is drawn: flat shapes with a colour and a temperature, standing upright at a place on the ground.

A part's outline is in metres: x to the right of the foot point, y up. Parts of a thing are painted in their order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

Colour = tuple[float, float, float]  # reflectance in blue, green, red, 0-1
DARK: Colour = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Part:
    """outline (N, 2) m. `glow` is light it gives itself (BGR). `visible`, `infrared`: opacity 0-1 in either picture."""

    outline: np.ndarray
    colour: Colour
    celsius: float
    glow: Colour = DARK
    visible: float = 1.0
    infrared: float = 1.0


@dataclass(frozen=True)
class Thing:
    """Parts at a place (x, z) m. `label` names what the annotations call it, or None; `weak` the picture ('visible',
    'infrared') in which it was drawn to be hard to see; a thing that is not `solid` hides nothing behind it.
    `shade` multiplies the light that falls on it."""

    kind: str
    x: float
    z: float
    parts: tuple[Part, ...]
    label: str | None = None
    weak: str | None = None
    solid: bool = True
    shade: float = 1.0


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def ellipse(x: float, y: float, half_x: float, half_y: float, start: float = 0, stop: float = 2 * np.pi) -> np.ndarray:
    angles = np.linspace(start, stop, 17)
    return np.stack([x + half_x * np.cos(angles), y + half_y * np.sin(angles)], axis=1)


def limb(points: Sequence[tuple[float, float]], widths: Sequence[float]) -> np.ndarray:
    """The outline of a bent strip through `points` with a full width at each."""
    middle = np.asarray(points, float)
    ahead = np.gradient(middle, axis=0)
    side = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1) / np.linalg.norm(ahead, axis=1, keepdims=True)
    half = side * np.asarray(widths)[:, None] / 2
    return np.concatenate([middle + half, (middle - half)[::-1]])


def moved(part: Part, x: float = 0.0, y: float = 0.0, scale: float = 1.0, **change) -> Part:
    """The part scaled about the foot point, then moved, with other fields changed."""
    return replace(part, outline=part.outline * scale + (x, y), **change)


def jitter(rng: np.random.Generator, colour: Colour, by: float) -> Colour:
    """The colour brighter or darker by a factor within 1 -/+ `by`, and a little off in each channel."""
    factor = rng.uniform(1 - by, 1 + by)
    return tuple(float(np.clip(c * factor * rng.uniform(0.92, 1.08), 0.01, 0.95)) for c in colour)
