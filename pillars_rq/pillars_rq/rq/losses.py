"""What training the books minimises, and the figures that tell how well they do.

All are means over *occupied* cells (never over the canvas) and, for losses, over channels too. The encoder is frozen,
so the commitment term has no gradient at all; it is logged, and the codebook term and the detection loss do the work.
"""

# P pillars, D channels, n books, K rows.

import torch
from torch import Tensor

from .codebooks import ResidualQuantizer


def codebook_loss(features: Tensor, quantized: Tensor) -> Tensor:
    """mean (sg[x] - q)^2 over (P, D); 0 without pillars. With earlier books frozen it is the whole sum's distortion."""
    return _mean_square(features.detach() - quantized)


def commitment_loss(features: Tensor, quantized: Tensor) -> Tensor:
    """mean (x - sg[q])^2 over (P, D): the same value, and no gradient towards the books."""
    return _mean_square(features - quantized.detach())


def joint_codebook_loss(features: Tensor, codes: Tensor, quantizer: ResidualQuantizer) -> Tensor:
    """Legacy joint training: the mean over m = 1..n of the codebook loss of the m-book sum."""
    depths = range(1, codes.shape[1] + 1)
    return torch.stack([codebook_loss(features, quantizer.decode(codes, m)) for m in depths]).mean()


@torch.no_grad()
def relative_mse(features: Tensor, quantized: Tensor) -> float:
    """sum |x - q|^2 / sum |x|^2 over occupied cells; 0 when there is nothing to represent."""
    energy = float(features.double().square().sum())
    return float((features.double() - quantized.double()).square().sum()) / energy if energy else 0.0


def usage(codes: Tensor, k: int) -> tuple[float, float]:
    """Share of a book's k rows in use, and the perplexity 2^H of its codes (P,); (0, 0) without pillars."""
    if not len(codes):
        return 0.0, 0.0
    shares = torch.bincount(codes, minlength=k).double() / len(codes)
    seen = shares[shares > 0]
    return len(seen) / k, float(torch.exp2(-(seen * seen.log2()).sum()))


def _mean_square(difference: Tensor) -> Tensor:
    return difference.square().sum() / max(1, difference.numel())
