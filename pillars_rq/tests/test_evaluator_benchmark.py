"""The evaluator's benchmark in its quick form: it runs, and its JSON holds what the figure is made of."""

import json
import statistics
from pathlib import Path

import pytest

from shared.testing.benchmarks import load

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PROMISED = {"benchmark", "date_utc", "commit", "command", "hardware", "versions", "results"}


@pytest.fixture(scope="module")
def evaluator():
    return load(BENCHMARKS, "evaluator")


def test_the_quick_form_writes_every_field(evaluator, tmp_path, capsys):
    assert evaluator.main(["--quick", "--out", str(tmp_path / "new" / "evaluator.json")]) == 0
    found = json.loads((tmp_path / "new" / "evaluator.json").read_text())
    assert set(found) == PROMISED and found["benchmark"] == "evaluator" and found["hardware"]["threads"] == 1
    results = found["results"]
    assert (results["frames"], results["rounds"], results["target"]) == (12, 1, 20.0)
    assert len(results["loop_s"]) == len(results["vectorised_s"]) == 1
    assert min(results["loop_s"] + results["vectorised_s"]) > 0
    ratios = [a / b for a, b in zip(results["loop_s"], results["vectorised_s"], strict=True)]
    assert results["ratio"] == pytest.approx(statistics.median(ratios), abs=0.01)
    assert [(row["ratio"], row["target"]) for row in results["ratios"]] == [(results["ratio"], "≥ 20")]
    assert results["largest_difference"] < 1e-6  # the same numbers, whatever the time
    assert "largest difference" in capsys.readouterr().out


def test_the_quick_form_overwrites_no_record(evaluator, monkeypatch, tmp_path):
    monkeypatch.setattr(evaluator, "OUT", tmp_path / "evaluator.json")
    assert evaluator.main(["--quick"]) == 0 and not list(tmp_path.iterdir())


def test_a_figure_that_differs_is_seen(evaluator):
    slow = {"R40": {"3d": {"Car": {"easy": 50.0, "hard": 40.0}}}}
    fast = {"R40": {"3d": {"Car": {"easy": 50.0, "hard": 42.5}, "overall": {"easy": 0.0}}}}
    assert evaluator.largest_difference(fast, slow) == 2.5
