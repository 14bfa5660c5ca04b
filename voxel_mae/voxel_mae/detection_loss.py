"""The detection losses, named and unweighted (A14).

    cls  penalty-reduced focal loss of the heat maps (CornerNet, 1808.01244, equation 1), over the number of peaks
    loc  L1 of the eight numbers at each box's positive site, code by code times its weight, over the number of boxes

Weights (the configuration's cls_weight, loc_weight) are applied by the caller. A batch without boxes or without active
sites gives loc = 0 and a finite cls with finite gradients: both divide by at least 1.
"""

# S active sites, C classes of a head, B samples, M boxes of a sample

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.errors import ConfigError
from shared.run import World

from .assignment import CODES, Targets

CODE_NAMES = ("offset x", "offset y", "z", "log dx", "log dy", "log dz", "cos", "sin")
CODE_BRANCHES = ("center", "center_z", "dim", "rot")  # in the order of the codes
CLAMP = 1e-4  # probabilities are kept this far from 0 and 1


@dataclass(frozen=True)
class LossWeights:
    """LOSS_WEIGHTS of the head: code_weights belong to the codes within loc, the others to the terms.

    Raises:
        ConfigError: not eight code weights, or a weight that is negative.
    """

    cls: float = 1.0
    loc: float = 2.0
    codes: tuple[float, ...] = (1.0,) * CODES

    def __post_init__(self) -> None:
        if len(self.codes) != CODES:
            raise ConfigError(
                f"DENSE_HEAD.LOSS_CONFIG.LOSS_WEIGHTS.code_weights has {len(self.codes)} values, the head regresses "
                f"{CODES} numbers ({', '.join(CODE_NAMES)}): give {CODES}."
            )
        if min(self.cls, self.loc, *self.codes) < 0:
            raise ConfigError("DENSE_HEAD.LOSS_CONFIG.LOSS_WEIGHTS: a weight is negative; give 0 or more.")

    def by_term(self) -> dict[str, float]:
        return {"cls": self.cls, "loc": self.loc}


def focal_loss(logits: Tensor, heat: Tensor, divisor: Tensor | None = None) -> Tensor:
    """Logits (S,C) against heat (S,C) in 0..1 -> scalar float32.

    -[sum_{y=1} (1-p)^2 log p + sum_{y<1} (1-y)^4 p^2 log(1-p)] / max(1, #(y=1)), p clamped to [1e-4, 1-1e-4].
    divisor: what to divide by instead of max(1, #(y=1)) (see `divisors`).
    """
    p = logits.float().sigmoid().clamp(CLAMP, 1 - CLAMP)
    peak = heat == 1
    gain = torch.where(peak, (1 - p) ** 2 * p.log(), (1 - heat) ** 4 * p**2 * (1 - p).log())
    return -gain.sum() / (peak.sum().clamp(min=1) if divisor is None else divisor)


def box_loss(codes: Tensor, targets: Targets, weights: Sequence[float], divisor: Tensor | None = None) -> Tensor:
    """Predicted codes (S,8) read at each box's positive site -> scalar: sum over codes of weight x mean L1 over boxes.

    divisor: what to divide by instead of max(1, #boxes) (see `divisors`).
    """
    if not len(codes):  # no active site: nothing is assigned; the sum keeps the graph
        return codes.float().sum()
    error = F.l1_loss(codes.float()[targets.site], targets.codes, reduction="none")  # (B,M,8)
    error = torch.where(targets.valid[..., None], error, 0.0).sum((0, 1))
    divisor = targets.valid.sum().clamp(min=1) if divisor is None else divisor
    return (error * error.new_tensor(list(weights))).sum() / divisor


def codes_of(answers: Mapping[str, Tensor]) -> Tensor:
    """The regression branches of one head side by side: (S,8)."""
    return torch.cat([answers[name] for name in CODE_BRANCHES], 1)


def divisors(targets: Sequence[Targets], world: World | None = None) -> Tensor:
    """(heads, 2): what the peaks' and the boxes' terms are divided by, at least 1 in all.

    With several processes it is the count of all of them divided by their number: gradients averaged over the processes
    then equal those of one process with the whole batch. One collective sum for all heads.
    """
    counts = torch.stack([torch.stack([(each.heat == 1).sum(), each.valid.sum()]) for each in targets]).float()
    if world is None:
        return counts.clamp(min=1)
    return world.sum(counts).clamp(min=1) / world.size


def detection_losses(
    answers: Sequence[Mapping[str, Tensor]],
    targets: Sequence[Targets],
    code_weights: Sequence[float] = (1.0,) * CODES,
    world: World | None = None,
) -> dict[str, Tensor]:
    """{"cls", "loc"}: float32 scalars, summed over the heads.

    answers: of each head its branches, "hm" (S,C) and the regression branches.
    """
    parts = list(zip(answers, targets, divisors(targets, world), strict=True))
    return {
        "cls": sum(focal_loss(answer["hm"], wanted.heat, by[0]) for answer, wanted, by in parts),
        "loc": sum(box_loss(codes_of(answer), wanted, code_weights, by[1]) for answer, wanted, by in parts),
    }
