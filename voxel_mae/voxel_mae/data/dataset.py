"""The frames of a split, for pretraining, fine-tuning and evaluation.

    frames = LidarDataset(root, "train", classes=CLASSES, point_features=("x", "y", "z"), range_m=grid.range_m,
                          training=True, augment=AugmentSettings.pretraining(), seed=0, labels=False)
    frame = frames[(epoch, index)]          # or frames[index]: epoch 0

Random numbers follow from (seed, epoch, index) alone, so workers and order change nothing. Frames without labels, and
labelled ones without boxes, are frames like any other: nothing is drawn again in their place. A frame's id, points and
labels come from one record, looked up by id, never by position in two lists.
"""

# P points, C features of a point, G boxes of a frame

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from shared.batches import as_key
from shared.errors import ConfigError, DataError
from shared.run import sample_rng
from voxel_mae.boxes import limit_heading

from .augmentation import AugmentSettings, Sample, augment
from .clouds import read_cloud
from .database import GroundTruthDatabase
from .infos import PREPARE, FrameInfo, read_infos, scan_frame
from .labels import class_ids
from .layout import CustomRoot, find_root

Key = int | tuple[int, int]  # index, or epoch and index


@dataclass(frozen=True, eq=False)
class Frame:
    """points (P,C) float32, inside the range, x, y, z first; boxes (G,7) float32 x, y, z (centre), dx, dy, dz, heading
    in [-pi, pi), and labels (G,) int64 from 1, both None without labels; sensor_xy (2,) float32 metres."""

    frame_id: str
    points: np.ndarray
    boxes: np.ndarray | None
    labels: np.ndarray | None
    sensor_xy: np.ndarray


