"""Depth maps with holes: reading them, and resizing them without inventing depths.

    depth, valid = load_depth_m(path)                      # metres and a mask, as measured
    depth, valid = resize_masked(depth, valid, (256, 256))

A depth camera leaves 20-30 % of its pixels empty and marks them 0. Blending across that 0 gives depths that were never
measured: on the real sample a perfect prediction scores ABS_REL 4.12 against such a target. Here a pixel of the result
is the mean of the measured pixels below it, and is valid only where more than half were measured.
`RESIZE_RULES` keeps the other rules for comparison.
"""

# H, W rows and columns

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate, max_pool2d

from shared.errors import DataError
from shared.npy_files import read_npy

MM = 1000.0
NEAREST_PLAUSIBLE_M = 0.1  # a whole map nearer than this was not written in millimetres
FARTHEST_PLAUSIBLE_M = 1000.0
LEAST_SHARE = 0.5  # of a target pixel's area that must have been measured
RESIZE_RULES = ("bilinear_antialias", "bilinear", "nearest", "nearest-exact")


def load_depth_m(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Depth (H, W) float32 in metres, 0 where invalid, and valid (H, W) bool, of a .npy file in millimetres.

    Zero, negative, NaN and infinite values are invalid. Raises DataError: missing, broken, not a map, or with values
    that cannot be millimetres.
    """
    path = Path(path)
    stored = read_npy(path, "cannot be read as a .npy array", "copy it again.")
    if stored.ndim != 2 or stored.dtype.kind not in "uif" or stored.size == 0:
        raise DataError(f"{path}: {stored.dtype} of shape {stored.shape} is no map (rows, columns) of millimetres.")
    depth, valid = clean_depth(stored / np.float32(MM))
    _check_unit(depth, path)
    return depth, valid


def clean_depth(depth_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depth float32 with 0 where there is no measurement, and the mask of measurements (finite and positive)."""
    valid = np.isfinite(depth_m) & (depth_m > 0)
    return np.where(valid, depth_m, 0).astype(np.float32), valid


def _check_unit(depth_m: np.ndarray, path: Path) -> None:
    farthest = float(depth_m.max())
    if 0 < farthest < NEAREST_PLAUSIBLE_M:
        raise DataError(
            f"{path}: its largest value is {farthest * MM:.4g}, which is {farthest * 100:.2g} cm if it counts "
            "millimetres: it seems to hold metres. Multiply it by 1000 (files are in millimetres)."
        )
    if farthest > FARTHEST_PLAUSIBLE_M:
        raise DataError(
            f"{path}: its largest value is {farthest * MM:.4g}, which is {farthest:,.0f} m if it counts millimetres: "
            "another unit? Write millimetres, and 0 or NaN where nothing was measured."
        )


def resize_masked(depth: np.ndarray, valid: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Depth and valid of `size` (rows, columns), from the measured pixels alone.

    num = area(depth x valid), den = area(valid), depth = num / den where den > 0.5, else invalid and 0; area is
    adaptive average pooling. A constant map stays constant; what an invalid pixel holds is never read.
    """
    mask = torch.from_numpy(np.ascontiguousarray(valid)).float()
    known = torch.where(mask > 0, torch.from_numpy(np.ascontiguousarray(depth, dtype=np.float32)), 0.0)
    pooled = adaptive_avg_pool2d(torch.stack([known, mask])[None], tuple(size))[0]
    measured = pooled[1] > LEAST_SHARE
    resized = torch.where(measured, pooled[0] / pooled[1].clamp(min=LEAST_SHARE), 0.0)
    return resized.numpy(), measured.numpy()


def resize_plain(depth: np.ndarray, size: tuple[int, int], rule: str) -> np.ndarray:
    """Depth (H, W) with holes as 0, resized by a rule that does not know of holes (`RESIZE_RULES`): for comparison.

    "bilinear_antialias" is what torchvision >= 0.17 does, and so the official code today.
    """
    if rule not in RESIZE_RULES:
        raise ValueError(f"resize rule {rule!r}: choose one of {', '.join(RESIZE_RULES)}")
    maps = torch.from_numpy(np.ascontiguousarray(depth, dtype=np.float32))[None, None]
    if rule.startswith("bilinear"):
        return interpolate(maps, tuple(size), mode="bilinear", antialias=rule != "bilinear")[0, 0].numpy()
    return interpolate(maps, tuple(size), mode=rule)[0, 0].numpy()


def erode(valid: Tensor, radius: int) -> Tensor:
    """The mask (..., H, W) bool without the pixels that have an invalid one within `radius` rows and columns.

    Beyond the picture's edge nothing counts as invalid.
    """
    if radius == 0:
        return valid
    holes = (~valid).float().reshape(-1, 1, *valid.shape[-2:])
    grown = max_pool2d(holes, 2 * radius + 1, stride=1, padding=radius)
    return (grown == 0).reshape(valid.shape)
