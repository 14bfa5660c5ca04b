"""Rows nobody uses begin again from the data.

"Dead" is relative: a row is dead when it is nearest to fewer than `threshold` times the vectors that an average row of
its book gets. An absolute threshold on a moving count would reset rows in the first steps for being young. Only new
rows restart, and only onto residual vectors of occupied cells.
"""

# P vectors, D channels, K rows of a book, R new ones.

import torch
from torch import Tensor
from torch.optim import Optimizer

from .codebooks import ResidualQuantizer, drawn

THRESHOLD = 0.01  # of the hits of an average row


@torch.no_grad()
def restart_dead(
    quantizer: ResidualQuantizer,
    book: int,
    hits: Tensor,
    residuals: Tensor,
    generator: torch.Generator,
    threshold: float = THRESHOLD,
) -> Tensor:
    """Move the dead ones of a book's new rows onto drawn residual vectors.

    Args:
        hits: (K,) vectors each row of the book was nearest to, over enough batches to judge (an epoch).
        residuals: (P, D) to draw from; without any nothing is moved.

    Returns:
        Indices, into the new rows, of those that were moved: int64. Give them to `EmaWarmup.reset`/`reset_moments`.
    """
    fresh = quantizer.fresh[str(book)]
    if len(hits) != quantizer.size(book):
        raise ValueError(f"book {book + 1} has {quantizer.size(book)} rows, the hits are of {len(hits)}")
    own = hits[len(hits) - len(fresh) :].to(fresh.device)
    dead = torch.nonzero(own < threshold * hits.sum().to(fresh.device) / len(hits))[:, 0]
    if not len(dead) or not len(residuals):
        return dead[:0]
    fresh[dead] = drawn(residuals, len(dead), generator).to(fresh)
    return dead


@torch.no_grad()
def reset_moments(optimizer: Optimizer, parameter: Tensor, rows: Tensor) -> None:
    """Forget an optimizer's per-element memory (Adam's moments) of some rows of a parameter."""
    for value in optimizer.state.get(parameter, {}).values():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            value[rows] = 0