class LidarDataset(Dataset):
    """A split of a data root."""

    def __init__(
        self,
        root: CustomRoot | Path | str,
        split: str,
        *,
        classes: Sequence[str],
        point_features: Sequence[str] = ("x", "y", "z"),
        source_features: Sequence[str] | None = None,
        range_m: Sequence[float],
        training: bool,
        augment: AugmentSettings | None = None,
        seed: int = 0,
        labels: bool = True,
        infos: Sequence[Path] = (),
        database_index: Path | None = None,
        ignored_classes: Sequence[str] = (),
        remove_outside_boxes: bool = True,
        shuffle: bool | None = None,
        sensor_xy: tuple[float, float] = (0.0, 0.0),
    ):
        """
        Args:
            split: a list of ImageSets, or `all`.
            point_features: those that are used, x, y, z first.
            source_features: columns of the clouds; the layout's own, else point_features, when not given.
            training: augments and shuffles; otherwise frames are as they lie on disk.
            labels: whether they are read; without, boxes and labels are None and no label file is opened.
            infos: prepared indexes (INFO_PATH); frames are looked up in them by id. Without any, the folder is read.
            database_index: of the objects to paste (DB_INFO_PATH).
            ignored_classes: labelled, but neither wanted nor a mistake. KITTI's other classes are always ignored.
            remove_outside_boxes: leave out boxes whose centre lies outside the range.
            shuffle: the order of points; when training by default.
            sensor_xy: where the sensor stands in the clouds' frame, metres.

        Raises:
            ConfigError: classes, features or gt_sampling that do not fit.
            DataError: missing lists, infos that lack a frame, frames without labels although they are needed.
        """
        self.root = root if isinstance(root, CustomRoot) else find_root(root)
        self.split, self.seed, self.training, self.has_labels = split, seed, training, labels
        self.classes, self.ignored = check_classes(classes), (*ignored_classes, *self.root.own_classes)
        self.features = check_features(point_features, source_features, self.root)
        self.used_columns = [self.features.index(name) for name in point_features]
        self.range_m, self.remove_outside_boxes = tuple(map(float, range_m)), remove_outside_boxes
        self.shuffle = training if shuffle is None else shuffle
        self.sensor_xy = np.array(sensor_xy, np.float64)
        self.infos = self._found(infos)
        self.augmentation = augment if training else None
        self.database = self._opened(database_index)

    def __len__(self) -> int:
        return len(self.infos)

    @property
    def frame_ids(self) -> list[str]:
        return [info.frame_id for info in self.infos]

    def names_of(self, keys: Sequence[Key]) -> str:
        """The frames of some keys, for messages (`shared.loader.iterate`)."""
        return ", ".join(self.infos[as_key(key)[1]].frame_id for key in keys)

    def truth(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """A frame's boxes (G,7) float32 and labels (G,) as they are on disk, without its points (evaluation)."""
        assert self.has_labels, "the data set was opened without labels"
        return self._boxes_out(self._sample(self.infos[index], np.zeros((0, len(self.features)), np.float32)))

    def __getitem__(self, key: Key) -> Frame:
        """Raises DataError when the cloud is missing, broken, another than was prepared, or out of range."""
        epoch, index = as_key(key)
        info = self.infos[index]
        sample = self._sample(info, self._points(info))
        rng = sample_rng(self.seed, epoch, index)
        if self.augmentation is not None:
            sample = augment(sample, self.augmentation, self.database, self.classes, rng)
        points = sample.points[inside_range(sample.points, self.range_m)]
        if self.shuffle:
            points = points[rng.permutation(len(points))]
        boxes, labels = self._boxes_out(sample) if self.has_labels else (None, None)
        columns = np.ascontiguousarray(points[:, self.used_columns])
        return Frame(info.frame_id, columns, boxes, labels, sample.sensor_xy.astype(np.float32))

    # --- reading ---

    def _found(self, paths: Sequence[Path]) -> list[FrameInfo]:
        ids = self.root.frame_ids(self.split)
        prepared = {info.frame_id: info for path in paths for info in read_infos(Path(path))}
        missing = [one for one in ids if one not in prepared] if paths else []
        if missing:
            raise DataError(
                f"{', '.join(map(str, paths))}: {len(missing):,} of the {len(ids):,} frames of {self.split} are not in "
                f"it, the first is {missing[0]}: run `{PREPARE} {self.root.path}` again."
            )
        if not ids:
            raise DataError(f"{self.root.path}: the split {self.split} has no frames: correct its list or DATA_SPLIT.")
        if not self.has_labels:  # no label file is opened
            return [prepared.get(one) or self._unlabelled(one) for one in ids]
        infos = [prepared.get(one) or scan_frame(self.root, self.split, one) for one in ids]
        self._check_labelled(infos)
        return infos

    def _unlabelled(self, frame_id: str) -> FrameInfo:
        path = self.root.cloud(self.split, frame_id).relative_to(self.root.path).as_posix()
        return FrameInfo(frame_id, path, None)

    def _check_labelled(self, infos: Sequence[FrameInfo]) -> None:
        without = [info.frame_id for info in infos if info.labels is None]
        if without:
            raise DataError(
                f"{self.root.path}: {len(without):,} of the {len(infos):,} frames of {self.split} have no labels, the "
                f"first is {without[0]}: an empty label file says that a frame has no objects; pretraining needs none."
            )
        for info in infos:
            class_ids(info.labels, self.classes, self.ignored, f"{self.root.path}, labels of frame {info.frame_id}")

    def _opened(self, index: Path | None) -> GroundTruthDatabase | None:
        paste = None if self.augmentation is None else self.augmentation.paste
        if paste is None or not self.has_labels:
            return None
        paste.check(self.classes)
        wanted = [name for name, count in paste.up_to.items() if count]
        if not wanted:
            return None
        return GroundTruthDatabase(
            self.root, list(paste.up_to), self.features, min_points=paste.min_points, index=index,
            frame_ids=self.frame_ids,
        )  # fmt: skip

    def _points(self, info: FrameInfo) -> np.ndarray:
        path = self.root.path / info.path
        points = read_cloud(path, self.features)
        if info.num_points is not None and len(points) != info.num_points:
            raise DataError(
                f"{path} holds {len(points):,} points, {info.num_points:,} when it was prepared: run "
                f"`{PREPARE} {self.root.path}` again."
            )
        check_in_range(str(path), points, self.range_m)
        return points

    def _sample(self, info: FrameInfo, points: np.ndarray) -> Sample:
        labels, boxes = np.zeros(0, np.int64), np.zeros((0, 7))
        if self.has_labels:
            labels, boxes = class_ids(info.labels, self.classes, self.ignored, f"frame {info.frame_id}")
        return Sample(points, boxes, labels, self.sensor_xy)

    def _boxes_out(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        kept = sample.labels > 0
        if self.remove_outside_boxes:
            kept &= inside_range(sample.boxes, self.range_m)
        boxes = sample.boxes[kept]
        boxes[:, 6] = limit_heading(boxes[:, 6])
        return boxes.astype(np.float32), sample.labels[kept]


def inside_range(points: np.ndarray, range_m: Sequence[float]) -> np.ndarray:
    """(P, >= 3) -> (P,) bool: range_min <= p < range_max along x, y, z, as the grid's cells have it."""
    xyz = points[:, :3].astype(np.float64)
    return ((xyz >= range_m[:3]) & (xyz < range_m[3:])).all(1)


def check_in_range(where: str, points: np.ndarray, range_m: Sequence[float]) -> None:
    """DataError for a cloud whose points all lie outside the range; a cloud without points is an empty frame."""
    if not len(points) or inside_range(points, range_m).any():
        return
    low, high = points[:, :3].min(0), points[:, :3].max(0)
    spans = ", ".join(f"{axis} {a:.1f} to {b:.1f}" for axis, a, b in zip("xyz", low, high, strict=True))
    raise DataError(
        f"{where}: none of its {len(points):,} points ({spans}) lies in POINT_CLOUD_RANGE {list(range_m)} m: convert "
        "the cloud (metres, centred at the sensor), or correct the range."
    )


def check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """The class names. ConfigError when there is none, or one stands twice."""
    if not classes or len(set(classes)) < len(classes):
        raise ConfigError(f"CLASS_NAMES: {list(classes)}; name at least one class, and each once")
    return tuple(classes)


def check_features(used: Sequence[str], source: Sequence[str] | None, root: CustomRoot) -> tuple[str, ...]:
    """The columns of the clouds.

    Raises:
        ConfigError: they are not the layout's, do not begin with x, y, z, or lack one that is used.
    """
    own = root.features
    found = tuple(source) if source is not None else (own or tuple(used))
    if own is not None and found != own:
        raise ConfigError(
            f"src_feature_list: {list(found)}; clouds of {type(root).__name__} have {list(own)}: write that list"
        )
    for key, names in (("src_feature_list", found), ("used_feature_list", tuple(used))):
        if names[:3] != ("x", "y", "z"):
            raise ConfigError(f"{key}: {list(names)}; it begins with x, y, z")
    missing = [name for name in used if name not in found]
    if missing:
        raise ConfigError(f"used_feature_list: {missing[0]!r} is not among the columns {list(found)}")
    return found
