"""Laws of the training loop, on a toy model: a cut run equals an uncut one, and nothing bad moves the weights."""

import itertools
import json
import math
import os
import signal

import pytest
import torch
from loop_samples import BATCH, BATCHES, SAMPLES, Sampler, Samples
from torch import nn

from shared import checkpoint, run
from shared import loop as loop_module
from shared.ema import Ema
from shared.errors import CheckpointError, ConfigError, NonFiniteError
from shared.loop import Loop, LoopSettings
from shared.optim import lr_groups, warmup_cosine
from shared.testing.injections import differences, metrics_of

STEPS = 8  # an epoch's 7 batches are three steps of 2 and one of 1; two epochs


class Scale(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, predicted, y):
        return {"square": ((self.scale * predicted.squeeze(1) - y) ** 2).mean(), "size": predicted.abs().mean()}


class Cut(Exception):
    """Stands for a kill: nothing is written after it."""


@pytest.fixture
def training(tmp_path):
    """training(folder, sampler=, batches=, **changes of the settings) -> the finished (or cut) Loop."""
    opened = []

    def train(name, *, sampler=None, at_batch=None, before_close=None, world=None, workers=0, count=len, **changed):
        run.seed_everything(3)
        world = world or run.World()
        folder = run.RunFolder.open(tmp_path, name=name, config_hash="01", config_yaml="seed: 3\n", stages=("a",),
                                    world=world, command="test")  # fmt: skip
        opened.append(folder)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        criterion, sampler = Scale(), Sampler() if sampler is None else sampler
        both = nn.ModuleDict({"model": model, "criterion": criterion})
        settings = {"epochs": 2, "accumulate": 2, "clip": 1.0, "log_every": 3, "save_every": 1, "keep": 2, **changed}
        loop = Loop(stage="a", run=folder, world=world, model=model,
                    optimizer=torch.optim.AdamW(lr_groups(both, 0.05, {"model.0.*": 0.1})), schedule=warmup_cosine,
                    weights={"square": 1.0, "size": 0.1}, sampler=sampler, settings=LoopSettings(**settings),
                    ema=Ema(model, 0.9), criterion=criterion)  # fmt: skip
        train.loop = loop
        loader = run.make_loader(Samples(), sampler, workers=workers)
        loop.resume()
        try:
            for _ in loop.epochs():
                for batch in loop.batches(loader):
                    if at_batch:
                        at_batch(loop, batch)
                    terms = criterion(model(batch["x"]), batch["y"])
                    loop.step(terms, ids=[f"s{i}" for i in batch["index"].tolist()], count=count(batch["x"]))
                if before_close:
                    before_close(loop)
                loop.best = loop.close_epoch()["loss"]
                folder.metrics.log(loop.steps_done, {"loss": loop.best}, split="a/val")
        finally:
            folder.close()
        return loop

    yield train
    for folder in opened:
        folder.close()


def end_of(loop) -> dict:
    state = {key: value for key, value in loop.state().items() if key != "metrics_bytes"}
    return {"state": state, "metrics": metrics_of(loop.run.path)}


def cut_after(batches: int):
    """An `at_batch` that cuts the run when so many batches were trained on."""
    count = itertools.count()

    def at_batch(loop, batch):
        if next(count) == batches:
            raise Cut

    return at_batch


def test_the_rate_counts_samples_whatever_a_batch_weighs(training):
    """voxel_mae gives every batch the weight 1, and its log told batches a second as samples a second."""
    lines = (training("run", count=lambda x: 1).run.path / "metrics.jsonl").read_text().splitlines()
    times = [record["time"] for record in map(json.loads, lines) if "time" in record]
    seen = [round(one["samples_per_s"] * one["seconds"]) for one in times]  # logged at steps 3 and 6
    assert seen == [6 * BATCH, 5 * BATCH]


# --- resuming


@pytest.mark.parametrize("save_every", [1, 3])
def test_a_run_cut_before_any_batch_ends_as_if_uncut(training, save_every):
    whole = end_of(training("whole", save_every=save_every))
    assert whole["state"]["position"]["step"] == STEPS
    for batches in range(2 * BATCHES):
        name = f"cut-{batches}"
        with pytest.raises(Cut):
            training(name, at_batch=cut_after(batches), save_every=save_every)
        assert differences(whole, end_of(training(name, save_every=save_every))) == [], f"cut after {batches} batches"


def test_a_run_cut_around_the_end_of_an_epoch_ends_as_if_uncut(training):
    whole = end_of(training("whole"))

    def cut(loop):
        raise Cut

    with pytest.raises(Cut):
        training("cut", before_close=cut)
    assert differences(whole, end_of(training("cut"))) == []


