"""Freed memory is used again without asking the kernel."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from shared.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def work():  # blocks that lie at the end of the heap, then are free, like those of a step
    blocks = [torch.ones(1 << 21) for _ in range(8)]
work(), work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's mallopt")
def test_a_step_finds_the_memory_of_the_last():
    assert faults("plain") > 5 * 1000  # 64 MB a time are 16,000 pages, or fewer huge ones
    assert faults("keep") < 100
