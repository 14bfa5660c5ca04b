"""A pinhole camera over flat ground: metres to pixels and back.

World: x across the street, y up, z along the street, in metres; the camera stands at (0, height_m, 0), turned by
`yaw` to the right and `pitch` downwards (radians).
# H, W rows and columns of the picture in pixels
"""

from dataclasses import dataclass
from math import cos, sin

import numpy as np


@dataclass(frozen=True)
class Camera:
    """Pixels have their origin at the top left corner of the top left pixel."""

    height_m: float
    pitch: float
    yaw: float
    focal_px: float
    size_hw: tuple[int, int]

    def project(self, x: float, y: float, z: float) -> tuple[float, float, float]:
        """(column, row, distance along the view in m) of a point; only meaningful for a distance > 0."""
        across, along = x * cos(self.yaw) - z * sin(self.yaw), x * sin(self.yaw) + z * cos(self.yaw)
        drop = y - self.height_m
        distance = along * cos(self.pitch) - drop * sin(self.pitch)
        up = drop * cos(self.pitch) + along * sin(self.pitch)
        rows, columns = self.size_hw
        return columns / 2 + self.focal_px * across / distance, rows / 2 - self.focal_px * up / distance, distance

    def rays(self, columns_px: np.ndarray, rows_px: np.ndarray) -> np.ndarray:
        """Directions (..., 3) in the world of the pixels given, of length 1 along the view."""
        a = (columns_px - self.size_hw[1] / 2) / self.focal_px
        b = (self.size_hw[0] / 2 - rows_px) / self.focal_px
        along = cos(self.pitch) + b * sin(self.pitch)
        return np.stack(
            [a * cos(self.yaw) + along * sin(self.yaw), b * cos(self.pitch) - sin(self.pitch),
             along * cos(self.yaw) - a * sin(self.yaw)], axis=-1
        )  # fmt: skip

    def ground(self, column: float, along_m: float) -> tuple[float, float]:
        """(x, z) of the ground point that lies `along_m` ahead of the camera and is seen in this pixel column."""
        distance = along_m * cos(self.pitch) + self.height_m * sin(self.pitch)
        across = (column - self.size_hw[1] / 2) * distance / self.focal_px
        return across * cos(self.yaw) + along_m * sin(self.yaw), along_m * cos(self.yaw) - across * sin(self.yaw)

    def along_for(self, height_m: float, height_px: float) -> float:
        """How far ahead (m) on the ground something `height_m` tall is `height_px` tall in the picture, about."""
        distance = self.focal_px * height_m * cos(self.pitch) / height_px
        return (distance - self.height_m * sin(self.pitch)) / cos(self.pitch)
