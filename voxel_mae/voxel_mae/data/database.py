"""The ground-truth database: the points of every labelled training object, cut out, to be pasted into other frames.

    gt_database/<id>_<class>_<k>.bin     float32, xyz relative to the box's centre
    custom_dbinfos_train.json            {class: [{name, path, frame_id, gt_idx, box3d_lidar (7), num_points_in_gt}]}

Only training with gt_sampling opens it. OpenPCDet's layout, with JSON in place of the pickle.
"""

# G objects

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import DataError
from shared.storage import storage_error, write_atomic
from voxel_mae.boxes import points_in_boxes

from .clouds import read_cloud
from .infos import PREPARE, FrameInfo, damage_named, inner_path, json_beside, read_json
from .layout import CustomRoot

FOLDER = "gt_database"
INDEX = "custom_dbinfos_train.json"


def build_database(root: CustomRoot, infos: Iterable[FrameInfo], features: Sequence[str]) -> dict[str, int]:
    """Cut out every labelled object that holds a point; objects by class.

    Raises:
        DataError: a cloud is missing or broken.
        StorageError: the root cannot be written.
    """
    entries: dict[str, list[dict]] = {}
    folder = root.path / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        for info in infos:
            for entry in _cut_out(root, info, features):
                entries.setdefault(entry["name"], []).append(entry)
    except OSError as error:
        raise storage_error(folder, error) from error
    write_atomic(root.path / INDEX, json.dumps(entries) + "\n")
    return {name: len(found) for name, found in sorted(entries.items())}


def _cut_out(root: CustomRoot, info: FrameInfo, features: Sequence[str]) -> list[dict[str, Any]]:
    if info.labels is None:
        return []
    points, boxes = read_cloud(root.path / info.path, features), info.labels.boxes
    inside = points_in_boxes(points, boxes)
    entries = []
    for number in np.flatnonzero(inside.any(0)).tolist():
        name = str(info.labels.names[number])
        path = root.path / FOLDER / f"{info.frame_id}_{name}_{number}.bin"
        own = points[inside[:, number]]
        own[:, :3] -= boxes[number, :3].astype(np.float32)
        path.write_bytes(own.astype("<f4").tobytes())
        entries.append(
            {
                "name": name,
                "path": path.relative_to(root.path).as_posix(),
                "frame_id": info.frame_id,
                "gt_idx": number,
                "box3d_lidar": boxes[number].tolist(),
                "num_points_in_gt": len(own),
            }
        )
    return entries


@dataclass(frozen=True, eq=False)
class Drawn:
    """Objects from the database: boxes (G,7) float64, names (G,), and each one's points (P,C) float32 in place."""

    boxes: np.ndarray
    names: np.ndarray
    clouds: list[np.ndarray]


class GroundTruthDatabase:
    """The objects that may be pasted: of these classes, each with enough points."""

    def __init__(
        self,
        root: CustomRoot,
        classes: Sequence[str],
        features: Sequence[str],
        *,
        min_points: Mapping[str, int] | None = None,
        index: Path | None = None,
        frame_ids: Iterable[str] | None = None,
    ):
        """
        Args:
            features: columns of the cut-out files.
            min_points: least points of an object, by class; 1 for a class that is not named.
            index: the JSON file, or the name of the pickle in its place; `custom_dbinfos_train.json` when not given.
            frame_ids: only objects of these frames (a label budget must not borrow labels from outside it).

        Raises:
            DataError: not prepared, or damaged.
        """
        path = json_beside(root.path / INDEX if index is None else index)
        found = read_json(path, f"run `{PREPARE} {root.path}` again.")
        frames = None if frame_ids is None else frozenset(frame_ids)
        least = min_points or {}
        self.root, self.features = root, tuple(features)
        self.entries: dict[str, list[Mapping]] = damage_named(
            path,
            lambda: {name: [e for e in found.get(name, []) if _usable(e, least.get(name, 1), frames)]
                     for name in classes},
        )  # fmt: skip

    def draw(self, name: str, count: int, rng: np.random.Generator) -> Drawn:
        """`count` different objects of a class, or all there are. DataError when a cut-out is missing or broken."""
        entries = self.entries[name]
        chosen = [entries[i] for i in rng.choice(len(entries), min(count, len(entries)), replace=False)]
        boxes = np.array([entry["box3d_lidar"] for entry in chosen], np.float64).reshape(-1, 7)
        clouds = [self._points(entry, box) for entry, box in zip(chosen, boxes, strict=True)]
        return Drawn(boxes, np.full(len(chosen), name), clouds)

    def _points(self, entry: Mapping, box: np.ndarray) -> np.ndarray:
        path = self.root.path / entry["path"]
        data = path.read_bytes() if path.is_file() else b""
        if len(data) != 4 * len(self.features) * entry["num_points_in_gt"]:
            raise DataError(
                f"{path} is missing or has {len(data):,} bytes, not {entry['num_points_in_gt']:,} points of "
                f"{', '.join(self.features)}: run `{PREPARE} {self.root.path}` again."
            )
        points = np.frombuffer(data, "<f4").reshape(-1, len(self.features)).copy()
        points[:, :3] += box[:3].astype(np.float32)
        return points


def _usable(entry: Mapping, least: int, frames: frozenset[str] | None) -> bool:
    inner_path(entry["path"])
    if len(entry["box3d_lidar"]) != 7:
        raise ValueError(f"a box of {len(entry['box3d_lidar'])} numbers")
    return entry["num_points_in_gt"] >= least and (frames is None or entry.get("frame_id") in frames)
