"""The command that compares a checkpoint with published detections, on a small detector and its own detections."""

import math

import numpy as np
import pytest
import torch

from pillars_rq import golden_check
from pillars_rq.anchors import make_anchors
from pillars_rq.decode import Detections, detect
from pillars_rq.grid import Grid
from pillars_rq.network import PointPillars, Widths
from pillars_rq.voxelize import batch_pillars, voxelize
from pillars_rq.weights import save_base

GRID = Grid((0.0, -5.12, -3.0, 10.24, 5.12, 1.0), (0.32, 0.32, 4.0), max_points=4)
ROW = np.array([[5.0, 1.0, -1.6, 1.6, 3.9, 1.5, 0.3, 0.9, 2.0]])  # x y z w l h theta score label


def found(rows: np.ndarray) -> Detections:
    return Detections(rows[:, :7].astype(np.float32), rows[:, 7].astype(np.float32), rows[:, 8].astype(np.int64))


def test_half_a_turn_is_the_same_box_and_another_class_is_none():
    turned, other = ROW.copy(), ROW.copy()
    turned[0, 6] += math.pi
    other[0, 8] = 1.0
    for rows, iou, yaw in ((ROW, 1.0, 0.0), (turned, 1.0, 0.0), (other, 0.0, math.pi / 2)):
        ((got_iou, got_yaw),) = golden_check.compare(found(rows), ROW)
        assert got_iou == pytest.approx(iou, abs=1e-5) and got_yaw == pytest.approx(yaw, abs=1e-5)


def test_the_best_of_its_class_is_compared():
    far, near = ROW.copy(), ROW.copy()
    far[0, 0] += 20
    near[0, 6] += 0.1
    ((iou, yaw),) = golden_check.compare(found(np.concatenate([far, near])), ROW)
    assert 0.8 < iou < 1 and yaw == pytest.approx(0.1, abs=1e-5)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """(folder, table of its own detections); weights.pth, cloud.bin, golden.txt in the folder."""
    folder = tmp_path_factory.mktemp("golden")
    torch.manual_seed(0)
    model = PointPillars(GRID, widths=Widths(8, (8, 8, 8), (0, 0, 0), 8)).eval()
    torch.nn.init.zeros_(model.head.conv_cls.bias)  # every score is about a half
    save_base(folder / "weights.pth", model, step=0)
    points = np.random.default_rng(0).uniform((0, -5, -2, 0), (10, 5, 0, 1), (500, 4)).astype("<f4")
    points.tofile(folder / "cloud.bin")
    with torch.no_grad():
        batch = batch_pillars([voxelize(points, GRID, GRID.max_voxels_eval)])
        (own,) = detect(model(batch), make_anchors(GRID, model.classes))
    assert len(own) >= 3
    table = np.column_stack([own.boxes, own.scores, own.labels])
    np.savetxt(folder / "golden.txt", table)
    return folder, table


def command(folder, golden: str = "golden.txt", **other: str) -> int:
    names = {"weights": "weights.pth", "points": "cloud.bin", **other, "golden": golden}
    return golden_check.main([str(folder / names[key]) for key in ("weights", "points", "golden")])


def test_its_own_detections_agree(files, capsys):
    folder, table = files
    assert command(folder) == 0
    assert f"{len(table)} of {len(table)} golden detections agree; {len(table)} were found" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["moved", "turned", "missing"])
def test_one_that_differs_is_noticed(files, change, capsys):
    folder, table = files
    table = table.copy()
    if change == "missing":
        table = table[1:]  # one more is found than is in the table
    else:
        table[0, {"moved": 0, "turned": 6}[change]] += {"moved": 3.0, "turned": 0.2}[change]
    np.savetxt(folder / "other.txt", table)
    assert command(folder, "other.txt") == 1
    agree = len(table) if change == "missing" else len(table) - 1
    assert f"{agree} of {len(table)} golden detections agree" in capsys.readouterr().out


def test_bad_files_are_named(files, capsys):
    folder, table = files
    np.savetxt(folder / "narrow.txt", table[:, :8])
    (folder / "words.txt").write_text("x y z\n")
    (folder / "cut.bin").write_bytes(b"1234567")
    cases = (
        ({"golden": "absent.txt"}, "absent.txt"), ({"golden": "narrow.txt"}, "8 columns"),
        ({"golden": "words.txt"}, "words.txt"), ({"points": "cut.bin"}, "not a multiple of 16"),
        ({"points": "absent.bin"}, "absent.bin"), ({"weights": "absent.pth"}, "train_pointpillars.py"),
    )  # fmt: skip
    for change, message in cases:
        assert command(folder, **change) == 2
        assert message in capsys.readouterr().err
