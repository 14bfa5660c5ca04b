"""Splits and label budgets by sequence: neighbouring frames of one drive never stand on both sides.

    train, val = split_by_sequence(ids, val_share=0.2, seed=0)
    five_percent = label_budget(train, 0.05, seed=0)                # nested: 5 % lies within 20 %

The sequence of a frame is its id up to the last underscore (`site3_000041` -> `site3`); an id without an underscore is
a sequence of its own. Uniformly drawn frames would hide what few labels cost (MV-JAR's scene-wise subsets).
"""

# F frames

import math
from collections.abc import Iterable, Sequence

import numpy as np

from shared.errors import ConfigError


def sequence_of(frame_id: str) -> str:
    return frame_id.rpartition("_")[0] or frame_id


def by_sequence(ids: Iterable[str]) -> dict[str, list[str]]:
    """Frames of each sequence, both in the order in which they came."""
    found: dict[str, list[str]] = {}
    for frame_id in ids:
        found.setdefault(sequence_of(frame_id), []).append(frame_id)
    return found


def split_by_sequence(ids: Sequence[str], val_share: float, seed: int) -> tuple[list[str], list[str]]:
    """(train, val): whole sequences, drawn until val has at least its share of the frames; order kept.

    Raises ConfigError when the share is no share, or there are fewer than two sequences.
    """
    _check_share(val_share)
    sequences = by_sequence(ids)
    if len(sequences) < 2:
        raise ConfigError(f"{len(sequences)} sequence cannot be split in two: record more, or name ids <sequence>_<n>")
    chosen: set[str] = set()
    for name in _shuffled(list(sequences), seed)[:-1]:
        chosen.add(name)
        if sum(len(sequences[one]) for one in chosen) >= val_share * len(ids):
            break
    train = [one for one in ids if sequence_of(one) not in chosen]
    return train, [one for one in ids if sequence_of(one) in chosen]


def label_budget(ids: Sequence[str], share: float, seed: int) -> list[str]:
    """The labelled part: ceil(share F) frames, sequence after sequence in a seeded order; the order of `ids` is kept.

    Raises ConfigError when the share is no share.
    """
    _check_share(share)
    sequences = by_sequence(ids)
    ordered = [one for name in _shuffled(list(sequences), seed) for one in sequences[name]]
    chosen = set(ordered[: math.ceil(share * len(ids) - 1e-9)])
    return [one for one in ids if one in chosen]


def _shuffled(names: list[str], seed: int) -> list[str]:
    return [names[i] for i in np.random.default_rng(seed).permutation(len(names))]


def _check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise ConfigError(f"share {share}: it is a part of the frames, above 0 and at most 1")
