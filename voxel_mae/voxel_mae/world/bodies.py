"""Bodies that rays can meet: boxes, ellipsoids and cylinders at any tilt, intersected with many rays at once.

A body has a frame of its own: `turn` holds its axes as columns. A cylinder stands along its own z, a drum lies along
its own y (wheels, rollers, pipes). A `leaky` body (mesh, windows) lets that share of the rays pass.
"""

# R rays; d directions, unit vectors; half sizes scale a body to the unit box, ball or cylinder

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

BOX, ELLIPSOID, CYLINDER, DRUM = "box", "ellipsoid", "cylinder", "drum"
ROUND_AXES = {ELLIPSOID: (0, 1, 2), CYLINDER: (0, 1), DRUM: (0, 2)}
FLAT_AXES = {BOX: (0, 1, 2), CYLINDER: (2,), DRUM: (1,), ELLIPSOID: ()}
SIGNS = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1], indexing="ij"), -1).reshape(-1, 3)
PARALLEL = 1e-9  # smaller components of a direction count as this


@dataclass(frozen=True, eq=False)
class Body:
    """shape; centre_m (3,); half_m (3,) along its own axes; turn (3,3) rotation; reflectance 0..1; leaky 0..1."""

    shape: str
    centre_m: np.ndarray
    half_m: np.ndarray
    turn: np.ndarray
    reflectance: float = 0.3
    leaky: float = 0.0

    def placed(self, place_m: Sequence[float], yaw_rad: float) -> "Body":
        """The same body of a thing that stands at (x, y, z), turned by yaw about the vertical."""
        rotation = about_z(yaw_rad)
        return replace(self, centre_m=rotation @ self.centre_m + np.asarray(place_m), turn=rotation @ self.turn)

    def corners(self) -> np.ndarray:
        """(8,3) corners of the box around it."""
        return (SIGNS * self.half_m) @ self.turn.T + self.centre_m


def about_z(angle_rad: float) -> np.ndarray:
    """Rotation counter-clockwise from x to y, seen from above."""
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def about_y(angle_rad: float) -> np.ndarray:
    """Rotation that lifts the nose (x) by the angle."""
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])


def block(x, y, z, shape: str = BOX, **how) -> Body:
    """A body between these limits: x, y, z are (low, high) metres."""
    lows, highs = np.array([x[0], y[0], z[0]], float), np.array([x[1], y[1], z[1]], float)
    return Body(shape, (lows + highs) / 2, (highs - lows) / 2, np.eye(3), **how)


def beam(start_xz, end_xz, y: float, thick_m: float, wide_m: float, **how) -> Body:
    """A straight box in a vertical plane along x, from (x, z) to (x, z): booms, sticks, struts."""
    (x0, z0), (x1, z1) = start_xz, end_xz
    length = float(np.hypot(x1 - x0, z1 - z0))
    turn = about_y(float(np.arctan2(z1 - z0, x1 - x0)))
    half = np.array([length / 2, wide_m / 2, thick_m / 2])
    return Body(BOX, np.array([(x0 + x1) / 2, y, (z0 + z1) / 2]), half, turn, **how)


def span(body: Body, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rays from the origin enter and leave: unit directions (..., 3) -> two arrays (...) of metres.

    Where the first is not below the second, or the second not above 0, the ray misses.
    """
    to_body = (body.turn / body.half_m).astype(directions.dtype)
    scaled = directions @ to_body
    start = (-body.centre_m @ body.turn / body.half_m).astype(directions.dtype)
    enter = np.full(scaled.shape[:-1], -np.inf, directions.dtype)
    leave = np.full(scaled.shape[:-1], np.inf, directions.dtype)
    for axis in FLAT_AXES[body.shape]:
        d = scaled[..., axis]
        d = np.where(np.abs(d) < PARALLEL, PARALLEL, d)
        first, second = (-1 - start[axis]) / d, (1 - start[axis]) / d
        enter, leave = np.maximum(enter, np.minimum(first, second)), np.minimum(leave, np.maximum(first, second))
    if body.shape in ROUND_AXES:
        first, second = _round(scaled[..., list(ROUND_AXES[body.shape])], start[list(ROUND_AXES[body.shape])])
        enter, leave = np.maximum(enter, first), np.minimum(leave, second)
    return enter, leave


def _round(direction: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inside the unit circle or ball: |start + t direction| <= 1."""
    a = np.maximum((direction**2).sum(-1), PARALLEL)
    half_b = direction @ start
    root = half_b**2 - a * ((start**2).sum() - 1)
    hit = root > 0
    way = np.sqrt(np.where(hit, root, 0))
    return np.where(hit, (-half_b - way) / a, np.inf), np.where(hit, (-half_b + way) / a, -np.inf)
