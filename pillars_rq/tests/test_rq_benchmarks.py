"""The benchmarks of search and bitstream in their quick form: they run, and the record holds what its figures are made
of. No time is judged."""

import json
import statistics
from pathlib import Path

import pytest
import torch

from shared import benchmark
from shared.testing.benchmarks import ScalingLaws, load_all

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PROMISED = {"benchmark", "date_utc", "commit", "command", "hardware", "versions", "results"}
PILLARS = {"training/000000": 3384, "training/000001": 6815}


@pytest.fixture(scope="module")
def scripts():
    """search, and those that import it, as `python benchmarks/..` sees them."""
    return load_all(BENCHMARKS, ("search", "bitstream", "schedule", "scaling"))


def quick(script, out):
    assert script.main(["--quick", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert set(record) == PROMISED and record["hardware"]["threads"] == 1
    assert {row["frame"]: row["pillars"] for row in record["results"]["frames"]} == PILLARS
    assert record["results"]["quick"] and record["results"]["k"] == 256
    return record["results"]


@pytest.mark.real
def test_search(scripts, real_samples, tmp_path, capsys):
    found = quick(scripts["search"], tmp_path / "search.json")
    for row in found["frames"]:
        assert len(row["sparse_ms"]) == len(row["dense_ms"]) == 1 and row["dense_unchunked_one_book_ms"] > 0
        assert row["ratio"] == benchmark.median_ratio(row["dense_ms"], row["sparse_ms"]) > 0
    assert found["median_ratio"] == statistics.median(row["ratio"] for row in found["frames"])
    assert [(row["ratio"], row["target"]) for row in found["ratios"]] == [(found["median_ratio"], "≥ 30")]
    assert (found["books"], found["target"]) == (1, 30)
    assert found["unchunked_distance_bytes"] == 214_272 * 256 * 4
    assert "not judged, a quick run" in capsys.readouterr().out


@pytest.mark.real
def test_bitstream(scripts, real_samples, tmp_path, capsys):
    found = quick(scripts["bitstream"], tmp_path / "bitstream.json")
    for row in found["frames"]:
        (encode,), (decode,), (tail,) = row["encode_ms"], row["decode_ms"], row["tailnet_ms"]
        assert row["share_of_tailnet"] == pytest.approx((encode + decode) / tail) and row["search_ms"][0] > 0
        sparse_fp16 = row["pillars"] * 128
        assert row["ratios_5x256"]["sparse_fp16"] == pytest.approx(sparse_fp16 / row["stream_bytes"])
        assert len(row["ratios_5x256"]) == 4 and row["bytes"]["sparse fp16"] > sparse_fp16 > row["bytes"]["int8"]
    assert found["median_share"] == statistics.median(row["share_of_tailnet"] for row in found["frames"])
    time, size = found["ratios"]
    assert (time["ratio"], time["target"]) == (found["median_share"], "≤ 0.02") and size["ratio"] > 0
    assert size["ours"] == statistics.median(row["stream_bytes"] for row in found["frames"]) / 1000
    assert (found["books"], found["target"]) == (5, 0.02)
    assert "not judged, a quick run" in capsys.readouterr().out


def test_the_share_is_the_median_of_rounds(scripts):
    times = {"encode_ms": [1.0, 2.0, 30.0], "decode_ms": [1.0, 1.0, 1.0], "tailnet_ms": [100.0, 100.0, 50.0]}
    assert scripts["bitstream"].share_of(times) == 0.03
    with pytest.raises(ValueError, match="zip"):
        scripts["bitstream"].share_of(times | {"tailnet_ms": [100.0]})


@pytest.mark.parametrize("name", ["search", "bitstream"])
def test_what_cannot_be_measured_is_refused(scripts, name, tmp_path, capsys, monkeypatch):
    """No samples: exit code 2, the path and the remedy; no rounds or threads: the command line says so."""
    monkeypatch.setattr(scripts["search"], "SAMPLES", tmp_path)
    assert scripts[name].main(["--quick"]) == 2
    err = capsys.readouterr().err
    assert str(tmp_path / "pointpillars" / "pfn_folded.npz") in err and "set REAL_SAMPLES" in err
    for wrong in (["--rounds", "0"], ["--threads", "-1"], ["--rounds", "two"]):
        with pytest.raises(SystemExit):
            scripts[name].main(wrong)
        assert "at least 1" in capsys.readouterr().err


def test_a_quick_run_without_out_writes_nothing(scripts, monkeypatch):
    """With made-up features in place of the real ones; a full run has its place in benchmarks/results."""
    search, written = scripts["search"], []
    cells = torch.arange(300)
    frames = {name: (torch.rand(300, 64), torch.stack([cells, cells], 1)) for name in PILLARS}
    monkeypatch.setattr(search, "real_encoder", lambda: search.PointPillars(search.Grid.kitti()))
    monkeypatch.setattr(search, "real_features", lambda *_: frames)
    monkeypatch.setattr(benchmark, "write", lambda path, record: written.append(path))
    assert search.main(["--quick"]) == 0 and not written
    assert search.main(["--rounds", "1"]) == 0 and written == [BENCHMARKS / "results" / "search.json"]


def test_the_days_are_every_epoch_of_the_contract(scripts):
    schedule = scripts["schedule"]
    config = schedule.load_config(schedule.RqConfig, [schedule.CONTRACT], [])
    frames = {"warmup": 25 * 2 * 3712, "gradient": 25 * 18 * 3712, "validation": 25 * (20 * 300 + 3769)}
    for name, count in frames.items():
        alone = dict.fromkeys(frames, 0.0) | {name: 2.0}
        assert schedule.days_of(alone, config) == pytest.approx(2 * count / 86_400)


class TestScaling(ScalingLaws):
    folder, growths = BENCHMARKS, 4


def test_the_cells_of_the_stream_are_different_cells(scripts):
    cells = scripts["scaling"].cells(5000, torch.Generator().manual_seed(0))
    assert len(cells.unique(dim=0)) == 5000


@pytest.mark.slow
def test_schedule(scripts, tmp_path, capsys):
    out = tmp_path / "schedule.json"
    assert scripts["schedule"].main(["--quick", "--out", str(out)]) == 0
    found = json.loads(out.read_text())["results"]
    assert [row["ours"] for row in found["ratios"]] == [found["days"]]
    assert found["median_seconds"]["gradient"] > found["median_seconds"]["warmup"] > 0 and found["days"] > 0
    assert "25 stages on KITTI, cpu, 1 thread(s)" in capsys.readouterr().out
