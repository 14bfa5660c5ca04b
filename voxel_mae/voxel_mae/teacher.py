"""The teacher: a copy of the student's encoder that sees the whole cloud and follows the student slowly.

    teacher = Teacher(backbone, TeacherSettings(), total_steps=3000)
    levels = teacher.encode(features, coords, batch_size)     # no gradient
    teacher.follow(backbone, step)                            # after the optimizer step: t <- m t + (1 - m) s

It is not in the optimizer, gets no gradients, and stands in the checkpoint. Its batch norms keep statistics of their
own, from whole clouds: the student's come from masked ones. The momentum rises from `momentum` to 1 along a cosine
(m_t = 1 - (1 - m0)(1 + cos(pi t / T)) / 2) or stays ("constant"); at .999, a hundred steps move the teacher 9.5 %, so a
short run wants a smaller one.
"""

# N sites, C channels

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .backbone import PRETRAINED_DEPTH, UNTRAINED_BY_PRETRAINING, RMAECMAEBackbonePhase1
from .keys import align, site_keys
from .sparse import SparseTensor


@dataclass(frozen=True)
class TeacherSettings:
    """momentum: 0 copies the student at every step, 1 freezes the teacher."""

    momentum: float = 0.996
    schedule: Literal["cosine", "constant"] = "cosine"

    def __post_init__(self) -> None:
        if not 0 <= self.momentum <= 1 or self.schedule not in ("cosine", "constant"):
            raise ValueError(
                f"teacher momentum {self.momentum}, schedule {self.schedule!r}: a number from 0 to 1, and cosine or "
                "constant"
            )


class Teacher(nn.Module):
    """The encoder up to conv4, copied from the student; parameters without gradient."""

    def __init__(self, student: RMAECMAEBackbonePhase1, settings: TeacherSettings, total_steps: int | None = None):
        super().__init__()
        if settings.schedule == "cosine" and not total_steps:
            raise ValueError("a cosine momentum needs total_steps, the optimizer steps of the run; or take constant")
        self.settings, self.total_steps = settings, total_steps
        self.encoder = copy.deepcopy(student).requires_grad_(False)
        for name in UNTRAINED_BY_PRETRAINING:  # the teacher speaks of conv1..conv4 only
            delattr(self.encoder, name)

    @torch.no_grad()
    def encode(self, features: Tensor, coords: Tensor, batch_size: int) -> dict[str, SparseTensor]:
        """conv1..conv4 of whole clouds; in training mode the batch norms' own running statistics move."""
        return self.encoder.encode(features, coords, batch_size, PRETRAINED_DEPTH)

    def momentum(self, step: int) -> float:
        """The momentum after optimizer step `step` (0 for the first)."""
        start = self.settings.momentum
        return start if self.settings.schedule == "constant" else cosine_momentum(start, step, self.total_steps)

    def follow(self, student: RMAECMAEBackbonePhase1, step: int) -> None:
        """One step of the moving average; buffers (the norms' statistics) are the teacher's own."""
        move_towards(self.encoder, student, self.momentum(step))


def cosine_momentum(start: float, step: int, total_steps: int) -> float:
    """1 - (1 - start)(1 + cos(pi step / total)) / 2: `start` at step 0, 1 at the end and after it."""
    share = min(1.0, step / total_steps)
    return 1 - (1 - start) * (1 + math.cos(math.pi * share)) / 2


@torch.no_grad()
def move_towards(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """theta_t <- momentum theta_t + (1 - momentum) theta_s for every parameter of the teacher, by name; bitwise a copy
    at 0 and nothing at 1."""
    sources = dict(student.named_parameters())
    for name, parameter in teacher.named_parameters():
        parameter.lerp_(sources[name], 1 - momentum)


@torch.no_grad()
def similarity(student: SparseTensor, teacher: SparseTensor) -> tuple[Tensor, Tensor]:
    """Common sites (K, 4) int32 and the cosine (K,) float32 of their two features: for logs and pictures."""
    rows_s, rows_t = common_rows(student, teacher)
    cosine = F.cosine_similarity(student.features[rows_s].float(), teacher.features[rows_t].float())
    return student.indices[rows_s], cosine


def mean_similarity(student: Mapping[str, SparseTensor], teacher: Mapping[str, SparseTensor]) -> dict[str, Tensor]:
    """The mean cosine per level, `similarity_conv1`...; 0 for a level without common sites."""
    means = {}
    for name, tensor in student.items():
        cosine = similarity(tensor, teacher[name])[1]
        means[f"similarity_{name}"] = cosine.sum() / max(1, len(cosine))
    return means


def common_rows(a: SparseTensor, b: SparseTensor) -> tuple[Tensor, Tensor]:
    """Rows of a and of b that stand at the same sites. Each branch has its own tensor, in its own order (T11)."""
    return align(site_keys(a.indices, a.spatial_shape), site_keys(b.indices, b.spatial_shape))
