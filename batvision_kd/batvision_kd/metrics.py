"""How far a predicted depth map is from the measured one: per image, on a mask that says which pixels count.

    scores = image_metrics(pred, depth, valid, "strict", max_depth_m=30.0)   # {"rmse": (B,), ..., "counted": (B,)}
    means = DepthMeans(); means.update(scores); means.compute(world)["rmse"]

Every metric is computed image by image and only then averaged, so it does not depend on the batch size; the pooled RMSE
(over all pixels of all images) stands beside it. A protocol fixes the mask and what happens at its borders:

    strict    valid, 0.1 m <= g < max depth; predictions clamped to [1 mm, max depth]; an image with fewer than 10 such
              pixels is left out and counted as left out; a prediction that is not finite is an error
    min05     strict from 0.5 m on
    official  BatVision's: g clipped to max depth, every g > 0 counts, predictions as they are, NaN becomes 0, an image
              without valid pixels scores 0
"""

# B images, H x W pixels, g measured depth, p predicted depth (metres), M mask of the pixels that count, d = ln p - ln g

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.metrics import RunningMeans
from shared.run import World

METRICS = ("rmse", "mae", "abs_rel", "log10", "delta1", "delta2", "delta3", "sq_rel", "rmse_log", "silog",
           "scale_error", "aligned_rmse")  # fmt: skip
MAIN = ("rmse", "mae", "abs_rel", "log10", "delta1", "delta2", "delta3")  # what a table shows
BANDS_M = {"below 3 m": (0.0, 3.0), "3 to 6 m": (3.0, 6.0), "above 6 m": (6.0, math.inf)}
HIGHER_IS_BETTER = frozenset({"delta1", "delta2", "delta3"})


@dataclass(frozen=True)
class Protocol:
    """Which pixels and images count. min_depth_m: g from here on; clamp_from_m: lower bound of p, None: p as it is;
    clip_far: g beyond max depth counts as max depth (else it does not count); min_pixels: below it an image is left
    out, 0: it scores 0."""

    name: str
    min_depth_m: float
    clamp_from_m: float | None
    clip_far: bool
    min_pixels: int


STRICT = Protocol("strict", 0.1, 1e-3, False, 10)
PROTOCOLS = {
    "strict": STRICT,
    "min05": Protocol("min05", 0.5, 1e-3, False, 10),
    "official": Protocol("official", 0.0, None, True, 0),
}


def protocol_of(name: str | Protocol) -> Protocol:
    """The protocol of that name. Raises ValueError for an unknown one."""
    if isinstance(name, Protocol):
        return name
    if name not in PROTOCOLS:
        raise ValueError(f"protocol {name!r} is unknown; choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def image_metrics(
    pred: Tensor, depth: Tensor, valid: Tensor, protocol: str | Protocol = "strict", max_depth_m: float = 30.0
) -> dict[str, Tensor]:
    """Scores of each image: every name of METRICS, `pixels` that counted, and `counted` (bool).

    pred, depth: (B,1,H,W) or (B,H,W) metres; valid: the same shape, bool (or 0/1). All results are (B,) float64 but
    `counted`, free of NaN, and 0 where an image is not counted. abs_rel = mean |g-p|/g, sq_rel = mean (g-p)^2/g,
    delta_i = share of max(g/p, p/g) < 1.25^i (strictly below), log10 = mean |log10 g - log10 p|, silog = standard
    deviation of d, scale_error = |median d|, aligned_rmse = rmse after p is scaled by exp(-median d).

    Raises ValueError for shapes that differ, an unknown protocol, and (except `official`) predictions that are not
    finite.
    """
    rule = protocol_of(protocol)
    p, g, mask = _prepared(pred, depth, valid, rule, max_depth_m)
    return _scores(p, g, mask, rule)


def band_metrics(
    pred: Tensor, depth: Tensor, valid: Tensor, protocol: str | Protocol = "strict", max_depth_m: float = 30.0
) -> dict[str, dict[str, Tensor]]:
    """`image_metrics` on each range band of BANDS_M by itself: {band: scores}. An image without enough pixels in a
    band is not counted there."""
    rule = protocol_of(protocol)
    p, g, mask = _prepared(pred, depth, valid, rule, max_depth_m)
    strictly = Protocol(rule.name, rule.min_depth_m, rule.clamp_from_m, rule.clip_far, max(1, rule.min_pixels))
    return {name: _scores(p, g, mask & (g >= low) & (g < high), strictly) for name, (low, high) in BANDS_M.items()}


