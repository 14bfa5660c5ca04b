"""Draws that belong to a sample and to nothing else.

A `SampleKey` is an index that also carries (seed, epoch, position): the sampler sends keys, so they reach workers that
outlive an epoch with the samples themselves. Inside `sample_draws(key)` the global generators that transforms draw
from (random, numpy, torch) are seeded from the key alone: neither the number of workers nor the order of reading
changes a sample. In the main process their state is put back afterwards.
"""

import contextlib
import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import get_worker_info


class SampleKey(int):
    """An index into a data set with the seed, the epoch, and the position in the outermost data set.

    Index arithmetic of wrapping data sets (mmengine's ConcatDataset and RepeatDataset use - and %) keeps all three.
    """

    seed: int
    epoch: int
    position: int

    def __new__(cls, index: int, seed: int, epoch: int, position: int | None = None) -> "SampleKey":
        key = super().__new__(cls, index)
        key.seed, key.epoch, key.position = seed, epoch, int(index) if position is None else position
        return key

    def __sub__(self, other: int) -> "SampleKey":
        return self._moved(int(self) - int(other))

    def __add__(self, other: int) -> "SampleKey":
        return self._moved(int(self) + int(other))

    def __mod__(self, other: int) -> "SampleKey":
        return self._moved(int(self) % int(other))

    def _moved(self, index: int) -> "SampleKey":
        return SampleKey(index, self.seed, self.epoch, self.position)

    def __reduce__(self) -> tuple:
        return SampleKey, (int(self), self.seed, self.epoch, self.position)

    def __repr__(self) -> str:
        return f"sample {int(self)} (seed {self.seed}, epoch {self.epoch}, position {self.position})"

    @property
    def triple(self) -> tuple[int, int, int]:
        """(seed, epoch, position), what the draws depend on."""
        return self.seed, self.epoch, self.position


class Generators(NamedTuple):
    """States of the three global generators."""

    python: tuple
    numpy: tuple
    torch: torch.Tensor

    def equals(self, other: "Generators") -> bool:
        """Whether the next draws would be the same."""
        return (
            self.python == other.python
            and self.numpy[2:] == other.numpy[2:]
            and bool(np.array_equal(self.numpy[1], other.numpy[1]))
            and bool(torch.equal(self.torch, other.torch))
        )


def capture() -> Generators:
    """The state of the global generators now."""
    return Generators(random.getstate(), np.random.get_state(), torch.get_rng_state())  # noqa: NPY002 - transforms use it


def restore(state: Generators) -> None:
    """Put the global generators back."""
    random.setstate(state.python)
    np.random.set_state(state.numpy)  # noqa: NPY002
    torch.set_rng_state(state.torch)


def seed_from(*numbers: int) -> None:
    """Seed the global generators from some non-negative integers, mixed so that neighbours share nothing."""
    words = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))  # noqa: NPY002
    torch.manual_seed(int(words[2]))


@contextlib.contextmanager
def sample_draws(key: int) -> Iterator[None]:
    """Draw for the sample of this key inside the block.

    A plain int (somebody else's sampler, or `dataset[3]` by hand) carries no seed: it draws from the generators as they
    are, as mmengine's data sets do.
    """
    if not isinstance(key, SampleKey):
        yield
        return
    earlier = capture() if get_worker_info() is None else None
    seed_from(*key.triple)
    try:
        yield
    finally:
        if earlier is not None:
            restore(earlier)
