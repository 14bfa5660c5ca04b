"""Index a data root and cut out its labelled objects: what OpenPCDet calls create_custom_infos.

    python -m voxel_mae.data.prepare data/custom [--features x y z] [--classes dumptruck ...] [--splits train val]
    python -m voxel_mae.data.prepare data/custom --validate          # write nothing, list every problem, exit 2
    python -m voxel_mae.data.prepare data/custom --make_splits 0.2   # first write train.txt and val.txt by sequence

writes custom_infos_<split>.json, custom_dbinfos_train.json and gt_database/ (JSON in place of pickles). Frames without
labels are indexed too; a split without any label makes no database, which it says.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from shared.errors import DataError
from shared.run import run_command
from shared.storage import storage_error, write_atomic

from .database import build_database
from .infos import counted, scan_frame, write_infos
from .layout import ALL, CustomRoot, find_root
from .splits import split_by_sequence
from .validate import Expected, validate

CLASSES = ("dumptruck", "excavator", "grader", "roller")
RANGE_M = (-70.4, -70.4, -6.0, 70.4, 70.4, 10.0)


def prepare(
    root: CustomRoot,
    features: Sequence[str],
    splits: Sequence[str] = ("train", "val"),
    *,
    say: Callable[[str], None] = print,
) -> dict[str, int]:
    """Write the index of every split, and the database of `train`; frames of each split, by name.

    Raises:
        DataError: missing or broken files (the first one met; `validate` lists all).
        StorageError: the root cannot be written.
    """
    counts = {}
    for split in splits:
        infos = [counted(root, scan_frame(root, split, one), features) for one in root.frame_ids(split)]
        write_infos(root.path / f"custom_infos_{split}.json", split, features, infos)
        labelled = sum(info.labels is not None for info in infos)
        say(f"{split}: {len(infos):,} frames, {labelled:,} labelled")
        counts[split] = len(infos)
        if split == "train":
            objects = build_database(root, infos, features) if labelled else {}
            listed = ", ".join(f"{name} {count:,}" for name, count in objects.items())
            say(f"ground-truth database: {listed or 'no objects'}")
    return counts


def make_splits(root: CustomRoot, val_share: float, seed: int) -> None:
    """Write ImageSets/train.txt and val.txt: whole sequences on either side.

    Raises:
        DataError: a list is there already.
        StorageError: the root cannot be written.
    """
    there = [path for path in (root.split_file(split) for split in ("train", "val")) if path.exists()]
    if there:
        raise DataError(f"{there[0]} is there already: remove it to make the splits anew.")
    try:
        root.split_file("train").parent.mkdir(exist_ok=True)
    except OSError as error:
        raise storage_error(root.split_file("train").parent, error) from error
    for split, ids in zip(("train", "val"), split_by_sequence(root.frame_ids(ALL), val_share, seed), strict=True):
        write_atomic(root.split_file(split), "".join(f"{one}\n" for one in ids))


def report(root: CustomRoot, expected: Expected, splits: Sequence[str] | None = None) -> None:
    """Raises DataError that lists all problems, when there are any."""
    problems = validate(root, expected, splits)
    if problems:
        raise DataError(f"{root.path}: {len(problems)} problems\n" + "\n".join(problems))
    print(f"{root.path}: no problems")


# --- command line -----------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m voxel_mae.data.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("root", type=Path, help="the data root: points/, labels/, ImageSets/ (or KITTI, nuScenes)")
    parser.add_argument("--features", nargs="+", help="columns of the clouds (default: the layout's, else x y z)")
    parser.add_argument("--classes", nargs="+", default=list(CLASSES), help="for --validate (default: the four)")
    parser.add_argument("--range", nargs=6, type=float, default=list(RANGE_M), help="metres, for --validate")
    parser.add_argument("--splits", nargs="+", help="lists of ImageSets (default: train val)")
    parser.add_argument("--make_splits", type=float, metavar="SHARE", help="first split by sequence: the share of val")
    parser.add_argument("--seed", type=int, default=0, help="of --make_splits (default: 0)")
    parser.add_argument("--validate", action="store_true", help="write nothing: list every problem of the root")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    return run_command(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    root = find_root(args.root)
    features = tuple(args.features or root.features or ("x", "y", "z"))
    if args.validate:
        report(root, Expected(features, args.classes, args.range), args.splits)
        return 0
    if args.make_splits is not None:
        make_splits(root, args.make_splits, args.seed)
    prepare(root, features, args.splits or ("train", "val"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
