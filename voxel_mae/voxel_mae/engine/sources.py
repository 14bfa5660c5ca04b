"""Which data a run reads: the root that is configured, or the embedded world, which is written first and never silent.

    sources = open_sources(experiment, world)
    train, val = sources.train, sources.val            # LidarDataset
    log.info(sources.described())                      # opens both: what is wrong with either is told before training

A root that is named and missing or broken is an error; the embedded world stands in only where none is named. Frames
come from the prepared infos where there are any, else straight from the folder; `described` says which.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

from shared.embedded_world import is_embedded
from shared.errors import ConfigError, DataError
from shared.run import World, announce

from ..config import Augmentor, DataConfig, Experiment, GtSampling
from ..data import AugmentSettings, LidarDataset, PasteSettings
from ..data.database import INDEX as DATABASE_INDEX
from ..data.database import build_database
from ..data.infos import scan_frame
from ..data.layout import CustomRoot, find_root
from ..grid import Grid
from ..pcdet_yaml import in_package
from ..world import WorldSpec, ensure_world

MARK = "embedded synthetic data: not a result on real construction sites"
BANNER = """
  +----------------------------------------------------------------------------+
  |  EMBEDDED DATA: construction sites from this package's own generator, no   |
  |  real LiDAR. Numbers of this run are not results on real sites.            |
  |  For your own data set DATA_CONFIG.DATA_PATH to its root.                  |
  +----------------------------------------------------------------------------+
"""


@dataclass(frozen=True)
class Sources:
    """The data of an experiment."""

    experiment: Experiment
    root: CustomRoot

    @property
    def embedded(self) -> bool:
        return is_embedded(self.root.path)

    @property
    def mark(self) -> str:
        """What stands beside every figure; empty for real data."""
        return MARK if self.embedded else ""

    @cached_property
    def train(self) -> LidarDataset:
        """Augmented, with labels only where they are needed: pretraining opens no label file."""
        augment = augmentation_of(self.experiment.DATA_CONFIG.DATA_AUGMENTOR)
        return self._frames("train", augment, labels=not self.experiment.pretraining)

    @cached_property
    def val(self) -> LidarDataset:
        """The judged split as it lies on disk."""
        return self._frames("test", None, labels=not self.experiment.pretraining)

    def described(self) -> str:
        """How many frames are trained on and judged, and where they come from. DataError for broken or missing ones,
        also for frames without labels where labels are needed."""
        return "; ".join(self._described(mode, what) for mode, what in (("train", "training"), ("test", "judging")))

    def _described(self, mode: str, what: str) -> str:
        data, frames = self.experiment.DATA_CONFIG, self.train if mode == "train" else self.val
        prepared = [path.with_suffix(".json").name for path in self._prepared(getattr(data.INFO_PATH, mode))]
        origin = f"as {', '.join(prepared)} lists them" if prepared else "straight from the folder, not prepared"
        return f"{what}: {len(frames):,} frames of {getattr(data.DATA_SPLIT, mode)}, {origin}"

    @property
    def fingerprint(self) -> str:
        """12 hex digits of the training frames' names, in order: another selection has another one."""
        return hashlib.sha256("\n".join(self.train.frame_ids).encode()).hexdigest()[:12]

    def _frames(self, mode: str, augment: AugmentSettings | None, *, labels: bool) -> LidarDataset:
        data, training = self.experiment.DATA_CONFIG, mode == "train"
        shuffle, outside = data.processor("shuffle_points"), data.processor("mask_points_and_boxes_outside_range")
        features = data.POINT_FEATURE_ENCODING
        return LidarDataset(
            self.root,
            getattr(data.DATA_SPLIT, mode),
            classes=self.experiment.CLASS_NAMES,
            point_features=features.used_feature_list,
            source_features=features.src_feature_list,
            range_m=data.POINT_CLOUD_RANGE,
            training=training,
            augment=augment,
            seed=self.experiment.SEED,
            labels=labels,
            infos=self._prepared(getattr(data.INFO_PATH, mode)),
            database_index=self._database() if labels and augment and augment.paste else None,
            remove_outside_boxes=outside.REMOVE_OUTSIDE_BOXES if outside else False,
            shuffle=getattr(shuffle.SHUFFLE_ENABLED, mode) if shuffle else False,
        )

    def _prepared(self, names: Sequence[str]) -> list[Path]:
        """The infos that are there, whichever of their two names (.json, .pkl) is; [] reads the folder."""
        paths = [self.root.path / name for name in names]
        there = [path for path in paths if path.is_file() or path.with_suffix(".json").is_file()]
        if there and len(there) < len(paths):
            missing = next(path for path in paths if path not in there)
            raise DataError(f"{missing} is missing while {there[0].name} is there: prepare the root again")
        return there

    def _database(self) -> Path:
        sampling = self.experiment.DATA_CONFIG.DATA_AUGMENTOR.enabled("gt_sampling")
        if len(sampling.DB_INFO_PATH) != 1:
            raise ConfigError(f"gt_sampling.DB_INFO_PATH = {list(sampling.DB_INFO_PATH)}: give exactly one database")
        return self.root.path / sampling.DB_INFO_PATH[0]


