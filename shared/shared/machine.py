"""What a record says of where it was made: code, versions, hardware."""

import contextlib
import functools
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

WORKSPACE = Path(__file__).parents[2]
BENCHMARKS_WRITE = (":(exclude,glob)*/benchmarks/results/**", ":(exclude)docs")


@functools.cache
def code_version() -> str:
    """Commit of the checkout this code runs from (`-dirty` with uncommitted changes), else the package's version.

    What benchmarks write does not make a checkout dirty: else `make bench` would mark all records but its first.
    """
    if (WORKSPACE / ".git").exists():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            commit = _git("rev-parse", "HEAD").stdout.strip()
            changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *BENCHMARKS_WRITE).stdout
            return f"{commit}-dirty" if changes else commit
    try:
        return f"papers-shared {importlib.metadata.version('papers-shared')}"
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _git(*arguments: str) -> subprocess.CompletedProcess:
    command = ["git", "-C", str(WORKSPACE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)


def versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Of Python and of these distributions; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def hardware() -> dict[str, Any]:
    """Platform, processor, cores that may be used, memory, GPUs; JSON data."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return {
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": [torch.cuda.get_device_name(gpu) for gpu in gpus],
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if names:
            return names[0]
    return platform.processor() or platform.machine()
