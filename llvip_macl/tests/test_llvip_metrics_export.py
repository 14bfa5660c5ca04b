"""What a run leaves for people: scalars, page, zip, miss-rate pictures; names that runs do not share."""

import csv
import io
import json
import logging
import re
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from llvip_macl.evaluation.export import (
    owner_of,
    picture_owner,
    read_alignment,
    report_html,
    scalar_records,
    scalars_csv,
    scalars_json,
    shared_folder,
    write_alignment,
    write_zip,
)
from llvip_macl.evaluation.kaist_mr import MissRate
from shared.errors import ConfigError, DataError, StorageError

NO_PAGE = {"enable_html_report": False}  # where a test does not look at it: pages take a second
HOSTILE = "<script>alert('x')</script>"


def write_metrics(work_dir: Path, steps=(10, 20), extra: dict | None = None) -> None:
    """A metrics.jsonl as a run writes it, with a validation after each step."""
    lines = []
    for step in steps:
        lines.append(
            {"step": step, "split": "train", "loss": 2.0 / step, "loss_macl": 1.0 / step, "time": {"time": 0.1}}
        )
        lines.append({"step": step, "split": "val", "kaist/MR_reasonable_all": 50.0 - step, **(extra or {})})
    with (work_dir / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def alignment_entry(epoch: int) -> dict:
    measure = {"value": 0.6, "low": 0.5, "high": 0.7, "chance": 0.01}
    names = ("cosine_gap", "retrieval_at1_vis_to_ir", "probe_accuracy", "legacy_tsne_ratio")
    return {"epoch": epoch, "pairs": 9, "space": "MACL embedding", "measures": dict.fromkeys(names, measure)}


class Runner(SimpleNamespace):
    """What the hook asks of a runner."""

    def __init__(self, work_dir: Path, timestamp: str = "20260101_000000", **cfg) -> None:
        work_dir.mkdir(parents=True, exist_ok=True)
        config = type("Config", (dict,), {"pretty_text": f"lr = 0.1\nname = {HOSTILE!r}\n"})(cfg)
        curves = {"reasonable_all": MissRate(20.0, 4, 5, np.array([0.1, 0.5]), np.array([0.4, 0.9])),
                  "far": MissRate(float("nan"), 4, 0, np.zeros(0), np.zeros(0))}  # fmt: skip
        evaluator = SimpleNamespace(
            metrics=[SimpleNamespace(last=curves, prefix="kaist", protocol="matlab"), SimpleNamespace()]
        )
        super().__init__(work_dir=str(work_dir), timestamp=timestamp, cfg=config, epoch=0, val_evaluator=evaluator,
                         test_evaluator=evaluator, logger=logging.getLogger("export-test"))  # fmt: skip


@pytest.fixture(scope="module")
def hook_class():
    from llvip_macl.hooks.metrics_export import MetricsExportHook

    return MetricsExportHook


def run(hook, runner: Runner) -> dict[str, bytes] | None:
    """One training with a validation; the members of this run's newest zip."""
    hook.before_run(runner)
    hook.before_train(runner)
    runner.epoch = 1
    hook.after_val_epoch(runner, {})
    hook.after_run(runner)
    found = sorted(
        shared_folder(runner.work_dir, "metrics_logs").glob("*.zip"), key=lambda path: path.stat().st_mtime_ns
    )
    if not found:
        return None
    with zipfile.ZipFile(found[-1]) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


# --- the hook ---


def test_the_zip_holds_scalars_alignment_config_and_page(hook_class, tmp_path):
    runner = Runner(tmp_path / "work_dirs" / "stage1", embedded_world=True)
    write_metrics(Path(runner.work_dir))
    write_alignment(Path(runner.work_dir) / "alignment.json", [alignment_entry(1)])
    members = run(hook_class(), runner)
    assert set(members) == {"scalars.json", "scalars.csv", "alignment.json", "config.py", "report.html"}
    scalars = json.loads(members["scalars.json"])
    assert scalars["train"]["loss"] == [[10, 0.2], [20, 0.1]] and "time" not in scalars["train"]
    assert json.loads(members["alignment.json"])[0]["pairs"] == 9
    assert members["config.py"].startswith(b"lr = 0.1")
    assert (Path(runner.work_dir) / "report.html").read_bytes() == members["report.html"]
    assert (tmp_path / "work_dirs" / "metrics_logs" / "run_20260101_000000.zip").exists()


@pytest.mark.fault(21)
def test_the_page_is_one_file_marked_and_escaped(hook_class, tmp_path):
    runner = Runner(tmp_path / "run", embedded_world=True)
    write_metrics(Path(runner.work_dir), extra={HOSTILE: 1.0})
    write_alignment(Path(runner.work_dir) / "alignment.json", [alignment_entry(1), alignment_entry(2)])
    page = run(hook_class(), runner)["report.html"].decode()
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:|//|[\w/]+\.(js|css))""", page) and "plotly" not in page
    assert "Embedded data" in page and "loss_macl" in page and "0.5 = mixed, lower is better" in page
    assert page.count("data:image/png;base64,") == 3  # train curves, validation curves, miss rate


def test_settings_are_read_from_the_config_when_the_run_starts(hook_class, tmp_path, caplog):
    runner, hook = Runner(tmp_path / "run", metrics_export={"enable_html_report": False}), hook_class()
    write_metrics(Path(runner.work_dir))
    with caplog.at_level(logging.INFO):
        assert "report.html" not in run(hook, runner)
    assert "no HTML report: metrics_export.enable_html_report is False" in caplog.text
    runner.cfg["metrics_export"] = {"enable_html_report": True}
    assert "report.html" in run(hook, runner)
    off = Runner(tmp_path / "off", metrics_export={"enable": False})
    assert run(hook, off) is None and not (tmp_path / "off" / "figures").exists()
    elsewhere = Runner(tmp_path / "elsewhere", metrics_export={**NO_PAGE, "out_dir": str(tmp_path / "zips")})
    run(hook, elsewhere)
    assert [path.name for path in (tmp_path / "zips").iterdir()] == ["run_20260101_000000.zip"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"enable_html": True}, "metrics_export.enable_html = True does not exist; did you mean enable_html_report?"),
        ({"enable_html_report": "yes"}, "metrics_export.enable_html_report = 'yes' must be True or False"),
    ],
)
def test_bad_settings_are_refused_before_training(hook_class, tmp_path, settings, message):
    with pytest.raises(ConfigError) as raised:
        hook_class().before_run(Runner(tmp_path, metrics_export=settings))
    assert message in str(raised.value)


