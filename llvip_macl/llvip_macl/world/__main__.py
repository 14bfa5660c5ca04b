"""Command line of the embedded world.

    python -m llvip_macl.world FOLDER --layout llvip [--train 200] [--test 60] [--size 128 160] [--seed 0]
                               [--misalignment 0] [--grey] [--fault NAME ...] [--workers N] [--sheet FILE.png]

The root it writes is read like the real data set's: set `data_root` to it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from shared.run import run_command

from .sheet import write_sheet
from .spec import FAULTS, LAYOUTS, WorldSpec
from .write import write_world


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m llvip_macl.world", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="write the world to this folder")
    parser.add_argument("--layout", choices=LAYOUTS, default="llvip")
    for split, count in (("train", 200), ("test", 60)):
        parser.add_argument(f"--{split}", type=int, default=count, help=f"pairs of {split} (default: {count})")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 160), metavar=("ROWS", "COLUMNS"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--misalignment", type=int, default=0, metavar="PX",
                        help="pixels by which infrared is shifted in every pair, 0-8 (default: 0)")  # fmt: skip
    parser.add_argument("--grey", action="store_true", help="infrared pictures of one channel")
    parser.add_argument("--fault", choices=FAULTS, action="append", default=[], help="damage a test pair on purpose")
    parser.add_argument("--workers", type=int, help="processes (default: one a core); changes no file")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="also draw some pairs with their boxes to this png")
    return parser


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {total} pairs", end="" if done < total else "\n", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code (2 for an error of the user's)."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    spec = WorldSpec(args.layout, (args.train, args.test), tuple(args.size), args.seed, args.misalignment,
                     1 if args.grey else 3, tuple(args.fault))  # fmt: skip
    root = write_world(args.folder, spec, workers=args.workers, progress=_progress)
    print(f"embedded world (no real data) in {root}")
    if args.sheet:
        write_sheet(root, spec, args.sheet)
        print(f"pairs with boxes in {args.sheet}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
