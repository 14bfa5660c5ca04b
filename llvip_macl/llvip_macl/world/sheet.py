"""A picture of some pairs of a world with their boxes, for the eye: visible left, infrared right."""

from pathlib import Path

import cv2
import numpy as np

from shared.storage import storage_error

from .layouts import files_of
from .spec import WorldSpec
from .write import read_truth

COLOURS = {"person": (0, 255, 0), "people": (255, 255, 0), "cyclist": (255, 0, 255), "person?": (0, 255, 255)}
PAIRS, PAIRS_A_ROW, PAIR_WIDTH_PX = 18, 3, 640
MARK_TEXT = "embedded world: no real data"


def write_sheet(root: Path, spec: WorldSpec, path: Path) -> Path:
    """Draw up to 18 pairs, spread over the world, to a png. Returns its path.

    Raises:
        StorageError: the png cannot be written.
    """
    shots = spec.shots()
    chosen = [shots[int(i)] for i in np.unique(np.linspace(0, len(shots) - 1, PAIRS).round())]
    rows = {row["name"]: row for row in read_truth(root)}
    tiles = [_tile(files_of(root, spec, shot), rows[shot.name]["objects"]) for shot in chosen]
    blank = np.zeros_like(tiles[0])
    tiles += [blank] * (-len(tiles) % PAIRS_A_ROW)
    picture = np.vstack([np.hstack(tiles[i : i + PAIRS_A_ROW]) for i in range(0, len(tiles), PAIRS_A_ROW)])
    cv2.putText(picture, MARK_TEXT, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    data = cv2.imencode(".png", picture)[1].tobytes()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise storage_error(path, error, len(data)) from error
    return path


def _tile(files, objects: list[dict]) -> np.ndarray:
    halves = [_half(path, [one.get(key) for one in objects], [one["label"] for one in objects])
              for path, key in ((files.visible, "box"), (files.infrared, "box_infrared"))]  # fmt: skip
    return np.hstack(halves)


def _half(path: Path, boxes: list[list[int] | None], labels: list[str]) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    factor = PAIR_WIDTH_PX / 2 / picture.shape[1]
    large = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
    for box, label in zip(boxes, labels, strict=True):
        if box:
            x0, y0, x1, y1 = (round(edge * factor) for edge in box)
            cv2.rectangle(large, (x0, y0), (x1 - 1, y1 - 1), COLOURS[label], 1)
    return large