def test_a_resumed_run_exports_its_whole_history_each_step_once(hook_class, tmp_path):
    work_dir = tmp_path / "work_dirs" / "stage1"
    runner = Runner(work_dir, metrics_export=NO_PAGE)
    write_metrics(work_dir, (10, 20))
    first = run(hook_class(), runner)
    write_metrics(work_dir, (20, 30))  # step 20 written again
    second = run(hook_class(), Runner(work_dir, timestamp="20260102_000000", metrics_export=NO_PAGE))
    assert json.loads(second["scalars.json"])["train"]["loss"] == [[10, 0.2], [20, 0.1], [30, 2.0 / 30]]
    assert json.loads(first["scalars.json"])["train"]["loss"] == [[10, 0.2], [20, 0.1]]
    assert len(list((tmp_path / "work_dirs" / "metrics_logs").iterdir())) == 2


def test_two_runs_of_one_second_keep_both_zips(hook_class, tmp_path):
    for name in ("a", "b", "a"):
        runner = Runner(tmp_path / "work_dirs" / name, metrics_export=NO_PAGE)
        write_metrics(Path(runner.work_dir))
        run(hook_class(), runner)
    folder = tmp_path / "work_dirs" / "metrics_logs"
    other = owner_of(tmp_path / "work_dirs" / "b")
    assert sorted(path.name for path in folder.iterdir()) == [
        "run_20260101_000000.zip",
        f"run_20260101_000000_{other}.zip",
    ]


