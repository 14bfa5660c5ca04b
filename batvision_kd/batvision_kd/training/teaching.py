"""The frozen teacher: where it comes from, that it fits, and what it says about a batch.

It is in eval mode, without gradients, outside the optimizer and the checkpoints; its file's hash stands in run.json.
With `crossfit_folds` the depths come from teachers that never saw the sample's location (crossfit); one teacher gives
the features.
"""

# B batch, H x W pixels

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from shared.checkpoint import sha256_of
from shared.errors import CheckpointError
from shared.run import World

from ..checkpoints import BEST, load_model
from ..config import Settings
from ..crossfit import TAUGHT, CrossfitDataset, fold_depths
from ..data_source import Sources

DEFAULT_EXPERIMENT = "rgb_teacher_for_kd"  # preset 6 of run_rgb_depth_examples.sh


@dataclass(frozen=True)
class Lesson:
    """What the teacher says of a batch. depth (B,1,H,W) metres; mirrored: the same from the mirrored picture, mirrored
    back, where the two agree the teacher is sure (None: not asked for); features: its nine maps ({}: not asked for)."""

    depth: Tensor
    mirrored: Tensor | None
    features: dict[str, Tensor]


class Teacher:
    """A frozen RGB model, or cross-fitted depths, or both."""

    def __init__(self, model: nn.Module | None, folds: Tensor | None, *, mirror: bool, features: bool, shuffle: bool):
        """folds: (samples,2,H,W) depths and mirrored depths of the training samples; shuffle: the control, in which the
        depth of another sample of the batch teaches."""
        self.model, self.folds = model, folds
        self.mirror, self.features, self.shuffle = mirror, features, shuffle

    def prepared(self, data: Dataset) -> Dataset:
        """The training samples, with the depths that were computed beforehand."""
        return data if self.folds is None else CrossfitDataset(data, self.folds)

    @torch.no_grad()
    def lesson(self, batch: dict[str, Any]) -> Lesson:
        """Lesson of a batch (an item "rgb" (B,3,H,W), and the cross-fitted depths where there are some)."""
        depth, mirrored, features = None, None, {}
        if self.folds is None or self.features:
            depth, features = self.model(batch["rgb"], return_features=True)
        if self.folds is not None:
            depth, mirrored = batch[TAUGHT].float().split(1, dim=1)
        elif self.mirror:
            mirrored = self.model(batch["rgb"].flip(-1)).flip(-1)
        lesson = Lesson(depth.float(), mirrored if self.mirror else None, features if self.features else {})
        return _shuffled(lesson) if self.shuffle else lesson


def _shuffled(lesson: Lesson) -> Lesson:
    """Everyone gets a neighbour's lesson; a batch of one has no neighbour and keeps its own."""
    mirrored = None if lesson.mirrored is None else lesson.mirrored.roll(1, 0)
    return Lesson(lesson.depth.roll(1, 0), mirrored, {name: x.roll(1, 0) for name, x in lesson.features.items()})


def teacher_path(settings: Settings) -> Path:
    """The configured teacher, or the one that preset 6 trains."""
    return settings.distillation.teacher or settings.output_dir / "checkpoints" / DEFAULT_EXPERIMENT / BEST


def open_teacher(settings: Settings, world: World, sources: Sources, run, train: Callable) -> Teacher:
    """The teacher that the settings name, on this process's device; its hash goes to run.json.

    train: trains one fold's teacher (experiment.train_in). CheckpointError: no trained RGB model there, one of another
    width, range or image size, or not the one that this run began with.
    """
    kd = settings.distillation
    wants_features = kd.lambda_feat > 0
    path, model, folds = teacher_path(settings), None, None
    if kd.crossfit_folds is None or wants_features:
        model = _load(settings, path, world)
        _same_as_before(run, path)
    if kd.crossfit_folds is not None:
        folds = fold_depths(settings, world, sources, train)
    mirror = kd.adaptive.confidence and kd.region != "valid"
    return Teacher(model, folds, mirror=mirror, features=wants_features, shuffle=kd.shuffle_teacher)


def _load(settings: Settings, path: Path, world: World) -> nn.Module:
    if not path.is_file():
        raise CheckpointError(
            f"the teacher {path} does not exist: train it first (bash run_rgb_depth_examples.sh 6), or name one: "
            "--teacher checkpoints/<experiment>/best_model.pth"
        )
    expect = {"base_channels": settings.model.base_channels, "max_depth_m": settings.data.depth_limit_m,
              "image_size": settings.data.image_size}  # fmt: skip
    return load_model(path, kind="rgb", expect=expect, map_location=world.device)[0]


def _same_as_before(run, path: Path) -> None:
    now = {"path": str(path), "sha256": sha256_of(path)}
    before = run.recorded("teacher")
    if before and before["sha256"] != now["sha256"]:
        raise CheckpointError(
            f"{path} is not the teacher that {run.path.name} began with (sha256 {before['sha256'][:12]}, now "
            f"{now['sha256'][:12]}): restore it, or train anew: --fresh"
        )
    run.record(teacher=now)
