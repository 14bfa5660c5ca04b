"""What every benchmark's JSON says beside its numbers: hardware, commit, date, versions, and how busy the machine was.

    record("latency", {"ms": ...})  ->  {"benchmark": "latency", "commit": ..., "hardware": ..., "results": {...}}

Times are only worth something beside the machine and the baseline they were measured with: a benchmark measures its
baseline in the same run, and `results` holds both. A script is a function of its options that prints what it found and
returns the results, with the list `ratios` among them, of which docs/benchmarks.md is made (`benchmark_page`):

    {"ratios": [compared("the region loader, against open and crop", 3.1, 0.57, "ms", 5.5, at_least=4.0)], ...}

    args = parse_options(parser, argv, quick="one round: it runs, and measures little")
    return run_benchmark(benchmark, args, OUT)
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from .machine import code_version, hardware, versions
from .run import run_command
from .storage import make_folder, write_atomic

PACKAGES = ("torch", "torchvision", "timm", "open-clip-torch", "opencv-python-headless", "numpy")


def parse_options(parser: argparse.ArgumentParser, argv: Sequence[str] | None, *, quick: str) -> argparse.Namespace:
    """The options of a benchmark with --out and --quick; quick: what that one measures."""
    parser.add_argument("--out", type=Path, help="JSON to write (default: benchmarks/results/; quick: none)")
    parser.add_argument("--quick", action="store_true", help=quick)
    return parser.parse_args(argv)


def run_benchmark(
    benchmark: Callable[[argparse.Namespace], Mapping[str, Any]],
    args: argparse.Namespace,
    out: Path,
    packages: Sequence[str] = PACKAGES,
) -> int:
    """Measure, and write the record, which has the name of `out`; a quick run writes only to --out. The exit code."""

    def work() -> int:
        results, path = benchmark(args), args.out or (None if args.quick else out)
        if path is not None:
            write(path, record(out.stem, results, packages))
        return 0

    return run_command(work)


def judged(reached: bool, *, quick: bool = False) -> str:
    """Of a target, in words."""
    return "not judged, a quick run" if quick else "reached" if reached else "MISSED"


def compared(
    what: str,
    baseline: float | None,
    ours: float,
    unit: str,
    ratio: float | None,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> dict[str, Any]:
    """A row of `results["ratios"]`, as JSON data.

    Args:
        what: the work, and what it is compared with, in words.
        baseline, ours: medians in `unit`; baseline None: nothing is compared.
        ratio: baseline / ours, so that more is better; with `at_most` ours / baseline. None: not measured.
        at_least, at_most: the target, one of them or neither.

    Raises ValueError for two targets, or a target without a ratio.
    """
    if at_least is not None and at_most is not None:
        raise ValueError(f"{what}: a ratio has one target, not at least {at_least} and at most {at_most}")
    target = at_most if at_least is None else at_least
    if ratio is None and target is not None:
        raise ValueError(f"{what}: a target of {target} without a ratio")
    row = {"what": what, "baseline": baseline, "ours": ours, "unit": unit, "ratio": ratio, "target": None,
           "reached": None}  # fmt: skip
    if target is None:
        return row
    reached = ratio >= target if at_most is None else ratio <= target
    return {**row, "target": f"{'≥' if at_most is None else '≤'} {target:g}", "reached": bool(reached)}


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
    make_folder(path.parent, path)
    write_atomic(path, text)
    print(f"wrote {path}")
    return path


def median_ratio(baseline: Sequence[float], ours: Sequence[float]) -> float:
    """The median over rounds of baseline / ours, each round's times measured next to each other; ValueError without."""
    if len(baseline) != len(ours) or not ours:
        raise ValueError(f"ratios need rounds of both: {len(baseline)} of the baseline, {len(ours)} of ours")
    return round(statistics.median(a / b for a, b in zip(baseline, ours, strict=True)), 2)
