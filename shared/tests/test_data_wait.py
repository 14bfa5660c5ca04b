"""The loader study: shares of a training's time from the records of runs."""

import json
from pathlib import Path

import pytest

from shared import data_wait

LOOP = [{"step": 1, "split": "stage1/train", "time": {"seconds": 1.0, "samples_per_s": 8.0, "data_wait": 0.10}},
        {"step": 2, "split": "stage1/train", "time": {"seconds": 3.0, "samples_per_s": 8.0, "data_wait": 0.02}},
        {"step": 2, "split": "stage1/epoch", "loss": 1.0}]  # fmt: skip
MMENGINE = [{"step": 5, "split": "train", "time": {"time": 0.5, "data_time": 0.2, "seconds": 2.0, "data_wait": 0.1}},
            {"step": 5, "split": "val", "time": {"time": 0.5, "data_time": 0.4}}]  # fmt: skip


def run(folder: Path, rows: list[dict]) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_share_is_of_the_time_and_not_of_the_log_lines(tmp_path):
    run(tmp_path / "one", LOOP)
    (found,) = data_wait.waits_of(tmp_path / "one/metrics.jsonl")
    assert found == {"training": "stage1/train", "lines": 2, "share": pytest.approx((0.10 + 0.06) / 4)}


def test_the_study_names_every_training_and_fails_above_the_target(tmp_path, capsys):
    run(tmp_path / "a/results/one", LOOP)
    run(tmp_path / "b/work", MMENGINE)
    run(tmp_path / "b/.venv/lib", MMENGINE)
    out = tmp_path / "study.json"
    assert data_wait.main([str(tmp_path), "--out", str(out)]) == 1
    printed = capsys.readouterr().out
    assert "4.0%" in printed and "10.0%" in printed and "target 5%: MISSED" in printed
    shares = [one["share"] for one in json.loads(out.read_text())["results"]["trainings"]]
    assert shares == [pytest.approx(0.04), pytest.approx(0.1)]
    assert data_wait.main([str(tmp_path / "a")]) == 0
    assert data_wait.main([str(tmp_path), "--most", "0.1"]) == 0


def test_without_a_training_there_is_nothing_to_say(tmp_path, capsys):
    assert data_wait.main([str(tmp_path)]) == 2
    assert "train first" in capsys.readouterr().err
