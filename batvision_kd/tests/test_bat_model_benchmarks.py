"""benchmarks/student_attention.py runs, measures what it says, and its baseline is the same attention."""

import json
import sys
from pathlib import Path

import pytest
import torch

from batvision_kd.models import attention
from shared.testing.benchmarks import ScalingLaws, load

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """The script as a module; its children run here, and what they exchange in the package is put back."""
    module = load(BENCHMARKS, "student_attention")
    monkeypatch.setattr(attention, "attend", attention.attend)
    monkeypatch.setattr(module, "measured_apart", module.rise_mib)
    return module


def test_quick_runs_and_writes_where_it_is_told(benchmark, tmp_path, capsys):
    assert benchmark.main(["--quick", "--threads", "1", "--out", str(tmp_path / "found.json")]) == 0
    results = json.loads((tmp_path / "found.json").read_text())["results"]
    step = results["ratios"][-1]
    assert (step["ratio"], step["target"]) == (results["steps"][0]["ratio"], "≤ 1.8")
    shares = [row["share"] for row in results["memory"].values() if row["share"] is not None]
    assert [row["ratio"] for row in results["ratios"][:-1]] == shares
    out = capsys.readouterr().out
    assert out.count("scores written out") == 2 and "student" in out


class TestScaling(ScalingLaws):
    folder, growths = BENCHMARKS, 3


def test_the_baseline_is_the_same_attention(benchmark):
    torch.manual_seed(0)
    parts = torch.randn(1, 2, 9, 4), torch.randn(1, 2, 9, 4), torch.randn(1, 2, 9, 16)
    torch.testing.assert_close(benchmark.written_out(*parts), attention.attend(*parts))


def test_a_child_answers_with_a_number(benchmark, capsys):
    assert benchmark.main(["--child", "mha", "ours", "16", "8"]) == 0
    assert float(capsys.readouterr().out) >= 0


def test_the_parent_asks_the_same_script(monkeypatch):
    module = load(BENCHMARKS, "student_attention")
    asked = []

    class Found:
        stdout = "12.5"

    monkeypatch.setattr(module.subprocess, "run", lambda command, **options: asked.append(command) or Found())
    assert module.measured_apart("reference", "written_out", 16, 8) == 12.5
    assert asked[0][0] == sys.executable and asked[0][2:] == ["--child", "reference", "written_out", "16", "8"]
