"""Streams: what goes in comes out, fewer segments are fewer books, and everything else is refused by name."""

import struct
import zlib

import numpy as np
import pytest
import torch
from rq_samples import DIM, SMALL_GRID, cells_of, codec_of, features_like, trained

from pillars_rq.bitstream.codec import Codec, codec_from, codec_state
from pillars_rq.bitstream.errors import (
    CorruptStreamError,
    NotAStreamError,
    StreamError,
    TruncatedStreamError,
    WrongCodebookError,
    WrongGridError,
)
from pillars_rq.bitstream.header import FIXED, read_header
from pillars_rq.bitstream.stream import compress, decompress, truncate
from pillars_rq.bitstream.tables import Tables
from pillars_rq.grid import Grid
from pillars_rq.network import scatter
from pillars_rq.rq.codebooks import ABSENT, OperatingPointError, ResidualQuantizer
from shared import checkpoint
from shared.errors import CheckpointError, UserError


@pytest.fixture(scope="module")
def codec():
    return codec_of(trained())


def frame_of(codec, count, n=3, k=8, seed=0):
    features, coords = features_like(count, seed), cells_of(count, seed)
    return codec.quantizer.encode(features, n, k), coords


def in_raster(codes, coords):
    order = torch.argsort(coords[:, 0] * SMALL_GRID.width + coords[:, 1])
    return codes[order], coords[order]


# ---------------------------------------------------------------- laws


@pytest.mark.parametrize("mode", ["range", "fixed"])
@pytest.mark.parametrize("count", [0, 1, 100, SMALL_GRID.cells])
def test_what_goes_in_comes_out(codec, count, mode):
    for n, k in ((1, 2), (3, 8)):
        codes, coords = frame_of(codec, count, n, k)
        frame = decompress(compress(codes, coords, codec, n, k, mode=mode), codec)
        expected_codes, expected_coords = in_raster(codes, coords)
        assert torch.equal(frame.codes, expected_codes) and torch.equal(frame.coords, expected_coords)
        assert (frame.n, frame.k, frame.codes.dtype) == (n, k, torch.int64)


def test_the_order_of_pillars_does_not_change_the_stream(codec):
    codes, coords = frame_of(codec, 200)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(7))
    depths = codes[:, 0] % 3 + 1
    for kept in (None, depths):
        shuffled = None if kept is None else kept[order]
        assert compress(codes[order], coords[order], codec, 3, 8, depths=shuffled) == compress(
            codes, coords, codec, 3, 8, depths=kept
        )


@pytest.mark.parametrize("mode", ["range", "fixed"])
def test_a_cut_stream_is_the_stream_of_fewer_books(codec, mode):
    codes, coords = frame_of(codec, 150)
    stream = compress(codes, coords, codec, 3, 8, mode=mode)
    features = codec.quantizer.decode(decompress(stream, codec).codes)
    assert features.dtype == torch.float32
    for n in range(4):
        cut = truncate(stream, n)
        frame = decompress(cut, codec, n)
        assert torch.equal(frame.codes, in_raster(codes, coords)[0][:, :n])
        assert torch.equal(decompress(stream, codec, n).codes, frame.codes)
        if n:
            short = compress(codes, coords, codec, n, 8, mode=mode)
            assert torch.equal(decompress(short, codec).codes, frame.codes)
        if n < 3:
            with pytest.raises(TruncatedStreamError):
                decompress(cut, codec)
            with pytest.raises(TruncatedStreamError):
                decompress(cut, codec, n + 1)
    assert truncate(stream, 3) == stream


@pytest.mark.parametrize("count", [0, 1, 150])
def test_depths_per_pillar(codec, count):
    codes, coords = frame_of(codec, count)
    depths = torch.randint(1, 4, (count,), generator=torch.Generator().manual_seed(1))
    stream = compress(codes, coords, codec, 3, 8, depths=depths)
    expected, _ = in_raster(torch.where(torch.arange(3) < depths[:, None], codes, ABSENT), coords)
    assert read_header(stream).version == 2
    for n in (3, 2, 1):
        assert torch.equal(decompress(truncate(stream, n), codec, n).codes, expected[:, :n])


def test_empty_cells_decode_to_exactly_zero(codec):
    codes, coords = frame_of(codec, 60)
    frame = decompress(compress(codes, coords, codec, 3, 8), codec)
    batched = torch.nn.functional.pad(frame.coords, (1, 0))
    canvas = scatter(codec.quantizer.decode(frame.codes), batched, 1, SMALL_GRID)
    occupied = torch.zeros(64, 64, dtype=torch.bool)
    occupied[coords[:, 0], coords[:, 1]] = True
    assert not canvas[0][:, ~occupied].any() and (canvas[0][:, occupied].abs().sum(0) > 0).all()


