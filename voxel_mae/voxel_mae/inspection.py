"""A trained network at hand: rebuilt from its checkpoint alone, asked for detections, occupancy, and its teacher.

trained = open_checkpoint(path)                          # verified; the settings stand in its manifest
found = detections(trained, points)                      # after fine-tuning
view, levels = pretraining_views(trained, key, frame)    # after pretraining: OccupancyView, {level: (places, cosine)}
"""

# P points, V voxels, N sites, D detections

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shared.batches import Key
from shared.errors import CheckpointError
from shared.loading import load_into

from .config import Experiment
from .data.dataset import Frame
from .engine.batches import Collate
from .engine.checkpoints import read_model_state
from .engine.network import build_network, masking_of
from .engine.sources import grid_of
from .grid import Grid
from .occupancy import STRIDE
from .pictures import OccupancyView
from .teacher import similarity
from .voxelize import batch_voxels, voxelize

STRIDES = {"conv1": 1, "conv2": 2, "conv3": 4, "conv4": 8}
Levels = dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Trained:
    """A network in evaluation mode with the settings it was trained under."""

    model: nn.Module
    experiment: Experiment

    @property
    def grid(self) -> Grid:
        return grid_of(self.experiment.DATA_CONFIG)

    def site_m(self, level: str) -> float:
        """Side of a site of a level, metres."""
        return STRIDES[level] * self.grid.voxel_m[0]


def open_checkpoint(path: Path) -> Trained:
    """The network of a checkpoint. CheckpointError: missing, damaged, or not one of tools/."""
    state, card = read_model_state(path)
    try:
        settings = json.dumps(card["config"]["experiment"])
    except KeyError:
        raise CheckpointError(f"{path} does not say which settings it was trained under: it is not one of "
                              "checkpoint_epoch_*.pth; give one of those") from None  # fmt: skip
    experiment = Experiment.model_validate_json(settings, strict=True)
    model = build_network(experiment, total_steps=1)
    load_into(model, state)
    return Trained(model.eval(), experiment)


@torch.no_grad()
def detections(trained: Trained, points: np.ndarray) -> tuple[np.ndarray, list[str], np.ndarray]:
    """points (P,C) float32 with the used features -> boxes (D,7), class names, scores (D,)."""
    voxels = voxelize(points, trained.grid, trained.grid.max_voxels_eval)
    found = trained.model(batch_voxels([voxels]))[0].cpu()
    names = [trained.experiment.CLASS_NAMES[label - 1] for label in found.labels.tolist()]
    return found.boxes.numpy().astype(float), names, found.scores.numpy().astype(float)


@torch.no_grad()
def pretraining_views(trained: Trained, key: Key, frame: Frame) -> tuple[OccupancyView, Levels]:
    """What the student makes of a masked frame, and how alike it and its teacher see the common sites of each level
    ({} without a teacher). The mask follows from the key (epoch, index), as in training."""
    backbone, grid = trained.experiment.MODEL.BACKBONE_3D, trained.grid
    collate = Collate(grid, grid.max_voxels_eval, masking_of(backbone), trained.experiment.SEED, labels=False)
    batch = collate([(key, frame)])
    pretrainer, keep = trained.model.pretrainer, batch.keep
    student = pretrainer.student_forward(batch.voxels, keep)
    answer = pretrainer.occupancy(student["conv4"], batch.voxels.coords, keep)
    centres = grid.centres_m(batch.voxels.coords)[:, :2].numpy()
    view = OccupancyView(
        title=frame.frame_id,
        visible_xy=centres[keep.numpy()],
        hidden_xy=centres[~keep.numpy()],
        blocks_xy=_block_middles(answer.sites, grid, centred=backbone.OCCUPANCY_BLOCK == "centred"),
        probability=answer.logits.sigmoid().numpy(),
        occupied=answer.targets.numpy() > 0.5,
        block_m=STRIDE * grid.voxel_m[0],
    )
    if pretrainer.teacher is None:
        return view, {}
    teacher = pretrainer.teacher_forward(batch.voxels)
    return view, {name: _likeness(student[name], teacher[name], grid, STRIDES[name]) for name in STRIDES}


def _block_middles(sites: Tensor, grid: Grid, *, centred: bool) -> np.ndarray:
    """(N,2) x, y in metres of blocks of sites (N,4) b, z, y, x: [8 o - 4, 8 o + 4) or [8 o, 8 o + 8) cells."""
    cells = STRIDE * sites[:, [3, 2]].double() + (0 if centred else STRIDE / 2)
    return _metres(cells, grid)


def _likeness(student: Any, teacher: Any, grid: Grid, stride: int) -> tuple[np.ndarray, np.ndarray]:
    sites, cosine = similarity(student, teacher)
    return _metres(stride * sites[:, [3, 2]].double() + 0.5, grid), cosine.numpy()


def _metres(cells_xy: Tensor, grid: Grid) -> np.ndarray:
    low, size = torch.tensor(grid.range_m[:2]).double(), torch.tensor(grid.voxel_m[:2]).double()
    return (low + cells_xy * size).numpy()
