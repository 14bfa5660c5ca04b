"""The ground-truth database: the points of every labelled training object, cut out, to be pasted into other frames.

    gt_database/<id>_<class>_<k>.bin     float32, xyz relative to the box's centre
    custom_dbinfos_train.json            {class: [{name, path, frame_id, gt_idx, box3d_lidar (7), num_points_in_gt}]}

Only training with gt_sampling opens it. OpenPCDet's layout, with JSON in place of the pickle.
"""

# G objects

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.errors import DataError
from shared.json_files import damage_named, read_json
from shared.object_database import Entry, cut_out, drawn, write_database
from voxel_mae.boxes import points_in_boxes

from .clouds import read_cloud
from .infos import FrameInfo, again, inner_path, json_beside
from .layout import CustomRoot

FOLDER = "gt_database"
INDEX = "custom_dbinfos_train.json"


def build_database(root: CustomRoot, infos: Iterable[FrameInfo], features: Sequence[str]) -> dict[str, int]:
    """Cut out every labelled object that holds a point; objects by class.

    Raises:
        DataError: a cloud is missing or broken.
        StorageError: the root cannot be written.
    """
    entries = (entry for info in infos for entry in _cut_out(root, info, features))
    return write_database(root.path / FOLDER, root.path / INDEX, entries)


def _cut_out(root: CustomRoot, info: FrameInfo, features: Sequence[str]) -> Iterable[Entry]:
    if info.labels is None:
        return ()
    points, boxes = read_cloud(root.path / info.path, features), info.labels.boxes
    return cut_out(root.path, root.path / FOLDER / info.frame_id, points, boxes, points_in_boxes(points, boxes),
                   info.labels.names, lambda number: {"frame_id": info.frame_id, "gt_idx": number})  # fmt: skip


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
        found = read_json(path, again(root.path))
        frames = None if frame_ids is None else frozenset(frame_ids)
        least = min_points or {}
        self.root, self.features = root, tuple(features)
        self.entries: dict[str, list[Entry]] = damage_named(
            path,
            lambda: {name: [e for e in found.get(name, []) if _usable(e, least.get(name, 1), frames)]
                     for name in classes},
            again(path.parent),
        )  # fmt: skip

    def draw(self, name: str, count: int, rng: np.random.Generator) -> Drawn:
        """`count` different objects of a class, or all there are. DataError when a cut-out is missing or broken."""
        boxes, clouds = drawn(self.entries[name], count, rng, self._points)
        return Drawn(boxes, np.full(len(boxes), name), clouds)

    def _points(self, entry: Entry) -> np.ndarray:
        path = self.root.path / entry["path"]
        data = path.read_bytes() if path.is_file() else b""
        if len(data) != 4 * len(self.features) * entry["num_points_in_gt"]:
            raise DataError(
                f"{path} is missing or has {len(data):,} bytes, not {entry['num_points_in_gt']:,} points of "
                f"{', '.join(self.features)}: {again(self.root.path)}"
            )
        return np.frombuffer(data, "<f4").reshape(-1, len(self.features)).copy()


def _usable(entry: Entry, least: int, frames: frozenset[str] | None) -> bool:
    inner_path(entry["path"])
    if len(entry["box3d_lidar"]) != 7:
        raise ValueError(f"a box of {len(entry['box3d_lidar'])} numbers")
    return entry["num_points_in_gt"] >= least and (frames is None or entry.get("frame_id") in frames)
