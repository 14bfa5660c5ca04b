"""Feature distillation: the student's maps are drawn to the teacher's, by what the maps have in common.

A picture's map and a spectrogram's map of one shape are not aligned: one axis pair is (elevation, azimuth), the other
(frequency, time). From the decoder on, the student's maps are in picture coordinates too.

    kind      what is compared                                                     needs alignment    levels (usual)
    mse_raw   sum over levels of mean (s - t)^2                                    channel and pixel  x1..x5 (baseline)
    cosine    1 - mean over pixels of cos(P s, t)                                  pixel              d1..d4
    stats     per sample and channel: spatial mean and deviation of P s and of t'  none               x3..x5
    cka       1 - linear CKA of the pooled maps over the batch                     none               x4, x5

P is a learnable 1x1 convolution from the student's channels to the teacher's, one per level: it is trained and saved
with the student and no part of it. t' is t standardised per channel by running statistics of the training batches.
All but mse_raw (which is the sum of the original recipe) are means over their levels.
"""

# B batch, C channels, H, W height and width; s student, t teacher map of one level.

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.errors import UserError

USUAL_LEVELS: dict[str, tuple[str, ...]] = {
    "mse_raw": ("x1", "x2", "x3", "x4", "x5"),
    "cosine": ("d1", "d2", "d3", "d4"),
    "stats": ("x3", "x4", "x5"),
    "cka": ("x4", "x5"),
}
KINDS = tuple(USUAL_LEVELS)
ALIGNED = ("mse_raw", "cosine")  # kinds that compare pixel with pixel
EPS = 1e-6


class FeatureKD(nn.Module):
    """One kind of comparison at some levels; holds its projectors and the teacher's running statistics."""

    def __init__(
        self,
        kind: str,
        levels: Sequence[str] | None,
        student_channels: Mapping[str, int],
        teacher_channels: Mapping[str, int],
    ):
        """
        Args:
            kind: a key of USUAL_LEVELS.
            levels: names of feature maps; None for the kind's usual ones.
            student_channels, teacher_channels: channels of every level (models.feature_channels).

        Raises UserError for an unknown kind or level, and for mse_raw between maps of different channels.
        """
        super().__init__()
        if kind not in KINDS:
            raise UserError(f"feature loss {kind!r} does not exist; choose from {', '.join(KINDS)}")
        self.kind, self.levels = kind, tuple(levels or USUAL_LEVELS[kind])
        widths = {level: _widths(level, student_channels, teacher_channels) for level in self.levels}
        if kind == "mse_raw":
            _check_equal(widths)
        projected = widths if kind in ("cosine", "stats") else {}
        self.projectors = nn.ModuleDict({level: nn.Conv2d(*pair, 1) for level, pair in projected.items()})
        standardised = widths if kind == "stats" else {}
        self.standardisers = nn.ModuleDict({level: Standardiser(pair[1]) for level, pair in standardised.items()})

    def forward(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
        """Both: {level: (B,C,H,W)} -> one unweighted scalar, float32; no gradient reaches the teacher.

        Raises ValueError when a kind that compares pixel with pixel gets maps of different sizes.
        """
        losses = torch.stack([self._level(name, student[name].float(), teacher[name].detach().float())
                              for name in self.levels])  # fmt: skip
        return losses.sum() if self.kind == "mse_raw" else losses.mean()

    def _level(self, name: str, student: Tensor, teacher: Tensor) -> Tensor:
        if self.kind in ALIGNED and student.shape[-2:] != teacher.shape[-2:]:
            raise ValueError(
                f"{self.kind} at {name}: the student's map is {tuple(student.shape[-2:])}, the teacher's "
                f"{tuple(teacher.shape[-2:])}; give both inputs one size, or use stats or cka"
            )
        if self.kind == "mse_raw":
            return F.mse_loss(student, teacher)
        if self.kind == "cka":
            return cka_loss(student.mean((2, 3)), teacher.mean((2, 3)))
        projected = self.projectors[name](student)
        if self.kind == "cosine":
            return 1 - F.cosine_similarity(projected, teacher, dim=1, eps=EPS).mean()
        return stats_loss(projected, self.standardisers[name](teacher))


class FeatureTerms(nn.Module):
    """Several kinds at once: {"feat_cosine": .., "feat_stats": ..}, named and unweighted."""

    def __init__(
        self,
        kinds: Mapping[str, Sequence[str] | None],
        student_channels: Mapping[str, int],
        teacher_channels: Mapping[str, int],
    ):
        """`kinds`: {kind: its levels, None for the usual ones}; the rest as FeatureKD."""
        super().__init__()
        self.kinds = nn.ModuleDict(
            {kind: FeatureKD(kind, levels, student_channels, teacher_channels) for kind, levels in kinds.items()}
        )

    @property
    def levels(self) -> tuple[str, ...]:
        """Every level that some kind looks at, for `model.shared_weight`."""
        return tuple(dict.fromkeys(level for kind in self.kinds.values() for level in kind.levels))

    def forward(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f"feat_{name}": kind(student, teacher) for name, kind in self.kinds.items()}


class Standardiser(nn.Module):
    """(B,C,H,W) -> the same, with mean 0 and deviation 1 per channel over the training set, by running statistics.

    In training mode a batch first enters the statistics: an even average of the first ten, then with a share of 0.1.
    """

    momentum = 0.1

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.batches += 1
            share = torch.clamp(1 / self.batches, min=self.momentum)
            self.mean.lerp_(x.mean((0, 2, 3)), share)
            self.var.lerp_(x.var((0, 2, 3), correction=0), share)
        return (x - self.mean[:, None, None]) / (self.var[:, None, None] + EPS).sqrt()


def stats_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over samples and channels of the squared differences of spatial mean and of spatial deviation."""
    return sum(F.mse_loss(mine, theirs) for mine, theirs in zip(_stats(student), _stats(teacher), strict=True))


def _stats(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean((2, 3)), (x.var((2, 3), correction=0) + EPS).sqrt()


def cka_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - |Y'X|^2 / (|X'X| |Y'Y|) in Frobenius norms, X (B,C), Y (B,D) centred over the batch (Kornblith et al., 2019).

    Computed from the B x B matrices X X' and Y Y', which have the same norms. 0 without two samples that differ.
    """
    x, y = ((z - z.mean(0)) for z in (student, teacher))
    x, y = (z @ z.T for z in (x, y))
    size = x.norm() * y.norm()
    differs = size > torch.finfo(size.dtype).tiny
    return torch.where(differs, 1 - (x * y).sum() / torch.where(differs, size, 1.0), 0.0)


def _widths(level: str, student: Mapping[str, int], teacher: Mapping[str, int]) -> tuple[int, int]:
    if level not in student or level not in teacher:
        raise UserError(f"feature level {level!r} does not exist; choose from {', '.join(student)}")
    return student[level], teacher[level]


def _check_equal(widths: Mapping[str, tuple[int, int]]) -> None:
    for level, (mine, theirs) in widths.items():
        if mine != theirs:
            raise UserError(
                f"mse_raw at {level}: the student has {mine} channels, the teacher {theirs}; give both the same "
                "base_channels, or use cosine, stats or cka, which project"
            )
