"""Two processes judge as one where a command judges only while it trains: a suite to join beside FaultSuite.

    class TestStage1(ValidationFaults, FaultSuite):
        command = STAGE1

        def validate_on(self, work, samples):
            narrow(work / "val.json", samples)

(FaultSuite's own case of this name is for packages whose command judges a finished run.)
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from .fault_commands import CommandSuite, finished, finished_world
from .injections import differences, metrics_of, without_chance


class ValidationFaults(CommandSuite):
    """Fault 22 through the validations of a training command."""

    judged_within: ClassVar[float] = 1e-5  # relative: float32 sums in another order

    def validate_on(self, work: Path, samples: int) -> Sequence[str] | None:
        """Leave so many samples to validate on in the work folder; returns further arguments, if any."""
        raise NotImplementedError

    def stand_still(self) -> None:
        """In the child: weights and running statistics stay as they begin, so that all judge the very same model."""
        without_chance()
        torch.optim.Adam.step = lambda self, closure=None: None  # AdamW's too

    def validations(self, work: Path) -> list[dict[str, Any]]:
        return [row for row in metrics_of(self.run(work)) if "val" in row["split"].split("/")]

    @pytest.mark.fault(22)
    @pytest.mark.parametrize("samples", [3, 5, 7, 9, 11])
    def test_two_processes_validate_as_one(self, work, tmp_path, samples):
        """Sizes that do not divide: every score and count is that of one process."""
        more = self.validate_on(work, samples) or ()
        pair = Path(shutil.copytree(work, tmp_path / "pair"))
        ours = self.validations(finished(self.command, work, *more, inject=self.stand_still))
        theirs = self.validations(finished_world(self.command, pair, *more, inject=self.stand_still))
        assert ours
        assert differences(ours, theirs, rel=self.judged_within) == []
