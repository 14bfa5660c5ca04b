"""Every problem of a data root at once, each with its path and its remedy, before anything is prepared or trained."""

# P points, G boxes

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.errors import DataError

from .clouds import read_cloud
from .dataset import check_in_range
from .infos import read_infos
from .labels import Labels, class_ids
from .layout import ALL, CustomRoot, read_split
from .splits import sequence_of

FARTHEST_M = 1000.0  # no LiDAR sees so far: other units, or map coordinates
LARGEST_M = 50.0  # no machine is so long
MOST_ANGLE_RAD = 2 * np.pi + 1e-6  # degrees are larger


@dataclass(frozen=True)
class Expected:
    """What the configuration says of the data: columns, classes, range in metres."""

    features: Sequence[str]
    classes: Sequence[str]
    range_m: Sequence[float]
    ignored_classes: Sequence[str] = ()


def validate(root: CustomRoot, expected: Expected, splits: Sequence[str] | None = None) -> list[str]:
    """All problems of the root's lists, frames and indexes, one line each; empty when there is none.

    splits: lists that have to be there; those in ImageSets (or every cloud, without any) when not given.
    """
    wanted = _splits(root, splits)
    problems = list(_list_problems(root, wanted))
    for split, frame_id in _frames(root, wanted):
        problems += _frame_problems(root, expected, split, frame_id)
    problems += [*_orphans(root, wanted), *_index_problems(root)]
    return list(dict.fromkeys(problems))  # a list that is wrong would be told by everyone who reads it


def _splits(root: CustomRoot, splits: Sequence[str] | None) -> list[str]:
    if splits is not None:
        return list(splits)
    return sorted(path.stem for path in (root.path / "ImageSets").glob("*.txt")) or [ALL]


def _problem(work: Callable[[], object]) -> Iterator[str]:
    try:
        work()
    except DataError as error:
        yield str(error)


def _list_problems(root: CustomRoot, splits: Sequence[str]) -> Iterator[str]:
    for split in splits:
        yield from _problem(lambda split=split: root.frame_ids(split))
    if all(root.split_file(split).is_file() for split in ("train", "val")):
        yield from _problem(lambda: _check_apart(root))


def _check_apart(root: CustomRoot) -> None:
    train, val = (read_split(root.split_file(split)) for split in ("train", "val"))
    for what, name in (("frames", str), ("sequences", sequence_of)):
        both = sorted({name(one) for one in train} & {name(one) for one in val})
        if both:
            raise DataError(
                f"{root.path / 'ImageSets'}: train.txt and val.txt share {len(both)} {what}, the first is {both[0]}: "
                "keep each in one of them."
            )


def _frames(root: CustomRoot, splits: Sequence[str]) -> list[tuple[str, str]]:
    """(split, frame id) of every cloud of the splits' folders, once."""
    folders = {root.points_folder(split): split for split in reversed(splits)}
    return [(split, frame_id) for split in folders.values() for frame_id in root.available(split)]


def _frame_problems(root: CustomRoot, expected: Expected, split: str, frame_id: str) -> Iterator[str]:
    yield from _problem(lambda: _check_cloud(root.cloud(split, frame_id), expected))
    found: list[Labels | None] = []
    yield from _problem(lambda: found.append(root.labels(split, frame_id)))
    if found and found[0] is not None:
        yield from _label_problems(root.label_file(split, frame_id), found[0], expected, root.own_classes)


def _check_cloud(path: Path, expected: Expected) -> None:
    points = read_cloud(path, expected.features)
    farthest = float(np.abs(points[:, :3]).max(initial=0.0))
    if farthest > FARTHEST_M:
        raise DataError(
            f"{path}: a coordinate of {farthest:,.0f} m; points are metres from the sensor (millimetres, or map "
            "coordinates?): convert it."
        )
    check_in_range(str(path), points, expected.range_m)


def _label_problems(path: Path, labels: Labels, expected: Expected, own_classes: Sequence[str]) -> Iterator[str]:
    ignored = (*expected.ignored_classes, *own_classes)
    yield from _problem(lambda: class_ids(labels, expected.classes, ignored, str(path)))
    for number, (name, box) in enumerate(zip(labels.names, labels.boxes, strict=True), 1):
        where = f"{path}, object {number} ({name})"
        if box[3:6].max() > LARGEST_M:
            yield f"{where}: sizes {box[3:6].tolist()} m (centimetres or millimetres?): convert them to metres."
        if abs(box[6]) > MOST_ANGLE_RAD:
            yield f"{where}: heading {box[6]:g} rad is more than a turn (degrees?): convert it to radians."


def _orphans(root: CustomRoot, splits: Sequence[str]) -> Iterator[str]:
    for split in dict.fromkeys(splits):
        example = root.label_file(split, "x")
        if example is None or not example.parent.is_dir():
            continue
        clouds = set(root.available(split))
        for path in sorted(example.parent.glob("*.txt")):
            if path.stem not in clouds:
                yield f"{path} has no cloud in {root.points_folder(split)}: restore the cloud, or remove the file."
        return  # the splits of a layout that is validated share the folder


def _index_problems(root: CustomRoot) -> Iterator[str]:
    for path in sorted(root.path.glob("custom_infos_*.*")):
        if path.suffix == ".json":
            yield from _problem(lambda path=path: _check_index(root, path))
        elif path.suffix == ".pkl" and not path.with_suffix(".json").is_file():
            yield from _problem(lambda path=path: read_infos(path))


def _check_index(root: CustomRoot, path: Path) -> None:
    split = path.stem.removeprefix("custom_infos_")
    if not root.split_file(split).is_file():
        return
    indexed = {info.frame_id for info in read_infos(path)}
    lacking = [one for one in read_split(root.split_file(split)) if one not in indexed]
    if lacking:
        raise DataError(
            f"{path} lacks {len(lacking):,} frames of {root.split_file(split)}, the first is {lacking[0]}: prepare the "
            "root again."
        )
