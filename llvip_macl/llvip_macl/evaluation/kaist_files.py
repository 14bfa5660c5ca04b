"""The files of the KAIST evaluation: ground truth (JSON) and results (txt or JSON), as plain arrays.

    truth = read_truth("KAIST_annotation.json")
    detections = read_detections("MBNet_result.txt", truth)

numpy and the standard library only. Every fault of a file is a DataError that names file, line or record, value and
remedy. A result txt has one detection a line, `image,x,y,w,h,score`, its images counted FROM 1 (image 1 is the image
with id 0 of the ground truth); a result JSON is a COCO list with the ids as they are. Scores are any finite numbers.
"""

# N images, G ground-truth boxes, D detections

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import DataError

DAY, NIGHT, UNKNOWN = 0, 1, -1
SET_NUMBER = re.compile(r"set(\d\d)")
TIME_OF_SET = {number: (NIGHT if number // 3 % 2 else DAY) for number in range(12)}  # 00-02, 06-08 day; the rest night
DEFAULT_SIZE_HW = (512, 640)
TXT_FIELDS = "image,x,y,w,h,score"


@dataclass(frozen=True, eq=False)
class Truth:
    """Ground truth of N images, boxes in the images' own pixels, in the order of the file.

    image_ids (N,) int rising; names (N,) as in the file; sizes_hw (N,2) px; times (N,) DAY, NIGHT or UNKNOWN;
    image_index (G,) into the images; boxes_xywh_px (G,4); occlusions (G,) 0 none, 1 partial, 2 heavy;
    ignore (G,) bool; version: which annotations these are, in words; person_ids: the category ids that mean a person,
    empty when the file names no categories.
    """

    image_ids: np.ndarray
    names: tuple[str, ...]
    sizes_hw: np.ndarray
    times: np.ndarray
    image_index: np.ndarray
    boxes_xywh_px: np.ndarray
    occlusions: np.ndarray
    ignore: np.ndarray
    version: str
    person_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, eq=False)
class Detections:
    """D detections: image_index (D,) into the truth's images, boxes_xywh_px (D,4), scores (D,), in file order."""

    image_index: np.ndarray
    boxes_xywh_px: np.ndarray
    scores: np.ndarray

    @property
    def images(self) -> int:
        """How many images have at least one."""
        return len(np.unique(self.image_index))


def no_detections() -> Detections:
    return Detections(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))


# --- ground truth -----------------------------------------------------------------------------------------------------


def read_truth(path: Path | str) -> Truth:
    """Ground truth in the format of KAIST_annotation.json.

    images: [{id, im_name or file_name, height, width}], annotations: [{image_id, category_id, bbox xywh, occlusion,
    ignore}], categories: [{id, name}]. Boxes of another category than `person` are ignored whatever their flag says;
    without categories all are persons. Raises DataError.
    """
    path = Path(path)
    raw = _bytes(path)
    data = _json(raw, path)
    if not isinstance(data, dict) or not isinstance(data.get("images"), list) or "annotations" not in data:
        raise DataError(f"{path} is no ground truth: it must be an object with lists `images` and `annotations`")
    images = sorted(data["images"], key=_key(path, "images", "id", int))
    ids = np.array([image["id"] for image in images], np.int64)
    if len(np.unique(ids)) != len(ids) or not len(ids):
        raise DataError(
            f"{path}: {len(ids)} images with {len(np.unique(ids))} different ids; every image needs its own"
        )
    names = tuple(str(image.get("im_name", image.get("file_name", ""))) for image in images)
    sizes = [(image.get("height", DEFAULT_SIZE_HW[0]), image.get("width", DEFAULT_SIZE_HW[1])) for image in images]
    persons = _person_ids(data, path)
    times = np.array([time_of(name) for name in names], np.int8)
    version = f"{_version(data)}, sha256 {hashlib.sha256(raw).hexdigest()[:8]}"
    boxes = _boxes(data["annotations"], ids, persons, path)
    return Truth(ids, names, np.array(sizes, float).reshape(-1, 2), times, *boxes, version, persons)


