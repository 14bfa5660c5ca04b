"""Point clouds on disk: .npy tables, KITTI- and nuScenes-style .bin records, and .pcd files.

    points = read_cloud(path, ("x", "y", "z", "intensity"))      # (N, 4) float32, named columns, metres

.npy   float N x C (OpenPCDet's custom layout)
.bin   little-endian float32 records; KITTI has 4 columns, nuScenes (.pcd.bin) 5
.pcd   the Point Cloud Library's files, ascii or binary; columns are taken by name (see pcd.py)

Points at exactly (0, 0, 0) are places that a sensor left empty, not returns (nuScenes has them): they are left out.
"""

# N points, C columns

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shared.errors import DataError
from shared.npy_files import read_npy

from .pcd import read_pcd

KITTI_FEATURES = ("x", "y", "z", "intensity")
NUSCENES_FEATURES = ("x", "y", "z", "intensity", "ring")
SUFFIXES = (".npy", ".pcd.bin", ".bin", ".pcd")


def read_cloud(path: Path, features: Sequence[str]) -> np.ndarray:
    """Read a cloud: (N, C) float32, one column for each of the named features; N may be 0.

    Raises:
        DataError: missing, cut short, of another number of columns, no table of numbers, or not finite.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing: restore the cloud, or take its id out of ImageSets.")
    if path.suffix == ".npy":
        points = _from_npy(path, features)
    elif path.suffix == ".pcd":
        points = read_pcd(path, features)
    elif path.suffix == ".bin":
        points = _from_bin(path, features)
    else:
        raise DataError(f"{path}: clouds end in {', '.join(SUFFIXES)}: convert it.")
    _check_finite(path, points)
    return points[(points[:, :3] != 0).any(1)]


def without_suffix(name: str) -> str | None:
    """The frame id of a cloud's file name; None for another kind of file."""
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), None)


def _from_npy(path: Path, features: Sequence[str]) -> np.ndarray:
    table = read_table(path)
    if table.ndim != 2 or table.dtype.kind not in "fiu":
        raise DataError(
            f"{path} holds {table.shape}, not an N x C table of numbers: save x, y, z (and features) as float32."
        )
    _check_columns(path, table.shape[1], features)
    return table.astype(np.float32)


def read_table(path: Path) -> np.ndarray:
    """What a .npy file holds; DataError for a missing or broken one."""
    return read_npy(path, "is no .npy table of numbers", "save it with numpy.save as float32.")


def _check_columns(path: Path, columns: int, features: Sequence[str]) -> None:
    if columns != len(features):
        raise DataError(
            f"{path} has {columns} columns and the configuration names {len(features)} ({', '.join(features)}): "
            "correct src_feature_list, or export the cloud anew."
        )


def _from_bin(path: Path, features: Sequence[str]) -> np.ndarray:
    data = path.read_bytes()
    record = 4 * len(features)
    if len(data) % record:
        raise DataError(
            f"{path} has {len(data):,} bytes, not a multiple of {record} ({', '.join(features)} as float32): the copy "
            "was cut short, or the file has other columns; re-extract it, or correct src_feature_list."
        )
    return np.frombuffer(data, "<f4").reshape(-1, len(features)).astype(np.float32)


def _check_finite(path: Path, points: np.ndarray) -> None:
    broken = ~np.isfinite(points).all(1)
    if broken.any():
        raise DataError(
            f"{path}: {broken.sum():,} of {len(points):,} points are NaN or infinite, the first is number "
            f"{broken.argmax()}: remove them or export the cloud anew."
        )
