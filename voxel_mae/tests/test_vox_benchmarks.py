"""The benchmarks of growth, masked step, decoding and real scans: they run in their quick forms, and the rows of the
page are made of what was measured. No time is judged."""

import json
import statistics
from pathlib import Path

import pytest
import torch

from shared.testing.benchmarks import ScalingLaws, load_all
from voxel_mae.sparse import Conv3d, SubM3d, sparse_tensor

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NAMES = ("real_scans", "masked_step", "occupancy_decoding", "scaling")


@pytest.fixture(scope="module")
def scripts():
    """As `python benchmarks/..` sees them: they import one another."""
    return load_all(BENCHMARKS, NAMES)


class TestScaling(ScalingLaws):
    folder, growths = BENCHMARKS, 3


def test_larger_ground_is_not_denser(scripts):
    """Else its points would fall into voxels that are there already, and the work would seem to grow less."""
    few, many = (len(scripts["scaling"].batch_of(points)) / points for points in (2_000, 40_000))
    assert many == pytest.approx(few, rel=0.02) and few > 0.8


def test_multiply_adds_are_those_of_the_pairs(scripts):
    """All pairs of 60 sites of a 6 x 6 x 6 grid, by their distances."""
    sites = torch.randperm(216, generator=torch.Generator().manual_seed(0))[:60]
    cells = torch.stack([sites // 36, sites // 6 % 6, sites % 6], 1)
    x = sparse_tensor(torch.zeros(60, 3), torch.cat([torch.zeros(60, 1), cells], 1).int(), (6, 6, 6), 1)
    neighbours = int(((cells[:, None] - cells[None]).abs().amax(2) <= 1).sum())
    assert scripts["scaling"].multiply_adds(lambda: SubM3d(3, 5)(x)) == neighbours * 3 * 5
    reached = (cells.double() - 2 * torch.cartesian_prod(*[torch.arange(3)] * 3)[:, None]).abs().amax(2) <= 1
    assert scripts["scaling"].multiply_adds(lambda: Conv3d(3, 5, stride=2)(x)) == int(reached.sum()) * 3 * 5


def test_a_masked_step_is_compared_over_frames_and_rounds(scripts):
    rows = [{"seconds": {"full": [4.0, 6.0], "radial": [1.0, 1.0], "uniform": [2.0, 2.0]},
             "ratios": {"radial": ratio, "uniform": 2.0}} for ratio in (5.0, 3.0)]  # fmt: skip
    radial, uniform = scripts["masked_step"].ratios_of(rows)
    assert (radial["ratio"], radial["baseline"], radial["target"], radial["reached"]) == (4.0, 5.0, "≥ 2.5", True)
    assert (uniform["ratio"], uniform["ours"], uniform["target"]) == (2.0, 2.0, None)


def test_decoding_is_compared_in_time_and_in_memory(scripts):
    rows = [{"seconds": {"dense": [6.0], "sparse": [2.0]}, "bytes": {"dense": [40 << 20], "sparse": [8 << 20]}}]
    time, memory = scripts["occupancy_decoding"].ratios_of(rows, {"time": 3.0, "memory": 5.0})
    assert (time["baseline"], time["ours"], time["unit"], time["reached"]) == (6.0, 2.0, "CPU s", True)
    assert (memory["baseline"], memory["ours"], memory["unit"], memory["reached"]) == (40.0, 8.0, "MiB", False)


def test_an_action_is_measured_once_in_time_and_memory(scripts):
    called = []
    seconds, held = scripts["occupancy_decoding"].measured(lambda: called.append(torch.ones(8 << 20).sum().item()))
    assert len(called) == 1 and seconds > 0 and held == pytest.approx(32 << 20, abs=4 << 20)


@pytest.mark.slow
@pytest.mark.real
def test_real_scans_hold_the_share_that_was_asked(scripts, real_samples, tmp_path):
    out = tmp_path / "real_scans.json"
    assert scripts["real_scans"].main(["--quick", "--samples", str(real_samples), "--out", str(out)]) == 0
    results = json.loads(out.read_text())["results"]
    assert results["draws"] == 1 and {row["baseline"] for row in results["ratios"]} == {0.2}
    assert [row["ours"] for row in results["ratios"]] == [row["kept"]["radial"][0] for row in results["scans"].values()]
    assert statistics.median(row["ratio"] for row in results["ratios"]) == pytest.approx(1, abs=0.3)
