"""Command line of the embedded world: write it, look at it, count it.

python -m talk2car_kd.world --out DIR [--seed N] [--train-frames N] ... [--workers N]
python -m talk2car_kd.world --preview FILE.png [--seed N]
python -m talk2car_kd.world --stats DIR
"""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from shared.errors import UserError

from .preview import coco_sheet, sheet
from .spec import WorldSpec
from .stats import table
from .write import write_world


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m talk2car_kd.world", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="write a world to this folder")
    parser.add_argument(
        "--preview", type=Path, help="write a contact sheet of driving frames (and NAME_coco beside it)"
    )
    parser.add_argument("--stats", type=Path, help="print the statistics of a written world")
    parser.add_argument("--workers", type=int, default=1, help="drawing processes (the files do not depend on it)")
    for field in fields(WorldSpec):
        pair = isinstance(field.default, tuple)
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(
            flag, type=type(field.default) if not pair else int, nargs=2 if pair else None, default=field.default
        )
    return parser


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {total} pictures", end="" if done < total else "\n", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns its exit code (2 for an error of the user's)."""
    parser = _parser()
    args = parser.parse_args(argv)
    if not (args.out or args.preview or args.stats):
        parser.error("nothing to do: give --out, --preview or --stats")
    try:
        values = {field.name: getattr(args, field.name) for field in fields(WorldSpec)}
        spec = WorldSpec(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
        if args.out:
            print(f"wrote {write_world(args.out, spec, progress=_progress, workers=args.workers)}")
        if args.preview:
            sheet(spec).save(args.preview)
            coco_sheet(spec).save(args.preview.with_stem(args.preview.stem + "_coco"))
        if args.stats:
            print(table(args.stats))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
