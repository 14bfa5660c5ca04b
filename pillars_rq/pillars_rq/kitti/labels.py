"""KITTI's label and result files: one object a line, 15 columns, 16 with a score.

    name truncated occluded alpha  x1 y1 x2 y2  h w l  x y z  rotation_y [score]

In memory the sizes stand as l, h, w (the order of the infos); files keep h, w, l, and only this module
knows of the difference. A file without lines is a frame without objects. DontCare rows mark regions of the image.
"""

# N objects of a frame

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from shared.errors import DataError

DONT_CARE = "DontCare"
NAMES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc", DONT_CARE)
DIFFICULTIES = ("easy", "moderate", "hard")
MIN_HEIGHT_PX = (40, 25, 25)  # in the image, for each difficulty: strictly above
MAX_OCCLUSION = (0, 1, 2)
MAX_TRUNCATION = (0.15, 0.30, 0.50)
NO_ALPHA = -10.0
WIDTHS = {"bbox": 4, "dimensions": 3, "location": 3}


@dataclass(frozen=True, eq=False)
class Annotations:
    """The columns of one frame's objects, labelled or detected; arrays of N rows.

    name (N,) str; truncated 0..1, -1 unknown; occluded 0..3, -1 unknown; alpha radians, -10 unknown; bbox (N,4) pixels
    x1, y1, x2, y2; dimensions (N,3) metres l, h, w; location (N,3) metres, bottom centre in the rectified camera;
    rotation_y radians; score (N,), 0 for labels; difficulty 0, 1, 2 or -1; num_points inside the box, -1 not counted.
    """

    name: np.ndarray
    truncated: np.ndarray
    occluded: np.ndarray
    alpha: np.ndarray
    bbox: np.ndarray
    dimensions: np.ndarray
    location: np.ndarray
    rotation_y: np.ndarray
    score: np.ndarray
    difficulty: np.ndarray = field(default=None)  # type: ignore[assignment]
    num_points: np.ndarray = field(default=None)  # type: ignore[assignment]

    def __post_init__(self):
        count = len(self.name)
        for column in fields(self):
            values = getattr(self, column.name)
            if values is None:
                values = np.full(count, -1)
            shape = (count, WIDTHS[column.name]) if column.name in WIDTHS else (count,)
            values = np.asarray(values, _dtype(column.name)).reshape(shape)
            object.__setattr__(self, column.name, values)

    def __len__(self) -> int:
        return len(self.name)

    @classmethod
    def empty(cls) -> "Annotations":
        return cls(**{column.name: () for column in fields(cls)})

    def select(self, rows: np.ndarray) -> "Annotations":
        """The rows of a mask or of indices, as a copy: a selection never changes what it came from."""
        return Annotations(**{column.name: getattr(self, column.name)[rows].copy() for column in fields(self)})

    def without_dont_care(self) -> "Annotations":
        return self.select(self.name != DONT_CARE)

    def with_columns(self, **columns: np.ndarray) -> "Annotations":
        return replace(self, **columns)

    def as_json(self) -> dict[str, list]:
        return {column.name: getattr(self, column.name).tolist() for column in fields(self)}

    @classmethod
    def from_json(cls, columns: Mapping[str, list]) -> "Annotations":
        return cls(**columns)


def _dtype(column: str) -> type:
    if column == "name":
        return np.str_
    return np.int64 if column in ("occluded", "difficulty", "num_points") else np.float64


# --- reading ----------------------------------------------------------------------------------------------------------


def read_labels(path: Path, *, scores: bool = False) -> Annotations:
    """Read a label_2 file, or with `scores` a result file; the difficulty is worked out.

    Raises:
        DataError: missing or not text, wrong number of columns, not a number, unknown class, sizes not above 0.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path} is missing: every frame of a labelled split has one (empty when without objects).") \
            from None  # fmt: skip
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text ({error}): restore it.") from error
    rows = [_row(path, number, line, scores) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not rows:
        return Annotations.empty()
    names = [row[0] for row in rows]
    values = np.array([row[1] for row in rows])
    found = Annotations(
        name=names,
        truncated=values[:, 0],
        occluded=values[:, 1].astype(np.int64),
        alpha=values[:, 2],
        bbox=values[:, 3:7],
        dimensions=values[:, [9, 7, 8]],  # h w l -> l h w
        location=values[:, 10:13],
        rotation_y=values[:, 13],
        score=values[:, 14] if scores else np.zeros(len(rows)),
    )
    return found.with_columns(difficulty=difficulty(found))


def _row(path: Path, number: int, line: str, scores: bool) -> tuple[str, list[float]]:
    name, *words = line.split()
    wanted = 16 if scores else 15
    where = f"{path}, line {number}"
    if len(words) + 1 != wanted:
        raise DataError(f"{where}: {len(words) + 1} columns instead of {wanted}: restore the line.")
    if name not in NAMES:
        raise DataError(f"{where}: unknown class {name!r}; KITTI's are {', '.join(NAMES)}: correct the line.")
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise DataError(f"{where}: {error}: correct the line.") from error
    if not np.isfinite(values).all():
        raise DataError(f"{where}: a value is not finite: correct the line.")
    if name != DONT_CARE and min(values[7:10]) <= 0:
        raise DataError(f"{where}: sizes h, w, l = {values[7:10]} must be above 0 m: correct the line.")
    return name, values


# --- difficulty -------------------------------------------------------------------------------------------------------


def has_image_box(found: Annotations) -> np.ndarray:
    """(N,) whether an object has a 2D box (LiDAR-only labels may give zeros or -1)."""
    return (found.bbox[:, 2] > found.bbox[:, 0]) & (found.bbox[:, 3] > found.bbox[:, 1])


def harder_than(found: Annotations, level: int) -> np.ndarray:
    """(N,) objects too small, hidden or cut off for difficulty `level` (0 easy, 1 moderate, 2 hard).

    Without a 2D box the height says nothing and does not count.
    """
    height = found.bbox[:, 3] - found.bbox[:, 1]
    small = has_image_box(found) & (height <= MIN_HEIGHT_PX[level])
    return small | (found.occluded > MAX_OCCLUSION[level]) | (found.truncated > MAX_TRUNCATION[level])


def difficulty(found: Annotations) -> np.ndarray:
    """(N,) the easiest level an object counts at: 0, 1, 2, or -1 for none and for DontCare."""
    levels = np.full(len(found), -1)
    for level in (2, 1, 0):
        levels[~harder_than(found, level)] = level
    levels[found.name == DONT_CARE] = -1
    return levels


# --- writing ----------------------------------------------------------------------------------------------------------


def lines(found: Annotations, *, scores: bool = False) -> Iterator[str]:
    """The file's lines, sizes in KITTI's order h w l; a score with as many digits as tell two floats apart."""
    for i in range(len(found)):
        l, h, w = found.dimensions[i]
        numbers = [*found.bbox[i], h, w, l, *found.location[i], found.rotation_y[i]]
        words = [found.name[i], f"{found.truncated[i]:.2f}", str(found.occluded[i]), f"{found.alpha[i]:.2f}"]
        words += [f"{value:.2f}" for value in numbers]
        yield " ".join([*words, f"{found.score[i]:.6f}"] if scores else words)
