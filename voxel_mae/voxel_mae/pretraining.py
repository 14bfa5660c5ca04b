"""Pretraining: a student that sees the masked cloud, a teacher that sees all of it, and up to four losses.

    pretrainer = Pretrainer(backbone, PretrainSettings(weights={"occupancy": 1.0, "mlfr": 1.0, ...}), total_steps=T)
    losses, diagnostics = pretrainer(batch, keep)      # named, unweighted; weights are applied once, by the loop
    ... backward, optimizer step ...
    pretrainer.after_step()                            # the teacher and the queues move

    term         what the student must tell                                      module
    occupancy    which blocks hold voxels (R-MAE; Phase 1 has only this)          occupancy.py
    mlfr         the teacher's features, level by level                          mlfr.py
    voxel        the teacher's feature of the same site among others             contrast.py
    frame        the teacher's vector of the same cloud among earlier ones       frame_level.py

A term of weight 0 is not built and not computed. With all three teacher terms at 0 the teacher still runs when it is
switched on (Phase 1: its features are extracted, and compared in the log), but nothing of the student depends on it:
weights and gradients equal plain R-MAE's bit for bit. No boxes are read anywhere. Random draws come from (seed, step).
"""

# V voxels, B clouds

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from shared.errors import DataError
from shared.run import World

from .backbone import PRETRAINED_DEPTH, UNTRAINED_BY_PRETRAINING, RMAECMAEBackbonePhase1, VoxelInput
from .contrast import ProjectorPair, VoxelContrast, VoxelContrastSettings
from .frame_level import FrameContrast, FrameContrastSettings, Vectors, of_all
from .mlfr import MlfrSettings, MultiLevelReconstruction
from .occupancy import Occupancy, OccupancySettings
from .sparse import SparseTensor
from .teacher import Teacher, TeacherSettings, mean_similarity, move_towards

TEACHER_TERMS = ("mlfr", "voxel", "frame")
TERMS = ("occupancy", *TEACHER_TERMS)
Levels = Mapping[str, SparseTensor]


