"""Checks that COCO's and Talk2Car's annotation files share: readable JSON, boxes, file names, the files themselves."""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from shared.errors import DataError
from talk2car_kd.images import header_wh

BOX_TOLERANCE_PX = 2.0  # real annotations overshoot the image by a rounding; more is an error
LISTED = 20  # problems a raised error prints; --validate prints them all


def read_json(path: Path) -> object:
    """Parsed content of a JSON file. DataError: missing, empty, not UTF-8, not JSON (with the place)."""
    try:
        text = path.read_bytes().decode("utf-8")
        if not text.strip():
            raise DataError(f"{path}: is empty ({path.stat().st_size} bytes); copy or download it again")
        return json.loads(text)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8 or download it again") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise DataError(f"{path}: is not JSON ({place}); it may be cut short, download it again") from error
    except RecursionError as error:
        raise DataError(f"{path}: is nested too deeply to be an annotation file; download it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); copy or download it again") from error


def refuse(problems: Sequence[str]) -> None:
    """DataError listing the problems, if there are any."""
    if problems:
        more = f"\n... and {len(problems) - LISTED} more (--validate lists all)" if len(problems) > LISTED else ""
        raise DataError("\n".join(problems[:LISTED]) + more)


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def box_problem(box: object, frame_wh: tuple[float, float], *, may_be_flat: bool = False) -> str | None:
    """What is wrong with an [x, y, w, h] in pixels of a frame, or None.

    `may_be_flat`: a width or height of zero is legal (COCO has a few such objects; the size limit drops them).
    """
    if not (isinstance(box, list | tuple) and len(box) == 4 and all(map(is_number, box))):
        return f"box {box!r} is not [x, y, w, h] with four finite numbers; correct or remove the row"
    x, y, w, h = box
    width, height = frame_wh
    if min(w, h) < 0 or (min(w, h) == 0 and not may_be_flat):
        return f"box {list(box)} has no area; it must be [x, y, width, height], not two corners"
    low, right, bottom = -BOX_TOLERANCE_PX, width + BOX_TOLERANCE_PX, height + BOX_TOLERANCE_PX
    if x < low or y < low or x + w > right or y + h > bottom:
        return f"box {list(box)} leaves the {width:g}x{height:g} frame; it must be [x, y, width, height] in its pixels"
    return None


def clip_box(box: Sequence[float], frame_wh: tuple[float, float]) -> tuple[float, float, float, float]:
    """The part of an [x, y, w, h] inside the frame."""
    x, y, w, h = map(float, box)
    left, top = min(max(x, 0.0), frame_wh[0]), min(max(y, 0.0), frame_wh[1])
    right, bottom = min(max(x + w, 0.0), frame_wh[0]), min(max(y + h, 0.0), frame_wh[1])
    return left, top, right - left, bottom - top


def name_problem(name: object) -> str | None:
    """What is wrong with a file name that an annotation gives, or None: it must be relative and stay in its folder."""
    if not isinstance(name, str) or not name or "\0" in name or "\\" in name:
        return f"file name {name!r} is not usable; give the image's plain name"
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts:
        return f"file name {name!r} leaves the image folder; give the image's plain name"
    return None


def repeated(values: Iterable) -> list:
    """Values that occur more than once, in order of first appearance."""
    return [value for value, count in Counter(values).items() if count > 1]


def missing_files(folder: Path, names: Iterable[str]) -> list[str]:
    """Names (distinct, in order) without a file in the folder; one directory listing serves plain names."""
    there = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
    return [
        name for name in dict.fromkeys(names) if name not in there and not ("/" in name and (folder / name).is_file())
    ]


def missing_message(folder: Path, missing: Sequence[str], total: int, remedy: str) -> str:
    """ "missing 3 of 80 images in ...: first names; remedy"."""
    there = "" if folder.is_dir() else " (there is no such folder)"
    names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
    return f"missing {len(missing)} of {total} images in {folder}{there}: {names}; {remedy}"


def header_problem(path: Path) -> tuple[tuple[int, int] | None, str | None]:
    """(width and height, None) of an image file that looks whole, or (None, what is wrong with it)."""
    try:
        return header_wh(path), None
    except DataError as error:
        return None, str(error)
