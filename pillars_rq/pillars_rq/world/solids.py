"""Bodies that rays can meet: boxes, ellipsoids and upright cylinders, solid or porous, made for many rays at once.

All lie in the LiDAR frame, turned by `yaw` (radians, counter-clockwise from x) about the vertical. A porous body
(leaves) stops a ray after a random way inside it, so a ray may pass; a `leaky` one (glass, spokes) lets that share of
the rays pass at once.
"""

# S solids of a thing, R rays

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

BOX, ELLIPSOID, CYLINDER = "box", "ellipsoid", "cylinder"


@dataclass(frozen=True)
class Solid:
    """A body; centre_m and half_m (half sizes along its own x, y, z), yaw_rad, and what it does to light.

    reflectance 0..1; leaky 0..1; density_per_m: mean number of stops on a metre of way, 0 for a solid body; gloss 0..1:
    share of the rays that are mirrored away, so that only near ones are heard.
    paint: RGB for the picture.
    """

    shape: str
    centre_m: tuple[float, float, float]
    half_m: tuple[float, float, float]
    yaw_rad: float = 0.0
    reflectance: float = 0.3
    leaky: float = 0.0
    density_per_m: float = 0.0
    gloss: float = 0.0
    paint: tuple[int, int, int] = (128, 128, 128)

    def placed(self, place_m: Sequence[float], yaw_rad: float) -> "Solid":
        """The same body of a thing that stands at (x, y, z) turned by yaw."""
        x, y, z = self.centre_m
        cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
        centre = (place_m[0] + x * cos - y * sin, place_m[1] + x * sin + y * cos, place_m[2] + z)
        return replace(self, centre_m=centre, yaw_rad=self.yaw_rad + yaw_rad)

    def outline(self) -> np.ndarray:
        """Points on its hull, (V,3): the corners of a box, rings of a round body."""
        x, y, z = (part.ravel() for part in np.meshgrid([-1, 1], [-1, 1], [-1, 1]))
        unit = np.stack([x, y, z], 1).astype(float)
        if self.shape != BOX:
            turn = np.arange(12) * np.pi / 6
            levels = (-1.0, 1.0) if self.shape == CYLINDER else (-0.95, -0.6, 0.0, 0.6, 0.95)
            radii = [1.0 if self.shape == CYLINDER else np.sqrt(1 - level**2) for level in levels]
            unit = np.concatenate([np.stack([r * np.cos(turn), r * np.sin(turn), np.full(12, level)], 1)
                                   for level, r in zip(levels, radii, strict=True)])  # fmt: skip
        local = unit * self.half_m
        cos, sin = np.cos(self.yaw_rad), np.sin(self.yaw_rad)
        turned = np.stack(
            [local[:, 0] * cos - local[:, 1] * sin, local[:, 0] * sin + local[:, 1] * cos, local[:, 2]], 1
        )
        return turned + self.centre_m


def span(solid: Solid, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rays from the origin enter and leave a body: unit directions (..., 3) -> two arrays of metres.

    Where the first is not below the second, or the second not above 0, the ray misses.
    """
    cos, sin = np.cos(solid.yaw_rad), np.sin(solid.yaw_rad)
    x, y, z = (directions[..., k] for k in range(3))
    scaled = np.stack(
        [(x * cos + y * sin) / solid.half_m[0], (y * cos - x * sin) / solid.half_m[1], z / solid.half_m[2]]
    )
    cx, cy, cz = solid.centre_m
    start = np.array([-(cx * cos + cy * sin), -(cy * cos - cx * sin), -cz]) / solid.half_m
    if solid.shape == BOX:
        return _slabs(scaled, start, 3)
    if solid.shape == ELLIPSOID:
        return _quadric(scaled, start, 3)
    enter, leave = _quadric(scaled, start, 2)
    bottom, top = _slabs(scaled[2:], start[2:], 1)
    return np.maximum(enter, bottom), np.minimum(leave, top)


def _slabs(direction: np.ndarray, start: np.ndarray, axes: int) -> tuple[np.ndarray, np.ndarray]:
    """Between the planes -1 and 1 of each axis."""
    enter, leave = np.full(direction.shape[1:], -np.inf), np.full(direction.shape[1:], np.inf)
    for axis in range(axes):
        d = np.where(np.abs(direction[axis]) < 1e-12, 1e-12, direction[axis])
        first, second = (-1 - start[axis]) / d, (1 - start[axis]) / d
        enter, leave = np.maximum(enter, np.minimum(first, second)), np.minimum(leave, np.maximum(first, second))
    return enter, leave


def _quadric(direction: np.ndarray, start: np.ndarray, axes: int) -> tuple[np.ndarray, np.ndarray]:
    """Inside the unit circle or ball of the first axes: |start + t direction| <= 1."""
    a = (direction[:axes] ** 2).sum(0).clip(min=1e-12)
    half_b = np.tensordot(start[:axes], direction[:axes], 1)
    root = half_b**2 - a * ((start[:axes] ** 2).sum() - 1)
    hit = root > 0
    way = np.sqrt(np.where(hit, root, 0.0))
    return np.where(hit, (-half_b - way) / a, np.inf), np.where(hit, (-half_b + way) / a, -np.inf)
