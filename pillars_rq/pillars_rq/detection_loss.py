"""The detector's three losses, named and unweighted; `WEIGHTS` are the published ones.

    cls  focal loss over all anchors that are not ignored, divided by the number of positives
    reg  smooth L1 of the seven box numbers, summed, mean over the positives
    dir  cross-entropy of the half turn, mean over the positives

Angles are compared by the sine of their difference, so that half a turn costs nothing (the direction decides it).
A batch without positives gives reg = dir = 0 and a finite cls: it divides by at least 1.
"""

# B frames, N anchors of a frame, A anchors of a cell, K positives of the batch, C classes

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .network import Predictions
from .targets import IGNORED, Targets

WEIGHTS: Mapping[str, float] = {"cls": 1.0, "reg": 2.0, "dir": 0.2}
CODE_WEIGHTS = (1.0,) * 7  # of a box's numbers, within reg
ALPHA, GAMMA = 0.25, 2.0
BETA = 1 / 9  # below it smooth L1 is quadratic


def detection_losses(
    predictions: Predictions,
    targets: Targets,
    *,
    code_weights: Sequence[float] = CODE_WEIGHTS,
    published_angle_loss: bool = False,
    divisor: Tensor | None = None,
) -> dict[str, Tensor]:
    """Maps of the head and targets -> {"cls", "reg", "dir"}, scalars float32.

    code_weights: of x, y, z, w, l, h, theta within reg; the published ones are all 1.

    divisor: what the sums are divided by, a scalar; None: the positives here, at least 1.

    published_angle_loss: the published weights' own angle term (its target uses the cosine of the already overwritten
    prediction), for continuing their training. The default is the intended one.
    """
    logits, deltas, directions = flat_predictions(predictions, targets.background)
    positive = targets.positive
    # A count stays on the device: no host read in a step.
    count = positive.sum().clamp(min=1) if divisor is None else divisor
    wanted, angle = targets.deltas[positive], _published_angles if published_angle_loss else sine_difference
    found = deltas[positive]
    error = torch.cat([found[:, :6] - wanted[:, :6], angle(found[:, 6], wanted[:, 6])[:, None]], 1)
    error = F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=BETA)
    direction = F.cross_entropy(directions[positive], targets.directions[positive], reduction="sum")
    return {
        "cls": focal_loss(logits, targets.classes, targets.background) / count,
        "reg": (error.sum(0) * error.new_tensor(code_weights)).sum() / count,
        "dir": direction / count,
    }


def flat_predictions(predictions: Predictions, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """The maps by anchor, in float32: logits (B,N,C), deltas (B,N,7), direction logits (B,N,2)."""
    sizes = (classes, 7, 2)
    return tuple(
        part.float().permute(0, 2, 3, 1).reshape(len(part), -1, size)
        for part, size in zip(predictions, sizes, strict=True)
    )


def focal_loss(logits: Tensor, classes: Tensor, background: int) -> Tensor:
    """Sum over anchors that are not ignored: logits (B,N,C), classes (B,N) -> scalar.

    -alpha_t (1 - p_t)^gamma log p_t of the sigmoid of every class (Lin et al., 1708.02002, equation 5).
    """
    truth = (classes[..., None] == torch.arange(background, device=classes.device)).to(logits.dtype)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    probability = logits.sigmoid()
    miss = torch.where(truth > 0, 1 - probability, probability)
    weight = torch.where(truth > 0, ALPHA, 1 - ALPHA) * (classes != IGNORED)[..., None]
    return (weight * miss**GAMMA * entropy).sum()


def sine_difference(predicted: Tensor, wanted: Tensor) -> Tensor:
    """sin(predicted - wanted), written as the paper's encoding does: sin p cos t against cos p sin t (K,)."""
    return predicted.sin() * wanted.cos() - predicted.cos() * wanted.sin()


def _published_angles(predicted: Tensor, wanted: Tensor) -> Tensor:
    overwritten = predicted.sin() * wanted.cos()
    return overwritten - overwritten.cos() * wanted.sin()
