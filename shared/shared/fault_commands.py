"""A package's commands as the fault cases start them: what they are told, and the fixtures that the suites share.

`faults` is the suite that a package joins; `world_faults` the part of it with several processes.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from . import checkpoint
from .folder import RunFolder
from .injections import Child, Ended, at_call, differences, kill, metrics_of, outcome, send
from .loop import Loop


@dataclass(frozen=True)
class Judging:
    """A command that judges a finished run on so many samples, in a run folder of its own."""

    argv: Callable[[Path, int], list[str]]  # work folder, number of samples -> arguments
    scores: Callable[[Path], Any]  # work folder -> what it found, equal for equal runs


@dataclass(frozen=True)
class ExportCommand:
    """A command that exports a finished run."""

    argv: Callable[[Path], list[str]]  # work folder -> arguments
    point: tuple[Any, str]  # (module, function) called while it works
    folder: Callable[[Path], Path]  # work folder -> where its files go
    main: Callable[[list[str]], int] | None = None  # as the entry script calls it; None: the training command's


@dataclass(frozen=True)
class TrainingCommand:
    """A package's training command on its tiny configuration.

    The configuration must draw random numbers (dropout), save and log every step, and hold two epochs of 3 steps.
    """

    name: str
    main: Callable[[list[str]], int]  # as the entry script calls it
    argv: Callable[[Path], list[str]]  # work folder -> arguments
    script: Path  # the entry script, for torchrun
    run_folder: Callable[[Path], Path]  # work folder -> the run's folder
    stage: str  # the Loop's stage
    weights: str  # file in the run's folder that the finished command leaves
    evaluation: tuple[Any, str]  # (module, function) called for each evaluation
    preparation: Mapping[str, tuple[Any, str]]  # name -> function called before the first step
    workers: Callable[[int], list[str]]  # arguments that set the loader's processes
    another_seed: list[str]  # arguments that set one, in the run folder `other`
    accumulate: int = 1  # batches a step
    evaluation_of_all: tuple[Any, str] | None = None  # one that every process calls, if `evaluation` is the main one's
    teacher: Callable[[Path], Path] | None = None  # work folder -> file of the frozen teacher's weights
    # Where processes share the batches of one: arguments for uneven shares, in the run folder `other` (or none).
    uneven: Sequence[str] | None = None
    judging: Judging | None = None  # the package's test of a finished run
    export: ExportCommand | None = None  # the package's export of a finished run


def stop_points(command: TrainingCommand, steps: int) -> dict[str, Callable[[], None]]:
    """Where a run is cut: name -> injection."""
    module, function = command.evaluation
    return {
        "first step": lambda: at_call(Loop, "_optimize", 1, kill),
        "mid-epoch": lambda: at_call(Loop, "_optimize", 2, kill, after=True),
        "inside accumulation": lambda: at_call(Loop, "step", 3, kill, after=True),
        "epoch end": lambda: at_call(Loop, "close_epoch", 1, kill),
        "just after a save": lambda: at_call(checkpoint, "prune", 2, kill),
        "during evaluation": lambda: at_call(module, function, 1, kill),
        "last step": lambda: at_call(Loop, "_optimize", steps, kill),
        "after the last step": lambda: at_call(RunFolder, "mark_done", 1, kill),
        "inside a save": lambda: at_call(checkpoint, "_write_manifest", 3, kill, after=True),
        "after evaluation": lambda: at_call(module, function, 2, kill, after=True),
    }


def signal_points(command: TrainingCommand) -> dict[str, Callable[..., Callable[[], None]]]:
    """Where a run receives its signals: name -> (signals -> injection)."""
    module, function = command.evaluation

    def arm(owner, name, number, after=False):
        return lambda *signals: lambda: at_call(owner, name, number, send(*signals), after=after)

    return {
        **{name: arm(*where, 1) for name, where in command.preparation.items()},
        "first step": arm(Loop, "_optimize", 1),
        "training 1": arm(Loop, "_optimize", 2, True),
        "training 2": arm(Loop, "_optimize", 3),
        "accumulation": arm(Loop, "step", command.accumulate + 1, True),
        "epoch's last step": arm(Loop, "_log", 3, True),
        "evaluation 1": arm(module, function, 1),
        "evaluation 2": arm(module, function, 2, True),
        "saving 1": arm(checkpoint, "save", 1),
        "saving 2": arm(checkpoint, "_write_manifest", 3, True),
    }


def start(
    command: TrainingCommand,
    work: Path,
    inject: Callable | None = None,
    more: Sequence[str] = (),
    env: Mapping | None = None,
) -> Child:
    """The command in a child."""
    log = work.parent / f"{work.name}-{time.monotonic_ns()}.log"
    return Child([*command.argv(work), *more], command.main, log, inject, env or {})


def start_world(
    command: TrainingCommand, work: Path, inject: Mapping[int, Callable] | None = None, size: int = 2
) -> list[Ended]:
    """`size` children with torchrun's variables, to their end; inject: rank -> injection."""
    importlib.import_module("torch._dynamo")  # DistributedDataParallel wants it: here once, not slowly in each child
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    children = [
        start(command, work, (inject or {}).get(rank), env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(size)
    ]
    try:
        return [child.wait() for child in children]
    finally:
        for child in children:  # one that hangs must not leave the others behind
            child.end()


@dataclass(frozen=True)
class Reference:
    """One uninterrupted run."""

    work: Path
    end: dict[str, Any]
    steps: int
    seconds: float


class CommandSuite:
    """What a case needs: a prepared folder of its own, the uninterrupted run, and ways to start and to compare."""

    command: ClassVar[TrainingCommand]

    @pytest.fixture(scope="class")
    @classmethod
    def reference(cls, prepared, tmp_path_factory) -> Reference:
        work = tmp_path_factory.mktemp("reference") / "work"
        shutil.copytree(prepared, work)
        started = time.monotonic()
        ended = start(cls.command, work).wait()
        assert ended.code == 0, ended.output[-3000:]
        end = outcome(cls.command.run_folder(work), cls.command.stage, cls.command.weights)
        return Reference(work, end, end["checkpoint"]["position"]["step"], time.monotonic() - started)

    @pytest.fixture
    def work(self, prepared, tmp_path) -> Path:
        return Path(shutil.copytree(prepared, tmp_path / "work"))

    def start(self, work: Path, inject=None, more: Sequence[str] = (), env: Mapping | None = None) -> Child:
        return start(self.command, work, inject, more, env)

    def finish(self, work: Path, reference: Reference, more: Sequence[str] = ()) -> None:
        """The same command again reaches the same end."""
        ended = self.start(work, more=more).wait()
        assert ended.code == 0, ended.output[-3000:]
        end = outcome(self.run(work), self.command.stage, self.command.weights)
        assert differences(reference.end, end) == []

    def run(self, work: Path) -> Path:
        return self.command.run_folder(work)

    def other(self, work: Path) -> Path:
        """The run folder that `another_seed` and `uneven` name."""
        return self.run(work).with_name("other")

    def saved(self, work: Path) -> dict[str, Any] | None:
        """The newest checkpoint's state, if any."""
        folder = self.run(work) / self.command.stage
        found = checkpoint.load_latest(folder) if folder.is_dir() else None
        return found and found[1]

    def losses(self, run: Path) -> list[float]:
        """The total loss of every step."""
        return [row["loss"] for row in self.steps(run)]

    def steps(self, run: Path) -> list[dict[str, Any]]:
        """What was logged of every step."""
        return [row for row in metrics_of(run) if row["split"] == f"{self.command.stage}/train"]
