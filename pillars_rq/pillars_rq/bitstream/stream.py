"""A frame's codes and cells to bytes and back.

    data = compress(codes, coords, codec, n, k)          # (P, n) codes, (P, 2) cells y, x, in any order
    frame = decompress(data, codec)                      # the same codes and cells, in raster order
    features = codec.quantizer.decode(frame.codes)       # the same float32 on every machine

    shorter = truncate(data, 2)                          # the first two books' codes: cut, not encoded again
    frame = decompress(shorter, codec, n=2)

Codes stand book by book (all cells' first code, then all second ones, ..), one segment each, so that fewer books are a
shorter stream. Only asking for fewer books accepts a stream that has fewer than its header says. With `depths`, pillars
stop at books of their own (version 2; `rate` chooses them). Every refusal is a `StreamError`; nothing is decoded
before its checksum was verified, and nothing is allocated by a number of the header that was not checked.
"""

# P pillars, n books, k rows, H x W cells.

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..rq.codebooks import ABSENT, OperatingPointError
from .codec import Codec
from .depths import decode_depths, encode_depths
from .errors import CorruptStreamError, StreamError, TruncatedStreamError, WrongCodebookError, WrongGridError
from .header import DEEP, EVEN, MODES, Header, join_segments, read_header, split_segments
from .occupancy import decode_occupancy, encode_occupancy
from .symbols import decode_symbols, encode_symbols, pack_symbols, unpack_symbols


@dataclass(frozen=True)
class Frame:
    """A decoded frame in raster order: coords (P, 2) int64 y, x; codes (P, n) int64, ABSENT behind a pillar's depth."""

    coords: Tensor
    codes: Tensor
    n: int
    k: int


def compress(
    codes: Tensor,
    coords: Tensor,
    codec: Codec,
    n: int,
    k: int,
    *,
    depths: Tensor | None = None,
    mode: str = "range",
) -> bytes:
    """The stream of a frame; the order of its pillars does not matter.

    Args:
        codes: (P, >= n) int64 in [0, k); the first n are used.
        coords: (P, 2) int64 cells y, x, none twice.
        depths: (P,) int64, 1..n codes kept of each pillar; None: n of all.
        mode: "range" with the codec's tables, or "fixed" with ceil(log2 k) bits a code.

    Raises:
        OperatingPointError: the codec does not hold (n, k).
        StreamError: shapes, cells, codes or depths that no stream can hold.
    """
    identity = codec.identity(n, k)
    if mode not in MODES:
        raise StreamError(f"mode {mode!r} is not one of {MODES}.")
    _check_shapes(codes, coords, depths, n)
    cells, order = _raster(coords, codec)
    symbols = codes.cpu().numpy()[order, :n]
    if symbols.size and not 0 <= symbols.min() <= symbols.max() < k:
        raise StreamError(f"codes lie in {symbols.min()}..{symbols.max()}, books of size {k} have 0..{k - 1}.")
    segments = [encode_occupancy(_map_of(cells, codec))]
    kept = None if depths is None else depths.cpu().numpy()[order]
    if kept is not None:
        if len(kept) and not 1 <= kept.min() <= kept.max() <= n:
            raise StreamError(f"depths lie in {kept.min()}..{kept.max()}; a pillar has 1 to {n} codes.")
        segments.append(encode_depths(kept, n))
    for book in range(n):
        chosen = symbols[:, book] if kept is None else symbols[kept > book, book]
        segments.append(_encode_codes(chosen, book, k, codec, mode))
    header = Header(
        version=EVEN if kept is None else DEEP,
        n=n,
        k=k,
        height=codec.grid.height,
        width=codec.grid.width,
        pillars=len(cells),
        identity=identity,
        mode=mode,
        lengths=tuple(map(len, segments)),
    )
    return join_segments(header, segments)


def decompress(data: bytes, codec: Codec, n: int | None = None) -> Frame:
    """The frame of a stream, or its first n codes.

    Args:
        n: books to decode; None: the header's, and all of them must be there.

    Raises:
        StreamError: one of its kinds, see `errors`; nothing was decoded from data whose checksum did not match.
    """
    header = read_header(data)
    _check_header(header, codec, n)
    n = header.n if n is None else n
    occupancy, *others = split_segments(data, header, header.before_codes + n)
    occupied = decode_occupancy(occupancy, header.height, header.width)
    cells = np.flatnonzero(occupied)
    if len(cells) != header.pillars:
        raise CorruptStreamError(f"{len(cells)} cells are occupied, the header says {header.pillars}.")
    depths = np.full(len(cells), header.n)
    if header.version == DEEP:
        depths = decode_depths(others.pop(0), len(cells), header.n)
    codes = np.full((len(cells), n), ABSENT, dtype=np.int64)
    for book, segment in enumerate(others):
        chosen = depths > book
        codes[chosen, book] = _decode_codes(segment, int(chosen.sum()), book, header, codec)
    coords = np.stack(np.divmod(cells, header.width), 1)
    return Frame(torch.from_numpy(coords), torch.from_numpy(codes), n, header.k)


