"""The ablation's table and contrasts from finished cells, and the names its runs get."""

import json

import numpy as np
import pytest

from shared.config import load_config
from shared.folder import SAFE_NAME
from talk2car_kd import ablation
from talk2car_kd.ablation import ARMS, FRACTIONS, Cell, Plan, write_results
from talk2car_kd.config import ABLATION, DEFAULT, EMBEDDED, Config
from talk2car_kd.talk2car import Command

SEEDS = range(5)


@pytest.fixture
def plan(tmp_path, monkeypatch) -> Plan:
    config = load_config(Config, [DEFAULT, EMBEDDED, ABLATION])
    commands = [Command(f"t{i}", "stop", tmp_path, f"f{i}", f"s{i // 4}", (0, 0, 9, 9), None, {}) for i in range(40)]
    monkeypatch.setattr(ablation, "val_commands", lambda config: commands)
    return Plan(config, tmp_path, ())


def cells(hit_rate) -> dict:
    """IoUs of every cell: hits are spread over the scenes."""
    return {
        Cell(arm, fraction, seed): {f"t{i}": float(i * 7 % 40 < 40 * hit_rate(arm, fraction, seed)) for i in range(40)}
        for seed in SEEDS
        for fraction in FRACTIONS
        for arm in ARMS
    }


def test_every_run_has_a_name_that_run_folders_take():
    names = [Cell(arm, fraction, 0).name for arm in ARMS for fraction in FRACTIONS]
    assert len(set(names)) == len(names)
    assert all(SAFE_NAME.fullmatch(name) for name in names)


def test_a_planted_effect_is_found_and_no_effect_is_not(plan):
    results = write_results(plan, cells(lambda arm, fraction, seed: 0.25 if arm == "random" else 0.5))
    assert results["ap50_by_seed"]["clip 25 %"] == [0.5] * 5
    found, none = results["contrasts"]["region pretraining 25 %"], results["contrasts"]["distillation 25 %"]
    assert np.allclose(found["by_seed"], 0.25) and found["low"] > 0
    assert np.allclose(none["by_seed"], 0) and none["low"] <= 0 <= none["high"]


def test_a_loss_is_reported_with_its_sign(plan):
    results = write_results(plan, cells(lambda arm, fraction, seed: 0.25 if arm == "clip+sim+cos" else 0.5))
    contrast = results["contrasts"]["distillation 100 %"]
    assert np.allclose(contrast["by_seed"], -0.25) and contrast["text"].startswith("-0.25")


def test_the_files_a_reader_looks_for_are_there(plan):
    write_results(plan, cells(lambda arm, fraction, seed: 0.5))
    assert json.loads((plan.folder / "ablation.json").read_text())["contrasts"]
    assert (plan.folder / "ablation.png").stat().st_size > 5000
    assert plan.config.data.mark in (plan.folder / "report.html").read_text()