def test_a_run_cut_at_every_start_ends_as_if_uncut(training):
    whole = end_of(training("whole"))
    for start in range(2 * STEPS):
        try:
            end = end_of(training("cut", at_batch=cut_after(2)))
            break
        except Cut:
            assert training.loop.steps_done == start + 1 or training.loop.epoch
    assert differences(whole, end) == []


def test_workers_read_ahead_of_every_epoch_but_the_last(training, monkeypatch):
    asked, original = [], run.iterate

    def noted(loader, **how):
        asked.append((how["at"], how["then"]))
        return original(loader, **how)

    monkeypatch.setattr(run, "iterate", noted)
    with pytest.raises(Cut):
        training("ahead", workers=1, at_batch=cut_after(BATCHES + 2))
    ahead = end_of(training("ahead", workers=1))
    assert asked == [((0, 0), (1, 0)), ((1, 0), None), ((1, 2), None)]
    assert differences(end_of(training("whole")), ahead) == []


def test_dropout_makes_random_states_matter(training, monkeypatch):
    """The law above would be empty if nothing depended on them."""
    whole = end_of(training("whole"))
    with pytest.raises(Cut):
        training("cut", at_batch=cut_after(4))
    monkeypatch.setattr(checkpoint, "set_rng_state", lambda state: torch.manual_seed(0))
    assert differences(whole, end_of(training("cut")))


def test_metrics_hold_every_record_once(training):
    with pytest.raises(Cut):
        training("cut", at_batch=cut_after(11), save_every=4)
    training("cut", save_every=4)
    records = metrics_of(training.loop.run.path)
    assert [row["step"] for row in records if row["split"] == "a/train"] == [3, 6]
    assert [row["step"] for row in records if row["split"] == "a/epoch"] == [4, 8]
    assert [row["step"] for row in records if row["split"] == "a/val"] == [4, 8]


def test_a_fresh_start_forgets_what_an_unsaved_one_logged(training):
    with pytest.raises(Cut):
        training("cut", at_batch=cut_after(3), save_every=100, log_every=1)
    training("cut", save_every=100, log_every=1)
    steps = [row["step"] for row in metrics_of(training.loop.run.path) if row["split"] == "a/train"]
    assert steps == list(range(1, STEPS + 1))


def test_the_average_is_resumed(training):
    with pytest.raises(Cut):
        training("cut", at_batch=cut_after(6))
    saved = checkpoint.load_latest(training.loop.folder)[1]["ema"]
    assert saved["updates"] == 3
    with pytest.raises(Cut):
        training("cut", at_batch=cut_after(0))
    assert differences(saved, training.loop.ema.state_dict()) == []


@pytest.mark.fault(4)
def test_another_number_of_processes_is_refused(training):
    with pytest.raises(Cut):
        training("cut", at_batch=cut_after(4))

    class Two(run.World):
        def broadcast(self, value):
            return value

    with pytest.raises(CheckpointError, match=r"written by 1 processes and this run has 2.*--nproc-per-node 1"):
        training("cut", world=Two(size=2))


# --- steps


def test_the_last_group_of_an_epoch_takes_what_is_left(training, monkeypatch):
    parts, original = [], loop_module.accumulate
    monkeypatch.setattr(loop_module, "accumulate", lambda loss, n: parts.append(n) or original(loss, n))
    loop = training("whole", epochs=1)
    assert parts == [2, 2, 2, 2, 2, 2, 1]
    assert loop.steps_done == loop.total_steps == 4


def test_epoch_means_are_over_samples_not_batches(training):
    seen = []

    def note(loop, batch):
        seen.append(len(batch["x"]))

    sampler = Sampler((5, 1, 3, 2, 3))
    original, losses = Loop.step, []

    def step(self, terms, *, ids, count):
        losses.append((terms["square"].item(), terms["size"].item(), count))
        original(self, terms, ids=ids, count=count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "step", step)
        training("whole", sampler=sampler, at_batch=note, epochs=1)
    record = next(row for row in metrics_of(training.loop.run.path) if row["split"] == "a/epoch")
    assert seen == [5, 1, 3, 2, 3]
    assert record["square"] == pytest.approx(sum(a * n for a, _, n in losses) / SAMPLES, rel=1e-9)
    assert record["loss"] == pytest.approx(sum((a + 0.1 * b) * n for a, b, n in losses) / SAMPLES, rel=1e-6)


