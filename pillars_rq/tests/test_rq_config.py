"""The contract's YAML: it loads as it stands, its contradictions are settled as documented, mistakes are named."""

from pathlib import Path

import pytest
import torch
from rq_run_samples import CONTRACT, contract

from pillars_rq import rq_command
from pillars_rq.config import RqConfig, bits_per_pillar, check_network, resolve, warnings_of
from pillars_rq.grid import Grid
from pillars_rq.progressive import describe, stages_of
from shared.config import config_hash, load_config
from shared.errors import ConfigError

VALUES = {
    "dataset": {"name": "KITTI", "dir": "datasets", "num_classes": 3},
    "model": {"pre_trained_model": "b0", "n_codebook": 5, "pretrained_weight": "pretrained/epoch_160.pth"},
    "progressive_learning": {"enabled": True, "embedding_schedule": [16, 32, 64, 128, 256],
                             "embedding_stage_epochs": 20, "warmup_epochs": 2},
    "training": {"mode": "train", "batch_size": 6, "num_workers": 4, "max_epoch": 100, "init_lr": 0.001,
                 "ckpt_freq_epoch": 20, "patience": 5, "early_stopping_patience": 5},
    "rq_model": {"latent_shape": [496, 432, 64], "code_shape": [496, 432, 1], "codebook_size": 64, "decay": 0.99},
    "loss_weights": {"vq_weight": 0.25, "codebook_weight": 0.1, "det_weight": 0.8},
    "evaluation": {"enabled": False, "use_num_codebook": 1, "use_num_embedding": 16, "rq_ckpt": None},
    "logging": {"use_wandb": True, "wandb_project": "pointpillars-rq-progressive", "wandb_name": None, "log_freq": 8,
                "saved_path": "progressive_rq_logs", "save_stage_weights": True},
    "hardware": {"gpu": 1},
}  # fmt: skip
NOT_DEFAULTS = {"dataset.dir", "model.pre_trained_model", "rq_model.latent_shape", "rq_model.code_shape"}


def load(*settings: str) -> RqConfig:
    return load_config(RqConfig, [CONTRACT], settings)


def resolved(*argv: str) -> RqConfig:
    return resolve(rq_command.parser().parse_args(["--config", str(CONTRACT), *argv]))


def test_the_contract_s_file_is_the_contract_s():
    assert contract() == VALUES


def test_the_contract_s_file_loads_with_every_value():
    loaded = load().model_dump(mode="json")
    for section, values in VALUES.items():
        assert {name: loaded[section][name] for name in values} == values


def test_the_defaults_are_the_contract_s_values():
    empty = RqConfig().model_dump(mode="json")
    differing = {
        f"{section}.{name}" for section, values in VALUES.items() for name, value in values.items()
        if empty[section][name] != value
    }  # fmt: skip
    assert differing == NOT_DEFAULTS


@pytest.mark.fault(19)
@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("training.batchsize=4", "did you mean training.batch_size"),
        ("progresive_learning.enabled=true", "did you mean progressive_learning"),
        ("training.mode=test", "training.mode = 'test'"),
        ("training.init_lr='0.1'", "training.init_lr"),
        ("progressive_learning.embedding_schedule=[64, 32]", "sizes that grow"),
        ("progressive_learning.embedding_schedule=[]", "sizes that grow"),
        ("progressive_learning.warmup_epochs=21", "more than the 20 epochs"),
        ("rq_model.code_shape=[496, 432, 3]", "write 1"),
        ("rq_model.code_shape=[432, 496, 1]", "differ in H, W"),
        ("model.n_codebook=0", "model.n_codebook"),
    ],
)
def test_a_wrong_setting_is_named(setting, says):
    with pytest.raises(ConfigError, match=says.replace("[", r"\[")):
        load(setting)


@pytest.mark.parametrize("last", [1, 5])
def test_code_shape_ends_in_one_or_the_number_of_books(last):
    assert load(f"rq_model.code_shape=[496, 432, {last}]").rq_model.code_shape[2] == last


@pytest.mark.parametrize("schedule", [[8, 16, 32, 64], [32, 64, 128, 256, 512]])
def test_the_advanced_schedules_are_accepted(schedule):
    weights = ("loss_weights.vq_weight=0.5", "loss_weights.codebook_weight=0.2", "loss_weights.det_weight=0.6")
    epochs = ("progressive_learning.embedding_stage_epochs=30", "progressive_learning.warmup_epochs=3")
    config = load(f"progressive_learning.embedding_schedule={schedule}", *epochs, *weights)
    assert [stage.size for stage in stages_of(config)] == schedule * 5
    assert {(stage.epochs, stage.warmup) for stage in stages_of(config)} == {(30, 3)}


