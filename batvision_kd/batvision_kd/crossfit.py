"""Cross-fitted teachers: every training sample is taught by a teacher that never saw its location.

On its own training pictures a teacher repeats the measured depth, so that its depth says nothing new. K teachers are
trained, each without one group of locations, and each gives the depths of the group it has not seen. The depths are
kept in checkpoints/<experiment>/crossfit.pth as float16 (an error of 0.05 %), each with that of the mirrored picture.
"""

# N training samples, H x W pixels

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from shared import checkpoint
from shared import run as run_module

from .checkpoints import load_model
from .config import Settings, resolve
from .data.augment import FLIP_SHARE
from .data.dataset import EchoDepthDataset
from .data.splits import location_folds
from .data_source import Sources, fingerprint

TAUGHT = "taught_depth"  # item of a sample: (2,H,W) float16, the depth and that of the mirrored picture, in metres
FILE = "crossfit.pth"


class CrossfitDataset(Dataset):
    """A dataset with the cross-fitted depths beside each sample, mirrored when the sample is."""

    def __init__(self, data: EchoDepthDataset, depths: Tensor):
        """depths: (N,2,H,W) of the samples in order, unmirrored."""
        self.data, self.depths = data, depths

    def __len__(self) -> int:
        return len(self.data)

    def names_of(self, keys: Sequence) -> str:
        return self.data.names_of(keys)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = (0, key) if isinstance(key, int) else key
        depths = self.depths[index]
        return {**self.data[key], TAUGHT: depths.flip(-1) if self._mirrored(epoch, index) else depths}

    def _mirrored(self, epoch: int, index: int) -> bool:
        """What augmentation draws for this sample in this epoch (its first number)."""
        rng = run_module.sample_rng(self.data.seed, epoch, index)
        return self.data.augment and bool(rng.random() < FLIP_SHARE)


def fold_depths(settings: Settings, world: run_module.World, sources: Sources, train: Callable) -> Tensor:
    """(N,2,H,W) float16 depths of the training samples, each from the teacher that did not see its location.

    Trains the missing teachers first (`train`, one experiment each, named <experiment>_fold<k>). ConfigError for more
    folds than locations.
    """
    folds = location_folds(sources.train.records, settings.distillation.crossfit_folds)
    files = [
        _fold_teacher(settings, world, sources, train, number, left_out) for number, left_out in enumerate(folds, 1)
    ]
    path = settings.folder("checkpoints") / FILE
    asked = [sources.fingerprint, *map(checkpoint.sha256_of, files)]
    if world.is_main and not _holds(path, asked):
        depths = _all_depths(sources.train, folds, files, world.device)
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(path, {"depths": depths}, step=0, pointers=(), extra={"of": asked})
    world.barrier()
    return checkpoint.load(path)["depths"]


def _holds(path: Path, asked: Sequence[str]) -> bool:
    return path.is_file() and checkpoint.manifest(path)["extra"]["of"] == list(asked)


def fold_settings(settings: Settings, number: int) -> Settings:
    """The settings of one fold's teacher: an RGB training with this experiment's data and model, named after it."""
    kd = settings.distillation
    teacher = resolve("rgb")
    training = settings.training.model_copy(
        update={"learning_rate": teacher.training.learning_rate, "use_wandb": False,
                "nb_epochs": kd.crossfit_epochs or settings.training.nb_epochs}
    )  # fmt: skip
    return teacher.model_copy(
        update={"experiment_name": f"{settings.name}_fold{number}", "output_dir": settings.output_dir,
                "data": settings.data, "model": settings.model, "training": training}
    )  # fmt: skip


def _fold_teacher(settings: Settings, world, sources: Sources, train: Callable, number: int, left_out) -> Path:
    """best_model.pth of the teacher that neither learns from nor is selected on the locations `left_out`."""
    seen = _records_of(sources.train, left_out, inside=False)
    val = _records_of(sources.val, left_out, inside=False) if len(sources.val) else sources.val
    val = val if len(val) else sources.val
    own = replace(sources, train=seen, val=val, fingerprint=fingerprint([seen, val, sources.test]))
    return train(fold_settings(settings, number), world, own).best


def _records_of(data: EchoDepthDataset, locations: Sequence[str], *, inside: bool) -> EchoDepthDataset:
    return data.narrowed([n for n, record in enumerate(data.records) if (record.location in locations) == inside])


def _all_depths(train: EchoDepthDataset, folds: Sequence[Sequence[str]], files: Sequence[Path], device) -> Tensor:
    plain = train.of_records(train.records)
    plain.augment = False
    depths = torch.zeros((len(plain), 2, *plain.size), dtype=torch.float16)
    for left_out, file in zip(folds, files, strict=True):
        model = load_model(file, kind="rgb", map_location=device)[0]
        for index, record in enumerate(plain.records):
            if record.location in left_out:
                depths[index] = _both_depths(model, plain[index]["rgb"].to(device))
    return depths


@torch.no_grad()
def _both_depths(model: nn.Module, rgb: Tensor) -> Tensor:
    """(2,H,W) float16 of a picture (3,H,W): its depth, and its mirror image's, mirrored back."""
    depth, mirrored = model(torch.stack([rgb, rgb.flip(-1)]))[:, 0]
    return torch.stack([depth, mirrored.flip(-1)]).half().cpu()
