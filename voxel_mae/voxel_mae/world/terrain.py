"""Uneven ground: a slope, waves, and heaps of earth; and where the beams of a spinning sensor meet it.

Rays against a height field: along every azimuth the ground is sampled at growing distances, as the tangent of the angle
under which the sensor sees it. The running maximum of these tangents rises, so a beam meets the ground at the first
sample that reaches its own tangent; what a heap hides is hidden. Between two samples the ground is a straight line.
"""

# A azimuths, B beams, K distances

from dataclasses import dataclass

import numpy as np

NEAREST_M, FARTHEST_M, SAMPLES = 1.5, 90.0, 176
APART = 1e3  # keeps the tangents of neighbouring columns apart in one sorted array
STEEPEST = 100.0  # tangents are cut here


@dataclass(frozen=True)
class Heap:
    """A round heap: middle (x, y), radius and height in metres."""

    x: float
    y: float
    radius_m: float
    height_m: float


@dataclass(frozen=True)
class Terrain:
    """slope: rise per metre along x and y. waves: (amplitude m, wavelength m, direction rad, phase rad) each."""

    slope: tuple[float, float] = (0.0, 0.0)
    waves: tuple[tuple[float, float, float, float], ...] = ()
    heaps: tuple[Heap, ...] = ()

    def height(self, x, y) -> np.ndarray:
        """Metres, at places of any shape."""
        level = self.slope[0] * x + self.slope[1] * y
        for amplitude, length, turn, phase in self.waves:
            k = 2 * np.pi / length
            level = level + amplitude * np.sin((k * np.cos(turn)) * x + (k * np.sin(turn)) * y + phase)
        for heap in self.heaps:
            rest = np.maximum(1 - ((x - heap.x) ** 2 + (y - heap.y) ** 2) / heap.radius_m**2, 0)
            level = level + heap.height_m * rest * rest
        return level


def ground_ranges(heights_m: np.ndarray, radii_m: np.ndarray, tangents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Horizontal distance (B,A) at which each beam meets the ground, inf where it does not; and the rise (B,A) of the
    ground there, metres per metre away from the sensor.

    heights_m (A,K): ground above the sensor at the distances radii_m (K,), growing. tangents (B,): of the elevations.
    """
    seen = np.clip(heights_m / radii_m, -STEEPEST, STEEPEST)
    rising = np.maximum.accumulate(seen, axis=1).astype(np.float64)
    columns, samples = rising.shape
    sorted_all = (rising + APART * np.arange(columns)[:, None]).ravel()
    wanted = tangents[:, None] + APART * np.arange(columns)[None]
    first = np.searchsorted(sorted_all, wanted.ravel(), "left").reshape(wanted.shape) - samples * np.arange(columns)
    met = first < samples
    k = np.clip(first, 1, samples - 1)
    column = np.broadcast_to(np.arange(columns), k.shape)
    g0, g1, r0, r1 = heights_m[column, k - 1], heights_m[column, k], radii_m[k - 1], radii_m[k]
    steep = (g1 - g0) - tangents[:, None] * (r1 - r0)
    share = (tangents[:, None] * r0 - g0) / np.where(np.abs(steep) < 1e-9, 1e-9, steep)
    return np.where(met, r0 + np.clip(share, 0, 1) * (r1 - r0), np.inf), (g1 - g0) / (r1 - r0)


def sample_radii() -> np.ndarray:
    """(K,) metres, each the same factor beyond the one before."""
    return np.geomspace(NEAREST_M, FARTHEST_M, SAMPLES).astype(np.float32)
