"""demo.py with one cloud: any kind of file, its picture, its page, and what is said of a wrong one."""

import json
import re

import numpy as np
import pytest

from voxel_mae.data.dataset import Frame
from voxel_mae.demo_command import chosen_frames, columns_of, frame_view, main
from voxel_mae.demo_report import Stage, write_report

POINTS = np.random.default_rng(0).normal(0, 5, (50, 4)).astype(np.float32)
PCD = """VERSION 0.7
FIELDS x y z
SIZE 4 4 4
TYPE F F F
COUNT 1 1 1
WIDTH 2
HEIGHT 1
VIEWPOINT 0 0 0 1 0 0 0
POINTS 2
DATA ascii
1 2 0.5
3 4 0.5
"""


def write(path):
    if path.suffix == ".npy":
        np.save(path, POINTS)
    elif path.suffix == ".pcd":
        path.write_text(PCD)
    else:
        path.write_bytes((POINTS if path.name != "n.pcd.bin" else np.c_[POINTS, POINTS[:, :1]]).tobytes())
    return path


@pytest.mark.parametrize("name, points", [("a.npy", 50), ("a.bin", 50), ("n.pcd.bin", 50), ("a.pcd", 2)])
def test_every_kind_of_cloud_becomes_a_picture_and_a_page(tmp_path, capsys, name, points):
    path = write(tmp_path / name)
    assert main([str(path), "--html", "--out", str(tmp_path / "out")]) == 0
    assert f"{points} points: wrote" in capsys.readouterr().out  # nothing looked for machines
    assert (tmp_path / "out" / f"{path.stem}.png").read_bytes().startswith(b"\x89PNG")
    assert f"{points} of {points} points" in (tmp_path / "out" / f"{path.stem}.html").read_text()


def test_a_wrong_cloud_names_file_and_remedy(tmp_path, capsys):
    np.save(tmp_path / "odd.npy", POINTS[:, :2])
    assert main([str(tmp_path / "odd.npy"), "--out", str(tmp_path)]) == 2
    assert "--features" in capsys.readouterr().err
    (tmp_path / "cut.bin").write_bytes(b"123")
    assert main([str(tmp_path / "cut.bin"), "--out", str(tmp_path)]) == 2
    assert "not a multiple of 16" in capsys.readouterr().err
    assert main([str(tmp_path / "none.bin"), "--out", str(tmp_path)]) == 2
    assert "is missing" in capsys.readouterr().err


def test_a_missing_checkpoint_is_named(tmp_path, capsys):
    path = write(tmp_path / "a.bin")
    assert main([str(path), "--ckpt", str(tmp_path / "no.pth"), "--out", str(tmp_path)]) == 2
    assert "no.pth" in capsys.readouterr().err


def test_columns_by_kind(tmp_path):
    np.save(tmp_path / "three.npy", POINTS[:, :3])
    assert columns_of(tmp_path / "three.npy") == ("x", "y", "z")
    assert len(columns_of(tmp_path / "k.bin")) == 4 and len(columns_of(tmp_path / "n.pcd.bin")) == 5


def stage(folder, name, scores, records):
    (folder / name).mkdir()
    (folder / name / "scores.json").write_text(json.dumps(scores))
    lines = [json.dumps({"step": step, "split": f"{name}/epoch", **records}) for step in (5, 10)]
    (folder / name / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return Stage(folder / name, folder / "x.pth", folder / name, 12.0)


def test_the_report_says_in_words_and_decimals_what_came_out(tmp_path):
    means = {"occupancy": 0.3136, "occupancy_entropy": 0.5349, "occupancy_excess": -0.2213, "occupancy_sites": 7323.5}
    before = stage(tmp_path, "pretrain", {"means": means, "frames": 24}, means)
    ap = {name: {"all": value} for name, value in (("grader", 0.25), ("roller", None), ("mAP", 0.25))}
    scores = {"mark": "made up", "ap": {"R40": {"bev": ap, "3d": ap}}, "iou": {"grader": 0.5, "roller": 0.5},
              "objects": {"grader": {"all": 7}, "roller": {"all": 0}}, "frames": 24}  # fmt: skip
    after = stage(tmp_path, "finetune", scores, {"cls": 1.0, "loc": 2.0})
    write_report(tmp_path / "report.html", before, after, [], 30.0)
    page = re.sub(r"<[^>]+>", " ", re.sub(r'src="[^"]*"', "", (tmp_path / "report.html").read_text()))
    words = " ".join(page.split())
    for told in ("made up", "occupied? 0.314", "the best constant answer 0.535", "something was learnt -0.221",
                 "grader 7 0.5 25.0 % 25.0 %", "roller 0 0.5 - -", "mAP 25.0 % 25.0 %"):  # fmt: skip
        assert told in words, (told, words)


class Labelled:
    """Truth alone: three sequences of two frames with 0..5 boxes."""

    frame_ids = ("a_0", "a_1", "b_0", "b_1", "c_0", "c_1")

    def __len__(self):
        return len(self.frame_ids)

    def truth(self, index):
        return np.zeros((index, 7)), np.zeros(index)


def test_the_shown_frames_have_many_boxes_and_are_of_different_sequences():
    assert chosen_frames(Labelled(), 4) == [5, 3, 1] and chosen_frames(Labelled(), 2) == [5, 3]


def test_a_view_shows_detections_from_the_score_on():
    boxes = np.ones((2, 7))
    frame = Frame("a", POINTS, boxes[:1], np.array([2]), np.zeros(2))
    found = {"a": {"boxes": boxes, "scores": np.array([0.9, 0.2]), "labels": np.array([1, 2])}}
    view = frame_view(frame, ("grader", "roller"), found, 0.3)
    assert list(view.names) == ["roller"] and list(view.found_names) == ["grader"] and view.scores == [0.9]
