"""Checkpoints under kill -9: at most the step under way is lost."""

import contextlib
import os
import random
import signal
import tempfile
import time
from pathlib import Path

import pytest
from checkpoint_samples import is_state_of, state_of

from shared import checkpoint

KILLS = 25


@pytest.fixture
def quick_folder():
    """In memory where possible: the moments of death then spread over the work, not over the disk's waits."""
    memory = Path("/dev/shm")
    usable = memory.is_dir() and os.access(memory, os.W_OK)
    with tempfile.TemporaryDirectory(dir=memory if usable else None) as folder:
        yield Path(folder)


def save_forever(folder: Path, acknowledge: int, fresh_names: bool) -> None:
    found = checkpoint.load_latest(folder)
    step = found[1]["step"] if found else 0
    while True:
        step += 1
        name = f"step-{step}.pt" if fresh_names else "last.pt"
        checkpoint.save(folder / name, state_of(step, 256), step=step)
        os.write(acknowledge, f"{step}\n".encode())
        checkpoint.prune(folder, 2)


def kill_one(folder: Path, saves: int, delay_s: float, fresh_names: bool) -> int:
    """Kill a process some time after it acknowledged so many saves; the last step it acknowledged."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            save_forever(folder, writer, fresh_names)
        os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as acknowledged:
        steps = [acknowledged.readline() for _ in range(saves)]
        time.sleep(delay_s)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        steps += acknowledged.read().split()
    assert os.WIFSIGNALED(status), "the saving process ended by itself"
    return int(steps[-1]) if steps else 0


def seconds_of_a_save(folder: Path) -> float:
    checkpoint.save(folder / "trial.pt", state_of(0, 256), step=0)
    started = time.perf_counter()
    checkpoint.save(folder / "trial.pt", state_of(0, 256), step=0)
    return time.perf_counter() - started


@pytest.mark.fault(1)
@pytest.mark.parametrize("fresh_names", [True, False], ids=["a file a step", "one file overwritten"])
def test_kill_9_at_a_random_moment_loses_at_most_the_step_under_way(quick_folder, fresh_names):
    (quick_folder / "trial").mkdir()
    save_s = seconds_of_a_save(quick_folder / "trial")
    folder, moments, reached = quick_folder / "run", random.Random(0), 0
    folder.mkdir()
    for kill in range(KILLS):
        delay_s = moments.uniform(0, 4) * save_s
        reached = max(reached, kill_one(folder, moments.randint(0, 3), delay_s, fresh_names))
        found = checkpoint.load_latest(folder)
        assert found or reached == 0, f"kill {kill}: nothing to resume although step {reached} was saved"
        if found:
            path, state = found
            assert is_state_of(state, state["step"]), f"kill {kill}: tensors of another step"
            assert checkpoint.manifest(path)["step"] == state["step"]
            assert state["step"] >= reached, f"kill {kill}: step {reached} was saved and is lost"
        checkpoint.sweep(folder)
        assert not list(folder.glob(".*")), "leftovers after the sweep"
    assert reached > KILLS, "too few saves for the test to mean anything"


@pytest.mark.parametrize("fresh_names", [True, False], ids=["new name", "overwritten"])
@pytest.mark.parametrize("survived", range(5))
def test_death_before_each_rename_leaves_the_old_or_the_new_state(tmp_path, monkeypatch, survived, fresh_names):
    class Death(BaseException):
        pass

    names = ("step-1.pt", "step-2.pt") if fresh_names else ("last.pt", "last.pt")
    checkpoint.save(tmp_path / names[0], state_of(1), step=1)
    renames, rename = [], Path.replace

    def dying_replace(self, target):
        if len(renames) == survived:
            raise Death
        renames.append(target)
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", dying_replace)
    with contextlib.suppress(Death):
        checkpoint.save(tmp_path / names[1], state_of(2), step=2)
    monkeypatch.undo()
    path, state = checkpoint.load_latest(tmp_path)
    assert is_state_of(state, checkpoint.manifest(path)["step"])
    if not fresh_names:
        assert checkpoint.load(tmp_path / "last.pt")["step"] == state["step"], "the one file must stay good throughout"
    expected_new = survived >= (3 if fresh_names else 2)
    assert state["step"] == (2 if expected_new else 1)


def test_the_first_save_cut_anywhere_can_be_started_again(tmp_path, monkeypatch):
    rename = Path.replace

    def dying_replace(self, target):
        if target.suffix != ".json":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", dying_replace)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path / "last.pt", state_of(1), step=1)
    assert checkpoint.load_latest(tmp_path) is None
