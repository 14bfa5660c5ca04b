"""Command line of the embedded world: write it, look at it.

    python -m pillars_rq.world FOLDER [--seed N] [--train-frames N] [--val-frames N] ... [--workers N]
    python -m pillars_rq.world --preview FILE.png [--seed N]
    python -m pillars_rq.world.realism            # how like real frames it is

Then `python prepare_kitti.py --data_root FOLDER` prepares it like KITTI.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from shared.run import run_command

from .preview import sheet
from .spec import WorldSpec
from .write import write_world


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pillars_rq.world", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", help="write a world to this folder")
    parser.add_argument("--preview", type=Path, help="write a sheet of frames: picture, and points from above")
    parser.add_argument("--workers", type=int, default=0, help="processes (default: this one); changes no file")
    for field in fields(WorldSpec):
        parser.add_argument("--" + field.name.replace("_", "-"), type=type(field.default), default=field.default)
    return parser


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {total} frames", end="" if done < total else "\n", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code (2 for an error of the user's)."""
    parser = _parser()
    args = parser.parse_args(argv)
    if not (args.folder or args.preview):
        parser.error("nothing to do: give FOLDER or --preview FILE.png")
    return run_command(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    spec = WorldSpec(**{field.name: getattr(args, field.name) for field in fields(WorldSpec)})
    if args.folder:
        folder = write_world(args.folder, spec, workers=args.workers, progress=_progress)
        print(f"embedded world (no real data) in {folder}; next: python prepare_kitti.py --data_root {folder}")
    if args.preview:
        args.preview.parent.mkdir(parents=True, exist_ok=True)
        sheet(spec).save(args.preview)
        print(f"wrote {args.preview}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
