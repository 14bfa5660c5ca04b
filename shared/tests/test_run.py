"""Runs under signals, dying workers, several processes and second writers; and the laws of seeds and folders."""

import contextlib
import errno
import json
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from shared import run
from shared.errors import ConfigError, DataError, NonFiniteError, StorageError, UserError

HASH = "0123abcd"
CONFIG = "seed: 3\ntraining:\n  lr: 0.1\n  epochs: 2\n"


# --- processes started by forking this one, which has torch loaded


def forked(body, *, new_group: bool = False) -> multiprocessing.Process:
    """A process that runs `body` through run_command and exits with its code."""

    def main():
        if new_group:
            os.setsid()
        sys.exit(run.run_command(body))

    process = multiprocessing.get_context("fork").Process(target=main)
    process.start()
    return process


def exit_code(process, within_s: float = 30) -> int:
    deadline = time.monotonic() + within_s
    while process.exitcode is None:  # `join` would wait for the process's own children too
        if time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the process was still alive after {within_s} s")
        time.sleep(0.01)
    return process.exitcode


class Mark:
    """A file that says how far a child got."""

    def __init__(self, path: Path):
        self.path = path

    def set(self, text: str = "x") -> None:
        self.path.write_text(text)

    def wait(self, within_s: float = 10) -> None:
        deadline = time.monotonic() + within_s
        while not self.path.exists():
            assert time.monotonic() < deadline, f"{self.path.name} was never reached"
            time.sleep(0.005)

    def __bool__(self) -> bool:
        return self.path.exists()


@pytest.fixture
def mark(tmp_path):
    folder = tmp_path / "marks"
    folder.mkdir()
    return lambda name: Mark(folder / name)


# --- signals


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


# --- randomness


def test_a_sample_s_generator_depends_on_its_three_numbers_and_nothing_else():
    first = run.sample_rng(1, 2, 3).random(4).tolist()
    np.random.default_rng(5).random(3)
    torch.rand(3)
    assert run.sample_rng(1, 2, 3).random(4).tolist() == first
    others = [(0, 2, 3), (1, 0, 3), (1, 2, 0), (3, 2, 1), (1, 3, 2), (2, 1, 3), (1, 2, 4)]
    assert len({tuple(run.sample_rng(*other).random(4)) for other in others} | {tuple(first)}) == len(others) + 1


def test_seed_everything_repeats_all_three_generators():
    import random

    def draws(seed):
        run.seed_everything(seed)
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    assert draws(7) == draws(7)
    assert not set(draws(7)) & set(draws(8))


# --- worlds


@contextlib.contextmanager
def environment(**variables):
    before = dict(os.environ)
    os.environ.update({key: str(value) for key, value in variables.items()})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_world(body, size: int = 2) -> list[multiprocessing.Process]:
    """`size` processes, as torchrun would start them, each running body(world)."""

    def rank_body():
        with run.world_from_environment("cpu", timeout_s=40) as world:
            return body(world)

    processes, port = [], free_port()
    for rank in range(size):
        with environment(
            RANK=rank,
            LOCAL_RANK=rank,
            WORLD_SIZE=size,
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
            GLOO_SOCKET_IFNAME="lo",
        ):
            processes.append(forked(rank_body))
    return processes


def test_a_world_of_one_costs_nothing_and_changes_nothing():
    with environment(RANK=0, LOCAL_RANK=0, WORLD_SIZE=1), run.world_from_environment("cpu") as under_torchrun:
        assert not torch.distributed.is_initialized()
    with run.world_from_environment("cpu") as plain:
        assert plain == under_torchrun == run.World(0, 1, 0, torch.device("cpu"))
    tensor = torch.ones(2)
    assert plain.is_main
    assert plain.sum(tensor) is tensor
    assert plain.any(True) is True
    assert plain.any(False) is False
    assert plain.gather("x") == ["x"]
    assert plain.broadcast("x") == "x"
    plain.barrier()


