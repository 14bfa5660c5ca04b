"""The faults that every package's training command must survive, as tests that a package joins with a few lines.

    class TestStage2(FaultSuite):
        command = TrainingCommand(name="stage2", main=main, argv=..., run_folder=..., stage="stage2", ...)

        @pytest.fixture(scope="class")
        @classmethod
        def prepared(cls, tmp_path_factory): ...         # a work folder from which the command can start

Each case copies the prepared folder, forks this process, breaks something in the child (a kill at the n-th call of a
function, a file-size limit, a NaN; see `injections`), and lets the same command run again. The end must be, bit for
bit, that of one uninterrupted run: weights, average, optimizer, random states, metrics.jsonl without its "time" fields.
The full counts are marked slow.
"""

import contextlib
import importlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from . import checkpoint
from .folder import RunFolder
from .injections import (
    PATIENCE_S,
    Child,
    Ended,
    at_call,
    differences,
    fingerprints,
    kill,
    limit_file_size,
    metrics_of,
    outcome,
    poison_gradient,
    poison_loss,
    send,
)
from .loop import Loop

slow = pytest.mark.slow


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
    return [child.wait() for child in children]


@dataclass(frozen=True)
class Reference:
    """One uninterrupted run."""

    work: Path
    end: dict[str, Any]
    steps: int
    seconds: float


# --- the suite --------------------------------------------------------------------------------------------------------