def grid_of(data: DataConfig) -> Grid:
    voxels = data.voxels
    return Grid(data.POINT_CLOUD_RANGE, voxels.VOXEL_SIZE, voxels.MAX_POINTS_PER_VOXEL,
                voxels.MAX_NUMBER_OF_VOXELS.train, voxels.MAX_NUMBER_OF_VOXELS.test)  # fmt: skip


def augmentation_of(augmentor: Augmentor) -> AugmentSettings:
    """The enabled augmentations; what is absent or disabled does nothing."""
    flip, turn, scale, paste = (
        augmentor.enabled(name)
        for name in ("random_world_flip", "random_world_rotation", "random_world_scaling", "gt_sampling")
    )
    return AugmentSettings(
        flip_axes=flip.ALONG_AXIS_LIST if flip else (),
        turn_rad=turn.WORLD_ROT_ANGLE if turn else (0.0, 0.0),
        scale=scale.WORLD_SCALE_RANGE if scale else (1.0, 1.0),
        paste=_paste_of(paste) if paste else None,
    )


def _paste_of(sampling: GtSampling) -> PasteSettings:
    return PasteSettings(
        up_to=_counts(sampling.SAMPLE_GROUPS),
        limit_whole_scene=sampling.LIMIT_WHOLE_SCENE,
        min_points=_counts(sampling.PREPARE.filter_by_min_points),
        extra_width_m=sampling.REMOVE_EXTRA_WIDTH,
    )


def _counts(entries: Sequence[str]) -> dict[str, int]:
    """("grader:15", ...) -> {"grader": 15, ...}."""
    return {name: int(count) for name, _, count in (entry.partition(":") for entry in entries)}


# --- the root ---------------------------------------------------------------------------------------------------------


def open_sources(experiment: Experiment, world: World) -> Sources:
    """The root of the configuration; without one the embedded world, written and prepared first, said in a banner.

    Several processes may call it at once. Raises DataError when DATA_PATH is set and is missing or of no known layout.
    """
    data = experiment.DATA_CONFIG
    root = find_root(in_package(data.DATA_PATH)) if data.DATA_PATH is not None else _embedded_root(data, world)
    sources = Sources(experiment, root)
    if sources.embedded and world.is_main:
        announce(BANNER)
    return sources


def world_spec(data: DataConfig) -> WorldSpec:
    """EMBEDDED_WORLD as the generator's own settings. ConfigError for a field that it does not have."""
    known = {field.name for field in fields(WorldSpec)}
    if strange := sorted(set(data.EMBEDDED_WORLD) - known):
        raise ConfigError(
            f"DATA_CONFIG.EMBEDDED_WORLD.{strange[0]}: no such setting; valid: {', '.join(sorted(known))}"
        )
    return WorldSpec(**data.EMBEDDED_WORLD)


def _embedded_root(data: DataConfig, world: World) -> CustomRoot:
    """The main process writes and prepares; the others wait for it."""
    parent, spec, outcome = in_package(data.EMBEDDED_DIR), world_spec(data), None
    if world.is_main:
        try:
            outcome = ensure_world(parent, spec)
            _cut_out_objects(find_root(outcome), data)
        except (ConfigError, DataError) as error:
            outcome = error
    outcome = world.broadcast(outcome)
    if isinstance(outcome, Exception):
        raise outcome
    return find_root(outcome)


def _cut_out_objects(root: CustomRoot, data: DataConfig) -> None:
    """The world's database for gt_sampling, unless it is there or nothing asks for it."""
    if data.DATA_AUGMENTOR.enabled("gt_sampling") and not (root.path / DATABASE_INDEX).is_file():
        infos = [scan_frame(root, "train", one) for one in root.frame_ids("train")]
        build_database(root, infos, data.POINT_FEATURE_ENCODING.src_feature_list)
