"""The prepared index of a split, as JSON (never a pickle): OpenPCDet's infos with its names.

    {"schema": 1, "split": "train", "features": ["x", "y", "z"], "frames": [
        {"point_cloud": {"lidar_idx": "site0_000001", "num_features": 3, "path": "points/site0_000001.npy",
                         "num_points": 23345},
         "annos": {"name": [...], "gt_boxes_lidar": [[x, y, z, dx, dy, dz, heading], ...],
                   "num_points_in_gt": [...]} or null}]}

INFO_PATH may name `custom_infos_train.pkl`: the `.json` beside it is read instead, which a line of the log says. A
`.pkl` alone is an error that names the converter (pickles.py). Paths are relative to the data root.
"""

# G boxes of a frame

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import DataError
from shared.json_files import damage_named, read_json
from shared.storage import write_atomic
from voxel_mae.boxes import points_in_boxes

from .clouds import read_cloud
from .labels import Labels
from .layout import CustomRoot

SCHEMA = 1
PREPARE = "python -m voxel_mae.data.prepare"
CONVERT = "python -m voxel_mae.data.pickles"
log = logging.getLogger("shared.run")


def again(root: Path) -> str:
    """The remedy for what was prepared and is damaged."""
    return f"run `{PREPARE} {root}` again."


@dataclass(frozen=True, eq=False)
class FrameInfo:
    """What is known of a frame before its points are read.

    path: of the cloud, from the root. labels: None when unlabelled. num_points, points_in_boxes (G,): None when not
    counted (a frame straight from the folder).
    """

    frame_id: str
    path: str
    labels: Labels | None
    num_points: int | None = None
    points_in_boxes: np.ndarray | None = None


def scan_frame(root: CustomRoot, split: str, frame_id: str) -> FrameInfo:
    """A frame as the folder has it. DataError when its label file is broken or its cloud missing."""
    path = root.cloud(split, frame_id).relative_to(root.path).as_posix()
    return FrameInfo(frame_id, path, root.labels(split, frame_id))


def counted(root: CustomRoot, info: FrameInfo, features: Sequence[str]) -> FrameInfo:
    """The same with points counted, in all and in every box. DataError when the cloud is broken."""
    points = read_cloud(root.path / info.path, features)
    inside = None if info.labels is None else points_in_boxes(points, info.labels.boxes).sum(0)
    return FrameInfo(info.frame_id, info.path, info.labels, len(points), inside)


# --- names ------------------------------------------------------------------------------------------------------------


def json_beside(path: Path) -> Path:
    """The JSON file that a configured name stands for: itself, or the one beside a `.pkl`.

    Raises:
        DataError: there is no JSON file; the message names the converter when the pickle is there.
    """
    found = path.with_suffix(".json")
    if found.is_file():
        if path.suffix != ".json":
            log.info("%s stands for %s: pickles are not read", path.name, found)
        return found
    if path.suffix == ".pkl" and path.is_file():
        raise DataError(
            f"{path} is a pickle, which is not read: it could run anything. Convert it once with "
            f"`{CONVERT} {path}`, which writes {found.name} beside it."
        )
    raise DataError(f"{found} is missing: run `{PREPARE} {path.parent}` once (it indexes the clouds and labels).")


# --- reading and writing ----------------------------------------------------------------------------------------------


def write_infos(path: Path, split: str, features: Sequence[str], infos: Iterable[FrameInfo]) -> Path:
    """Write the index of a split; whole or absent. StorageError when the file system refuses."""
    frames = [_as_json(info, len(features)) for info in infos]
    content = {"schema": SCHEMA, "split": split, "features": list(features), "frames": frames}
    return write_atomic(path, json.dumps(content) + "\n")


def _as_json(info: FrameInfo, num_features: int) -> dict[str, Any]:
    cloud = {
        "lidar_idx": info.frame_id,
        "num_features": num_features,
        "path": info.path,
        "num_points": info.num_points,
    }
    if info.labels is None:
        return {"point_cloud": cloud, "annos": None}
    inside = None if info.points_in_boxes is None else info.points_in_boxes.tolist()
    annos = {
        "name": info.labels.names.tolist(),
        "gt_boxes_lidar": info.labels.boxes.tolist(),
        "num_points_in_gt": inside,
    }
    return {"point_cloud": cloud, "annos": annos}


def read_infos(path: Path) -> list[FrameInfo]:
    """The frames of a prepared split; `path` may have the name of a pickle (see `json_beside`).

    Raises:
        DataError: not prepared, not JSON, of another schema, damaged, or a frame that stands twice.
    """
    path = json_beside(path)
    found = read_json(path, again(path.parent))
    if not isinstance(found, dict) or found.get("schema") != SCHEMA or not isinstance(found.get("frames"), list):
        raise DataError(f"{path} is no index of schema {SCHEMA}: {again(path.parent)}")
    infos = damage_named(path, lambda: [_from_json(frame) for frame in found["frames"]], again(path.parent))
    ids = [info.frame_id for info in infos]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise DataError(f"{path}: frame {twice} stands twice: {again(path.parent)}")
    return infos


def _from_json(frame: dict[str, Any]) -> FrameInfo:
    cloud, annos = frame["point_cloud"], frame["annos"]
    labels, inside = None, None
    if annos is not None:
        labels = Labels(annos["name"], np.reshape(annos["gt_boxes_lidar"], (-1, 7)))
        inside = annos.get("num_points_in_gt")
    count = cloud.get("num_points")
    return FrameInfo(
        frame_id=str(cloud["lidar_idx"]),
        path=inner_path(cloud["path"]),
        labels=labels,
        num_points=None if count is None else int(count),
        points_in_boxes=None if inside is None else np.asarray(inside, np.int64),
    )


def inner_path(text: str) -> str:
    """A relative path that stays below the root; ValueError otherwise."""
    path = Path(text)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"the path {text!r} leads out of the data root")
    return text
