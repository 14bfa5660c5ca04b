"""Warm-up of new rows by moving averages: mini-batch k-means, which needs no detector.

    N <- d N + (1 - d) count,   S <- d S + (1 - d) sum,   C = S / laplace(N),   d = 0.99, eps = 1e-5      (RQ-VAE)

count and sum run over the residual vectors whose nearest row, among *all* rows of the book, is this one; only the new
rows move. Unlike the original, N starts at 1 with S = C, so that the first batch blends into the drawn rows instead of
blowing them up.
"""

# P vectors, D channels, R new rows.

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .codebooks import ResidualQuantizer
from .search import nearest_rows

EPS = 1e-5


def _alone(value: Tensor) -> Tensor:
    return value


class EmaWarmup(nn.Module):
    """Moving counts (R,) and sums (R, D) of a growing book's new rows; its state belongs into the checkpoint.

    Raises ValueError when the book does not grow, or decay is not in (0, 1).
    """

    def __init__(self, quantizer: ResidualQuantizer, book: int, decay: float = 0.99):
        super().__init__()
        if str(book) not in quantizer.fresh or not 0 < decay < 1:
            raise ValueError(f"warm-up needs a growing book and a decay between 0 and 1: book {book + 1}, {decay}")
        self.book, self.decay = book, decay
        rows = quantizer.fresh[str(book)].detach()
        self.register_buffer("counts", torch.ones(len(rows), device=rows.device))
        self.register_buffer("sums", rows.clone())

    @torch.no_grad()
    def step(
        self, quantizer: ResidualQuantizer, residuals: Tensor, over_processes: Callable[[Tensor], Tensor] = _alone
    ) -> Tensor:
        """One update of the new rows from residual vectors (P, D), P = 0 allowed; hits of *all* rows, (K,) int64.

        Args:
            over_processes: elementwise sum over a run's processes (`World.sum`); they then agree on the rows.
        """
        hits, sums = hits_and_sums(residuals, quantizer.rows(self.book), quantizer.nearest(residuals, self.book))
        hits, sums = over_processes(hits), over_processes(sums)
        fresh = quantizer.fresh[str(self.book)]
        new = slice(len(hits) - len(fresh), None)
        self.counts.mul_(self.decay).add_(hits[new], alpha=1 - self.decay)
        self.sums.mul_(self.decay).add_(sums[new], alpha=1 - self.decay)
        fresh.copy_(self.sums / self._smoothed()[:, None])
        return hits.long()

    @torch.no_grad()
    def reset(self, quantizer: ResidualQuantizer, rows: Tensor) -> None:
        """Start the averages of some new rows (indices into the new ones) again from where the rows are now."""
        self.counts[rows] = 1
        self.sums[rows] = quantizer.fresh[str(self.book)].detach()[rows]

    def _smoothed(self) -> Tensor:
        """Counts that are never 0 and keep their total (Laplace)."""
        total = self.counts.sum()
        return (self.counts + EPS) / (total + len(self.counts) * EPS) * total


def hits_and_sums(vectors: Tensor, rows: Tensor, nearest: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How many vectors each row is nearest to, (K,), and their sums, (K, D); nearest (P,): the rows, None: by the plain
    distance."""
    nearest = nearest_rows(vectors, rows) if nearest is None else nearest
    hits = torch.bincount(nearest, minlength=len(rows)).to(rows.dtype)
    return hits, torch.zeros_like(rows).index_add_(0, nearest, vectors)
