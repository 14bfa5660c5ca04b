"""Differential learning rates that survive OneCycle: golden values, for every group at every step."""

import pytest
import torch
from torch import nn

from shared.errors import ConfigError
from shared.optim import apply_schedule
from voxel_mae.config import Optimization
from voxel_mae.differential_lr import create_optimizer_with_differential_lr
from voxel_mae.onecycle import schedule_of

GOLDEN = {0: 3.0e-4, 1: 3.0416e-4, 10: 6.9541e-4, 20: 1.65e-3, 39: 2.99584e-3, 40: 3.0e-3, 41: 2.99794e-3,
          50: 2.79904e-3, 70: 1.50002e-3, 99: 2.0857e-6}  # fmt: skip


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone_3d = nn.ModuleDict(
            {name: nn.Linear(2, 2) for name in ("conv1", "conv5", "conv6", "conv_out", "shared_conv")}
        )
        self.backbone_3d["bn"] = nn.BatchNorm1d(2)
        self.dense_head = nn.Linear(2, 2)


def settings(**more) -> Optimization:
    return Optimization(BATCH_SIZE_PER_GPU=1, NUM_EPOCHS=1, LR=0.003, **more)


def rates(optimizer) -> dict[str, float]:
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


def test_the_schedule_has_the_golden_values_and_beta1_goes_the_other_way():
    schedule = schedule_of(settings())
    for step, rate in GOLDEN.items():
        assert 0.003 * schedule(step, 100).lr == pytest.approx(rate, rel=2e-5)
    assert [schedule(step, 100).beta1 for step in (0, 40)] == pytest.approx([0.95, 0.85])
    assert schedule(99, 100).beta1 == pytest.approx(0.95, abs=1e-3)


def test_every_group_has_its_ratio_at_every_step():
    optimizer = create_optimizer_with_differential_lr(Tiny(), settings(DIFFERENTIAL_LR=True))
    schedule = schedule_of(settings())
    for step in range(100):
        apply_schedule(optimizer, schedule(step, 100))
        base = 0.003 * schedule(step, 100).lr
        assert rates(optimizer) == pytest.approx({"backbone_3d.*": 0.1 * base, "dense_head.*": 2.0 * base})
        if step == 40:
            assert rates(optimizer) == pytest.approx({"backbone_3d.*": 3e-4, "dense_head.*": 6e-3})


def test_groups_are_disjoint_and_complete_and_batch_norm_decays():
    model = Tiny()
    optimizer = create_optimizer_with_differential_lr(model, settings(DIFFERENTIAL_LR=True, UNTRAINED_LR_RATIO=1.0))
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(map(id, model.parameters()))
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.01}
    assert rates(optimizer)["backbone_3d.conv5.*"] == 0.003 and rates(optimizer)["backbone_3d.*"] == pytest.approx(3e-4)


def test_without_it_there_is_one_rate_and_decay_is_decoupled():
    model = Tiny()
    optimizer = create_optimizer_with_differential_lr(model, settings())
    assert rates(optimizer) == {"rest": 0.003} and optimizer.param_groups[0]["betas"] == (0.95, 0.99)
    weight = model.dense_head.weight
    before = weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.allclose(weight, before * (1 - 0.01 * 0.003), rtol=1e-7)


def test_a_model_without_a_head_is_told():
    model = Tiny()
    del model.dense_head
    with pytest.raises(ConfigError, match=r"DIFFERENTIAL_LR.*dense_head"):
        create_optimizer_with_differential_lr(model, settings(DIFFERENTIAL_LR=True))
