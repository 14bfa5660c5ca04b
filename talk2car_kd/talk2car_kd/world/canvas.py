"""A picture to draw on: twice the stored size (averaged down at the end), with an optional buffer of object numbers.

Everything is drawn in frame pixels; the canvas scales. Colours are RGB. `ids` holds, for every pixel, the number of the
object drawn there last (0 = scenery): the silhouettes from which masks and visible shares are counted.
"""

import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np

SUPERSAMPLE = 2
SHIFT = 4  # fractional bits of the coordinates given to OpenCV
HAZE_M = 170.0  # depth at which two thirds of a colour have faded into the haze
NOISE_SEED = 20240  # of the noise tile all pictures share (each cuts its own piece)


@dataclass(frozen=True)
class Light:
    """Time of day: sky colours, sun, tint of everything lit, and the haze that far things fade into."""

    name: str
    sky_top: tuple[int, int, int]
    sky_low: tuple[int, int, int]
    haze: tuple[int, int, int]
    tint: tuple[float, float, float]
    sun: tuple[float, float, float]  # direction to the sun, unit length
    contrast: float  # how much darker a face away from the sun is
    shadow: float  # darkness of cast shadows
    lamps: bool = False

    def shade(self, rgb, normal=None, depth_m: float = 0.0) -> tuple[int, int, int]:
        """Colour of a face with this normal at this depth, clipped to 0..255."""
        facing = 0.5 if normal is None else 0.5 + 0.5 * sum(n * s for n, s in zip(normal, self.sun, strict=True))
        gain = 1.04 - self.contrast * (1.0 - facing)
        fade = 1.0 - math.exp(-depth_m / HAZE_M)
        keep = gain * (1 - fade)
        red, green, blue = (rgb[i] * self.tint[i] * keep + self.haze[i] * fade for i in range(3))
        return (min(255, int(red)), min(255, int(green)), min(255, int(blue)))


@functools.lru_cache(maxsize=1)
def noise_tile() -> np.ndarray:
    """Noise (1200, 2400) int16 of sigma about 4: fine grain plus faint blotches."""
    rng = np.random.default_rng(NOISE_SEED)
    grain = rng.normal(0, 3.0, (1200, 2400))
    blotches = cv2.resize(rng.normal(0, 1.6, (75, 150)), (2400, 1200), interpolation=cv2.INTER_CUBIC)
    return np.rint(grain + blotches).astype(np.int16)


