"""Judging checkpoints: what the end of a training and tools/test.py share.

judge = Judge(request.args, experiment, world, log)
scores, numbers = judge.checkpoint(sources, path, folder)      # collective; writes `folder`
"""

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from shared.checkpoint import load_into
from shared.run import World

from ..config import Experiment
from .batches import Collate
from .checkpoints import read_model_state
from .evaluate import (
    Judging,
    detect,
    headline,
    judge_detection,
    judge_pretraining,
    table,
    write_detections,
    write_scores,
)
from .network import build_network, masking_of
from .sources import Sources, grid_of

Scores = tuple[dict[str, Any], dict[str, float]]  # everything, and the few numbers of a log


@dataclass(frozen=True)
class Judge:
    """args: --batch_size, --workers, --loader_timeout_s, --save_to_file and, of test.py, --infer_time."""

    args: argparse.Namespace
    experiment: Experiment
    world: World
    log: logging.Logger

    def checkpoint(self, sources: Sources, path: Path, folder: Path) -> Scores:
        """Judge one checkpoint on the held-out split and write its folder (collective).

        Raises CheckpointError when it is damaged or of another network.
        """
        state, _ = read_model_state(path)
        model = build_network(self.experiment, total_steps=1, world=self.world).to(self.world.device)
        load_into(model, state, source=path)
        return self.model(sources, model, folder)

    def model(self, sources: Sources, model: nn.Module, folder: Path) -> Scores:
        """The same for a model at hand."""
        judge = self._pretraining if self.experiment.pretraining else self._detection
        scores, numbers = judge(sources, model, folder)
        if self.world.is_main:
            write_scores(folder, scores, sources.mark)
        self.world.barrier()
        return scores, numbers

    def _pretraining(self, sources: Sources, model: nn.Module, folder: Path) -> Scores:
        scores = judge_pretraining(model, sources.val, self._collate(), self._judging(), self.world)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in scores["means"].items())
        self.log.info("%s", marked(f"{scores['frames']} held-out frames: {shown}", sources))
        return scores, scores["means"]

    def _detection(self, sources: Sources, model: nn.Module, folder: Path) -> Scores:
        frames, seconds = detect(model, sources.val, self._collate(), self._judging(), self.world)
        scores = judge_detection(frames, self.experiment)
        if getattr(self.args, "infer_time", False):
            scores["seconds_a_frame"] = seconds
        if self.world.is_main:
            write_detections(folder, frames, self.experiment, kitti=self.args.save_to_file)
        self.log.info("%s\n%s", table(scores), marked(f"{len(frames)} frames", sources))
        return scores, headline(scores)

    def _judging(self) -> Judging:
        per_process = self.experiment.OPTIMIZATION.BATCH_SIZE_PER_GPU
        if self.args.batch_size:
            per_process = max(1, self.args.batch_size // self.world.size)
        return Judging(per_process, self.args.workers, self.args.loader_timeout_s)

    def _collate(self) -> Collate:
        experiment = self.experiment
        grid = grid_of(experiment.DATA_CONFIG)
        return Collate(grid, grid.max_voxels_eval, masking_of(experiment.MODEL.BACKBONE_3D), experiment.SEED,
                       labels=not experiment.pretraining)  # fmt: skip


def marked(said: str, sources: Sources) -> str:
    """What is said, and what the data are not where they are embedded."""
    return f"{said}; {sources.mark}" if sources.mark else said
