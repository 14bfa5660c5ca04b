"""Batches from worker processes that die, raise or hang; and the clock and line of progress."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from forked_runs import exit_code, forked
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from shared import run
from shared.errors import DataError, UserError


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


@pytest.mark.fault(4)
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


# --- reading ahead ----------------------------------------------------------------------------------------------------


def passes(samples, workers, *asked):
    """The values of several passes, each asked for as (at, then); and where the workers stood after each."""
    loader = run.make_loader(Samples(), Batches(samples), workers=workers)
    seen = [torch.stack(list(run.iterate(loader, at=at, then=then))) for at, then in asked]
    return seen, loader


@pytest.mark.parametrize("samples", [4, 16, 20, 40])  # passes shorter and longer than what the workers hold
def test_reading_ahead_changes_no_batch(samples):
    epochs = [((epoch, 0), (epoch + 1, 0) if epoch < 2 else None) for epoch in range(3)]
    plain, _ = passes(samples, 0, *((at, None) for at, _ in epochs))
    for workers in (0, 2):
        ahead, loader = passes(samples, workers, *epochs)
        assert all(torch.equal(one, other) for one, other in zip(plain, ahead, strict=True))
        assert loader.batch_sampler.ahead is None


def test_the_workers_begin_the_next_epoch_with_the_last_batch():
    loader = loader_of()
    batches = run.iterate(loader, at=(0, 0), then=(1, 0))
    for number, _ in enumerate(batches, start=1):
        begun = {epoch for keys in loader.batch_sampler.sent for epoch, _ in keys}
        assert begun == ({1} if number == 6 else {0})
    assert [keys[0] for keys in loader.batch_sampler.sent] == [(1, 4 * n) for n in range(4)]


@pytest.mark.parametrize("at", [None, (1, 3), (2, 0)], ids=["where it stands", "inside", "another epoch"])
def test_a_pass_that_is_not_the_one_begun_early_is_read_anew(at):
    loader = loader_of()
    list(run.iterate(loader, at=(0, 0), then=(1, 0)))
    expected = at or (1, 0)
    (first, *_) = found = list(run.iterate(loader, at=at))
    assert first[0] == run.sample_rng(0, expected[0], 4 * expected[1]).random() and len(found) == 6 - expected[1]


def test_workers_started_anew_between_epochs_are_asked_anew():
    loader = loader_of()
    list(run.iterate(loader, at=(0, 0), then=(1, 0)))
    loader._iterator = None  # as MMEngine's hooks do when they exchange a pipeline
    assert len(list(run.iterate(loader, at=(1, 0)))) == 6


def test_a_pass_begun_early_and_read_by_others_is_asked_anew():
    loader = loader_of()
    list(run.iterate(loader, at=(0, 0), then=(1, 0)))
    assert len(list(loader)) == 6  # as MMEngine's PreciseBNHook goes over the training data
    assert len(list(run.iterate(loader, at=(1, 0)))) == 6


def test_a_worker_that_dies_between_two_passes_is_told():
    loader = loader_of()
    list(run.iterate(loader, at=(0, 0)))
    os.kill(workers_of(loader)[0], signal.SIGKILL)
    with pytest.raises(DataError, match="died between two passes"):
        list(run.iterate(loader, at=(1, 0), then=(2, 0)))


def test_a_worker_that_dies_reading_ahead_is_told_with_its_samples():
    loader = loader_of({0: lambda: time.sleep(60)})
    list(run.iterate(loader, at=(0, 1), then=(1, 0)))
    os.kill(workers_of(loader)[0], signal.SIGKILL)
    with pytest.raises(DataError, match=r"died while reading the samples image000.jpg"):
        list(run.iterate(loader, describe, at=(1, 0)))


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


@pytest.mark.fault(17)
def test_a_worker_that_dies_during_a_step_is_told_at_the_next_batch(monkeypatch):
    """Even where a loader of torch's own has left its handler, which would raise in the middle of the step."""
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)
    list(DataLoader([1, 2], num_workers=1))
    assert signal.getsignal(signal.SIGCHLD).__module__ == signal_handling.__name__
    with pytest.raises(DataError, match="worker died"):
        for _ in run.iterate(loader_of({10: lambda: (time.sleep(0.3), die())})):
            time.sleep(1)


@pytest.mark.fault(17)
def test_a_killed_worker_is_told_with_the_samples_it_was_reading():
    loader = loader_of({10: lambda: time.sleep(0.5), 12: lambda: time.sleep(0.2), 13: die})
    started, received = time.monotonic(), 0
    with pytest.raises(DataError, match=r"worker died.*image012\.jpg image013\.jpg image014.*fewer workers"):
        for _ in run.iterate(loader, describe):
            received += 1
    assert received == 3
    assert time.monotonic() - started < 8


@pytest.mark.fault(17)
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


@pytest.mark.fault(17)
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


@pytest.mark.fault(17)
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


@pytest.mark.fault(17)
def test_a_data_set_may_know_the_names():
    class Named(Samples):
        def names_of(self, keys):
            return describe(keys)

    loader = run.make_loader(Named({5: die}), Batches(), workers=2, timeout_s=20)
    with pytest.raises(DataError, match=r"worker died.*image004\.jpg image005\.jpg"):
        list(run.iterate(loader))


def test_without_names_the_first_keys_are_shown():
    with pytest.raises(DataError, match=r"\(0, 4\), \(0, 5\), \(0, 6\), \(0, 7\)"):
        list(run.iterate(loader_of({5: die})))


@pytest.mark.fault(5)
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
    assert exit_code(process, 30) == 128 + number
    assert mark("saved")
    assert "Traceback" not in capfd.readouterr().err


def test_workers_end_with_a_parent_that_was_killed(mark):
    def body():
        loader = loader_of({9: lambda: time.sleep(1000)}, timeout_s=1000)
        for _ in run.iterate(loader):
            mark("workers").set(" ".join(str(pid) for pid in workers_of(loader)))

    process = forked(body)
    mark("workers").wait()
    time.sleep(0.2)
    pids = [int(pid) for pid in mark("workers").path.read_text().split()]
    process.kill()
    deadline = time.monotonic() + 10
    while not all(gone(pid) for pid in pids):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)


@pytest.mark.fault(5)
def test_a_signal_that_ends_a_worker_at_its_start_is_no_fault_of_the_data(mark):
    """The group's signal may come between a worker's fork and the moment it learns to ignore it."""

    def end():
        time.sleep(0.5)
        die()

    def body():
        with run.deferred():
            for _ in run.iterate(loader_of({9: end})):
                os.kill(os.getpid(), signal.SIGTERM)

    assert exit_code(forked(body), 20) == 143


@pytest.mark.fault(5)
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
    with clock.wait():
        time.sleep(0.05)
    assert clock.seconds >= 0.2
    clock.reset()
    assert clock.seconds == 0


def test_the_progress_line_says_all():
    line = run.format_line(2, 30, 400, {"loss": 1.23456, "l1": 0.5}, [1e-4, 1e-3], 312.34, 0.043, 3725)
    assert line == (
        "epoch 2  step 30/400  loss 1.235  l1 0.5  lr 0.0001/0.001  312.3 samples/s  data wait 4 %  ETA 1:02:05"
    )