def test_a_failed_process_lets_the_others_go_before_it_has_ended(mark):
    """It may take long to end (workers, files); the others must not wait for that."""

    def body():
        try:
            with run.world_from_environment("cpu", timeout_s=40) as world:
                world.barrier()
                if world.rank == 1:
                    raise UserError("enough")
                world.barrier()
        except UserError:
            mark("the other ended").wait()
            raise

    processes, port = [], free_port()
    for rank in range(2):
        several = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        with environment(**several, GLOO_SOCKET_IFNAME="lo"):
            processes.append(forked(body))
    assert exit_code(processes[0], 8) != 0
    mark("the other ended").set()
    assert exit_code(processes[1], 8) == 2


def test_incomplete_variables_and_missing_devices_are_told():
    with environment(WORLD_SIZE=2), pytest.raises(UserError, match="torchrun"), run.world_from_environment("cpu"):
        pass
    with pytest.raises(ConfigError, match="'gpu' is not a device"), run.world_from_environment("gpu"):
        pass
    with pytest.raises(ConfigError, match="cuda:99 is not there"), run.world_from_environment("cuda:99"):
        pass


def test_two_processes_agree(tmp_path):
    def body(world):
        tensor = torch.tensor([1.0, 10.0]) * (world.rank + 1)
        answers = {
            "sum": world.sum(tensor).tolist(),
            "kept": tensor.tolist(),
            "any": [world.any(False), world.any(world.rank == 1), world.any(True)],
            "gather": world.gather({"rank": world.rank}),
            "broadcast": world.broadcast(f"from {world.rank}"),
            "main": world.is_main,
        }
        world.barrier()
        (tmp_path / f"{world.rank}.json").write_text(json.dumps(answers))

    assert [exit_code(process) for process in start_world(body)] == [0, 0]
    for rank in range(2):
        answers = json.loads((tmp_path / f"{rank}.json").read_text())
        assert answers["sum"] == [3.0, 30.0]
        assert answers["kept"] == [rank + 1.0, 10.0 * (rank + 1)]
        assert answers["any"] == [False, True, True]
        assert answers["gather"] == [{"rank": 0}, {"rank": 1}]
        assert answers["broadcast"] == "from 0"
        assert answers["main"] == (rank == 0)


@pytest.mark.parametrize("place", ["start", "between collectives", "user error"])
def test_an_exception_on_one_rank_ends_both(place, capfd):
    def body(world):
        if world.rank == 1 and place == "start":
            raise RuntimeError("broken on one")
        world.barrier()
        if world.rank == 1:
            raise (UserError if place == "user error" else RuntimeError)("broken on one")
        world.sum(torch.ones(1))
        world.barrier()

    started = time.monotonic()
    codes = [exit_code(process, 60) for process in start_world(body)]
    assert time.monotonic() - started < 30
    assert 0 not in codes
    told = capfd.readouterr().err
    assert "broken on one" in told
    assert ("[rank 1] error: broken on one" in told) == (place == "user error")


