"""Labelled boxes: OpenPCDet's custom label files, and KITTI's turned into the LiDAR frame.

    custom   x y z dx dy dz heading class          metres, centre of the box, radians counter-clockwise from +x
    KITTI    15 columns a line, camera frame       see `read_kitti_labels`

Any white space separates the columns. An empty file is a frame without objects; a frame without a file is unlabelled.
"""

# G boxes of a frame

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.errors import DataError
from voxel_mae.boxes import from_kitti_camera

NUMBERS = ("x", "y", "z", "dx", "dy", "dz", "heading")
DONT_CARE = "DontCare"
KITTI_CLASSES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")


@dataclass(frozen=True, eq=False)
class Labels:
    """names (G,) str; boxes (G,7) float64 x, y, z (centre), dx, dy, dz, heading."""

    names: np.ndarray
    boxes: np.ndarray

    def __post_init__(self):
        object.__setattr__(self, "names", np.asarray(self.names, np.str_).reshape(-1))
        object.__setattr__(self, "boxes", np.asarray(self.boxes, np.float64).reshape(-1, 7))
        assert len(self.names) == len(self.boxes)

    def __len__(self) -> int:
        return len(self.names)


def read_labels(path: Path) -> Labels:
    """Read a custom label file.

    Raises:
        DataError: not text, or a line with other columns, no number, a value that is not finite, a size not above 0.
    """
    rows = [_row(f"{path}, line {number}", line) for number, line in lines_of(path)]
    return Labels([name for name, _ in rows], [numbers for _, numbers in rows])


def lines_of(path: Path) -> list[tuple[int, str]]:
    """Number and text of every line that is not blank. DataError when the file is missing or not text."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path} is missing: restore it (an empty file says that the frame has no objects).") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text ({error}): restore it.") from error
    return [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _row(where: str, line: str) -> tuple[str, list[float]]:
    *words, name = line.split()
    if len(words) != len(NUMBERS):
        raise DataError(f"{where}: {len(words) + 1} columns instead of 8 ({' '.join(NUMBERS)} class): correct it.")
    numbers = to_numbers(where, words)
    check_sizes(where, numbers[3:6])
    return name, numbers


def to_numbers(where: str, words: Sequence[str]) -> list[float]:
    """The words as finite numbers; DataError otherwise."""
    try:
        numbers = [float(word) for word in words]
    except ValueError as error:
        raise DataError(f"{where}: {error}: correct the line.") from error
    if not np.isfinite(numbers).all():
        raise DataError(f"{where}: a value is not finite: correct the line.")
    return numbers


def check_sizes(where: str, sizes_m: Sequence[float]) -> None:
    """DataError unless all three sizes are above 0."""
    if min(sizes_m) <= 0:
        raise DataError(f"{where}: sizes {list(sizes_m)} must be above 0 m: correct the line.")


def class_ids(
    labels: Labels, classes: Sequence[str], ignored: Sequence[str], where: str
) -> tuple[np.ndarray, np.ndarray]:
    """(G,) int64 ids from 1, 0 for an ignored class; and a copy of the boxes (G,7) float64.

    Raises:
        DataError: a class that is neither known nor ignored.
    """
    strange = sorted(set(labels.names.tolist()) - set(classes) - set(ignored))
    if strange:
        raise DataError(
            f"{where}: unknown class {strange[0]!r}; CLASS_NAMES are {', '.join(classes)}: correct the label, or name "
            "it among the classes or the ignored ones."
        )
    ids = {name: number for number, name in enumerate(classes, 1)}
    return np.array([ids.get(name, 0) for name in labels.names.tolist()], np.int64), labels.boxes.copy()


# --- KITTI ------------------------------------------------------------------------------------------------------------


def read_kitti_labels(path: Path, calib: Path) -> Labels:
    """A label_2 file in the LiDAR frame, DontCare left out.

    p = inv(R0_rect Tr_velo_to_cam) (x, y, z), the bottom centre; the box's centre is half its height above it; sizes
    (l, w, h); heading -(rotation_y + pi/2). The camera's tilt is ignored.

    Raises:
        DataError: a broken file, an unknown class, or a size not above 0.
    """
    names, rows = [], []
    for number, line in lines_of(path):
        name, *words = line.split()
        where = f"{path}, line {number}"
        if len(words) != 14:
            raise DataError(f"{where}: {len(words) + 1} columns instead of KITTI's 15: restore the line.")
        if name == DONT_CARE:
            continue
        if name not in KITTI_CLASSES:
            raise DataError(f"{where}: unknown class {name!r}; KITTI's are {', '.join(KITTI_CLASSES)}: correct it.")
        numbers = to_numbers(where, words)[7:14]  # h w l x y z rotation_y
        check_sizes(where, numbers[:3])
        names.append(name)
        rows.append(numbers)
    return Labels(names, from_kitti_camera(np.reshape(rows, (-1, 7)), camera_to_lidar(calib)))


def camera_to_lidar(calib: Path) -> np.ndarray:
    """4x4 inv(R0_rect Tr_velo_to_cam) of a KITTI calib file. DataError when it is missing or lacks them."""
    found = {name.strip(): words.split() for name, _, words in (line.partition(":") for _, line in lines_of(calib))}
    rotation = _matrix(calib, "R0_rect", found, (3, 3))
    velo_to_cam = _matrix(calib, "Tr_velo_to_cam", found, (3, 4))
    return np.linalg.inv(rotation @ velo_to_cam)


def _matrix(path: Path, name: str, found: dict[str, list[str]], shape: tuple[int, int]) -> np.ndarray:
    words = found.get(name, [])
    if len(words) != shape[0] * shape[1]:
        raise DataError(f"{path}: {name} has {len(words)} numbers, not {shape[0]} x {shape[1]}: restore the file.")
    whole = np.eye(4)
    whole[: shape[0], : shape[1]] = np.reshape(to_numbers(f"{path}, {name}", words), shape)
    return whole
