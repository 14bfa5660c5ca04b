"""The metrics log: its records, what a rewind forgets, TensorBoard and W&B beside it."""

import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from shared.errors import DataError, StorageError
from shared.metrics import (
    MetricsLog,
    read_records,
)
from shared.wandb_run import start_wandb


@pytest.fixture
def log(tmp_path):
    with_file = MetricsLog(tmp_path, tensorboard=False)
    yield with_file
    with_file.close()


def write_steps(log, split, steps):
    for step in steps:
        log.log(step, {"loss": 1 / step}, split=split, time={"seconds": 0.5})


def test_record_form(log):
    log.log(3, {"loss": torch.tensor(0.5), "n": 4, "iou": np.float32(0.25)}, split="train", time={"samples_per_s": 9.5})
    assert log.path.read_text() == (
        '{"step": 3, "split": "train", "loss": 0.5, "n": 4, "iou": 0.25, "time": {"samples_per_s": 9.5}}\n'
    )


def test_non_finite_is_valid_json_and_reads_back(log):
    log.log(1, {"a": math.nan, "b": math.inf, "c": torch.tensor(-math.inf)}, split="nan", time={"d": math.inf})

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    record = json.loads(log.path.read_text(), parse_constant=refuse)
    assert (record["a"], record["b"], record["c"], record["time"]["d"]) == ("nan", "inf", "-inf", "inf")
    (back,) = read_records(log.path)
    assert math.isnan(back["a"]) and back["c"] == -math.inf and back["time"]["d"] == math.inf and back["split"] == "nan"


@pytest.mark.parametrize("values", [{"step": 1.0}, {"time": 1.0}, {"x": "word"}, {"x": torch.zeros(2)}, {"x": None}])
def test_bad_values_are_refused_before_anything_is_written(log, values):
    with pytest.raises(ValueError):
        log.log(1, {"good": 1.0, **values}, split="train")
    assert not log.path.exists()


def test_rewind_drops_later_records_and_keeps_the_rest_byte_for_byte(log):
    write_steps(log, "stage1/train", [1, 2, 3, 4])
    kept = log.path.read_bytes().splitlines(keepends=True)[:2]
    write_steps(log, "stage2/train", [3, 5])
    kept += log.path.read_bytes().splitlines(keepends=True)[4:]
    log.rewind("stage1/", 2)
    assert log.path.read_bytes() == b"".join(kept)
    log.rewind(None, 3)
    assert [(r["split"], r["step"]) for r in read_records(log.path)] == [
        ("stage1/train", 1), ("stage1/train", 2), ("stage2/train", 3),
    ]  # fmt: skip
    log.rewind("stage1")
    assert [r["split"] for r in read_records(log.path)] == ["stage2/train"]


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_goes(tmp_path, log, cut, caplog):
    write_steps(log, "train", [1, 2, 3])
    whole = log.path.read_bytes()
    log.path.write_bytes(whole[:-cut])
    assert [r["step"] for r in read_records(log.path)] == ([1, 2, 3] if cut == 1 else [1, 2])
    again = MetricsLog(tmp_path, tensorboard=False)  # a torn line would otherwise swallow the next record
    again.rewind("train", 2)
    write_steps(again, "train", [3])
    assert log.path.read_bytes() == whole
    assert ("cut short" in caplog.text) == (cut > 1)


def test_the_record_after_a_torn_line_is_whole(tmp_path, log):
    write_steps(log, "train", [1, 2])
    log.path.write_bytes(log.path.read_bytes()[:-10])
    write_steps(MetricsLog(tmp_path, tensorboard=False), "train", [2, 3])
    assert [r["step"] for r in read_records(log.path)] == [1, 2, 3]


def test_resuming_gives_the_bytes_of_the_uninterrupted_run(tmp_path, log):
    write_steps(log, "train", range(1, 9))
    folder = tmp_path / "cut"
    folder.mkdir()
    cut = MetricsLog(folder, tensorboard=False)
    write_steps(cut, "train", range(1, 7))
    resumed = MetricsLog(folder, tensorboard=False)
    resumed.rewind("train", 4)
    write_steps(resumed, "train", range(5, 9))
    assert resumed.path.read_bytes() == log.path.read_bytes()


