"""Painting things over the backdrop, far to near, and knowing which pixels each of them has.

The canvas is finer than the picture by SUPERSAMPLE and wider by MARGIN_PX on every side, so that the infrared camera
may look a few pixels to the side of the visible one.
# H, W rows and columns of the canvas
"""

from dataclasses import dataclass

import cv2
import numpy as np

from .backdrop import Scenery
from .camera import Camera
from .parts import Part, Thing
from .spec import MAX_SHIFT_PX

SUPERSAMPLE = 2
MARGIN_PX = MAX_SHIFT_PX
FIXED_BITS = 3  # cv2 draws with 1/8 of a canvas pixel


@dataclass(frozen=True)
class Stamp:
    """The pixels of a shape: `mask` (h, w) bool at rows and columns of the canvas."""

    rows: slice
    columns: slice
    mask: np.ndarray

    @property
    def window(self) -> tuple[slice, slice]:
        return self.rows, self.columns

    @property
    def area(self) -> int:
        return int(self.mask.sum())

    def on(self, canvas_hw: tuple[int, int]) -> np.ndarray:
        full = np.zeros(canvas_hw, bool)
        full[self.window] = self.mask
        return full


def canvas_hw(size_hw: tuple[int, int]) -> tuple[int, int]:
    return tuple((side + 2 * MARGIN_PX) * SUPERSAMPLE for side in size_hw)


def pixel_centres(side_px: int) -> np.ndarray:
    """Where the canvas's pixels lie on one axis, in pixels of the visible picture."""
    return (np.arange((side_px + 2 * MARGIN_PX) * SUPERSAMPLE, dtype=np.float32) + 0.5) / SUPERSAMPLE - MARGIN_PX


def metres_to_canvas(camera: Camera, thing: Thing) -> tuple[np.ndarray, np.ndarray] | None:
    """(offset (2,), scale (2,)): canvas = offset + scale * outline. None for a thing behind the camera."""
    column, row, distance = camera.project(thing.x, 0.0, thing.z)
    if distance < 0.8:
        return None
    across = camera.focal_px / distance
    up = (row - camera.project(thing.x, 1.0, thing.z)[1]) if distance > 2 else across
    return (np.array([column, row]) + MARGIN_PX) * SUPERSAMPLE, np.array([across, -up]) * SUPERSAMPLE


def stamps(camera: Camera, thing: Thing) -> list[Stamp | None]:
    """One for each part, None where it is off the canvas."""
    place = metres_to_canvas(camera, thing)
    if place is None:
        return [None] * len(thing.parts)
    limits = canvas_hw(camera.size_hw)
    return [_stamp(place[0] + place[1] * part.outline, limits) for part in thing.parts]


def _stamp(points: np.ndarray, limits: tuple[int, int]) -> Stamp | None:
    low = np.clip(np.floor(points.min(axis=0)).astype(int), 0, limits[::-1])
    high = np.clip(np.ceil(points.max(axis=0)).astype(int) + 1, 0, limits[::-1])
    if (high <= low).any():
        return None
    mask = np.zeros((high - low)[::-1], np.uint8)
    fixed = np.round((np.clip(points, -4e4, 4e4) - low - 0.5) * (1 << FIXED_BITS)).astype(np.int32)
    cv2.fillPoly(mask, [fixed], 1, shift=FIXED_BITS)
    return Stamp(slice(low[1], high[1]), slice(low[0], high[0]), mask.view(bool))


def union(parts: list[Stamp | None]) -> Stamp | None:
    """The pixels of any of the parts."""
    some = [part for part in parts if part is not None and part.area]
    if not some:
        return None
    top, left = min(p.rows.start for p in some), min(p.columns.start for p in some)
    bottom, right = max(p.rows.stop for p in some), max(p.columns.stop for p in some)
    mask = np.zeros((bottom - top, right - left), bool)
    for part in some:
        inner = mask[part.rows.start - top : part.rows.stop - top, part.columns.start - left : part.columns.stop - left]
        inner |= part.mask
    return Stamp(slice(top, bottom), slice(left, right), mask)


def paint(view: Scenery, part: Part, stamp: Stamp, light: np.ndarray) -> None:
    """Put one part over the scenery; `light` (3,) falls on it."""
    here = stamp.window
    if part.visible:
        _blend(view.colour[here], stamp.mask, np.float32(part.colour), part.visible)
        _blend(view.light[here], stamp.mask, np.float32(light), part.visible)
        _blend(view.glow[here], stamp.mask, np.float32(part.glow), part.visible)
    if part.infrared:
        _blend(view.celsius[here], stamp.mask, np.float32(part.celsius), part.infrared)


def _blend(target: np.ndarray, mask: np.ndarray, value: np.ndarray, opacity: float) -> None:
    target[mask] = value if opacity == 1 else target[mask] * (1 - opacity) + value * opacity
