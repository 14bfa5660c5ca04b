"""PairedRunner and PairedEpochLoop on a toy model: cut anywhere, the same command with --resume ends as if uncut.

Children are forked from this process, which has mmdet loaded; the toy draws random numbers, has batch statistics, a
queue that moves after backward, averaged weights and a schedule, so that whatever a checkpoint forgets shows.
"""

import contextlib
import importlib
import json
import shutil
import signal
import textwrap
import time
from pathlib import Path

import pytest
import torch
from llvip_samples import STEPS, Work

from shared import checkpoint
from shared.data_wait import waits_of
from shared.testing.injections import at_call, differences, kill, limit_file_size, metrics_of, send


@pytest.fixture(scope="module")
def loop():
    """The loop's class; the toy is registered in mmdet."""
    for name in ("torch._dynamo", "llvip_macl.register", "llvip_toy"):  # once here, not in each child
        importlib.import_module(name)
    from llvip_macl.runtime.loop import PairedEpochLoop

    return PairedEpochLoop


CONFIG = """
    custom_imports = dict(imports=["llvip_macl.register"], allow_failed_imports=False)
    default_scope = "mmdet"
    model = dict(type="LlvipToyModel")
    train_dataloader = dict(batch_size=2, num_workers=0, drop_last=True,
                            sampler=dict(type="PositionKeyedSampler", shuffle=True),
                            dataset=dict(type="LlvipToyData", size=7))
    val_dataloader = dict(batch_size=2, num_workers=0, sampler=dict(type="PositionKeyedSampler", shuffle=False),
                          dataset=dict(type="LlvipToyData", size=3))
    val_evaluator = dict(type="LlvipToyMetric")
    train_cfg = dict(max_epochs=2, val_interval=1)
    val_cfg = dict()
    optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.01, weight_decay=0.01),
                         paramwise_cfg=dict(norm_decay_mult=0.0), clip_grad=dict(max_norm=5.0))
    param_scheduler = [dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=2),
                       dict(type="MultiStepLR", by_epoch=True, begin=0, end=2, milestones=[1], gamma=0.1)]
    default_hooks = dict(logger=dict(type="LoggerHook", interval=1), checkpoint=dict(type="CheckpointHook", interval=1))
    custom_hooks = [dict(type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.1, update_buffers=True, priority=49)]
    visualizer = dict(type="DetLocalVisualizer", vis_backends=[dict(type="TensorboardVisBackend")])
    model_wrapper_cfg = dict(type="MMDistributedDataParallel", find_unused_parameters=True)
    randomness = dict(seed=3)
"""


class Toy(Work):
    """A folder with the toy's config, and the command that trains there."""

    def __init__(self, folder: Path):
        super().__init__(folder, folder)
        self.config.write_text(textwrap.dedent(CONFIG))


@pytest.fixture
def work(loop, tmp_path):
    return Toy(tmp_path / "one")


@pytest.fixture(scope="module")
def reference(loop, tmp_path_factory):
    """One run that was never cut."""
    work = Toy(tmp_path_factory.mktemp("toy") / "reference")
    return work, work.train()


def cut(loop, work, name, number, action=kill, after=False, *options, **rest):
    return work.start(*options, inject=lambda: at_call(loop, name, number, action, after=after), **rest).wait()


def test_a_run_leaves_what_the_contract_names(reference):
    work, output = reference
    names = {path.name for path in work.run.iterdir()}
    assert {"run.json", "metrics.jsonl", "epoch_1.pth", "epoch_2.pth", "last_checkpoint", "tensorboard_logs"} <= names
    assert "tensorboard" not in names
    best = [name for name in names if name.startswith("best_epoch") and name.endswith(".pth")]
    assert best
    assert all(len(name.rsplit("loss", 1)[1].removesuffix(".pth").split(".")[1]) == 4 for name in best)
    assert (work.run / "best.pth").resolve().name in best
    stamp = next(path for path in work.run.iterdir() if path.is_dir() and path.name[:2] == "20")
    assert (stamp / f"{stamp.name}.log").is_file()
    assert "Config:" not in output
    assert "Config:" in (stamp / f"{stamp.name}.log").read_text()
    record = json.loads((work.run / "run.json").read_text())
    assert record["stages"]["train"]["epochs"] == 2
    assert record["seed"] == 3


def test_checkpoints_load_with_plain_torch(reference):
    work, _ = reference
    for path in work.run.glob("*.pth"):
        content = torch.load(path, weights_only=True)
        assert {"state_dict", "meta"} <= set(content)
    hub = torch.load(work.run / "epoch_2.pth", weights_only=True)["message_hub"]
    assert all(isinstance(part, list) for pair in hub["log_scalars"].values() for part in pair)


