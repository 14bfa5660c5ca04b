"""A range coder over integers: symbols with integer frequencies become bytes, and come back.

The state is an interval [low, low + span) of 32-bit numbers. A symbol that owns [start, start + freq) of `total`
narrows it:

    r = span // total;  low += r * start;  span = r * freq      (the last symbol of the alphabet gets the remainder)

and whenever span < 2^24 the top byte is settled and shifted out, with a carry that may still run through bytes equal
to 0xFF (they wait as a count). `finish` writes the number of the interval with the most trailing zeros and leaves
trailing zero bytes out; the decoder reads zeros past the end. No float is involved anywhere, so every machine agrees.
Cost: at most `total / 2^24` of the interval is lost per symbol, so totals stay below 2^24.

Everything that numba compiles is in this file, the loops of `occupancy`, `depths` and `symbols` too: numba's cache on
disk sees that a function's own file has changed, not the file of a function that it calls. What changes with every
symbol (low, span; code, span, read) is passed and returned rather than kept in an array: it stays in registers, which
is several times faster (`benchmarks/bitstream.py` times it). `reference` says the same in plain Python, byte for byte.
"""

# All numbers are int64: numba would turn mixed signed and unsigned arithmetic into floats.
# P symbols or pillars, H, W cells, n books.

import numpy as np
from numba import njit

TOP = 1 << 24  # span is kept at or above
FULL = (1 << 32) - 1
MAX_TOTAL = TOP - 1

CACHE, WAITING, POSITION = 0, 1, 2  # of the bytes on their way out: the last one held back, how many 0xFF, where to

compiled = njit(cache=True, boundscheck=False, error_model="numpy")  # nothing here divides by zero


# ---------------------------------------------------------------- encoder


@compiled
def _new_tail() -> np.ndarray:
    tail = np.zeros(3, dtype=np.int64)
    tail[POSITION] = -1  # the first byte out is always 0 and is not written
    return tail


@compiled
def _narrowed(low: int, span: int, start: int, freq: int, total: int) -> tuple[int, int]:
    """The part of the interval that a symbol owns."""
    r = span // total
    return low + r * start, (r * freq if start + freq < total else span - r * start)


@compiled
def _settled(low: int, span: int, tail: np.ndarray, out: np.ndarray) -> tuple[int, int]:
    """Shift bytes out until span is large again; `out` must have room (`capacity`)."""
    while span < TOP:
        low, span = _shifted_out(low, tail, out), span << 8
    return low, span


@compiled
def _shifted_out(low: int, tail: np.ndarray, out: np.ndarray) -> int:
    if low < 0xFF000000 or low > FULL:  # no carry can come any more, or it is here
        carry = low >> 32
        _put(tail, out, tail[CACHE] + carry)
        for _ in range(tail[WAITING]):
            _put(tail, out, 0xFF + carry)
        tail[WAITING] = 0
        tail[CACHE] = (low >> 24) & 0xFF
    else:
        tail[WAITING] += 1
    return (low & 0x00FFFFFF) << 8


@compiled
def _put(tail: np.ndarray, out: np.ndarray, value: int) -> None:
    if tail[POSITION] >= 0:
        out[tail[POSITION]] = value & 0xFF
    tail[POSITION] += 1


@compiled
def _finish(low: int, span: int, tail: np.ndarray, out: np.ndarray) -> int:
    """Settle the interval; how many bytes of `out` are the code."""
    high, bits = low + span - 1, 0
    while bits < 33 and ((high >> (bits + 1)) << (bits + 1)) >= low:
        bits += 1
    low = (high >> bits) << bits
    for _ in range(5):
        low = _shifted_out(low, tail, out)
    size = tail[POSITION]
    while size > 0 and out[size - 1] == 0:
        size -= 1
    return size


def capacity(symbols: int, total: int) -> int:
    """Bytes that a code of so many symbols of that total can take at most, with room to finish."""
    return symbols * (int(total).bit_length() + 7) // 8 + symbols + 16


# ---------------------------------------------------------------- decoder


@compiled
def _refilled(code: int, span: int, read: int, data: np.ndarray) -> tuple[int, int, int]:
    """Shift bytes in until span is large again; `read` counts them, also those past the end."""
    while span < TOP:
        byte = np.int64(data[read]) if read < len(data) else np.int64(0)
        code, span, read = ((code << 8) | byte) & FULL, span << 8, read + 1
    return code, span, read


@compiled
def _started(data: np.ndarray) -> tuple[int, int, int]:
    code = np.int64(0)
    for read in range(4):
        code = (code << 8) | (np.int64(data[read]) if read < len(data) else np.int64(0))
    return code, np.int64(FULL), np.int64(4)


def used_up(read: int, data: np.ndarray) -> bool:
    """Whether a decoder that is done has read all its data, and the data holds nothing that the end leaves out."""
    return len(data) <= read and (len(data) == 0 or data[-1] != 0)


# ---------------------------------------------------------------- symbols of a static table