class FaultSuite:
    """Subclass with a `command` and a class-scoped fixture `prepared` (see the module's header)."""

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
        end = outcome(self._run(work), self.command.stage, self.command.weights)
        assert differences(reference.end, end) == []

    def _run(self, work: Path) -> Path:
        return self.command.run_folder(work)

    def saved(self, work: Path) -> dict[str, Any] | None:
        """The newest checkpoint's state, if any."""
        folder = self._run(work) / self.command.stage
        found = checkpoint.load_latest(folder) if folder.is_dir() else None
        return found and found[1]

    # kills

    @pytest.mark.parametrize(
        "point",
        [
            "inside accumulation",
            "just after a save",
            "during evaluation",
            "after the last step",
            *[
                pytest.param(name, marks=slow)
                for name in (
                    "first step",
                    "mid-epoch",
                    "epoch end",
                    "last step",
                    "inside a save",
                    "after evaluation",
                )
            ],
        ],
    )
    def test_a_run_killed_at_a_stop_point_ends_as_if_uncut(self, work, reference, point):
        inject = stop_points(self.command, reference.steps)[point]
        assert self.start(work, inject).wait().code == -signal.SIGKILL, "the point was never reached"
        self.finish(work, reference)

    @pytest.mark.parametrize("seed", [0, *[pytest.param(n, marks=slow) for n in range(1, 10)]])
    def test_kill_9_at_a_random_moment(self, work, reference, seed):
        child = self.start(work)
        time.sleep(random.Random(seed).uniform(0.2, 1.0) * reference.seconds)
        child.signal(signal.SIGKILL)
        assert child.wait().code in (-signal.SIGKILL, 0)
        self.finish(work, reference)

    @slow
    def test_a_run_killed_again_and_again(self, work, reference):
        for step in range(1, reference.steps + 1):
            cut = self.start(work, lambda: at_call(Loop, "_optimize", 2, kill)).wait()
            if cut.code == 0:
                break
            assert cut.code == -signal.SIGKILL, f"start {step}: {cut.output[-2000:]}"
        self.finish(work, reference)

    @pytest.mark.parametrize("workers", [2, pytest.param(0, marks=slow), pytest.param(4, marks=slow)])
    def test_the_worker_count_changes_nothing_on_resume(self, work, reference, workers):
        self.start(work, lambda: at_call(Loop, "_optimize", 3, kill)).wait()
        self.finish(work, reference, self.command.workers(workers))

    # signals

    def _signal_points(self) -> dict[str, Callable]:
        module, function = self.command.evaluation

        def arm(owner, name, number, after=False):
            return lambda *signals: lambda: at_call(owner, name, number, send(*signals), after=after)

        return {
            **{name: arm(*where, 1) for name, where in self.command.preparation.items()},
            "first step": arm(Loop, "_optimize", 1),
            "training 1": arm(Loop, "_optimize", 2, True),
            "training 2": arm(Loop, "_optimize", 3),
            "accumulation": arm(Loop, "step", self.command.accumulate + 1, True),
            "epoch's last step": arm(Loop, "_log", 3, True),
            "evaluation 1": arm(module, function, 1),
            "evaluation 2": arm(module, function, 2, True),
            "saving 1": arm(checkpoint, "save", 1),
            "saving 2": arm(checkpoint, "_write_manifest", 3, True),
        }

    @pytest.mark.parametrize(
        "point",
        [
            "accumulation",
            "evaluation 1",
            *[
                pytest.param(name, marks=slow)
                for name in (
                    "data",
                    "teacher",
                    "first step",
                    "training 1",
                    "training 2",
                    "epoch's last step",
                    "evaluation 2",
                    "saving 1",
                    "saving 2",
                )
            ],
        ],
    )
    def test_sigterm_saves_the_newest_step_and_ends_with_143(self, work, reference, point):
        ended = self.start(work, self._signal_points()[point](signal.SIGTERM)).wait()
        assert ended.code == 143, ended.output[-3000:]
        assert "Traceback" not in ended.output
        if point == "accumulation":  # the step under way, or without accumulation the next one, is saved
            assert self.saved(work)["position"]["step"] == (2 if self.command.accumulate > 1 else 3)
        self.finish(work, reference)

    @pytest.mark.parametrize("point", ["training 2", pytest.param("evaluation 1", marks=slow)])
    def test_sigint_ends_with_130(self, work, reference, point):
        ended = self.start(work, self._signal_points()[point](signal.SIGINT)).wait()
        assert ended.code == 130
        assert "Traceback" not in ended.output
        self.finish(work, reference)

    @pytest.mark.parametrize("point", ["saving 2", pytest.param("training 1", marks=slow)])
    def test_a_second_sigterm_ends_at_once_and_corrupts_nothing(self, work, reference, point):
        ended = self.start(work, self._signal_points()[point](signal.SIGTERM, signal.SIGTERM)).wait()
        assert ended.code == 143
        self.finish(work, reference)

    # the disk

    @pytest.mark.parametrize("save", [2, pytest.param(1, marks=slow), pytest.param(4, marks=slow)])
    def test_a_full_disk_is_told_and_the_earlier_checkpoint_stays(self, work, reference, save):
        def fill():
            at_call(Loop, "save", save, lambda: limit_file_size(20_000))

        ended = self.start(work, fill).wait()
        assert ended.code in (1, 2)
        assert "Traceback" not in ended.output
        told = ended.output[ended.output.index("error: ") :]
        assert str(self._run(work)) in told
        assert "bytes and" in told
        assert "are free" in told
        if save > 1:
            assert self.saved(work)["position"]["step"] == save - 1
        assert not list(self._run(work).rglob("*.tmp"))
        self.finish(work, reference)

    def test_a_file_where_the_results_belong(self, work):
        results = self._run(work).parent
        shutil.rmtree(results)
        results.write_text("in the way")
        ended = self.start(work).wait()
        assert ended.code == 2
        assert str(results) in ended.output
        assert "Traceback" not in ended.output

    def test_a_second_run_in_the_same_folder_is_refused(self, work):
        first = self.start(work, lambda: at_call(Loop, "_optimize", 1, lambda: time.sleep(PATIENCE_S)))
        deadline = time.monotonic() + PATIENCE_S
        while not (self._run(work) / "run.lock").read_text().startswith(f"process {first.pid} "):
            assert time.monotonic() < deadline, "the first run never took its folder"
            time.sleep(0.02)
        second = self.start(work).wait()
        first.signal(signal.SIGKILL)
        first.wait()
        assert second.code == 2
        assert f"process {first.pid}" in second.output

    # numbers

    @pytest.mark.parametrize(
        ("what", "good_steps"),
        [
            pytest.param("first batch nan", 0, marks=slow),
            ("first batch inf", 3),
            pytest.param("last batch nan", 3, marks=slow),
            pytest.param("gradient", 0, marks=slow),
            ("gradient", 2),
        ],
    )
    def test_what_is_not_finite_stops_before_the_step(self, work, reference, what, good_steps):
        batch = good_steps * self.command.accumulate + (1 if what.startswith("first") else self.command.accumulate)

        def poison():
            if what == "gradient":
                poison_gradient(good_steps + 1)
            else:
                poison_loss(batch, float(what[-3:]))

        ended = self.start(work, poison).wait()
        assert ended.code == 1
        assert f"step {good_steps + 1}: loss or gradient is not finite" in ended.output
        assert "samples of this rank: " in ended.output
        state = self.saved(work)
        assert (state["position"]["step"] if state else 0) == good_steps
        self.finish(work, reference)  # the cause gone, the run goes on from its last good step

    def test_a_seed_repeats_itself_and_another_differs(self, work, reference):
        self.finish(work, reference)
        ended = self.start(work, more=self.command.another_seed).wait()
        assert ended.code == 0, ended.output[-3000:]
        ours, other = (self._losses(folder) for folder in (self._run(work), self._run(work).with_name("other")))
        assert len(ours) == len(other) == reference.steps
        assert all(a != b for a, b in zip(ours, other, strict=True))

    def _losses(self, run: Path) -> list[float]:
        return [row["loss"] for row in metrics_of(run) if row["split"] == f"{self.command.stage}/train"]

    def test_the_teacher_stays_as_it_is_and_out_of_the_checkpoint(self, prepared, reference):
        if self.command.teacher is None:
            pytest.skip("this command has no frozen teacher")
        before, after = (self.command.teacher(folder) for folder in (prepared, reference.work))
        assert checkpoint.sha256_of(before) == checkpoint.sha256_of(after)
        frozen = fingerprints(checkpoint.load_weights(after))
        assert frozen
        assert not frozen & fingerprints(reference.end["checkpoint"])

    # several processes

    def test_another_number_of_processes_is_refused(self, work):
        self.start(work, lambda: at_call(Loop, "_optimize", 2, kill)).wait()
        for ended in start_world(self.command, work):
            assert ended.code == 2
            assert "was written by 1 processes and this run has 2" in ended.output

    @pytest.mark.parametrize(
        "place", ["training", pytest.param("evaluation", marks=slow), pytest.param("saving", marks=slow)]
    )
    def test_an_error_on_one_rank_ends_both(self, work, place):
        def fail():
            raise RuntimeError("rank 1 fails here")

        module, function = self.command.evaluation_of_all or self.command.evaluation
        points = {"training": (Loop, "_optimize", 2), "evaluation": (module, function, 1), "saving": (Loop, "state", 2)}
        ended = start_world(self.command, work, {1: lambda: at_call(*points[place], fail)})
        assert all(one.code != 0 for one in ended)
        assert "rank 1 fails here" in ended[1].output

    def test_a_nan_on_one_rank_stops_both(self, work):
        ended = start_world(self.command, work, {1: lambda: poison_loss(3, float("nan"))})
        assert [one.code for one in ended] == [1, 1]
        # where embeddings are gathered, the gradient carries the NaN to the other rank too
        assert all(re.search("not finite on rank (0, )?1;", one.output) for one in ended)

    @slow
    def test_torchrun_with_one_process_equals_plain_python(self, work, reference):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "--"]
        # without the `--` torchrun takes --run for an abbreviation of its own --run-path
        env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run([*command, str(self.command.script), *self.command.argv(work)],
                              env=env, capture_output=True, text=True, timeout=600)  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        end = outcome(self._run(work), self.command.stage, self.command.weights)
        assert differences(reference.end, end) == []