def time_of(name: str) -> int:
    """DAY or NIGHT by the KAIST set in a name (`set09/V000/I01139`), UNKNOWN without one."""
    found = SET_NUMBER.search(name)
    return TIME_OF_SET.get(int(found[1]), UNKNOWN) if found else UNKNOWN


def _boxes(
    annotations: Sequence[Mapping[str, Any]], ids: np.ndarray, persons: frozenset[int], path: Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(image_index, boxes, occlusions, ignore) of the annotations."""

    def whole(key: str, default: int | None = None) -> np.ndarray:
        return np.array(_column(annotations, path, "annotations", key, int, default), np.int64)

    boxes = np.array(_column(annotations, path, "annotations", "bbox", _box), float).reshape(-1, 4)
    index = _index_of(whole("image_id"), ids, path, "annotations")
    person = np.isin(whole("category_id", min(persons)), list(persons)) if persons else np.ones(len(index), bool)
    return index, boxes, whole("occlusion", 0), whole("ignore", 0).astype(bool) | ~person


def _person_ids(data: Mapping[str, Any], path: Path) -> frozenset[int]:
    """Ids of the category `person`; empty where the file names no categories."""
    names = {category["id"]: category["name"] for category in data.get("categories", [])}
    persons = frozenset(key for key, name in names.items() if name == "person")
    if names and not persons:
        raise DataError(
            f"{path}: none of its categories {sorted(names.values())} is `person`; the miss rate is of persons"
        )
    return persons


def _version(data: Mapping[str, Any]) -> str:
    info = data.get("info") or {}
    improved = (data.get("info_improved") or {}).get("improved_annotation")
    if improved:
        return f"improved ({improved.get('publish', 'source not named')})"
    named = next((info[key] for key in ("label_version", "version", "dataset", "description") if info.get(key)), None)
    return str(named or "version not named")


# --- results ----------------------------------------------------------------------------------------------------------


def read_detections(path: Path | str, truth: Truth) -> Detections:
    """Detections of a result txt (images from 1) or a COCO result list (.json, ids of the truth). Raises DataError."""
    path = Path(path)
    if path.suffix.lower() == ".json":
        return _from_json(_json(_bytes(path), path), truth, path)
    text = _text(path)
    if not text.strip():
        return no_detections()
    try:
        rows = np.loadtxt(text.splitlines(), delimiter=",", ndmin=2, comments=None)
    except ValueError:
        rows = None
    if rows is None or rows.shape[1] != 6 or not _plausible(rows, truth):
        rows = np.array([_parsed(line, path, number, truth) for number, line in _lines(text)])  # finds the fault
    return Detections(np.searchsorted(truth.image_ids, rows[:, 0].astype(np.int64) - 1), rows[:, 1:5], rows[:, 5])


def write_result_txt(path: Path | str, image_ids: np.ndarray, detections: Detections) -> None:
    """Write detections as a result txt: image_ids (N,) count from 0 here and from 1 there; best first in an image."""
    order = np.lexsort((-detections.scores, detections.image_index))
    rows = np.column_stack([detections.boxes_xywh_px, detections.scores])[order]
    numbers = np.asarray(image_ids)[detections.image_index[order]] + 1
    lines = [
        f"{number},{x:.4f},{y:.4f},{w:.4f},{h:.4f},{s:.8f}\n"
        for number, (x, y, w, h, s) in zip(numbers, rows, strict=True)
    ]
    Path(path).write_text("".join(lines), encoding="utf-8")


def _plausible(rows: np.ndarray, truth: Truth) -> bool:
    """Whether a table needs no second look: finite, whole known image numbers, sizes not negative."""
    known = np.isin(rows[:, 0] - 1, truth.image_ids).all()
    return bool(known and np.isfinite(rows).all() and (rows[:, 3:5] >= 0).all())


def _lines(text: str) -> Iterable[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip())


def _parsed(line: str, path: Path, number: int, truth: Truth) -> list[float]:
    """The six numbers of a line; DataError with file, line, value and remedy."""
    where = f"{path} line {number}: {line[:80]!r}"
    try:
        values = [float(part) for part in line.split(",")]
    except ValueError:
        raise DataError(f"{where} has a part that is no number; a line reads {TXT_FIELDS}") from None
    if len(values) != 6:
        raise DataError(f"{where} has {len(values)} values, not 6; a line reads {TXT_FIELDS}")
    if not np.isfinite(values).all() or min(values[3:5]) < 0:
        raise DataError(f"{where} has a value that is not finite or a negative size; mend or remove the line")
    if values[0] == 0:
        raise DataError(f"{where} names image 0, but a txt counts images from 1; add 1 to every image of the file")
    if values[0] - 1 not in truth.image_ids:
        raise DataError(
            f"{where} names image {values[0]:g}; the ground truth has {len(truth.image_ids)} images, in a txt numbers "
            f"{truth.image_ids[0] + 1} to {truth.image_ids[-1] + 1}: use the ground truth this file was made for"
        )
    return values


def _from_json(data: Any, truth: Truth, path: Path) -> Detections:
    if not isinstance(data, list):
        raise DataError(f"{path} is no result file: a result JSON is a list of {{image_id, category_id, bbox, score}}")
    _refuse_other_categories(data, truth, path)
    ids = np.array(_column(data, path, "detections", "image_id", int), np.int64)
    boxes = np.array(_column(data, path, "detections", "bbox", _box), float).reshape(-1, 4)
    scores = np.array(_column(data, path, "detections", "score", _finite), float)
    return Detections(_index_of(ids, truth.image_ids, path, "detections"), boxes, scores)


def _refuse_other_categories(data: Sequence[Any], truth: Truth, path: Path) -> None:
    if not truth.person_ids:
        return
    categories = _column(data, path, "detections", "category_id", int, min(truth.person_ids))
    for row in np.flatnonzero(~np.isin(categories, list(truth.person_ids)))[:1]:
        raise DataError(
            f"{path} detection {row} has category_id {categories[row]}; the miss rate is of persons, id "
            f"{sorted(truth.person_ids)} in the ground truth: keep only these"
        )


# --- records of JSON --------------------------------------------------------------------------------------------------


def _column(
    records: Any, path: Path, part: str, key: str, kind: Callable[[Any], Any], default: Any = None
) -> list[Any]:
    """`kind(record[key])` of every record; DataError naming the first record without a good value."""
    values = []
    for number, record in enumerate(records):
        try:
            value = record.get(key, default) if default is not None else record[key]
            values.append(kind(value))
        except (KeyError, TypeError, ValueError, AttributeError):
            shown = f"{record!r}"[:120]
            raise DataError(f"{path}: {part}[{number}] has no usable `{key}`: {shown}; mend or remove it") from None
    return values


def _key(path: Path, part: str, key: str, kind: Callable[[Any], Any]) -> Callable[[Mapping[str, Any]], Any]:
    return lambda record: _column([record], path, part, key, kind)[0]


def _box(value: Sequence[float]) -> Sequence[float]:
    """x, y, w, h as they are; ValueError unless four finite numbers with sizes not negative."""
    x, y, w, h = value
    if not (w >= 0 and h >= 0 and abs(x) + abs(y) + w + h < float("inf")):
        raise ValueError("sizes must not be negative, numbers must be finite")
    return value


def _finite(value: float) -> float:
    number = float(value)
    if not abs(number) < float("inf"):
        raise ValueError("not finite")
    return number


def _index_of(wanted: np.ndarray, ids: np.ndarray, path: Path, part: str) -> np.ndarray:
    """Where each wanted id stands in the rising `ids`."""
    unknown = np.flatnonzero(~np.isin(wanted, ids))
    if len(unknown):
        first = wanted[unknown[0]]
        hint = ": were they counted from 1? A JSON keeps the ids of the ground truth" if first == ids[-1] + 1 else ""
        raise DataError(
            f"{path}: {part}[{unknown[0]}] names image_id {first}; the ground truth has ids {ids[0]} to {ids[-1]}{hint}"
            f" ({len(unknown)} records name unknown images)"
        )
    return np.searchsorted(ids, wanted)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; correct the path") from None


def _text(path: Path) -> str:
    try:
        return _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text (byte {error.start}); a result file is txt or .json") from None


def _json(raw: bytes, path: Path) -> Any:
    try:
        return json.loads(raw)
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); was it cut short? Copy it again") from None
