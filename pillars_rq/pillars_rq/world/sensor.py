"""A spinning 64-beam LiDAR: which rays it sends, what they meet, and what comes back.

Our own caster, in numpy: the bodies are few analytic shapes, so a ray's way is a formula, exact and the same on every
machine, and the beams form a regular raster, so that a body only concerns the rows and columns that it covers. A mesh
library with a ray tracer would need more code to make the meshes, and two more dependencies.

Beams as in the sensor that KITTI used: 32 from +2 deg down by 1/3 deg, 32 from -8.83 deg down by 1/2 deg; 0.18 deg from
column to column; 1.73 m above the ground. Only the columns around the camera's view are cast.
"""

# B beams, A azimuth columns

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .solids import Solid, span

HEIGHT_M = 1.73
ELEVATIONS_RAD = np.radians(np.concatenate([2 - np.arange(32) / 3, -8.83 - np.arange(32) / 2]))
AZIMUTHS_RAD = np.radians(np.arange(44, -44.01, -0.18))  # left to right, as the columns of a picture
MAX_RANGE_M = 120.0
RANGE_NOISE_M = 0.018
LOST_SHARE = 0.04  # rays that never come back, whatever they meet
FAINTEST = 2.5e-6  # received share (reflectance x cosine / range^2) at which half of the echoes are heard
FAINT_SPREAD = 0.5  # of the natural logarithm of that
MIN_FALL = 0.02  # of rays that are followed to the ground
DIMMEST = 0.0004  # reflectance of a mirror that looks elsewhere
NOTHING, GROUND = -2, -1  # owners of a ray besides the things


def ray_directions() -> np.ndarray:
    """(B,A,3) unit vectors, x forward, y left, z up."""
    elevation, azimuth = ELEVATIONS_RAD[:, None], AZIMUTHS_RAD[None]
    flat = np.cos(elevation)
    x, y = flat * np.cos(azimuth), flat * np.sin(azimuth)
    return np.stack([x, y, np.broadcast_to(np.sin(elevation), x.shape)], -1)


@dataclass(frozen=True)
class Ground:
    """Height of the ground below the sensor: a slope, waves of some metres, and a kerb beside the road.

    height(x, y) metres. waves: (amplitude m, wavelength m, direction rad, phase rad) each. The road's middle line
    passes the point (0, road_offset_m) along road_yaw_rad; beyond half_road_m from it the ground is kerb_m higher.
    """

    slope: tuple[float, float] = (0.0, 0.0)
    waves: tuple[tuple[float, float, float, float], ...] = ()
    road_yaw_rad: float = 0.0
    road_offset_m: float = 0.0
    half_road_m: float = 1e9
    kerb_m: float = 0.0
    rough_m: tuple[float, float] = (0.0, 0.0)  # standard deviation from ray to ray: on the road, beside it

    def beside(self, x, y) -> np.ndarray:
        """Whether a place lies beside the road."""
        aside = (y - self.road_offset_m) * np.cos(self.road_yaw_rad) - x * np.sin(self.road_yaw_rad)
        return np.abs(aside) > self.half_road_m

    def height(self, x, y) -> np.ndarray:
        level = -HEIGHT_M + self.slope[0] * x + self.slope[1] * y
        for amplitude, length, turn, phase in self.waves:
            level = level + amplitude * np.sin(2 * np.pi / length * (x * np.cos(turn) + y * np.sin(turn)) + phase)
        return level + self.kerb_m * self.beside(x, y)


