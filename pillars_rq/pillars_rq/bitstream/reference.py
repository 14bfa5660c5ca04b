"""The coder again, in plain Python on integers of any size: the twin that the compiled one is held to, byte for byte.

Nothing is shifted out and no carry runs: the whole code is one number that grows at its low end. This is the definition
to read; it takes seconds for a frame.
"""

# P symbols, k of an alphabet, H, W cells, n books.

from collections.abc import Iterator, Sequence

from .occupancy import NEIGHBOURS


class Writer:
    """Collects symbols as one interval [low, low + range) of a number with 4 + `shifts` bytes."""

    def __init__(self) -> None:
        self.low, self.range, self.shifts = 0, 2**32 - 1, 0

    def put(self, start: int, freq: int, total: int) -> None:
        r = self.range // total
        self.low += r * start
        self.range = r * freq if start + freq < total else self.range - r * start
        while self.range < 2**24:
            self.low, self.range, self.shifts = self.low << 8, self.range << 8, self.shifts + 1

    def done(self) -> bytes:
        high, bits = self.low + self.range - 1, 0
        while bits < 32 and high >> (bits + 1) << (bits + 1) >= self.low:
            bits += 1
        return (high >> bits << bits).to_bytes(4 + self.shifts, "big").rstrip(b"\0")


class Reader:
    """Gives symbols back: `aim` says where in [0, total) the next one lies, `take` narrows to it."""

    def __init__(self, data: bytes) -> None:
        self.data, self.read, self.range, self.code = data, 0, 2**32 - 1, 0
        for _ in range(4):
            self._shift_in()

    def _shift_in(self) -> None:
        byte = self.data[self.read] if self.read < len(self.data) else 0
        self.code, self.read = self.code << 8 | byte, self.read + 1

    def aim(self, total: int) -> int:
        return min(self.code // (self.range // total), total - 1)

    def take(self, start: int, freq: int, total: int) -> None:
        r = self.range // total
        self.code -= r * start
        self.range = r * freq if start + freq < total else self.range - r * start
        while self.range < 2**24:
            self.range <<= 8
            self._shift_in()
        self.code %= 2**32


def encode_symbols(symbols: Sequence[int], cdf: Sequence[int]) -> bytes:
    writer = Writer()
    for s in symbols:
        writer.put(cdf[s], cdf[s + 1] - cdf[s], cdf[-1])
    return writer.done()


def decode_symbols(data: bytes, count: int, cdf: Sequence[int]) -> list[int]:
    reader, symbols = Reader(data), []
    for _ in range(count):
        value = reader.aim(cdf[-1])
        s = next(i for i in range(len(cdf) - 1) if value < cdf[i + 1])
        reader.take(cdf[s], cdf[s + 1] - cdf[s], cdf[-1])
        symbols.append(s)
    return symbols


class Counts:
    """Krichevsky-Trofimov counts by context: for each, how often 0 and 1 were seen."""

    def __init__(self) -> None:
        self.seen: dict[object, list[int]] = {}

    def put(self, writer: Writer, context: object, bit: int) -> None:
        n = self.seen.setdefault(context, [0, 0])
        ones, total = 2 * n[1] + 1, 2 * sum(n) + 2
        writer.put(0 if bit else ones, ones if bit else total - ones, total)
        n[bit] += 1

    def take(self, reader: Reader, context: object) -> int:
        n = self.seen.setdefault(context, [0, 0])
        ones, total = 2 * n[1] + 1, 2 * sum(n) + 2
        bit = int(reader.aim(total) < ones)
        reader.take(0 if bit else ones, ones if bit else total - ones, total)
        n[bit] += 1
        return bit


def _cells(height: int, width: int) -> Iterator[tuple[int, int]]:
    return ((y, x) for y in range(height) for x in range(width))


def _context(occupied: set[tuple[int, int]], y: int, x: int) -> tuple[bool, ...]:
    return tuple((y + dy, x + dx) in occupied for dy, dx in NEIGHBOURS)


def encode_occupancy(occupied: set[tuple[int, int]], height: int, width: int) -> bytes:
    writer, counts = Writer(), Counts()
    for y, x in _cells(height, width):
        counts.put(writer, _context(occupied, y, x), int((y, x) in occupied))
    return writer.done()


def decode_occupancy(data: bytes, height: int, width: int) -> set[tuple[int, int]]:
    reader, counts, occupied = Reader(data), Counts(), set()
    for y, x in _cells(height, width):
        if counts.take(reader, _context(occupied, y, x)):
            occupied.add((y, x))
    return occupied


def encode_depths(depths: Sequence[int], n: int) -> bytes:
    writer, counts, before = Writer(), Counts(), 1
    for depth in depths:
        for level in range(1, min(depth + 1, n)):
            counts.put(writer, (level, before > level), int(depth > level))
        before = depth
    return writer.done()


def decode_depths(data: bytes, count: int, n: int) -> list[int]:
    reader, counts, before, depths = Reader(data), Counts(), 1, []
    for _ in range(count):
        depth = 1
        while depth < n and counts.take(reader, (depth, before > depth)):
            depth += 1
        before = depth
        depths.append(depth)
    return depths