def truncate(data: bytes, n: int) -> bytes:
    """The stream with the codes of its first n books only: cut behind a segment, nothing is decoded or encoded.

    Raises StreamError when it has fewer.
    """
    header = read_header(data)
    if not 0 <= n <= header.n:
        raise StreamError(f"a stream of {header.n} books cannot be cut to {n}.")
    end = header.end(header.before_codes + n)
    if len(data) < end:
        raise TruncatedStreamError(f"the stream ends after {len(data)} bytes, {n} books need {end}; send it again.")
    return data[:end]


def _check_shapes(codes: Tensor, coords: Tensor, depths: Tensor | None, n: int) -> None:
    """`codes` and `coords` are of one frame."""
    wrong = codes.ndim != 2 or codes.shape[1] < n or coords.shape != (len(codes), 2)
    if wrong or codes.is_floating_point() or coords.is_floating_point():
        raise StreamError(
            f"a frame needs integer codes (P, {n} or more) and cells (P, 2), not {tuple(codes.shape)} and "
            f"{tuple(coords.shape)} of {codes.dtype} and {coords.dtype}."
        )
    if depths is not None and depths.shape != (len(codes),):
        raise StreamError(f"depths have shape {tuple(depths.shape)}, the frame has {len(codes)} pillars.")


def _raster(coords: Tensor, codec: Codec) -> tuple[np.ndarray, np.ndarray]:
    """Cell numbers y W + x in rising order, and the pillars' order that gives it."""
    y, x = coords.cpu().numpy().T
    height, width = codec.grid.height, codec.grid.width
    if len(y) and not (0 <= y.min() <= y.max() < height and 0 <= x.min() <= x.max() < width):
        raise StreamError(f"a pillar lies outside the grid of {height} x {width} cells (y x).")
    cells = y.astype(np.int64) * width + x
    order = np.argsort(cells, kind="stable")
    cells = cells[order]
    if (cells[1:] == cells[:-1]).any():
        raise StreamError("two pillars lie in the same cell; give each cell once.")
    return cells, order


def _map_of(cells: np.ndarray, codec: Codec) -> np.ndarray:
    occupied = np.zeros((codec.grid.height, codec.grid.width), dtype=bool)
    occupied.reshape(-1)[cells] = True
    return occupied


def _encode_codes(symbols: np.ndarray, book: int, k: int, codec: Codec, mode: str) -> bytes:
    return pack_symbols(symbols, k) if mode == "fixed" else encode_symbols(symbols, codec.tables.cdf(book, k))


def _decode_codes(segment: bytes, count: int, book: int, header: Header, codec: Codec) -> np.ndarray:
    if header.mode == "fixed":
        return unpack_symbols(segment, count, header.k)
    return decode_symbols(segment, count, codec.tables.cdf(book, header.k))


def _check_header(header: Header, codec: Codec, n: int | None) -> None:
    """The stream belongs to this codec, and n is one of its depths."""
    grid = codec.grid
    if (header.height, header.width) != (grid.height, grid.width):
        raise WrongGridError(
            f"the stream's grid is {header.height} x {header.width} cells (y x), this checkpoint's {grid.height} x "
            f"{grid.width}: use the same checkpoint at both ends."
        )
    if header.pillars > grid.cells:
        raise CorruptStreamError(f"{header.pillars} pillars do not fit {grid.cells} cells.")
    try:
        known = codec.identity(header.n, header.k)
    except OperatingPointError as error:
        raise WrongCodebookError(f"the stream uses {header.n} books of size {header.k}: {error}") from error
    if header.identity != known:
        raise WrongCodebookError(
            f"the stream was made with other books or tables ({header.identity.hex()}, here {known.hex()}): use the "
            "same checkpoint at both ends."
        )
    if n is not None and not 0 <= n <= header.n:
        raise StreamError(f"the stream has {header.n} books; {n} cannot be decoded from it.")
