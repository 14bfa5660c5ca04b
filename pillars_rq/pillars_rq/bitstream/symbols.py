"""Codes with a static table: a book's codes of a frame as one segment, coded by range or in fixed-length bits."""

# P symbols, k of an alphabet.

import numpy as np

from .errors import CorruptStreamError
from .range_coder import capacity, symbols_in, symbols_out, used_up


def encode_symbols(symbols: np.ndarray, cdf: np.ndarray) -> bytes:
    """Range-coded symbols: (P,) ints in [0, k), cdf (k + 1,) int64 from 0 to the total, strictly rising."""
    symbols = np.ascontiguousarray(symbols, dtype=np.int64)
    if len(symbols) and not 0 <= symbols.min() <= symbols.max() < len(cdf) - 1:
        raise ValueError(f"symbols lie in {symbols.min()}..{symbols.max()}, the table has {len(cdf) - 1}")
    out = np.zeros(capacity(len(symbols), int(cdf[-1])), dtype=np.uint8)
    return out[: symbols_out(symbols, cdf, out)].tobytes()


def decode_symbols(data: bytes, count: int, cdf: np.ndarray) -> np.ndarray:
    """The `count` symbols of a segment, int64; CorruptStreamError when it is not exactly as long as they need."""
    raw = np.frombuffer(data, dtype=np.uint8)
    symbols = np.empty(count, dtype=np.int64)
    if not used_up(symbols_in(raw, cdf, symbols), raw):
        raise CorruptStreamError(f"a code segment of {len(data)} bytes is longer than its {count} codes need.")
    return symbols


def bits_per_symbol(k: int) -> int:
    """Fixed-length bits of one of k symbols."""
    return max(1, (k - 1).bit_length())


def pack_symbols(symbols: np.ndarray, k: int) -> bytes:
    """Fixed-length codes, most significant bit first, zero bits up to a whole byte."""
    width = bits_per_symbol(k)
    bits = (np.asarray(symbols, dtype=np.int64)[:, None] >> np.arange(width - 1, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8)).tobytes()


def unpack_symbols(data: bytes, count: int, k: int) -> np.ndarray:
    """The symbols of `pack_symbols`, int64; CorruptStreamError for a wrong length, padding or a symbol >= k."""
    width = bits_per_symbol(k)
    if len(data) != -(-count * width // 8):
        raise CorruptStreamError(f"{count} codes of {width} bits take {-(-count * width // 8)} bytes, not {len(data)}.")
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
    symbols = bits[: count * width].reshape(count, width).astype(np.int64) @ (1 << np.arange(width - 1, -1, -1))
    if bits[count * width :].any() or (count and symbols.max() >= k):
        raise CorruptStreamError(f"a fixed-length segment names a row beyond {k}, or its padding is not zero.")
    return symbols
