"""The faults that every package's training command must survive, as tests that a package joins with a few lines.

    class TestStage2(FaultSuite):
        command = TrainingCommand(name="stage2", main=main, argv=..., run_folder=..., stage="stage2", ...)

    @pytest.fixture(scope="module")
    def prepared(tmp_path_factory): ...                  # a work folder from which the command can start

Each case copies the prepared folder, forks this process, breaks something in the child (a kill at the n-th call of a
function, a file-size limit, a NaN; see `injections`), and lets the same command run again. The end must be, bit for
bit, that of one uninterrupted run: weights, average, optimizer, random states, metrics.jsonl without its "time" fields.
Cases that need more of a command (`uneven`, `judging`, `export`, `teacher`) are skipped where it does not say it; one
that does not train with `loop.Loop` states its `anatomy`. A suite runs in `make test` the cases that it names in
`always`. The smallest package that joins: shared/tests/test_shared_faults.py.
"""

import json
import random
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from .. import checkpoint
from .fault_commands import (
    Anatomy,
    CommandSuite,
    ExportCommand,
    Judging,
    TrainingCommand,
    finished,
    finished_world,
    signal_points,
    start,
    start_world,
    stop_points,
)
from .injections import PATIENCE_S, Ended, at_call, fingerprints, kill, limit_file_size, obey_permissions, send
from .world_faults import WorldFaults

__all__ = [
    "Anatomy",
    "CommandSuite",
    "ExportCommand",
    "FaultSuite",
    "GoldenCurves",
    "Judging",
    "TrainingCommand",
    "finished",
    "finished_world",
    "hold_to_golden",
    "start",
    "start_world",
]

fault = pytest.mark.fault  # its number in fault_table.FAULTS


def hold_to_golden(file: Path, name: str, losses: Sequence[float]) -> None:
    """Fail unless the first 20 losses are those that stand in `file` under `name`; without such, write them and fail.

    To refresh after a change that is meant to move them: delete the entry, run twice, and look at the difference.
    """
    golden, curve = json.loads(file.read_text()) if file.exists() else {}, list(losses[:20])
    assert len(curve) == 20
    if name not in golden:
        file.write_text(json.dumps({**golden, name: curve}, indent=1) + "\n")
        pytest.fail(f"{file.name} had no curve of {name}: written, check it and commit it")
    assert curve == pytest.approx(golden[name], rel=1e-3)


class GoldenCurves:
    """Subclass with the `commands`, the `golden` file of their curves and a fixture `prepared`."""

    commands: ClassVar[Sequence[TrainingCommand]]
    golden: ClassVar[Path]

    def pytest_generate_tests(self, metafunc):
        metafunc.parametrize("command", self.commands, ids=lambda command: command.name)

    @pytest.fixture(scope="class")
    @classmethod
    def golden_work(cls, prepared, tmp_path_factory) -> Path:
        """One folder for all commands, in their order: a second stage may want the first one's weights."""
        return Path(shutil.copytree(prepared, tmp_path_factory.mktemp("golden") / "work"))

    @fault(13)
    def test_the_first_20_steps_are_those_of_the_golden_curve(self, command, golden_work):
        finished(command, golden_work, *command.twenty_steps)
        run = command.run_folder(golden_work).with_name(command.golden_run)
        hold_to_golden(self.golden, command.name, command.losses(run))