def test_best_is_by_the_validation(reference):
    work, _ = reference
    rows = [row for row in metrics_of(work.run) if row["split"] == "val"]
    least = min(range(len(rows)), key=lambda place: rows[place]["toy/error"])
    # `error` names a metric of which less is better
    assert checkpoint.manifest((work.run / "best.pth").resolve())["extra"]["epoch"] == rows[least]["epoch"]


def test_loss_is_the_sum_of_the_losses_and_each_scalar_is_written_once(reference):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    work, _ = reference
    rows = [row for row in metrics_of(work.run) if row["split"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows[0]["loss"] == rows[0]["loss_fit"]
    mean = next(row for row in metrics_of(work.run) if row["split"] == "epoch")
    events = EventAccumulator(str(work.run / "tensorboard_logs")).Reload()
    assert {"loss", "mean/loss", "toy/error", "lr"} <= set(events.Tags()["scalars"])
    for tag in events.Tags()["scalars"]:
        steps = [event.step for event in events.Scalars(tag)]
        assert len(steps) == len(set(steps)), tag
    assert mean["mean/loss"] == pytest.approx(events.Scalars("mean/loss")[0].value, rel=1e-6)


def test_waiting_for_data_is_counted_and_told(loop, work):
    def late_batches():
        from llvip_macl.runtime import loop as module

        batches_of = module.batches_of

        def late(*asked):
            for batch in batches_of(*asked):
                time.sleep(0.3)
                yield batch

        module.batches_of = late

    ended = work.start(inject=late_batches).wait()
    assert ended.code == 0, ended.output[-3000:]
    assert "of the time went into waiting for data" in ended.output
    (found,) = waits_of(work.run / "metrics.jsonl")
    assert found["lines"] == STEPS and found["share"] > 0.5


def test_the_schedule_is_the_configs(reference):
    work, _ = reference
    rates = [row["lr"] for row in metrics_of(work.run) if row["split"] == "train"]
    assert rates == pytest.approx([0.001, 0.01, 0.01, 0.001, 0.001, 0.001])


@pytest.mark.fault(3)
@pytest.mark.parametrize(
    ("name", "number", "after"),
    [
        ("_optimize", 2, True),
        ("close_epoch", 1, False),
        pytest.param("_validate", 1, False, marks=pytest.mark.slow),
        ("_validate", 2, False),
        pytest.param("_optimize", 6, True, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_ends_as_if_uncut(loop, work, reference, name, number, after):
    ended = cut(loop, work, name, number, kill, after, "train_cfg.checkpoint_interval_iters=1")
    assert ended.code == -signal.SIGKILL, ended.output[-2000:]
    work.train("train_cfg.checkpoint_interval_iters=1")
    assert differences(reference[0].end(), work.end()) == []


@pytest.mark.fault(5)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_newest_step_and_the_run_goes_on(loop, work, reference, number, code):
    ended = cut(loop, work, "_optimize", 2, send(number))
    assert ended.code == code, ended.output[-2000:]
    assert "Traceback" not in ended.output
    assert (work.run / "last_checkpoint").read_text() == "iter_2.pth\n"
    work.train()
    assert differences(reference[0].end(), work.end()) == []
    assert not list(work.run.glob("iter_*.pth"))  # the epoch's end holds more


@pytest.mark.fault(6)
def test_a_full_disk_is_told_and_the_earlier_checkpoint_stays(loop, work, reference):
    def fill():
        limit_file_size((work.run / "epoch_1.pth").stat().st_size - 1_000)

    ended = cut(loop, work, "close_epoch", 2, fill)
    assert ended.code in (1, 2), ended.output[-2000:]
    assert "Traceback" not in ended.output
    assert "bytes and" in ended.output
    assert (work.run / "last_checkpoint").read_text() == "epoch_1.pth\n"
    work.train()
    assert differences(reference[0].end(), work.end()) == []


def poison(loop, number, *, gradient):
    """The number-th step's loss, or one of its gradients alone, is NaN."""
    if gradient:
        original, calls = loop._check_finite, [0]

        def check(self, loss, values, wrapper, batch):
            calls[0] += 1
            if calls[0] == number:
                wrapper.optimizer.param_groups[0]["params"][0].grad.view(-1)[0] = float("nan")
            return original(self, loss, values, wrapper, batch)

        loop._check_finite = check
    else:
        original_linear, calls = torch.nn.functional.linear, [0]

        def linear(x, *rest):
            calls[0] += 1
            return original_linear(x * float("nan") if calls[0] == 3 * number else x, *rest)

        torch.nn.functional.linear = linear


@pytest.mark.fault(11)
@pytest.mark.parametrize("gradient", [False, True])
def test_what_is_not_finite_stops_before_the_step(loop, work, reference, gradient):
    steps = "train_cfg.checkpoint_interval_iters=1"
    ended = work.start(steps, inject=lambda: poison(loop, 2, gradient=gradient)).wait()
    assert ended.code == 1, ended.output[-2000:]
    assert "step 2 (epoch 1): loss or gradient is not finite" in ended.output
    assert "loss_fit" in ended.output
    assert "samples of this rank: pair_" in ended.output
    assert (work.run / "last_checkpoint").read_text() == "iter_1.pth\n"
    work.train(steps)
    assert differences(reference[0].end(), work.end()) == []


@pytest.mark.fault(8)
def test_a_damaged_checkpoint_is_passed_over(loop, work, reference):
    cut(loop, work, "_optimize", 5, kill, True, "train_cfg.checkpoint_interval_iters=1")
    newest = work.run / (work.run / "last_checkpoint").read_text().strip()
    newest.write_bytes(newest.read_bytes()[:-1])
    output = work.train("train_cfg.checkpoint_interval_iters=1")
    assert f"{newest} is damaged" in output
    assert "falling back to" in output
    assert differences(reference[0].end(), work.end()) == []


def test_a_finished_run_says_what_to_do(reference, tmp_path):
    work = Toy(tmp_path / "copy")
    shutil.copytree(reference[0].run, work.run)
    output = work.train()
    assert "nothing is left to do" in output
    assert "train_cfg.max_epochs" in output
    output = work.train("train_cfg.max_epochs=3", "param_scheduler[1].milestones=[3]")
    assert "param_scheduler.1.end: 2 -> 3" in output
    assert "the config changed since the checkpoint" in output
    assert "lr: 0.001" in output
    rows = [row for row in metrics_of(work.run) if row["split"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, 10))
    assert rows[6]["lr"] == pytest.approx(0.01)  # the milestone is not reached any more, whatever the checkpoint says


def test_without_resume_a_run_begins_anew_and_keeps_what_was_there(reference, tmp_path):
    work = Toy(tmp_path / "copy")
    shutil.copytree(reference[0].run, work.run)
    before = (work.run / "metrics.jsonl").read_bytes()
    output = work.train(resume=False)
    assert "holds an earlier run" in output
    assert next((work.run / "earlier").glob("*/metrics.jsonl")).read_bytes() == before
    assert next((work.run / "earlier").glob("*/epoch_2.pth")).is_file()
    assert differences(reference[0].end(), work.end()) == []


def test_another_seed_cannot_be_resumed(loop, work):
    cut(loop, work, "_optimize", 2, send(signal.SIGTERM))
    assert "randomness.seed=3" in work.train("randomness.seed=4", code=2)


@pytest.mark.fault(7)
def test_a_second_run_in_the_folder_is_refused(loop, work):
    import time

    first = work.start(inject=lambda: at_call(loop, "_optimize", 1, lambda: time.sleep(60)))
    deadline = time.monotonic() + 60
    while not (work.run / "run.lock").exists() or not (work.run / "run.lock").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    output = work.train(code=2)
    first.end()
    assert f"process {first.pid}" in output


@pytest.mark.fault(10)
def test_weights_of_another_run_start_a_new_one(reference, work):
    best = reference[0].run / "best.pth"
    output = work.train(f"load_from={best}", resume=False)
    assert "100.0 % of the model's values" in output
    output = work.train(f"load_from={best}", "model.width=5", resume=False, code=2)
    assert "mismatched" in output
    assert "load_rules" in output


def test_two_processes_end_with_equal_weights_and_one_record(loop, work):
    sums = work.folder / "sums"
    sums.mkdir()

    def keep():
        original = loop.run

        def run(self):
            model = original(self)
            tensors = dict(model.module.named_parameters())
            (sums / str(self.runner.rank)).write_text(checkpoint.tensors_sha256(tensors))
            return model

        loop.run = run

    with contextlib.chdir(work.folder):
        ended = work.processes(inject={0: keep, 1: keep})
    assert [one.code for one in ended] == [0, 0], ended[0].output[-3000:] + ended[1].output[-3000:]
    assert not [*work.folder.rglob(".dist_test"), *work.folder.rglob(".collected")]  # what two validations went through
    assert (sums / "0").read_text() == (sums / "1").read_text()
    rows = metrics_of(work.run)
    assert len([row for row in rows if row["split"] == "val"]) == 2
    assert all(row["toy/count"] == 3 for row in rows if row["split"] == "val")
    assert "was written by 2 processes and this run has 1" in work.train("train_cfg.max_epochs=3", code=2)


@pytest.mark.fault(11)
def test_a_nan_on_one_rank_stops_both(loop, work):
    ended = work.processes(inject={1: lambda: poison(loop, 2, gradient=False)})
    assert [one.code for one in ended] == [1, 1], ended[0].output[-2000:]