def _prepared(
    pred: Tensor, depth: Tensor, valid: Tensor, rule: Protocol, max_depth_m: float
) -> tuple[Tensor, Tensor, Tensor]:
    """p, g (B, pixels) float64 and the mask M."""
    if pred.shape != depth.shape or depth.shape != valid.shape or pred.ndim not in (3, 4):
        raise ValueError(
            f"pred {tuple(pred.shape)}, depth {tuple(depth.shape)}, valid {tuple(valid.shape)}: all three must be "
            "(B,1,H,W) or (B,H,W) of one size"
        )
    p, g, mask = pred.detach().flatten(1).double(), depth.flatten(1).double(), valid.flatten(1).bool()
    if rule.clamp_from_m is not None:
        _check_finite(p)
        p = p.clamp(rule.clamp_from_m, max_depth_m)
    if rule.clip_far:
        g = g.clamp(max=max_depth_m)
        return p, g, mask & (g > rule.min_depth_m)
    return p, g, mask & (g >= max(rule.min_depth_m, 1e-9)) & (g < max_depth_m)


def _check_finite(p: Tensor) -> None:
    bad = (~p.isfinite()).sum(1)
    if bad.any():
        images = bad.nonzero().flatten().tolist()
        raise ValueError(
            f"predictions are not finite: {int(bad.sum())} pixels, images {images[:5]} of the batch; "
            "the model has diverged, use an earlier checkpoint"
        )


def _scores(p: Tensor, g: Tensor, mask: Tensor, rule: Protocol) -> dict[str, Tensor]:
    pixels = mask.sum(1)
    p, g = torch.where(mask, p, 1.0), torch.where(mask, g, 1.0)  # what does not count is neutral: no NaN from it
    share = 1 / pixels.clamp(min=1).double()

    def mean(values: Tensor) -> Tensor:
        return torch.where(mask, values, 0.0).sum(1) * share

    error, log_error = p - g, p.log() - g.log()
    shift = _median(log_error, mask)
    ratio = torch.maximum(g / p, p / g)
    found = {
        "rmse": mean(error**2).sqrt(),
        "mae": mean(error.abs()),
        "abs_rel": mean(error.abs() / g),
        "log10": mean(log_error.abs()) / math.log(10),
        **{f"delta{i}": mean((ratio < 1.25**i).double()) for i in (1, 2, 3)},
        "sq_rel": mean(error**2 / g),
        "rmse_log": mean(log_error**2).sqrt(),
        "silog": mean((log_error - mean(log_error)[:, None]) ** 2).sqrt(),
        "scale_error": shift.abs(),
        "aligned_rmse": mean((p * torch.exp(-shift)[:, None] - g) ** 2).sqrt(),
    }
    counted = pixels >= rule.min_pixels
    kept = {name: torch.where(counted & ~values.isnan(), values, 0.0) for name, values in found.items()}
    return {**kept, "pixels": pixels.double() * counted, "counted": counted}


def _median(values: Tensor, mask: Tensor) -> Tensor:
    """(B,) lower median over the mask, 0 where it is empty."""
    return values.masked_fill(~mask, math.nan).nanmedian(1).values.nan_to_num(nan=0.0)


class DepthMeans:
    """Means over the images that counted, on any number of processes; `pooled_rmse` is over all their pixels."""

    def __init__(self) -> None:
        self._means = RunningMeans()
        self._pixels = RunningMeans()
        self._images = RunningMeans()

    def update(self, scores: Mapping[str, Tensor]) -> None:
        """Add the result of `image_metrics` for a batch (one host read)."""
        counted = scores["counted"]
        images, pixels = torch.stack([counted.double().sum(), scores["pixels"].sum()]).tolist()
        means = {name: scores[name][counted].mean() for name in METRICS} if images else {}
        self._means.update(means, round(images))
        if pixels:
            squares = (scores["rmse"] ** 2 * scores["pixels"]).sum() / pixels
            self._pixels.update({"pooled_mse": squares}, round(pixels))
        self._images.update({"counted": images / max(1, len(counted))}, len(counted))

    def compute(self, world: World | None = None) -> dict[str, float]:
        """The means, `pooled_rmse`, and `counted`: the share of images that counted (collective with several
        processes). Without any counted image only `counted`."""
        means, pixels, images = (part.compute(world) for part in (self._means, self._pixels, self._images))
        pooled = {"pooled_rmse": math.sqrt(pixels["pooled_mse"])} if pixels else {}
        return {**means, **pooled, **images}
