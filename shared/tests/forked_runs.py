"""Runs in forks of this process, which has torch loaded: alone, as two processes, and with a folder to write in."""

import contextlib
import multiprocessing
import os
import socket
import sys
import time
from pathlib import Path

import pytest

from shared import run

HASH = "0123abcd"
CONFIG = "seed: 3\ntraining:\n  lr: 0.1\n  epochs: 2\n"


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
