"""The ground-truth database: the points of every labelled training object, cut out, to be pasted into other frames.

    PREFIX_gt_database/{frame}_{name}_{number}.bin   points relative to the box's bottom centre, float32 x y z r
    PREFIX_dbinfos_train.json    {class: [{name, path, box3d_lidar (7), difficulty, num_points_in_gt}, ...]}

Only training with augmentation opens it.
"""

# N objects

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pillars_rq.boxes import points_in_boxes
from shared.json_files import damage_named, read_json
from shared.object_database import Entry, cut_out, drawn, write_database

from .calibration import boxes_to_lidar
from .clouds import read_points
from .infos import FrameInfo
from .layout import KittiRoot

MIN_POINTS = {"Car": 5, "Pedestrian": 10, "Cyclist": 10}  # of an object that may be pasted
MIN_POINTS_OTHER = 5


def build_database(root: KittiRoot, infos: Sequence[FrameInfo]) -> dict[str, int]:
    """Cut out every labelled object (DontCare excepted) that holds a point; objects by class.

    Raises:
        DataError: a cloud is missing or broken.
        StorageError: the root cannot be written.
    """
    entries = (entry for info in infos for entry in _cut_out(root, info))
    return write_database(root.database, root.database_infos, entries)


def _cut_out(root: KittiRoot, info: FrameInfo) -> Iterable[Entry]:
    if info.annotations is None:
        return ()
    labels = info.annotations.without_dont_care()
    boxes = boxes_to_lidar(labels.location, labels.dimensions, labels.rotation_y, info.calibration)
    points = read_points(root.path / info.points_path, info.num_points)
    return cut_out(root.path, root.database / info.frame_id, points, boxes, points_in_boxes(points, boxes), labels.name,
                   lambda number: {"difficulty": int(labels.difficulty[number])})  # fmt: skip


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
        read = lambda: {name: _usable(found.get(name, []), name, min_points) for name in classes}  # noqa: E731
        self.entries = damage_named(root.database_infos, read, remedy)

    def draw(self, name: str, count: int, rng: np.random.Generator) -> Pasted:
        """`count` different objects of a class, or all there are. DataError when a cut-out is missing or broken."""
        read = lambda entry: read_points(self.root.path / entry["path"], entry["num_points_in_gt"])  # noqa: E731
        boxes, clouds = drawn(self.entries[name], count, rng, read)
        return Pasted(boxes, np.full(len(boxes), self.classes.index(name)), clouds)


def _usable(entries: Sequence[Entry], name: str, min_points: Mapping[str, int]) -> list[Entry]:
    least = min_points.get(name, MIN_POINTS_OTHER)
    return [entry for entry in entries if entry["difficulty"] != -1 and entry["num_points_in_gt"] >= least]
