"""The embedded world's generator: seconds for 1,000 samples of 180 x 320, and what a second process brings.

    python benchmarks/simulator.py [--samples 200] [--workers 1 2]

Each number of processes writes the same world anew; the first is the baseline. Targets: 1,000 samples within 180 s on
two cores, and a speed-up of at least 1.6 with two processes.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from batvision_kd.world import write_world
from shared.benchmark import record, write
from shared.run import run_command

OUT = Path(__file__).parent / "results" / "simulator.json"
TARGET_S, TARGET_SPEED_UP = 180.0, 1.6


def seconds_to_write(samples: int, workers: int) -> float:
    """For a world of so many samples (train, with one each of val and test)."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        write_world(Path(folder) / "world", train=samples - 2, val=1, test=1, size_hw=(180, 320), workers=workers)
        return time.perf_counter() - started


def benchmark(args: argparse.Namespace) -> int:
    rows = []
    for workers in args.workers:
        seconds = seconds_to_write(args.samples, workers)
        rows.append({"workers": workers, "seconds": seconds, "seconds_for_1000": 1000 * seconds / args.samples})
        rows[-1]["speed_up"] = rows[0]["seconds"] / seconds
        print(
            f"{workers} process(es): {args.samples} samples in {seconds:.1f} s, 1,000 in "
            f"{rows[-1]['seconds_for_1000']:.0f} s, {rows[-1]['speed_up']:.2f} times the first"
        )
    reached = rows[-1]["seconds_for_1000"] <= TARGET_S and rows[-1]["speed_up"] >= TARGET_SPEED_UP
    print(f"targets ({TARGET_S:.0f} s, {TARGET_SPEED_UP}): {'reached' if reached else 'MISSED'}")
    if args.out:
        write(args.out, record("simulator", {"samples": args.samples, "rows": rows, "target_seconds": TARGET_S,
                                             "target_speed_up": TARGET_SPEED_UP}))  # fmt: skip
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200, help="samples to write (default: 200)")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2], help="processes, baseline first (default: 1 2)"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="JSON to write (default: benchmarks/results/)")
    args = parser.parse_args(argv)
    return run_command(lambda: benchmark(args))


if __name__ == "__main__":
    sys.exit(main())
