"""What residual quantization has to beat: simpler ways to send the same frame, behind one interface.

    data = baseline.encode(frame)        bytes, as they would go over the wire
    baseline.decode(data)                features on their cells, or points

Feature baselines send the occupied cells with the same context coder as RQ. `QuantizedCloud` sends the input instead:
points on a lattice, deltas in the sensor's order, LZMA; the receiver then runs the whole detector. Literature's
6 bit/point is quoted beside it, never measured here.
"""

# N points, P pillars, D channels, C PCA components.

import lzma
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from .bitstream.errors import CorruptStreamError, TruncatedStreamError
from .bitstream.occupancy import decode_occupancy, encode_occupancy
from .bitstream.symbols import decode_symbols, encode_symbols
from .bitstream.tables import cdf_of, table_of
from .grid import Grid

RAW = [{"id": lzma.FILTER_LZMA2, "preset": 9}]  # without a container: frames are small
WIDTH = struct.Struct("<H")  # D: a frame without pillars does not say it otherwise
CITED_BITS_PER_POINT = 6.0  # "harmless" for four detectors, EURASIP JIVP s13640-024-00633-4; cited, not measured


@dataclass(frozen=True)
class SplitFrame:
    """A frame on both sides of the split: points (N, 4) float32 inside the grid's range, coords (P, 2) int64 y, x in
    raster order, features (P, D) float32."""

    points: np.ndarray
    coords: np.ndarray
    features: np.ndarray


@dataclass(frozen=True)
class Sent:
    """What the receiver has: features on cells, or points; the others are None."""

    coords: np.ndarray | None = None
    features: np.ndarray | None = None
    points: np.ndarray | None = None


class Baseline(Protocol):
    """One way to send a frame."""

    name: str

    def encode(self, frame: SplitFrame) -> bytes: ...

    def decode(self, data: bytes) -> Sent: ...


def compression_ratios(sent_bytes: int, frame: SplitFrame, grid: Grid) -> dict[str, float]:
    """How many times smaller than each of the four bases: a ratio alone says nothing."""
    pillars, channels = frame.features.shape
    bases = {
        "dense_fp32_canvas": grid.cells * channels * 4,
        "sparse_fp16": pillars * channels * 2,
        "raw_cloud": len(frame.points) * 16,
        "cloud_6bit_cited": len(frame.points) * CITED_BITS_PER_POINT / 8,
    }
    return {name: size / sent_bytes for name, size in bases.items()}


# ---------------------------------------------------------------- features


@dataclass(frozen=True)
class RawFp16:
    """Cells, then D as u16 and the features as float16."""

    grid: Grid
    name: ClassVar[str] = "sparse fp16"

    def encode(self, frame: SplitFrame) -> bytes:
        width = WIDTH.pack(frame.features.shape[1])
        return _parts(_cells(frame.coords, self.grid), width + frame.features.astype("<f2").tobytes())

    def decode(self, data: bytes) -> Sent:
        cells, values = _split(data, 2)
        if len(values) < WIDTH.size:
            raise TruncatedStreamError(f"{len(values)} bytes end before the number of channels; send the frame again.")
        coords, channels = _coords(cells, self.grid), WIDTH.unpack_from(values)[0]
        return Sent(coords, _matrix(values[WIDTH.size :], "<f2", len(coords), channels).astype(np.float32))


