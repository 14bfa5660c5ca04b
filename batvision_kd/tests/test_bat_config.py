"""Settings, flags, batches, schedules: what a command line means, without training anything."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from batvision_kd.config import Settings, resolve
from batvision_kd.flags import COMMON, FLAGS, STUDENT, TEACHING, make_parser, parse
from batvision_kd.training.batches import BatchSampler
from batvision_kd.training.micro_batch import Cost, estimate, fitting, free_memory, measure
from batvision_kd.training.objective import Task, ignored_settings
from batvision_kd.training.schedule import schedule_of
from shared.config import to_yaml
from shared.errors import ConfigError

CONTRACT = {
    "dataset": "batvisionv2", "batch_size": 64, "num_workers": 4, "base_channels": 64, "bilinear": True,
    "lambda_l1": 1.0, "lambda_smooth": 0.1, "learning_rate": 1e-4, "nb_epochs": 200, "optimizer": "AdamW",
    "weight_decay": 0.01, "scheduler": "cosine", "save_frequency": 2, "use_wandb": False, "seed": 42,
    "device": "auto",
}  # fmt: skip
OWN = {"embedded_samples", "checkpoints", "fresh", "config", "set", "help"}
CONTRACT_STUDENT = {"attention_levels", "criterion", "silog_lambda", "l1_weight", "silog_weight"}
CONTRACT_TAUGHT = {"teacher", "lambda_kd", "lambda_feat"}
# A value for every flag that is not its default.
OTHER = {
    "dataset": "batvisionv1", "data_dir": "d", "output_dir": "o", "batch_size": 3, "micro_batch": 5, "num_workers": 1,
    "image_size": (32, 64), "base_channels": 7, "lambda_l1": 2.5, "lambda_smooth": 0.7, "learning_rate": 0.02,
    "nb_epochs": 9, "optimizer": "SGD", "weight_decay": 0.3, "scheduler": "step", "save_frequency": 11,
    "wandb_project": "p", "experiment_name": "e", "device": "cpu", "ema": 0.5, "seed": 8, "attention_levels": (1, 5),
    "attention": "reference", "criterion": "SIlog", "silog_lambda": 0.25, "l1_weight": 0.4, "silog_weight": 0.6,
    "teacher": "t.pth", "lambda_kd": 3.0, "lambda_feat": 4.0, "kd_loss": "mse", "kd_region": "valid",
    "adaptive": "linear", "crossfit_folds": 3,
}  # fmt: skip


def at(settings: Settings, key: str):
    value = settings
    for part in key.split("."):
        value = getattr(value, part)
    return value


def flat(value, where="") -> dict:
    if isinstance(value, dict):
        return {name: v for key, item in value.items() for name, v in flat(item, f"{where}.{key}").items()}
    return {where: value}


# --- flags ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value"), CONTRACT.items())
def test_the_teachers_flags_have_the_contracts_defaults(name, value):
    key = next(flag.key for flag in COMMON if flag.name == name)
    assert at(resolve("rgb"), key) == value


def test_students_learn_faster_and_attend_at_the_two_deepest_levels():
    for kind in ("audio", "distillation"):
        settings = resolve(kind)
        assert settings.training.learning_rate == 1e-3
        assert settings.model.attention_levels == (4, 5)


def test_the_set_of_flags_is_frozen():
    names = {kind: {action.dest for action in make_parser(kind, "x")._actions} for kind in FLAGS}
    flags = {kind: {flag.key for flag in FLAGS[kind]} | OWN for kind in FLAGS}
    assert names == flags
    assert {*CONTRACT, "wandb_project", "experiment_name"} <= {flag.name for flag in COMMON}
    assert {flag.name for flag in STUDENT} >= CONTRACT_STUDENT
    assert {flag.name for flag in TEACHING} >= CONTRACT_TAUGHT


@pytest.mark.parametrize("flag", FLAGS["distillation"], ids=lambda flag: flag.name)
def test_each_flag_changes_the_setting_it_names_and_nothing_else(flag):
    if "action" in flag.options:
        value, words = flag.name != "bilinear", [f"--{'no-' if flag.name == 'bilinear' else ''}{flag.name}"]
    else:
        value = OTHER[flag.name]
        words = [f"--{flag.name}", *map(str, value if isinstance(value, tuple) else [value])]
    before = flat(resolve("distillation").model_dump(mode="json"))
    after = flat(parse("distillation", words, "x").settings().model_dump(mode="json"))
    changed = {key.removeprefix("."): after[key] for key in after if before.get(key, "absent") != after[key]}
    assert changed == {flag.key: list(value) if isinstance(value, tuple) else value}


def test_flags_win_over_files_and_defaults_do_not(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("training: {nb_epochs: 3, seed: 5}\n")
    settings = parse("rgb", ["--config", str(file), "--seed", "6"], "x").settings()
    assert (settings.training.nb_epochs, settings.training.seed) == (3, 6)


def test_embedded_samples_sets_the_three_splits():
    embedded = parse("rgb", ["--embedded_samples", "40"], "x").settings().data.embedded
    assert (embedded.train, embedded.val, embedded.test) == (40, 10, 10)
    usual = resolve("rgb").data.embedded
    assert (usual.train, usual.val, usual.test) == (64, 16, 16)


@pytest.mark.parametrize("words", [["--nb_epoch", "3"], ["--optimizer", "LBFGS"], ["--batch_size", "x"]])
def test_a_wrong_flag_ends_with_usage_and_2(words, capsys):
    with pytest.raises(SystemExit) as end:
        parse("rgb", words, "x")
    assert end.value.code == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.fault(19)
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--batch_size", "0"], "training.batch_size"),
        (["--image_size", "100", "128"], "multiples of 16"),
        (["--set", "training.nb_epoch=3"], "did you mean training.nb_epochs"),
        (["--set", "data.split=holdout"], "holdout needs both"),
        (["--attention_levels", "6"], "attention_levels"),
        (["--experiment_name", "gone", "--checkpoints", "3"], "no experiment gone"),
    ],
)
def test_wrong_settings_are_named(words, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=told):
        parse("audio", words, "x").settings()


def test_fresh_and_an_epoch_exclude_each_other():
    with pytest.raises(ConfigError, match="one of them"):
        parse("rgb", ["--fresh", "--checkpoints", "3"], "x")


def test_going_back_takes_the_settings_that_the_experiment_began_with(tmp_path):
    begun = resolve("rgb", overrides=["model.base_channels=16", f"output_dir={json.dumps(str(tmp_path))}"])
    folder = tmp_path / "logs" / "old"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(begun))
    words = ["--output_dir", str(tmp_path), "--experiment_name", "old", "--checkpoints", "3"]
    assert parse("rgb", words, "x").settings().model.base_channels == 16
    assert parse("rgb", [*words, "--base_channels", "8"], "x").settings().model.base_channels == 8


# --- settings ---------------------------------------------------------------------------------------------------------


def test_the_default_name_says_what_was_trained():
    assert resolve("rgb").name == "rgb_depth_batvisionv2_BS64_Lr0.0001_AdamW"
    assert resolve("audio").name == "binaural_attention_batvisionv2_BS64_Lr0.001_AdamW"


def test_greatest_depth_follows_the_data_set():
    assert resolve("rgb").data.depth_limit_m == 30
    assert resolve("rgb", overrides=["data.dataset=batvisionv1"]).data.depth_limit_m == 12
    assert resolve("rgb", overrides=["data.max_depth_m=8.5"]).data.depth_limit_m == 8.5


def test_only_what_changes_numbers_changes_the_hash():
    def hashed(*overrides):
        return resolve("rgb", overrides=overrides).hash

    assert hashed("training.device=cpu", "training.num_workers=0", "output_dir=x") == hashed()
    assert hashed("training.seed=1") != hashed() != hashed("loss.lambda_smooth=0.2")


@pytest.mark.parametrize(
    ("criterion", "weights"),
    [("L1", {"l1": 1.0}), ("SIlog", {"silog": 1.0}), ("Combined", {"l1": 0.237, "silog": 0.637})],
)
def test_a_criterion_has_its_terms_and_weights(criterion, weights):
    loss = resolve("audio", overrides=[f"loss.criterion={criterion}"]).loss
    task = Task(loss, edges=False)
    assert task.weights == {**weights, "smooth": 0.1}
    maps = {"depth": torch.rand(2, 1, 8, 8) + 1, "valid": torch.ones(2, 1, 8, 8, dtype=torch.bool)}
    assert task(torch.rand(2, 1, 8, 8) + 1, maps).keys() == task.weights.keys()


def test_what_has_no_effect_is_told():
    assert ignored_settings(resolve("audio")) == []
    lines = ignored_settings(resolve("audio", overrides=["loss.criterion=SIlog", "loss.lambda_l1=2"]))
    assert lines == ["loss.lambda_l1 2.0 has no effect with criterion SIlog"]


# --- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "batch", "micro", "world"), [(10, 4, 2, 1), (10, 4, 1, 2), (9, 4, 2, 2), (7, 8, 3, 1)]
)
def test_an_epoch_shows_every_sample_once_in_passes_that_fit(samples, batch, micro, world):
    samplers = [BatchSampler(samples, batch, micro, seed=1, rank=rank, world_size=world) for rank in range(world)]
    lists = [list(sampler) for sampler in samplers]
    assert {len(one) for one in lists} == {len(samplers[0])}
    assert all(0 < len(part) <= micro for one in lists for part in one)
    keys = [key for one in lists for part in one for key in part]
    assert len(set(keys)) == len(keys) == samples - samples % batch % world
    steps = -(-len(samplers[0]) // samplers[0].passes)
    assert steps == len(samplers[0].sizes), "the Loop would count other steps"


def test_processes_and_passes_do_not_change_what_a_step_sees():
    def steps(micro, world):
        samplers = [BatchSampler(12, 4, micro, seed=3, rank=rank, world_size=world) for rank in range(world)]
        passes = samplers[0].passes
        lists = [list(sampler) for sampler in samplers]
        return [
            {key for one in lists for part in one[n : n + passes] for key in part}
            for n in range(0, len(lists[0]), passes)
        ]

    assert steps(4, 1) == steps(1, 1) == steps(2, 2) == steps(1, 4)


def test_a_cut_epoch_goes_on_where_it_was_and_epochs_differ():
    sampler = BatchSampler(10, 4, 2, seed=0)
    whole = list(sampler)
    sampler.set_position(0, 3)
    assert list(sampler) == whole[3:]
    sampler.set_position(1)
    assert [[key[1] for key in part] for part in sampler] != [[key[1] for key in part] for part in whole]


def test_a_batch_that_does_not_divide_by_the_processes_is_refused():
    with pytest.raises(ConfigError, match="take 4"):
        BatchSampler(10, 5, 1, seed=0, world_size=2)


# --- schedules and memory ---------------------------------------------------------------------------------------------


def test_schedules():
    assert [schedule_of("none", 4)(step, 40) for step in (0, 20, 39)] == [1, 1, 1]
    cosine = [schedule_of("cosine", 4)(step, 40) for step in (0, 20, 39)]
    assert cosine[0] == 1 and cosine[1] == pytest.approx(0.5) and 0 < cosine[2] < 0.01
    assert [schedule_of("step", 200)(step, 400) for step in (0, 99, 100, 200, 399)] == [1, 1, 0.5, 0.25, 0.125]


def test_a_batch_is_split_only_when_it_does_not_fit_and_evenly():
    cost = Cost(bytes=100, seconds=1)
    assert fitting(64, cost, 0, 10**9) == 64
    assert fitting(64, cost, 0, 12_000) == 32  # 36 would fit; two passes of 32
    assert fitting(64, cost, 0, 1) == 1
    assert fitting(64, cost, 10**6, 12_000) == 1  # the parameters alone fill it
    assert free_memory(torch.device("cpu")) > 10**6


def test_measuring_leaves_model_and_random_numbers_as_they_are():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    small, large = (measure(model, torch.rand(1, 3, side, side, generator=torch.Generator())) for side in (16, 32))
    assert large.bytes > 3 * small.bytes > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.001, "64 seconds"), (0.01, "11 minutes"), (1.0, "18 hours"), (50, "37 days")]
)
def test_the_estimate_names_a_sensible_unit(seconds, told):
    samples, epochs = 640, 100
    assert told in estimate(Cost(1, seconds), samples, epochs)


def test_paths_are_those_of_the_contract():
    settings = resolve("rgb", overrides=["experiment_name=x"])
    assert [settings.folder(what) for what in ("checkpoints", "logs", "results")] == [
        Path("checkpoints/x"), Path("logs/x"), Path("results/x")]  # fmt: skip
    assert np.prod(settings.data.image_size) == 256 * 256
