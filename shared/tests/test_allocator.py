"""A command on the CPU uses freed memory again without asking the kernel."""

import subprocess
import sys

import pytest

FAULTS = """
import contextlib, ctypes, resource, sys
from shared.run import world_from_environment
libc = ctypes.CDLL(None)
libc.malloc.restype, SIZE = ctypes.c_void_p, 4 << 20
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def work():  # blocks at the end of the heap, used and then freed, like those of a step
    blocks = [libc.malloc(SIZE) for _ in range(8)]
    for block in blocks:
        libc.memset(block, 1, SIZE)
    for block in blocks:
        libc.free(block)
with world_from_environment("cpu") if sys.argv[1] == "command" else contextlib.nullcontext():
    for _ in range(3):
        work()
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
    plain, kept = faults("plain"), faults("command")
    assert plain > 5 * 1000 and kept < plain / 10, (plain, kept)  # 32 MB a time are 8,192 pages
