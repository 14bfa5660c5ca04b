"""Frame contrast: one vector a cloud, against those of earlier clouds in two queues (CMAE-3D eq. 15).

    z = MLP(max over voxels of conv4), L2 norm
    infonce      positive: the teacher's vector of the same cloud; negatives: the teacher's queue
    relational   as for voxels, the columns being the two queues

Only clouds are looked at: no boxes, no classes, no frame ids (T13). Queue rows that were never written take no part
(T12). The queues are buffers, so they are saved and resumed; `push` moves them, once per optimizer step, by the clouds
of all processes (`of_all`), so that every process holds the same queues.
"""

# B clouds, Q queue rows, d projection channels

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from shared.run import World

from .contrast import ProjectorPair, check_numbers, choose_negatives, info_nce, relations
from .sparse import SparseTensor


@dataclass(frozen=True)
class FrameContrastSettings:
    """bank_size: clouds each queue remembers; the others as for voxels."""

    kind: Literal["infonce", "relational"] = "infonce"
    temperature: float = 0.1
    projection_dim: int = 128
    bank_size: int = 16
    max_negatives: int = 1024
    hard_ratio: float = 0.2
    projector_momentum: float | None = 0.99

    def __post_init__(self) -> None:
        if self.kind not in ("infonce", "relational"):
            raise ValueError(f"frame contrast kind {self.kind!r}: infonce or relational")
        check_numbers(self.temperature, self.hard_ratio, self.bank_size, self.max_negatives)


class Vectors(NamedTuple):
    """One row a cloud: student, teacher (B, d) normed, without gradient; valid (B,) bool, both sides had voxels."""

    student: Tensor
    teacher: Tensor
    valid: Tensor


class FrameContrast(nn.Module):
    """The loss, its projectors, and the two queues of earlier clouds (first in, first out)."""

    def __init__(self, settings: FrameContrastSettings, channels: int = 128):
        super().__init__()
        self.settings = settings
        self.projectors = ProjectorPair(channels, settings.projection_dim, settings.projector_momentum)
        empty = torch.zeros(settings.bank_size, settings.projection_dim)
        self.register_buffer("queue_student", empty)
        self.register_buffer("queue_teacher", empty.clone())
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))  # clouds pushed since the start

    def forward(
        self, student: SparseTensor, teacher: SparseTensor, generator: torch.Generator
    ) -> tuple[Tensor, Vectors]:
        """The scalar loss of two conv4 tensors, and the vectors to push after the step."""
        pooled_s, has_s = max_pooled(student)
        pooled_t, has_t = max_pooled(teacher)
        z_s = self.projectors.student(pooled_s)
        with torch.no_grad():
            z_t = self.projectors.teacher(pooled_t)
        valid = has_s & has_t
        terms = self._terms(z_s, z_t, generator)
        loss = torch.where(valid, terms, 0.0).sum() / valid.sum().clamp(min=1)
        return loss, Vectors(z_s.detach(), z_t, valid)

    def _terms(self, z_s: Tensor, z_t: Tensor, generator: torch.Generator) -> Tensor:
        """The loss of every cloud (B,)."""
        s, filled = self.settings, self._filled()
        if s.kind == "relational":
            return relations(z_s, z_t, self.queue_student, self.queue_teacher, s.temperature, filled)
        allowed = filled.expand(len(z_s), -1)
        with torch.no_grad():
            similarity = z_s @ self.queue_teacher.T
            allowed = choose_negatives(similarity, allowed, s.max_negatives, s.hard_ratio, generator)
        return info_nce(z_s, z_t, self.queue_teacher, allowed, s.temperature)

    def _filled(self) -> Tensor:
        """(Q,) bool: the rows that were written."""
        return torch.arange(self.settings.bank_size, device=self.written.device) < self.written

    @torch.no_grad()
    def push(self, vectors: Vectors) -> None:
        """Put the valid rows into both queues, over the oldest; of more rows than the queue holds, the last stay."""
        student, teacher = (rows[vectors.valid] for rows in (vectors.student, vectors.teacher))
        place = self.written + torch.arange(len(student), device=self.written.device)
        last = slice(max(0, len(student) - self.settings.bank_size), None)
        self.queue_student[place[last] % self.settings.bank_size] = student[last]
        self.queue_teacher[place[last] % self.settings.bank_size] = teacher[last]
        self.written += len(student)


def of_all(vectors: Vectors, world: World) -> Vectors:
    """The vectors of every process's clouds, in the order of the whole batch: process r has the clouds r, r + size, ...
    (collective)."""
    if world.size == 1:
        return vectors
    parts = world.gather(Vectors(*(each.cpu() for each in vectors)))
    places = [torch.arange(len(part.valid)) * world.size + rank for rank, part in enumerate(parts)]
    order = torch.cat(places).argsort()
    return Vectors(*(torch.cat(each)[order].to(vectors.valid.device) for each in zip(*parts, strict=True)))


def max_pooled(tensor: SparseTensor) -> tuple[Tensor, Tensor]:
    """The largest value of every channel over a cloud's sites, (B, C) float32, zeros for a cloud without any; and which
    clouds have sites, (B,) bool."""
    features, sample = tensor.features.float(), tensor.indices[:, 0].long()
    index = sample[:, None].expand_as(features)
    pooled = features.new_zeros(tensor.batch_size, features.shape[1])
    pooled = pooled.scatter_reduce(0, index, features, "amax", include_self=False)
    sites = torch.zeros(tensor.batch_size, dtype=torch.int64, device=sample.device)
    return pooled, sites.index_add(0, sample, torch.ones_like(sample)) > 0