def test_every_validation_and_the_test_leave_a_curve(hook_class, tmp_path):
    runner, hook = Runner(tmp_path / "run", metrics_export=NO_PAGE), hook_class()
    write_metrics(Path(runner.work_dir))
    run(hook, runner)
    hook.after_test_epoch(runner, {})
    figures = tmp_path / "run" / "figures"
    assert sorted(path.name for path in figures.iterdir()) == ["kaist_fppi_epoch1.png", "kaist_fppi_test.png"]


def test_a_test_run_exports_no_training(hook_class, tmp_path):
    runner, hook = Runner(tmp_path / "run"), hook_class()
    hook.before_run(runner)
    hook.after_test_epoch(runner, {})
    hook.after_run(runner)
    assert not (tmp_path / "run" / "metrics_logs").exists()


def test_a_run_that_logged_nothing_says_so(hook_class, tmp_path, caplog):
    members = run(hook_class(), Runner(tmp_path / "run"))
    assert "the export has no scalars" in caplog.text
    assert b"metrics.jsonl is absent or empty" in members["report.html"] and members["alignment.json"] == b"[]\n"


# --- the parts ---


def test_csv_and_json_hold_the_same_values(tmp_path):
    write_metrics(tmp_path, extra={'a,b "c"': 0.1, "broken": "nan"})
    records = scalar_records(tmp_path / "metrics.jsonl")
    series = json.loads(scalars_json(records))
    rows = list(csv.DictReader(io.StringIO(scalars_csv(records))))
    assert len(rows) == sum(len(points) for split in series.values() for points in split.values())
    for row in rows:
        value = dict(series[row["split"]][row["name"]])[int(row["step"])]
        assert value == float(row["value"]) if value is not None else row["value"] == "nan"


def test_an_equal_export_has_equal_bytes(tmp_path):
    paths = [write_zip(tmp_path / name / "run_t.zip", {"a.txt": "text", "b": b"bytes"}, "me") for name in ("x", "y")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_folders_of_runs_and_owners(tmp_path):
    assert shared_folder(tmp_path / "work_dirs" / "stage1", "tsne_vis") == tmp_path / "work_dirs" / "tsne_vis"
    assert shared_folder(tmp_path / "work_dirs" / "group" / "stage1", "tsne_vis") == tmp_path / "work_dirs" / "tsne_vis"
    assert shared_folder(tmp_path / "elsewhere", "tsne_vis") == tmp_path / "elsewhere" / "tsne_vis"
    assert (
        owner_of(tmp_path / "a" / "run")
        != owner_of(tmp_path / "b" / "run")
        == owner_of(tmp_path / "b" / "x" / ".." / "run")
    )
    (tmp_path / "note.png").write_text("no picture")
    assert picture_owner(tmp_path / "note.png") == ""


def test_a_file_of_unknown_origin_is_not_replaced(tmp_path):
    (tmp_path / "run_t.zip").write_text("something of somebody")
    path = write_zip(tmp_path / "run_t.zip", {"a": "b"}, "stage1-12345678")
    assert path.name == "run_t_stage1-12345678.zip" and (tmp_path / "run_t.zip").read_text() == "something of somebody"


@pytest.mark.fault(7)
def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        write_zip(tmp_path / "file" / "run_t.zip", {}, "me")


def test_alignment_entries_are_kept_once_an_epoch(tmp_path):
    path = tmp_path / "alignment.json"
    assert read_alignment(path) == []
    write_alignment(path, [alignment_entry(2), alignment_entry(1), {**alignment_entry(2), "pairs": 7}])
    assert [(entry["epoch"], entry["pairs"]) for entry in read_alignment(path)] == [(1, 9), (2, 7)]
    path.write_text('{"torn"')
    with pytest.raises(DataError, match="holds no alignment values"):
        read_alignment(path)


def test_a_page_shows_chance_and_intervals_beside_alignment(tmp_path):
    write_alignment(tmp_path / "alignment.json", [alignment_entry(3)])
    page = report_html(tmp_path, "lr = 1")
    assert "0.500 to 0.700" in page and "0.01" in page and "after epoch 3" in page and "MACL embedding" in page
    assert "Embedded data" not in page
