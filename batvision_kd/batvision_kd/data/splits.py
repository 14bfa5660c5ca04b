"""Which records train, select and test: the official tables, whole locations held out, or folds of locations.

BatVision's official splits lie inside each location and neighbouring frames are near-duplicates, so they measure how
well a place is remembered. Holding whole locations out measures how well a new place is heard.
"""

from collections import Counter
from collections.abc import Sequence

from shared.errors import ConfigError

from .layout import Record


def hold_out(
    records: Sequence[Record], val: Sequence[str], test: Sequence[str]
) -> tuple[list[Record], list[Record], list[Record]]:
    """(train, val, test) of the records of all splits, by location; the tables' own splits are ignored.

    Raises ConfigError for an unknown location, one in both lists, or none left to train on.
    """
    names = {record.location for record in records}
    if unknown := sorted({*val, *test} - names):
        raise ConfigError(f"hold-out: no location {', '.join(unknown)}; there are {', '.join(sorted(names))}")
    if both := sorted(set(val) & set(test)):
        raise ConfigError(f"hold-out: {', '.join(both)} stand in val and in test; keep each in one of them")
    if not names - {*val, *test} or not val or not test:
        raise ConfigError(
            f"hold-out: of {len(names)} locations, {len(val)} for val and {len(test)} for test leave a part empty"
        )
    parts: dict[str, list[Record]] = {"train": [], "val": [], "test": []}
    for record in records:
        parts["val" if record.location in val else "test" if record.location in test else "train"].append(record)
    return parts["train"], parts["val"], parts["test"]


def location_folds(records: Sequence[Record], k: int) -> list[tuple[str, ...]]:
    """The locations in k groups of about equally many records (largest first to the smallest group), each sorted.

    Every location is in exactly one group; nothing is drawn, so the same records give the same folds.
    Raises ConfigError unless 2 <= k <= number of locations.
    """
    sizes = Counter(record.location for record in records)
    if not 2 <= k <= len(sizes):
        raise ConfigError(f"{k} folds of {len(sizes)} locations: choose 2 to {len(sizes)}")
    groups: list[list[str]] = [[] for _ in range(k)]
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        min(groups, key=lambda group: sum(sizes[other] for other in group)).append(name)
    return [tuple(sorted(group)) for group in groups]
