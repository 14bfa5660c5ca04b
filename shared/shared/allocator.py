"""Freed memory stays with the process, so that the next training step finds it there.

glibc hands large freed blocks back to the kernel, which clears every page again when the next step asks for them. A
small model on a CPU pays for that at every step (tests/test_allocator.py counts the page faults). The price: up to
FREE_AT_TOP stays with the process between two peaks.
"""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST_IN_HEAP = 32 << 20  # bytes; the most that mallopt(3) takes. Larger blocks come from mmap and go back
FREE_AT_TOP = 1 << 30  # bytes that may lie free at the end of the heap


def keep_freed_memory() -> None:
    """Tell this process's allocator to keep what is freed; no change where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, LARGEST_IN_HEAP)
        mallopt(M_TRIM_THRESHOLD, FREE_AT_TOP)
