"""The order of samples is a function of (seed, epoch), can be entered anywhere, and reaches wrapped data sets."""

import copy

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from llvip_macl.data.randomness import SampleKey, sample_draws
from llvip_macl.data.sampler import PositionKeyedSampler, epoch_order, share_of
from shared.errors import ConfigError


class Draws(torch.utils.data.Dataset):
    """Gives (index, epoch, a random number) of each key."""

    def __len__(self):
        return 11

    def __getitem__(self, key):
        with sample_draws(key):
            return int(key), key.epoch, np.random.rand()  # noqa: NPY002 - what transforms draw from


def test_order_is_a_function_of_seed_and_epoch():
    orders = {(seed, epoch): tuple(epoch_order(50, seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}
    assert len(set(orders.values())) == 6
    assert orders[0, 1] == tuple(epoch_order(50, 0, 1))
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    assert list(epoch_order(5, 3, 9, shuffle=False)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("samples", "world"), [(10, 1), (10, 2), (11, 4), (2, 3)])
def test_ranks_share_an_epoch(samples, world):
    parts = [share_of(epoch_order(samples, 0, 0), rank, world) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    assert set(np.concatenate(parts)) == set(range(samples))
    for rank in range(world):
        sampler = PositionKeyedSampler(range(samples), seed=0, rank=rank, world=world)
        assert [int(key) for key in sampler] == list(parts[rank]) and len(sampler) == len(parts[rank])


def test_a_start_in_mid_epoch_leaves_out_what_was_read_and_nothing_else():
    sampler = PositionKeyedSampler(range(20), seed=4, rank=0, world=1)
    sampler.set_epoch(3)
    whole = list(sampler)
    resumed = PositionKeyedSampler(range(20), seed=4, rank=0, world=1)
    resumed.start_at(3, samples=8)
    resumed.set_epoch(3)  # the hook of the loop says so once more
    assert list(resumed) == whole[8:] and len(resumed) == 20
    resumed.set_epoch(4)
    sampler.set_epoch(4)
    assert list(resumed) == list(sampler)
    with pytest.raises(ConfigError, match="cannot start at sample 21"):
        resumed.start_at(3, samples=21)


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_reach_persistent_workers_with_the_keys(workers):
    sampler = PositionKeyedSampler(Draws(), seed=0, rank=0, world=1)
    loader = DataLoader(Draws(), 3, sampler=sampler, num_workers=workers, persistent_workers=workers > 0)
    epochs = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        epochs.append([torch.stack([column.double() for column in batch]) for batch in loader])
        assert {float(batch[1].unique()) for batch in epochs[-1]} == {epoch}
    seen = {(int(i), int(e)): float(x) for batch in (*epochs[0], *epochs[1]) for i, e, x in batch.T}
    expected = {(i, e): Draws()[SampleKey(i, 0, e)][2] for i in range(11) for e in (0, 1)}
    assert seen == expected and len(set(seen.values())) == 22


def test_keys_travel_and_survive_the_index_arithmetic_of_wrappers():
    key = SampleKey(14, seed=5, epoch=2)
    for moved, index in ((key % 10, 4), (key - 10, 4), (key + 1, 15), (copy.deepcopy(key), 14)):
        assert (int(moved), moved.triple) == (index, (5, 2, 14))
    assert key == 14 and "epoch 2" in repr(key)


def test_impossible_ranks_are_refused():
    with pytest.raises(ConfigError, match="rank 2 of 2"):
        PositionKeyedSampler(range(3), seed=0, rank=2, world=2)
