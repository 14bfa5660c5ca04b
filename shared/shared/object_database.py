"""Labelled objects cut out of point clouds, to be pasted into other frames: the ground-truth database, as JSON.

FOLDER/<frame>_<class>_<k>.bin   float32, xyz relative to the box's own point (its first three numbers)
INDEX                            {class: [{name, path, ..., box3d_lidar (7), num_points_in_gt}]}; path: from the root
"""

# N points, G boxes

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .storage import storage_error, write_atomic

Entry = Mapping[str, Any]


def write_database(folder: Path, index: Path, entries: Iterable[Entry]) -> dict[str, int]:
    """Write the index of the objects that `entries` cuts out into `folder` as it goes; objects by class.

    Raises StorageError when the file system refuses.
    """
    by_class: dict[str, list[Entry]] = {}
    try:
        folder.mkdir(exist_ok=True)
        for entry in entries:
            by_class.setdefault(entry["name"], []).append(entry)
    except OSError as error:
        raise storage_error(folder, error) from error
    write_atomic(index, json.dumps(by_class) + "\n")
    return {name: len(found) for name, found in sorted(by_class.items())}


def cut_out(
    root: Path, stem: Path, points: np.ndarray, boxes: np.ndarray, inside: np.ndarray, names: Sequence[str],
    more: Callable[[int], Entry],
) -> Iterator[Entry]:  # fmt: skip
    """Write the points of every box that holds one, and yield its entry.

    stem: of the files' paths; points (N, 3 + features) float32, boxes (G, 7), inside (N, G) bool, names (G,);
    more(number of a box): what its entry says besides.
    """
    for number in np.flatnonzero(inside.any(0)).tolist():
        name, own = str(names[number]), points[inside[:, number]]
        own[:, :3] -= boxes[number, :3].astype(np.float32)
        path = stem.with_name(f"{stem.name}_{name}_{number}.bin")
        path.write_bytes(own.astype("<f4").tobytes())
        yield {"name": name, "path": path.relative_to(root).as_posix(), **more(number),
               "box3d_lidar": boxes[number].tolist(), "num_points_in_gt": len(own)}  # fmt: skip


def drawn(
    entries: Sequence[Entry], count: int, rng: np.random.Generator, points_of: Callable[[Entry], np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """`count` different objects, or all there are: boxes (G, 7) float64, and each one's points put in place."""
    chosen = [entries[i] for i in rng.choice(len(entries), min(count, len(entries)), replace=False)]
    boxes = np.array([entry["box3d_lidar"] for entry in chosen], np.float64).reshape(-1, 7)
    clouds = [points_of(entry) for entry in chosen]
    for points, box in zip(clouds, boxes, strict=True):
        points[:, :3] += box[:3].astype(np.float32)
    return boxes, clouds
