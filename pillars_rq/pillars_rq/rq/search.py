"""Which rows of the books stand for a vector: the nearest row book by book, or a beam of partial sums.

    i_j = argmin_c |r_{j-1} - C_j[c]|^2,   r_j = r_{j-1} - C_j[i_j],   r_0 = x                     (greedy)

A beam keeps the b best partial sums instead of one. It costs the encoder b times as much and changes nothing else: its
codes are decoded like any others. The first m codes of a beam of depth n are valid but not the best m, and more codes
lower the error on average, not for every pillar.

Distances of a whole frame to 256 rows would fill memory for nothing, so vectors pass in chunks. Ties, and sums that
differ in the last bit between machines, may give different codes; no decoder ever searches.
"""

# P vectors, D channels, K rows of a book, n books, b beam width.

from collections.abc import Sequence

import torch
from torch import Tensor

CHUNK_VALUES = 1 << 20  # distances held at once: 4 MiB of float32


def nearest_rows(vectors: Tensor, rows: Tensor, chunk_values: int = CHUNK_VALUES) -> Tensor:
    """Index of the nearest row for every vector: (P, D), (K, D) float -> (P,) int64; ties go to the lower index."""
    half_norms = rows.square().sum(1) / 2
    step = max(1, chunk_values // len(rows))
    found = [(half_norms - part @ rows.T).argmin(1) for part in vectors.split(step)]  # |r - c|^2 / 2 less |r|^2 / 2
    return torch.cat(found)


@torch.no_grad()
def greedy_codes(vectors: Tensor, books: Sequence[Tensor]) -> Tensor:
    """Book by book the nearest row to what is left: (P, D) -> (P, n) int64."""
    residual, codes = vectors, []
    for rows in books:
        chosen = nearest_rows(residual, rows)
        residual = residual - rows[chosen]
        codes.append(chosen)
    return torch.stack(codes, 1)


@torch.no_grad()
def beam_codes(vectors: Tensor, books: Sequence[Tensor], beam: int) -> Tensor:
    """The codes of the best of `beam` partial sums: (P, D) -> (P, n) int64; beam 1 is the greedy choice."""
    step = max(1, CHUNK_VALUES // (beam * max(len(rows) for rows in books)))
    found = [_beam_of_chunk(part, books, beam) for part in vectors.split(step)]
    return torch.cat(found)


def _beam_of_chunk(vectors: Tensor, books: Sequence[Tensor], beam: int) -> Tensor:
    residual = vectors[:, None]  # (P, b, D), b = 1 to begin with
    codes = torch.zeros((len(vectors), 1, 0), dtype=torch.int64, device=vectors.device)
    for rows in books:
        errors = residual.square().sum(2, keepdim=True) - 2 * residual @ rows.T + rows.square().sum(1)  # (P, b, K)
        kept = min(beam, errors.shape[1] * errors.shape[2])
        best = errors.flatten(1).topk(kept, dim=1, largest=False).indices
        parent, row = best // len(rows), best % len(rows)
        residual = _of_parent(residual, parent) - rows[row]
        codes = torch.cat([_of_parent(codes, parent), row[:, :, None]], 2)
    winner = residual.square().sum(2).argmin(1)
    return codes[torch.arange(len(codes), device=codes.device), winner]


def _of_parent(values: Tensor, parent: Tensor) -> Tensor:
    """(P, b, C) values, (P, b') indices into b -> (P, b', C)."""
    return values.gather(1, parent[:, :, None].expand(-1, -1, values.shape[2]))
