"""Voxel contrast at conv4: student and teacher features of one site belong together.

    infonce       a site against other sites of the teacher       [roadmap]
    relational    equal relations among the sites                 CMAE-3D, doi 10.1007/s11263-024-02313-2

Both work on L2-normed projections of the common sites, in one row order; the teacher's side has no gradient, and its
projector is a moving average of the student's. Equal vectors score log(1 + K) against K equal negatives.
"""

# A anchors, P vectors in the bank, K negatives, d projection channels

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .sparse import SparseTensor
from .teacher import common_rows


class Projector(nn.Sequential):
    """Linear, ReLU, Linear, then L2 norm: (N, C) -> (N, d) float32."""

    def __init__(self, inputs: int, outputs: int = 128):
        super().__init__(nn.Linear(inputs, inputs), nn.ReLU(), nn.Linear(inputs, outputs))

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(super().forward(features).float(), dim=1)


class ProjectorPair(nn.Module):
    """The student's projector, and the teacher's: its moving average, without gradient."""

    def __init__(self, inputs: int, outputs: int, momentum: float | None = None):
        """momentum: of the average; None takes the teacher encoder's."""
        super().__init__()
        self.momentum = momentum
        self.student = Projector(inputs, outputs)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)


@dataclass(frozen=True)
class VoxelContrastSettings:
    """max_anchors: sites drawn per batch; negatives_from: the anchor's own cloud or the whole batch; hard_ratio: share
    of the negatives that are the most similar, the rest is random; projector_momentum None: the teacher's."""

    kind: Literal["infonce", "relational"] = "infonce"
    temperature: float = 0.07
    projection_dim: int = 128
    max_anchors: int = 512
    max_negatives: int = 4096
    hard_ratio: float = 0.3
    negatives_from: Literal["sample", "batch"] = "batch"
    projector_momentum: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("infonce", "relational") or self.negatives_from not in ("sample", "batch"):
            raise ValueError(
                f"voxel contrast kind {self.kind!r}, negatives_from {self.negatives_from!r}: infonce or relational, "
                "and sample or batch"
            )
        check_numbers(self.temperature, self.hard_ratio, self.max_anchors, self.max_negatives)


def check_numbers(temperature: float, hard_ratio: float, *counts: int) -> None:
    """Raise ValueError for a temperature, share or count that makes no sense."""
    if temperature <= 0 or not 0 <= hard_ratio <= 1 or min(counts) < 1:
        raise ValueError(
            f"contrast: temperature {temperature} (above 0), hard_ratio {hard_ratio} (0 to 1), counts {list(counts)} "
            "(1 or more)"
        )


class VoxelContrast(nn.Module):
    """Either loss between conv4 of student and teacher, on up to `max_anchors` common sites of the batch."""

    def __init__(self, settings: VoxelContrastSettings, channels: int = 128):
        super().__init__()
        self.settings = settings
        self.projectors = ProjectorPair(channels, settings.projection_dim, settings.projector_momentum)

    def forward(self, student: SparseTensor, teacher: SparseTensor, generator: torch.Generator) -> Tensor:
        """Scalar; 0, with zero gradients, when no site is common."""
        rows_s, rows_t = common_rows(student, teacher)
        chosen = draw(len(rows_s), self.settings.max_anchors, generator)
        rows_s, rows_t = rows_s[chosen], rows_t[chosen]
        z_s = self.projectors.student(student.features[rows_s])
        if self.settings.kind == "relational":
            with torch.no_grad():
                z_t = self.projectors.teacher(teacher.features[rows_t])
            return mean(relations(z_s, z_t, z_s, z_t, self.settings.temperature))
        with torch.no_grad():
            bank = self.projectors.teacher(teacher.features)
            allowed = self._allowed(teacher.indices[:, 0], rows_t)
            allowed = choose_negatives(
                z_s @ bank.T, allowed, self.settings.max_negatives, self.settings.hard_ratio, generator
            )
        return mean(info_nce(z_s, bank[rows_t], bank, allowed, self.settings.temperature))

    def _allowed(self, sample: Tensor, rows_t: Tensor) -> Tensor:
        """(A, P) bool: every teacher vector but the anchor's own site, of its cloud or of the batch."""
        if self.settings.negatives_from == "sample":
            allowed = sample[rows_t][:, None] == sample[None]
        else:
            allowed = torch.ones(len(rows_t), len(sample), dtype=torch.bool, device=sample.device)
        return allowed.scatter(1, rows_t[:, None], False)