def test_shapes_must_be_the_network_s():
    config = load()
    check_network(config, Grid.kitti(), 64, 3)
    for grid, channels, classes, says in (
        (Grid.kitti(), 32, 3, "latent_shape"),
        (Grid((0.0, -20.48, -3.0, 40.96, 20.48, 1.0), (0.32, 0.32, 4.0)), 64, 3, r"\[128, 128, 64\]"),
        (Grid.kitti(), 64, 2, "num_classes 3"),
    ):
        with pytest.raises(ConfigError, match=says):
            check_network(config, grid, channels, classes)


# --- flags


def test_flags_win_over_the_file():
    config = resolved("--gpu", "0", "--no_wandb", "--mode", "eval", "--eval_num_codebooks", "3",
                      "--eval_num_embeddings", "64", "--rq_ckpt", "path/to/checkpoint.pth",
                      "--set", "training.mode=train")  # fmt: skip
    assert (config.hardware.gpu, config.logging.use_wandb, config.training.mode) == (0, False, "eval")
    assert (config.evaluation.use_num_codebook, config.evaluation.use_num_embedding) == (3, 64)
    assert config.evaluation.rq_ckpt == Path("path/to/checkpoint.pth")


def test_mode_beats_evaluation_enabled_which_beats_training_mode():
    assert resolved().training.mode == "train"
    assert resolved("--set", "training.mode=eval").training.mode == "eval"
    assert resolved("--set", "evaluation.enabled=true").training.mode == "eval"
    assert resolved("--set", "evaluation.enabled=true", "--mode", "train").training.mode == "train"


def test_what_does_not_matter_to_the_result_does_not_start_another_run():
    def hashed(*argv: str) -> str:
        return config_hash(resolved(*argv), rq_command.NOT_HASHED)

    assert hashed() == hashed("--gpu", "0") == hashed("--no_wandb") == hashed("--mode", "eval")
    assert hashed() != hashed("--set", "training.init_lr=0.01")


# --- what is said at the start


def test_contradictions_are_told_once_each():
    found = warnings_of(load())
    assert len(found) == 3
    assert "pre_trained_model 'b0'" in found[0]
    assert "25 stages of 20 epochs are 500" in found[1]
    assert "early_stopping_patience 5" in found[2]
    quiet = load("model.pre_trained_model=null", "training.max_epoch=500", "training.patience=3")
    assert warnings_of(quiet) == []


def test_a_default_that_nobody_set_is_no_contradiction():
    embedded = [CONTRACT.with_name("embedded.yaml")]
    assert warnings_of(load_config(RqConfig, embedded, [])) == []
    (told,) = warnings_of(load_config(RqConfig, embedded, ["training.patience=9"]))
    assert "training.patience 9" in told
    (told,) = warnings_of(load_config(RqConfig, embedded, ["training.max_epoch=30"]))
    assert "training.max_epoch 30" in told


def test_the_other_reading_of_max_epoch_spreads_it_over_the_stages():
    stages = stages_of(load("progressive_learning.split_max_epoch=true", "training.max_epoch=103"))
    assert [stage.epochs for stage in stages] == [5] * 3 + [4] * 22
    assert sum(stage.epochs for stage in stages) == 103


def test_a_missing_gpu_falls_back_with_a_warning(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for count, name in ((2, "cuda:1"), (1, "cuda:0"), (0, "cpu")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert rq_command.device_name(load()) == name
    assert rq_command.device_name(load("hardware.gpu=-1")) == "cpu"
    assert capsys.readouterr().err.count("hardware.gpu 1 is not there") == 2


def test_the_plan_is_told():
    assert "25 stages of 20 epochs (2 of warm-up), 500 epochs at most" in describe(stages_of(load()))
    legacy = stages_of(load("progressive_learning.enabled=false"))
    assert describe(legacy) == "legacy: 5 codebooks of 64 rows trained jointly for 100 epochs"


def test_fixed_bits():
    points = {(1, 16): 4, (3, 64): 18, (5, 256): 40, (2, 48): 12}
    assert {point: bits_per_pillar(*point) for point in points} == points
