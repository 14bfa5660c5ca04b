"""What every benchmark's JSON says beside its numbers: hardware, commit, date, versions, and how busy the machine was.

    record("latency", {"ms": ...})  ->  {"benchmark": "latency", "commit": ..., "hardware": ..., "results": {...}}

Times are only worth something beside the machine and the baseline they were measured with: a benchmark measures its
baseline in the same run, and `results` holds both.
"""

import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from .machine import code_version, hardware, versions
from .storage import storage_error, write_atomic

PACKAGES = ("torch", "torchvision", "timm", "open-clip-torch", "opencv-python-headless", "numpy")


def record(name: str, results: Mapping[str, Any], packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """The record of one benchmark: JSON data, `results` as they are given."""
    return {
        "benchmark": name,
        "date_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": code_version(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "hardware": {**hardware(), "threads": torch.get_num_threads(), "load_1min": round(os.getloadavg()[0], 1)},
        "versions": versions(packages),
        "results": dict(results),
    }


def write(path: Path | str, data: Mapping[str, Any]) -> Path:
    """Write a record as JSON, its folder made when missing; whole or absent. Prints where it went.

    Raises StorageError when the file system refuses, ValueError for a number that is not finite.
    """
    path = Path(path)
    text = json.dumps(data, indent=2, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error
    write_atomic(path, text)
    print(f"wrote {path}")
    return path


def median_ratio(baseline: Sequence[float], ours: Sequence[float]) -> float:
    """The median over rounds of baseline / ours, each round's times measured next to each other; ValueError without."""
    if len(baseline) != len(ours) or not ours:
        raise ValueError(f"ratios need rounds of both: {len(baseline)} of the baseline, {len(ours)} of ours")
    return round(statistics.median(a / b for a, b in zip(baseline, ours, strict=True)), 2)