class Canvas:
    """See the header; things are given in pixels of `frame_wh`, the finished picture has `stored_wh`."""

    def __init__(self, frame_wh, stored_wh, *, with_ids: bool = False):
        self.frame_wh, self.stored_wh = frame_wh, stored_wh
        width, height = stored_wh[0] * SUPERSAMPLE, stored_wh[1] * SUPERSAMPLE
        self.image = np.zeros((height, width, 3), np.uint8)
        self.ids = np.zeros((height, width), np.uint8) if with_ids else None
        self.number = 0
        self.scale = np.array([width / frame_wh[0], height / frame_wh[1]])
        self.per_px = self.scale * (1 << SHIFT)

    def _fixed(self, points_px) -> np.ndarray:
        return (np.asarray(points_px) * self.per_px).astype(np.int32, order="C")

    def polygon(self, points_px, rgb) -> None:
        """Fill one polygon (N, 2)."""
        points = self._fixed(points_px)
        cv2.fillPoly(self.image, [points], rgb, cv2.LINE_8, SHIFT)
        if self.ids is not None and self.number:
            cv2.fillPoly(self.ids, [points], self.number, cv2.LINE_8, SHIFT)

    def polygons(self, points_px, rgb) -> None:
        """Fill many polygons (K, N, 2) of one colour that do not overlap; scenery and details, never numbered."""
        if len(points_px):
            cv2.fillPoly(self.image, list(self._fixed(points_px)), rgb, cv2.LINE_8, SHIFT)

    def mesh(self, points_px, starts, order, colours) -> None:
        """Fill the polygons `order` of a mesh; polygon p is points[starts[p]:starts[p + 1]] in colours[p]."""
        fixed = self._fixed(points_px)
        numbered = self.ids is not None and self.number
        for p in order.tolist():
            polygon = [fixed[starts[p] : starts[p + 1]]]
            cv2.fillPoly(self.image, polygon, colours[p].tolist(), cv2.LINE_8, SHIFT)
            if numbered:
                cv2.fillPoly(self.ids, polygon, self.number, cv2.LINE_8, SHIFT)

    def ellipse(self, centre_px, radii_px, rgb) -> None:
        """Fill an upright ellipse."""
        x, y = self.per_px.tolist()
        centre, radii = (int(centre_px[0] * x), int(centre_px[1] * y)), (int(radii_px[0] * x), int(radii_px[1] * y))
        cv2.ellipse(self.image, centre, radii, 0, 0, 360, rgb, -1, cv2.LINE_8, SHIFT)
        if self.ids is not None and self.number:
            cv2.ellipse(self.ids, centre, radii, 0, 0, 360, self.number, -1, cv2.LINE_8, SHIFT)

    def stroke(self, points_px, width_px: float, rgb) -> None:
        """A polyline (N, 2) with round ends, at least one canvas pixel thick."""
        points = self._fixed(points_px)
        thickness = max(1, round(width_px * float(self.scale[0])))
        cv2.polylines(self.image, [points], False, rgb, thickness, cv2.LINE_8, SHIFT)
        if self.ids is not None and self.number:
            cv2.polylines(self.ids, [points], False, self.number, thickness, cv2.LINE_8, SHIFT)

    def lines(self, points_px, width_px: float, rgb) -> None:
        """Many polylines (K, N, 2) of one colour; scenery, never numbered."""
        thickness = max(1, round(width_px * float(self.scale[0])))
        cv2.polylines(self.image, list(self._fixed(points_px)), False, rgb, thickness, cv2.LINE_8, SHIFT)

    def darken(self, polygons_px, amount: float, blur_px: float) -> None:
        """Multiply the picture by 1 - amount inside the polygons, with soft edges: cast shadows."""
        height, width = self.image.shape[:2]
        mask = np.zeros((height // 2, width // 2), np.uint8)
        for points in polygons_px:
            fixed = self._fixed(np.asarray(points) / 2)
            cv2.fillPoly(mask, [fixed], int(255 * amount), cv2.LINE_8, SHIFT)
        rows = np.flatnonzero(mask.any(axis=1))
        if not len(rows):
            return
        size = max(3, int(blur_px * self.scale[0] / 2) | 1)
        top, bottom = max(0, rows[0] - size), min(mask.shape[0], rows[-1] + size)
        soft = cv2.blur(mask[top:bottom], (size, max(3, (size // 2) | 1)))
        soft = cv2.resize(255 - soft, (width, 2 * (bottom - top)))
        strip = self.image[2 * top : 2 * bottom]
        cv2.multiply(strip, cv2.merge([soft] * 3)[: len(strip)], dst=strip, scale=1 / 255)

    def finish(self, rng: np.random.Generator, *, noise: float = 1.0) -> np.ndarray:
        """The picture (h, w, 3) uint8 RGB at its stored size, with camera noise."""
        small = cv2.resize(self.image, self.stored_wh, interpolation=cv2.INTER_AREA)
        tile = noise_tile()
        height, width = small.shape[:2]
        height, width = min(height, tile.shape[0] // 2), min(width, tile.shape[1] // 2)
        y, x = rng.integers(0, tile.shape[0] - height), rng.integers(0, tile.shape[1] - width)
        patch = cv2.resize(tile[y : y + height, x : x + width], (small.shape[1], small.shape[0]))
        return cv2.add(small, cv2.merge([patch] * 3), dtype=cv2.CV_8U) if noise else small


def jpeg_bytes(image_rgb: np.ndarray, quality: int = 90) -> bytes:
    """The picture as JPEG bytes."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return data.tobytes()
