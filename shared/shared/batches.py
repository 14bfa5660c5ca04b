"""Whose turn it is: batches that remember where they are, for `loader.make_loader` and `Loop`.

A sampler yields lists of (epoch, index) keys, so that persistent loader workers need not be told the epoch, and a cut
run continues at `set_position(epoch, start_batch)`. The batches of an epoch are a pure function of (seed, epoch) and
are the same for any number of processes: each takes its share of every global batch.
"""

from collections.abc import Iterator

import numpy as np

from .errors import ConfigError

Key = tuple[int, int]  # epoch, index


def as_key(key: int | Key) -> Key:
    """A dataset's key: a plain index counts as epoch 0."""
    return (0, int(key)) if isinstance(key, int | np.integer) else (int(key[0]), int(key[1]))


class EpochBatches:
    """Base of the batch samplers. Subclasses give `batches(epoch)` (global) and may change `share`.

    Args:
        count: batches an epoch, the same in every epoch (schedules rely on it).
        rank, world_size: this process among all.
    """

    def __init__(self, count: int, *, rank: int = 0, world_size: int = 1):
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not one of {world_size} processes")
        self.count, self.rank, self.world_size = count, rank, world_size
        self.epoch, self.start_batch = 0, 0

    def batches(self, epoch: int) -> list[list[int]]:
        """All global batches of an epoch: lists of dataset indices."""
        raise NotImplementedError

    def share(self, batch: list[int]) -> list[int]:
        """This process's part of a global batch."""
        return batch[self.rank :: self.world_size]

    def set_position(self, epoch: int, start_batch: int = 0) -> None:
        """The next iteration yields the batches of `epoch` from number `start_batch` on."""
        self.epoch, self.start_batch = epoch, start_batch

    def __iter__(self) -> Iterator[list[Key]]:
        """This process's batches; of a last batch with fewer members than processes, some have no share and skip it."""
        for batch in self.batches(self.epoch)[self.start_batch :]:
            if share := self.share(batch):
                yield [(self.epoch, index) for index in share]

    def __len__(self) -> int:
        return self.count


class ShuffledBatches(EpochBatches):
    """All items in a new order every epoch, `batch_size` of them at a time over all processes; those left over make one
    batch more if every process gets a share of it.

    Raises ConfigError when a batch, or all items together, would leave a process without one.
    """

    def __init__(self, items: int, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1):
        if min(batch_size, items) < world_size:
            raise ConfigError(
                f"batches of {batch_size} of {items} samples leave some of {world_size} processes without one: use "
                "larger batches, more data, or fewer processes"
            )
        self.items, self.batch_size, self.seed = items, batch_size, seed
        super().__init__(items // batch_size + (items % batch_size >= world_size), rank=rank, world_size=world_size)

    def batches(self, epoch: int) -> list[list[int]]:
        order = np.random.default_rng((self.seed, epoch)).permutation(self.items).tolist()
        return [order[n * self.batch_size : (n + 1) * self.batch_size] for n in range(self.count)]


def in_order(items: int, batch_size: int, rank: int = 0, world_size: int = 1) -> list[list[Key]]:
    """An evaluation's batches of this process: every item once, in order, unaugmented epoch 0; nothing dropped."""
    mine = range(rank, items, world_size)
    return [[(0, index) for index in mine[n : n + batch_size]] for n in range(0, len(mine), batch_size)]
