"""Books fitted to distortion alone, by Lloyd's algorithm: no detector, seconds on a CPU.

`fit_dedicated` fits books for one size, the yardstick of the nested ones. `fit_nested` fits books
whose every prefix serves, growing along the schedule behind residuals of random sizes. Both start from data and seed
dead rows again; the nested rows of smaller sizes stay where they are.
"""

# P vectors, D channels, K rows, n books.

from collections.abc import Sequence

import torch
from torch import Tensor

from .codebooks import ResidualQuantizer
from .ema import hits_and_sums
from .restart import restart_dead

PASSES = 15


def fit_dedicated(
    features: Tensor, n: int, k: int, generator: torch.Generator, passes: int = PASSES
) -> ResidualQuantizer:
    """n books of k rows for this one operating point: features (P, D) of occupied cells."""
    return fit_nested(features, n, (k,), generator, passes)


def fit_nested(
    features: Tensor,
    n: int,
    schedule: Sequence[int],
    generator: torch.Generator,
    passes: int = PASSES,
    random_k: bool = True,
) -> ResidualQuantizer:
    """n books that serve every size of the schedule.

    Args:
        random_k: residuals behind prefixes drawn for every vector; False: behind the whole earlier books, which is
            better at the largest size and worse at the others.
    """
    quantizer = ResidualQuantizer(n, schedule, features.shape[1])
    for book in range(n):
        for k in schedule:
            sizes = quantizer.draw_sizes(len(features), generator) if random_k else int(schedule[-1])
            residuals = quantizer.residual(features, book, sizes)
            quantizer.grow(book, k, residuals, generator)
            lloyd(quantizer, book, residuals, generator, passes)
            quantizer.finish()
    return quantizer.eval()


@torch.no_grad()
def lloyd(
    quantizer: ResidualQuantizer, book: int, residuals: Tensor, generator: torch.Generator, passes: int = PASSES
) -> None:
    """Passes of assign-and-average over a growing book's new rows; dead rows start again, but not in the last pass."""
    fresh = quantizer.fresh[str(book)]
    for left in reversed(range(passes)):
        hits, sums = hits_and_sums(residuals, quantizer.rows(book), quantizer.nearest(residuals, book))
        own = slice(len(hits) - len(fresh), None)
        used = hits[own] > 0
        fresh[used] = (sums[own] / hits[own, None])[used]
        if left:
            restart_dead(quantizer, book, hits, residuals, generator)
