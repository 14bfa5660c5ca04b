"""Which cells are occupied: a binary adaptive coder whose context is ten cells already seen.

In raster order (y, then x) every cell of the grid is one bit. Its context is the occupancy of ten causal neighbours,

        . x x x .        dy = -2, dx = -1 .. 1
        x x x x x        dy = -1, dx = -2 .. 2
        x x o            dy =  0, dx = -2, -1

cells outside the grid counting as empty. Each of the 1,024 contexts keeps two counts, and codes by the
Krichevsky-Trofimov estimate p(1) = (2 n1 + 1) / (2 (n0 + n1) + 2): integers only. The encoder and the decoder count
alike, so nothing but the bits is sent. `ideal_bytes` is the length this model promises, without a coder.
"""

# H, W cells; P occupied ones.

from math import lgamma, log

import numpy as np

from .errors import CorruptStreamError
from .range_coder import MAX_TOTAL, capacity, cells_in, cells_out, used_up

NEIGHBOURS = ((0, -2), (0, -1), (-1, -2), (-1, -1), (-1, 0), (-1, 1), (-1, 2), (-2, -1), (-2, 0), (-2, 1))  # (dy, dx)
MAX_CELLS = (MAX_TOTAL - 2) // 2  # a context's total of counts must fit the coder


def encode_occupancy(occupied: np.ndarray) -> bytes:
    """The map (H, W) bool as bytes; an empty map is a few bytes, too. ValueError beyond MAX_CELLS."""
    height, width = occupied.shape
    if height * width > MAX_CELLS:
        raise ValueError(f"a grid of {height} x {width} cells is beyond the coder's {MAX_CELLS:,}")
    out = np.zeros(capacity(height * width, 2 * height * width + 2), dtype=np.uint8)
    return out[: cells_out(_framed(occupied), out)].tobytes()


def decode_occupancy(data: bytes, height: int, width: int) -> np.ndarray:
    """The map (H, W) bool; any bytes decode to some map, CorruptStreamError when they are more than it needs."""
    raw = np.frombuffer(data, dtype=np.uint8)
    cells = np.zeros((height + 2, width + 4), dtype=np.int64)
    if not used_up(cells_in(raw, cells), raw):
        raise CorruptStreamError(f"an occupancy segment of {len(data)} bytes is longer than its map needs.")
    return cells[2:, 2:-2].astype(bool)


def _framed(occupied: np.ndarray) -> np.ndarray:
    """Two empty cells around, except below: (H + 2, W + 4) int64, as the coder's loops want it."""
    height, width = occupied.shape
    cells = np.zeros((height + 2, width + 4), dtype=np.int64)
    cells[2:, 2:-2] = occupied
    return cells


def ideal_bytes(occupied: np.ndarray) -> float:
    """Length of the map (H, W) under this model, from the final counts alone: -log2 of Gamma functions, no coder.

    A context that saw n0 empty and n1 occupied cells gave them the probability
    Gamma(n0 + 1/2) Gamma(n1 + 1/2) / (pi Gamma(n0 + n1 + 1)), whatever their order.
    """
    height, width = occupied.shape
    framed = _framed(occupied)
    contexts = np.zeros((height, width), dtype=np.int64)
    for dy, dx in NEIGHBOURS:
        contexts = contexts * 2 + framed[2 + dy : 2 + dy + height, 2 + dx : 2 + dx + width]
    ones = np.bincount(contexts[occupied.astype(bool)], minlength=1024)
    zeros = np.bincount(contexts.ravel(), minlength=1024) - ones
    nats = sum(lgamma(a + b + 1) + log(np.pi) - lgamma(a + 0.5) - lgamma(b + 0.5)
               for a, b in zip(zeros.tolist(), ones.tolist(), strict=True))  # fmt: skip
    return nats / log(2) / 8