def draw(available: int, wanted: int, generator: torch.Generator) -> Tensor:
    """Up to `wanted` different rows of 0..available-1, in rising order (so that all of them is the identity)."""
    rows = torch.randperm(available, generator=generator, device=generator.device)
    return rows[:wanted].sort().values


def choose_negatives(
    similarity: Tensor, allowed: Tensor, count: int, hard_ratio: float, generator: torch.Generator
) -> Tensor:
    """Which of the allowed (A, P) are used, (A, P) bool: int(hard_ratio count) most similar ones and random others, no
    more than `count` a row; all when there are no more."""
    if allowed.shape[1] <= count:
        return allowed
    order = torch.rand(allowed.shape, generator=generator, device=allowed.device)
    hard = int(hard_ratio * count)
    hardest = similarity.masked_fill(~allowed, -torch.inf).topk(hard, dim=1).indices
    order = order.scatter(1, hardest, 2.0).masked_fill(~allowed, -1.0)  # hardest first, then at random, never the rest
    chosen = order.topk(count, dim=1).indices
    return torch.zeros_like(allowed).scatter(1, chosen, True) & allowed


def info_nce(z: Tensor, positive: Tensor, bank: Tensor, allowed: Tensor, temperature: float) -> Tensor:
    """Per anchor (A,) -log( e^(z.p/tau) / (e^(z.p/tau) + sum of e^(z.b/tau) over allowed b) ); 0 without negatives.

    z, positive (A, d) and bank (P, d), L2-normed; allowed (A, P) bool, never the positive itself.
    """
    own = (z * positive).sum(1, keepdim=True) / temperature
    others = (z @ bank.T / temperature).masked_fill(~allowed, -torch.inf)
    return torch.logsumexp(torch.cat([own, others], 1), 1) - own.squeeze(1)


def relations(
    z_s: Tensor, z_t: Tensor, columns_s: Tensor, columns_t: Tensor, temperature: float, filled: Tensor | None = None
) -> Tensor:
    """Per row (n,) KL(P_st || P_tt) + KL(P_ts || P_ss) + ||z_s - z_t||^2, P_ab = row softmax(Z_a Columns_b^T / tau).

    z_s, z_t (n, d) in one row order; columns (m, d) of each side (the rows themselves among voxels, two queues among
    frames), of which only the `filled` (m,) count. Zero exactly when the two sides are equal.
    """
    pairs = ((z_s, columns_t), (z_t, columns_t), (z_t, columns_s), (z_s, columns_s))
    log_st, log_tt, log_ts, log_ss = (_log_relation(rows, columns, temperature, filled) for rows, columns in pairs)
    return divergence(log_st, log_tt) + divergence(log_ts, log_ss) + (z_s - z_t).square().sum(1)


def _log_relation(rows: Tensor, columns: Tensor, temperature: float, filled: Tensor | None) -> Tensor:
    logits = rows @ columns.T / temperature
    if filled is not None:  # a large finite number: infinities of both sides would meet as inf - inf
        logits = logits.masked_fill(~filled, -1e4)
    return F.log_softmax(logits, dim=1)


def mean(terms: Tensor) -> Tensor:
    """The mean of (n,), 0 without any."""
    return terms.sum() / max(1, len(terms))


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) per row (n,) of log probabilities (n, m)."""
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
