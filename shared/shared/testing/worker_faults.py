"""A loading worker that is killed, raises or hangs under a training command: a suite to join beside FaultSuite.

class TestStage2(WorkerFaults, FaultSuite):
    command = STAGE2
    sample_reader = (Talk2CarDataset, "__getitems__")
    two_workers = (*STAGE2.workers(2), "--set", f"training.loader_timeout_s={TIMEOUT_S}")
"""

import os
import pkgutil
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
from torch.utils.data import get_worker_info

from ..errors import DataError
from .fault_commands import CommandSuite, Place
from .injections import Ended, kill, send

TIMEOUT_S = 5  # of the loaders
END_S = 10.0  # after a loader's timeout a run is gone


def killed() -> None:
    time.sleep(0.3)  # what it read before has left its queue
    kill()


def defective() -> None:
    raise RuntimeError("the disk is odd")


def damaged() -> None:
    raise DataError("a file is cut short; copy it again")


# What happens in the worker -> (how, the run's exit code, what is told). A defect alone shows its traceback.
TROUBLES: dict[str, tuple[Callable[[], None], int, str]] = {
    "killed": (killed, 2, "a data loading worker died"),
    "damaged file": (damaged, 2, "a file is cut short; copy it again"),
    "defect": (defective, 1, "the disk is odd"),
    "hangs": (lambda: time.sleep(1000), 2, "a data loading worker hangs"),
}


class WorkerFaults(CommandSuite):
    """Fault 17 through a training command."""

    sample_reader: ClassVar[Place]  # the data set's function that workers call with a key, or with a batch's keys
    troubled_call: ClassVar[int] = 3  # which of the first worker's calls
    two_workers: ClassVar[Sequence[str]]  # arguments for two, and for a loader timeout of TIMEOUT_S

    def name_of(self, data: Any, key: Any) -> str:
        """How messages name a sample of the data set."""
        return data.names_of([key])

    @pytest.mark.fault(17)
    @pytest.mark.parametrize("trouble", TROUBLES)
    def test_a_loading_worker_in_trouble_ends_the_run_and_names_the_sample(self, work, reference, trouble):
        act, code, told = TROUBLES[trouble]
        ended = self.start(work, lambda: self.in_a_worker(act), self.two_workers).wait()
        assert ended.code == code, ended.output[-3000:]
        self.told_with_the_sample(ended, told)
        assert ended.seconds_since_signal() < TIMEOUT_S + END_S
        assert ("Traceback" in ended.output) == (trouble == "defect")
        self.finish(work, reference, self.two_workers)

    def told_with_the_sample(self, ended: Ended, told: str) -> None:
        reads = re.search("^the worker reads (.+)$", ended.output, re.MULTILINE)
        assert reads, f"no worker came to it: {ended.output[-3000:]}"
        message = ended.output[ended.output.rindex("while reading the samples ") :]
        assert told in ended.output
        assert reads[1] in message.partition("\n")[0]

    def in_a_worker(self, act: Callable[[], None]) -> None:
        """In the first loading process that comes to its `troubled_call`: tell the sample and the time, and `act`."""
        owner, function = self.sample_reader
        owner = pkgutil.resolve_name(owner) if isinstance(owner, str) else owner
        original, calls = getattr(owner, function), [0]

        def read(data, keys):
            worker = get_worker_info()
            calls[0] += worker is not None and worker.id == 0
            if calls[0] == self.troubled_call and worker:
                key = keys[0] if isinstance(keys, list) else keys
                os.write(1, f"\nthe worker reads {self.name_of(data, key)}\n".encode())
                send()()
                act()
            return original(data, keys)

        setattr(owner, function, read)
