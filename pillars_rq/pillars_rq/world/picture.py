"""A simple picture of a scene for image_2: flat-shaded bodies, far ones first, under a grey sky."""

import cv2
import numpy as np

from pillars_rq.kitti.calibration import Calibration

from .annotate import IMAGE_HW
from .scene import Scene
from .solids import Solid

SKY_TOP, SKY_LOW = (150, 178, 210), (222, 226, 228)
NEAREST_M = 0.4
HAZE_M = 120.0


def draw(scene: Scene, calib: Calibration) -> np.ndarray:
    """(H,W,3) uint8 RGB."""
    picture = _background(scene)
    solids = [solid for thing in scene.things for solid in thing.bodies()]
    for solid in sorted(solids, key=lambda solid: -np.hypot(*solid.centre_m[:2])):
        _paint(picture, solid, calib)
    return picture


def _background(scene: Scene) -> np.ndarray:
    height, width = IMAGE_HW
    horizon = 173
    picture = np.empty((height, width, 3), np.uint8)
    share = np.linspace(0, 1, horizon)[:, None]
    picture[:horizon] = ((1 - share) * SKY_TOP + share * SKY_LOW)[:, None]
    grey = 70 + 160 * scene.asphalt
    near = np.linspace(1.25, 0.85, height - horizon)[:, None]
    picture[horizon:] = np.clip(grey * near * [1, 1, 1.02], 0, 255)[:, None]
    return picture


def _paint(picture: np.ndarray, solid: Solid, calib: Calibration) -> None:
    points = calib.to_camera(solid.outline())
    if points[:, 2].min() < NEAREST_M:
        return
    pixels = np.clip(calib.project(points), -4000, 4000)
    hull = cv2.convexHull(np.round(pixels).astype(np.int32))
    distance = float(np.hypot(*solid.centre_m[:2]))
    haze = min(distance / HAZE_M, 0.75)
    shade = 0.82 + 0.18 * np.cos(2 * solid.yaw_rad)
    colour = (1 - haze) * shade * np.array(solid.paint) + haze * np.array(SKY_LOW)
    if solid.density_per_m or solid.leaky:  # what rays pass, one sees through
        x, y, w, h = cv2.boundingRect(hull)
        x, y, right, low = max(x, 0), max(y, 0), min(x + w, picture.shape[1]), min(y + h, picture.shape[0])
        if right <= x or low <= y:
            return
        patch = picture[y:low, x:right].copy()
        cv2.fillConvexPoly(patch, hull - [x, y], colour.tolist())
        picture[y:low, x:right] = (0.45 * picture[y:low, x:right] + 0.55 * patch).astype(np.uint8)
        return
    cv2.fillConvexPoly(picture, hull, colour.tolist(), lineType=cv2.LINE_AA)
