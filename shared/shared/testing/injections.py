"""Ways to break a training command on purpose, and to see that nothing came of it: what `faults` is built from.

A `Child` is a fork of this process, which has torch and the package loaded, so that a case costs seconds. An injection
is a function that runs in the child before the command: it may replace functions there and is gone with it.
"""

import ctypes
import importlib
import json
import logging
import math
import os
import pkgutil
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from .. import checkpoint
from .. import loop as loop_module
from ..loop import Loop

PATIENCE_S = 120.0  # longest life of a child
SENT = re.compile(r"^signal sent at ([0-9.]+) s$", re.MULTILINE)


# --- children ---------------------------------------------------------------------------------------------------------


@dataclass
class Ended:
    """A child that has ended: exit code (negative: killed by that signal), what it wrote, and when that was seen."""

    code: int
    output: str
    at_s: float  # time.monotonic, the same in every process of this machine

    def seconds_since_signal(self) -> float:
        """How long it lived on after the first signal that `send` gave it."""
        return self.at_s - float(SENT.search(self.output)[1])


class Child:
    """A fork of this process that runs the command; `inject` runs in it first."""

    def __init__(self, argv: Sequence[str], main: Callable, log: Path, inject: Callable | None, env: Mapping):
        importlib.import_module("torch._dynamo")  # every optimizer wants it: here once, not slowly in each child
        self.log = log
        self.alive = True
        self.pid = os.fork()
        if self.pid == 0:
            _live(list(argv), main, log, inject, env)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, within_s: float = PATIENCE_S) -> Ended:
        deadline = time.monotonic() + within_s
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.alive = False
                return Ended(os.waitstatus_to_exitcode(status), self.log.read_text(), time.monotonic())
            if time.monotonic() > deadline:
                self.end()
                pytest.fail(f"still alive after {within_s} s:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.01)

    def end(self) -> None:
        """Kill it, if it is not gone."""
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.alive = False


def _live(argv: list[str], main: Callable, log: Path, inject: Callable | None, env: Mapping) -> None:
    """A child's life; it never returns into the tests."""
    code = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
        logging.getLogger().handlers.clear()
        os.environ.update(env)
        torch.set_num_threads(1)
        if inject:
            inject()
        code = main(argv)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


# --- injections (run in the child) ------------------------------------------------------------------------------------


def at_call(owner: Any, name: str, number: int, action: Callable[[], Any], *, after: bool = False) -> None:
    """Make the `number`-th call of owner.name do `action` before (or after) what it does.

    owner: a class or module, or where it is found ("package.module:Class"), for what is imported in the child only.
    """
    owner = pkgutil.resolve_name(owner) if isinstance(owner, str) else owner
    original, calls = getattr(owner, name), [0]

    def wrapped(*args, **kwargs):
        calls[0] += 1
        if calls[0] == number and not after:
            action()
        result = original(*args, **kwargs)
        if calls[0] == number and after:
            action()
        return result

    setattr(owner, name, wrapped)


def send(*numbers: int) -> Callable[[], None]:
    """An action: signals to this very process, one after another; the first one's time is written down."""

    def act() -> None:
        os.write(1, f"\nsignal sent at {time.monotonic():.3f} s\n".encode())
        for number in numbers:
            os.kill(os.getpid(), number)

    return act


kill = send(signal.SIGKILL)


def limit_file_size(bytes_: int) -> None:
    """As a full disk: writing a file beyond it fails with EFBIG."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))


def obey_permissions() -> None:
    """As for any other user, files that are not writable cannot be written: root gives up its right to do it anyway."""
    libc, dac_override = ctypes.CDLL(None, use_errno=True), 1 << 1
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of the interface, this process
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: the low 32 capabilities, then the high ones
    failed = libc.capget(header, sets)
    sets[0] &= ~dac_override
    if failed or libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "the capabilities of this process cannot be changed")


def without_chance() -> None:
    """Modules train in eval mode: no dropout, no statistics of a batch."""
    train = nn.Module.train
    nn.Module.train = lambda self, mode=True: train(self, False)


def poison_loss(number: int, value: float) -> None:
    """The `number`-th batch has a loss term of NaN or Inf."""
    original, calls = Loop.step, [0]

    def step(self, terms, *, ids, count):
        calls[0] += 1
        if calls[0] == number:
            name = next(iter(terms))
            terms = {**terms, name: terms[name] * value}
        return original(self, terms, ids=ids, count=count)

    Loop.step = step


def poison_gradient(number: int) -> None:
    """One element of one gradient is NaN before the `number`-th optimizer step; every loss stays finite."""
    original, calls = loop_module.optimizer_step, [0]

    def step(loss, model, optimizer, **rest):
        calls[0] += 1
        if calls[0] == number:
            parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            parameters[-1].grad.view(-1)[0] = float("nan")
        return original(loss, model, optimizer, **rest)

    loop_module.optimizer_step = step


# --- what must be equal -----------------------------------------------------------------------------------------------


def outcome(run: Path, stage: str, weights: str) -> dict[str, Any]:
    """Everything of a finished run that an equal run must have bit for bit."""
    _, state = checkpoint.load_latest(run / stage)
    kept = ("model", "ema", "criterion", "optimizer", "position", "means", "window", "best", "rng")
    return {
        "checkpoint": {key: state[key] for key in kept},
        "weights": checkpoint.load(run / weights)["model"],
        "metrics": metrics_of(run),
    }


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl without what may differ between equal runs."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != "time"} for record in records]


def differences(a: Any, b: Any, where: str = "", *, rel: float = 0.0) -> list[str]:
    """Paths at which two nested values differ, tensors compared by their bytes, floats to the share `rel`."""
    if type(a) is not type(b):
        return [f"{where}: {type(a).__name__} and {type(b).__name__}"]
    if isinstance(a, Tensor):
        return [] if checkpoint.tensors_sha256({"x": a}) == checkpoint.tensors_sha256({"x": b}) else [where]
    if isinstance(a, Mapping):
        if a.keys() != b.keys():
            return [f"{where}: keys {sorted(map(str, a.keys() ^ b.keys()))}"]
        return [line for key in a for line in differences(a[key], b[key], f"{where}/{key}", rel=rel)]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [f"{where}: {len(a)} and {len(b)} items"]
        pairs = enumerate(zip(a, b, strict=True))
        return [line for i, (x, y) in pairs for line in differences(x, y, f"{where}/{i}", rel=rel)]
    return [] if a == b or (isinstance(a, float) and math.isclose(a, b, rel_tol=rel)) else [f"{where}: {a!r} and {b!r}"]


def fingerprints(value: Any) -> set[str]:
    """Hashes of all tensors in a nested value that hold more than one distinct number."""
    if isinstance(value, Tensor):
        telling = value.numel() > 0 and bool((value != value.flatten()[0]).any())
        return {checkpoint.tensors_sha256({"": value})} if telling else set()
    if isinstance(value, Mapping):
        value = list(value.values())
    return set().union(*map(fingerprints, value)) if isinstance(value, list | tuple) else set()
