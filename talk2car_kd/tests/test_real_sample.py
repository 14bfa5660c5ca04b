"""The whole pipeline on real files: 80 COCO images, 38 Talk2Car frames, 502 Talk2Car commands without frames.

The 38 frames have the answer drawn on them, so nothing here is a score, and every output has to say so.
"""

import json
import shutil
from pathlib import Path

import pytest

from talk2car_kd import pipeline
from talk2car_kd.evaluation import ground_truth, official_scores, read_predictions
from talk2car_kd.talk2car import find_talk2car, read_commands

pytestmark = pytest.mark.real

HERE = Path(__file__).parent
CONFIG = HERE.parent / "config" / "real_sample.yaml"
MARK = "overlay frames: not a score"


def build_talk2car(real: Path, root: Path) -> Path:
    """A Talk2Car root whose train split is the 38 overlay rows and whose val split is the one clean train row."""
    commands, images = root / "commands", root / "images"
    commands.mkdir(parents=True)
    images.mkdir()
    for source, split in (("overlay_test", "train"), ("train", "val")):
        shutil.copy(real / "commands" / f"{source}_commands.json", commands / f"{split}_commands.json")
    for frame in sorted((real / "images_overlay").glob("*.jpg")):
        (images / frame.name).symlink_to(frame)
    (images / "img_train_0.jpg").symlink_to(real / "images" / "img_train_0.jpg")
    return root


def settings(**values: object) -> list[str]:
    """`--set` arguments for keys of `data` and `teacher` written with a double underscore for the dot."""
    return [part for key, value in values.items() for part in ("--set", f"{key.replace('__', '.')}={value}")]


def run_of(results: Path) -> Path:
    """The one run below a results folder."""
    (record,) = results.glob("*/run.json")
    return record.parent


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A teacher's folder, made by the smallest embedded run: what it knows does not matter here."""
    base = tmp_path_factory.mktemp("teacher")
    argv = ["--stage", "teacher", "--config", str(HERE / "tiny.yaml")]
    argv += settings(
        data__embedded_dir=base / "world", data__results_dir=base / "results", data__cache_dir=base / "cache"
    )
    assert pipeline.main(argv) == 0
    return run_of(base / "results") / "teacher"


@pytest.fixture(scope="module")
def everything(real_samples, teacher, tmp_path_factory) -> tuple[Path, list[str]]:
    """(folder of a finished `--stage all` on the real samples, its settings without the roots' own)."""
    base = tmp_path_factory.mktemp("real")
    root = build_talk2car(real_samples / "talk2car", base / "talk2car")
    common = ["--config", str(CONFIG)]
    common += settings(data__cache_dir=base / "cache", data__coco_root=real_samples / "coco",
                       teacher__pretrained=f"local-dir:{teacher}")  # fmt: skip
    here = settings(data__results_dir=base / "results", data__talk2car_root=root)
    assert pipeline.main(["--stage", "all", "--visualize", "--generate_predictions", *common, *here]) == 0
    return run_of(base / "results"), common


@pytest.fixture(scope="module")
def run(everything) -> Path:
    return everything[0]


def test_the_whole_pipeline_leaves_its_outputs(run):
    stages = json.loads((run / "run.json").read_text())["stages"]
    assert {name for name, stage in stages.items() if stage["done"]} == {"1", "2", "test"}
    for name in ("distilled_weights.pth", "talk2car_best.pth", "talk2car_last.pth", "metrics.jsonl", "config.yaml"):
        assert (run / name).is_file(), name
    assert len(list((run / "visualizations" / "val").glob("*.jpg"))) == 1


def test_the_predictions_are_boxes_of_the_real_val_command(run, real_samples):
    row = json.loads((real_samples / "talk2car" / "commands" / "train_commands.json").read_text())["commands"][0]
    predictions = read_predictions(run / "predictions.json")
    assert set(predictions) == {row["command_token"]}
    x, y, w, h = predictions[row["command_token"]]
    assert x >= 0 and y >= 0 and x + w <= 1600 and y + h <= 900


def test_stage_1_saw_the_real_regions(run):
    """682 usable regions, split by image: training batches and a Recall@K of captions that are COCO's."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    val = [row for row in rows if row["split"] == "stage1/val"]
    assert len(val) == 1 and 0 <= val[0]["recall@1"] <= 1
    assert any(row["split"] == "stage1/train" for row in rows)


def test_every_output_says_that_it_is_no_score(run):
    assert json.loads((run / "scores.json").read_text())["mark"] == MARK
    assert json.loads((run / "run.json").read_text())["config"]["data"]["mark"] == MARK
    assert MARK in (run / "report.html").read_text()
    scored = [line for line in (run / "log.txt").read_text().splitlines() if "AP50" in line]
    assert scored and all(MARK in line for line in scored)


def test_the_real_roots_validate(everything, real_samples, tmp_path, capsys):
    """Every structural rule of the validators holds on real files (no false alarm)."""
    root = build_talk2car(real_samples / "talk2car", tmp_path / "talk2car")
    argv = ["--validate", *everything[1], *settings(data__talk2car_root=root)]
    assert pipeline.main(argv) == 0, capsys.readouterr().err


# --- 502 real val commands, none of whose frames is here ---


def judge(everything, real_samples: Path, results: Path, *more: str) -> int:
    run, common = everything
    here = settings(data__results_dir=results, data__talk2car_root=real_samples / "talk2car")
    return pipeline.main(["--stage", "test", "--checkpoint", str(run / "talk2car_best.pth"), *common, *here, *more])


@pytest.mark.fault(15)
def test_missing_frames_are_counted_and_refused(everything, real_samples, tmp_path, capsys):
    assert judge(everything, real_samples, tmp_path) == 2
    assert "missing 502 of 502 images" in capsys.readouterr().err
    assert not list(tmp_path.rglob("scores.json"))


def test_with_every_frame_allowed_to_miss_there_is_still_no_score(everything, real_samples, tmp_path, capsys):
    assert judge(everything, real_samples, tmp_path, "--generate_predictions", "--set", "data.allow_missing=true") == 2
    assert "no command is left" in capsys.readouterr().err
    assert not list(tmp_path.rglob("scores.json")) + list(tmp_path.rglob("predictions*.json"))


def test_floors_need_no_training_frames(everything, real_samples, tmp_path):
    """A root with val frames alone can be judged: the constant boxes come from the train file, not from its images."""
    root = build_talk2car(real_samples / "talk2car", tmp_path / "talk2car")
    for frame in (root / "images").glob("img_test_*.jpg"):
        frame.unlink()
    run, common = everything
    argv = ["--stage", "test", "--checkpoint", str(run / "talk2car_best.pth"), *common]
    assert pipeline.main([*argv, *settings(data__results_dir=tmp_path / "results", data__talk2car_root=root)]) == 0
    scores = json.loads((run_of(tmp_path / "results") / "scores.json").read_text())
    assert {"median box", "best constant box", "text prior"} <= scores["val"]["comparison"].keys()


def test_the_official_example_scores_one(real_samples):
    """predictions_example.json of the release equals the ground truth: AP50 = mean IoU = 1, and no image is read."""
    layout = find_talk2car(real_samples / "talk2car")
    truth = ground_truth(read_commands(layout, "val"))
    scores = official_scores(read_predictions(real_samples / "talk2car" / "predictions_example.json"), truth)
    assert (scores["n"], scores["ap50"], scores["average_iou"]) == (502, 1.0, 1.0)
