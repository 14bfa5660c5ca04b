"""The prepared index of a split: everything about its frames except points and pixels, as JSON (never a pickle).

    {"schema": 1, "split": "train", "frames": {"000000": {
        "velodyne_path": "training/velodyne_reduced/000000.bin", "num_points": 20285,
        "image": {"image_shape": [370, 1224], "image_path": "training/image_2/000000.png", "image_idx": 0} or null,
        "calib": {"P2": 4x4, "R0_rect": 4x4, "Tr_velo_to_cam": 4x4, ...} or null,
        "annos": {"name": [...], "bbox": [[...]], ...} or null}}}

The names inside are those of the field's pickled infos. Paths are relative to the data root.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import DataError
from shared.json_files import damage_named, read_json
from shared.storage import write_atomic

from .calibration import Calibration
from .labels import Annotations
from .layout import KittiRoot
from .splits import ID

SCHEMA = 1


@dataclass(frozen=True, eq=False)
class FrameInfo:
    """What the index says of one frame. calib, image_hw, annotations: None where the data have none."""

    frame_id: str
    points_path: str
    num_points: int
    calib: Calibration | None
    image_hw: tuple[int, int] | None
    image_path: str | None
    annotations: Annotations | None

    @property
    def calibration(self) -> Calibration:
        """calib, or the plain exchange of axes for LiDAR-only data."""
        return self.calib or Calibration.lidar_only()

    def as_json(self) -> dict[str, Any]:
        image = None
        if self.image_hw is not None:
            image = {"image_shape": list(self.image_hw), "image_path": self.image_path, "image_idx": int(self.frame_id)}
        return {
            "velodyne_path": self.points_path,
            "num_points": self.num_points,
            "image": image,
            "calib": self.calib.as_json() if self.calib else None,
            "annos": self.annotations.as_json() if self.annotations is not None else None,
        }

    @classmethod
    def from_json(cls, frame_id: str, found: Mapping[str, Any]) -> "FrameInfo":
        image, annos = found["image"], found["annos"]
        if not ID.fullmatch(frame_id):  # files are named after it
            raise ValueError(f"{frame_id!r} is not a frame id of six digits")
        return cls(
            frame_id=frame_id,
            points_path=found["velodyne_path"],
            num_points=int(found["num_points"]),
            calib=Calibration.from_json(found["calib"]) if found["calib"] else None,
            image_hw=(int(image["image_shape"][0]), int(image["image_shape"][1])) if image else None,
            image_path=image["image_path"] if image else None,
            annotations=Annotations.from_json(annos) if annos is not None else None,
        )


def write_infos(path: Path, split: str, infos: list[FrameInfo]) -> Path:
    """Write the index of a split; whole or absent. StorageError when the file system refuses."""
    frames = {info.frame_id: info.as_json() for info in infos}
    return write_atomic(path, json.dumps({"schema": SCHEMA, "split": split, "frames": frames}) + "\n")


def read_infos(root: KittiRoot, split: str) -> list[FrameInfo]:
    """The frames of a split.

    Raises:
        DataError: not prepared, not JSON, of another schema, or damaged.
    """
    path = root.infos(split)
    found = read_json(path, _remedy(root, split))
    if not isinstance(found, dict) or found.get("schema") != SCHEMA or not isinstance(found.get("frames"), dict):
        raise DataError(
            f"{path} is not an index of schema {SCHEMA}: run prepare_kitti.py --data_root {root.path} again."
        )
    read = lambda: [FrameInfo.from_json(frame_id, info) for frame_id, info in found["frames"].items()]  # noqa: E731
    return damage_named(path, read, f"run prepare_kitti.py --data_root {root.path} again.")


def _remedy(root: KittiRoot, split: str) -> str:
    pickle = root.infos(split).with_suffix(".pkl")
    foreign = f" ({pickle.name} there is a pickle of another code base and is not read)" if pickle.exists() else ""
    return f"run prepare_kitti.py --data_root {root.path} --prefix {root.prefix}{foreign}."
