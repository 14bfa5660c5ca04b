"""Command line of the embedded world.

    python -m batvision_kd.world FOLDER [--train 64] [--val 16] [--test 16] [--seed 0] [--size 180 320] [--workers N]

`python inspect_data.py FOLDER` then checks it like any other root.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from shared.run import run_command

from .write import write_world


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m batvision_kd.world", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="write the world to this folder")
    for split, count in (("train", 64), ("val", 16), ("test", 16)):
        parser.add_argument(f"--{split}", type=int, default=count, help=f"samples of {split} (default: {count})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, nargs=2, default=(180, 320), metavar=("ROWS", "COLUMNS"),
                        help="of picture and depth (default: 180 320)")  # fmt: skip
    parser.add_argument("--workers", type=int, help="processes (default: one a core); changes no file")
    return parser


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {total} samples", end="" if done < total else "\n", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code (2 for an error of the user's)."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    root = write_world(args.folder, train=args.train, val=args.val, test=args.test, seed=args.seed,
                       size_hw=tuple(args.size), workers=args.workers, progress=_progress)  # fmt: skip
    print(f"embedded world (no real data) in {root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