class FaultSuite(WorldFaults):
    """Subclass with a `command` and a fixture `prepared` of a class or a module (see the module's header)."""

    always = (
        "test_a_run_killed_at_a_stop_point_ends_as_if_uncut[inside accumulation]",
        "test_a_run_killed_at_a_stop_point_ends_as_if_uncut[just after a save]",
        "test_a_run_killed_at_a_stop_point_ends_as_if_uncut[during evaluation]",
        "test_a_run_killed_at_a_stop_point_ends_as_if_uncut[after the last step]",
        "test_kill_9_at_a_random_moment[0]",
        "test_the_worker_count_changes_nothing_on_resume[2]",
        "test_sigterm_saves_the_newest_step_and_ends_with_143[accumulation]",
        "test_sigterm_saves_the_newest_step_and_ends_with_143[evaluation 1]",
        "test_sigint_ends_with_130[training 2]",
        "test_a_second_sigterm_ends_at_once_and_corrupts_nothing[saving 2]",
        "test_a_full_disk_is_told_and_the_earlier_checkpoint_stays[2]",
        "test_a_file_where_the_results_belong",
        "test_a_folder_that_cannot_be_written",
        "test_a_folder_that_is_gone",
        "test_a_second_run_in_the_same_folder_is_refused",
        "test_what_is_not_finite_stops_before_the_step[first batch inf-3]",
        "test_what_is_not_finite_stops_before_the_step[gradient-2]",
        "test_a_seed_repeats_itself_and_another_differs",
        "test_the_teacher_stays_as_it_is_and_out_of_the_checkpoint",
        "test_another_number_of_processes_is_refused",
        "test_an_error_on_one_rank_ends_both[training]",
        "test_a_nan_on_one_rank_stops_both",
        "test_two_processes_judge_as_one[3]",
        "test_losses_are_means_over_the_samples_of_all_processes",
    )

    # kills

    @fault(3)
    @pytest.mark.parametrize(
        "point",
        ["first step", "mid-epoch", "inside accumulation", "epoch end", "just after a save",
         "during evaluation", "after evaluation", "last step", "after the last step", "inside a save"],
    )  # fmt: skip
    def test_a_run_killed_at_a_stop_point_ends_as_if_uncut(self, work, reference, point):
        inject = stop_points(self.command, reference.steps)[point]
        assert self.start(work, inject).wait().code == -signal.SIGKILL, "the point was never reached"
        self.finish(work, reference)

    @fault(2)
    @pytest.mark.parametrize("seed", range(10))
    def test_kill_9_at_a_random_moment(self, work, reference, seed):
        child = self.start(work)
        time.sleep(random.Random(seed).uniform(0.2, 1.0) * reference.seconds)
        child.signal(signal.SIGKILL)
        assert child.wait().code in (-signal.SIGKILL, 0)
        self.finish(work, reference)

    @fault(1)
    def test_a_run_killed_again_and_again(self, work, reference):
        for step in range(1, reference.steps + 1):
            cut = self.start(work, lambda: at_call(*self.command.anatomy.step, 2, kill)).wait()
            if cut.code == 0:
                break
            assert cut.code == -signal.SIGKILL, f"start {step}: {cut.output[-2000:]}"
        self.finish(work, reference)

    @fault(4)
    @pytest.mark.parametrize("workers", [2, 0, 4])
    def test_the_worker_count_changes_nothing_on_resume(self, work, reference, workers):
        self.start(work, lambda: at_call(*self.command.anatomy.step, 3, kill)).wait()
        self.finish(work, reference, self.command.workers(workers))

    # signals

    @fault(5)
    @pytest.mark.parametrize(
        "point",
        ["data", "teacher", "first step", "training 1", "training 2", "accumulation",
         "epoch's last step", "evaluation 1", "evaluation 2", "saving 1", "saving 2"],
    )  # fmt: skip
    def test_sigterm_saves_the_newest_step_and_ends_with_143(self, work, reference, point):
        ended = self.start(work, signal_points(self.command)[point](signal.SIGTERM)).wait()
        self.ended_by_sigterm(ended)
        if point in self.saved_at():
            assert self.saved_step(work) == self.saved_at()[point]
        self.finish(work, reference)

    def saved_at(self) -> Mapping[str, int]:
        """Point -> the step that the newest checkpoint has after a SIGTERM there, for the points that say it."""
        return {"accumulation": 2 if self.command.accumulate > 1 else 3}  # the one under way, or the next

    @fault(5)
    def test_sigterm_during_the_export_leaves_no_file(self, reference, tmp_path):
        export = self.command.export
        if export is None:
            pytest.skip("this command makes nothing that is exported")
        work = Path(shutil.copytree(reference.work, tmp_path / "work"))
        command = replace(self.command, argv=export.argv, main=export.main or self.command.main)
        self.ended_by_sigterm(start(command, work, lambda: at_call(*export.point, 1, send(signal.SIGTERM))).wait())
        assert not any(path.is_file() for path in export.folder(work).rglob("*"))
        finished(command, work)
        assert any(path.is_file() for path in export.folder(work).rglob("*"))

    @fault(5)
    @pytest.mark.parametrize("point", ["training 2", "evaluation 1"])
    def test_sigint_ends_with_130(self, work, reference, point):
        ended = self.start(work, signal_points(self.command)[point](signal.SIGINT)).wait()
        assert ended.code == 130
        assert "Traceback" not in ended.output
        self.finish(work, reference)

    @fault(5)
    @pytest.mark.parametrize("point", ["saving 2", "training 1"])
    def test_a_second_sigterm_ends_at_once_and_corrupts_nothing(self, work, reference, point):
        ended = self.start(work, signal_points(self.command)[point](signal.SIGTERM, signal.SIGTERM)).wait()
        assert ended.code == 143
        self.finish(work, reference)

    # the disk

    @fault(6)
    @pytest.mark.parametrize("save", [2, 1, 4])
    def test_a_full_disk_is_told_and_the_earlier_checkpoint_stays(self, work, reference, save):
        def fill():
            at_call(*self.command.anatomy.save, save, lambda: limit_file_size(self.command.anatomy.disk_bytes))

        ended = self.start(work, fill).wait()
        assert ended.code in (1, 2)
        assert "Traceback" not in ended.output
        told = ended.output[ended.output.index("error: ") :]
        assert str(self.run(work)) in told
        assert "bytes and" in told
        assert "are free" in told
        assert self.saved_step(work) == save - 1
        assert not list(self.run(work).rglob("*.tmp"))
        (self.run(work) / ".left.999999.tmp").write_bytes(b"by a process that is gone")
        self.finish(work, reference)
        assert not list(self.run(work).rglob("*.tmp"))

    @fault(7)
    def test_a_file_where_the_results_belong(self, work):
        results = self.run(work).parent
        shutil.rmtree(results)
        results.write_text("in the way")
        self.refused(self.start(work).wait(), results, "is not a folder")

    @fault(7)
    def test_a_folder_that_cannot_be_written(self, work, reference):
        folders = [self.run(work), *(path for path in self.run(work).rglob("*") if path.is_dir())]
        for folder in folders:
            folder.chmod(0o555)
        ended = self.start(work, obey_permissions).wait()
        for folder in folders:
            folder.chmod(0o755)
        self.refused(ended, self.run(work), "read-only")
        self.finish(work, reference)

    @fault(7)
    def test_a_folder_that_is_gone(self, work):
        """Somebody moved or unmounted the run's folder: nothing begins a second, partial run in its place."""
        run, away = self.run(work), self.run(work).with_name("away")
        ended = self.start(work, lambda: at_call(*self.command.anatomy.save, 2, lambda: run.rename(away))).wait()
        self.refused(ended, run, "does not exist")
        assert not run.exists()
        assert self.command.anatomy.newest(away, self.command.stage)["position"]["step"] == 1

    def refused(self, ended: Ended, folder: Path, why: str) -> None:
        assert ended.code == 2, ended.output[-3000:]
        assert "Traceback" not in ended.output
        told = ended.output[ended.output.rindex("error: ") :]
        assert str(folder) in told
        assert why in told

    @fault(7)
    def test_a_second_run_in_the_same_folder_is_refused(self, work):
        first = self.start(work, lambda: at_call(*self.command.anatomy.step, 1, lambda: time.sleep(PATIENCE_S)))
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

    @fault(11)
    @pytest.mark.parametrize(
        ("what", "good_steps"),
        [("first batch nan", 0), ("first batch inf", 3), ("last batch nan", 3), ("gradient", 0), ("gradient", 2)],
    )
    def test_what_is_not_finite_stops_before_the_step(self, work, reference, what, good_steps):
        batch = good_steps * self.command.accumulate + (1 if what.startswith("first") else self.command.accumulate)

        def poison():
            if what == "gradient":
                self.command.anatomy.poison_gradient(good_steps + 1)
            else:
                self.command.anatomy.poison_loss(batch, float(what[-3:]))

        ended = self.start(work, poison).wait()
        assert ended.code == 1
        self.told_not_finite(ended.output, what, good_steps + 1)
        assert self.saved_step(work) == good_steps
        self.finish(work, reference)  # the cause gone, the run goes on from its last good step

    def told_not_finite(self, output: str, what: str, step: int) -> None:
        assert f"step {step}: loss or gradient is not finite" in output
        assert "samples of this rank: " in output

    @fault(13)
    def test_a_seed_repeats_itself_and_another_differs(self, work, reference):
        if self.command.another_seed is None:
            pytest.skip("this command does not say how a run of another seed is started beside its own")
        self.finish(work, reference)
        finished(self.command, work, *self.command.another_seed)
        ours, other = (self.command.losses(folder) for folder in (self.run(work), self.other(work)))
        assert len(ours) == len(other) == reference.steps
        assert all(a != b for a, b in zip(ours, other, strict=True))

    @fault(14)
    def test_the_teacher_stays_as_it_is_and_out_of_the_checkpoint(self, prepared, reference):
        if self.command.teacher is None:
            pytest.skip("this command has no frozen teacher")
        before, after = (self.command.teacher(folder) for folder in (prepared, reference.work))
        assert checkpoint.sha256_of(before) == checkpoint.sha256_of(after)
        frozen = fingerprints(checkpoint.load_weights(after))
        assert frozen
        assert not frozen & fingerprints(reference.end["checkpoint"])
