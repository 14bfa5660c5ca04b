"""Batches that can be entered anywhere, read by processes whose troubles are told by sample.

MMEngine's config of a data loader is built here with `shared.loader`: a worker that raises, dies or hangs is reported
with the samples it was reading, a loader draws nothing from the global random generators, and a resumed epoch starts at
its batch without reading the ones before.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from mmengine.registry import DATA_SAMPLERS, DATASETS, FUNCTIONS
from torch.utils.data import BatchSampler, DataLoader

from shared.errors import ConfigError
from shared.loader import Position, iterate, make_loader

TIMEOUT_S = 120.0
SHOWN = 8  # samples that a message names
IGNORED = ("persistent_workers", "prefetch_factor", "worker_init_fn", "disable_subprocess_warning", "multiprocessing_context")  # fmt: skip  # noqa: E501


class PositionedBatches:
    """A batch sampler whose next pass may begin at any batch of any epoch. Its length is the whole epoch's."""

    def __init__(self, batches: BatchSampler, sampler: Any):
        self.batches, self.sampler = batches, sampler
        self._first = 0

    def set_position(self, epoch: int, batch: int) -> None:
        """The next pass is over `epoch` and leaves out its first `batch` batches."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)
        self._first = batch

    def __iter__(self) -> Iterator[list]:
        first, self._first = self._first, 0
        return islice(iter(self.batches), first, None)

    def __len__(self) -> int:
        return len(self.batches)


class TellingBatches:
    """A loader as MMEngine's validation and test loops use it (length, data set, iteration), with `iterate`'s care."""

    def __init__(self, loader: DataLoader):
        self.loader, self.dataset = loader, loader.dataset

    def __iter__(self) -> Iterator[Any]:
        return batches_of(self.loader)

    def __len__(self) -> int:
        return len(self.loader)


def batches_of(loader: DataLoader, at: Position | None = None, then: Position | None = None) -> Iterator[Any]:
    """One pass over a loader; a worker that dies, hangs or raises is told with the paths of the samples it read.

    at, then: (epoch, batch) of this pass and of the one to be begun early. Raises as `shared.loader.iterate`.
    """
    return iterate(loader, names_by(loader.dataset), at=at, then=then)


def names_by(dataset: Any) -> Callable[[Sequence], str]:
    """A function from a batch's keys to its samples' names: visible images where the data set knows them."""

    def name(key: Any) -> str:
        info = dataset.get_data_info(int(key)) if hasattr(dataset, "get_data_info") else {}
        return str(info.get("img_path", key))

    return lambda keys: ", ".join(name(key) for key in keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")


def build_loader(config: Mapping[str, Any] | DataLoader, seed: int | None, same_seed: bool = True) -> DataLoader:
    """A DataLoader from MMEngine's table (dataset, sampler, batch_size, num_workers, drop_last, collate_fn, ...).

    seed: of the samplers, the same on every process if `same_seed`.

    Raises:
        ConfigError: a setting that this loader does not have.
    """
    if isinstance(config, DataLoader):
        return config
    rest = copy.deepcopy(dict(config))
    dataset = rest.pop("dataset")
    if isinstance(dataset, Mapping):
        dataset = DATASETS.build(dataset)
        if hasattr(dataset, "full_init"):
            dataset.full_init()
    sampler = rest.pop("sampler", None) or {"type": "DefaultSampler", "shuffle": False}
    if isinstance(sampler, Mapping):
        sampler = DATA_SAMPLERS.build(
            dict(sampler), default_args={"dataset": dataset, "seed": seed if same_seed else None}
        )
    batches = _batches(rest, sampler)
    loader = make_loader(
        dataset,
        PositionedBatches(batches, sampler),
        workers=rest.pop("num_workers", 0),
        collate=_collate(rest.pop("collate_fn", {"type": "pseudo_collate"})),
        timeout_s=rest.pop("timeout", 0) or TIMEOUT_S,
        pin_memory=rest.pop("pin_memory", False),
    )
    unknown = [key for key in rest if key not in IGNORED]
    if unknown:
        raise ConfigError(f"a data loader has no setting {unknown[0]!r} here; remove it from the config.")
    return loader


def _batches(rest: dict[str, Any], sampler: Any) -> BatchSampler:
    """Consumes batch_size, drop_last and batch_sampler."""
    size, drop_last = rest.pop("batch_size", 1), rest.pop("drop_last", False)
    chosen = rest.pop("batch_sampler", None)
    if chosen is None:
        return BatchSampler(sampler, size, drop_last)
    return DATA_SAMPLERS.build(dict(chosen), default_args={"sampler": sampler, "batch_size": size})


def _collate(chosen: Any) -> Any:
    if not isinstance(chosen, Mapping):
        return chosen
    rest = dict(chosen)
    function = rest.pop("type")
    return partial(FUNCTIONS.get(function) if isinstance(function, str) else function, **rest)
