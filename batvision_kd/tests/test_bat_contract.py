"""Every command line of the contract, verbatim, in a folder of its own; data and model are shrunk behind the parser."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bat_samples import TINY

from batvision_kd import command as command_module
from batvision_kd.config import Settings, resolve
from batvision_kd.flags import parse
from batvision_kd.training import train

PACKAGE = Path(__file__).parents[1]
PRESETS = PACKAGE / "run_rgb_depth_examples.sh"
TRAIN = "python train_rgb_depth.py --dataset batvisionv2 --batch_size 64 --use_wandb"
TEACHER = """\
python train_rgb_depth.py \\
    --dataset batvisionv2 \\
    --base_channels 64 \\
    --nb_epochs 200 \\
    --experiment_name rgb_teacher_for_kd"""
KINDS = {program: kind for kind, program in command_module.PROGRAMS.items()}
# number: (experiment name, settings that differ from the defaults)
PRESET_SETTINGS = {
    1: ("rgb_depth_basic_v1", {}),
    2: ("rgb_depth_wandb_v1", {"training.use_wandb": True}),
    3: ("rgb_depth_lightweight_v1", {"model.base_channels": 32, "training.batch_size": 128,
                                     "training.learning_rate": 2e-4}),
    4: ("rgb_depth_highcap_v1", {"training.batch_size": 32, "training.learning_rate": 5e-5}),
    6: ("rgb_teacher_for_kd", {"training.save_frequency": 5}),
    7: ("rgb_depth_smooth_v1", {"loss.lambda_smooth": 0.2}),
    8: ("rgb_depth_test", {"training.batch_size": 16, "training.nb_epochs": 2, "training.save_frequency": 1,
                           "data.image_size": (128, 128)}),
}  # fmt: skip


@pytest.fixture
def asked(tmp_path, monkeypatch) -> list[Settings]:
    """What the command lines asked for; they are then run at the size of the tiny configuration."""
    monkeypatch.chdir(tmp_path)
    seen: list[Settings] = []

    def shrunk(settings: Settings, **request):
        seen.append(settings)
        tiny = resolve(settings.kind, [TINY])
        data = tiny.data.model_copy(update={"embedded_dir": Path("data")})
        small = {
            "experiment_name": settings.name,
            "model": tiny.model,
            "data": data,
            "training": tiny.training.model_copy(update={"nb_epochs": 1}),
        }
        return train(settings.model_copy(update=small), **request)

    monkeypatch.setattr(command_module, "train", shrunk)
    return seen


def run(line: str) -> int:
    _, script, *words = shlex.split(line.replace("\\\n", " "))
    return command_module.main(KINDS[script], words)


def test_the_first_command_trains_without_data_gpu_or_wandb(asked, capsys):
    assert run(TRAIN) == 0
    out = capsys.readouterr().out
    assert "EMBEDDED DATA" in out and "no GPU: 1 epochs of 6 samples" in out
    assert (asked[0].training.batch_size, asked[0].training.use_wandb) == (64, True)
    assert Path("checkpoints/rgb_depth_batvisionv2_BS64_Lr0.0001_AdamW/best_model.pth").is_file()


def test_the_notes_whole_way_from_teacher_to_student(asked, capsys):
    """The teacher's command, the file that `ls -lh` names, and the two students' scripts; each says that the data are
    embedded."""
    assert run(TEACHER) == 0
    assert (asked[0].model.base_channels, asked[0].training.nb_epochs) == (64, 200)
    assert Path("checkpoints/rgb_teacher_for_kd/best_model.pth").stat().st_size > 0
    assert run("python train_binaural_attention.py --dataset batvisionv2 --attention_levels 2 3 4 5") == 0
    assert asked[1].model.attention_levels == (2, 3, 4, 5)
    assert run("python train_distillation.py --teacher checkpoints/rgb_teacher_for_kd/best_model.pth") == 0
    for number in range(2):
        name = asked[number + 1].name
        assert all(Path(what, name).is_dir() for what in ("checkpoints", "logs", "results"))
    assert capsys.readouterr().out.count("EMBEDDED DATA") == 3


def test_the_notes_load_line_works(asked):
    from batvision_kd.models import create_rgb_depth_model

    assert run(TEACHER) == 0
    teacher = create_rgb_depth_model(base_channels=4)
    teacher.load_state_dict(torch.load("checkpoints/rgb_teacher_for_kd/best_model.pth"))
    depth, features = teacher.eval()(torch.rand(1, 3, 64, 64), return_features=True)
    assert depth.shape == (1, 1, 256, 256) and set(features) == {f"x{n}" for n in range(1, 6)} | {
        f"d{n}" for n in range(1, 5)
    }


# --- presets ----------------------------------------------------------------------------------------------------------


def preset(*words: str, given: str = "") -> subprocess.CompletedProcess:
    """The script with a `python` that prints what it was asked to run."""
    return subprocess.run(["bash", str(PRESETS), *words], env={**os.environ, "PYTHON": "echo"}, input=given,
                          capture_output=True, text=True)  # fmt: skip


def settings_of(done: subprocess.CompletedProcess) -> Settings:
    assert done.returncode == 0, done.stderr
    script, *words = shlex.split(done.stdout)
    assert script == str(PACKAGE / "train_rgb_depth.py") and words[:2] == ["--dataset", "batvisionv2"]
    return parse("rgb", words, "x").settings()


@pytest.mark.parametrize("number", PRESET_SETTINGS)
def test_a_preset_asks_for_the_users_values(number):
    name, changed = PRESET_SETTINGS[number]
    wanted = resolve(
        "rgb",
        overrides=[
            f"experiment_name={name}",
            *(
                f"{key}={list(value) if isinstance(value, tuple) else str(value).lower()}"
                for key, value in changed.items()
            ),
        ],
    )
    assert settings_of(preset(str(number))) == wanted


def test_presets_pass_more_arguments_on_and_those_win():
    assert settings_of(preset("6", "--base_channels", "16", "--use_wandb")).model.base_channels == 16


def test_resume_takes_name_and_epoch_and_needs_both_without_a_terminal():
    done = preset("5", "my_run", "12", "--seed", "3")
    assert done.returncode == 0
    assert shlex.split(done.stdout)[1:] == ["--dataset", "batvisionv2", "--experiment_name", "my_run", "--checkpoints",
                                            "12", "--seed", "3"]  # fmt: skip
    done = preset("5", "my_run")
    assert done.returncode == 1 and "NAME EPOCH" in done.stderr


@pytest.mark.parametrize("words", [(), ("9",), ("x",)])
def test_anything_else_is_usage_on_stderr_and_1(words):
    done = preset(*words)
    assert (done.returncode, done.stdout) == (1, "") and "usage" in done.stderr


def test_zero_leaves():
    assert (preset("0").returncode, preset("0").stdout) == (0, "")


def test_entry_scripts_are_thin_and_name_their_kind():
    for kind, program in command_module.PROGRAMS.items():
        text = (PACKAGE / program).read_text()
        assert len(text.splitlines()) < 15 and re.search(rf'main\("{kind}"\)', text)


@pytest.mark.slow
def test_the_quick_preset_runs_as_it_stands(tmp_path):
    """Preset 8 on the embedded 64 + 16 + 16 samples: the budget is 5 minutes on two cores."""
    shutil.copytree(
        PACKAGE, tmp_path / "p", ignore=shutil.ignore_patterns("data", "checkpoints", "logs", "results", "tests")
    )
    shutil.copytree(PACKAGE / "batvision_kd/data", tmp_path / "p/batvision_kd/data")
    env = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(tmp_path / "p")}
    done = subprocess.run(["bash", "run_rgb_depth_examples.sh", "8"], cwd=tmp_path / "p", env=env, capture_output=True,
                          text=True, timeout=1800)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "p/checkpoints/rgb_depth_test/best_model.pth").is_file()
