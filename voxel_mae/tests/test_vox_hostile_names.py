"""Class names of a data set that would be code: text in the demo's page and in its pictures."""

import json

import numpy as np
import pytest

from shared.testing.hostile_text import EVIL, assert_only_text
from voxel_mae.demo_report import Stage, write_report
from voxel_mae.pictures import View, detections_figure

MEANS = {"occupancy": 0.3, "occupancy_entropy": 0.5, "occupancy_excess": -0.2}


def stage(folder, name, scores, means) -> Stage:
    (folder / name).mkdir()
    (folder / name / "scores.json").write_text(json.dumps(scores))
    (folder / name / "metrics.jsonl").write_text(json.dumps({"step": 5, "split": f"{name}/epoch", **means}) + "\n")
    return Stage(folder / name, folder / "x.pth", folder / name, 12.0)


@pytest.mark.fault(21)
def test_class_names_that_are_code_are_text(tmp_path):
    ap = {EVIL: {"all": 0.25}, "mAP": {"all": 0.25}}
    scores = {"mark": EVIL, "ap": {"R40": {"bev": ap, "3d": ap}}, "iou": {EVIL: 0.5}, "objects": {EVIL: {"all": 7}},
              "frames": 24}  # fmt: skip
    before = stage(tmp_path, "pretrain", {"means": MEANS, "frames": 24}, MEANS)
    after = stage(tmp_path, "finetune", scores, {"cls": 1.0, "loc": 2.0})
    box, points = np.array([[0, 0, 0, 4, 2, 2, 0.3]]), np.random.default_rng(0).normal(size=(50, 4))
    view = View(EVIL, points, box, [EVIL], box, [EVIL], [0.9])
    detections_figure([view], EVIL).savefig(tmp_path / "view.png")
    write_report(tmp_path / "report.html", before, after, [(tmp_path / "view.png", EVIL)], 30.0)
    assert_only_text(tmp_path / "report.html", EVIL)
