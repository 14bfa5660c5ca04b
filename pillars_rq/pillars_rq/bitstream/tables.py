"""Integer tables for the codes: one for each book and size, made once from training counts, kept in the checkpoint.

A table is k frequencies, each at least 1, with the sum 2^16. Both ends of a stream read the same integers; no float is
ever asked for the width of a symbol. For 5 books at 16, 32, 64, 128 and 256 there are 25 tables of 2,480 entries.
"""

# n books, k rows, P pillars.

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from shared.errors import CheckpointError

TOTAL = 1 << 16


def table_of(counts: np.ndarray) -> np.ndarray:
    """Frequencies (k,) int64 close to the counts (k,), each >= 1, that add up to TOTAL; none seen: all alike.

    Every symbol gets 1 and its share, rounded down, of the rest; what is left goes to the largest remainders, the lower
    index first. Exact integer arithmetic. ValueError for negative counts or more than TOTAL symbols.
    """
    counts = np.asarray(counts, dtype=np.int64)
    if counts.ndim != 1 or not 1 <= len(counts) <= TOTAL or (counts < 0).any():
        raise ValueError(f"a table needs 1 to {TOTAL} counts, none negative")
    if not counts.any():
        counts = np.ones_like(counts)
    whole, spare = int(counts.sum()), TOTAL - len(counts)
    shares = [divmod(int(count) * spare, whole) for count in counts]
    frequencies = np.array([1 + share for share, _ in shares], dtype=np.int64)
    by_remainder = sorted(range(len(counts)), key=lambda index: (-shares[index][1], index))
    frequencies[by_remainder[: TOTAL - int(frequencies.sum())]] += 1
    return frequencies


def cdf_of(frequencies: np.ndarray) -> np.ndarray:
    """(k,) -> (k + 1,) int64 from 0 to TOTAL."""
    return np.concatenate([[0], np.cumsum(frequencies)]).astype(np.int64)


class Tables:
    """Frequencies by (book, k); immutable."""

    def __init__(self, frequencies: Mapping[tuple[int, int], np.ndarray]):
        """frequencies: (book from 0, k) -> (k,) integers >= 1 with the sum TOTAL; ValueError for others."""
        self._frequencies: dict[tuple[int, int], np.ndarray] = {}
        for (book, k), values in frequencies.items():
            values = np.ascontiguousarray(values, dtype=np.int64)
            if values.shape != (k,) or (values < 1).any() or values.sum() != TOTAL:
                raise ValueError(f"the table of book {book + 1} at size {k} is not {k} frequencies with sum {TOTAL}")
            self._frequencies[book, k] = values
        self._cdfs = {key: cdf_of(values) for key, values in self._frequencies.items()}

    @classmethod
    def counted(cls, points: Sequence[tuple[int, int]], codes_at: Callable[[int, int], Tensor]) -> "Tables":
        """Tables for every (n, k) of `points` (as `ResidualQuantizer.points` gives them).

        Args:
            codes_at: (n, k) -> codes (P, n) of training pillars; asked once for each k, with the most books.
        """
        frequencies = {}
        for k in sorted({k for _, k in points}):
            deepest = max(n for n, size in points if size == k)
            codes = codes_at(deepest, k)
            for book in range(deepest):
                frequencies[book, k] = table_of(torch.bincount(codes[:, book].cpu(), minlength=k).numpy())
        return cls(frequencies)

    def cdf(self, book: int, k: int) -> np.ndarray:
        """(k + 1,) int64; KeyError when there is none."""
        return self._cdfs[book, k]

    def frequencies(self, book: int, k: int) -> np.ndarray:
        return self._frequencies[book, k]

    def __contains__(self, key: tuple[int, int]) -> bool:
        return key in self._frequencies

    def state(self) -> list[list]:
        """Plain Python and tensors for a checkpoint: [[book, k, (k,) int32], ..]."""
        return [[book, k, torch.from_numpy(values).to(torch.int32)]
                for (book, k), values in sorted(self._frequencies.items())]  # fmt: skip

    @classmethod
    def from_state(cls, state: list[list], source: str = "the checkpoint") -> "Tables":
        """The tables of `state`; CheckpointError, naming `source`, when they are not."""
        try:
            return cls({(int(book), int(k)): values.numpy() for book, k, values in state})
        except (TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"{source} holds no usable code tables ({error}); give a checkpoint that train_eval_rq.py wrote."
            ) from error
