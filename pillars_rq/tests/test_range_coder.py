"""The compiled coder against its plain-Python twin, byte for byte, and the laws of tables, symbols and depths."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pillars_rq.bitstream import range_coder, reference
from pillars_rq.bitstream.depths import decode_depths, encode_depths
from pillars_rq.bitstream.errors import CorruptStreamError
from pillars_rq.bitstream.symbols import decode_symbols, encode_symbols, pack_symbols, unpack_symbols
from pillars_rq.bitstream.tables import TOTAL, Tables, cdf_of, table_of
from shared.errors import CheckpointError

SKEWED = cdf_of(np.array([65534, 1, 1]))


def rng(seed=0):
    return np.random.default_rng(seed)


def some_cdf(seed):
    k = int(rng(seed).choice([1, 2, 3, 16, 256]))
    return cdf_of(table_of(rng(seed).integers(0, rng(seed).choice([2, 1_000_000]), k)))


@pytest.mark.parametrize("seed", range(20))
def test_symbols_come_back_and_equal_the_twin(seed):
    cdf = some_cdf(seed)
    symbols = rng(seed).integers(0, len(cdf) - 1, 300)
    data = encode_symbols(symbols, cdf)
    assert data == reference.encode_symbols(symbols.tolist(), cdf.tolist())
    assert np.array_equal(decode_symbols(data, 300, cdf), symbols)
    assert reference.decode_symbols(data, 300, cdf.tolist()) == symbols.tolist()


def test_carries_run_through_waiting_bytes():
    """Rare symbols at the top of the interval after many sure ones: the carry chains a coder gets wrong."""
    for seed in range(200):
        symbols = (rng(seed).random(60) < 0.3).astype(int) * rng(seed).integers(1, 3)
        for cdf in (SKEWED, cdf_of(np.array([1, 65534, 1])), cdf_of(np.array([1, 1, 65534]))):
            data = encode_symbols(symbols, cdf)
            assert data == reference.encode_symbols(symbols.tolist(), cdf.tolist())
            assert np.array_equal(decode_symbols(data, 60, cdf), symbols)


@pytest.mark.parametrize("symbols", [[], [0], [2], [0] * 5000, [2] * 400])
def test_few_and_extreme_symbols(symbols):
    data = encode_symbols(np.array(symbols, dtype=np.int64), SKEWED)
    assert data == reference.encode_symbols(symbols, SKEWED.tolist())
    assert decode_symbols(data, len(symbols), SKEWED).tolist() == symbols


def test_the_length_is_close_to_the_ideal():
    frequencies = table_of(rng().integers(1, 500, 256))
    symbols = rng(1).choice(256, 20_000, p=frequencies / TOTAL)
    ideal = -np.log2(frequencies[symbols] / TOTAL).sum() / 8
    assert ideal <= len(encode_symbols(symbols, cdf_of(frequencies))) <= 1.002 * ideal + 4


@pytest.mark.fault(18)
def test_any_bytes_decode_to_symbols_of_the_table():
    for seed in range(300):
        data = rng(seed).bytes(int(rng(seed).integers(0, 40)))
        cdf = some_cdf(seed)
        try:
            symbols = decode_symbols(data, 50, cdf)
        except CorruptStreamError:
            continue
        assert symbols.tolist() == reference.decode_symbols(data, 50, cdf.tolist())
        assert symbols.min() >= 0 and symbols.max() < len(cdf) - 1


@pytest.mark.fault(18)
def test_a_segment_that_is_too_long_is_refused():
    data = encode_symbols(np.arange(3), SKEWED)
    for wrong in (data + b"\0", data + b"\1" * 20):
        with pytest.raises(CorruptStreamError, match="longer than its 3 codes"):
            decode_symbols(wrong, 3, SKEWED)


def test_a_symbol_outside_the_table_is_refused():
    with pytest.raises(ValueError, match="the table has 3"):
        encode_symbols(np.array([3]), SKEWED)


def test_all_that_is_compiled_is_in_one_file():
    """numba's disk cache does not see a change in another file: a loop elsewhere would go on with the old coder."""
    package = Path(range_coder.__file__).parents[1]
    assert [path.name for path in package.rglob("*.py") if "numba import" in path.read_text()] == ["range_coder.py"]
    importers = [path.name for path in package.rglob("*.py") if re.search(r"import.*\bcompiled\b", path.read_text())]
    assert not importers


