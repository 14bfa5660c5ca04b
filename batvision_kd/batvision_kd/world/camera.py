"""What the camera sees: a shaded picture, and depth in millimetres with the holes of a stereo depth camera.

The field of view is BatVision's (86 x 57 degrees). Depth is along the optical axis, not along the ray. Holes: what the
second eye of the depth camera does not see (beside near things, and a band at the left edge), glass, and patches where
a surface is dark or met at a low angle; on the real sample a fifth is missing.
"""

# H, W rows and columns; N = H W rays; F surfaces

import numpy as np

from .building import Rig, Room
from .rays import Hits, cast
from .surfaces import painted

HFOV, VFOV = np.radians(86.0), np.radians(57.0)
BASELINE_M = 0.05  # between the eyes of the depth camera
DISPARITY_NOISE_PX = 0.08  # at 1280 columns
PATCH_GRID = (13, 22)  # places over the picture at which its holes are drawn
AMBIENT = 0.5  # light that comes from everywhere
LAMP_REACH_M = 3.0  # where a surface that faces the lamp receives 1 in all
DARK = 0.45  # below it the depth camera sees less
BRIGHTEST = 1.5  # of the lamp's own light, near it


def focal_px(size_hw: tuple[int, int]) -> tuple[float, float]:
    """fy, fx in pixels: 663.0 and 686.3 at 720 x 1280."""
    return size_hw[0] / 2 / np.tan(VFOV / 2), size_hw[1] / 2 / np.tan(HFOV / 2)


def camera_rays(rig: Rig, size_hw: tuple[int, int]) -> np.ndarray:
    """(3, N) vectors of length 1 along the optical axis, row by row: a reach along them is a depth."""
    fy, fx = focal_px(size_hw)
    right = (np.arange(size_hw[1]) + 0.5 - size_hw[1] / 2) / fx
    up = (size_hw[0] / 2 - np.arange(size_hw[0]) - 0.5) / fy
    level = rig.forward[:, None] - rig.left[:, None] * right  # (3, W)
    rays = np.repeat(level[:, None, :], size_hw[0], axis=1)
    rays[2] += up[:, None]
    return rays.reshape(3, -1)


def photograph(
    room: Room, rig: Rig, size_hw: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Picture (H, W, 3) uint8 RGB and depth (H, W) uint16 in millimetres, 0 where there is none."""
    rays = camera_rays(rig, size_hw)
    hits = cast(room, rig.position_m, rays)
    points = rig.position_m[:, None].astype(np.float32) + hits.reach * rays.astype(np.float32)
    pixel_m = hits.reach / np.float32(focal_px(size_hw)[1])
    colour, shade = painted(room.look, room.size_m, room.colours, hits.surface, hits.axis, points, pixel_m)
    brightness = _light(room, rays, hits, points) * shade
    picture = colour * brightness[:, None] * np.float32(rng.uniform(0.8, 1.2))
    picture += rng.normal(0, 0.012, len(picture)).astype(np.float32)[:, None]
    depth = hits.reach.reshape(size_hw)
    holes = _holes(room, rays, hits, brightness, size_hw, rng)
    return (np.clip(picture, 0, 1) * 255).astype(np.uint8).reshape(*size_hw, 3), _measured(depth, holes, rng)


def _light(room: Room, rays: np.ndarray, hits: Hits, points: np.ndarray) -> np.ndarray:
    """Lambert's law for a lamp below the middle of the ceiling, weaker with the distance, plus ambient light. (N,)"""
    lamp = (room.size_m * (0.5, 0.5, 0.95)).astype(np.float32)[:, None]
    to_lamp = lamp - points
    towards = np.take_along_axis(rays, hits.axis[None], 0)[0] > 0  # the normal looks against the ray
    along = np.take_along_axis(to_lamp, hits.axis[None], 0)[0]
    squared = (to_lamp**2).sum(axis=0) + np.float32(1e-6)
    cosine = np.clip(np.where(towards, -along, along) / np.sqrt(squared), 0, 1)
    received = cosine * np.minimum(LAMP_REACH_M**2 / squared, BRIGHTEST)
    return (AMBIENT + (1 - AMBIENT) * received).astype(np.float32)


def _holes(room, rays, hits, brightness, size_hw, rng) -> np.ndarray:
    """(H, W) bool: where the depth camera measures nothing."""
    slant = np.abs(np.take_along_axis(rays, hits.axis[None], 0)[0]) / np.sqrt((rays**2).sum(axis=0))
    patches = smooth_noise(rng, size_hw).reshape(-1)
    missed = 0.30 + 0.15 * (slant < 0.25) + 0.10 * (brightness < DARK)
    lost = (patches < missed) | (room.glass[hits.surface] & (patches < 0.8))
    return lost.reshape(size_hw) | occluded(hits.reach.reshape(size_hw), focal_px(size_hw)[1])


def smooth_noise(rng: np.random.Generator, size_hw: tuple[int, int]) -> np.ndarray:
    """(H, W) float32 in 0..1, mean 0.5: random numbers on a grid of `PATCH_GRID`, blended in between."""
    grid = rng.random(PATCH_GRID, dtype=np.float32)
    for axis, side in enumerate(size_hw):
        place = np.linspace(0, PATCH_GRID[axis] - 1, side, dtype=np.float32)
        low = np.minimum(place.astype(np.int64), PATCH_GRID[axis] - 2)
        part = (place - low).reshape((-1, 1) if axis == 0 else (1, -1))
        grid = np.take(grid, low, axis) * (1 - part) + np.take(grid, low + 1, axis) * part
    return grid


def occluded(depth_m: np.ndarray, fx_px: float) -> np.ndarray:
    """Pixels (H, W) that the right eye of a stereo camera does not see: hidden by nearer ones, or left of its view."""
    there = np.arange(depth_m.shape[1]) - fx_px * BASELINE_M / depth_m  # column in the other eye
    nearest = np.minimum.accumulate(there[:, ::-1], axis=1)[:, ::-1]
    hidden = np.zeros(depth_m.shape, bool)
    hidden[:, :-1] = there[:, :-1] > nearest[:, 1:]
    return hidden | (there < 0)


def _measured(depth_m: np.ndarray, holes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint16 millimetres with the noise of a disparity, which grows with the square of the depth."""
    spread = DISPARITY_NOISE_PX / (focal_px((720, 1280))[1] * BASELINE_M) * depth_m**2
    noisy = depth_m + spread * rng.standard_normal(depth_m.shape, dtype=np.float32)
    return np.where(holes, 0, np.clip(noisy * 1000, 1, 65535)).astype(np.uint16)
