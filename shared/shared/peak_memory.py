"""How far a piece of work raises the memory of its process at most: what kernels allocate counts too, Linux only.

    rise_bytes(action)                     # in this process
    rise_bytes_apart(lambda: prepare(8))   # in a fork of it, which takes its memory with it when it ends

Measured is VmHWM of /proc/self/status, reset before the work, less what the process held then. Python's own counter
(tracemalloc) sees no tensor.
"""

import ctypes
import gc
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

Action = Callable[[], object]


def memory_bytes(field: str) -> int:
    """A field of /proc/self/status: VmRSS, what the process holds now; VmHWM, the most since the last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}: the memory is measured on Linux only")


def rise_bytes(action: Action) -> int:
    """Bytes that the process held at most during `action` above what it held before."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier work has freed would else be used again unseen
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = memory_bytes("VmRSS")
    action()
    return memory_bytes("VmHWM") - before


def rise_bytes_apart(prepare: Callable[[], Action]) -> int:
    """`rise_bytes` of what `prepare` returns, both called in a fork, where torch has one thread.

    RuntimeError when the fork dies without answer.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(sender, prepare))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        child.join()
        raise RuntimeError(f"the process that measured memory ended with {child.exitcode} and no answer") from None
    finally:
        child.kill()  # it has answered, or is not waited for
        child.join()


def _answer(sender: Connection, prepare: Callable[[], Action]) -> None:
    torch.set_num_threads(1)  # OpenMP's threads are not in the fork: work that waits for them would wait for ever
    sender.send(rise_bytes(prepare()))
