"""Command line of the embedded world: write it, or compare it with real scans.

    python -m voxel_mae.world FOLDER [--seed N] [--train-sequences N] [--frames N] [--beams N] ... [--workers N]
    python -m voxel_mae.world --statistics [--statistics-frames 20] [--real DIR]
    python -m voxel_mae.world --preview FILE.png            # four frames from above

FOLDER is then a data root in OpenPCDet's custom layout.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from shared.errors import DataError
from shared.run import run_command

from .spec import WorldSpec
from .write import write_world


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m voxel_mae.world", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", help="write a world to this folder")
    parser.add_argument("--statistics", action="store_true", help="print the table beside real scans")
    parser.add_argument("--statistics-frames", type=int, default=20, help="frames of the world (default: 20)")
    parser.add_argument("--real", type=Path, default=os.environ.get("REAL_SAMPLES"),
                        help="folder of real samples (default: $REAL_SAMPLES)")  # fmt: skip
    parser.add_argument("--preview", type=Path, metavar="FILE.png", help="draw four frames from above")
    parser.add_argument("--workers", type=int, help="processes (default: one a core); changes no file")
    for field in fields(WorldSpec):
        flag = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=field.default)
        else:
            parser.add_argument(flag, type=type(field.default), default=field.default)
    return parser


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {total} sequences", end="" if done < total else "\n", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code (2 for an error of the user's; 1: statistics out of tolerance)."""
    parser = _parser()
    args = parser.parse_args(argv)
    if not (args.folder or args.statistics or args.preview):
        parser.error("nothing to do: give FOLDER, --statistics or --preview FILE.png")
    return run_command(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    spec = WorldSpec(**{field.name: getattr(args, field.name) for field in fields(WorldSpec)})
    if args.folder:
        root = write_world(args.folder, spec, workers=args.workers, progress=_progress)
        print(f"embedded world (no real data) in {root}")
    if args.preview:
        _preview(spec, args.preview)
    return _statistics(spec, args) if args.statistics else 0


def _preview(spec: WorldSpec, path: Path) -> None:
    from voxel_mae.pictures import frames_figure  # matplotlib: only here

    from .frames import make_sequence

    frames = [make_sequence(spec, sequence)[0] for sequence, _ in zip(spec.sequences(), range(4), strict=False)]
    path.parent.mkdir(parents=True, exist_ok=True)
    frames_figure([(frame.frame_id, frame.points, frame.boxes, frame.names) for frame in frames]).savefig(path, dpi=110)
    print(f"wrote {path}")


def _statistics(spec: WorldSpec, args: argparse.Namespace) -> int:
    from voxel_mae.grid import Grid  # torch: only here

    from .statistics import measure_real, measure_world, outside, table

    if args.real is None:
        raise DataError("no real scans to compare with: set REAL_SAMPLES or give --real DIR")
    grid = Grid.construction()
    real, world = measure_real(Path(args.real), grid), measure_world(spec, args.statistics_frames, grid)
    print(table(real, world))
    return 1 if outside(real, world) else 0


if __name__ == "__main__":
    sys.exit(main())
