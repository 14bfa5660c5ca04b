"""Batches of an epoch: a pure function of seed and epoch, shared out, continued anywhere."""

import pytest

from shared.batches import ShuffledBatches, as_key, in_order
from shared.errors import ConfigError


def test_every_item_comes_once_an_epoch_in_another_order():
    sampler = ShuffledBatches(7, 3, seed=1)
    epochs = []
    for epoch in (0, 1, 0):
        sampler.set_position(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler) == 3 and {key[0] for batch in batches for key in batch} == {epoch}
        epochs.append([key[1] for batch in batches for key in batch])
    assert sorted(epochs[0]) == list(range(7)) and epochs[0] == epochs[2] != epochs[1]
    sampler.set_position(0, 2)
    assert [key[1] for key in next(iter(sampler))] == epochs[0][6:]


def test_processes_share_every_batch_and_none_is_left_without():
    for frames, batches in ((8, 3), (7, 2)):  # one frame left over is too few for two processes
        shares = [ShuffledBatches(frames, 3, seed=0, rank=rank, world_size=2) for rank in (0, 1)]
        lists = [list(sampler) for sampler in shares]
        assert [len(one) for one in lists] == [batches, batches] and all(share for one in lists for share in one)
        keys = [key for one in lists for share in one for key in share]
        assert len(set(keys)) == len(keys) == (8 if frames == 8 else 6)
    with pytest.raises(ConfigError, match="of 2 processes without one"):
        ShuffledBatches(8, 1, seed=0, world_size=2)


def test_an_evaluation_walks_in_order():
    assert in_order(5, 2) == [[(0, 0), (0, 1)], [(0, 2), (0, 3)], [(0, 4)]] and in_order(0, 2) == []
    shares = [in_order(7, 2, rank, 3) for rank in range(3)]
    assert sorted(key[1] for share in shares for batch in share for key in batch) == list(range(7))


def test_a_plain_index_is_a_key_of_epoch_0():
    assert as_key(4) == (0, 4) and as_key((2, 4)) == (2, 4)
