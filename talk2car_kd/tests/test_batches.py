"""Grouped batches: images shared within a batch, mixed across it; the same for any number of processes; resumable."""

from pathlib import Path

import numpy as np
import pytest

from shared.errors import DataError
from talk2car_kd.coco import ImageGroupedBatchSampler, Region


def _many(images: int = 40, most: int = 30, seed: int = 0) -> list[Region]:
    """Regions of many images, very unevenly."""
    counts = np.minimum(np.random.default_rng(seed).geometric(0.15, images), most)
    return [
        Region(i, 100 * i + k, Path(f"{i}.jpg"), (0, 0, 9, 9), 81, "car", "small")
        for i, count in enumerate(counts)
        for k in range(count)
    ]


@pytest.mark.parametrize("batch_size", [16, 32, 48])
def test_every_batch_mixes_min_images(batch_size):
    regions = _many()
    sampler = ImageGroupedBatchSampler(regions, batch_size, min_images=8, seed=1)
    for epoch in range(10):
        batches = sampler.batches(epoch)
        assert len(batches) == len(sampler) == len(regions) // batch_size
        assert all(len(batch) == batch_size for batch in batches)
        assert all(len({regions[i].image_id for i in batch}) >= 8 for batch in batches)
        flat = [i for batch in batches for i in batch]
        assert len(flat) == len(set(flat))


def test_an_image_with_very_many_regions_is_spread_out():
    """50 regions of one image, at most 2 a batch: they need 25 of the 27 batches."""
    crowded = [Region(999, k, Path("crowded.jpg"), (0, 0, 9, 9), 81, "car", "small") for k in range(50)]
    regions = [*_many(images=60), *crowded]
    sampler = ImageGroupedBatchSampler(regions, 16, min_images=8, seed=1)
    for epoch in range(20):
        mixed = [len({regions[i].image_id for i in batch}) for batch in sampler.batches(epoch)]
        assert len(mixed) >= 25
        assert min(mixed) >= 8


def test_batches_group_images():
    """Few distinct images for their size: that is what saves decoding."""
    regions = _many(images=300)
    batches = ImageGroupedBatchSampler(regions, 64, min_images=8, seed=1).batches(0)
    images = np.mean([len({regions[i].image_id for i in batch}) for batch in batches])
    at_random = np.random.default_rng(0).permutation(len(regions))[:64]
    assert images < 0.6 * len({regions[i].image_id for i in at_random})


def test_nothing_is_left_out_without_drop_last():
    regions = _many()
    for shuffle in (True, False):
        sampler = ImageGroupedBatchSampler(regions, 16, min_images=4, seed=1, shuffle=shuffle, drop_last=False)
        batches = sampler.batches(3)
        assert len(batches) == len(sampler)
        assert sorted(i for batch in batches for i in batch) == list(range(len(regions)))
    assert [i for batch in batches for i in batch] == list(range(len(regions)))  # in order


def test_order_depends_on_seed_and_epoch_alone():
    regions = _many()
    sampler = ImageGroupedBatchSampler(regions, 16, seed=1)
    again = ImageGroupedBatchSampler(regions, 16, seed=1)
    assert sampler.batches(3) == again.batches(3)
    assert sampler.batches(3) != sampler.batches(4)
    assert sampler.batches(3) != ImageGroupedBatchSampler(regions, 16, seed=2).batches(3)


def test_processes_share_every_global_batch():
    regions = _many()
    whole = ImageGroupedBatchSampler(regions, 17, seed=1).batches(2)
    parts = [ImageGroupedBatchSampler(regions, 17, seed=1, rank=rank, world_size=3) for rank in range(3)]
    for part in parts:
        part.set_position(2)
    for batch, *shares in zip(whole, *parts, strict=True):
        assert all(epoch == 2 for share in shares for epoch, _ in share)
        assert sorted(i for share in shares for _, i in share) == sorted(batch)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_position_continues_the_epoch():
    sampler = ImageGroupedBatchSampler(_many(), 16, seed=1)
    sampler.set_position(5)
    whole = list(sampler)
    sampler.set_position(5, 3)
    assert list(sampler) == whole[3:]
    assert len(sampler) == len(whole)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 4, "min_images": 8}, ValueError, "too small"),
        ({"batch_size": 64, "min_images": 50}, DataError, "min_images"),
        ({"batch_size": 5000}, DataError, "fill no batch"),
        ({"batch_size": 16, "rank": 2, "world_size": 2}, ValueError, "rank 2"),
    ],
)
def test_impossible_batches_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        ImageGroupedBatchSampler(_many(), seed=0, **options)
