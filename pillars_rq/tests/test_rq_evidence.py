"""The evidence command in its quick form, and its arithmetic."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pillars_rq import evidence
from pillars_rq.evidence import Job, Scores, falls, jobs_of, models_of, run_jobs, scores_of, whole_plan
from shared.errors import UserError

HOUR = time.monotonic() + 3600


def test_the_whole_plan_is_what_the_study_needs():
    plan = whole_plan(Path("out"), 3)
    names = [job.name for job in jobs_of(plan)]
    assert len(names) == len(set(names)) == 2 + 3 * (1 + 2 * 5)
    assert [name for name, _, _ in models_of(plan)] == [
        "nested", "no-det", "dedicated-1x256", "dedicated-2x64", "dedicated-5x16"]  # fmt: skip
    assert plan.val_frames >= 200
    fewer = whole_plan(Path("out"), 1, books=2)
    assert fewer.dedicated == ((1, 256), (2, 64)) and "model.n_codebook=2" in models_of(fewer)[0][1]


def test_differences_are_paired():
    """Frames that shift both alike cancel: the interval is narrow although each alone is wide."""
    shift = np.linspace(-5, 5, 50)[None]
    a, b = (Scores(np.array([value]), value + shift) for value in (60.0, 59.0))
    assert a.minus(b) == {"mean": 1.0, "low": pytest.approx(1.0), "high": pytest.approx(1.0), "per_seed": [1.0]}


def test_a_cell_below_a_smaller_one_is_told_only_beyond_its_half_width():
    noise = np.random.default_rng(0).normal(0, 0.5, (1, 400))
    still = np.zeros((1, 400))
    cells = {(1, 16): Scores(np.array([50.0]), 50 + still), (1, 32): Scores(np.array([48.0]), 48 + noise),
             (2, 16): Scores(np.array([49.5]), 49.5 + noise)}  # fmt: skip
    assert [(one["cell"], one["below"]) for one in falls(cells)] == [("1x32", "1x16")]


def test_a_folder_holds_one_study(tmp_path):
    """Five books asked for where two were trained: refused, not taken for done."""
    job = Job("nested-0", lambda argv: 0, ("--set", "model.n_codebook=2"))
    plan = whole_plan(tmp_path, 1)
    assert run_jobs(plan, [job], HOUR) and run_jobs(plan, [job], HOUR)
    with pytest.raises(UserError, match="nested-0: its arguments changed"):
        run_jobs(plan, [replace(job, argv=("--set", "model.n_codebook=5"))], HOUR)


def test_a_cell_that_was_measured_again_is_resampled_again(tmp_path, monkeypatch):
    """Of a model trained anew in the same folder no earlier number may come back."""
    plan, cell = whole_plan(tmp_path, 1), tmp_path / "nested-0-grid/cells/1x16.json"
    cell.parent.mkdir(parents=True)
    monkeypatch.setattr(evidence, "read_cell", lambda path: path.read_text() if path.exists() else None)
    made = []
    result = {"point": 1.0, "resampled": [2.0]}
    monkeypatch.setattr(evidence, "_resample", lambda plan, cell: made.append(cell) or result)
    for content in ("first", "first", "second"):
        cell.write_text(content)
        assert scores_of(plan, "nested", "1x16").resampled.tolist() == [[2.0]]
    assert made == ["first", "second"]
    cell.unlink()
    with pytest.raises(UserError, match=r"1x16\.json is missing: remove"):
        scores_of(plan, "nested", "1x16")


@pytest.mark.slow
@pytest.mark.readme("python -m pillars_rq.evidence --out evidence")
def test_the_quick_form_runs_and_continues(tmp_path, monkeypatch, readme):
    monkeypatch.chdir(tmp_path)
    (line,) = readme
    out = tmp_path / "evidence"
    assert evidence.main([*line.arguments, "--quick", "--minutes", "0.0001"]) == evidence.MORE
    assert not (out / "evidence.json").exists()
    assert evidence.main([*line.arguments, "--quick"]) == 0
    found = json.loads((out / "evidence.json").read_text())["results"]
    assert set(found["loss"]) == {"1x2", "1x4", "2x2", "2x4"}
    assert found["detection_loss"]["cell"] == "1x4" and set(found["dedicated"]) == {"1x4"}
    assert "embedded synthetic data" in (out / "report.html").read_text()
