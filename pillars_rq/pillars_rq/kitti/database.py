"""The ground-truth database: the points of every labelled training object, cut out, to be pasted into other frames.

    PREFIX_gt_database/{frame}_{name}_{number}.bin   points relative to the box's bottom centre, float32 x y z r
    PREFIX_dbinfos_train.json    {class: [{name, path, box3d_lidar (7), difficulty, num_points_in_gt}, ...]}

Only training with augmentation opens it.
"""

# N objects

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pillars_rq.boxes import points_in_boxes
from shared.errors import DataError
from shared.storage import storage_error, write_atomic

from .calibration import boxes_to_lidar
from .clouds import read_points
from .infos import FrameInfo, read_json
from .layout import KittiRoot

MIN_POINTS = {"Car": 5, "Pedestrian": 10, "Cyclist": 10}  # of an object that may be pasted
MIN_POINTS_OTHER = 5


def build_database(root: KittiRoot, infos: Sequence[FrameInfo]) -> dict[str, int]:
    """Cut out every labelled object (DontCare excepted) that holds a point; objects by class.

    Raises:
        DataError: a cloud is missing or broken.
        StorageError: the root cannot be written.
    """
    entries: dict[str, list[dict]] = {}
    try:
        root.database.mkdir(exist_ok=True)
        for info in infos:
            for entry in _cut_out(root, info):
                entries.setdefault(entry["name"], []).append(entry)
    except OSError as error:
        raise storage_error(root.database, error) from error
    write_atomic(root.database_infos, json.dumps(entries) + "\n")
    return {name: len(found) for name, found in sorted(entries.items())}


def _cut_out(root: KittiRoot, info: FrameInfo) -> list[dict]:
    if info.annotations is None:
        return []
    labels = info.annotations.without_dont_care()
    boxes = boxes_to_lidar(labels.location, labels.dimensions, labels.rotation_y, info.calibration)
    points = read_points(root.path / info.points_path, info.num_points)
    inside = points_in_boxes(points, boxes)
    entries = []
    for number in np.nonzero(inside.any(0))[0]:
        name = str(labels.name[number])
        path = root.database / f"{info.frame_id}_{name}_{number}.bin"
        own = points[inside[:, number]]
        own[:, :3] -= boxes[number, :3].astype(np.float32)
        path.write_bytes(own.astype("<f4").tobytes())
        entries.append(
            {
                "name": name,
                "path": path.relative_to(root.path).as_posix(),
                "box3d_lidar": boxes[number].tolist(),
                "difficulty": int(labels.difficulty[number]),
                "num_points_in_gt": len(own),
            }
        )
    return entries


@dataclass(frozen=True, eq=False)
class Pasted:
    """Objects drawn from the database: boxes (N,7) float64, labels (N,), and each one's points (P,4) in place."""

    boxes: np.ndarray
    labels: np.ndarray
    clouds: list[np.ndarray]


class GroundTruthDatabase:
    """The objects that may be pasted: difficulty not -1, enough points."""

    def __init__(self, root: KittiRoot, classes: Sequence[str], min_points: Mapping[str, int] = MIN_POINTS):
        """Raises DataError when the root was not prepared or the file is damaged."""
        remedy = f"run prepare_kitti.py --data_root {root.path} --prefix {root.prefix}."
        found = read_json(root.database_infos, remedy)
        self.root, self.classes = root, tuple(classes)
        try:
            self.entries = {name: _usable(found.get(name, []), name, min_points) for name in classes}
        except (AttributeError, KeyError, TypeError) as error:
            raise DataError(f"{root.database_infos} is damaged ({error!r}): {remedy}") from error

    def draw(self, name: str, count: int, rng: np.random.Generator) -> Pasted:
        """`count` different objects of a class, or all there are. DataError when a cut-out is missing or broken."""
        entries = self.entries[name]
        chosen = [entries[i] for i in rng.choice(len(entries), min(count, len(entries)), replace=False)]
        boxes = np.array([entry["box3d_lidar"] for entry in chosen], np.float64).reshape(-1, 7)
        clouds = [self._points(entry, box) for entry, box in zip(chosen, boxes, strict=True)]
        return Pasted(boxes, np.full(len(chosen), self.classes.index(name)), clouds)

    def _points(self, entry: Mapping, box: np.ndarray) -> np.ndarray:
        points = read_points(Path(self.root.path, entry["path"]), entry["num_points_in_gt"])
        points[:, :3] += box[:3].astype(np.float32)
        return points


def _usable(entries: Sequence[Mapping], name: str, min_points: Mapping[str, int]) -> list[Mapping]:
    least = min_points.get(name, MIN_POINTS_OTHER)
    return [entry for entry in entries if entry["difficulty"] != -1 and entry["num_points_in_gt"] >= least]
