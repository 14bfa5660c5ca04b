"""An optional term that draws the two modalities' features together: MMD, or a classifier behind reversed gradients.

The two domains are the modalities: each image gives one row of its visible and one of its infrared feature map, the
pooled level p3. Stage 2 trains on KAIST alone, so there is no second data set in a batch to adapt to. Off in the
`..._nodomain` config. Gretton et al., "A Kernel Two-Sample Test", JMLR 2012 (biased estimate, eq. 5); gradient
reversal: Ganin and Lempitsky, ICML 2015.

    N, M rows, C channels, B images
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.errors import ConfigError

DOMAIN_TERMS = ("mmd", "reversal")
SMALLEST = 1e-12  # of sigma^2: rows that are all equal have distance 0 and kernel 1


def mmd_squared(x: Tensor, y: Tensor, kernels: Sequence[float] = (1.0, 2.0, 4.0)) -> Tensor:
    """MMD^2 = mean k(x,x') + mean k(y,y') - 2 mean k(x,y), all pairs (biased, >= 0), float32, outside autocast.

    k = sum over s in `kernels` of exp(-|a-b|^2 / (2 s sigma^2)); sigma^2 is the median squared distance between two
    different rows of both sets, without gradient. x (N,C), y (M,C) -> scalar in 0..2 len(kernels).

    Raises ValueError for empty sets or different widths.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise ValueError(f"need x (N,C) and y (M,C), N and M > 0; got {tuple(x.shape)} and {tuple(y.shape)}")
    with torch.autocast(x.device.type, enabled=False):
        rows = torch.cat([x, y])
        rows = rows if rows.dtype == torch.float64 else rows.float()
        distance = (rows[:, None] - rows[None, :]).square().sum(-1)
        kernel = _kernel(distance, kernels)
        n = len(x)
        return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


def _kernel(distance: Tensor, kernels: Sequence[float]) -> Tensor:
    different = ~torch.eye(len(distance), dtype=torch.bool, device=distance.device)
    sigma_squared = distance.detach()[different].median().clamp_min(SMALLEST)
    return sum(torch.exp(-distance / (2 * scale * sigma_squared)) for scale in kernels)


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return -gradient


def reverse_gradient(values: Tensor) -> Tensor:
    """The same values; the gradient changes its sign on the way back."""
    return _Reversed.apply(values)


class ModalityClassifier(nn.Module):
    """Tells visible rows from infrared ones; the features before it learn to prevent that."""

    def __init__(self, channels: int, hidden: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, vis: Tensor, ir: Tensor) -> Tensor:
        """vis, ir (B,C) -> binary cross-entropy (scalar; ln 2 when it cannot tell), reversed towards vis and ir."""
        with torch.autocast(vis.device.type, enabled=False):
            logits = self.layers(reverse_gradient(torch.cat([vis, ir]).float()))[:, 0]
            truth = torch.cat([logits.new_zeros(len(vis)), logits.new_ones(len(ir))])
            return F.binary_cross_entropy_with_logits(logits, truth)


class DomainTerm(nn.Module):
    """The term of `kind` "mmd" or "reversal" on one level of the two pyramids, unweighted."""

    def __init__(self, kind: str, channels: int, kernels: Sequence[float] = (1.0, 2.0, 4.0)) -> None:
        super().__init__()
        if kind not in DOMAIN_TERMS:
            raise ConfigError(f"domain_type is {kind!r}; use one of {', '.join(DOMAIN_TERMS)}.")
        self.kernels = tuple(kernels)
        self.classifier = ModalityClassifier(channels) if kind == "reversal" else None

    def forward(self, vis_level: Tensor, ir_level: Tensor) -> Tensor:
        """vis_level, ir_level (B,C,H,W) -> scalar."""
        vis, ir = vis_level.mean((2, 3)), ir_level.mean((2, 3))
        return mmd_squared(vis, ir, self.kernels) if self.classifier is None else self.classifier(vis, ir)
