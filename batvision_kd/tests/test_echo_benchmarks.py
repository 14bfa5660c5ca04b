"""The benchmarks of loader, generator and ridge check run, and record both sides of every ratio."""

import importlib.util
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def command(name: str):
    spec = importlib.util.spec_from_file_location(f"echo_benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def results(path: Path) -> dict:
    return json.loads(path.read_text())["results"]


def test_loader(tmp_path):
    assert command("loader")(["--quick", "--samples", "7", "--size", "64", "--out", str(tmp_path / "a.json")]) == 0
    found = results(tmp_path / "a.json")
    assert found["samples"] == 7 and len(found["cached_ms"]) == len(found["uncached_ms"]) == 1
    assert found["ratio"] == pytest.approx(found["uncached_ms"][0] / found["cached_ms"][0], abs=0.01)


def test_simulator(tmp_path):
    assert command("simulator")(["--samples", "6", "--workers", "1", "2", "--out", str(tmp_path / "a.json")]) == 0
    first, second = results(tmp_path / "a.json")["rows"]
    assert first["speed_up"] == 1 and second["speed_up"] == pytest.approx(first["seconds"] / second["seconds"])


def test_ridge_check(tmp_path):
    code = command("ridge_check")(["--train", "21", "--test", "9", "--workers", "0", "--out", str(tmp_path / "a.json")])
    row = results(tmp_path / "a.json")["seeds"][0]
    assert row["seed"] == 0 and code == (0 if row["holds"] else 1)
