"""The README's command lines, run as they stand on the smallest configuration (download: test_download.py; export:
test_export.py; the page: test_app.py)."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from talk2car_kd.config import PACKAGE_ROOT
from talk2car_kd.stages import context
from talk2car_kd.world import WorldSpec, write_world

TINY = PACKAGE_ROOT / "tests/tiny.yaml"
REAL = PACKAGE_ROOT / "config/real_sample.yaml"
SMALL_WORLD = WorldSpec(train_frames=6, val_frames=3, test_frames=2, coco_train_images=8, coco_val_images=4)


def sets(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("readme")


def small(folder: Path, *more: str) -> list[str]:
    """The smallest configuration, with everything that it writes below `folder`."""
    places = [f"data.{name}_dir={folder / name}" for name in ("results", "cache", "embedded")]
    return ["--config", str(TINY), *sets("training.device=cpu", *places), *more]


def left(folder: Path, names: str) -> list[str]:
    """Those of the files that are not there."""
    return [name for name in names.split() if not (folder / name).exists()]


@pytest.mark.readme(
    "python main.py --stage 1",
    "python main.py --stage 2",
    "python main.py --stage test --visualize --generate_predictions",
    "python main.py --stage all",
    "python main.py --stage all --set training.device=cuda",
)
def test_stage_by_stage(readme, folder):
    """In one run, in which the last two lines find the trainings done."""
    distillation, grounding, test, *everything = readme
    run = folder / "results/steps"
    distillation.run(folder, *small(folder, "--run", "steps"))
    assert not left(run, "stage1 distilled_weights.pth") and not (run / "stage2").exists()
    grounding.run(folder, *small(folder, "--run", "steps"))
    assert not left(run, "stage2 talk2car_best.pth talk2car_last.pth") and not (run / "scores.json").exists()
    test.run(folder, *small(folder))
    assert not left(run, "scores.json predictions.json visualizations report.html")
    assert all("stage 2 is done" in line.run(folder, *small(folder, "--run", "steps")) for line in everything)


@pytest.mark.readme("python main.py --stage all --visualize --generate_predictions")
def test_the_quick_start(readme, folder):
    (line,) = readme
    assert "EMBEDDED DATA" in line.run(folder, *small(folder, "--run", "whole"))
    assert not left(folder / "results/whole", """config.yaml run.json log.txt metrics.jsonl tensorboard stage1 stage2
        distilled_weights.pth distilled_weights.pth.json talk2car_best.pth talk2car_best.pth.json talk2car_last.pth
        scores.json predictions.json visualizations report.html""")  # fmt: skip


@pytest.mark.readme(
    "python main.py --validate --set data.coco_root=data/coco --set data.talk2car_root=data/talk2car",
    "python -m talk2car_kd.lint data/talk2car",
    "python main.py --stage all --set data.coco_root=data/coco --set data.talk2car_root=data/talk2car",
)
def test_data_roots_are_checked_and_trained_on(readme, tiny_run, tmp_path, monkeypatch):
    """The embedded world under the names of COCO and Talk2Car, in another package folder; the teacher is a file."""
    monkeypatch.setattr(context, "PACKAGE_ROOT", tmp_path)
    write_world(tmp_path / "data", SMALL_WORLD)
    (tmp_path / "data/world.json").unlink()  # it says that this is no real data
    check, lint, training = readme
    check.run(tmp_path)
    lint.run(tmp_path)
    teacher = f"teacher.pretrained=local-dir:{tiny_run.folder}/teacher"
    batches = ("stage1.image_size=32", "stage1.batch_size=16", "stage2.input_hw=[64, 96]", "stage2.frames_per_batch=2")
    settings = sets(teacher, *batches)
    said = training.run(tmp_path, "--config", REAL, "--run", "real", *settings)
    assert "EMBEDDED DATA" not in said
    data = json.loads((tmp_path / "results/real/run.json").read_text())["data"]
    assert data == {"coco": "data/coco", "talk2car": "data/talk2car", "mark": "overlay frames: not a score"}
    assert not left(tmp_path / "results/real", "talk2car_best.pth scores.json")


@pytest.mark.slow
@pytest.mark.readme("python main.py --stage ablate")
def test_the_ablation(readme, tmp_path):
    (line,) = readme
    line.run(tmp_path, *small(tmp_path, *sets("eval.ablation_seeds=1", "stage2.frames_per_batch=2")))
    assert not left(tmp_path / "results/ablation", "ablation.json ablation.png report.html")


@pytest.mark.readme(
    'python predict.py --image frame.jpg --command "stop behind the red car" --out picture.png',
    "python -m talk2car_kd.world --preview world.png --seed 1",
)
def test_one_picture_and_a_look_at_the_world(readme, tiny_run, tmp_path):
    cv2.imwrite(str(tmp_path / "frame.jpg"), np.full((90, 160, 3), 100, np.uint8))
    predict, preview = readme
    assert "1600x900" in predict.run(tmp_path, "--checkpoint", tiny_run.checkpoint)
    preview.run(tmp_path)
    assert not left(tmp_path, "picture.png world.png world_coco.png")
