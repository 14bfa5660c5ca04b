"""The header of a stream, and its segments by position. Little-endian, checked before any segment is touched.

    offset  size  field
    0       4     magic "PPRQ"
    4       1     version: 1, or 2 with a depth segment
    5       1     n, books
    6       2     k, rows used of each
    8       2     H, cells along y
    10      2     W, cells along x
    12      4     P, occupied cells
    16      8     identity of books and tables (`Codec.identity`)
    24      1     mode: 0 fixed-length codes, 1 range-coded
    25      4 S   length in bytes of each of the S segments, without their checksums
    25+4S   4     CRC32 of everything before

S = 1 + n (version 1: occupancy, codes of book 1, .., codes of book n) or 2 + n (version 2: occupancy, depths, codes).
Behind the header each segment is followed by its own CRC32, so a stream may be cut behind any of them.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import CorruptStreamError, NotAStreamError, TruncatedStreamError

MAGIC = b"PPRQ"
FIXED = struct.Struct("<4sBBHHHI8sB")
CRC = struct.Struct("<I")
EVEN, DEEP = 1, 2  # versions: one depth for all pillars, or one for each
MODES = ("fixed", "range")


@dataclass(frozen=True)
class Header:
    """What a stream says about itself; `lengths` are bytes of the segments."""

    version: int
    n: int
    k: int
    height: int
    width: int
    pillars: int
    identity: bytes
    mode: str
    lengths: tuple[int, ...]

    @property
    def before_codes(self) -> int:
        """Segments before the first book's codes: occupancy, and depths in version 2."""
        return self.version

    @property
    def size(self) -> int:
        """Bytes of the header."""
        return FIXED.size + 4 * len(self.lengths) + CRC.size

    def end(self, segments: int) -> int:
        """Bytes of a stream with the header and the first `segments` segments."""
        return self.size + sum(self.lengths[:segments]) + CRC.size * segments

    def pack(self) -> bytes:
        mode = MODES.index(self.mode)
        fields = (self.version, self.n, self.k, self.height, self.width, self.pillars, self.identity, mode)
        data = FIXED.pack(MAGIC, *fields) + struct.pack(f"<{len(self.lengths)}I", *self.lengths)
        return data + CRC.pack(zlib.crc32(data))


def read_header(data: bytes) -> Header:
    """The header at the start of `data`.

    Raises:
        NotAStreamError: other magic, version or mode, or n, k, H, W of 0.
        TruncatedStreamError: the bytes end inside it. CorruptStreamError: its checksum does not match.
    """
    if data[:4] != MAGIC[: len(data)] or not data:
        raise NotAStreamError(
            f"the data begin with {data[:4]!r}, a stream with {MAGIC!r}: send the bytes of compress()."
        )
    if len(data) < FIXED.size:
        raise _cut(len(data), FIXED.size)
    _, version, n, k, height, width, pillars, identity, mode = FIXED.unpack_from(data)
    if version not in (EVEN, DEEP) or mode >= len(MODES) or 0 in (n, k, height, width):
        raise NotAStreamError(
            f"a stream of version {version}, mode {mode}, n {n}, k {k}, grid {height} x {width} cannot be read: "
            "versions 1 and 2, modes 0 and 1 are known, and nothing may be 0; update the receiver, or send again."
        )
    size = FIXED.size + 4 * (version + n)
    if len(data) < size + CRC.size:
        raise _cut(len(data), size + CRC.size)
    if CRC.unpack_from(data, size)[0] != zlib.crc32(data[:size]):
        raise CorruptStreamError("the header's checksum does not match: bytes were changed on the way; send again.")
    lengths = struct.unpack_from(f"<{version + n}I", data, FIXED.size)
    return Header(version, n, k, height, width, pillars, identity, MODES[mode], lengths)


def join_segments(header: Header, segments: Sequence[bytes]) -> bytes:
    """The stream: header, then each segment with its checksum."""
    return b"".join([header.pack(), *(segment + CRC.pack(zlib.crc32(segment)) for segment in segments)])


def split_segments(data: bytes, header: Header, count: int) -> list[bytes]:
    """The first `count` segments, every one of their checksums verified before any is returned.

    Raises:
        TruncatedStreamError: they are not all there, or the data end within a later one.
        CorruptStreamError: a checksum does not match, or bytes follow the last segment.
    """
    if len(data) < header.end(count):
        raise _cut(len(data), header.end(count))
    if len(data) not in [header.end(whole) for whole in range(count, len(header.lengths) + 1)]:
        if len(data) > header.end(len(header.lengths)):
            raise CorruptStreamError(f"{len(data)} bytes, the stream ends after {header.end(len(header.lengths))}.")
        raise TruncatedStreamError(f"the stream of {len(data)} bytes is cut inside a segment; cut between two.")
    view, segments, start = memoryview(data), [], header.size
    for number, length in enumerate(header.lengths):
        if start >= len(data):
            break
        segment = view[start : start + length]
        if CRC.unpack_from(data, start + length)[0] != zlib.crc32(segment):
            raise CorruptStreamError(f"the checksum of segment {number + 1} does not match; send the frame again.")
        segments.append(bytes(segment))
        start += length + CRC.size
    return segments[:count]


def _cut(there: int, needed: int) -> TruncatedStreamError:
    return TruncatedStreamError(f"the stream ends after {there} bytes, at least {needed} are needed; send it again.")
