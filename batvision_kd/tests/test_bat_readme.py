"""The command lines of both READMEs, run as they stand from a folder of their own, on a few samples of the world."""

import json
import os
import pty
import shutil
import subprocess
from pathlib import Path

import matplotlib.pyplot  # noqa: F401 - this and tensorboard once, here: every line is run in a fork
import pytest
import torch.utils.tensorboard  # noqa: F401
import yaml
from bat_samples import TEACHER, TINY, trained

from batvision_kd.experiment_plan import DEFAULT_PLAN, QUICK_PLAN
from batvision_kd.world import write_world

# A later flag wins over the line's own, and any flag over --config.
SMALL = ("--config", TINY, "--nb_epochs", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the lines are started: it holds the data root that they name, and an echo."""
    work = tmp_path_factory.mktemp("readme")
    write_world(work / "data/BatvisionV2", train=6, val=3, test=3, size_hw=(36, 64), workers=0)
    shutil.copy(next(work.glob("data/BatvisionV2/*/audio/*.wav")), work / "echo.wav")
    return work


def holds_a_run(folder: Path, name: str) -> bool:
    """The files that the README names of a training."""
    names = (f"checkpoints/{name}/best_model.pth", f"checkpoints/{name}/best_model.pth.json",
             f"checkpoints/{name}/epoch_0001.pth", f"logs/{name}/run.json", f"logs/{name}/config.yaml",
             f"logs/{name}/metrics.jsonl", f"logs/{name}/log.txt", f"results/{name}/report.html")  # fmt: skip
    return not [path for path in names if not (folder / path).is_file()]


def scores(folder: Path, file: str) -> dict:
    return json.loads((folder / file).read_text())["results"]["scores"]


@pytest.mark.readme(
    "python inspect_data.py data/BatvisionV2",
    "python train_rgb_depth.py --data_dir data/BatvisionV2 --dataset batvisionv2 --experiment_name rgb_teacher_for_kd",
    "python train_binaural_attention.py --data_dir data/BatvisionV2 --experiment_name audio_only",
    "python train_distillation.py --data_dir data/BatvisionV2 --teacher checkpoints/rgb_teacher_for_kd/best_model.pth"
    " --experiment_name distilled",
    "python evaluate.py --checkpoint checkpoints/distilled/best_model.pth --controls",
    "python evaluate.py --checkpoint checkpoints/distilled/best_model.pth --split val --protocol strict official"
    " --controls",
    "python evaluate.py --checkpoint checkpoints/distilled/best_model.pth --confidence --out judged",
    "python listen.py --checkpoint checkpoints/distilled/best_model.pth --confidence judged/confidence.json --out heard"
    " echo.wav",
)
def test_from_a_data_root_to_a_student_that_listens(readme, folder):
    check, *trainings, judge, judge_val, calibrate, listen = readme
    assert "12 records" in check.run(folder)
    for line, name in zip(trainings, ("rgb_teacher_for_kd", "audio_only", "distilled"), strict=True):
        line.run(folder, *SMALL)
        assert holds_a_run(folder, name)
    judge.run(folder)
    assert {"model", "shuffled", "swapped"} < set(scores(folder, "results/distilled/evaluation-test/scores.json"))
    judge_val.run(folder)
    found = scores(folder, "results/distilled/evaluation-val/scores.json")
    assert set(found["model"]) == {"strict", "official"}
    calibrate.run(folder)
    assert "mean confidence" in listen.run(folder)
    assert (folder / "heard/echo_depth.png").is_file()


@pytest.mark.readme("python export.py --checkpoint checkpoints/distilled/best_model.pth")
def test_the_student_is_exported(readme, tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    trained("audio", tmp_path, "--experiment_name", "distilled")
    (line,) = readme
    assert "against PyTorch" in line.run(tmp_path)
    assert (tmp_path / "checkpoints/distilled/onnx/student.onnx").is_file()


@pytest.mark.readme(
    "python train_rgb_depth.py --data_dir data/BatvisionV2 --experiment_name rgb_teacher_for_kd",
    "python evaluate.py --checkpoint checkpoints/rgb_teacher_for_kd/best_model.pth --controls",
)
def test_the_teacher_on_a_data_root(readme, folder, tmp_path):
    train, judge = readme
    (tmp_path / "data").symlink_to(folder / "data")
    train.run(tmp_path, *SMALL)
    judge.run(tmp_path)
    assert "model" in scores(tmp_path, "results/rgb_teacher_for_kd/evaluation-test/scores.json")


@pytest.mark.slow
@pytest.mark.readme(
    "python train_rgb_depth.py --dataset batvisionv2 --base_channels 64 --nb_epochs 200"
    " --experiment_name rgb_teacher_for_kd",
    "python train_distillation.py --teacher checkpoints/rgb_teacher_for_kd/best_model.pth --lambda_kd 0.5"
    " --lambda_feat 0.0 --experiment_name kd_depth",
    "python train_distillation.py --teacher checkpoints/rgb_teacher_for_kd/best_model.pth --lambda_kd 0.5"
    " --lambda_feat 0.1 --experiment_name kd_full",
    "python train_distillation.py --teacher checkpoints/rgb_teacher_for_kd/best_model.pth --adaptive cosine"
    " --set distillation.adaptive.balance=true --experiment_name kd_adaptive",
)
def test_the_guide_to_distillation(readme, tmp_path):
    names = ("rgb_teacher_for_kd", "kd_depth", "kd_full", "kd_adaptive")
    for line, name in zip(readme, names, strict=True):
        line.run(tmp_path, *SMALL, "--base_channels", "4")
        assert holds_a_run(tmp_path, name)


@pytest.mark.readme(
    "python train_rgb_depth.py --dataset batvisionv2 --batch_size 64 --use_wandb",
    "python train_binaural_attention.py --attention_levels 2 3 4 5 --criterion Combined",
    "python train_distillation.py --dataset batvisionv2",
)
def test_trainings_without_a_root_write_their_world_and_say_so(readme, tmp_path):
    """The last line has no teacher of its own: it takes the first one's, under the name that it looks for."""
    *others, plain = readme
    for line, name in zip(others, ("rgb_teacher_for_kd", "audio"), strict=True):
        assert "EMBEDDED DATA" in line.run(tmp_path, *SMALL, "--experiment_name", name)
        assert holds_a_run(tmp_path, name)
    plain.run(tmp_path, *SMALL)


@pytest.mark.slow
@pytest.mark.readme("python train_distillation.py --kd_region invalid --adaptive cosine --crossfit_folds 3")
def test_crossfitting_trains_its_teachers(readme, tmp_path):
    trained("rgb", tmp_path, "--experiment_name", TEACHER)  # of the features
    (line,) = readme
    line.run(tmp_path, *SMALL, "--experiment_name", "crossfitted")
    assert holds_a_run(tmp_path, "crossfitted")


@pytest.mark.readme("python -m batvision_kd.world data/world --train 700 --val 100 --test 200")
def test_a_world_is_written(readme, tmp_path):
    (line,) = readme
    line.run(tmp_path, "--train", "3", "--val", "1", "--test", "1", "--size", "36", "64", "--workers", "0")
    assert len(list((tmp_path / "data/world").glob("*/audio/*.wav"))) == 5


@pytest.mark.readme("python verify_feature_compatibility.py")
def test_the_models_of_the_contract_fit(readme, tmp_path):
    (line,) = readme
    assert "Ready for distillation" in line.run(tmp_path, "--base_channels", "8", "--size", "64")


# --- presets ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.readme("bash run_rgb_depth_examples.sh 6", "bash run_rgb_depth_examples.sh 8")
def test_presets_train(readme, tmp_path):
    for line, name in zip(readme, ("rgb_teacher_for_kd", "rgb_depth_test"), strict=True):
        line.run(tmp_path, *SMALL, "--base_channels", "4", "--save_frequency", "1")
        assert holds_a_run(tmp_path, name)


@pytest.mark.readme("bash run_rgb_depth_examples.sh")
def test_the_menu_asks_in_a_terminal(readme):
    (line,) = readme
    terminal, keyboard = pty.openpty()
    os.write(terminal, b"3\n")
    done = subprocess.run(line.words, cwd=line.package, env={**os.environ, "PYTHON": "echo"}, stdin=keyboard,
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    os.close(terminal), os.close(keyboard)
    assert done.returncode == 0 and "high capacity" in done.stdout
    assert done.stdout.endswith("--experiment_name rgb_depth_lightweight_v1\n")


# --- the comparison ---------------------------------------------------------------------------------------------------


def write_demo(folder: Path) -> None:
    """config/demo.yaml with the sizes of the quick plan: its arms, seeds and choice stay."""
    demo, quick = (yaml.safe_load(path.read_text()) for path in (DEFAULT_PLAN.with_name("demo.yaml"), QUICK_PLAN))
    del demo["arms"]["rgb"]["settings"]  # its epochs
    (folder / "config").mkdir()
    (folder / "config/demo.yaml").write_text(yaml.safe_dump({**demo, "settings": quick["settings"], "batch_size": 4}))


@pytest.mark.readme("python train_distillation.py --experiments --config config/demo.yaml")
def test_the_demo(readme, tmp_path):
    write_demo(tmp_path)
    (line,) = readme
    line.run(tmp_path)
    assert "embedded synthetic data" in (tmp_path / "results/demo/report.html").read_text()
    found = json.loads((tmp_path / "results/demo/experiments.json").read_text())["results"]
    assert set(found["test"]) == {"rgb", "audio", "kd_full"}


@pytest.mark.slow
@pytest.mark.readme("python train_distillation.py --experiments --quick",
                    "python train_distillation.py --experiments --minutes 25")  # fmt: skip
def test_the_comparison_tried_and_continued(readme, tmp_path):
    """The second line on the first one's plan: it finds every piece there."""
    quick, minutes = readme
    quick.run(tmp_path)
    made = (tmp_path / "checkpoints").stat().st_mtime_ns
    minutes.run(tmp_path, "--config", QUICK_PLAN)
    assert (tmp_path / "checkpoints").stat().st_mtime_ns == made
    assert (tmp_path / "results/experiments_quick/report.html").is_file()
