"""What a training run has in hand: configuration, folder, processes, detector, frames, vectors to draw rows from."""

# P pillars, D channels

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from shared import run as run_module
from shared.batches import in_order
from shared.errors import DataError

from .batches import Collate, DetectionBatch
from .bottleneck import generator_of
from .config import RqConfig
from .detector import FrozenDetector
from .rq_data import Data, validation_subset
from .sensitivity import counted

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, eq=False)
class Pool:
    """Vectors of some training frames. features (P,D); coords (P,3) frame, y, x; counted (P',): which of them rows are
    drawn from, and how often (`sensitivity.counted`)."""

    features: Tensor
    coords: Tensor
    counted: Tensor

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True, eq=False)
class Session:
    """One training run. pool: what rows are drawn from; subset: the frames judged after every epoch."""

    config: RqConfig
    run: run_module.RunFolder
    world: run_module.World
    detector: FrozenDetector
    data: Data
    pool: Pool
    subset: Sequence[int]

    @property
    def metric(self) -> str:
        """What stages are judged by; higher is better."""
        return "map_3d_moderate_r40" if self.data.labelled else "minus_val_loss"

    def file(self, name: str) -> Path:
        return self.run.file(Path(CHECKPOINTS) / name)


@torch.no_grad()
def feature_pool(config: RqConfig, detector: FrozenDetector, data: Data) -> Pool:
    """The occupied cells of `pool_frames` training frames, a seeded choice, unaugmented."""
    training, grid = config.training, detector.grid
    order = torch.randperm(len(data.train), generator=generator_of(training.seed, "pool")).tolist()
    frames = data.train.frames_of(order[: training.pool_frames])
    frames.augmentation = None
    loader = run_module.make_loader(frames, in_order(len(frames), 1), workers=training.num_workers,
                                    collate=Collate(grid, grid.max_voxels_train),
                                    timeout_s=training.loader_timeout_s)  # fmt: skip
    features, coords, chosen, before = [], [], [], 0
    for frame, batch in enumerate(run_module.iterate(loader)):
        features.append(detector.head(batch.pillars))
        coords.append(torch.nn.functional.pad(batch.pillars.coords[:, 1:], (1, 0), value=frame))
        chosen.append(counted_of(config, detector, batch) + before)
        before += len(features[-1])
    return Pool(torch.cat(features), torch.cat(coords), torch.cat(chosen).to(features[0].device))


def counted_of(config: RqConfig, detector: FrozenDetector, batch: DetectionBatch) -> Tensor:
    """Indices of a batch's vectors as training counts them: (P',) int64 on the CPU. DataError without labels to count
    by, where training.object_repeats asks for them."""
    repeats = config.training.object_repeats
    if repeats == 1:
        return torch.arange(len(batch.pillars.coords))
    if batch.boxes is None:
        raise DataError(
            f"frame {batch.frame_ids[0]} has no labels, and training.object_repeats {repeats} counts pillars by boxes: "
            "set it to 1"
        )
    return counted(batch.pillars.coords.cpu(), batch.boxes, detector.grid, repeats)


def open_session(config: RqConfig, run, world, detector: FrozenDetector, data: Data) -> Session:
    run_module.seed_everything(config.training.seed)
    subset = validation_subset(data.val.infos, detector.class_names, config.evaluation.subset_objects,
                               config.training.seed)  # fmt: skip
    pool = feature_pool(config, detector, data)
    run.log.info("%d training frames, %d validation frames (%d after every epoch), %d pooled vectors",
                 len(data.train), len(data.val), len(subset), len(pool))  # fmt: skip
    base = {"path": str(detector.path), "sha256": detector.base_sha256, "tensors": detector.sha256}
    source = "embedded" if data.mark else str(data.root.path)
    run.record(data=source, mark=data.mark, seed=config.training.seed, base=base)
    return Session(config, run, world, detector, data, pool, subset)
