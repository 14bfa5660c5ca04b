"""Every problem of a paired data set at once, each with its path and its remedy, before anything is trained.

    python -m llvip_macl.data.validate ROOT --layout llvip|kaist        exit 0: sound, 2: problems (listed)

Both images of each pair are decoded in full, every annotation file of every label set that lies there is read.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

from shared.errors import DataError

from .annotations import (
    IGNORE_LABEL,
    KAIST_LABELS,
    PERSON,
    Labels,
    label_problems,
    read_bbgt,
    read_corners,
    read_paired,
    read_xml,
)
from .image_checks import pair_problems
from .layout import Folders, Pair, Pairs, kaist_label_files, kaist_pairs, llvip_pairs, read_frame_list

LLVIP_SLACK_PX = 2.0  # boxes count from 1 and may touch the border
KAIST_SLACK_PX = 16.0  # the benchmark's own test labels reach 6 px over it
KAIST_READERS: dict[str, Callable[..., Labels]] = {
    "annotations-xml-new": read_xml,
    "annotations": read_bbgt,
    "sanitized_annotations": read_corners,
    "annotations_paired": read_paired,
}
TRAINING_ONLY = ("sanitized_annotations", "annotations_paired")  # label sets that cover the training frames
Found = tuple[Pair, list[Labels]]


def validate(root: Path | str, layout: str) -> list[str]:
    """All problems of a root, one line each; empty when there is none.

    Args:
        layout: 'llvip' or 'kaist'.
    """
    root = Path(root)
    if not root.is_dir():
        return [f"{root} is missing or no folder: give the folder that holds the data set."]
    return list(LAYOUTS[layout](root))


def _told(work: Callable, problems: list[str], default: object) -> object:
    """The work's result; its DataError becomes a problem."""
    try:
        return work()
    except DataError as error:
        problems.append(str(error))
        return default


# ---------------------------------------------------------------- LLVIP


def _llvip(root: Path) -> Iterator[str]:
    problems: list[str] = []
    splits = {split: _told(lambda s=split: llvip_pairs(root, s), problems, Pairs()) for split in ("train", "test")}
    yield from problems
    names = {split: {pair.name for pair in pairs.found} for split, pairs in splits.items()}
    yield from _overlaps(root, names)
    for pairs in splits.values():
        yield from pairs.problems
    yield from _orphans(root, set().union(*names.values()))
    yield from _samples([(pair, *_llvip_labels(root, pair)) for pairs in splits.values() for pair in pairs.found])


def _llvip_labels(root: Path, pair: Pair) -> tuple[list[Labels], list[str]]:
    problems: list[str] = []
    labels = _told(lambda: read_xml(root / "Annotations" / f"{pair.name}.xml"), problems, None)
    if labels:
        problems += label_problems(labels, (PERSON,), labels.size_hw, slack_px=LLVIP_SLACK_PX)
    return [labels] if labels else [], problems


def _orphans(root: Path, names: set[str]) -> Iterator[str]:
    for path in sorted((root / "Annotations").glob("*.xml")):
        if path.stem not in names:
            yield f"{path} belongs to no whole pair of visible/ and infrared/: extract the images again, or remove it."


# ---------------------------------------------------------------- KAIST


def _kaist(root: Path) -> Iterator[str]:
    lists = sorted((root / "imageSets").glob("*.txt"))
    if not lists:
        yield f"{root / 'imageSets'} holds no list of frames (train-all-02.txt, test-all-20.txt): extract it again."
    problems: list[str] = []
    frames = {path.stem: _told(lambda p=path: read_frame_list(p), problems, []) for path in lists}
    yield from problems
    yield from _overlaps(root, _by_purpose(frames))
    pairs = Pairs()
    everyone = list(dict.fromkeys(frame for members in frames.values() for frame in members))
    if everyone:
        problems.clear()
        pairs = _told(lambda: kaist_pairs(root, everyone), problems, pairs)
        yield from (*problems, *pairs.problems)
    folders = [name for name in KAIST_READERS if (root / name).is_dir()]
    if not folders:
        yield f"{root} has none of {', '.join(KAIST_READERS)}: extract a label set."
    listed = {name: Folders((".xml",) if KAIST_READERS[name] is read_xml else (".txt",)) for name in folders}
    yield from _samples([(pair, *_kaist_labels(root, pair, listed)) for pair in pairs.found])


def _by_purpose(frames: dict[str, list[str]]) -> dict[str, set[str]]:
    """Lists of one purpose may share frames (train-all-02 is part of train-all-01); training and test may not."""
    purposes: dict[str, set[str]] = {}
    for name, members in frames.items():
        purposes.setdefault(name.split("-")[0], set()).update(members)
    return purposes


def _kaist_labels(root: Path, pair: Pair, listed: dict[str, Folders]) -> tuple[list[Labels], list[str]]:
    found, problems = [], []
    for folder, files in listed.items():
        paths = kaist_label_files(root / folder, pair.name, files, folder == "annotations_paired")
        if folder in TRAINING_ONLY and not any(path.exists() for path in paths):
            continue
        labels = _told(lambda f=folder, p=paths: KAIST_READERS[f](*p), problems, None)
        if labels:
            found.append(labels)
            known = (*KAIST_LABELS, IGNORE_LABEL)
            problems += label_problems(labels, known, labels.size_hw, slack_px=KAIST_SLACK_PX)
    return found, problems


# ---------------------------------------------------------------- both


def _overlaps(root: Path, splits: dict[str, set[str]]) -> Iterator[str]:
    for (one, first), (other, second) in combinations(splits.items(), 2):
        both = sorted(first & second)
        if both:
            yield (
                f"{root}: {one} and {other} share {len(both)} frames, the first is {both[0]}: keep each in one of "
                "them, or results say nothing."
            )


def _samples(samples: list[tuple[Pair, list[Labels], list[str]]]) -> Iterator[str]:
    """Images are decoded by several threads; problems come in the samples' order."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for _, problems in threads.map(_sample_problems, samples):
            yield from problems


def _sample_problems(sample: tuple[Pair, list[Labels], list[str]]) -> tuple[Pair, list[str]]:
    pair, found, problems = sample
    stated = {labels.path: labels.size_hw for labels in found if labels.size_hw}
    return pair, [*problems, *pair_problems(pair.visible, pair.infrared, stated)]


LAYOUTS: dict[str, Callable[[Path], Iterator[str]]] = {"llvip": _llvip, "kaist": _kaist}


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="List every problem of a paired data set.")
    parser.add_argument("root", type=Path, help="folder of the data set")
    parser.add_argument("--layout", choices=sorted(LAYOUTS), required=True)
    args = parser.parse_args(argv)
    problems = validate(args.root, args.layout)
    for problem in problems:
        print(problem)
    print(f"{args.root}: {len(problems)} problems" if problems else f"{args.root}: sound")
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
