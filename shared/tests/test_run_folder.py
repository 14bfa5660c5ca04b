"""A run's folder: found again, refused to a second writer, never left by a name."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time

import pytest
from forked_runs import CONFIG, HASH, exit_code, forked, open_run

from shared import run
from shared.errors import StorageError, UserError


def test_a_new_run_records_what_it_is(tmp_path):
    with open_run(tmp_path / "results") as opened:
        assert opened.path.parent == tmp_path / "results"
        assert opened.path.name.endswith(f"-{HASH}")
        opened.record(data="embedded")
        opened.record(fingerprint="abc")
        opened.mark_done("1", best=0.5)
        assert opened.is_done("1")
        assert not opened.is_done("2")
    record = json.loads((opened.path / "run.json").read_text())
    assert record["config"] == {"seed": 3, "training": {"lr": 0.1, "epochs": 2}}
    assert record["seed"] == 3
    assert record["command"] == ["main.py", "--stage", "all"]
    assert (record["data"], record["fingerprint"]) == ("embedded", "abc")
    assert record["stages"]["1"]["best"] == 0.5
    assert record["versions"]["torch"].startswith("2.")
    assert record["hardware"]["cores"] >= 1
    assert record["code"]
    assert (opened.path / "config.yaml").read_text() == CONFIG
    assert not list(opened.path.glob(".*.tmp"))


def test_the_same_command_resumes_what_is_unfinished_and_begins_anew_after(tmp_path):
    with open_run(tmp_path) as first:
        first.mark_done("1")
    with open_run(tmp_path) as again:
        assert again.path == first.path
        assert again.is_done("1")
        again.mark_done("2")
    with open_run(tmp_path) as fresh:
        assert fresh.path != first.path
    assert len(json.loads((first.path / "run.json").read_text())["starts"]) == 2
    with open_run(tmp_path, config_hash="ffff0000") as other:
        assert other.path not in (first.path, fresh.path)


def test_only_the_requested_stages_count_and_the_newest_run_wins(tmp_path):
    with open_run(tmp_path, stages=("1",)) as first:
        first.mark_done("1")
    with open_run(tmp_path, stages=("2",)) as second:
        assert second.path == first.path, "its stage 2 is still to do"
    with open_run(tmp_path, stages=("1",)) as third:
        assert third.path != first.path, "its stage 1 is done"
    with open_run(tmp_path, stages=("1", "2")) as newest:
        assert newest.path == third.path


def test_a_named_run_is_reopened_finished_or_not(tmp_path, capsys):
    for _ in range(2):
        with open_run(tmp_path, name="mine") as opened:
            opened.mark_done("1")
            opened.mark_done("2")
    assert opened.path == tmp_path / "mine"
    assert "resuming run" in capsys.readouterr().out


def test_another_configuration_is_refused_and_the_differing_keys_are_named(tmp_path):
    open_run(tmp_path, name="mine").close()
    before = (tmp_path / "mine" / "run.json").read_bytes()
    with pytest.raises(UserError, match=r"mine was begun with another.*training\.lr: 0\.1 -> 0\.2.*--run NAME"):
        open_run(tmp_path, name="mine", config_hash="ffff0000", config_yaml=CONFIG.replace("0.1", "0.2"))
    assert (tmp_path / "mine" / "run.json").read_bytes() == before
    open_run(tmp_path, name="mine").close()  # the refusal left no lock behind


@pytest.mark.fault(21)
@pytest.mark.parametrize("name", ["..", "a/b", "/abs", "", ".hidden", "a b", "x\0", "a" * 101])
def test_a_run_s_name_is_one_safe_path_component(tmp_path, name):
    with pytest.raises(UserError, match="not a usable name"):
        open_run(tmp_path / "results", name=name)
    assert not (tmp_path / "results").exists()


def test_folders_that_are_no_runs_and_damaged_records_are_told(tmp_path, caplog):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match=r"photos exists and is not a run's folder \(it holds cat\.jpg"):
        open_run(tmp_path, name="photos")
    open_run(tmp_path, name="mine").close()
    (tmp_path / "mine" / "run.json").write_text("{'x")
    with pytest.raises(UserError, match=r"run\.json is not JSON"):
        open_run(tmp_path, name="mine")
    with open_run(tmp_path) as fresh:
        assert fresh.path.name != "mine"
    assert "run.json is not JSON" in caplog.text


def test_a_run_killed_before_its_first_record_is_taken_up(tmp_path):
    (tmp_path / "mine").mkdir()
    for name in ("run.lock", "config.yaml", ".run.json.99999999.tmp"):
        (tmp_path / "mine" / name).write_text("")
    with open_run(tmp_path, name="mine") as opened:
        assert opened.path == tmp_path / "mine"
        assert not list(opened.path.glob(".*.tmp")), "leftovers are swept"


def test_runs_begun_in_one_second_do_not_collide(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda *_: "20260101-000000")
    with contextlib.ExitStack() as stack:
        paths = []
        for _ in range(3):
            opened = stack.enter_context(open_run(tmp_path))
            opened.mark_done("1")
            opened.mark_done("2")
            paths.append(opened.path.name)
    assert paths == [f"20260101-000000-{HASH}{suffix}" for suffix in ("", "-2", "-3")]


@pytest.mark.fault(7)
def test_a_second_writer_is_refused_with_the_first_one_s_pid(tmp_path):
    with open_run(tmp_path, name="mine"):
        with pytest.raises(UserError, match=rf"being written by another process \(process {os.getpid()} on"):
            open_run(tmp_path, name="mine")
        with pytest.raises(UserError, match="for a second run beside it"):
            open_run(tmp_path)  # the same command once more
    open_run(tmp_path, name="mine").close()


def test_kill_9_frees_the_lock_even_while_children_live_on(tmp_path, mark):
    def body():
        opened = open_run(tmp_path / "results", name="mine")
        orphan = os.fork()
        if orphan == 0:
            time.sleep(30)
            os._exit(0)
        mark("orphan").set(str(orphan))
        mark("ready").set(str(opened.path))
        time.sleep(30)

    process = forked(body)
    mark("ready").wait()
    orphan = int(mark("orphan").path.read_text())
    try:
        with pytest.raises(UserError, match=f"process {process.pid}"):
            open_run(tmp_path / "results", name="mine")
        os.kill(process.pid, signal.SIGKILL)
        exit_code(process)
        open_run(tmp_path / "results", name="mine").close()
    finally:
        os.kill(orphan, signal.SIGKILL)


@pytest.mark.fault(21)
def test_names_cannot_lead_out_of_the_folder(tmp_path):
    (tmp_path / "outside").mkdir()
    with open_run(tmp_path, name="mine") as opened:
        assert opened.file("figures/a.png") == opened.path / "figures" / "a.png"
        assert (opened.path / "figures").is_dir()
        (opened.path / "link").symlink_to(tmp_path / "outside")
        for name in ("../x", "/etc/passwd", "figures/../../x", "link/x", "a\0b"):
            with pytest.raises(UserError, match="leads out of the run's folder"):
                opened.file(name)


@pytest.mark.fault(7)
def test_a_file_or_a_wall_in_the_way_of_the_folder(tmp_path):
    (tmp_path / "results").write_text("x")
    with pytest.raises(StorageError, match="results is not a folder"):
        open_run(tmp_path / "results")
    (tmp_path / "mine").write_text("x")
    with pytest.raises(StorageError, match="mine is not a folder"):
        open_run(tmp_path, name="mine")


def test_each_line_is_logged_once_however_many_runs_were_opened(tmp_path, capsys):
    handlers = list(logging.getLogger().handlers)
    for number in range(3):
        with open_run(tmp_path, name=f"run{number}") as opened:
            opened.log.info("unique line %d", number)
            logging.getLogger("elsewhere").warning("third party %d", number)
    outer, inner = open_run(tmp_path, name="outer"), open_run(tmp_path, name="inner")
    inner.log.info("both open")
    outer.close()
    inner.log.info("one open")
    inner.close()
    printed = capsys.readouterr().out
    for line in ("unique line 0", "unique line 2", "warning: third party 1", "both open", "one open"):
        assert printed.count(line) == 1
    log = (tmp_path / "run1" / "log.txt").read_text()
    assert "unique line 1" in log
    assert "third party 1" in log
    assert "unique line 2" not in log
    assert logging.getLogger().handlers == handlers


@pytest.mark.slow
def test_opening_a_run_imports_no_tensorboard():
    code = "import sys, shared.run; print([name for name in sys.modules if 'tensorboard' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_command_announces_a_banner_once_and_the_next_command_again(capsys):
    def trainings():
        for _ in range(3):
            run.announce("EMBEDDED")

    assert [run.run_command(trainings) for _ in range(2)] == [0, 0]
    assert capsys.readouterr().out == "EMBEDDED\n" * 2
