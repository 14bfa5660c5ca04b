"""The world's command line, its statistics, and its likeness to real scans."""

import numpy as np
import pytest

from shared.errors import DataError
from voxel_mae.grid import Grid
from voxel_mae.world import WorldSpec
from voxel_mae.world.__main__ import main
from voxel_mae.world.frames import make_sequence
from voxel_mae.world.spec import Sequence
from voxel_mae.world.statistics import ScanStatistics, measure, measure_real, measure_world, outside, table

TINY = ["--train-sequences", "1", "--val-sequences", "1", "--unlabelled-sequences", "0", "--frames", "1",
        "--beams", "8", "--columns", "90", "--no-odd-frames", "--workers", "0"]  # fmt: skip


def test_the_command_writes_a_root(tmp_path, capsys):
    assert main([str(tmp_path / "site"), "--intensity", *TINY]) == 0
    assert "embedded world (no real data)" in capsys.readouterr().out
    assert np.load(tmp_path / "site" / "points" / "train000_00.npy").shape[1] == 4


def test_the_preview_is_a_picture(tmp_path):
    assert main(["--preview", str(tmp_path / "new" / "sheet.png"), *TINY]) == 0
    assert (tmp_path / "new" / "sheet.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("argv, word", [([], "nothing to do"), (["x", "--beams", "many"], "beams")])
def test_a_wrong_command_line_says_why(argv, word, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2 and word in capsys.readouterr().err


def test_statistics_without_real_scans_name_the_variable(tmp_path, capsys, monkeypatch):
    assert main(["--statistics", "--real", str(tmp_path)]) == 2
    assert "REAL_SAMPLES" in capsys.readouterr().err


def test_statistics_of_a_hand_made_scan():
    """Six points in one voxel, one in another block straight behind, at 1.05 and 20.05 m."""
    points = np.array([[1.05, 0.01, 0.05]] * 6 + [[-20.05, 0.01, 0.05]], np.float32)
    found = measure(points, Grid.construction())
    assert (found.points, found.voxels, found.blocks, found.sectors) == (7, 2, 2, 2)
    assert found.points_of_a_voxel == 3.5 and found.share_above_5 == 0.5
    assert (found.near_share, found.middle_share, found.far_share) == (0.5, 0.5, 0)
    with pytest.raises(DataError, match="without any point"):
        measure(np.zeros((0, 3), np.float32), Grid.construction())


def test_a_quantity_out_of_tolerance_is_named():
    real = [ScanStatistics(*[1.0] * 10), ScanStatistics(*[2.0] * 10)]
    good, bad = ScanStatistics(*[2.4] * 10), ScanStatistics(*[2.4] * 9, 2.6)
    assert outside(real, [good]) == [] and "all" in table(real, [good])
    assert outside(real, [bad]) == ["sectors"] and "OUTSIDE tolerance: sectors" in table(real, [bad])


@pytest.mark.real
def test_the_world_is_like_real_scans(real_samples):
    """The reference table of real scans, on the construction grid."""
    grid = Grid.construction()
    real = measure_real(real_samples, grid)
    assert sorted(one.voxels for one in real) == [17477, 41408, 56316, 60080]
    world = measure_world(WorldSpec(seed=1, frames=1, odd_frames=False), 4, grid)
    assert len(world) == 4 and outside(real, world) == []


def test_a_small_sensor_sees_fewer_points_of_the_same_site():
    counts = []
    for beams, columns in ((16, 180), (32, 360)):
        spec = WorldSpec(frames=1, beams=beams, columns=columns, odd_frames=False)
        counts.append(len(make_sequence(spec, Sequence("train", 0))[0].points))
    assert 3 < counts[1] / counts[0] < 5
