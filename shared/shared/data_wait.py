"""How long trainings waited for data: what the metrics.jsonl of finished runs says of it.

    python -m shared.data_wait [--most 0.05] [--out FILE.json] [FOLDER...]

FOLDERs are searched for runs; without any, the workspace is (`make demo-all` ends with that). For every training there
it prints the share of its time, log lines together, in which a step stood still for want of a batch. Exit code 1 when
one waits longer than --most. A training itself warns where a single interval is above `loop.WAIT_ALARM`.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .benchmark import judged, record, write
from .errors import DataError
from .machine import WORKSPACE
from .metrics_log import read_records
from .run import run_command

MOST = 0.05  # of the time


def runs_below(folders: Sequence[Path]) -> list[Path]:
    """The metrics.jsonl files in and below folders, those of environments and hidden folders left out."""
    return sorted(
        file
        for folder in folders
        for file in folder.rglob("metrics.jsonl")
        if not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def waits_of(file: Path) -> Iterator[dict[str, Any]]:
    """Of every training in a metrics.jsonl: its split, its log lines with a time, and the share waited, 0..1."""
    times: dict[str, list[tuple[float, float]]] = {}
    for row in read_records(file):
        time = row.get("time") or {}
        if "data_wait" in time:
            times.setdefault(row["split"], []).append((time["seconds"], time["seconds"] * time["data_wait"]))
    for split, pairs in times.items():
        seconds, waited = (sum(column) for column in zip(*pairs, strict=True))
        yield {"training": split, "lines": len(pairs), "share": waited / seconds}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="default: the workspace")
    parser.add_argument("--most", type=float, default=MOST, help=f"share of the time (default: {MOST:g})")
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args(argv)
    return run_command(lambda: study(args.folders or [WORKSPACE], args.most, args.out))


def study(folders: Sequence[Path], most: float, out: Path | None) -> int:
    """Print and, if asked, write every training's share. DataError when there is no training."""
    found = [{"run": _named(file), **one} for file in runs_below(folders) for one in waits_of(file)]
    if not found:
        raise DataError(f"no training in {', '.join(map(str, folders))}: train first (make demo-all)")
    for one in found:
        print(f"{one['share']:6.1%} of {one['lines']:3} log lines  {one['run']} {one['training']}")
    longest = max(one["share"] for one in found)
    print(f"waiting for data: at most {longest:.1%} of a training's time, target {most:.0%}: {judged(longest <= most)}")
    if out is not None:
        write(out, record("data_wait", {"most": most, "trainings": found}))
    return 0 if longest <= most else 1


def _named(file: Path) -> str:
    """The run's folder, from the workspace's where it lies in it."""
    folder = file.resolve().parent
    return str(folder.relative_to(WORKSPACE) if folder.is_relative_to(WORKSPACE) else folder.name)


if __name__ == "__main__":
    sys.exit(main())