# ---------------------------------------------------------------- fixed length


@pytest.mark.parametrize("k", [1, 2, 3, 16, 100, 256, 512])
def test_fixed_length_codes_come_back(k):
    symbols = rng(k).integers(0, k, 77)
    data = pack_symbols(symbols, k)
    assert len(data) == math.ceil(77 * max(1, math.ceil(math.log2(k))) / 8)
    assert np.array_equal(unpack_symbols(data, 77, k), symbols)
    assert pack_symbols(symbols[:0], k) == b"" and len(unpack_symbols(b"", 0, k)) == 0


@pytest.mark.fault(18)
def test_fixed_length_refusals():
    with pytest.raises(CorruptStreamError, match="take 2 bytes, not 3"):
        unpack_symbols(b"\0\0\0", 3, 16)
    with pytest.raises(CorruptStreamError, match="padding"):
        unpack_symbols(b"\0\1", 3, 16)
    with pytest.raises(CorruptStreamError, match="beyond 5"):
        unpack_symbols(pack_symbols(np.array([7]), 8), 1, 5)


# ---------------------------------------------------------------- depths


@pytest.mark.parametrize("n", [1, 2, 5])
def test_depths_come_back_and_equal_the_twin(n):
    for seed in range(10):
        depths = rng(seed).integers(1, n + 1, seed * 20)
        data = encode_depths(depths, n)
        assert data == reference.encode_depths(depths.tolist(), n)
        assert np.array_equal(decode_depths(data, len(depths), n), depths)
        assert reference.decode_depths(data, len(depths), n) == depths.tolist()


def test_depths_that_follow_each_other_cost_little():
    runs = np.repeat([1, 5, 2, 5], 500)
    assert len(encode_depths(runs, 5)) < 0.2 * len(encode_depths(rng().permutation(runs), 5))


@pytest.mark.fault(18)
def test_depth_refusals():
    with pytest.raises(ValueError, match="has 3 books"):
        encode_depths(np.array([4]), 3)
    with pytest.raises(CorruptStreamError, match="longer than its 2 depths"):
        decode_depths(b"\1" * 30, 2, 3)


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize("seed", range(10))
def test_tables_add_up_and_know_every_symbol(seed):
    counts = rng(seed).integers(0, 10 ** rng(seed).integers(1, 9), 256)
    table = table_of(counts)
    assert table.sum() == TOTAL and table.min() >= 1
    exact = 1 + counts * (TOTAL - 256) / counts.sum()
    assert np.abs(table - exact).max() < 1
    assert (np.diff(table[np.argsort(counts, kind="stable")]) >= -1).all()


def test_tables_by_hand():
    assert table_of(np.zeros(3)).tolist() == [21846, 21845, 21845]
    assert table_of(np.array([1, 0])).tolist() == [65535, 1]
    with pytest.raises(ValueError, match="none negative"):
        table_of(np.array([1, -1]))


def test_counted_tables_survive_a_checkpoint(tmp_path):
    points = [(1, 2), (2, 2), (1, 4)]
    codes = torch.tensor([[0, 1], [0, 0], [1, 1]])
    tables = Tables.counted(points, lambda n, k: codes[:, :n])
    torch.save(tables.state(), tmp_path / "t.pth")
    again = Tables.from_state(torch.load(tmp_path / "t.pth", weights_only=True))
    for key in ((0, 2), (1, 2), (0, 4)):
        assert key in again and np.array_equal(again.cdf(*key), tables.cdf(*key))
    assert (1, 4) not in again
    assert tables.frequencies(1, 2).tolist() == table_of(np.array([1, 2])).tolist()


@pytest.mark.fault(8)
@pytest.mark.parametrize("bad", [[[0, 2, torch.tensor([1, 1])]], [[0, 2, [1, 2]]], [3], [[0, 1, torch.tensor([0])]]])
def test_tables_that_are_none_are_refused(bad):
    with pytest.raises(CheckpointError, match=r"x\.pth holds no usable code tables"):
        Tables.from_state(bad, "x.pth")
