"""The faults of several processes (gloo, on the CPU): part of `faults.FaultSuite`."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from .fault_commands import CommandSuite, finished, finished_world, start_world
from .injections import at_call, differences, kill, without_chance

fault = pytest.mark.fault


def _logged(end: Mapping[str, Any], wanted: Callable[[str], bool]) -> list[dict[str, Any]]:
    """The step records' numbers with such a name."""
    steps = [row for row in end["metrics"] if _is_a_step(row)]
    return [{name: value for name, value in row.items() if wanted(name)} for row in steps]


def _is_a_step(row: Mapping[str, Any]) -> bool:
    return row["split"].rpartition("/")[2] == "train"


# Five kinds of numbers of a finished run (see injections.outcome).
NUMBERS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "losses": lambda end: _logged(end, lambda name: not name.startswith("lr/") and name != "grad_norm"),
    "learning rates and gradient norms": lambda end: _logged(end, lambda name: name.startswith(("lr/", "grad_norm"))),
    "evaluations": lambda end: [row for row in end["metrics"] if not _is_a_step(row)],
    "the weights that it leaves": lambda end: end["weights"],
    "the checkpoint": lambda end: end["checkpoint"],
}


class WorldFaults(CommandSuite):
    """Cases with two processes, and with one under torchrun."""

    @fault(4)
    def test_another_number_of_processes_is_refused(self, work):
        self.start(work, lambda: at_call(*self.command.anatomy.step, 2, kill)).wait()
        for ended in start_world(self.command, work):
            assert ended.code == 2
            assert "was written by 1 processes and this run has 2" in ended.output

    @fault(23)
    @pytest.mark.parametrize("place", ["training", "evaluation", "saving"])
    def test_an_error_on_one_rank_ends_both(self, work, place):
        def fail():
            raise RuntimeError("rank 1 fails here")

        own, evaluation = self.command.anatomy, self.command.evaluation_of_all or self.command.evaluation
        points = {"training": (*own.step, 2), "evaluation": (*evaluation, 1), "saving": (*own.state, 2)}
        ended = start_world(self.command, work, {1: lambda: at_call(*points[place], fail)})
        assert all(one.code != 0 for one in ended)
        assert "rank 1 fails here" in ended[1].output

    @fault(11)
    def test_a_nan_on_one_rank_stops_both(self, work):
        ended = start_world(self.command, work, {1: lambda: self.command.anatomy.poison_loss(3, float("nan"))})
        assert [one.code for one in ended] == [1, 1]
        # where embeddings are gathered, the gradient carries the NaN to the other rank too
        assert all(re.search("not finite on rank (0, )?1;", one.output) for one in ended)

    @fault(22)
    @pytest.mark.parametrize("samples", [3, 5, 7, 9, 11])
    def test_two_processes_judge_as_one(self, reference, tmp_path, samples):
        """Sizes that do not divide: every score and count is that of one process."""
        judging = self.command.judging
        if judging is None:
            pytest.skip("this command has no test of a finished run")
        alone, pair = (Path(shutil.copytree(reference.work, tmp_path / name)) for name in ("alone", "pair"))
        judge = replace(self.command, argv=lambda work: judging.argv(work, samples))
        ours = judging.scores(finished(judge, alone, inject=judging.inject))
        theirs = judging.scores(finished_world(judge, pair, inject=judging.inject))
        assert ours
        assert differences(ours, theirs, rel=1e-6) == []  # float32 sums in another order

    @fault(22)
    def test_losses_are_means_over_the_samples_of_all_processes(self, work, tmp_path):
        """The first step of two processes has every loss and the gradient of one, whatever their shares."""
        more = self.command.uneven
        if more is None:
            pytest.skip("this command does not say how two processes share its batches")
        pair = Path(shutil.copytree(work, tmp_path / "pair"))

        def one_step():
            without_chance()
            at_call(*self.command.anatomy.step, 2, kill)

        ended = [self.start(work, one_step, more).wait(),
                 *start_world(self.command, pair, {0: one_step, 1: one_step}, more=more)]  # fmt: skip
        assert [one.code for one in ended] == [-signal.SIGKILL] * 3, [one.output[-3000:] for one in ended]
        run = self.other if more else self.run
        alone, together = (self.command.steps(run(folder))[:1] for folder in (work, pair))
        assert together[0].pop("split") == alone[0].pop("split")
        assert together[0] == pytest.approx(alone[0], rel=1e-4)

    @pytest.fixture(scope="class")
    @classmethod
    def under_torchrun(cls, prepared, tmp_path_factory) -> dict[str, Any]:
        """The outcome of the command under torchrun with one process."""
        work = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("torchrun") / "work"))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "--"]
        # without the `--` torchrun takes --run for an abbreviation of its own --run-path
        env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run([*command, str(cls.command.script), *cls.command.argv(work), *cls.command.together],
                              env=env, cwd=work, capture_output=True, text=True, timeout=600)  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return cls.command.outcome(work)

    @fault(24)
    @pytest.mark.parametrize("numbers", NUMBERS)
    def test_torchrun_with_one_process_equals_plain_python(self, under_torchrun, reference, numbers):
        ours, theirs = (NUMBERS[numbers](end) for end in (reference.end, under_torchrun))
        assert ours
        assert differences(ours, theirs) == []
