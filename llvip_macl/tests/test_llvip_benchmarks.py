"""The benchmarks measure what they say: saved bytes are counted once, ratios are of one round, and they run."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from shared.scaling import hold_growths

FOLDER = Path(__file__).parents[1] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(f"llvip_benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    step = load("step")
    inputs = torch.ones(10, 100)  # 4000 bytes, kept by the first layer alone
    assert step.saved_bytes(Model(nn.Linear(100, 50, bias=False)), {"inputs": inputs.requires_grad_()}) == 4000
    twice = step.saved_bytes(Model(nn.Linear(100, 50, bias=False), nn.Tanh()), {"inputs": inputs})
    assert twice == 4000 + 2000  # the output of tanh


def test_ratios_are_medians_over_rounds_of_cpu_times():
    step = load("step")
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
    step = load("step")
    saved = {"single": 10, "two": 20, "checkpointed": 15, "full": 22}
    rows = step.ratios_of(step.figures({}, saved), saved, {}, "r50")
    assert [row["ratio"] for row in rows] == [2.0, 1.5] and all("activations" in row["what"] for row in rows)


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.delitem(sys.modules, "step", raising=False)
    return load("scaling")


def test_scaling_covers_a_decade_and_its_works_work(scaling):
    hold_growths(scaling.growths())
    for growth in scaling.growths()[1:]:  # the first builds a detector: test_scaling_quick
        growth.prepare(growth.sizes[0])()


@pytest.mark.slow
def test_scaling_quick(scaling, tmp_path):
    threads = torch.get_num_threads()
    try:
        assert scaling.main(["--quick", "--out", str(tmp_path / "scaling.json")]) == 0
    finally:
        torch.set_num_threads(threads)
    rows = json.loads((tmp_path / "scaling.json").read_text())["results"]["growths"]
    assert len(rows) == 4 and all(min(row["seconds"]) > 0 and row["time"] for row in rows)


def test_the_loader_is_timed_between_its_batches():
    loader = load("loader")
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
    assert load(name).main(argv) == 0
    assert json.loads((tmp_path / "found.json").read_text())["results"]["ratios"]
    assert "target" in capsys.readouterr().out
