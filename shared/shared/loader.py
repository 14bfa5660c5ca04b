"""Feeding batches from worker processes, so that a worker's trouble is told by sample and never hangs the run.

Batch samplers yield lists of keys (an index, or (epoch, index)). `make_loader` remembers which keys were sent;
`iterate` waits for each batch and, when a worker raised, died or hangs, names the samples it was reading. With `then`
the workers begin the next epoch when the last batch of this one is out, while it is trained on and judged.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from . import signals
from .errors import DataError, UserError

POLL_S = 1.0  # how often a wait for a batch looks at the workers' health
PATIENCE_S = 10.0  # how long a wait may still last once a signal asked the run to end
SHOWN_KEYS = 8
Position = tuple[int, int]  # epoch, batch


class _RememberingSampler:
    """A batch sampler that keeps the keys of the batches under way, oldest first, and which pass was begun early."""

    def __init__(self, batch_sampler: Iterable[list]):
        self.batch_sampler = batch_sampler
        self.sent: deque[list] = deque()
        self.all_sent = False
        self.ahead: Position | None = None  # where the pass begins that nobody has asked for yet

    def __iter__(self) -> Iterator[list]:
        self.sent.clear()
        self.all_sent, self.ahead = False, None
        for keys in self.batch_sampler:
            self.sent.append(keys)
            yield keys
        self.all_sent = True

    def __len__(self) -> int:
        return len(self.batch_sampler)


def make_loader(
    dataset: Dataset,
    batch_sampler: Iterable[list],
    *,
    workers: int,
    collate: Callable[[list], Any] | None = None,
    timeout_s: float = 120,
    pin_memory: bool = False,
) -> DataLoader:
    """A DataLoader for `iterate`.

    Args:
        batch_sampler: yields lists of keys; moving it (`set_position`) acts on the next pass, with live workers too.
        workers: processes, kept over epochs; 0 loads in this process.
        timeout_s: longest wait for one batch before the worker counts as hung.
    """
    return DataLoader(
        dataset,
        batch_sampler=_RememberingSampler(batch_sampler),
        num_workers=workers,
        collate_fn=collate,
        timeout=timeout_s if workers else 0,
        worker_init_fn=_start_worker,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # its own: each pass draws a seed, and a resumed run makes one pass more
    )


def _start_worker(worker: int) -> None:
    """One thread each, deaf to SIGINT and SIGTERM.

    `timeout`, Slurm and Ctrl-C send them to every process of a run: a worker that died of one would take away the batch
    that the parent needs to reach its next save. They are ignored, not handled: a handler cannot tell the parent's from
    the group's, since a signal goes to any thread that does not block it and libraries' threads are here already.
    """
    signals.Signals.current = None
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent_process().pid,), daemon=True).start()
    torch.set_num_threads(1)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(0)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os._exit(0)


def iterate(
    loader: DataLoader,
    describe: Callable[[Sequence], str] | None = None,
    *,
    at: Position | None = None,
    then: Position | None = None,
) -> Iterator[Any]:
    """The batches of one pass over a loader made by `make_loader`.

    Args:
        describe: turns the keys of a batch into the names of its samples, for messages; without it, the data set's
            `names_of(keys)`, or else the keys themselves, of the first few.
        at: (epoch, batch) where the pass begins, by the batch sampler's `set_position`; None: where that one stands.
        then: (epoch, batch) of the next pass, which the workers begin as soon as this one's last batch is out. It is
            used if the next call asks for it with `at`, and dropped otherwise.

    Raises:
        UserError: as the dataset raised it, with the samples' names added.
        DataError: a worker died or hangs.
        RuntimeError: the dataset raised something else; the worker's traceback is in the message.
        Interrupted: a signal waits and no batch has come for `PATIENCE_S`.
    """
    describe = describe or partial(_show, names_of=getattr(loader.dataset, "names_of", _plain))
    sampler = loader.batch_sampler
    begun = at is not None and at == sampler.ahead and loader._iterator is not None
    batches = loader._iterator if begun else _start(loader, at)
    sampler.ahead = None
    while True:
        try:
            batch = _next(batches, loader.timeout)
        except StopIteration:
            return
        except Exception as error:  # whatever the dataset raised comes back through here
            if signals.stop_requested() and _dead_workers(batches):
                signals.stop()  # the signal reached a worker before it had learnt to ignore it
            raise _explained(error, batches, loader, describe) from error
        sampler.sent.popleft()
        if then is not None and loader.num_workers and sampler.all_sent and not sampler.sent:
            _start(loader, then)
            sampler.ahead = then
            yield batch
            return
        yield batch


def _start(loader: DataLoader, at: Position | None) -> Iterator[Any]:
    """torch's SIGCHLD handler would raise wherever the main thread happens to be; we look at the workers instead."""
    if at is not None:
        loader.batch_sampler.batch_sampler.set_position(*at)
    earlier, kept = signal.getsignal(signal.SIGCHLD), loader._iterator
    if kept is not None:
        kept._timeout = loader.timeout  # between passes the workers may still be busy with abandoned batches
    try:
        batches = iter(loader)
    except RuntimeError as error:
        if kept is None:
            raise
        raise _died("between two passes", error) from error
    if threading.current_thread() is threading.main_thread() and earlier is not None:
        torchs = getattr(earlier, "__module__", None) == signal_handling.__name__  # left by a loader that is not ours
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if torchs else earlier)
    if loader.num_workers:
        batches._timeout = POLL_S
        if batches is not kept:
            # With the iterator, or when this process ends: a script's (atexit) or a process of multiprocessing's.
            atexit.register(Finalize(batches, _kill_workers, args=(batches._workers,), exitpriority=0))
    return batches


