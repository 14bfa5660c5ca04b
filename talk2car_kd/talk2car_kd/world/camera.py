"""A pinhole camera over a flat ground.  Metres: x right, y up from the ground, z ahead.  Pixels: x right, y down."""

from dataclasses import dataclass

import numpy as np

FARTHEST_PX = 20000.0  # points farther out of the frame are drawn here: OpenCV's fixed point would overflow
NEAREST_M = 0.7  # points nearer than this are pulled out to it: nothing is drawn behind the camera


@dataclass(frozen=True)
class Camera:
    """A level camera; yaw and pitch are small and stand as shifts of the vanishing point.

    Attributes:
        frame_wh: Width and height of the frame in pixels.
        focal_px: Focal length.
        vanish_xy: Vanishing point of the road, pixels; its y is the horizon.
        height_m: Height over the ground.
    """

    frame_wh: tuple[int, int]
    focal_px: float
    vanish_xy: tuple[float, float]
    height_m: float = 1.5

    def project(self, points_m: np.ndarray) -> np.ndarray:
        """Pixels (..., 2) of points (..., 3) in metres."""
        points_m = np.asarray(points_m, float)
        depth = np.maximum(points_m[..., 2], NEAREST_M)
        pixels = np.empty((*points_m.shape[:-1], 2))
        pixels[..., 0] = self.vanish_xy[0] + self.focal_px * points_m[..., 0] / depth
        pixels[..., 1] = self.vanish_xy[1] + self.focal_px * (self.height_m - points_m[..., 1]) / depth
        return np.maximum(np.minimum(pixels, FARTHEST_PX), -FARTHEST_PX)

    def px_per_m(self, depth_m: float) -> float:
        """Pixels of one metre at this depth."""
        return self.focal_px / max(depth_m, NEAREST_M)

    def depth_of(self, size_m: float, size_px: float) -> float:
        """Depth at which `size_m` metres span `size_px` pixels."""
        return self.focal_px * size_m / size_px

    @property
    def horizon_px(self) -> float:
        return self.vanish_xy[1]
