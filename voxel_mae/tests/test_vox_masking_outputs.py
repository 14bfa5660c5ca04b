"""The picture of every masking, and the masking benchmark in its quick form: the loop draws the very masks that ours
draws. No time is judged."""

import json
from pathlib import Path

import numpy as np
import pytest
from custom_root_samples import SMALL, ring_cloud
from PIL import Image

from shared.testing.benchmarks import load
from voxel_mae.masking import KINDS, Calibrated, KeepShares, Radial, TwoStage
from voxel_mae.masking_pictures import _title, draw_cloud, draw_maskings, every_kind
from voxel_mae.voxelize import batch_voxels, voxelize

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def script():
    return load(BENCHMARKS, "masking_speed")


def test_every_masking_is_drawn_with_its_shares(tmp_path):
    shares = draw_cloud(ring_cloud(), SMALL, tmp_path / "maskings.png", note="embedded world")
    assert set(shares) == set(every_kind()) > set(KINDS)
    assert all(0 < one.overall < 1 for one in shares.values())
    with Image.open(tmp_path / "maskings.png") as picture:
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        assert min(picture.size) > 500
    for colour in ((11, 110, 153), (180, 67, 47)):  # kept voxels, rings
        assert (np.abs(colours.astype(int) - colour).sum(1) < 30).sum() > 200


def test_a_title_names_the_distance_of_each_share():
    assert _title("radial", KeepShares(np.array([1, 2, 3]), np.array([2, 8, 12]))) == (
        "radial: 27% kept\n50% to 10 m, 25% to 30 m, 25% beyond"
    )
    assert _title("radial", KeepShares(np.array([1, 0, 3]), np.array([2, 0, 12]))).endswith("50% to 10 m, 25% beyond")


def test_a_cloud_without_points_is_drawn_too(tmp_path):
    nothing = batch_voxels([voxelize(np.zeros((0, 3), np.float32), SMALL)])
    draw_maskings(nothing, SMALL, {"radial": Radial()}, tmp_path / "nothing.png")
    assert (tmp_path / "nothing.png").stat().st_size > 0


@pytest.mark.parametrize("masking", [Radial(), Radial(0.95, 12), TwoStage(), Calibrated(0.7)], ids=str)
def test_the_loop_and_ours_draw_the_same_masks(script, masking):
    batch = batch_voxels([voxelize(ring_cloud(), SMALL)])
    record = script.compare(batch, SMALL, masking, rounds=4)
    assert record["times_faster"] > 0
    assert len(record["loop_ms"]) == len(record["ours_ms"]) == 4


@pytest.mark.real
def test_the_quick_benchmark_writes_its_record(script, real_samples, tmp_path):
    out = tmp_path / "masking_speed.json"
    assert script.main(["--quick", "--samples", str(real_samples), "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert {"benchmark", "date_utc", "commit", "command", "hardware", "versions", "results"} <= set(record)
    frame = record["results"]["frames"]["nuscenes"]
    assert frame["voxels"] == 17_477
    faster = [frame[kind]["times_faster"] for kind in ("radial", "two_stage", "calibrated")]
    assert [(row["ratio"], row["target"]) for row in record["results"]["ratios"]] == [(n, "≥ 15") for n in faster]


def test_missing_samples_are_named(script, tmp_path, capsys):
    assert script.main(["--quick", "--samples", str(tmp_path), "--out", str(tmp_path / "x.json")]) == 2
    assert "set REAL_SAMPLES" in capsys.readouterr().err
