"""Where KITTI's files lie, and what a data root has to offer.

ROOT/ImageSets/{train,val,trainval,test}.txt              (optional, see splits.py)
ROOT/{training,testing}/velodyne/000000.bin               the scans
ROOT/{training,testing}/{calib,image_2}/000000.{txt,png}  absent folders: LiDAR-only data
ROOT/training/label_2/000000.txt
ROOT/{training,testing}/velodyne_reduced/000000.bin       written by prepare_kitti.py
ROOT/kitti_infos_*.json  kitti_dbinfos_train.json  kitti_gt_database/
"""

from dataclasses import dataclass
from pathlib import Path

from shared.errors import ConfigError, DataError

from .labels import DONT_CARE, NAMES
from .splits import SPLITS, listed_split, usual_split

PARTS = ("training", "testing")
CLASSES = ("Pedestrian", "Cyclist", "Car")  # in the order of the published checkpoint
SCANS = ("velodyne", "velodyne_reduced")


@dataclass(frozen=True)
class KittiRoot:
    """A folder with KITTI's layout. `prefix` begins the names of all prepared files."""

    path: Path
    prefix: str = "kitti"

    def part(self, split: str) -> str:
        """The folder a split's frames lie in."""
        return "testing" if split == "test" else "training"

    def file(self, part: str, kind: str, frame_id: str) -> Path:
        suffix = {"velodyne": "bin", "velodyne_reduced": "bin", "image_2": "png"}.get(kind, "txt")
        return self.path / part / kind / f"{frame_id}.{suffix}"

    def has(self, part: str, kind: str) -> bool:
        return (self.path / part / kind).is_dir()

    def split_file(self, split: str) -> Path:
        return self.path / "ImageSets" / f"{split}.txt"

    def infos(self, split: str) -> Path:
        return self.path / f"{self.prefix}_infos_{split}.json"

    @property
    def database_infos(self) -> Path:
        return self.path / f"{self.prefix}_dbinfos_train.json"

    @property
    def database(self) -> Path:
        return self.path / f"{self.prefix}_gt_database"

    def available(self, part: str) -> set[str]:
        """Ids of all frames with a scan, cropped or not."""
        return {path.stem for kind in SCANS for path in (self.path / part / kind).glob("*.bin")}

    def frame_ids(self, split: str, *, only_present: bool = False) -> list[str]:
        """The ids of a split.

        Args:
            only_present: keep those whose scan is there (without lists a few frames are no KITTI).

        Raises:
            ConfigError: no such split.
            DataError: a list is wrong, or frames of the split have no scan.
        """
        if split not in SPLITS:
            raise ConfigError(f"no split {split!r}: it is one of {', '.join(SPLITS)}.")
        listed = self.split_file(split)
        ids = listed_split(listed) if listed.is_file() else self._without_list(split, only_present)
        available = self.available(self.part(split))
        missing = [name for name in ids if name not in available]
        if missing and not only_present:
            origin = listed if listed.is_file() else "KITTI's usual split"
            raise DataError(
                f"{self.path / self.part(split) / 'velodyne'} lacks {len(missing):,} of the {len(ids):,} scans of "
                f"{split} ({origin}), the first is {missing[0]}.bin: re-extract data_object_velodyne.zip, or for a "
                "part of KITTI give --only_present or list its frames in ImageSets."
            )
        return [name for name in ids if name in available]

    def _without_list(self, split: str, only_present: bool) -> list[str]:
        if split == "trainval" and all(self.split_file(name).is_file() for name in ("train", "val")):
            return sorted({name for one in ("train", "val") for name in self.frame_ids(one, only_present=only_present)})
        return usual_split(split)


def find_kitti(folder: Path, prefix: str = "kitti") -> KittiRoot:
    """The KITTI root at `folder` or directly below it.

    Raises:
        DataError: the folder is missing, holds no KITTI, or several.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give the KITTI root (it holds training/velodyne) or its parent.")
    if _looks_like_kitti(folder):
        return KittiRoot(folder, prefix)
    below = [child for child in sorted(folder.iterdir()) if child.is_dir() and _looks_like_kitti(child)]
    if len(below) == 1:
        return KittiRoot(below[0], prefix)
    if below:
        names = ", ".join(child.name for child in below)
        raise DataError(f"{folder} holds several KITTI roots ({names}): name the one you mean.")
    raise DataError(
        f"{folder} is no KITTI root: looked for {folder}/training/velodyne (or velodyne_reduced), and for the same in "
        "the folders below it. Extract KITTI's data_object_*.zip there, or correct the path."
    )


def _looks_like_kitti(folder: Path) -> bool:
    return any((folder / part / kind).is_dir() for part in PARTS for kind in SCANS)


def check_classes(classes: tuple[str, ...]) -> tuple[str, ...]:
    """The class names, checked.

    Raises:
        ConfigError: none, one twice, or one that KITTI does not label.
    """
    known = [name for name in NAMES if name != DONT_CARE]
    wrong = [name for name in classes if name not in known]
    if wrong:
        raise ConfigError(f"classes: {wrong[0]!r} is not labelled in KITTI; the classes are {', '.join(known)}.")
    if not classes or len(set(classes)) < len(classes):
        raise ConfigError(f"classes: {list(classes)}; name at least one, and each once.")
    return tuple(classes)
