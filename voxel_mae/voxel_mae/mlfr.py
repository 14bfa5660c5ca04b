"""Multi-level feature reconstruction: the student's levels, decoded, against the teacher's (CMAE-3D eq. 11).

    L = sum over levels l of  w_l d( D_l(f_s)[k], stop(f_t)[k] )     over the common sites k

d is the mean square or mean absolute difference over sites and channels; D_l a small decoder, SubM3 C -> 2C -> C with
BN and ReLU, then Linear C -> C. The levels are conv1..conv4 before VoxelNeXt's fusion (T14). A level without common
sites counts 0.
"""

# C channels of a level

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from .sparse import Chain, Norm, Pointwise, SparseTensor, SubM3d
from .teacher import common_rows


@dataclass(frozen=True)
class MlfrSettings:
    """scales: which of conv1..conv4; weights: one per scale; distance: mse (roadmap) or l1 (CMAE-3D)."""

    scales: tuple[int, ...] = (1, 2, 3, 4)
    weights: tuple[float, ...] = (0.5, 0.8, 1.0, 1.2)
    distance: Literal["mse", "l1"] = "mse"

    def __post_init__(self) -> None:
        if not self.scales or len(set(self.scales)) != len(self.scales) or not set(self.scales) <= {1, 2, 3, 4}:
            raise ValueError(f"MLFR scales {list(self.scales)}: one or more of 1, 2, 3, 4, each once")
        if len(self.weights) != len(self.scales) or min(self.weights) < 0:
            raise ValueError(f"MLFR weights {list(self.weights)}: one per scale of {list(self.scales)}, none negative")
        if self.distance not in ("mse", "l1"):
            raise ValueError(f"MLFR distance {self.distance!r}: mse or l1")


class MultiLevelReconstruction(nn.Module):
    """One decoder a level, and the weighted sum of their distances to the teacher."""

    def __init__(self, settings: MlfrSettings, widths: Sequence[int]):
        super().__init__()
        self.settings = settings
        self.decoders = nn.ModuleDict({f"conv{scale}": _decoder(widths[scale - 1]) for scale in settings.scales})

    def forward(self, student: Mapping[str, SparseTensor], teacher: Mapping[str, SparseTensor]) -> Tensor:
        """Scalar loss of two dicts of levels, conv1..conv4."""
        terms = [
            weight * distance(decoder(student[name]), teacher[name], self.settings.distance)
            for (name, decoder), weight in zip(self.decoders.items(), self.settings.weights, strict=True)
        ]
        return sum(terms)


def _decoder(channels: int) -> Chain:
    wide = 2 * channels
    return Chain(
        SubM3d(channels, wide, key="decoder"), Norm(wide), nn.ReLU(),
        SubM3d(wide, channels, key="decoder"), Norm(channels), nn.ReLU(),
        Pointwise(channels, channels),
    )  # fmt: skip


def distance(student: SparseTensor, teacher: SparseTensor, kind: str) -> Tensor:
    """Mean difference over common sites and channels in float32, the teacher without gradient; 0 without any."""
    rows_s, rows_t = common_rows(student, teacher)
    found, wanted = student.features[rows_s].float(), teacher.features[rows_t].detach().float()
    summed = (F.mse_loss if kind == "mse" else F.l1_loss)(found, wanted, reduction="sum")
    return summed / max(1, wanted.numel())