@dataclass(eq=False)
class Scan:
    """What each ray meets first: (B,A) range in metres (inf: nothing), owner, reflectance, cosine of incidence.

    alone: owner -> rays that would meet it if nothing stood before it.
    """

    rng: np.random.Generator
    directions: np.ndarray = field(default_factory=ray_directions)
    alone: dict[int, int] = field(default_factory=dict)

    def __post_init__(self):
        shape = self.directions.shape[:2]
        self.range_m = np.full(shape, np.inf)
        self.owner = np.full(shape, NOTHING)
        self.reflectance = np.zeros(shape)
        self.cosine = np.ones(shape)

    def cast_ground(self, ground: Ground, reflectance: float, texture: float) -> None:
        """The slope by formula, the rest by fixed-point iteration; farther than some 85 m no echo would be heard."""
        x, y, z = (self.directions[..., k] for k in range(3))
        fall = ground.slope[0] * x + ground.slope[1] * y - z  # metres nearer to the sloping ground in a metre of way
        down = fall > MIN_FALL
        fall = np.where(down, fall, 1.0)
        at = HEIGHT_M / fall
        for _ in range(4):
            uneven = ground.height(at * x, at * y) + HEIGHT_M - at * (ground.slope[0] * x + ground.slope[1] * y)
            at = np.maximum((HEIGHT_M - uneven) / fall, 0.5)
        rough = np.where(ground.beside(at * x, at * y), ground.rough_m[1], ground.rough_m[0])
        at = np.maximum(at + rough * self.rng.standard_normal(at.shape) / fall, 0.5)
        self._keep(slice(None), slice(None), np.where(down, at, np.inf), GROUND, reflectance, np.abs(z))
        self.reflectance += texture * self.rng.standard_normal(self.reflectance.shape) * (self.owner == GROUND)

    def cast(self, owner: int, solids: Sequence[Solid]) -> None:
        """Meet a thing: its nearest body counts; porous and leaky ones draw who passes."""
        windows = [(solid, window) for solid in solids if (window := _window(solid)) is not None]
        if not windows:
            self.alone[owner] = 0
            return
        rows = slice(min(w[0].start for _, w in windows), max(w[0].stop for _, w in windows))
        columns = slice(min(w[1].start for _, w in windows), max(w[1].stop for _, w in windows))
        nearest = np.full((rows.stop - rows.start, columns.stop - columns.start), np.inf)
        reflectance = np.zeros_like(nearest)
        for solid, (r, c) in windows:
            part = (slice(r.start - rows.start, r.stop - rows.start),
                    slice(c.start - columns.start, c.stop - columns.start))  # fmt: skip
            range_m = self._meet(solid, self.directions[r, c])
            closer = range_m < nearest[part]
            nearest[part][closer] = range_m[closer]
            reflectance[part][closer] = self._shine(solid, int(closer.sum()))
        self.alone[owner] = int((nearest < MAX_RANGE_M).sum())
        self._keep(rows, columns, nearest, owner, reflectance, 0.7)

    def _meet(self, solid: Solid, directions: np.ndarray) -> np.ndarray:
        enter, leave = span(solid, directions)
        if solid.density_per_m:
            enter = np.maximum(enter, 0) + self.rng.exponential(1 / solid.density_per_m, enter.shape)
        missed = (enter >= leave) | (enter <= 0)
        if solid.leaky:
            missed |= self.rng.random(enter.shape) < solid.leaky
        return np.where(missed, np.inf, enter)

    def _shine(self, solid: Solid, rays: int) -> np.ndarray | float:
        """What comes back from a body: where it mirrors, hardly anything."""
        if not solid.gloss:
            return solid.reflectance
        return np.where(self.rng.random(rays) < solid.gloss, DIMMEST, solid.reflectance)

    def _keep(self, rows, columns, range_m, owner, reflectance, cosine) -> None:
        closer = range_m < self.range_m[rows, columns]
        self.range_m[rows, columns][closer] = range_m[closer]
        self.owner[rows, columns][closer] = owner
        for name, value in (("reflectance", reflectance), ("cosine", cosine)):
            getattr(self, name)[rows, columns][closer] = np.broadcast_to(value, range_m.shape)[closer]

    def visible(self, owner: int) -> int:
        """Rays that meet this thing first."""
        return int((self.owner == owner).sum())

    def returns(self) -> tuple[np.ndarray, np.ndarray]:
        """The points that come back, (P,4) float32 x, y, z, reflectance, beam by beam from the top, and their owners.

        Faint echoes get lost at random, as does a share of all; ranges are noisy; reflectance has two decimals.
        """
        met = self.range_m < MAX_RANGE_M
        range_m = np.where(met, self.range_m, 1.0)
        strength = self.reflectance.clip(DIMMEST) * self.cosine / range_m**2
        loudness = np.log(np.maximum(strength / FAINTEST, 1e-300))  # a grazing ray may return nothing at all
        heard = loudness > FAINT_SPREAD * self.rng.standard_normal(met.shape)
        kept = met & heard & (self.rng.random(met.shape) > LOST_SHARE)
        range_m = range_m + RANGE_NOISE_M * self.rng.standard_normal(met.shape)
        bright = self.reflectance * (0.7 + 0.3 * self.cosine) + 0.02 * self.rng.standard_normal(met.shape)
        points = np.concatenate([self.directions * range_m[..., None], bright.clip(0, 0.99).round(2)[..., None]], -1)
        return points[kept].astype(np.float32), self.owner[kept]


def _window(solid: Solid) -> tuple[slice, slice] | None:
    """Rows and columns whose rays can meet a body, or None: it is behind the sensor or beside the columns."""
    x, y, z = solid.centre_m
    reach = float(np.hypot(solid.half_m[0], solid.half_m[1]))
    distance = float(np.hypot(x, y))
    columns = _columns(solid, distance, reach)
    if columns is None:
        return None
    near, far = max(distance - reach, 0.05), distance + reach
    low, high = z - solid.half_m[2], z + solid.half_m[2]
    lowest, highest = np.arctan2(low, near if low < 0 else far), np.arctan2(high, far if high < 0 else near)
    first = int(np.searchsorted(-ELEVATIONS_RAD, -highest, "left"))
    last = int(np.searchsorted(-ELEVATIONS_RAD, -lowest, "right"))
    return (slice(first, last), columns) if last > first else None


def _columns(solid: Solid, distance: float, reach: float) -> slice | None:
    if distance <= reach * 1.01:
        return slice(0, len(AZIMUTHS_RAD))
    cos, sin = np.cos(solid.yaw_rad), np.sin(solid.yaw_rad)
    corners = [(sx * solid.half_m[0], sy * solid.half_m[1]) for sx in (-1, 1) for sy in (-1, 1)]
    middle = np.arctan2(solid.centre_m[1], solid.centre_m[0])
    angles = [np.arctan2(solid.centre_m[1] + dx * sin + dy * cos, solid.centre_m[0] + dx * cos - dy * sin)
              for dx, dy in corners]  # fmt: skip
    offsets = [(angle - middle + np.pi) % (2 * np.pi) - np.pi for angle in angles]
    first = int(np.searchsorted(-AZIMUTHS_RAD, -(middle + max(offsets)), "left"))
    last = int(np.searchsorted(-AZIMUTHS_RAD, -(middle + min(offsets)), "right"))
    return slice(first, last) if last > first else None