def test_truncate_to_a_position_is_exact_where_steps_repeat(log):
    assert log.position() == 0
    write_steps(log, "train", [1, 2])
    log.log(2, {"ap": 0.5}, split="val")
    position, before = log.position(), log.path.read_bytes()
    log.log(2, {"ap": 0.5}, split="val")
    write_steps(log, "train", [3])
    log.truncate(position)
    assert log.path.read_bytes() == before and log.position() == position
    log.truncate(0)
    assert log.path.read_bytes() == b""


def test_a_broken_line_inside_is_an_error_that_names_it(log):
    write_steps(log, "train", [1, 2, 3])
    lines = log.path.read_text().splitlines()
    log.path.write_text("\n".join([lines[0], lines[1][:-9], lines[2], ""]))
    for action in (lambda: log.rewind(None, 1), lambda: read_records(log.path)):
        with pytest.raises(DataError, match=r"metrics\.jsonl line 2 is broken"):
            action()


@pytest.mark.fault(7)
def test_missing_folder_and_file_are_clear_errors(tmp_path):
    with pytest.raises(StorageError, match="create it first"):
        MetricsLog(tmp_path / "absent")
    with pytest.raises(DataError, match="has the run logged anything"):
        read_records(tmp_path / "metrics.jsonl")


@pytest.mark.fault(6)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_named(log):
    log.path.symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"metrics\.jsonl.*bytes"):
        write_steps(log, "train", [1])


def test_tensorboard_hides_what_a_rewind_forgot(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for steps in ([1, 2, 3, 4], [3]):
        log = MetricsLog(tmp_path)
        log.rewind("stage1/train", 2)
        write_steps(log, "stage1/train", steps)
        log.close()
        time.sleep(1.1)  # TensorBoard reads files in the order of their names, which hold whole seconds
    events = EventAccumulator(str(tmp_path / "tensorboard" / "stage1-train"))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3]
    assert events.Scalars("loss")[1].value == 0.5
    assert "time/seconds" in events.Tags()["scalars"]


class FakeWandb:
    """Stands for the wandb module and its run."""

    def __init__(self):
        self.rows, self.axes, self.finished = [], [], False
        self.errors = type("Errors", (), {"Error": RuntimeError})

    def init(self, **options):
        self.options = options
        return self

    def define_metric(self, name, step_metric):
        self.axes.append((name, step_metric))

    def log(self, row):
        self.rows.append(row)

    def finish(self):
        self.finished = True


@pytest.fixture
def fake(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return fake


RUN = {"project": "p", "name": "n", "config": {"a": 1}}


def test_wandb_is_offline_without_a_login_and_each_split_has_its_own_steps(tmp_path, fake):
    log = MetricsLog(tmp_path, start_wandb(tmp_path, **RUN), tensorboard=False)
    write_steps(log, "stage1/train", [1, 2])
    write_steps(log, "stage2/train", [1])
    log.close()
    assert fake.options["mode"] == "offline" and fake.options["dir"] == str(tmp_path) and fake.finished
    assert fake.axes == [(f"{s}/*", f"{s}/step") for s in ("stage1/train", "stage2/train")]
    assert fake.rows[1] == {"stage1/train/loss": 0.5, "stage1/train/time/seconds": 0.5, "stage1/train/step": 2}


def test_wandb_goes_online_with_a_key_and_where_the_user_says(tmp_path, fake, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k")
    start_wandb(tmp_path, **RUN)
    assert fake.options["mode"] == "online" and fake.options["project"] == "p" and fake.options["config"] == {"a": 1}
    monkeypatch.setenv("WANDB_MODE", "disabled")
    start_wandb(tmp_path, **RUN)
    assert fake.options["mode"] == "disabled"


def test_wandb_never_stops_a_run(tmp_path, fake, monkeypatch, caplog):
    monkeypatch.setattr(fake, "init", lambda **options: (_ for _ in ()).throw(RuntimeError("no server")))
    assert start_wandb(tmp_path, **RUN) is None and "no server" in caplog.text
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert start_wandb(tmp_path, **RUN) is None and "pip install wandb" in caplog.text
