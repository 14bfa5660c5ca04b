"""Samples as batches: whose turn it is, on any number of processes, and how a batch that does not fit is split.

A sampler yields lists of (epoch, index) keys, so that persistent loader workers need not be told the epoch, and a cut
run continues at `set_position(epoch, batch)`. The batches of an epoch follow from (seed, epoch) alone; each process
takes its share of every batch, in passes of at most `micro_batch` samples.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shared.batches import Key
from shared.errors import ConfigError


class BatchSampler:
    """Shuffled batches, each in equal passes; a last batch holds what is left over (a multiple of the processes).

    `passes` is the number of passes of a full batch: the Loop's `accumulate`. Raises ConfigError when the batch does
    not divide by the processes, or there are fewer samples than processes.
    """

    def __init__(
        self, samples: int, batch_size: int, micro_batch: int, *, seed: int, rank: int = 0, world_size: int = 1
    ):
        if batch_size % world_size or samples < world_size:
            raise ConfigError(
                f"batches of {batch_size} of {samples} samples on {world_size} processes: training.batch_size is of "
                f"all processes and must divide by them; take {max(1, batch_size // world_size) * world_size}"
            )
        self.samples, self.batch_size, self.micro_batch, self.seed = samples, batch_size, micro_batch, seed
        self.rank, self.world_size = rank, world_size
        self.passes = self._passes(batch_size)
        full, left = divmod(samples, batch_size)
        left -= left % world_size
        self.sizes = [batch_size] * full + [left] * (left > 0)  # of the batches, over all processes
        self.epoch, self.start = 0, 0

    def _passes(self, size: int) -> int:
        return -(-size // self.world_size // self.micro_batch)

    def set_position(self, epoch: int, start: int = 0) -> None:
        """The next iteration yields the passes of `epoch` from number `start` on."""
        self.epoch, self.start = epoch, start

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.samples)
        ends = np.cumsum(self.sizes)
        batches = [order[end - size : end] for end, size in zip(ends, self.sizes, strict=True)]
        mine = [part for batch in batches for part in self._split(batch[self.rank :: self.world_size], len(batch))]
        for part in mine[self.start :]:
            yield [(self.epoch, int(index)) for index in part]

    def _split(self, share: np.ndarray, batch: int) -> list[np.ndarray]:
        return np.array_split(share, self._passes(batch))

    def __len__(self) -> int:
        return sum(map(self._passes, self.sizes))


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on the device; names stay lists."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }
