"""The standing check of the embedded world: a linear model hears depth in it, and with both ears.

    python benchmarks/ridge_check.py [--train 400] [--test 100] [--seeds 0]

Writes a world of 72 x 128 pictures for each seed (in a temporary folder) and prints RMSE of the mean map, of a ridge
regression on audio, of the same with swapped ears and with another sample's audio, and the correlation of left-right
differences. The record is written, and then the exit code is 1, when the order is not as it must be.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from batvision_kd.world import write_world
from batvision_kd.world.ridge import RidgeScores, coarse, ridge_scores
from shared.benchmark import compared, parse_options, record, write
from shared.run import run_command

OUT = Path(__file__).parent / "results" / "ridge_check.json"


def check(train: int, test: int, seed: int, workers: int | None) -> RidgeScores:
    with tempfile.TemporaryDirectory() as folder:
        root = write_world(Path(folder) / "world", train=train, val=1, test=test, seed=seed, size_hw=(72, 128),
                           workers=workers)  # fmt: skip
        return ridge_scores(coarse(root, "train"), coarse(root, "test"))


def benchmark(args: argparse.Namespace) -> int:
    rows = []
    for seed in args.seeds:
        scores = check(args.train, args.test, seed, args.workers)
        rows.append({"seed": seed, **scores.as_json()})
        print(
            f"seed {seed}: RMSE in metres: mean map {scores.mean_map:.3f}, audio {scores.audio:.3f}, swapped ears "
            f"{scores.swapped:.3f}, shuffled {scores.shuffled:.3f}; left-right r = {scores.asymmetry:.2f}: "
            f"{'as it must be' if scores.holds else 'NOT as it must be'}"
        )
    if out := args.out or (None if args.quick else OUT):
        results = {"train": args.train, "test": args.test, "seeds": rows, "ratios": ratios_of(rows)}
        write(out, record("ridge_check", results))
    return 0 if all(row["holds"] for row in rows) else 1


def ratios_of(rows: Sequence[dict]) -> list[dict[str, object]]:
    """A linear ear against every control, of each seed; the order itself is the target."""
    return [
        compared(f"RMSE of depth, world {row['seed']}: ridge regression on audio against {control}", row[name],
                 row["audio"], "m", row["audio"] / row[name], at_most=1.0)
        for row in rows
        for name, control in (("mean_map", "the mean map"), ("swapped", "swapped ears"), ("shuffled", "another echo"))
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=400, help="samples in 16 buildings (default: 400)")
    parser.add_argument("--test", type=int, default=100, help="samples in 5 other buildings (default: 100)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one world each (default: 0)")
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    args = parse_options(parser, argv, quick="21 and 9 samples: it runs, and says little")
    args.train, args.test = (21, 9) if args.quick else (args.train, args.test)
    return run_command(lambda: benchmark(args))


if __name__ == "__main__":
    sys.exit(main())
