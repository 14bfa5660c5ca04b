"""The order of samples as a function of (seed, epoch), from any position on.

    sampler.set_epoch(3)              # DistSamplerSeedHook of mmengine calls this
    sampler.start_at(3, samples=120)  # resume: this rank's first 120 samples of epoch 3 are not read again

Keys it yields carry (seed, epoch) to the data set, also into workers that persist over epochs: see `randomness`.
"""

from collections.abc import Iterator, Sized

import numpy as np
from mmdet.registry import DATA_SAMPLERS
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from shared.errors import ConfigError

from .randomness import SampleKey


def epoch_order(samples: int, seed: int, epoch: int, shuffle: bool = True) -> np.ndarray:
    """(samples,) int64: the order of all samples in an epoch, a function of its arguments alone."""
    if not shuffle:
        return np.arange(samples)
    return np.random.default_rng(np.random.SeedSequence((seed, epoch))).permutation(samples)


def share_of(order: np.ndarray, rank: int, world: int) -> np.ndarray:
    """This rank's samples: every world-th; the order is continued from its start so that all ranks get as many."""
    total = -(-len(order) // world) * world
    return np.resize(order, total)[rank::world]


@DATA_SAMPLERS.register_module()
class PositionKeyedSampler(Sampler):
    """mmengine's DefaultSampler with an order that can be entered anywhere.

    Args:
        dataset: anything with a length.
        shuffle: a new order each epoch; False is 0, 1, 2, ...
        seed: the runner passes `randomness.seed`; None draws one that all ranks agree on (then no run can be repeated).
        rank, world: of this process; by default the process group's.

    The length is that of a whole epoch whatever the start, since loops derive the number of iterations from it.
    Incomplete batches are the DataLoader's `drop_last`.
    """

    def __init__(
        self,
        dataset: Sized,
        shuffle: bool = True,
        seed: int | None = None,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        own_rank, own_world = get_dist_info()
        self.rank = own_rank if rank is None else rank
        self.world = own_world if world is None else world
        if not 0 <= self.rank < self.world:
            raise ConfigError(f"rank {self.rank} of {self.world} processes does not exist; ranks count from 0.")
        self.dataset = dataset
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0
        self.start_position = 0  # samples of this rank that are left out of the epoch at hand

    def __iter__(self) -> Iterator[SampleKey]:
        order = share_of(epoch_order(len(self.dataset), self.seed, self.epoch, self.shuffle), self.rank, self.world)
        epoch, rest = self.epoch, order[self.start_position :].tolist()
        return (SampleKey(index, self.seed, epoch) for index in rest)

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.world)

    def set_epoch(self, epoch: int) -> None:
        """The next pass is over this epoch: from its start, unless `start_at` named a position in it."""
        if epoch != self.epoch:
            self.start_position = 0
        self.epoch = epoch

    def start_at(self, epoch: int, samples: int) -> None:
        """The next pass leaves out this rank's first `samples` samples of this epoch.

        Raises:
            ConfigError: the epoch has fewer samples.
        """
        if not 0 <= samples <= len(self):
            raise ConfigError(
                f"cannot start at sample {samples} of an epoch with {len(self)} samples a process: the data or the "
                "number of processes changed since the checkpoint; start the epoch anew."
            )
        self.epoch, self.start_position = epoch, samples
