"""The benchmarks measure what they say: saved bytes are counted once, ratios are of one round, and they run."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from shared.testing.benchmarks import ScalingLaws, load

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


class Model(nn.Module):
    """A detector's interface around `layers`."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def data_preprocessor(self, batch, training):
        return {"inputs": batch["inputs"]}

    def forward(self, inputs, mode):
        return self.layers(inputs)

    def parse_losses(self, output):
        return output.sum(), {}


def test_saved_activations_are_counted_once_and_without_parameters():
    step = load(BENCHMARKS, "step")
    inputs = torch.ones(10, 100)  # 4000 bytes, kept by the first layer alone
    assert step.saved_bytes(Model(nn.Linear(100, 50, bias=False)), {"inputs": inputs.requires_grad_()}) == 4000
    twice = step.saved_bytes(Model(nn.Linear(100, 50, bias=False), nn.Tanh()), {"inputs": inputs})
    assert twice == 4000 + 2000  # the output of tanh


def test_ratios_are_medians_over_rounds_of_cpu_times():
    step = load(BENCHMARKS, "step")
    times = {"single": [(1.0, 9), (2.0, 9), (1.0, 9)], "two": [(2.0, 9), (3.0, 9), (1.5, 9)],
             "checkpointed": [(3.0, 9)] * 3, "full": [(2.0, 9), (4.0, 9), (1.6, 9)]}  # fmt: skip
    saved = {"single": 10, "two": 20, "checkpointed": 15, "full": 22}
    found = step.figures(times, saved)
    assert found["two_over_single"] == 1.5 and found["activations_checkpointed"] == 1.5
    assert found["macl_dhn_share"] == pytest.approx(0.1 / 1.6)
    rows = step.ratios_of(found, saved, {"single": 1.0, "two": 2.0, "checkpointed": 3.0, "full": 2.5}, "demo")
    assert [(row["ratio"], row["target"], row["reached"]) for row in rows] == [
        (1.5, "≤ 1.9", True), (2.0, "≤ 2.15", True), (1.5, "≤ 1.7", True), (found["macl_dhn_share"], "≤ 0.05", False),
    ]  # fmt: skip
    assert (rows[0]["baseline"], rows[0]["ours"], rows[3]["ours"]) == (1.0, 2.0, 0.5)


def test_without_times_only_activations_are_compared():
    step = load(BENCHMARKS, "step")
    saved = {"single": 10, "two": 20, "checkpointed": 15, "full": 22}
    rows = step.ratios_of(step.figures({}, saved), saved, {}, "r50")
    assert [row["ratio"] for row in rows] == [2.0, 1.5] and all("activations" in row["what"] for row in rows)


class TestScaling(ScalingLaws):
    folder, growths = BENCHMARKS, 4
    works = slice(1, None)  # the first builds a detector


def test_the_loader_is_timed_between_its_batches():
    loader = load(BENCHMARKS, "loader")
    clock = iter(range(100))
    loader.time = type("Clock", (), {"perf_counter": staticmethod(lambda: next(clock))})
    assert loader.seconds_a_batch(iter(range(20)), 8) == pytest.approx(1 / 8)  # one tick from the second to the tenth


@pytest.mark.slow
@pytest.mark.parametrize("name", ["step", "loader", "miss_rate"])
def test_a_benchmark_runs(name, tmp_path, capsys):
    argv = ["--quick", "--out", str(tmp_path / "found.json")]
    if name == "miss_rate":
        argv += ["--drawn"]
    if name == "loader":
        argv += ["--cfg-options", "embedded.pairs=(48, 2)", f"embedded.parent={tmp_path}"]
    assert load(BENCHMARKS, name).main(argv) == 0
    assert json.loads((tmp_path / "found.json").read_text())["results"]["ratios"]
    assert "target" in capsys.readouterr().out
