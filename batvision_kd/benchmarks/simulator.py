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
from shared.benchmark import compared, judged, parse_options, run_benchmark

OUT = Path(__file__).parent / "results" / "simulator.json"
TARGET_S, TARGET_SPEED_UP = 180.0, 1.6


def seconds_to_write(samples: int, workers: int) -> float:
    """For a world of so many samples (train, with one each of val and test)."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        write_world(Path(folder) / "world", train=samples - 2, val=1, test=1, size_hw=(180, 320), workers=workers)
        return time.perf_counter() - started


def benchmark(args: argparse.Namespace) -> dict[str, object]:
    rows = []
    for workers in args.workers:
        seconds = seconds_to_write(args.samples, workers)
        rows.append({"workers": workers, "seconds": seconds, "seconds_for_1000": 1000 * seconds / args.samples})
        rows[-1]["speed_up"] = rows[0]["seconds"] / seconds
        print(
            f"{workers} process(es): {args.samples} samples in {seconds:.1f} s, 1,000 in "
            f"{rows[-1]['seconds_for_1000']:.0f} s, {rows[-1]['speed_up']:.2f} times the first"
        )
    ratios = ratios_of(rows)
    verdict = judged(all(row["reached"] for row in ratios), quick=args.quick)
    print(f"targets ({TARGET_S:.0f} s, {TARGET_SPEED_UP}): {verdict}")
    return {"samples": args.samples, "rows": rows, "target_seconds": TARGET_S, "target_speed_up": TARGET_SPEED_UP,
            "ratios": ratios}  # fmt: skip


def ratios_of(rows: Sequence[dict]) -> list[dict[str, object]]:
    """The last number of processes against the first, and against the seconds that 1,000 samples may take."""
    first, last = rows[0], rows[-1]
    return [
        compared(f"the world's samples: {last['workers']} processes against {first['workers']}", first["seconds"],
                 last["seconds"], "s", last["speed_up"], at_least=TARGET_SPEED_UP),
        compared(f"1,000 samples by {last['workers']} processes against what they may take", TARGET_S,
                 last["seconds_for_1000"], "s", last["seconds_for_1000"] / TARGET_S, at_most=1.0),
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200, help="samples to write (default: 200)")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2], help="processes, baseline first (default: 1 2)"
    )
    args = parse_options(parser, argv, quick="six samples: it runs, and measures little")
    args.samples = 6 if args.quick else args.samples
    return run_benchmark(benchmark, args, OUT)


if __name__ == "__main__":
    sys.exit(main())
