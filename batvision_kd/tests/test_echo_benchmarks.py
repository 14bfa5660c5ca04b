"""The benchmarks of loader, generator and ridge check run, and record both sides of every ratio; so do the pictures."""

import json
from pathlib import Path

import pytest
from PIL import Image

from shared.testing.benchmarks import load

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def command(name: str):
    return load(BENCHMARKS, name).main


def results(path: Path) -> dict:
    return json.loads(path.read_text())["results"]


def test_loader(tmp_path):
    assert command("loader")(["--quick", "--samples", "7", "--size", "64", "--out", str(tmp_path / "a.json")]) == 0
    found = results(tmp_path / "a.json")
    assert found["samples"] == 7 and len(found["cached_ms"]) == len(found["uncached_ms"]) == 1
    assert found["ratio"] == pytest.approx(found["uncached_ms"][0] / found["cached_ms"][0], abs=0.01)
    assert [(row["ratio"], row["target"]) for row in found["ratios"]] == [(found["ratio"], "≥ 3")]


def test_simulator(tmp_path):
    assert command("simulator")(["--samples", "6", "--workers", "1", "2", "--out", str(tmp_path / "a.json")]) == 0
    found = results(tmp_path / "a.json")
    first, second = found["rows"]
    speed, seconds = found["ratios"]
    assert (speed["ratio"], speed["target"]) == (second["speed_up"], "≥ 1.6")
    assert (seconds["ours"], seconds["baseline"], seconds["target"]) == (second["seconds_for_1000"], 180, "≤ 1")
    assert first["speed_up"] == 1 and second["speed_up"] == pytest.approx(first["seconds"] / second["seconds"])


def test_ridge_check(tmp_path):
    code = command("ridge_check")(["--train", "21", "--test", "9", "--workers", "0", "--out", str(tmp_path / "a.json")])
    found = results(tmp_path / "a.json")
    row = found["seeds"][0]
    assert [one["baseline"] for one in found["ratios"]] == [row["mean_map"], row["swapped"], row["shuffled"]]
    assert {one["ours"] for one in found["ratios"]} == {row["audio"]}
    assert row["seed"] == 0 and code == (0 if row["holds"] else 1)


def test_quick_runs_without_out_write_nothing(monkeypatch, tmp_path):
    for name in ("simulator", "ridge_check"):
        main = command(name)
        monkeypatch.setitem(main.__globals__, "OUT", tmp_path / f"{name}.json")
        assert main(["--quick"]) in (0, 1) and not list(tmp_path.iterdir())


def test_pictures_need_no_run_but_for_the_results(tmp_path, monkeypatch, capsys):
    """Without the demo's results: the diagram, the earlier results picture untouched, and what to run."""
    make = command("pictures")
    monkeypatch.setitem(make.__globals__, "DEMO", tmp_path / "none")
    (tmp_path / "batvision_kd.jpg").write_bytes(b"as it was")
    assert make(["--out", str(tmp_path)]) == 0
    assert "train_distillation.py --experiments --config config/demo.yaml" in capsys.readouterr().out
    assert (tmp_path / "batvision_kd.jpg").read_bytes() == b"as it was"
    with Image.open(tmp_path / "batvision_kd_method.png") as diagram:
        assert diagram.width > 2 * diagram.height
    assert make(["--out", str(tmp_path), "--results", str(tmp_path / "none")]) == 2


def test_the_results_picture_is_the_upper_half_of_the_comparisons(tmp_path, monkeypatch):
    make, drawn = command("pictures"), Image.new("RGB", (1815, 1166), "blue")
    drawn.paste("red", (0, 0, 1815, 583))
    (tmp_path / "demo/figures").mkdir(parents=True)
    drawn.save(tmp_path / "demo/figures/predictions.png")
    monkeypatch.setitem(make.__globals__, "DEMO", tmp_path / "demo")
    assert make(["--out", str(tmp_path)]) == 0
    with Image.open(tmp_path / "batvision_kd.jpg") as strip:
        assert strip.width == 1400 and strip.getpixel((700, 10))[0] > 240
    assert (tmp_path / "batvision_kd.jpg").stat().st_size < 300_000