def test_the_overhead_over_the_ideal_is_bounded(codec):
    features, coords = features_like(4000), cells_of(4000)
    codes = codec.quantizer.encode(features, 3, 8)
    stream = compress(codes, coords, codec, 3, 8)
    header = read_header(stream)
    frequencies = [codec.tables.frequencies(book, 8) / 65536 for book in range(3)]
    ideal = sum(-np.log2(frequencies[book][codes[:, book]]).sum() / 8 for book in range(3))
    assert header.size == 25 + 4 * 4 + 4
    assert len(stream) == header.size + sum(header.lengths) + 4 * 4
    assert ideal <= sum(header.lengths[1:]) <= 1.005 * ideal + 3 * 4
    fixed = compress(codes, coords, codec, 3, 8, mode="fixed")
    assert read_header(fixed).lengths[1:] == (1500, 1500, 1500)


def test_a_stream_of_this_format_stays_readable():
    """Golden bytes of a codec made of integers: a change of the format needs a new version, not a new golden."""
    quantizer = ResidualQuantizer(2, (2, 4), 1)
    rows = torch.arange(8.0).reshape(2, 4, 1)
    quantizer.load_state_dict(quantizer.state_dict() | {"books": rows, "held": torch.tensor([4, 4])})
    tables = Tables.counted(quantizer.points(), lambda n, k: torch.arange(12).reshape(6, 2)[:, :n] % k)
    codec = Codec(quantizer, tables, SMALL_GRID)
    coords = torch.tensor([[0, 0], [5, 6], [5, 7], [63, 63]])
    codes = torch.tensor([[0, 1], [2, 3], [3, 2], [1, 0]])
    golden = GOLDEN_EVEN, GOLDEN_DEEP
    depths = torch.tensor([1, 2, 2, 1])
    found = [compress(codes, coords, codec, 2, 4), compress(codes, coords, codec, 2, 4, depths=depths)]
    assert [data.hex() for data in found] == list(golden)
    assert torch.equal(decompress(bytes.fromhex(GOLDEN_EVEN), codec).codes, codes)


GOLDEN_EVEN = (
    "50505251010204004000400004000000952eb57ec6680a2801080000000500000004000000e8aee19c7ffff981a5a351b001"
    "1235f57ffd200180f8ba42055ffffffdd6879a5c"
)
GOLDEN_DEEP = (
    "50505251020204004000400004000000952eb57ec6680a28010800000001000000050000000100000087b8c4727ffff981a5"
    "a351b0011235f58c86200c367ffd200180f8ba4205c03d2d6649"
)


# ---------------------------------------------------------------- refusals


@pytest.fixture(scope="module")
def stream(codec):
    return compress(*frame_of(codec, 80), codec, 3, 8)


def with_header(stream, **fields):
    """The stream with header fields changed and its header's checksum right again."""
    names = ("magic", "version", "n", "k", "height", "width", "pillars", "identity", "mode")
    values = dict(zip(names, FIXED.unpack_from(stream), strict=True)) | fields
    size = read_header(stream).size - 4
    head = FIXED.pack(*values.values()) + stream[FIXED.size : size]
    return head + struct.pack("<I", zlib.crc32(head)) + stream[size + 4 :]


@pytest.mark.fault(18)
def test_every_flipped_byte_is_refused(codec, stream):
    for position in range(len(stream)):
        damaged = bytearray(stream)
        damaged[position] ^= 0x40
        with pytest.raises(StreamError):
            decompress(bytes(damaged), codec)


@pytest.mark.fault(18)
def test_every_prefix_is_refused(codec, stream):
    for end in range(len(stream)):
        with pytest.raises(TruncatedStreamError if end else NotAStreamError):
            decompress(stream[:end], codec)


@pytest.mark.fault(18)
def test_a_cut_inside_a_segment_is_refused_even_when_fewer_books_are_asked_for(codec, stream):
    ends = [len(truncate(stream, n)) for n in (0, 1, 2, 3)]
    for end in range(ends[1] + 1, ends[3]):
        if end in ends:
            continue
        with pytest.raises(TruncatedStreamError, match="cut inside a segment"):
            decompress(stream[:end], codec, 1)


@pytest.mark.fault(18)
def test_a_damaged_later_book_is_refused_even_when_not_asked_for(codec, stream):
    damaged = bytearray(stream)
    damaged[-6] ^= 1
    with pytest.raises(CorruptStreamError, match="segment 4"):
        decompress(bytes(damaged), codec, 1)


@pytest.mark.fault(18)
@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"version": 3}, NotAStreamError, "version 3"),
        ({"mode": 2}, NotAStreamError, "mode 2"),
        ({"n": 0}, NotAStreamError, "n 0"),
        ({"k": 0}, NotAStreamError, "k 0"),
        ({"height": 72}, WrongGridError, "72 x 64"),
        ({"k": 4}, WrongCodebookError, "other books"),
        ({"k": 5}, WrongCodebookError, "hold"),
        ({"identity": b"12345678"}, WrongCodebookError, "3132"),
        ({"pillars": 4097}, CorruptStreamError, "do not fit"),
        ({"pillars": 79}, CorruptStreamError, "80 cells are occupied"),
        ({"magic": b"GIF8"}, NotAStreamError, "GIF8"),
    ],
)
def test_headers_that_lie(codec, stream, fields, error, words):
    with pytest.raises(error, match=words):
        decompress(with_header(stream, **fields), codec)


