"""Task losses: how far a predicted depth map is from the measured one, on the pixels that were measured.

    task_losses(prediction, depth, valid, criterion="Combined", smooth=True) -> {"l1": .., "silog": .., "smooth": ..}

Terms come back named and unweighted; CRITERIA says which terms a criterion has and its usual weights. With g the
measured depth, p the prediction, e = p - g, d = ln p - ln g, and means over all valid pixels of the batch:

    l1      |e|                                      log_l1  |d|                        bi  ln(|e| + 1)
    silog   sqrt(mean d^2 - lambda (mean d)^2)       (Eigen et al., arXiv 1406.2283)
    berhu   |e| up to c, (e^2 + c^2) / 2c above, c = 0.2 max |e|     (Laina et al., arXiv 1606.00373)
    hinge   relu(|d| - ln 1.25): what is within the first threshold of delta costs nothing
    gradient  |grad d| between neighbours that are both valid
    smooth  |grad p| of the prediction, everywhere; times exp(-|grad I|) when a picture I is given (edge-aware). Without
            a picture it is plain total variation and smooths over edges too.

A batch without one valid pixel gives 0 for every data term, with gradients of 0. With several processes the batch is
that of all of them (masked).
"""

# B batch, H, W height and width; depths (B,1,H,W) float32 metres, `valid` (B,1,H,W) bool.

import math
from functools import partial

import torch
from torch import Tensor

from shared.errors import UserError
from shared.run import World

from .masked import ALONE, any_pixel, largest, log_ratio, masked_mean

# criterion: {term: usual weight}
CRITERIA: dict[str, dict[str, float]] = {
    "L1": {"l1": 1.0},
    "SIlog": {"silog": 1.0},
    "Combined": {"l1": 0.237, "silog": 0.637},  # with silog_lambda 0.869: one published tuned setting
    "logL1": {"log_l1": 1.0},
    "BI": {"bi": 1.0},
    "BerHu": {"berhu": 1.0},
    "Hinge": {"l1": 1.0, "hinge": 0.003},
}
SILOG_EPS = 1e-6  # of the root's argument: at 0 its gradient is infinite
LN_DELTA1 = math.log(1.25)


def task_losses(
    prediction: Tensor,
    depth: Tensor,
    valid: Tensor,
    *,
    criterion: str = "L1",
    silog_lambda: float = 0.5,
    smooth: bool = False,
    gradient: bool = False,
    image: Tensor | None = None,
    world: World = ALONE,
) -> dict[str, Tensor]:
    """The criterion's terms, and the two regularisers where asked for; named, unweighted scalars.

    Args:
        prediction, depth: (B,1,H,W) metres, positive where valid.
        valid: (B,1,H,W) bool, where `depth` was measured.
        criterion: a key of CRITERIA.
        silog_lambda: 0 punishes a wrong scale in full, 1 not at all.
        smooth, gradient: add the terms of these names.
        image: (B,3,H,W) picture that makes `smooth` edge-aware.
        world: the processes that hold the batch, each the same number of samples (collective).

    Raises UserError for an unknown criterion, ValueError when shapes differ.
    """
    if criterion not in CRITERIA:
        raise UserError(f"criterion {criterion!r} does not exist; choose from {', '.join(CRITERIA)}")
    check_maps(prediction, depth, valid)
    known = {**TERMS, "silog": partial(silog, silog_lambda=silog_lambda)}
    terms = {name: known[name](prediction, depth, valid, world=world) for name in CRITERIA[criterion]}
    if gradient:
        terms["gradient"] = gradient_loss(prediction, depth, valid, world)
    if smooth:
        terms["smooth"] = smoothness(prediction, image)
    return terms


def check_maps(prediction: Tensor, *others: Tensor) -> None:
    """ValueError unless all have the prediction's shape: broadcasting would average over pairs that do not exist."""
    for other in others:
        if other.shape != prediction.shape:
            raise ValueError(f"depth maps of different shapes: {tuple(prediction.shape)} and {tuple(other.shape)}")


def l1(prediction: Tensor, depth: Tensor, valid: Tensor, world: World = ALONE) -> Tensor:
    return masked_mean((prediction - depth).abs(), valid, world)


def log_l1(prediction: Tensor, depth: Tensor, valid: Tensor, world: World = ALONE) -> Tensor:
    return masked_mean(log_ratio(prediction, depth, valid).abs(), valid, world)


def bi(prediction: Tensor, depth: Tensor, valid: Tensor, world: World = ALONE) -> Tensor:
    """The loss of Beyond Image to Depth (Parida et al., CVPR 2021)."""
    return masked_mean(torch.where(valid, prediction - depth, 0.0).abs().log1p(), valid, world)


def silog(prediction: Tensor, depth: Tensor, valid: Tensor, silog_lambda: float = 0.5, world: World = ALONE) -> Tensor:
    """Scale-invariant logarithmic error; its gradient is finite where p equals g."""
    d = log_ratio(prediction, depth, valid)
    variance = masked_mean(d.square(), valid, world) - silog_lambda * masked_mean(d, valid, world).square()
    return variance.clamp_min(SILOG_EPS).sqrt() * any_pixel(valid, world)


def berhu(prediction: Tensor, depth: Tensor, valid: Tensor, world: World = ALONE) -> Tensor:
    error = torch.where(valid, prediction - depth, 0.0).abs()
    c = (0.2 * largest(error, world)).clamp_min(torch.finfo(error.dtype).tiny)
    return masked_mean(torch.where(error <= c, error, (error.square() + c.square()) / (2 * c)), valid, world)


def hinge(prediction: Tensor, depth: Tensor, valid: Tensor, world: World = ALONE) -> Tensor:
    return masked_mean((log_ratio(prediction, depth, valid).abs() - LN_DELTA1).relu(), valid, world)


def gradient_loss(prediction: Tensor, depth: Tensor, valid: Tensor, world: World = ALONE) -> Tensor:
    """Mean |difference of d| over horizontal and vertical neighbours that are both valid."""
    d = log_ratio(prediction, depth, valid)
    steps = [(d[..., 1:] - d[..., :-1], valid[..., 1:] & valid[..., :-1]),
             (d[..., 1:, :] - d[..., :-1, :], valid[..., 1:, :] & valid[..., :-1, :])]  # fmt: skip
    values, masks = (torch.cat([part.flatten() for part in parts]) for parts in zip(*steps, strict=True))
    return masked_mean(values.abs(), masks, world)


def smoothness(prediction: Tensor, image: Tensor | None = None) -> Tensor:
    """Mean step of the prediction between neighbours, in metres; small where the picture has an edge, if given."""
    return _steps(prediction, image, -1) + _steps(prediction, image, -2)


def _steps(prediction: Tensor, image: Tensor | None, axis: int) -> Tensor:
    step = prediction.diff(dim=axis).abs()
    if image is not None:
        step = step * torch.exp(-image.diff(dim=axis).abs().mean(1, keepdim=True))
    return step.mean() if step.numel() else prediction.sum() * 0


TERMS = {"l1": l1, "log_l1": log_l1, "bi": bi, "silog": silog, "berhu": berhu, "hinge": hinge}