@dataclass(frozen=True)
class Int8:
    """Cells, each channel's range as two float32, and 8 bits a value, channel by channel; with LZMA if asked."""

    grid: Grid
    squeezed: bool = False

    @property
    def name(self) -> str:
        return "int8 + lzma" if self.squeezed else "int8"

    def encode(self, frame: SplitFrame) -> bytes:
        features = frame.features
        low = features.min(0, initial=np.inf) if len(features) else np.zeros(features.shape[1])
        step = (features.max(0) - low) / 255 if len(features) else np.ones(features.shape[1])
        scale = np.stack([low, np.where(step > 0, step, 1)]).astype("<f4")
        levels = np.rint((features - scale[0]) / scale[1]).clip(0, 255).astype(np.uint8).T.tobytes()
        return _parts(_cells(frame.coords, self.grid), scale.tobytes(), _squeeze(levels) if self.squeezed else levels)

    def decode(self, data: bytes) -> Sent:
        cells, scale, levels = _split(data, 3)
        coords = _coords(cells, self.grid)
        low, step = _matrix(scale, "<f4", 2, len(scale) // 8)
        raw = _unsqueeze(levels, len(coords) * len(low)) if self.squeezed else levels
        return Sent(coords, _matrix(raw, "u1", len(low), len(coords)).T.astype(np.float32) * step + low)


class PcaScalar:
    """The first C principal components, each rounded to one step for all, range-coded with tables of the training data.

    Mean, directions and tables are the model's, as the books are RQ's, and are not sent.
    """

    def __init__(self, grid: Grid, features: np.ndarray, components: int, step: float):
        """Fit to training features (P, D), P >= 1; step: of the lattice, in the features' unit."""
        self.grid, self.step = grid, float(step)
        self.mean = features.mean(0)
        _, vectors = np.linalg.eigh(np.cov((features - self.mean).T.astype(np.float64)))
        self.basis = vectors[:, ::-1][:, :components].astype(np.float32)  # (D, C)
        levels = self._levels(features, None)
        self.low, self.high = levels.min(0), levels.max(0)
        self.cdfs = [cdf_of(table_of(np.bincount(column - low, minlength=high - low + 1)))
                     for column, low, high in zip(levels.T, self.low, self.high, strict=True)]  # fmt: skip

    @property
    def name(self) -> str:
        return f"PCA {self.basis.shape[1]} step {self.step:g}"

    def _levels(self, features: np.ndarray, limits: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
        levels = np.rint((features - self.mean) @ self.basis / self.step).astype(np.int64)
        return levels if limits is None else levels.clip(*limits)

    def encode(self, frame: SplitFrame) -> bytes:
        levels = self._levels(frame.features, (self.low, self.high)) - self.low
        columns = (encode_symbols(column, cdf) for column, cdf in zip(levels.T, self.cdfs, strict=True))
        return _parts(_cells(frame.coords, self.grid), *columns)

    def decode(self, data: bytes) -> Sent:
        cells, *columns = _split(data, 1 + len(self.cdfs))
        coords = _coords(cells, self.grid)
        symbols = [decode_symbols(part, len(coords), cdf) for part, cdf in zip(columns, self.cdfs, strict=True)]
        levels = np.stack(symbols, 1) + self.low
        return Sent(coords, (levels * self.step).astype(np.float32) @ self.basis.T + self.mean)


# ---------------------------------------------------------------- the cloud itself


@dataclass(frozen=True)
class QuantizedCloud:
    """The points: x, y, z on a lattice of `step_m` metres, reflectance (0..1) in 255 steps.

    Neighbours in the sensor's order are close in space, so differences in that order, byte planes apart, compress well.
    """

    grid: Grid
    step_m: float = 0.02

    @property
    def name(self) -> str:
        return f"cloud {100 * self.step_m:g} cm + lzma"

    def encode(self, frame: SplitFrame) -> bytes:
        low = np.array(self.grid.range_m[:3], dtype=np.float64)
        lattice = np.rint((frame.points[:, :3] - low) / self.step_m).astype(np.int64)
        deltas = np.diff(lattice, axis=0, prepend=np.zeros((1, 3), dtype=np.int64))
        folded = ((deltas << 1) ^ (deltas >> 63)).astype("<u4")  # small numbers of either sign become small ones
        planes = folded.T.copy().view(np.uint8).reshape(3, -1, 4).transpose(0, 2, 1)
        reflectance = np.rint(frame.points[:, 3].clip(0, 1) * 255).astype(np.uint8)
        return _parts(struct.pack("<I", len(lattice)), _squeeze(planes.tobytes()), _squeeze(reflectance.tobytes()))

    def decode(self, data: bytes) -> Sent:
        count, planes, reflectance = _split(data, 3)
        count = int(_matrix(count, "<u4", 1, 1)[0, 0])
        raw = np.frombuffer(_unsqueeze(planes, 12 * count), np.uint8).reshape(3, 4, count)
        folded = raw.transpose(0, 2, 1).copy().view("<u4")[..., 0].astype(np.int64)
        lattice = np.cumsum((folded >> 1) ^ -(folded & 1), axis=1).T
        points = np.empty((count, 4), dtype=np.float32)
        points[:, :3] = lattice * self.step_m + np.array(self.grid.range_m[:3])
        points[:, 3] = np.frombuffer(_unsqueeze(reflectance, count), np.uint8) / np.float32(255)
        return Sent(points=points)


# ---------------------------------------------------------------- bytes


def _cells(coords: np.ndarray, grid: Grid) -> bytes:
    occupied = np.zeros((grid.height, grid.width), dtype=bool)
    occupied[coords[:, 0], coords[:, 1]] = True
    return encode_occupancy(occupied)


def _coords(data: bytes, grid: Grid) -> np.ndarray:
    return np.argwhere(decode_occupancy(data, grid.height, grid.width))


def _matrix(data: bytes, dtype: str, rows: int, columns: int) -> np.ndarray:
    """(rows, columns) of exactly these bytes; CorruptStreamError when they are more or fewer."""
    needed = rows * columns * np.dtype(dtype).itemsize
    if len(data) != needed:
        raise CorruptStreamError(f"a part of {len(data)} bytes does not hold {rows} x {columns} values ({needed}).")
    return np.frombuffer(data, dtype).reshape(rows, columns)


def _parts(*parts: bytes) -> bytes:
    """Parts, each behind its length as u32; the last needs none."""
    return b"".join([*(struct.pack("<I", len(part)) + part for part in parts[:-1]), parts[-1]])


def _split(data: bytes, count: int) -> Sequence[bytes]:
    parts, start = [], 0
    for _ in range(count - 1):
        if len(data) < start + 4 or len(data) < (end := start + 4 + struct.unpack_from("<I", data, start)[0]):
            raise TruncatedStreamError(f"{len(data)} bytes end inside a part; send the frame again.")
        parts.append(data[start + 4 : end])
        start = end
    return [*parts, data[start:]]


def _squeeze(data: bytes) -> bytes:
    return lzma.compress(data, format=lzma.FORMAT_RAW, filters=RAW)


def _unsqueeze(data: bytes, size: int) -> bytes:
    """Exactly `size` bytes again; CorruptStreamError otherwise, and never more memory than that."""
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=RAW)
    try:
        raw = decompressor.decompress(data, max_length=size + 1)
    except lzma.LZMAError as error:
        raise CorruptStreamError(f"a compressed part cannot be read ({error}); send the frame again.") from error
    if len(raw) != size or not decompressor.eof or decompressor.unused_data:
        raise CorruptStreamError(f"a compressed part does not give {size} bytes and end; send the frame again.")
    return raw