@pytest.mark.fault(18)
def test_bytes_behind_the_end_are_refused(codec, stream):
    with pytest.raises(CorruptStreamError, match="the stream ends after"):
        decompress(stream + b"\0", codec)


@pytest.mark.fault(18)
def test_another_codec_is_refused(codec, stream):
    with pytest.raises(WrongCodebookError):
        decompress(stream, codec_of(trained(seed=1)))
    with pytest.raises(WrongCodebookError):  # the same books, tables of other data
        decompress(stream, codec_of(codec.quantizer, seed=3))
    with pytest.raises(WrongCodebookError, match=r"hold 1-2 codebook"):
        decompress(stream, codec_of(trained(n=2)))
    with pytest.raises(WrongGridError):
        decompress(stream, Codec(codec.quantizer, codec.tables, Grid((0, 0, -3, 10.24, 2.56, 1), (0.16, 0.16, 4))))


def test_the_books_behind_a_stream_are_all_that_counts(codec):
    """A checkpoint that grew further reads what an earlier one sent: prefixes of rows and of books stay."""
    small = ResidualQuantizer(2, (2, 4), DIM)
    small.load_state_dict({**small.state_dict(), "books": codec.quantizer.books[:2, :4], "held": torch.tensor([4, 4])})
    earlier = Codec(small, codec.tables, SMALL_GRID)
    codes, coords = frame_of(codec, 50, 2, 4)
    stream = compress(codes, coords, earlier, 2, 4)
    assert torch.equal(decompress(stream, codec).codes, in_raster(codes, coords)[0])


def test_frames_that_cannot_be_written(codec):
    codes, coords = frame_of(codec, 10)
    with pytest.raises(StreamError, match="same cell"):
        compress(codes, coords[[0, 0, *range(2, 10)]], codec, 3, 8)
    with pytest.raises(StreamError, match="outside the grid"):
        compress(codes, coords + 64, codec, 3, 8)
    with pytest.raises(StreamError, match="codes lie in"):
        compress(codes + 8, coords, codec, 3, 8)
    with pytest.raises(StreamError, match="books of size 2"):
        compress(codes + 2, coords, codec, 3, 2)
    with pytest.raises(StreamError, match="integer codes"):
        compress(codes[:, :2], coords, codec, 3, 8)
    with pytest.raises(StreamError, match="integer codes"):
        compress(codes.float(), coords, codec, 3, 8)
    with pytest.raises(StreamError, match="depths have shape"):
        compress(codes, coords, codec, 3, 8, depths=torch.ones(4, dtype=torch.int64))
    with pytest.raises(StreamError, match="1 to 3 codes"):
        compress(codes, coords, codec, 3, 8, depths=torch.zeros(10, dtype=torch.int64))
    with pytest.raises(StreamError, match="mode 'zip'"):
        compress(codes, coords, codec, 3, 8, mode="zip")
    with pytest.raises(OperatingPointError, match="4 codebook"):
        compress(codes, coords, codec, 4, 8)
    with pytest.raises(StreamError, match="4 cannot be decoded"):
        decompress(compress(codes, coords, codec, 3, 8), codec, 4)
    with pytest.raises(StreamError, match="cannot be cut to 4"):
        truncate(compress(codes, coords, codec, 3, 8), 4)


# ---------------------------------------------------------------- codecs


def test_a_codec_survives_a_checkpoint(codec, stream, tmp_path):
    checkpoint.save(tmp_path / "final.pth", {"codec": codec_state(codec)}, step=1)
    again = codec_from(checkpoint.load(tmp_path / "final.pth")["codec"])
    assert torch.equal(decompress(stream, again).codes, decompress(stream, codec).codes)
    assert again.grid == codec.grid


@pytest.mark.fault(8)
@pytest.mark.parametrize("key", ["format", "quantizer", "tables", "grid"])
def test_a_codec_state_with_something_missing_is_refused(codec, key):
    state = codec_state(codec)
    del state[key]
    with pytest.raises(CheckpointError, match=r"f\.pth holds no codec"):
        codec_from(state, "f.pth")


@pytest.mark.fault(8)
def test_codec_states_that_contradict_themselves(codec):
    state = codec_state(codec)
    for change, words in (
        ({"format": 9}, "format 9"),
        ({"grid": {"range": 3}}, "contradicts itself"),
        ({"tables": state["tables"][:-1]}, "no code table for book 3 at size 8"),
        ({"tables": [1]}, "no usable code tables"),
        ({"quantizer": {}}, "no usable codebooks"),
    ):
        with pytest.raises(CheckpointError, match=words):
            codec_from(state | change, "f.pth")


def test_growing_books_code_nothing(codec):
    quantizer = ResidualQuantizer(1, (4,), DIM)
    quantizer.grow(0, 4, features_like(20), torch.Generator())
    with pytest.raises(UserError, match="still grow"):
        Codec(quantizer, codec.tables, SMALL_GRID)
