"""The frames that books are trained and judged on: KITTI's, or those of the embedded world.

dataset.dir names a KITTI root or its parent; one that is missing or not prepared is an error. Without one the embedded
world is written (and prepared) first, and everything made from it carries a mark.
"""

# P pillars

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shared import run as run_module
from shared.embedded_world import is_embedded
from shared.errors import DataError

from .config import DatasetSettings
from .embedded import MARK, embedded_root, world_folder
from .grid import Grid, strictly_inside
from .kitti.augmentation import AugmentationSettings
from .kitti.dataset import Frame, KittiDataset
from .kitti.infos import FrameInfo
from .kitti.labels import DIFFICULTIES, harder_than
from .kitti.layout import KittiRoot, find_kitti
from .voxelize import Pillars, voxelize

MODERATE = DIFFICULTIES.index("moderate")


@dataclass(frozen=True)
class Data:
    """mark: stands beside every figure made from these frames; empty for real ones."""

    root: KittiRoot
    train: KittiDataset
    val: KittiDataset
    mark: str

    @property
    def labelled(self) -> bool:
        """Whether val can be scored."""
        return all(info.annotations is not None for info in self.val.infos)


def open_root(dataset: DatasetSettings, world: run_module.World | None = None, log=None) -> KittiRoot:
    """The KITTI root of the configuration; the embedded world is written and prepared when none is named.

    Raises DataError when dataset.dir is set and missing, or no KITTI.
    """
    if dataset.dir is not None:
        try:
            return find_kitti(dataset.dir)
        except DataError as error:
            raise DataError(
                f"dataset.dir: {error} A root that is named is never replaced by the embedded world; for that one set "
                "dataset.dir to null, as exp/embedded.yaml does."
            ) from None
    if log is not None:
        log.info("embedded world: %s", world_folder(dataset.embedded_dir, dataset.world.spec()))
    world = world or run_module.World()
    return embedded_root(dataset.embedded_dir, dataset.world.spec(), world, workers=dataset.world.workers)


def open_data(dataset: DatasetSettings, root: KittiRoot, grid: Grid, classes: Sequence[str], seed: int) -> Data:
    """Training and validation frames. DataError when they share a frame or nothing was prepared."""
    augment = dataset.augment and AugmentationSettings(grid.range_m, **dataset.augment.model_dump())
    train = KittiDataset(root, dataset.train_split, classes, train=True, augment=augment, seed=seed)
    val = KittiDataset(root, "val", classes, train=False)
    shared = {info.frame_id for info in train.infos} & {info.frame_id for info in val.infos}
    if shared and dataset.train_split == "train":
        raise DataError(f"{root.path}: {len(shared)} frames are in both train and val, the first is {min(shared)}: "
                        "mend ImageSets and prepare again")  # fmt: skip
    if not val.infos or not train.infos:
        raise DataError(f"{root.path}: {len(train)} training and {len(val)} validation frames: both need some")
    val = val.frames_of(range(len(val))[: dataset.val_frames])
    return Data(root, train, val, MARK if is_embedded(root.path) else "")


def validation_subset(infos: Sequence[FrameInfo], classes: Sequence[str], objects: int, seed: int) -> list[int]:
    """Indices, ascending, of a seeded choice of frames with at least `objects` objects of each class that count at
    moderate difficulty, where there are that many; all frames where there are no labels.

    A perfect detector on g <= 41 objects cannot reach an R40 above (g - 1) / 40.
    """
    if any(info.annotations is None for info in infos):
        return list(range(len(infos)))
    counts = np.array([_counted(info, classes) for info in infos])  # (frames, classes)
    order = np.random.default_rng((seed, 41)).permutation(len(infos))
    reached = (counts[order].cumsum(0) >= np.minimum(objects, counts.sum(0))).all(1)
    return sorted(order[: int(reached.argmax()) + 1].tolist())


def _counted(info: FrameInfo, classes: Sequence[str]) -> list[int]:
    counts = ~harder_than(info.annotations, MODERATE)
    return [int((counts & (info.annotations.name == name)).sum()) for name in classes]


@dataclass(frozen=True, eq=False)
class EvalFrame:
    """A frame to be judged. points (N,4) float32: all of the file; index: place in the split."""

    index: int
    frame: Frame
    points: np.ndarray
    pillars: Pillars


@dataclass(frozen=True)
class EvalCollate:
    """One frame -> EvalFrame; a picklable callable for the loader's workers."""

    grid: Grid

    def __call__(self, items: list[tuple[int, Frame]]) -> EvalFrame:
        ((index, frame),) = items
        try:
            pillars = voxelize(frame.points, self.grid, self.grid.max_voxels_eval)
        except DataError as error:
            raise DataError(f"frame {frame.frame_id}: {error}") from error
        return EvalFrame(index, frame, frame.points, pillars)


class Indexed:
    """A data set whose items know their place."""

    def __init__(self, frames: KittiDataset):
        self.frames = frames

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> tuple[int, Frame]:
        return index, self.frames[index]

    def names_of(self, keys: Sequence[int]) -> str:
        return self.frames.names_of(keys)


def in_range(points: np.ndarray, grid: Grid) -> np.ndarray:
    """The points (N,4) strictly inside the grid's range: what a codec of the cloud has to send."""
    low, high = np.array(grid.range_m[:3], np.float32), np.array(grid.range_m[3:], np.float32)
    return points[strictly_inside(points, low, high)]


def eval_loader(val: KittiDataset, indices: Sequence[int], grid: Grid, *, workers: int, timeout_s: float):
    """EvalFrames of these places, one by one, in this order."""
    return run_module.make_loader(
        Indexed(val), [[int(i)] for i in indices], workers=workers, collate=EvalCollate(grid), timeout_s=timeout_s
    )