def test_two_processes_share_one_folder_and_the_main_one_writes_it(tmp_path):
    def body(world):
        with open_run(tmp_path / "results", world=world) as opened:
            opened.record(data="embedded")
            opened.mark_done("1")
            opened.log.info("hello from %d", world.rank)
            opened.metrics.log(1, {"loss": 1.0}, split="train")
            (tmp_path / f"{world.rank}.txt").write_text(f"{opened.path} {opened.is_done('1')}")
            world.barrier()

    assert [exit_code(process) for process in start_world(body)] == [0, 0]
    assert (tmp_path / "0.txt").read_text() == (tmp_path / "1.txt").read_text()
    (path,) = (tmp_path / "results").iterdir()
    assert json.loads((path / "run.json").read_text())["starts"][0]["processes"] == 2
    log = (path / "log.txt").read_text()
    assert "hello from 0" in log
    assert "hello from 1" not in log
    assert len((path / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_folder_refused_on_the_main_process_ends_all_with_its_message(tmp_path, capfd):
    with open_run(tmp_path, name="mine"):
        codes = [exit_code(p) for p in start_world(lambda world: open_run(tmp_path, name="mine", world=world))]
    assert codes == [2, 2]
    assert "is being written by another process" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("place", ["before", "after"])
def test_torchrun_ends_when_one_rank_fails(tmp_path, place):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch\nfrom shared import run\n"
        "def body():\n"
        "    with run.world_from_environment('cpu') as world:\n"
        f"        if world.rank == 1 and {place == 'before'}: raise RuntimeError('broken on one')\n"
        "        world.barrier()\n"
        "        if world.rank == 1: raise RuntimeError('broken on one')\n"
        "        world.sum(torch.ones(1))\n"
        "sys.exit(run.run_command(body))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode != 0
    assert "RuntimeError: broken on one" in done.stderr


# --- the run's folder


def open_run(root, *, name=None, config_hash=HASH, config_yaml=CONFIG, stages=("1", "2"), world=None):
    return run.RunFolder.open(
        root,
        name=name,
        config_hash=config_hash,
        config_yaml=config_yaml,
        stages=stages,
        world=world or run.World(),
        command=["main.py", "--stage", "all"],
    )


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


def test_names_cannot_lead_out_of_the_folder(tmp_path):
    (tmp_path / "outside").mkdir()
    with open_run(tmp_path, name="mine") as opened:
        assert opened.file("figures/a.png") == opened.path / "figures" / "a.png"
        assert (opened.path / "figures").is_dir()
        (opened.path / "link").symlink_to(tmp_path / "outside")
        for name in ("../x", "/etc/passwd", "figures/../../x", "link/x", "a\0b"):
            with pytest.raises(UserError, match="leads out of the run's folder"):
                opened.file(name)


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


# --- batches


class Samples(torch.utils.data.Dataset):
    """Sample (epoch, index) is one draw of its own generator; `trouble` maps an index to what happens there."""

    def __init__(self, trouble=None):
        self.trouble = trouble or {}

    def __getitem__(self, key):
        epoch, index = key
        if index in self.trouble:
            self.trouble[index]()
        return torch.tensor(run.sample_rng(0, epoch, index).random())


class Batches:
    """Batches of four keys in order, from a position on."""

    def __init__(self, samples: int = 24):
        self.samples, self.epoch, self.first = samples, 0, 0

    def set_position(self, epoch, first):
        self.epoch, self.first = epoch, first

    def __len__(self):
        return self.samples // 4

    def __iter__(self):
        for batch in range(self.first, len(self)):
            yield [(self.epoch, 4 * batch + offset) for offset in range(4)]


def loader_of(trouble=None, workers=2, timeout_s=20.0):
    return run.make_loader(Samples(trouble), Batches(), workers=workers, timeout_s=timeout_s)


def describe(keys):
    return " ".join(f"image{index:03d}.jpg" for _, index in keys)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batches_do_not_depend_on_the_workers_nor_touch_the_global_generator():
    seen = {}
    for workers in (0, 2, 4):
        before = torch.get_rng_state()
        sampler = Batches()
        loader = run.make_loader(Samples(), sampler, workers=workers)
        first = torch.stack(list(run.iterate(loader)))
        sampler.set_position(1, 2)
        seen[workers] = torch.cat([first, torch.stack(list(run.iterate(loader)))])
        assert torch.equal(torch.get_rng_state(), before)
    assert seen[0].shape == (6 + 4, 4)
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[0], seen[4])
    expected = run.sample_rng(0, 1, 8).random()
    assert seen[0][6, 0] == expected


def test_an_abandoned_pass_does_not_disturb_the_next():
    loader = loader_of({20: lambda: time.sleep(0.3)})
    for _ in run.iterate(loader):
        break
    assert len(list(run.iterate(loader))) == 6


def test_a_slow_batch_is_waited_for():
    started = time.monotonic()
    assert len(list(run.iterate(loader_of({9: lambda: time.sleep(1.4)})))) == 6
    assert time.monotonic() - started > 1.4


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def workers_of(loader):
    return [worker.pid for worker in loader._iterator._workers]


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_a_killed_worker_is_told_with_the_samples_it_was_reading():
    loader = loader_of({10: lambda: time.sleep(0.5), 12: lambda: time.sleep(0.2), 13: die})
    started, received = time.monotonic(), 0
    with pytest.raises(DataError, match=r"worker died.*image012\.jpg image013\.jpg image014.*fewer workers"):
        for _ in run.iterate(loader, describe):
            received += 1
    assert received == 3
    assert time.monotonic() - started < 8


def test_a_worker_that_dies_between_two_waits_raises_nowhere_else():
    loader = loader_of()
    with pytest.raises(DataError, match="worker died"):
        for _ in run.iterate(loader, describe):
            for pid in workers_of(loader):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + 1  # a step of training, into which nothing may break
            while time.monotonic() < deadline:
                time.sleep(0.01)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_raising_dataset_names_the_samples(workers):
    def user_error():
        raise DataError("image006.jpg is cut short; copy it again.")

    def defect():
        raise KeyError("no such box")

    with pytest.raises(DataError) as error:
        list(run.iterate(loader_of({6: user_error}, workers), describe))
    expected = "image006.jpg is cut short; copy it again. (while reading the samples image004.jpg image005.jpg"
    assert str(error.value).startswith(expected)
    assert "Traceback" not in str(error.value)
    with pytest.raises(RuntimeError, match=r"(?s)samples image008\.jpg.*no such box") as error:
        list(run.iterate(loader_of({11: defect}, workers), describe))
    assert not isinstance(error.value, UserError)


def test_a_hanging_worker_is_told_and_removed():
    def hang():
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        time.sleep(1000)

    loader = loader_of({17: hang}, timeout_s=1.2)
    started = time.monotonic()
    with pytest.raises(DataError, match=r"worker hangs.*image016\.jpg image017\.jpg"):
        list(run.iterate(loader, describe))
    pids = workers_of(loader)
    del loader
    assert time.monotonic() - started < 10
    time.sleep(0.1)
    assert all(gone(pid) for pid in pids)


def test_without_names_the_first_keys_are_shown():
    with pytest.raises(DataError, match=r"\(0, 4\), \(0, 5\), \(0, 6\), \(0, 7\)"):
        list(run.iterate(loader_of({5: die})))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("early_thread", [False, True])
def test_a_signal_to_the_whole_group_leaves_the_workers_to_finish(mark, capfd, number, early_thread):
    """As `timeout`, Slurm and Ctrl-C send it: the step under way and its save still happen. Also when a library has
    put a thread into the worker at the fork, which blocks no signal (numpy's BLAS may, with more cores than one)."""

    def body():
        if early_thread:
            os.register_at_fork(
                after_in_child=lambda: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
            )
        loader = loader_of({index: lambda: time.sleep(0.05) for index in range(24)})
        with run.deferred():
            for count, _ in enumerate(run.iterate(loader)):
                mark(f"batch{count}").set()
                if run.stop_requested() and count >= 4:
                    mark("saved").set()
                    run.check()

    process = forked(body, new_group=True)
    mark("batch1").wait()
    os.killpg(process.pid, number)
    assert exit_code(process, 20) == 128 + number
    assert mark("saved")
    assert "Traceback" not in capfd.readouterr().err


def test_a_signal_ends_a_hopeless_wait_for_data(mark, monkeypatch):
    monkeypatch.setattr("shared.loader.PATIENCE_S", 1.0)

    def body():
        with run.deferred():
            for _ in run.iterate(loader_of({9: lambda: time.sleep(1000)}, timeout_s=1000)):
                mark("waiting").set()

    process = forked(body)
    mark("waiting").wait()
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGTERM)
    assert exit_code(process, 10) == 143


