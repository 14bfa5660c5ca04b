"""How many codes each pillar has (stream version 2): 1 to n, pillar by pillar in raster order.

A depth is sent as the answers to "more than 1?", "more than 2?", .. until the first no. The context of an answer is the
question and what the pillar before answered to it, since good and bad pillars come in runs.
"""

# P pillars, n books.

import numpy as np

from .errors import CorruptStreamError
from .range_coder import capacity, depths_in, depths_out, used_up


def encode_depths(depths: np.ndarray, n: int) -> bytes:
    """Depths (P,) of 1..n as bytes; ValueError for others."""
    depths = np.ascontiguousarray(depths, dtype=np.int64)
    if len(depths) and not 1 <= depths.min() <= depths.max() <= n:
        raise ValueError(f"depths lie in {depths.min()}..{depths.max()}, the stream has {n} books")
    answers = len(depths) * n
    out = np.zeros(capacity(answers, 2 * answers + 2), dtype=np.uint8)
    return out[: depths_out(depths, n, out)].tobytes()


def decode_depths(data: bytes, count: int, n: int) -> np.ndarray:
    """The `count` depths of a segment, int64; CorruptStreamError when it is longer than they need."""
    raw = np.frombuffer(data, dtype=np.uint8)
    depths = np.empty(count, dtype=np.int64)
    if not used_up(depths_in(raw, n, depths), raw):
        raise CorruptStreamError(f"a depth segment of {len(data)} bytes is longer than its {count} depths need.")
    return depths
