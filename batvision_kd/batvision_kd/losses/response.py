"""Response distillation: the student's depth is drawn to the teacher's, and how much each pixel of it is trusted.

    where   region: "valid" (measured pixels), "invalid" (holes, the only pixels where the teacher knows what the
            measurement does not), "all"
    how     "log_huber": Huber of ln p - ln t (default: equal ratios weigh alike); "l1", "mse" in metres, where far
            pixels rule
    trust   teacher_confidence: weights in 0..1 without gradients; on measured pixels exp(-|ln t - ln g| / tau), on
            holes exp(-u / tau) with u the teacher's disagreement with itself on the mirrored picture

A loss is the sum of weight x error over the number of pixels of the region: where the teacher is not to be trusted it
teaches less, instead of the rest teaching more. An empty region gives 0 with its graph. With several processes the
region is that of all of them (masked).
"""

# B batch, H, W height and width; p student, t teacher, g measured depth, all (B,1,H,W) metres; `valid` (B,1,H,W) bool.

import torch
from torch import Tensor

from shared.errors import UserError
from shared.run import World

from .depth import check_maps
from .masked import ALONE, log_ratio, masked_mean

KINDS = ("log_huber", "l1", "mse")
REGIONS = ("valid", "invalid", "all")
TAU = 0.22  # about ln 1.25: a teacher off by the first threshold of delta keeps 1/e of its weight
HUBER_DELTA = 0.5  # in ln: beyond a factor of 1.65 the pull no longer grows


def response_kd(
    student: Tensor,
    teacher: Tensor,
    depth: Tensor,
    valid: Tensor,
    *,
    kind: str = "log_huber",
    region: str = "all",
    confidence: Tensor | None = None,
    world: World = ALONE,
) -> Tensor:
    """One unweighted scalar.

    Args:
        student, teacher: (B,1,H,W) metres, positive; gradients reach the student alone.
        depth, valid: the measurement; `valid` chooses the region.
        kind, region: see the module.
        confidence: (B,1,H,W) weights in 0..1 (`teacher_confidence`); None trusts every pixel fully.
        world: the processes that hold the batch (collective).

    Raises UserError for an unknown kind or region, ValueError when shapes differ.
    """
    check_maps(student, teacher, depth, valid, *([] if confidence is None else [confidence]))
    mask = region_mask(valid, region)
    error = _error(student, teacher.detach(), mask, kind)
    return masked_mean(error if confidence is None else error * confidence.detach(), mask, world)


def region_mask(valid: Tensor, region: str) -> Tensor:
    """(B,1,H,W) bool of the pixels that `region` names."""
    if region not in REGIONS:
        raise UserError(f"region {region!r} does not exist; choose from {', '.join(REGIONS)}")
    return {"valid": valid, "invalid": ~valid, "all": torch.ones_like(valid)}[region]


def _error(student: Tensor, teacher: Tensor, mask: Tensor, kind: str) -> Tensor:
    if kind == "log_huber":
        return _huber(log_ratio(student, teacher, mask), HUBER_DELTA)
    if kind == "l1":
        return (student - teacher).abs()
    if kind == "mse":
        return (student - teacher).square()
    raise UserError(f"response loss {kind!r} does not exist; choose from {', '.join(KINDS)}")


def _huber(d: Tensor, delta: float) -> Tensor:
    """d^2 / 2 up to |d| = delta, then straight on."""
    size = d.abs()
    return torch.where(size <= delta, d.square() / 2, delta * (size - delta / 2))


@torch.no_grad()
def teacher_confidence(
    teacher: Tensor, depth: Tensor, valid: Tensor, *, uncertainty: Tensor | None = None, tau: float = TAU
) -> Tensor:
    """(B,1,H,W) weights in 0..1, without gradients: 1 where the teacher agrees with what is known about the pixel.

    Args:
        uncertainty: u of the holes, (B,1,H,W) >= 0, as `flip_disagreement` gives it; None leaves holes at 1.
        tau: the log ratio at which a weight has fallen to 1/e.
    """
    check_maps(teacher, depth, valid, *([] if uncertainty is None else [uncertainty]))
    measured = log_ratio(teacher, depth, valid).abs()
    holes = torch.zeros_like(teacher) if uncertainty is None else uncertainty
    return torch.exp(-torch.where(valid, measured, holes) / tau)


@torch.no_grad()
def flip_disagreement(depth: Tensor, mirrored: Tensor) -> Tensor:
    """u = |ln depth - ln mirrored|, (B,1,H,W) >= 0: how far a model is from itself on the mirrored scene.

    depth, mirrored (B,1,H,W) positive metres; `mirrored` is the answer to the mirrored input, mirrored back.
    """
    check_maps(depth, mirrored)
    return (depth.log() - mirrored.log()).abs()
