"""Where clouds and labels lie: OpenPCDet's custom layout, and KITTI's and nuScenes' own.

    custom     ROOT/points/<id>.npy (or .bin, .pcd)   ROOT/labels/<id>.txt            ROOT/ImageSets/<split>.txt
    KITTI      ROOT/{training,testing}/velodyne/<id>.bin  .../{label_2,calib}/<id>.txt  ROOT/ImageSets/<split>.txt
    nuScenes   ROOT/samples/LIDAR_TOP/<id>.pcd.bin    (unlabelled: its tables are not read)

`find_root` tells them apart. The split named `all` is every cloud there is, in the order of their names: enough for
pretraining on clouds without labels. A frame without a label file is unlabelled (labels None).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from shared.errors import DataError

from .clouds import KITTI_FEATURES, NUSCENES_FEATURES, SUFFIXES, without_suffix
from .labels import KITTI_CLASSES, Labels, read_kitti_labels, read_labels

ALL = "all"
ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")  # a file name: no folder, no white space


@dataclass(frozen=True)
class CustomRoot:
    """OpenPCDet's custom layout; the base of the other two."""

    path: Path
    features: ClassVar[tuple[str, ...] | None] = None  # columns of the clouds; None: the configuration says
    own_classes: ClassVar[tuple[str, ...]] = ()  # known to the data set, so no mistake when not asked for

    def points_folder(self, split: str) -> Path:
        return self.path / "points"

    def split_file(self, split: str) -> Path:
        return self.path / "ImageSets" / f"{split}.txt"

    def available(self, split: str) -> list[str]:
        """Ids of all clouds of a split's folder, in order."""
        folder = self.points_folder(split)
        names = (without_suffix(path.name) for path in folder.iterdir()) if folder.is_dir() else ()
        return sorted({name for name in names if name is not None})

    def frame_ids(self, split: str) -> list[str]:
        """The ids of a split, in the order of its list.

        Raises:
            DataError: the list is missing or wrong, or frames of it have no cloud.
        """
        if split == ALL:
            return self.available(split)
        ids, there = read_split(self.split_file(split)), set(self.available(split))
        missing = [name for name in ids if name not in there]
        if missing:
            raise DataError(
                f"{self.points_folder(split)} lacks {len(missing):,} of the {len(ids):,} clouds of "
                f"{self.split_file(split)}, the first is {missing[0]}: restore them, or take them out of the list."
            )
        return ids

    def cloud(self, split: str, frame_id: str) -> Path:
        """The cloud's path. DataError when there is none, or several."""
        places = [self.points_folder(split) / f"{frame_id}{suffix}" for suffix in SUFFIXES]
        found = [place for place in places if place.is_file()]
        if len(found) != 1:
            what = " and ".join(place.name for place in found) or "nothing"
            raise DataError(
                f"{self.points_folder(split)} holds {what} for frame {frame_id}, not one cloud: keep exactly one of "
                f"{', '.join(SUFFIXES)}."
            )
        return found[0]

    def label_file(self, split: str, frame_id: str) -> Path | None:
        return self.path / "labels" / f"{frame_id}.txt"

    def labels(self, split: str, frame_id: str) -> Labels | None:
        """The frame's labels, None when it is unlabelled. DataError when the file is broken."""
        path = self.label_file(split, frame_id)
        return read_labels(path) if path is not None and path.is_file() else None


@dataclass(frozen=True)
class KittiRoot(CustomRoot):
    """KITTI: the split `test` lies in testing, all others in training; whole scans before cropped ones."""

    features: ClassVar[tuple[str, ...] | None] = KITTI_FEATURES
    own_classes: ClassVar[tuple[str, ...]] = KITTI_CLASSES

    def part(self, split: str) -> Path:
        return self.path / ("testing" if split == "test" else "training")

    def points_folder(self, split: str) -> Path:
        whole = self.part(split) / "velodyne"
        return whole if whole.is_dir() else self.part(split) / "velodyne_reduced"

    def label_file(self, split: str, frame_id: str) -> Path | None:
        return self.part(split) / "label_2" / f"{frame_id}.txt"

    def labels(self, split: str, frame_id: str) -> Labels | None:
        path = self.label_file(split, frame_id)
        calib = self.part(split) / "calib" / f"{frame_id}.txt"
        return read_kitti_labels(path, calib) if path is not None and path.is_file() else None


@dataclass(frozen=True)
class NuscenesRoot(CustomRoot):
    """nuScenes' key frames, without labels."""

    features: ClassVar[tuple[str, ...] | None] = NUSCENES_FEATURES

    def points_folder(self, split: str) -> Path:
        return self.path / "samples" / "LIDAR_TOP"

    def label_file(self, split: str, frame_id: str) -> Path | None:
        return None


LAYOUTS: Sequence[tuple[type[CustomRoot], tuple[str, ...]]] = (
    (CustomRoot, ("points",)),
    (KittiRoot, ("training/velodyne", "training/velodyne_reduced", "testing/velodyne", "testing/velodyne_reduced")),
    (NuscenesRoot, ("samples/LIDAR_TOP",)),
)


def find_root(path: Path | str) -> CustomRoot:
    """The layout that a folder has.

    Raises:
        DataError: the folder is missing, or has none of the layouts.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path} is not a folder: correct DATA_PATH, or leave it out for the embedded world.")
    for layout, folders in LAYOUTS:
        if any((path / folder).is_dir() for folder in folders):
            return layout(path)
    looked = ", ".join(folder for _, folders in LAYOUTS for folder in folders)
    raise DataError(f"{path} is no data root: looked for {looked} in it. Put the clouds there, or correct DATA_PATH.")


def read_split(path: Path) -> list[str]:
    """The ids of an ImageSets list, in its order.

    Raises:
        DataError: missing or not text, an id that is no file name, or one that stands twice.
    """
    try:
        ids = path.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        there = ", ".join(sorted(one.name for one in path.parent.glob("*.txt"))) or "no list"
        raise DataError(
            f"{path} is missing ({path.parent.name} holds {there}): write one frame id a line, correct DATA_SPLIT, or "
            f"take the split {ALL!r} (every cloud)."
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text ({error}): write one frame id a line.") from error
    strange = [name for name in ids if not ID.fullmatch(name)]
    if strange:
        raise DataError(f"{path}: {strange[0]!r} is no frame id: ids are file names without folder or suffix.")
    twice = sorted(name for name in set(ids) if ids.count(name) > 1) if len(set(ids)) < len(ids) else []
    if twice:
        raise DataError(f"{path}: {twice[0]} stands twice ({len(ids) - len(set(ids))} repetitions): keep one of each.")
    return ids
