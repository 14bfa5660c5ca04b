"""Streams from outside (fault 18): every prefix and 10,000 mutations end in a clean refusal or a valid decode.

Half of the mutations get their checksums right again, so that they reach the decoders behind.
"""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from rq_samples import SMALL_GRID, cells_of, codec_of, features_like, trained

from pillars_rq.bitstream.errors import StreamError
from pillars_rq.bitstream.header import read_header
from pillars_rq.bitstream.stream import compress, decompress

MUTATIONS = 10_000


@pytest.fixture(scope="module")
def codec():
    return codec_of(trained())


@pytest.fixture(scope="module")
def streams(codec):
    """Both versions, both modes."""
    features, coords = features_like(40), cells_of(40)
    codes = codec.quantizer.encode(features, 3, 8)
    depths = codes[:, 0] % 3 + 1
    return [compress(codes, coords, codec, 3, 8, mode=mode, depths=kept)
            for mode in ("range", "fixed") for kept in (None, depths)]  # fmt: skip


def mutated(stream: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(stream)
    kind = rng.integers(5)
    at = int(rng.integers(len(data)))
    if kind == 0:
        data[at] ^= 1 << rng.integers(8)
    elif kind == 1:
        data[at : at + int(rng.integers(1, 9))] = rng.bytes(int(rng.integers(1, 9)))
    elif kind == 2:
        del data[at : at + int(rng.integers(1, 20))]
    elif kind == 3:
        data[at:at] = rng.bytes(int(rng.integers(1, 20)))
    else:
        data = data[:at] + data[int(rng.integers(len(data))) :]
    return bytes(data)


def signed(data: bytes) -> bytes:
    """The data with every checksum right, as far as its own lengths lead."""
    data = bytearray(data)
    if len(data) < 25 or not 1 <= data[4] <= 2:
        return bytes(data)
    count, size = data[4] + data[5], 25 + 4 * (data[4] + data[5])
    if len(data) < size + 4:
        return bytes(data)
    data[size : size + 4] = struct.pack("<I", zlib.crc32(data[:size]))
    start = size + 4
    for length in struct.unpack_from(f"<{count}I", data, 25):
        if start + length + 4 > len(data):
            break
        data[start + length : start + length + 4] = struct.pack("<I", zlib.crc32(data[start : start + length]))
        start += length + 4
    return bytes(data)


def outcome(data: bytes, codec) -> str:
    try:
        frame = decompress(data, codec)
    except StreamError as error:
        assert str(error)
        return type(error).__name__
    cells = frame.coords[:, 0] * SMALL_GRID.width + frame.coords[:, 1]
    assert len(cells) <= SMALL_GRID.cells and (cells.diff() > 0).all()
    assert codec.quantizer.decode(frame.codes).isfinite().all()
    return "valid"


@pytest.mark.fault(18)
def test_every_prefix(codec, streams):
    for stream in streams:
        assert all(outcome(stream[:end], codec) != "valid" for end in range(len(stream)))


@pytest.mark.fault(18)
def test_mutations(codec, streams):
    """Bounded memory: whatever a header claims, a decode stays below a small multiple of the grid's own size."""
    rng, outcomes = np.random.default_rng(0), {}
    tracemalloc.start()
    for number in range(MUTATIONS):
        data = mutated(streams[number % len(streams)], rng)
        found = outcome(signed(data) if number % 2 else data, codec)
        outcomes[found] = outcomes.get(found, 0) + 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(outcomes, f"peak {peak:,} bytes")
    assert sum(outcomes.values()) == MUTATIONS and len(outcomes) >= 5
    assert outcomes["valid"] > 100  # the signed ones do reach the decoders
    assert peak < 100 * SMALL_GRID.cells * 8


@pytest.mark.fault(18)
def test_unsigned_mutations_are_never_valid(codec, streams):
    rng = np.random.default_rng(1)
    for number in range(1000):
        data = mutated(stream := streams[number % len(streams)], rng)
        assert data == stream or outcome(data, codec) != "valid"


@pytest.mark.fault(18)
def test_headers_that_claim_gigabytes_allocate_nothing(codec, streams):
    header = read_header(streams[0])
    claims = bytearray(streams[0])
    for segment in range(len(header.lengths)):
        struct.pack_into("<I", claims, 25 + 4 * segment, 0xFFFFFFFF)
    tracemalloc.start()
    with pytest.raises(StreamError):
        decompress(signed(bytes(claims)), codec)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


@pytest.mark.fault(18)
def test_random_bytes(codec):
    rng = np.random.default_rng(2)
    for _ in range(500):
        assert outcome(b"PPRQ" * int(rng.integers(2)) + rng.bytes(int(rng.integers(200))), codec) != "valid"


def test_threads_share_a_codec(codec, streams):
    """A server's workers decode at once: same answers as one after the other."""
    from concurrent.futures import ThreadPoolExecutor

    alone = [decompress(stream, codec).codes for stream in streams]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda stream: decompress(stream, codec).codes, streams * 10))
    assert all(torch.equal(one, alone[index % len(alone)]) for index, one in enumerate(together))