class _Hung(RuntimeError):
    pass


def _next(batches: Iterator[Any], patience_s: float) -> Any:
    started = time.monotonic()
    while True:
        try:
            return next(batches)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader timed out"):
                raise
            waited = time.monotonic() - started
            if waited > PATIENCE_S and signals.stop_requested():
                _kill_workers(batches._workers)
                signals.stop()
            if waited > patience_s:
                raise _Hung(f"no answer for {waited:.0f} s") from error


def _explained(error: Exception, batches: Iterator, loader: DataLoader, describe: Callable) -> Exception:
    """The same trouble, with the samples' names."""
    keys = _keys_in_trouble(batches, loader.batch_sampler.sent)
    where = f"while reading the samples {describe(keys)}" if keys else "before the first sample"
    if isinstance(error, UserError):
        message = str(error).rsplit(f"{type(error).__name__}: ", 1)[-1].strip()  # torch puts a traceback before it
        return type(error)(f"{message} ({where})")
    if isinstance(error, _Hung):
        _kill_workers(batches._workers)
        return DataError(f"a data loading worker hangs: {error}, {where}. Look at these files and at their disk.")
    if _dead_workers(batches):
        return _died(where, error)
    return RuntimeError(f"{where}: {error}")


def _died(where: str, error: Exception) -> DataError:
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return DataError(
        f"a data loading worker died {where} ({first_line}). "
        "Often memory ran out: use fewer workers or smaller batches; else look at the files it read."
    )


def _dead_workers(batches: Iterator) -> set[int]:
    return {number for number, worker in enumerate(getattr(batches, "_workers", [])) if not worker.is_alive()}


def _keys_in_trouble(batches: Iterator, sent: Sequence[list]) -> list:
    """Keys of all that a dead worker had not delivered; else of the batch whose turn it is."""
    dead, tasks = _dead_workers(batches), sorted(getattr(batches, "_task_info", {}).items())
    lost = [number for number, (worker, *delivered) in tasks if worker in dead and not delivered]
    if lost:
        return [key for number in lost for key in sent[number - batches._rcvd_idx]]
    return sent[0] if sent else []


def _kill_workers(workers: Sequence[BaseProcess]) -> None:
    """With SIGKILL, the one signal they heed: the end of this process would wait for them."""
    for worker in workers:
        worker.kill()


def _show(keys: Sequence, names_of: Callable[[Sequence], str]) -> str:
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return names_of(keys[:SHOWN_KEYS]) + more


def _plain(keys: Sequence) -> str:
    return ", ".join(str(key) for key in keys)


class WaitClock:
    """Measures which share of the wall time goes into waiting for data."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.seconds = 0.0
        self._started = time.perf_counter()

    @contextlib.contextmanager
    def wait(self) -> Iterator[None]:
        """Counts the time inside the block as waiting."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - max(started, self._started)

    def timed(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The same batches; the time each takes to arrive counts as waiting."""
        iterator = iter(batches)
        while True:
            try:
                with self.wait():
                    batch = next(iterator)
            except StopIteration:
                return
            yield batch
