"""A package's commands as the fault cases start them: what they are told, and the fixtures that the suites share.

`faults` is the suite that a package joins; `world_faults` the part of it with several processes.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from .. import checkpoint
from ..folder import RunFolder
from ..loop import Loop
from . import injections
from .injections import Child, Ended, at_call, differences, kill, metrics_of, send

END_S = 30.0  # after a SIGTERM a run is gone
Place = tuple[Any, str]  # (owner, function), as injections.at_call takes them


def newest(run: Path, stage: str) -> dict[str, Any] | None:
    """The state that a resume of the Loop would begin from, if any."""
    found = checkpoint.load_latest(run / stage) if (run / stage).is_dir() else None
    return found and found[1]


@dataclass(frozen=True)
class Anatomy:
    """Where a training is cut and poisoned, and how its state is read. The defaults are those of `loop.Loop`."""

    batch: Place = (Loop, "step")  # one call a batch
    step: Place = (Loop, "_optimize")  # one call an optimizer step
    inside_step: Place = (Loop, "_log")  # one call a step, before it is saved
    epoch_end: Place = (Loop, "close_epoch")
    save: Place = (Loop, "save")  # one call a step, as the configuration saves every one
    state: Place = (Loop, "state")  # on every process, for each save
    prune: Place = (checkpoint, "prune")  # after each save
    poison_loss: Callable[[int, float], None] = injections.poison_loss  # the n-th batch, NaN or Inf
    poison_gradient: Callable[[int], None] = injections.poison_gradient  # of the n-th step
    newest: Callable[[Path, str], dict[str, Any] | None] = newest  # run folder, stage -> state
    outcome: Callable[[Path, str, str], dict[str, Any]] = injections.outcome  # run folder, stage, weights
    disk_bytes: int = 20_000  # less than a checkpoint


@dataclass(frozen=True)
class Judging:
    """A command that judges a finished run on so many samples, in a run folder of its own."""

    argv: Callable[[Path, int], list[str]]  # work folder, number of samples -> arguments
    scores: Callable[[Path], Any]  # work folder -> what it found, equal for equal runs
    inject: Callable[[], None] | None = None  # in the child, first


@dataclass(frozen=True)
class ExportCommand:
    """A command that exports a finished run."""

    argv: Callable[[Path], list[str]]  # work folder -> arguments
    point: Place  # called while it works
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
    stage: str  # the Loop's stage; "": a training without stages
    weights: str  # file in the run's folder that the finished command leaves
    evaluation: Place  # called for each evaluation
    preparation: Mapping[str, Place]  # "data" and "teacher": called before the first step
    workers: Callable[[int], list[str]]  # arguments that set the loader's processes
    another_seed: Sequence[str] | None = None  # arguments that set one, in the run folder `other`
    twenty_steps: Sequence[str] = ()  # arguments for so many at least, in the run folder `golden_run`
    golden_run: str = "golden"
    accumulate: int = 1  # batches a step
    evaluation_of_all: Place | None = None  # one that every process calls, if `evaluation` is the main one's
    teacher: Callable[[Path], Path] | None = None  # work folder -> file of the frozen teacher's weights
    # Where processes share the batches of one: arguments for uneven shares, in the run folder `other` (or none).
    uneven: Sequence[str] | None = None
    judging: Judging | None = None  # the package's test of a finished run
    export: ExportCommand | None = None  # the package's export of a finished run
    together: Sequence[str] = ()  # arguments of a start as one of several processes
    anatomy: Anatomy = Anatomy()

    def outcome(self, work: Path) -> dict[str, Any]:
        """What a finished run has in common with an equal one."""
        return self.anatomy.outcome(self.run_folder(work), self.stage, self.weights)

    def steps(self, run: Path) -> list[dict[str, Any]]:
        """What was logged of every step."""
        split = f"{self.stage}/train".lstrip("/")
        return [row for row in metrics_of(run) if row["split"] == split]

    def losses(self, run: Path) -> list[float]:
        """The total loss of every step."""
        return [row["loss"] for row in self.steps(run)]


def stop_points(command: TrainingCommand, steps: int) -> dict[str, Callable[[], None]]:
    """Where a run is cut: name -> injection."""
    own = command.anatomy
    return {
        "first step": lambda: at_call(*own.step, 1, kill),
        "mid-epoch": lambda: at_call(*own.step, 2, kill, after=True),
        "inside accumulation": lambda: at_call(*own.batch, 3, kill, after=True),
        "epoch end": lambda: at_call(*own.epoch_end, 1, kill),
        "just after a save": lambda: at_call(*own.prune, 2, kill),
        "during evaluation": lambda: at_call(*command.evaluation, 1, kill),
        "last step": lambda: at_call(*own.step, steps, kill),
        "after the last step": lambda: at_call(RunFolder, "mark_done", 1, kill),
        "inside a save": lambda: at_call(checkpoint, "_write_manifest", 3, kill, after=True),
        "after evaluation": lambda: at_call(*command.evaluation, 2, kill, after=True),
    }


def signal_points(command: TrainingCommand) -> dict[str, Callable[..., Callable[[], None]]]:
    """Where a run receives its signals: name -> (signals -> injection)."""
    own = command.anatomy

    def arm(place, number, after=False):
        return lambda *signals: lambda: at_call(*place, number, send(*signals), after=after)

    return {
        **{name: arm(place, 1) for name, place in command.preparation.items()},
        "first step": arm(own.step, 1),
        "training 1": arm(own.step, 2, True),
        "training 2": arm(own.step, 3),
        "accumulation": arm(own.batch, command.accumulate + 1, True),
        "epoch's last step": arm(own.inside_step, 3, True),
        "evaluation 1": arm(command.evaluation, 1),
        "evaluation 2": arm(command.evaluation, 2, True),
        "saving 1": arm((checkpoint, "save"), 1),
        "saving 2": arm((checkpoint, "_write_manifest"), 3, True),
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


def finished(command: TrainingCommand, work: Path, *more: str, inject: Callable | None = None) -> Path:
    """The work folder, once the command has run there to its end."""
    ended = start(command, work, inject, more).wait()
    assert ended.code == 0, ended.output[-3000:]
    return work


def start_world(
    command: TrainingCommand,
    work: Path,
    inject: Mapping[int, Callable] | None = None,
    size: int = 2,
    more: Sequence[str] = (),
) -> list[Ended]:
    """`size` children with torchrun's variables, to their end; inject: rank -> injection."""
    more = [*command.together, *more]
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    children = [
        start(command, work, (inject or {}).get(rank), more, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(size)
    ]
    try:
        return [child.wait() for child in children]
    finally:
        for child in children:  # one that hangs must not leave the others behind
            child.end()


def finished_world(command: TrainingCommand, work: Path, *more: str, inject: Callable | None = None) -> Path:
    """The work folder, once two processes have run the command there to its end."""
    for ended in start_world(command, work, {0: inject, 1: inject}, more=more):
        assert ended.code == 0, ended.output[-3000:]
    return work


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
    always: ClassVar[Collection[str]]  # the cases that run in `make test`; all others are marked slow (by fault_table)

    def __init_subclass__(cls) -> None:
        unknown = [name for name in getattr(cls, "always", ()) if not hasattr(cls, name.partition("[")[0])]
        assert not unknown, f"{cls.__name__} has no {unknown}"

    @pytest.fixture(scope="class")
    @classmethod
    def reference(cls, prepared, tmp_path_factory) -> Reference:
        work = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("reference") / "work"))
        started = time.monotonic()
        end = cls.command.outcome(finished(cls.command, work))
        return Reference(work, end, end["checkpoint"]["position"]["step"], time.monotonic() - started)

    @pytest.fixture
    def work(self, prepared, tmp_path) -> Path:
        """A copy of the prepared folder, the run's folder as an earlier start leaves it."""
        work = Path(shutil.copytree(prepared, tmp_path / "work"))
        self.run(work).mkdir(parents=True, exist_ok=True)
        (self.run(work) / "run.lock").touch()
        return work

    def start(self, work: Path, inject=None, more: Sequence[str] = (), env: Mapping | None = None) -> Child:
        return start(self.command, work, inject, more, env)

    def finish(self, work: Path, reference: Reference, more: Sequence[str] = ()) -> None:
        """The same command again reaches the same end."""
        assert differences(reference.end, self.command.outcome(finished(self.command, work, *more))) == []

    def run(self, work: Path) -> Path:
        return self.command.run_folder(work)

    def other(self, work: Path) -> Path:
        """The run folder that `another_seed` and `uneven` name."""
        return self.run(work).with_name("other")

    def saved(self, work: Path) -> dict[str, Any] | None:
        """The newest checkpoint's state, if any."""
        return self.command.anatomy.newest(self.run(work), self.command.stage)

    def saved_step(self, work: Path) -> int:
        """That of the newest checkpoint; 0 without one."""
        state = self.saved(work)
        return state["position"]["step"] if state else 0

    def ended_by_sigterm(self, ended: Ended) -> None:
        assert ended.code == 143, ended.output[-3000:]
        assert "Traceback" not in ended.output
        assert ended.seconds_since_signal() < END_S
