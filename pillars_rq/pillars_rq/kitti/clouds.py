"""Point clouds on disk: x, y, z, reflectance as little-endian float32, and the crop to what a camera sees."""

# P points

from pathlib import Path

import numpy as np

from shared.errors import DataError

from .calibration import Calibration

POINT_BYTES = 16
MAX_DEPTH_M = 100.0  # of the camera's frustum (near .001, far 100)
MIN_DEPTH_M = 0.001


def read_points(path: Path, expected: int | None = None) -> np.ndarray:
    """Read a .bin file: (P,4) float32.

    Args:
        expected: points the file is known to hold.

    Raises:
        DataError: missing, empty, cut short, not finite, or another number of points than expected.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} is missing: run prepare_kitti.py on the data root (python prepare_kitti.py --help).") \
            from None  # fmt: skip
    if len(data) % POINT_BYTES:
        raise DataError(
            f"{path} has {len(data):,} bytes, not a multiple of 16 (x, y, z, intensity as float32): the copy was cut "
            "short; re-extract it."
        )
    points = np.frombuffer(data, "<f4").reshape(-1, 4).astype(np.float32)
    if not len(points):
        raise DataError(f"{path} is empty: re-extract it.")
    if expected is not None and len(points) != expected:
        raise DataError(
            f"{path} holds {len(points):,} points, {expected:,} when it was prepared: run prepare_kitti.py again."
        )
    if not np.isfinite(points).all():
        broken = ~np.isfinite(points).all(1)
        raise DataError(
            f"{path}: {broken.sum()} of {len(points):,} points are NaN or infinite, the first is number "
            f"{broken.argmax()}: remove them or re-extract the file."
        )
    return points


def in_view(points: np.ndarray, calib: Calibration, image_hw: tuple[int, int]) -> np.ndarray:
    """(P,) whether a LiDAR point lies in the camera's frustum and projects into the image.

    The frustum's planes pass through the image's corners; near .001 m, far 100 m before the camera.
    """
    pixels = calib.to_camera(points[:, :3]) @ calib.matrices["P2"][:3, :3].T + calib.matrices["P2"][:3, 3]
    depth = pixels[:, 2]  # along the optical axis from the camera's own centre
    u, v = pixels[:, 0], pixels[:, 1]
    height, width = image_hw
    inside = (u > 0) & (u < width * depth) & (v > 0) & (v < height * depth)
    return inside & (depth > MIN_DEPTH_M) & (depth < MAX_DEPTH_M)
