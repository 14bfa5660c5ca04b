"""The hooks without a run: what is frozen stays as it is, schedules follow the epoch, best is best."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from shared.errors import ConfigError


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.old_backbone = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.old_backbone(self.backbone(x)))


class Log:
    def __init__(self):
        self.lines = []

    def info(self, line, *rest):
        self.lines.append(line)

    def log(self, level, line, *rest):
        self.lines.append(line)


def runner_of(model, epoch=0):
    return SimpleNamespace(model=model, epoch=epoch, logger=Log())


def bits(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def train_epoch(hook, runner, steps=3):
    """As the loop goes: hooks, model.train(), steps with weight decay."""
    model = runner.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    hook.before_train_epoch(runner)
    model.train()
    for step in range(steps):
        hook.before_train_iter(runner, step)
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().mean().backward()
        optimizer.step()


def test_what_is_frozen_stays_bit_for_bit_through_an_epoch():
    from llvip_macl.hooks.freeze import FreezeBackboneHook

    model = Model()
    hook, runner = FreezeBackboneHook(modules=["backbone"]), runner_of(model)
    hook.before_train(runner)
    before, other = bits(model.backbone), bits(model.old_backbone)
    train_epoch(hook, runner)
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())
    moved = [not torch.equal(value, other[name]) for name, value in model.old_backbone.state_dict().items()]
    assert all(moved)  # a module merely named like it is trained, its statistics too


def test_frozen_parts_are_trained_again_when_asked():
    from llvip_macl.hooks.freeze import FreezeBackboneHook

    model = Model()
    hook, runner = FreezeBackboneHook(modules="backbone", until_epoch=1), runner_of(model)
    hook.before_train(runner)
    before = bits(model.backbone)
    train_epoch(hook, runner)
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())
    runner.epoch = 1
    train_epoch(hook, runner)
    assert not torch.equal(model.backbone[0].weight, before["0.weight"])


def test_a_name_that_no_module_has_is_an_error():
    from llvip_macl.hooks.freeze import FreezeBackboneHook, matching

    with pytest.raises(ConfigError, match="'backbones'; it has backbone"):
        FreezeBackboneHook(modules=["backbones"]).before_train(runner_of(Model()))
    assert len(matching(Model(), ["*backbone"])) == 2


def test_dhn_schedule_follows_the_epoch():
    from llvip_macl.hooks.dhn_schedule import DHNScheduleHook

    hook = DHNScheduleHook()
    values = [hook.values_at(epoch) for epoch in (0, 2, 3, 7, 8, 16, 40)]
    assert [one["top_k"] for one in values] == [64, 64, 96, 96, 128, 128, 128]
    assert [one["momentum"] for one in values] == [0.995, 0.995, 0.99, 0.99, 0.99, 0.99, 0.99]
    model, seen = Model(), []
    model.head.set_schedule = lambda **given: seen.append(given)
    hook.before_train_epoch(runner_of(model, epoch=5))
    assert seen == [{"top_k": 96, "momentum": 0.99}]
    with pytest.raises(ConfigError, match="no DHNSampler"):
        hook.before_train_epoch(runner_of(Model()))


@pytest.mark.parametrize("wrong", [{"top_k": [1, 2]}, {"milestones": [8, 3, 16]}, {"momentum": [0.9]}])
def test_dhn_schedules_that_do_not_fit_are_refused(wrong):
    from llvip_macl.hooks.dhn_schedule import DHNScheduleHook

    with pytest.raises(ConfigError, match="DHNScheduleHook"):
        DHNScheduleHook(**wrong)


class Hub:
    def __init__(self):
        self.runtime_info = {}

    def update_info(self, name, value):
        self.runtime_info[name] = value


class TrainLoop:
    epoch_means = {"loss": 0.0}  # noqa: RUF012


def saving_runner(folder, loss):
    """What BestCheckpointHook needs of a runner without a validation."""
    loop = TrainLoop()
    loop.epoch_means = {"loss": loss}
    return SimpleNamespace(
        folder=folder, train_loop=loop, _train_loop=loop, val_loop=None, message_hub=Hub(), logger=Log(), iter=5,
        epoch=0, max_epochs=4, world=SimpleNamespace(is_main=True, size=1), saved=[],
        weights=lambda epoch, iteration: {"state_dict": {"w": torch.full((2,), float(epoch))}, "meta": {}},
    )  # fmt: skip


def test_best_is_the_epochs_mean_loss_and_old_ones_go(tmp_path):
    from llvip_macl.hooks.best_checkpoint import BestCheckpointHook

    hook, runner = BestCheckpointHook(max_keep_best=2), saving_runner(tmp_path, 0.0)
    runner.save_state = lambda path, epoch_ended: runner.saved.append(path.name)
    for epoch, loss in enumerate([0.5, 0.4, float("nan"), 0.45, 0.11405]):
        runner.epoch, runner.train_loop.epoch_means = epoch, {"loss": loss}
        hook.after_train_epoch(runner)
    assert runner.saved == [f"epoch_{n}.pth" for n in range(1, 6)]
    names = sorted(path.name for path in tmp_path.glob("*.pth") if not path.is_symlink())
    assert names == ["best_epoch2_loss0.4000.pth", f"best_epoch5_loss{0.11405:.4f}.pth"]
    assert (tmp_path / "best.pth").resolve().name == names[1]
    assert torch.load(tmp_path / "best.pth", weights_only=True)["state_dict"]["w"][0] == 5
    assert runner.message_hub.runtime_info["paired_best"]["value"] == 0.11405


def test_best_by_a_metric_knows_its_direction_and_its_name():
    from llvip_macl.hooks.best_checkpoint import BestCheckpointHook

    hook = BestCheckpointHook()
    assert hook._metric({"coco/bbox_mAP": 0.1, "kaist/MR_reasonable_all": 50.0}) == "kaist/MR_reasonable_all"
    assert hook._beats("kaist/MR_reasonable_all", 40.0, {"metric": "kaist/MR_reasonable_all", "value": 50.0})
    assert not hook._beats("coco/bbox_mAP", 0.1, {"metric": "coco/bbox_mAP", "value": 0.2})
    assert BestCheckpointHook(rule="less")._beats("coco/bbox_mAP", 0.1, {"metric": "coco/bbox_mAP", "value": 0.2})
    with pytest.raises(ConfigError, match="coco/bbox_mAP"):
        BestCheckpointHook(save_best="mAP")._metric({"coco/bbox_mAP": 0.1})
    with pytest.raises(ConfigError, match="by_epoch"):
        BestCheckpointHook(by_epoch=False)


def test_the_terminal_hides_known_noise_and_nothing_else(tmp_path, capsys):
    import logging
    import sys
    import warnings

    from llvip_macl.runtime.console import add_filter, quiet_imports

    with quiet_imports(), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", append=True)
        print("Could not import OneDL. Skipping OneDL datasets.")
        print("Could not import torch")
        print("no end", end="")
        warnings.warn("faster_coco_eval is not installed, metrics will not be computed", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert [str(one.message) for one in seen] == ["something else"]
    assert capsys.readouterr().out == "Could not import torch\nno end"
    logger = logging.Logger("llvip_noise")
    logger.addHandler(logging.StreamHandler(sys.stdout))
    logger.addHandler(logging.FileHandler(tmp_path / "log"))
    add_filter(logger)
    for line in ('"FileClient" will be deprecated in future.', "Config:\na = 1", "an honest warning"):
        logger.warning(line)
    assert capsys.readouterr().out == "an honest warning\n"
    assert (tmp_path / "log").read_text().count("\n") == 4
