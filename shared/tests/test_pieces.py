"""A comparison in pieces: what was made is held to what was written, and the time limit lets a command save."""

import argparse
import json
import signal
import time
from pathlib import Path

import pytest

from shared.errors import DataError, StorageError, UserError
from shared.pieces import add_plan_options, hold_to, make_folders, plan_file, recorded, time_limit

MADE = {"settings": "a", "checkpoint": "b"}


def test_a_piece_is_recorded_once_and_may_come_again(tmp_path):
    record = tmp_path / "piece.json"
    hold_to(record, "piece", MADE)
    before = record.stat().st_mtime_ns
    hold_to(record, "piece", MADE)
    assert json.loads(record.read_text()) == recorded(record) == MADE and record.stat().st_mtime_ns == before


def test_what_changed_is_named_and_the_record_stays(tmp_path):
    record = tmp_path / "piece.json"
    hold_to(record, "piece", MADE)
    with pytest.raises(UserError, match="piece: its checkpoint and teacher changed"):
        hold_to(record, "piece", {**MADE, "checkpoint": "c", "teacher": "d"})
    assert recorded(record) == MADE


def test_what_is_known_before_the_training_is_compared_and_not_written(tmp_path):
    record = tmp_path / "piece.json"
    hold_to(record, "piece", {"settings": "a"}, finished=False)
    assert recorded(record) is None
    hold_to(record, "piece", MADE)
    hold_to(record, "piece", {"settings": "a"}, finished=False)
    with pytest.raises(UserError, match="its settings changed"):
        hold_to(record, "piece", {"settings": "z"}, finished=False)


def test_a_broken_record_says_what_to_do(tmp_path):
    (tmp_path / "piece.json").write_text("{")
    with pytest.raises(DataError, match="remove it"):
        recorded(tmp_path / "piece.json")


def test_folders_are_made_and_a_file_in_the_way_is_named(tmp_path):
    make_folders(tmp_path / "results", "pieces", "figures")
    assert (tmp_path / "results/figures").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        make_folders(tmp_path / "file", "pieces")


def test_the_time_limit_rings_and_a_block_that_ends_in_time_hears_nothing():
    rung = []
    earlier = signal.signal(signal.SIGTERM, lambda number, frame: rung.append(number))
    try:
        with time_limit(0.0005):
            time.sleep(0.3)
        assert rung == [signal.SIGTERM]
        with time_limit(0.002):
            pass
        time.sleep(0.3)
        assert len(rung) == 1
    finally:
        signal.signal(signal.SIGTERM, earlier)


def test_a_command_has_one_plan():
    parser, plans = argparse.ArgumentParser(), (Path("default.yaml"), Path("quick.yaml"))
    add_plan_options(parser, "--config", "default.yaml", "one epoch")
    asked = lambda *argv: plan_file(parser.parse_args(argv), "--config", *plans)  # noqa: E731
    assert (asked(), asked("--quick"), asked("--config", "own.yaml")) == (*plans, Path("own.yaml"))
    with pytest.raises(UserError, match="give --quick or --config, not both"):
        asked("--quick", "--config", "own.yaml")
