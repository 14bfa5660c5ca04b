"""The frames of a prepared KITTI root, for training and evaluation.

    dataset = KittiDataset(root, "train", ("Pedestrian", "Cyclist", "Car"), train=True, augment=settings, seed=0)
    frame = dataset[(epoch, index)]          # or dataset[index]: epoch 0

Random numbers follow from (seed, epoch, index) alone, so workers and order change nothing. A frame's annotations are
its own copy: nothing that is done to them reaches another frame or epoch.
"""

# P points, G objects (DontCare left out), N rows of the label file

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from shared.batches import as_key
from shared.errors import DataError
from shared.run import sample_rng

from .augmentation import AugmentationSettings, Sample, augment
from .calibration import Calibration, boxes_to_lidar
from .clouds import read_points
from .database import GroundTruthDatabase
from .infos import FrameInfo, read_infos
from .labels import Annotations
from .layout import CLASSES, KittiRoot, check_classes, find_kitti

Key = int | tuple[int, int]  # index, or epoch and index


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame.

    points (P,4) float32 x, y, z, reflectance; boxes (G,7) float32 in the LiDAR frame; labels (G,) int64, the place of a
    name in `classes`, -1 for any other class; names (G,); all three None without labels. annotations: the label file's
    columns, DontCare with them, as they are on disk (augmentation does not touch them). calib and image_hw: None where
    the data have none.
    """

    frame_id: str
    points: np.ndarray
    boxes: np.ndarray | None
    labels: np.ndarray | None
    names: np.ndarray | None
    annotations: Annotations | None
    calib: Calibration | None
    image_hw: tuple[int, int] | None


class KittiDataset(Dataset):
    """A split of a prepared root. `frames_of` narrows it to some frames."""

    def __init__(
        self,
        root: KittiRoot | Path | str,
        split: str,
        classes: Sequence[str] = CLASSES,
        *,
        train: bool,
        augment: AugmentationSettings | None = None,
        seed: int = 0,
    ):
        """train: labels are needed. augment: None reads frames as they are; else the database is opened if it pastes.

        Raises:
            ConfigError: unknown classes.
            DataError: not prepared, damaged, or no labels although they are needed.
        """
        self.root = root if isinstance(root, KittiRoot) else find_kitti(Path(root))
        self.split, self.classes, self.seed = split, check_classes(tuple(classes)), seed
        self.augmentation = augment
        self.infos: list[FrameInfo] = read_infos(self.root, split)
        if train and any(info.annotations is None for info in self.infos):
            raise DataError(f"{self.root.infos(split)}: frames of {split} have no labels, so it cannot train: "
                            "use train or trainval, and run prepare_kitti.py once label_2 is there.")  # fmt: skip
        pastes = augment is not None and any(augment.paste_up_to.get(name, 0) for name in self.classes)
        self.database = GroundTruthDatabase(self.root, self.classes) if pastes else None

    def __len__(self) -> int:
        return len(self.infos)

    def frames_of(self, indices: Sequence[int]) -> "KittiDataset":
        """The same data set with only these frames, in this order."""
        narrowed = object.__new__(KittiDataset)
        narrowed.__dict__.update(self.__dict__)
        narrowed.infos = [self.infos[i] for i in indices]
        return narrowed

    def names_of(self, keys: Sequence[Key]) -> str:
        """The frames of some keys, for messages (`shared.loader.iterate`)."""
        return ", ".join(self.infos[as_key(key)[1]].frame_id for key in keys)

    def __getitem__(self, key: Key) -> Frame:
        """Raises DataError when the frame's points are missing, broken, or not those that were prepared."""
        epoch, index = as_key(key)
        info = self.infos[index]
        points = read_points(self.root.path / info.points_path, info.num_points)
        sample = self._sample(info, points)
        if sample is not None and self.augmentation is not None:
            sample = augment(sample, self.augmentation, self.database, sample_rng(self.seed, epoch, index))
        return self._frame(info, points, sample)

    def annotations(self) -> list[Annotations]:
        """The labels of all frames, as copies. DataError when the split has none."""
        if any(info.annotations is None for info in self.infos):
            raise DataError(
                f"{self.root.infos(self.split)}: {self.split} has no labels: nothing can be evaluated on it."
            )
        return [info.annotations.select(slice(None)) for info in self.infos]  # type: ignore[union-attr]

    def _sample(self, info: FrameInfo, points: np.ndarray) -> Sample | None:
        if info.annotations is None:
            return None
        found = info.annotations.without_dont_care()
        boxes = boxes_to_lidar(found.location, found.dimensions, found.rotation_y, info.calibration)
        labels = np.array([self.classes.index(name) if name in self.classes else -1 for name in found.name], np.int64)
        return Sample(points, boxes, labels, found.name)

    def _frame(self, info: FrameInfo, points: np.ndarray, sample: Sample | None) -> Frame:
        labelled = sample is not None
        return Frame(
            frame_id=info.frame_id,
            points=sample.points if labelled else points,
            boxes=sample.boxes.astype(np.float32) if labelled else None,
            labels=sample.labels if labelled else None,
            names=sample.names if labelled else None,
            annotations=info.annotations.select(slice(None)) if info.annotations is not None else None,
            calib=info.calib,
            image_hw=info.image_hw,
        )


def collate(frames: list[Frame]) -> list[Frame]:
    """A batch is the list of its frames; whoever wants pillars voxelizes them."""
    return frames
