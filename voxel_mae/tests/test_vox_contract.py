"""The contract's two command lines, verbatim, from the package's root and from tools/; data and model are shrunk."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from vox_samples import arguments, prepare_work, run_folder

from shared import checkpoint
from shared.errors import ConfigError
from voxel_mae import commands
from voxel_mae import flags as flags_module
from voxel_mae.config import PACKAGE_ROOT
from voxel_mae.flags import Request, parse_config, train_parser
from voxel_mae.pcdet_yaml import load_experiment

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
ROOT, TOOLS = PACKAGE_ROOT, PACKAGE_ROOT / "tools"
FLAGS = {
    "cfg_file", "batch_size", "epochs", "workers", "extra_tag", "ckpt", "pretrained_model", "launcher", "tcp_port",
    "sync_bn", "fix_random_seed", "ckpt_save_interval", "local_rank", "max_ckpt_save_num",
    "merge_all_iters_to_one_epoch", "set", "max_waiting_mins", "start_epoch", "num_epochs_to_eval", "save_to_file",
    "use_tqdm_to_record", "logger_iter_interval", "ckpt_save_time_interval", "wo_gpu_stat", "use_amp",
}  # fmt: skip
OWN = {"bf16", "seed", "device", "output_dir", "loader_timeout_s", "validate", "save_every", "keep", "help"}
TEST_FLAGS = {
    "cfg_file", "batch_size", "workers", "extra_tag", "ckpt", "pretrained_model", "launcher", "tcp_port", "local_rank",
    "set", "max_waiting_mins", "start_epoch", "eval_tag", "eval_all", "ckpt_dir", "save_to_file", "infer_time",
}  # fmt: skip


@pytest.fixture
def asked(tmp_path, monkeypatch) -> list[Request]:
    """What the command lines asked for; they are then run at the tiny size, into tmp_path/output."""
    work, seen = prepare_work(tmp_path / "work"), []

    def shrunk(program, argv=None):
        request = parse_config(program, argv)
        seen.append(request)
        stage, args = request.experiment.stage, request.args
        tiny = load_experiment(work / f"cfgs/tiny/{stage}.yaml", ["OPTIMIZATION.NUM_EPOCHS", "1"])
        args.output_dir, args.workers, args.device, args.batch_size = tmp_path / "output", 0, "cpu", 2
        if args.pretrained_model:
            name = args.pretrained_model.name.replace("30", "1")
            args.pretrained_model = tmp_path / args.pretrained_model.with_name(name)
        return Request(args, request.config_file, tiny)

    monkeypatch.setattr(commands, "parse_config", shrunk)
    return seen


def torchrun_words(words: list[str], cwd: Path) -> list[str]:
    """What the script hands to torchrun: the words after `--`."""
    done = subprocess.run(words, cwd=cwd, env={**os.environ, "PYTHON": "echo"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    given = shlex.split(done.stdout)
    assert given[: given.index("--")] == TORCHRUN
    return given[given.index("--") + 1 :]


@pytest.mark.readme(
    """python tools/train_rmae_cmae_phase1.py \\
    --cfg_file cfgs/custom_models/rmae_cmae_isarc_4class_pretraining_phase1.yaml \\
    --batch_size 8 \\
    --epochs 30 \\
    --extra_tag rmae_cmae_pretraining_phase1""",
    """bash scripts/dist_train.sh 1 \\
    --cfg_file cfgs/custom_models/rmae_cmae_isarc_4class_finetune_phase1.yaml \\
    --pretrained_model output/custom_models/rmae_cmae_isarc_4class_pretraining_phase1/rmae_cmae_pretraining_phase1/ckpt/checkpoint_epoch_30.pth \\
    --batch_size 8 \\
    --extra_tag rmae_cmae_finetune_phase1""",  # noqa: E501
)
@pytest.mark.parametrize("cwd", [ROOT, TOOLS], ids=["root", "tools"])
def test_both_commands_from_root_and_tools_leave_the_stated_files(cwd, asked, tmp_path, monkeypatch, capsys, readme):
    monkeypatch.chdir(cwd)
    stage_1, stage_2 = readme
    script, *rest = stage_1.words[1:]
    script = script.removeprefix("tools/") if cwd == TOOLS else script
    assert Path(script).is_file()
    assert commands.main(Path(script).name, rest) == 0
    out = tmp_path / "output/custom_models"
    first = out / "rmae_cmae_isarc_4class_pretraining_phase1/rmae_cmae_pretraining_phase1"
    state = checkpoint.load(first / "ckpt/checkpoint_epoch_1.pth")
    assert {"epoch", "it", "model_state", "optimizer_state", "version"} <= state.keys() and state["epoch"] == 1
    script, *rest = torchrun_words(stage_2.words, cwd)
    assert Path(script).resolve() == TOOLS / "train.py"
    monkeypatch.setenv("WORLD_SIZE", "1"), monkeypatch.setenv("RANK", "0"), monkeypatch.setenv("LOCAL_RANK", "0")
    assert commands.main("train.py", rest) == 0
    second = out / "rmae_cmae_isarc_4class_finetune_phase1/rmae_cmae_finetune_phase1"
    left = ("ckpt/checkpoint_epoch_1.pth", "ckpt/latest_model.pth", "tensorboard",
            "eval/eval_with_train/epoch_1/val/result.json", "rmae_cmae_isarc_4class_finetune_phase1.yaml")  # fmt: skip
    for path in left:
        assert (second / path).exists(), path
    assert next(second.glob("train_*.log")).read_text()
    assert "loaded" in capsys.readouterr().out
    assert [one.args.extra_tag for one in asked] == ["rmae_cmae_pretraining_phase1", "rmae_cmae_finetune_phase1"]
    assert (asked[0].experiment.OPTIMIZATION.NUM_EPOCHS, asked[1].experiment.OPTIMIZATION.NUM_EPOCHS) == (30, 50)


@pytest.mark.readme(
    "python tools/train.py --cfg_file cfgs/custom_models/rmae_cmae_isarc_4class_finetune_phase1.yaml --validate",
    "python tools/train.py --cfg_file cfgs/custom_models/rmae_cmae_isarc_4class_finetune_phase1.yaml",
    "python tools/test.py --cfg_file cfgs/custom_models/rmae_cmae_isarc_4class_finetune_phase1.yaml",
)
def test_a_root_is_checked_a_detector_trained_from_scratch_and_judged(asked, tmp_path, readme):
    check, training, judging = readme
    assert "no problem found" in check.run(ROOT)
    assert not (tmp_path / "output").exists()
    training.run(ROOT)
    run = tmp_path / "output/custom_models/rmae_cmae_isarc_4class_finetune_phase1/default"
    names = ("ckpt/latest_model.pth", "eval/eval_with_train/epoch_1/val/scores.json", "run.json", "metrics.jsonl",
             "config.yaml", "log.txt")  # fmt: skip
    assert [name for name in names if not (run / name).is_file()] == []
    judging.run(ROOT)
    assert (run / "eval/epoch_1/val/default/scores.json").is_file()


def test_the_weights_that_pretraining_leaves_arrive_in_the_detector(tmp_path, monkeypatch):
    """And an epoch later the backbone has moved a tenth as fast: the builder was called (T16)."""
    work = prepare_work(tmp_path / "work")
    short = ["--epochs", "1", "--num_epochs_to_eval", "0"]
    assert commands.main(commands.PRETRAIN, arguments(work, "pretrain", *short)) == 0
    weights = run_folder(work, "pretrain") / "ckpt/checkpoint_epoch_1.pth"
    seen = {}

    from voxel_mae.engine import training

    build = training.build_loop

    def spy(session, model, sampler):
        seen["start"] = {name: value.clone() for name, value in model.state_dict().items()}
        seen["loop"] = build(session, model, sampler)
        return seen["loop"]

    monkeypatch.setattr(training, "build_loop", spy)
    assert commands.main(commands.TRAIN, arguments(work, "finetune", *short, "--pretrained_model", str(weights))) == 0
    left = checkpoint.load(weights)["model_state"]
    for name, value in seen["start"].items():
        if name.startswith("backbone_3d.") and "conv_out" not in name:
            assert torch.equal(value, left[f"pretrainer.{name}"]), name
    rates = {group["name"]: group["lr"] for group in seen["loop"].optimizer.param_groups}
    assert rates["dense_head.*"] == pytest.approx(20 * rates["backbone_3d.*"])


def test_changed_epochs_and_the_wrong_program_are_refused(tmp_path, capsys):
    work = prepare_work(tmp_path / "work")
    once = arguments(work, "finetune", "--epochs", "1", "--num_epochs_to_eval", "0")
    assert commands.main(commands.PRETRAIN, once) == 2
    assert "this is work for tools/train.py" in capsys.readouterr().err
    assert commands.main(commands.TRAIN, once) == 0
    capsys.readouterr()
    assert commands.main(commands.TRAIN, [*once, "--epochs", "2"]) == 2
    assert "NUM_EPOCHS: 1 -> 2" in capsys.readouterr().err
    assert commands.main(commands.TRAIN, once) == 0 and "is finished" in capsys.readouterr().out
    assert commands.main(commands.TRAIN, [*once, "--use_amp", "--extra_tag", "amp"]) == 2
    assert "CUDA only" in capsys.readouterr().err
    assert commands.main(commands.TEST, _judging(work, "--save_to_file", "--eval_tag", "x")) == 0
    folder = run_folder(work, "finetune") / "eval/epoch_1/val/x"
    assert {path.name for path in folder.iterdir()} == {"scores.json", "result.json", "final_result"}
    assert commands.main(commands.TEST, _judging(work, "--eval_all", "--max_waiting_mins", "0")) == 0
    assert (run_folder(work, "finetune") / "eval/eval_all_default/default/epoch_1/val/scores.json").is_file()


def _judging(work: Path, *more: str) -> list[str]:
    return ["--cfg_file", str(work / "cfgs/tiny/finetune.yaml"), "--output_dir", str(work / "output"),
            "--extra_tag", "t", "--workers", "0", "--device", "cpu", "--set", "DATA_CONFIG.DATA_PATH",
            str(work / "site"), *more]  # fmt: skip


@pytest.mark.fault(15)
def test_a_root_that_is_set_and_missing_is_an_error_and_never_the_embedded_world(tmp_path, capsys):
    work = prepare_work(tmp_path / "work")
    argv = arguments(work, "finetune", "--set", "DATA_CONFIG.DATA_PATH", str(tmp_path / "nowhere"))
    assert commands.main(commands.TRAIN, argv) == 2
    captured = capsys.readouterr()
    assert "nowhere" in captured.err and "EMBEDDED" not in captured.out


@pytest.mark.fault(15)
def test_judged_frames_without_labels_are_told_before_anything_is_trained(tmp_path, capsys):
    """By train.py before its first step, and by test.py; pretraining judges without labels."""
    work = prepare_work(tmp_path / "work")
    once = ["--epochs", "1", "--num_epochs_to_eval", "0"]
    assert commands.main(commands.TRAIN, arguments(work, "finetune", *once, "--extra_tag", "whole")) == 0
    capsys.readouterr()
    for path in sorted((work / "site/labels").glob("*.txt"))[-2:]:
        path.unlink()
    told = "2 of the 3 frames of val have no labels, the first is drive7_007"
    assert commands.main(commands.TRAIN, arguments(work, "finetune", *once)) == 2
    captured = capsys.readouterr()
    assert told in captured.err and "epochs of" not in captured.out
    assert not (run_folder(work, "finetune") / "ckpt").exists()
    weights = run_folder(work, "finetune", "whole") / "ckpt/checkpoint_epoch_1.pth"
    assert commands.main(commands.TEST, _judging(work, "--ckpt", str(weights))) == 2
    assert told in capsys.readouterr().err
    assert commands.main(commands.PRETRAIN, arguments(work, "pretrain", *once)) == 0
    assert "training: 6 frames of train, straight from the folder, not prepared; judging: 3" in capsys.readouterr().out


@pytest.mark.fault(15)
def test_validate_lists_every_problem(tmp_path, capsys):
    work = prepare_work(tmp_path / "work")
    assert commands.main(commands.TRAIN, arguments(work, "finetune", "--validate")) == 0
    labels = sorted((work / "site/labels").glob("*.txt"))
    labels[0].write_text("1 2 3\n"), labels[1].write_text("0 0 0 1 1 1 0 spaceship\n")
    capsys.readouterr()
    assert commands.main(commands.TRAIN, arguments(work, "finetune", "--validate")) == 2
    told = capsys.readouterr().out
    assert labels[0].name in told and "spaceship" in told


# --- flags and scripts ------------------------------------------------------------------------------------------------


def flags(parser) -> set[str]:
    return {name.lstrip("-") for action in parser._actions for name in action.option_strings[:1] if "--" in name} | {
        "help"
    }


def test_the_flags_are_openpcdets_and_the_few_of_our_own():
    assert flags(train_parser("train.py")) == FLAGS | OWN
    assert flags(flags_module.test_parser()) == TEST_FLAGS | OWN - {"save_every", "keep"}
    defaults = train_parser("train.py").parse_args(["--cfg_file", "x"])
    assert (defaults.workers, defaults.extra_tag, defaults.max_ckpt_save_num) == (4, "default", 30)
    assert (defaults.logger_iter_interval, defaults.ckpt_save_time_interval) == (50, 300)


@pytest.mark.fault(21)
@pytest.mark.parametrize("flag", ["extra_tag", "eval_tag"])
@pytest.mark.parametrize("name", ["../../x", "/x", "", ".hidden", "a/b"])
def test_a_tag_cannot_lead_out_of_the_output_folder(flag, name):
    words = ["--cfg_file", "cfgs/custom_models/rmae_cmae_isarc_4class_finetune_phase1.yaml", f"--{flag}", name]
    with pytest.raises(ConfigError, match=f"--{flag} .* is not a usable name"):
        flags_module.parse_config("test.py", words)


def test_slurms_words_become_torchruns():
    given = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_NODELIST": "gpu[07-08,11]"}
    process = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    assert commands.slurm_environment(given) == {**process, "MASTER_ADDR": "gpu07", "MASTER_PORT": "29500"}
    assert commands.slurm_environment({**given, "SLURM_NODELIST": "a-1,a-2"})["MASTER_ADDR"] == "a-1"


@pytest.mark.parametrize("name", ["dist_train", "dist_test", "slurm_train"])
def test_scripts_without_arguments_say_how_they_are_used(name):
    for folder in (ROOT / "scripts", TOOLS / "scripts"):
        done = subprocess.run(["bash", str(folder / f"{name}.sh")], capture_output=True, text=True)
        assert done.returncode != 0 and "usage: " in done.stderr


@pytest.mark.slow
def test_the_second_command_really_runs_under_torchrun(tmp_path):
    work = prepare_work(tmp_path / "work")
    argv = arguments(work, "finetune", "--epochs", "1")
    env = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(["bash", str(ROOT / "scripts/dist_train.sh"), "2", *argv], env=env, capture_output=True,
                          text=True, timeout=600)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (run_folder(work, "finetune") / "ckpt/checkpoint_epoch_1.pth").is_file()
