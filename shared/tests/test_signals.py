"""Signals end a run where nothing is lost, and every end has its exit code."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest
from forked_runs import exit_code, forked

from shared import run
from shared.errors import ConfigError, NonFiniteError


@pytest.mark.fault(5)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_outside_a_deferred_block_ends_the_run_at_once(mark, capfd, number, code):
    def body():
        mark("ready").set()
        time.sleep(30)

    process = forked(body)
    mark("ready").wait()
    os.kill(process.pid, number)
    assert exit_code(process, 5) == code
    told = capfd.readouterr().err
    assert "interrupted by SIG" in told
    assert "Traceback" not in told


@pytest.mark.fault(5)
@pytest.mark.parametrize("ends_by", ["check", "the block's end", "the outer block's end"])
def test_a_signal_inside_a_deferred_block_waits_for_the_safe_point(mark, capfd, ends_by):
    def wait_for_the_signal():
        mark("ready").set()
        while not run.stop_requested():
            time.sleep(0.005)
        mark("saved").set()

    def body():
        if ends_by == "check":
            with run.deferred():
                wait_for_the_signal()
                run.check()
                mark("too far").set()
        elif ends_by == "the block's end":
            with run.deferred():
                wait_for_the_signal()
            mark("too far").set()
        else:
            with run.deferred():
                with run.deferred():
                    wait_for_the_signal()
                mark("inner left").set()
            mark("too far").set()

    process = forked(body)
    mark("ready").wait()
    os.kill(process.pid, signal.SIGTERM)
    assert exit_code(process, 5) == 143
    assert mark("saved")
    assert not mark("too far")
    assert bool(mark("inner left")) == (ends_by == "the outer block's end")
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.fault(5)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_exits_on_the_spot(mark, number, code):
    def body():
        with run.deferred():
            mark("ready").set()
            while True:
                time.sleep(0.005)
                if run.stop_requested():
                    mark("pending").set()

    process = forked(body)
    mark("ready").wait()
    os.kill(process.pid, signal.SIGTERM)
    mark("pending").wait()
    os.kill(process.pid, number)
    assert exit_code(process, 5) == code


def test_an_error_in_a_deferred_block_is_not_hidden_by_a_waiting_signal():
    with run.Signals(), pytest.raises(ZeroDivisionError), run.deferred():
        signal.raise_signal(signal.SIGTERM)
        1 / 0  # noqa: B018


def test_handlers_are_put_back_and_without_an_instance_nothing_happens():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with run.Signals():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    with run.deferred():
        run.check()
    assert not run.stop_requested()


def test_stop_ends_a_process_that_received_no_signal_itself():
    with run.Signals(), pytest.raises(run.Interrupted) as end:
        run.stop()
    assert end.value.exit_code == 143


@pytest.mark.fault(5)
@pytest.mark.slow
def test_sigterm_on_a_real_command(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, time\nfrom shared import run\n"
        "def body():\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "sys.exit(run.run_command(body))\n"
    )
    for number, code in [(signal.SIGTERM, 143), (signal.SIGINT, 130)]:
        process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, told = process.communicate(timeout=30)
        assert process.returncode == code
        assert "Traceback" not in told


# --- exit codes


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ConfigError("lr = x in a.yaml: not a number"), 2, "error: lr = x in a.yaml: not a number"),
        (NonFiniteError("step 7: loss is nan"), 1, "error: step 7: loss is nan"),
        (OSError(errno.ENOSPC, "No space left on device", "out.bin"), 1, "No space left on device: 'out.bin'"),
        (run.Interrupted(143), 143, "interrupted by SIGTERM"),
        (KeyboardInterrupt(), 130, "interrupted by SIGINT"),
    ],
)
def test_run_command_turns_ends_into_exit_codes(capsys, error, code, told):
    def body():
        raise error

    assert run.run_command(body) == code
    message = capsys.readouterr().err
    assert told in message
    assert "Traceback" not in message


def test_run_command_lets_defects_through_and_returns_the_body_s_code():
    assert run.run_command(lambda: None) == 0
    assert run.run_command(lambda: 5) == 5
    for error in (KeyError("x"), OSError(errno.EIO, "io")):
        with pytest.raises(type(error)):
            run.run_command(lambda error=error: (_ for _ in ()).throw(error))
