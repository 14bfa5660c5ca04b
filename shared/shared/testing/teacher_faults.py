"""A frozen teacher's tensors in memory, before and after 20 steps of the command: a suite to join beside FaultSuite.

class TestStage1(TeacherFaults, FaultSuite):
    command = STAGE1
    teacher_made = (distill, "teacher_of")
"""

import os
import re
from typing import ClassVar

import pytest

from ..checkpoint import tensors_sha256
from ..folder import RunFolder
from .fault_commands import CommandSuite, Place


class TeacherFaults(CommandSuite):
    """Fault 14 where training reaches: parameters and buffers, not the file."""

    teacher_made: ClassVar[Place]  # returns what holds the teacher as its `model`

    @pytest.mark.fault(14)
    def test_the_teacher_s_tensors_are_the_same_after_20_steps(self, work):
        ended = self.start(work, self.watch, self.command.twenty_steps).wait()
        assert ended.code == 0, ended.output[-3000:]
        assert len(self.command.losses(self.run(work).with_name(self.command.golden_run))) >= 20
        hashes = re.findall(r"^teacher of (\w+)$", ended.output, re.MULTILINE)
        assert len(hashes) >= 2
        assert len(set(hashes)) == 1

    def watch(self) -> None:
        """In the child: tell the teacher's hash when it is made, and when a stage ends after that."""
        owner, function = self.teacher_made
        make, mark_done, made = getattr(owner, function), RunFolder.mark_done, []

        def tell() -> None:
            for teacher in made:
                os.write(1, f"\nteacher of {tensors_sha256(teacher.model.state_dict())}\n".encode())

        def watched(*arguments, **keywords):
            made.append(make(*arguments, **keywords))
            tell()
            return made[-1]

        def done(run, stage, **info):
            tell()
            return mark_done(run, stage, **info)

        setattr(owner, function, watched)
        RunFolder.mark_done = done
