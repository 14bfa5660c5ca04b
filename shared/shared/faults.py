"""The faults that every package's training command must survive, as tests that a package joins with a few lines.

    class TestStage2(FaultSuite):
        command = TrainingCommand(name="stage2", main=main, argv=..., run_folder=..., stage="stage2", ...)

        @pytest.fixture(scope="class")
        @classmethod
        def prepared(cls, tmp_path_factory): ...         # a work folder from which the command can start

Each case copies the prepared folder, forks this process, breaks something in the child (a kill at the n-th call of a
function, a file-size limit, a NaN; see `injections`), and lets the same command run again. The end must be, bit for
bit, that of one uninterrupted run: weights, average, optimizer, random states, metrics.jsonl without its "time" fields.
Cases that need more of a command (`uneven`, `judging`, `export`, `teacher`) are skipped where it does not say it. The
full counts are marked slow. The smallest package that joins: shared/tests/test_shared_faults.py.
"""

import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from . import checkpoint
from .fault_commands import ExportCommand, Judging, TrainingCommand, signal_points, start, start_world, stop_points
from .injections import (
    PATIENCE_S,
    Ended,
    at_call,
    fingerprints,
    kill,
    limit_file_size,
    obey_permissions,
    poison_gradient,
    poison_loss,
    send,
)
from .loop import Loop
from .world_faults import WorldFaults

__all__ = ["ExportCommand", "FaultSuite", "Judging", "TrainingCommand", "start", "start_world"]

END_S = 30.0  # after a SIGTERM a run is gone
slow = pytest.mark.slow


class FaultSuite(WorldFaults):
    """Subclass with a `command` and a class-scoped fixture `prepared` (see the module's header)."""

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
        ended = self.start(work, signal_points(self.command)[point](signal.SIGTERM)).wait()
        self.ended_by_sigterm(ended)
        if point == "accumulation":  # the step under way, or without accumulation the next one, is saved
            assert self.saved(work)["position"]["step"] == (2 if self.command.accumulate > 1 else 3)
        self.finish(work, reference)

    def ended_by_sigterm(self, ended: Ended) -> None:
        assert ended.code == 143, ended.output[-3000:]
        assert "Traceback" not in ended.output
        assert ended.seconds_since_signal() < END_S

    @slow
    def test_sigterm_during_the_export_leaves_no_file(self, reference, tmp_path):
        export = self.command.export
        if export is None:
            pytest.skip("this command makes nothing that is exported")
        work = Path(shutil.copytree(reference.work, tmp_path / "work"))
        command = replace(self.command, argv=export.argv, main=export.main or self.command.main)
        self.ended_by_sigterm(start(command, work, lambda: at_call(*export.point, 1, send(signal.SIGTERM))).wait())
        assert not any(path.is_file() for path in export.folder(work).rglob("*"))
        ended = start(command, work).wait()
        assert ended.code == 0, ended.output[-3000:]
        assert any(path.is_file() for path in export.folder(work).rglob("*"))

    @pytest.mark.parametrize("point", ["training 2", pytest.param("evaluation 1", marks=slow)])
    def test_sigint_ends_with_130(self, work, reference, point):
        ended = self.start(work, signal_points(self.command)[point](signal.SIGINT)).wait()
        assert ended.code == 130
        assert "Traceback" not in ended.output
        self.finish(work, reference)

    @pytest.mark.parametrize("point", ["saving 2", pytest.param("training 1", marks=slow)])
    def test_a_second_sigterm_ends_at_once_and_corrupts_nothing(self, work, reference, point):
        ended = self.start(work, signal_points(self.command)[point](signal.SIGTERM, signal.SIGTERM)).wait()
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
        assert str(self.run(work)) in told
        assert "bytes and" in told
        assert "are free" in told
        if save > 1:
            assert self.saved(work)["position"]["step"] == save - 1
        assert not list(self.run(work).rglob("*.tmp"))
        self.finish(work, reference)

    def test_a_file_where_the_results_belong(self, work):
        results = self.run(work).parent
        shutil.rmtree(results)
        results.write_text("in the way")
        self.refused(self.start(work).wait(), results, "is not a folder")

    def test_a_folder_that_cannot_be_written(self, work, reference):
        folders = [self.run(work), *(path for path in self.run(work).rglob("*") if path.is_dir())]
        for folder in folders:
            folder.chmod(0o555)
        ended = self.start(work, obey_permissions).wait()
        for folder in folders:
            folder.chmod(0o755)
        self.refused(ended, self.run(work), "read-only")
        self.finish(work, reference)

    def test_a_folder_that_is_gone(self, work):
        """Somebody moved or unmounted the run's folder: nothing begins a second, partial run in its place."""
        run = self.run(work)
        ended = self.start(work, lambda: at_call(Loop, "save", 2, lambda: run.rename(run.with_name("away")))).wait()
        self.refused(ended, self.run(work), "does not exist")
        assert not self.run(work).exists()

    def refused(self, ended: Ended, folder: Path, why: str) -> None:
        assert ended.code == 2, ended.output[-3000:]
        assert "Traceback" not in ended.output
        told = ended.output[ended.output.rindex("error: ") :]
        assert str(folder) in told
        assert why in told

    def test_a_second_run_in_the_same_folder_is_refused(self, work):
        first = self.start(work, lambda: at_call(Loop, "_optimize", 1, lambda: time.sleep(PATIENCE_S)))
        deadline = time.monotonic() + PATIENCE_S
        while not (self.run(work) / "run.lock").read_text().startswith(f"process {first.pid} "):
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
        ours, other = (self.losses(folder) for folder in (self.run(work), self.other(work)))
        assert len(ours) == len(other) == reference.steps
        assert all(a != b for a, b in zip(ours, other, strict=True))

    def test_the_teacher_stays_as_it_is_and_out_of_the_checkpoint(self, prepared, reference):
        if self.command.teacher is None:
            pytest.skip("this command has no frozen teacher")
        before, after = (self.command.teacher(folder) for folder in (prepared, reference.work))
        assert checkpoint.sha256_of(before) == checkpoint.sha256_of(after)
        frozen = fingerprints(checkpoint.load_weights(after))
        assert frozen
        assert not frozen & fingerprints(reference.end["checkpoint"])
