"""Means over some of the pixels, which stay finite when there are none."""

# B batch, H, W height and width; a mask is (B,1,H,W) bool or weights in 0..1.

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of `values` where `mask` holds, over the number of such pixels; 0, with its graph, when there is none.

    Values outside the mask are replaced, not multiplied by 0, so that what is not finite there stays out.
    """
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp_min(1)


def log_ratio(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """d = ln prediction - ln target where `mask` holds, 0 elsewhere; both must be positive there."""
    return safe_log(prediction, mask) - safe_log(target, mask)


def safe_log(depth: Tensor, mask: Tensor) -> Tensor:
    """ln depth where `mask` holds, ln 1 = 0 elsewhere: no infinity enters the graph."""
    return torch.where(mask, depth, 1.0).log()
