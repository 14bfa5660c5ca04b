"""Detections and scores as files: result.json (one for all frames), and KITTI's text files.

result.json holds what OpenPCDet's result.pkl holds, without a pickle:

    {"classes": [...], "frames": [{"frame_id": "000001", "name": [...], "score": [...], "boxes_lidar": [[7 numbers]]}]}

A KITTI file has 16 columns a detection. There is no camera: truncation, occlusion and the 2D box are -1, alpha is -10
("unknown"), and the location follows from the plain exchange of axes (see boxes.py).
"""

# D detections

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import DataError
from shared.storage import storage_error, write_atomic

from .boxes import to_kitti_camera
from .evaluation import JudgedFrame

BOX_DIGITS, SCORE_DIGITS = 4, 6
NO_IMAGE = "-1 -1 -10 -1 -1 -1 -1"  # truncated, occluded, alpha, left, top, right, bottom


def frame_record(frame: JudgedFrame, classes: Sequence[str]) -> dict[str, Any]:
    """One frame's detections as plain Python: frame_id, name, score, boxes_lidar."""
    return {
        "frame_id": frame.frame_id,
        "name": [classes[label - 1] for label in frame.labels],
        "score": [round(float(score), SCORE_DIGITS) for score in frame.scores],
        "boxes_lidar": [[round(float(value), BOX_DIGITS) for value in box] for box in frame.boxes],
    }


def write_results(path: Path, frames: Iterable[JudgedFrame], classes: Sequence[str]) -> Path:
    """Write result.json, whole or not at all. StorageError when the file system refuses."""
    content = {"classes": list(classes), "frames": [frame_record(frame, classes) for frame in frames]}
    return write_atomic(path, json.dumps(content, indent=1) + "\n")


def read_results(path: Path) -> tuple[tuple[str, ...], dict[str, dict[str, np.ndarray]]]:
    """result.json -> classes, and frame id -> {"boxes" (D,7), "scores" (D,), "labels" (D,) from 1}.

    Raises DataError when the file is missing or of another form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        classes = tuple(content["classes"])
        return classes, {frame["frame_id"]: _arrays(frame, classes) for frame in content["frames"]}
    except FileNotFoundError:
        raise DataError(f"{path} is missing: write it with tools/test.py.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no result.json ({type(error).__name__}: {error}): write it again.") from error


def _arrays(frame: Mapping[str, Any], classes: Sequence[str]) -> dict[str, np.ndarray]:
    return {
        "boxes": np.array(frame["boxes_lidar"], np.float64).reshape(-1, 7),
        "scores": np.array(frame["score"], np.float64),
        "labels": np.array([classes.index(name) + 1 for name in frame["name"]], np.int64),
    }


def kitti_lines(frame: JudgedFrame, classes: Sequence[str], names: Mapping[str, str] | None = None) -> list[str]:
    """A line a detection. names: MAP_CLASS_TO_KITTI; default the classes' own names."""
    rows = np.concatenate([to_kitti_camera(frame.boxes), np.reshape(frame.scores, (-1, 1))], 1)
    own = [classes[label - 1] for label in frame.labels]
    return [
        f"{(names or {}).get(name, name)} {NO_IMAGE} {' '.join(f'{value:.4f}' for value in row)}"
        for name, row in zip(own, rows, strict=True)
    ]


def write_kitti_files(
    folder: Path, frames: Iterable[JudgedFrame], classes: Sequence[str], names: Mapping[str, str] | None = None
) -> int:
    """Write folder/<frame id>.txt for every frame, empty without detections; the number of files.

    Raises:
        DataError: a frame id that would leave the folder.
        StorageError: the file system refused.
    """
    count = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for count, frame in enumerate(frames, start=1):  # noqa: B007
            text = "".join(line + "\n" for line in kitti_lines(frame, classes, names))
            (folder / f"{_file_name(frame.frame_id)}.txt").write_text(text, encoding="utf-8")
    except OSError as error:
        raise storage_error(folder, error) from error
    return count


def _file_name(frame_id: str) -> str:
    if not frame_id or frame_id in (".", "..") or any(sign in frame_id for sign in "/\\\0"):
        raise DataError(f"frame id {frame_id!r} is no file name: rename the frame.")
    return frame_id


def plain_scores(scores: Any) -> Any:
    """Nested scores for JSON: NaN (no object of the class in the band) becomes null."""
    if isinstance(scores, Mapping):
        return {key: plain_scores(value) for key, value in scores.items()}
    return None if isinstance(scores, float) and math.isnan(scores) else scores


def score_table(scores: Mapping[str, Any], objects: Mapping[str, Mapping[str, int]], recall: str = "R40") -> str:
    """Text table of AP in percent: a row a class and mAP, a column a metric and band, with the number of objects."""
    metrics = list(scores[recall])
    names = list(scores[recall][metrics[0]])
    bands = list(scores[recall][metrics[0]][names[0]])
    heads = ["class", "objects", *(f"{metric} {band}" for metric in metrics for band in bands)]
    rows = [
        [
            name,
            str(objects[name]["all"]) if name in objects else "",
            *(_percent(scores[recall][metric][name][band]) for metric in metrics for band in bands),
        ]
        for name in names
    ]
    widths = [max(len(row[k]) for row in [heads, *rows]) for k in range(len(heads))]
    lines = ("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [heads, *rows])
    return f"AP {recall}, %\n" + "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:.2f}"