@pytest.mark.slow
def test_a_process_with_busy_workers_ends_promptly():
    def body():
        for _ in run.iterate(loader_of({9: lambda: time.sleep(1000)}, timeout_s=1000)):
            raise UserError("enough")

    started = time.monotonic()
    assert exit_code(forked(body), 10) == 2
    assert time.monotonic() - started < 8


# --- clocks and lines


def test_the_wait_clock_counts_waiting_only():
    clock = run.WaitClock()

    def slow():
        for number in range(3):
            time.sleep(0.05)
            yield number

    for _ in clock.timed(slow()):
        time.sleep(0.05)
    assert 0.15 <= clock.seconds < 0.25
    assert 0.3 < clock.share < 0.7
    with clock.wait():
        time.sleep(0.05)
    assert clock.seconds >= 0.2
    clock.reset()
    assert clock.seconds == 0
    assert clock.share < 0.1


def test_the_progress_line_says_all():
    line = run.format_line(2, 30, 400, {"loss": 1.23456, "l1": 0.5}, [1e-4, 1e-3], 312.34, 0.043, 3725)
    assert line == (
        "epoch 2  step 30/400  loss 1.235  l1 0.5  lr 0.0001/0.001  312.3 samples/s  data wait 4 %  ETA 1:02:05"
    )