@compiled
def symbols_out(symbols: np.ndarray, cdf: np.ndarray, out: np.ndarray) -> int:
    """Codes (P,) by the table `cdf` (k + 1,) into `out`; the bytes used."""
    low, span, tail, total = np.int64(0), np.int64(FULL), _new_tail(), cdf[-1]
    for symbol in symbols:
        low, span = _narrowed(low, span, cdf[symbol], cdf[symbol + 1] - cdf[symbol], total)
        low, span = _settled(low, span, tail, out)
    return _finish(low, span, tail, out)


@compiled
def symbols_in(data: np.ndarray, cdf: np.ndarray, symbols: np.ndarray) -> int:
    """Fill `symbols` (P,); the bytes read."""
    (code, span, read), total = _started(data), cdf[-1]
    for index in range(len(symbols)):
        value = min(code // (span // total), total - 1)
        symbol = np.searchsorted(cdf, value, side="right") - 1
        start, span = _narrowed(0, span, cdf[symbol], cdf[symbol + 1] - cdf[symbol], total)
        code, span, read = _refilled(code - start, span, read, data)
        symbols[index] = symbol
    return read


# ---------------------------------------------------------------- bits of adaptive contexts
# By the Krichevsky-Trofimov estimate of a context's counts of zeros and ones, p(1) = (2 n1 + 1) / (2 (n0 + n1) + 2).
# A one owns the start of the interval; zeros are the rule, and as the last symbol get the remainder.


@compiled
def _bit_narrowed(low: int, span: int, bit: int, counts: np.ndarray, context: int) -> tuple[int, int]:
    zeros, ones = counts[context, 0], counts[context, 1]
    part = span // (2 * (zeros + ones) + 2) * (2 * ones + 1)
    if bit:
        counts[context, 1] = ones + 1
        return low, part
    counts[context, 0] = zeros + 1
    return low + part, span - part


@compiled
def _bit_taken(code: int, span: int, counts: np.ndarray, context: int) -> tuple[int, int, int]:
    zeros, ones = counts[context, 0], counts[context, 1]
    part = span // (2 * (zeros + ones) + 2) * (2 * ones + 1)
    if code < part:
        counts[context, 1] = ones + 1
        return 1, code, part
    counts[context, 0] = zeros + 1
    return 0, code - part, span - part


@compiled
def depths_out(depths: np.ndarray, n: int, out: np.ndarray) -> int:
    """Depths (P,) of 1..n into `out`; the bytes used."""
    low, span, tail = np.int64(0), np.int64(FULL), _new_tail()
    counts, before = np.zeros((2 * n, 2), dtype=np.int64), 1
    for depth in depths:
        for level in range(1, min(depth + 1, n)):
            context = 2 * level + (1 if before > level else 0)
            low, span = _bit_narrowed(low, span, 1 if depth > level else 0, counts, context)
            low, span = _settled(low, span, tail, out)
        before = depth
    return _finish(low, span, tail, out)


@compiled
def depths_in(data: np.ndarray, n: int, depths: np.ndarray) -> int:
    """Fill `depths` (P,); the bytes read."""
    code, span, read = _started(data)
    counts, before = np.zeros((2 * n, 2), dtype=np.int64), 1
    for index in range(len(depths)):
        depth, more = 1, 1
        while depth < n and more:
            context = 2 * depth + (1 if before > depth else 0)
            more, code, span = _bit_taken(code, span, counts, context)
            code, span, read = _refilled(code, span, read, data)
            depth += more
        depths[index] = before = depth
    return read


# A cell's neighbours slide with x in three shift registers: own (2 bits), above (5), top (3). `cells` (H + 2, W + 4)
# has two empty cells around, except below: cell y, x is cells[y + 2, x + 2].


@compiled
def cells_out(cells: np.ndarray, out: np.ndarray) -> int:
    """A framed map of 0 and 1 into `out`; the bytes used."""
    low, span, tail = np.int64(0), np.int64(FULL), _new_tail()
    counts = np.zeros((1024, 2), dtype=np.int64)
    for y in range(2, len(cells)):
        own, above, top = 0, (cells[y - 1, 2] << 1) | cells[y - 1, 3], cells[y - 2, 2]
        for x in range(2, cells.shape[1] - 2):
            above = ((above << 1) | cells[y - 1, x + 2]) & 31
            top = ((top << 1) | cells[y - 2, x + 1]) & 7
            bit = cells[y, x]
            low, span = _bit_narrowed(low, span, bit, counts, (own << 8) | (above << 3) | top)
            low, span = _settled(low, span, tail, out)
            own = ((own << 1) | bit) & 3
    return _finish(low, span, tail, out)


@compiled
def cells_in(data: np.ndarray, cells: np.ndarray) -> int:
    """Fill an empty framed map; the bytes read."""
    code, span, read = _started(data)
    counts = np.zeros((1024, 2), dtype=np.int64)
    for y in range(2, len(cells)):
        own, above, top = 0, (cells[y - 1, 2] << 1) | cells[y - 1, 3], cells[y - 2, 2]
        for x in range(2, cells.shape[1] - 2):
            above = ((above << 1) | cells[y - 1, x + 2]) & 31
            top = ((top << 1) | cells[y - 2, x + 1]) & 7
            bit, code, span = _bit_taken(code, span, counts, (own << 8) | (above << 3) | top)
            code, span, read = _refilled(code, span, read, data)
            cells[y, x] = bit
            own = ((own << 1) | bit) & 3
    return read
