"""From reflectance and temperature to the bytes of two cameras.

LLVIP's cameras are good: little noise, long exposure under lamps, full contrast in infrared. KAIST's are a car's:
noise and underexposure by night, and an infrared picture whose greys lie close together.
# H, W rows and columns of the picture
"""

from dataclasses import dataclass

import cv2
import numpy as np

from .backdrop import Scenery
from .canvas import MARGIN_PX, SUPERSAMPLE

GAMMA = 2.2


@dataclass(frozen=True)
class Sensors:
    """Of one layout by day or night. Noise: standard deviations, of linear light and of grey levels. celsius: what is
    black and what is white, relative to the air; greys: what these two become."""

    gain: float
    read_noise: float
    shot_noise: float
    celsius: tuple[float, float]
    greys: tuple[float, float]
    thermal_noise: float
    stripes: float


SENSORS = {
    ("llvip", True): Sensors(1.7, 0.0015, 0.0006, (-4.0, 22.0), (0, 250), 2.4, 0.5),
    ("llvip", False): Sensors(1.15, 0.001, 0.0004, (-8.0, 18.0), (0, 250), 2.4, 0.5),
    ("kaist", True): Sensors(1.5, 0.006, 0.002, (-9.0, 26.0), (8, 215), 2.2, 1.0),
    ("kaist", False): Sensors(0.9, 0.002, 0.0008, (-8.0, 19.0), (10, 230), 2.2, 1.0),
}


def crop(canvas: np.ndarray, size_hw: tuple[int, int], shift_px: tuple[int, int] = (0, 0)) -> np.ndarray:
    """The part of a canvas that a camera sees, (H, W[, 3]) float32; its picture shows everything moved by shift_px
    (right, down)."""
    left, top = ((MARGIN_PX - shift) * SUPERSAMPLE for shift in shift_px)
    rows, columns = (side * SUPERSAMPLE for side in size_hw)
    seen = np.ascontiguousarray(canvas[top : top + rows, left : left + columns])
    return cv2.resize(seen, size_hw[::-1], interpolation=cv2.INTER_AREA)


def expose(view: Scenery, sensors: Sensors, size_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """The visible picture (H, W, 3) uint8 BGR: glare, exposure, blur, noise, gamma."""
    glow = crop(view.glow, size_hw)
    linear = crop(view.colour * view.light, size_hw) + glow + _glare(np.minimum(glow, 4.0))
    linear = np.clip(cv2.GaussianBlur(linear, (0, 0), 0.45) * sensors.gain * rng.uniform(0.85, 1.15), 0, 1)
    noise = np.sqrt(sensors.read_noise**2 + sensors.shot_noise * linear)
    linear = linear + noise * rng.standard_normal(linear.shape, np.float32)
    return np.round(255 * np.clip(linear, 0, 1) ** (1 / GAMMA)).astype(np.uint8)


def _glare(glow: np.ndarray) -> np.ndarray:
    """Light that bright sources spread over the lens."""
    width = glow.shape[1]
    return 0.35 * cv2.GaussianBlur(glow, (0, 0), width / 90) + 0.3 * cv2.GaussianBlur(glow, (0, 0), width / 25)


def sense(
    view: Scenery, air_celsius: float, sensors: Sensors, size_hw: tuple[int, int], shift_px: tuple[int, int],
    rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """The infrared picture (H, W) uint8: blur, noise, stripes of the columns' amplifiers."""
    blurred = cv2.GaussianBlur(crop(view.celsius, size_hw, shift_px), (0, 0), 0.55)
    grey = np.interp(blurred - air_celsius, sensors.celsius, sensors.greys)
    grey = grey + sensors.thermal_noise * rng.standard_normal(grey.shape, np.float32)
    grey = grey + sensors.stripes * rng.standard_normal((1, grey.shape[1]), np.float32)
    return np.round(np.clip(grey, 0, 255)).astype(np.uint8)