@dataclass(frozen=True)
class PretrainSettings:
    """weights: term -> weight, 0 or absent: off; teacher None: no teacher, plain R-MAE; seed: of the random draws."""

    weights: Mapping[str, float] = field(default_factory=lambda: {"occupancy": 1.0})
    teacher: TeacherSettings | None = None
    occupancy: OccupancySettings = field(default_factory=OccupancySettings)
    mlfr: MlfrSettings = field(default_factory=MlfrSettings)
    voxel: VoxelContrastSettings = field(default_factory=VoxelContrastSettings)
    frame: FrameContrastSettings = field(default_factory=FrameContrastSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = {name: weight for name, weight in self.weights.items() if name not in TERMS or not weight >= 0}
        if wrong:
            raise ValueError(f"weights {wrong}: the terms are {', '.join(TERMS)}, and a weight is 0 or more")
        if not self.active:
            raise ValueError("every weight is 0: there is nothing to learn; give occupancy (RMAE_WEIGHT) one")
        needing = [name for name in TEACHER_TERMS if name in self.active]
        if needing and self.teacher is None:
            raise ValueError(
                f"{', '.join(needing)} compare with a teacher, and there is none: set ENABLE_TEACHER_STUDENT, or their "
                "weights to 0"
            )

    @property
    def active(self) -> dict[str, float]:
        """The terms that are computed, with their weights: what the loop multiplies with."""
        return {name: float(self.weights[name]) for name in TERMS if self.weights.get(name, 0) > 0}


class PretrainOutput(NamedTuple):
    """losses: term -> unweighted scalar; diagnostics: name -> scalar without gradient."""

    losses: dict[str, Tensor]
    diagnostics: dict[str, Tensor]


class Pretrainer(nn.Module):
    """Student, teacher, decoders, projectors and queues. `backbone_3d` is the given backbone itself; its layers behind
    conv4 get no gradient here and are frozen (`UNTRAINED_BY_PRETRAINING` names them)."""

    def __init__(
        self,
        backbone: RMAECMAEBackbonePhase1,
        settings: PretrainSettings,
        *,
        total_steps: int | None = None,
        world: World | None = None,
    ):
        """total_steps: optimizer steps of the run, for the teacher's rising momentum. world: the processes whose clouds
        share the queues."""
        super().__init__()
        self.world = world or World()
        self.settings, active, width = settings, settings.active, backbone.widths[3]
        self.backbone_3d = backbone
        for name in UNTRAINED_BY_PRETRAINING:
            getattr(backbone, name).requires_grad_(False)
        # Occupancy first: what is built later draws later, so a seed gives every variant the same student and decoder.
        self.occupancy = Occupancy(settings.occupancy, width) if "occupancy" in active else None
        self.teacher = Teacher(backbone, settings.teacher, total_steps) if settings.teacher else None
        self.mlfr = MultiLevelReconstruction(settings.mlfr, backbone.widths) if "mlfr" in active else None
        self.voxel = VoxelContrast(settings.voxel, width) if "voxel" in active else None
        self.frame = FrameContrast(settings.frame, width) if "frame" in active else None
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._steps = 0  # the same number on the host: reading the buffer would stop the device
        self._waiting: list[Vectors] = []  # of the batches since the last step
        self.register_load_state_dict_post_hook(_read_steps)

    def forward(self, batch: VoxelInput, keep: Tensor) -> PretrainOutput:
        """batch: features (V, C), coords (V, 4), batch_size; keep (V,) bool, what the student sees.

        Raises DataError when the mask hides every voxel of a batch that has some.
        """
        student = self.student_forward(batch, keep)
        losses, diagnostics = {}, {}
        if self.occupancy is not None:
            found = self.occupancy(student["conv4"], batch.coords, keep)
            losses["occupancy"] = found.loss
            diagnostics |= found.diagnostics
        if self.teacher is not None:
            teacher = self.teacher_forward(batch)
            losses |= self._teacher_terms(student, teacher)
            diagnostics |= mean_similarity(student, teacher)
        return PretrainOutput(losses, diagnostics)

    def student_forward(self, batch: VoxelInput, keep: Tensor) -> dict[str, SparseTensor]:
        """conv1..conv4 of the visible voxels."""
        if keep.dtype != torch.bool or keep.shape != (len(batch.coords),):
            raise ValueError(f"keep {tuple(keep.shape)} {keep.dtype}: one bool for each of {len(batch.coords)} voxels")
        features, coords = batch.features[keep], batch.coords[keep]
        if len(coords) == 0 and len(batch.coords):
            raise DataError(
                f"the mask hides all {len(batch.coords)} voxels of the batch ({batch.batch_size} clouds): lower the "
                "masked ratio, or leave out clouds with so few voxels"
            )
        return self.backbone_3d.encode(features, coords, batch.batch_size, PRETRAINED_DEPTH)

    def teacher_forward(self, batch: VoxelInput) -> dict[str, SparseTensor]:
        """conv1..conv4 of all voxels, without gradient."""
        return self.teacher.encode(batch.features, batch.coords, batch.batch_size)

    def _teacher_terms(self, student: Levels, teacher: Levels) -> dict[str, Tensor]:
        losses = {}
        if self.mlfr is not None:
            losses["mlfr"] = self.mlfr(student, teacher)
        if self.voxel is not None:
            losses["voxel"] = self.voxel(student["conv4"], teacher["conv4"], self._generator(0))
        if self.frame is not None:
            losses["frame"], vectors = self.frame(student["conv4"], teacher["conv4"], self._generator(1))
            if self.training:
                self._waiting.append(vectors)
        return losses

    def _generator(self, stream: int) -> torch.Generator:
        """Fresh for every step and use, so that a resumed run draws what the uninterrupted one would have drawn."""
        seed = (self.settings.seed * 1_000_003 + self._steps) * 2 + stream
        return torch.Generator(self.steps.device).manual_seed(seed % 2**63)

    def after_step(self) -> None:
        """To be called once after every optimizer step (collective): teacher, projectors' averages and queues move."""
        if self.teacher is not None:
            self.teacher.follow(self.backbone_3d, self._steps)
            for pair in (part for part in self.modules() if isinstance(part, ProjectorPair)):
                default = self.teacher.momentum(self._steps)
                move_towards(pair.teacher, pair.student, default if pair.momentum is None else pair.momentum)
        for vectors in self._waiting:
            self.frame.push(of_all(vectors, self.world))
        self._waiting.clear()
        self._steps += 1
        self.steps += 1


def _read_steps(pretrainer: Pretrainer, _keys) -> None:
    """After a checkpoint was loaded: the host's number follows the buffer."""
    pretrainer._steps = int(pretrainer.steps)
