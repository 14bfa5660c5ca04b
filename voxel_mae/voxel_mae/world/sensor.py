"""A spinning LiDAR: which rays it sends, what they meet first, and what comes back.

The beams form a regular raster, so a body only concerns the rows and columns that it covers, and a ray's way through
it is a formula. Rows are beams from the top, columns azimuths from -180 deg; everything is in the sensor's own frame:
x forward, y left, z up, the sensor at the origin.
"""

# B beams, A azimuth columns, P points

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .bodies import Body, span
from .terrain import Terrain, ground_ranges, sample_radii

TOP_DEG, BOTTOM_DEG = 2.0, -24.8
FARTHEST_M = 80.0
NOISE_M = 0.02
LOST_SHARE = 0.04  # rays that never come back, whatever they meet
FAINTEST = 4e-6  # received share (reflectance x cosine / range^2) at which half of the echoes are heard
FAINT_SPREAD = 0.5  # of the natural logarithm of that
GRAZING = 0.08  # roughness of the ground moves a hit by at most rough / this
FLATTEST = 0.005  # least cosine of incidence
OWN_MACHINE_M = 1.8  # nearer points are the sensor's own machine
GROUND_REFLECTANCE = 0.25
NOTHING, GROUND = -2, -1  # owners of a ray besides the things


@dataclass(frozen=True)
class Rays:
    """elevations_rad (B,) from the top, azimuths_rad (A,) from -pi; directions (B,A,3) float32 unit vectors."""

    elevations_rad: np.ndarray
    azimuths_rad: np.ndarray
    directions: np.ndarray

    @classmethod
    def regular(cls, beams: int, columns: int) -> "Rays":
        elevations = np.radians(np.linspace(TOP_DEG, BOTTOM_DEG, beams))
        azimuths = -np.pi + 2 * np.pi / columns * (np.arange(columns) + 0.5)
        flat = np.cos(elevations)[:, None]
        up = np.broadcast_to(np.sin(elevations)[:, None], (beams, columns))
        directions = np.stack([flat * np.cos(azimuths), flat * np.sin(azimuths), up], -1)
        return cls(elevations, azimuths, directions.astype(np.float32))


class Scan:
    """What each ray meets first: (B,A) range in metres (inf: nothing), owner, reflectance, cosine of incidence."""

    def __init__(self, rays: Rays, rng: np.random.Generator) -> None:
        self.rays, self.rng = rays, rng
        shape = rays.directions.shape[:2]
        self.range_m = np.full(shape, np.inf, np.float32)
        self.owner = np.full(shape, NOTHING, np.int16)
        self.reflectance = np.zeros(shape, np.float32)
        self.cosine = np.ones(shape, np.float32)

    def cast_ground(self, terrain: Terrain, pose: tuple[float, float, float], eye_m: float, rough_m: float) -> None:
        """terrain in the site's frame; pose (x, y, yaw) of the sensor there; eye_m: the sensor's height there."""
        x0, y0, yaw = pose
        elevations = self.rays.elevations_rad[:, None]
        radii, turned = sample_radii(), (self.rays.azimuths_rad + yaw).astype(np.float32)[:, None]
        heights = terrain.height(x0 + radii * np.cos(turned), y0 + radii * np.sin(turned)) - eye_m
        flat, rise = ground_ranges(heights, radii, np.tan(elevations[:, 0]))
        cosine = np.clip(np.sin(np.arctan(rise) - elevations), FLATTEST, 1)
        jitter = rough_m * self.rng.standard_normal(flat.shape, np.float32) / np.maximum(cosine, GRAZING)
        range_m = np.maximum(flat / np.cos(elevations) + jitter, 0.1)
        shine = GROUND_REFLECTANCE + 0.05 * self.rng.standard_normal(flat.shape, np.float32)
        self._keep(slice(None), np.arange(flat.shape[1]), range_m, GROUND, shine, cosine)

    def cast(self, owner: int, bodies: Sequence[Body]) -> None:
        """Meet a thing; leaky bodies draw who passes."""
        for body in bodies:
            if (window := _window(body, self.rays)) is None:
                continue
            rows, columns = window
            enter, leave = span(body, self.rays.directions[rows][:, columns])
            missed = (enter >= leave) | (enter <= 0)
            if body.leaky:
                missed |= self.rng.random(enter.shape) < body.leaky
            self._keep(rows, columns, np.where(missed, np.inf, enter), owner, body.reflectance, 0.7)

    def _keep(self, rows: slice, columns: np.ndarray, range_m, owner: int, reflectance, cosine) -> None:
        closer = range_m < self.range_m[rows, columns]
        for name, value in (("range_m", range_m), ("owner", owner), ("reflectance", reflectance), ("cosine", cosine)):
            raster = getattr(self, name)
            raster[rows, columns] = np.where(closer, value, raster[rows, columns])

    def returns(self) -> tuple[np.ndarray, np.ndarray]:
        """The points that come back, (P,4) float32 x, y, z, intensity 0..1, beam by beam from the top, and their
        owners (P,). Faint echoes get lost at random, as does a share of all; ranges are noisy."""
        draw = lambda: self.rng.standard_normal(self.range_m.shape, np.float32)  # noqa: E731
        met = (self.range_m < FARTHEST_M) & (self.range_m > OWN_MACHINE_M)
        range_m = np.where(met, self.range_m, 1).astype(np.float32)
        strength = np.maximum(self.reflectance, 0.01) * self.cosine / range_m**2
        heard = np.log(strength / FAINTEST) > FAINT_SPREAD * draw()
        kept = met & heard & (self.rng.random(met.shape, np.float32) > LOST_SHARE)
        points = self.rays.directions * (range_m + NOISE_M * draw())[..., None]
        bright = np.clip(self.reflectance * (0.7 + 0.3 * self.cosine) + 0.02 * draw(), 0, 1)
        return np.concatenate([points, bright[..., None]], -1)[kept].astype(np.float32), self.owner[kept]


def _window(body: Body, rays: Rays) -> tuple[slice, np.ndarray] | None:
    """Rows and columns whose rays can meet a body, or None where it is above or below all of them."""
    corners = body.corners()
    x, y = body.centre_m[:2]
    distance = float(np.hypot(x, y))
    reach = float(np.hypot(*(corners[:, :2] - body.centre_m[:2]).T).max())
    near, far = max(distance - reach, 0.05), distance + reach
    low, high = corners[:, 2].min(), corners[:, 2].max()
    lowest, highest = np.arctan2(low, near if low < 0 else far), np.arctan2(high, far if high < 0 else near)
    first = int(np.searchsorted(-rays.elevations_rad, -highest, "left"))
    last = int(np.searchsorted(-rays.elevations_rad, -lowest, "right"))
    if last <= first:
        return None
    return slice(first, last), _columns(corners, distance, reach, rays)


def _columns(corners: np.ndarray, distance: float, reach: float, rays: Rays) -> np.ndarray:
    """Column numbers, round the back where they must."""
    count = len(rays.azimuths_rad)
    if distance <= reach * 1.01:
        return np.arange(count)
    middle = np.arctan2(corners[:, 1].mean(), corners[:, 0].mean())
    offsets = (np.arctan2(corners[:, 1], corners[:, 0]) - middle + np.pi) % (2 * np.pi) - np.pi
    step = 2 * np.pi / count
    first = int(np.floor((middle + offsets.min() + np.pi) / step - 0.5))
    last = int(np.ceil((middle + offsets.max() + np.pi) / step + 0.5))
    return np.arange(first, last) % count
