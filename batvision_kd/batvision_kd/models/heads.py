"""From the last feature map to metres: a 1x1 convolution z, then a positive function of z whose gradient never ends.

    log       exp(lo + (hi - lo) sigmoid(z)), lo = ln 0.1, hi = ln max_depth: equal steps are equal ratios (default)
    sigmoid   0.1 + (max_depth - 0.1) sigmoid(z): equal steps are equal metres; most of them beyond where rooms end
    softplus  0.1 + softplus(z): no upper bound

A clamp is not among them: where it cuts, the gradient is exactly zero and a pixel that starts there never comes back.
"""

# B batch, b base channels, h, w size of d1, H, W size of the depth map.

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.errors import UserError

HEADS = ("log", "sigmoid", "softplus")
MIN_DEPTH_M = 0.1  # nearer than this no protocol counts a pixel; logarithms of the prediction stay finite


class DepthHead(nn.Module):
    """(B,b,h,w) -> (B,1,H,W) metres, in float32 under autocast too: bfloat16 would round depths to about 1 %."""

    def __init__(self, base_channels: int, kind: str, max_depth: float):
        super().__init__()
        self.conv = nn.Conv2d(base_channels, 1, 1)
        self.kind, self.max_depth = kind, max_depth

    def forward(self, x: Tensor, size_hw: Sequence[int]) -> Tensor:
        return to_metres(resize(self._raw(x), size_hw), self.kind, self.max_depth)

    def _raw(self, x: Tensor) -> Tensor:
        device = x.device.type
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return self.conv(x)
        with torch.autocast(device, enabled=False):
            return self.conv(x.float())


def to_metres(z: Tensor, kind: str, max_depth: float) -> Tensor:
    """Raw values -> depth in metres, of the same shape; `kind` is one of HEADS."""
    if kind == "log":
        low, high = math.log(MIN_DEPTH_M), math.log(max_depth)
        return torch.exp(low + (high - low) * torch.sigmoid(z))
    if kind == "sigmoid":
        return MIN_DEPTH_M + (max_depth - MIN_DEPTH_M) * torch.sigmoid(z)
    if kind == "softplus":
        return MIN_DEPTH_M + F.softplus(z)
    raise UserError(f"head {kind!r} does not exist; choose from {', '.join(HEADS)}")


def resize(x: Tensor, size_hw: Sequence[int]) -> Tensor:
    """(B,C,h,w) -> (B,C,*size_hw): area mean along an axis that shrinks, bilinear along one that grows."""
    if tuple(x.shape[-2:]) == tuple(size_hw):
        return x
    shrunk = [min(old, new) for old, new in zip(x.shape[-2:], size_hw, strict=True)]
    return F.interpolate(F.adaptive_avg_pool2d(x, shrunk), tuple(size_hw), mode="bilinear", align_corners=False)


def output_hw(output_size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """An int is a square, a pair is (height, width), None stays None: as large as the input. UserError otherwise."""
    if output_size is None:
        return None
    pair = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise UserError(
            f"output_size {output_size!r}: give a positive integer, (height, width), or None for the input's"
        )
    return pair


def check_head(kind: str, max_depth: float) -> None:
    """UserError for an unknown head, or a largest depth that is not above the smallest."""
    if kind not in HEADS:
        raise UserError(f"head {kind!r} does not exist; choose from {', '.join(HEADS)}")
    if not MIN_DEPTH_M < max_depth < math.inf:
        raise UserError(f"max_depth {max_depth}: it must be finite and above {MIN_DEPTH_M} (metres, not millimetres)")