def test_every_group_keeps_its_ratio(training):
    training("whole", log_every=1)
    rows = [row for row in metrics_of(training.loop.run.path) if row["split"] == "a/train"]
    assert all(row["lr/model.0.*"] == pytest.approx(0.1 * row["lr/rest"]) for row in rows)
    assert len({row["lr/rest"] for row in rows}) > 1


@pytest.mark.fault(11)
@pytest.mark.parametrize("batch", [0, 1, 4, 6, 13], ids=lambda n: f"batch {n}")
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stops_before_the_step(training, batch, value):
    count, before = itertools.count(), {}

    def poison(loop, data):
        if next(count) == batch:
            data["y"] = data["y"] * value
        if not loop._micro:  # the state after the last whole step
            before.clear()
            before.update({name: tensor.clone() for name, tensor in loop.bare.state_dict().items()})

    with pytest.raises(NonFiniteError, match=f"step {batch // BATCHES * 4 + batch % BATCHES // 2 + 1}: .*") as error:
        training("bad", at_batch=poison)
    assert f"s{batch % BATCHES * BATCH}" in str(error.value)
    assert differences(before, dict(training.loop.bare.state_dict())) == []
    assert differences(end_of(training("good")), end_of(training("bad"))) == []  # the cause gone, it goes on


def test_data_that_fills_no_batch_is_told(training):
    with pytest.raises(ConfigError, match="fills no batch"):
        training("none", sampler=Sampler(()))


# --- signals


def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


@pytest.mark.fault(5)
@pytest.mark.parametrize(("batches", "step"), [(0, 1), (1, 1), (2, 2), (6, 4), (7, 5), (13, 8)])
def test_a_signal_saves_the_newest_step_whenever_it_comes(training, batches, step):
    """Also inside an accumulation, whose step is finished first, and far from the next regular save."""
    count = itertools.count()

    def signal_at(loop, batch):
        if next(count) == batches:
            send()

    with run.Signals(), pytest.raises(run.Interrupted):
        training("cut", at_batch=signal_at, save_every=100)
    assert checkpoint.load_latest(training.loop.folder)[1]["position"]["step"] == step
    assert differences(end_of(training("whole", save_every=100)), end_of(training("cut", save_every=100))) == []


@pytest.mark.fault(5)
def test_a_signal_after_an_epoch_s_last_step_saves_too(training, monkeypatch):
    original = Loop._optimize

    def late(self):
        original(self)
        if self.steps_done == 4:
            send()

    with monkeypatch.context() as patch, run.Signals(), pytest.raises(run.Interrupted):
        patch.setattr(Loop, "_optimize", late)
        training("cut", save_every=100)
    assert checkpoint.load_latest(training.loop.folder)[1]["position"]["step"] == 4
    assert differences(end_of(training("whole", save_every=100)), end_of(training("cut", save_every=100))) == []


@pytest.mark.fault(5)
@pytest.mark.parametrize(("batches", "saved"), [(4, 2), (5, None)], ids=["between steps", "inside an accumulation"])
def test_a_signal_during_a_hopeless_wait_for_data(training, monkeypatch, batches, saved):
    """The loader gives up: between two steps the newest is saved, inside one the last regular save stands."""
    original = run.iterate

    def hanging(loader, **asked):
        for number, batch in enumerate(original(loader, **asked)):
            if number == batches:
                send()
                run.stop()  # as `iterate` does when a signal waits and no batch comes
            yield batch

    with monkeypatch.context() as patch, run.Signals(), pytest.raises(run.Interrupted):
        patch.setattr(run, "iterate", hanging)
        training("cut", save_every=100)
    found = checkpoint.load_latest(training.loop.folder) if training.loop.folder.exists() else None
    assert (found and found[1]["position"]["step"]) == saved
    assert differences(end_of(training("whole", save_every=100)), end_of(training("cut", save_every=100))) == []


# --- the clock


def test_preparation_and_evaluation_are_not_counted_as_training(training, monkeypatch):
    ticks = itertools.count(step=0.0)
    now = [0.0]
    monkeypatch.setattr(loop_module.time, "perf_counter", lambda: now[0] + next(ticks))

    def train(loop, batch):
        now[0] += 1.0

    def evaluate(loop):
        now[0] += 1000.0

    seconds = []
    original = Loop._log

    def log(self, norm):
        seconds.append(loop_module.time.perf_counter() - self.started)
        original(self, norm)

    monkeypatch.setattr(Loop, "_log", log)
    training("whole", at_batch=train, before_close=evaluate, log_every=4)
    assert seconds == [BATCHES, BATCHES]
