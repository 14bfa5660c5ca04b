"""benchmarks/student_attention.py runs, measures what it says, and its baseline is the same attention."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from batvision_kd.models import attention
from shared.scaling import hold_growths

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "student_attention.py"


@pytest.fixture
def benchmark(monkeypatch):
    """The script as a module; its children run here, and what they exchange in the package is put back."""
    spec = importlib.util.spec_from_file_location("student_attention", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(attention, "attend", attention.attend)
    monkeypatch.setattr(module, "measured_apart", module.rise_mib)
    return module


def test_quick_runs_and_writes_where_it_is_told(benchmark, tmp_path, capsys):
    threads = torch.get_num_threads()
    try:
        assert benchmark.main(["--quick", "--threads", "1", "--out", str(tmp_path / "found.json")]) == 0
    finally:
        torch.set_num_threads(threads)
    results = json.loads((tmp_path / "found.json").read_text())["results"]
    step = results["ratios"][-1]
    assert (step["ratio"], step["target"]) == (results["steps"][0]["ratio"], "≤ 1.8")
    shares = [row["share"] for row in results["memory"].values() if row["share"] is not None]
    assert [row["ratio"] for row in results["ratios"][:-1]] == shares
    out = capsys.readouterr().out
    assert out.count("scores written out") == 2 and "student" in out


@pytest.fixture
def scaling():
    spec = importlib.util.spec_from_file_location("bat_scaling", SCRIPT.with_name("scaling.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_scaling_covers_a_decade_and_its_works_work(scaling):
    hold_growths(scaling.growths())
    for growth in scaling.growths():
        growth.prepare(growth.sizes[0])()


@pytest.mark.slow
def test_scaling_quick(scaling, tmp_path):
    threads = torch.get_num_threads()
    try:
        assert scaling.main(["--quick", "--out", str(tmp_path / "scaling.json")]) == 0
    finally:
        torch.set_num_threads(threads)
    rows = json.loads((tmp_path / "scaling.json").read_text())["results"]["growths"]
    assert len(rows) == 3 and all(min(row["seconds"]) > 0 and row["time"] for row in rows)


def test_the_baseline_is_the_same_attention(benchmark):
    torch.manual_seed(0)
    parts = torch.randn(1, 2, 9, 4), torch.randn(1, 2, 9, 4), torch.randn(1, 2, 9, 16)
    torch.testing.assert_close(benchmark.written_out(*parts), attention.attend(*parts))


def test_a_child_answers_with_a_number(benchmark, capsys):
    assert benchmark.main(["--child", "mha", "ours", "16", "8"]) == 0
    assert float(capsys.readouterr().out) >= 0


def test_the_parent_asks_the_same_script(monkeypatch):
    spec = importlib.util.spec_from_file_location("student_attention_parent", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    asked = []

    class Found:
        stdout = "12.5"

    monkeypatch.setattr(module.subprocess, "run", lambda command, **options: asked.append(command) or Found())
    assert module.measured_apart("reference", "written_out", 16, 8) == 12.5
    assert asked[0][0] == sys.executable and asked[0][2:] == ["--child", "reference", "written_out", "16", "8"]
