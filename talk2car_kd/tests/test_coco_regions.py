"""COCO regions as the student sees them: crops, captions, workers.

The 80 real images check the numbers that matter.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_samples import HEIGHT, WIDTH, write_coco_root
from torch.utils.data import DataLoader

from talk2car_kd import coco
from talk2car_kd.augment import get_augmented_transform
from talk2car_kd.coco import (
    COCORegionTextDataset,
    ImageGroupedBatchSampler,
    Region,
    crop_window,
    find_coco,
    load_image_captions,
    load_regions,
    validate_coco,
)
from talk2car_kd.images import IMAGENET_MEAN, IMAGENET_STD, read_rgb

CLIP = {"teacher_mean": (0.48, 0.46, 0.41), "teacher_std": (0.27, 0.26, 0.28)}


@pytest.fixture(scope="module")
def sound_root(tmp_path_factory) -> Path:
    return write_coco_root(tmp_path_factory.mktemp("coco") / "coco")


@pytest.fixture(scope="module")
def regions(sound_root) -> list[Region]:
    return load_regions(find_coco(sound_root), "train", min_side_px=4)


@pytest.fixture(scope="module")
def captions(sound_root) -> dict[int, list[str]]:
    return load_image_captions(find_coco(sound_root), "train")


# Crops ----------------------------------------------------------------------------------------------------------------


def test_crop_windows_hold_the_box_and_stay_inside():
    rng = np.random.default_rng(0)
    for _ in range(500):
        w, h = rng.uniform(1, WIDTH), rng.uniform(1, HEIGHT)
        x, y = rng.uniform(0, WIDTH - w), rng.uniform(0, HEIGHT - h)
        x0, y0, x1, y1 = crop_window((x, y, w, h), (WIDTH, HEIGHT), rng.uniform(1, 2), rng.uniform(-1, 1, 2))
        assert 0 <= x0 <= x < x + w <= x1 + 1e-9 <= WIDTH + 1e-9
        assert 0 <= y0 <= y < y + h <= y1 + 1e-9 <= HEIGHT + 1e-9


@pytest.mark.parametrize(
    ("box", "context", "shift", "window"),
    [
        ((40, 30, 20, 10), 1.5, (0, 0), (35, 20, 65, 50)),  # a square around the centre
        ((40, 30, 20, 10), 1.5, (1, -1), (40, 10, 70, 40)),  # the box in its corner
        ((0, 0, 20, 10), 1.5, (0, 0), (0, 0, 30, 30)),  # moved in from the corner
        ((10, 10, 60, 20), 1.5, (0, 0), (0, 0, 80, 60)),  # larger than the image: cut off
        ((10, 10, 20, 20), 1.0, (0, 0), (10, 10, 30, 30)),
    ],
)
def test_crop_window_by_hand(box, context, shift, window):
    assert crop_window(box, (WIDTH, HEIGHT), context, shift) == window


def _dataset(regions, **options) -> COCORegionTextDataset:
    return COCORegionTextDataset(regions, **{"image_size": 24, "seed": 3, **options})


def _same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[key], b[key]) if isinstance(a[key], torch.Tensor) else a[key] == b[key] for key in a
    )


def test_item_contract(regions):
    item = _dataset(regions, teacher_image_size=20, **CLIP)[4]
    assert item["image"].shape == (3, 24, 24)
    assert item["image"].dtype == torch.float32
    assert item["teacher_image"].shape == (3, 20, 20)
    assert (item["index"], item["view"], item["text"]) == (4, 0, "a large apple")
    assert _dataset(regions).names_of([(1, 4), 4]) == str(regions[4].image_path)
    assert "teacher_image" not in _dataset(regions)[4]


def test_plain_crop_is_the_image_itself(sound_root, regions):
    """A region whose window has the crop's size comes back pixel for pixel, normalised."""
    region = regions[0]  # 20 x 16 at (5, 5): a window of 25 with context 1.25
    x0, y0, x1, y1 = crop_window(region.box_xywh_px, (WIDTH, HEIGHT), 1.25)
    dataset = _dataset([region], image_size=x1 - x0)
    crop = read_rgb(region.image_path)[y0:y1, x0:x1]
    assert crop.shape[0] == crop.shape[1] == x1 - x0
    expected = (crop / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    assert np.allclose(dataset[0]["image"].numpy(), expected.transpose(2, 0, 1), atol=1e-6)


def test_batch_equals_singles_and_decodes_once(regions, monkeypatch):
    dataset = _dataset(regions, train=True, views=2, augment=get_augmented_transform(24), teacher_image_size=24, **CLIP)
    keys = [(1, i) for i in (0, 7, 3, 1, 2, 8)]
    singles = [dataset[key] for key in keys]
    reads = []
    monkeypatch.setattr(coco, "read_rgb", lambda path: (reads.append(path), read_rgb(path))[1])
    batch = dataset.__getitems__(keys)
    assert all(_same(a, b) for a, b in zip(singles, batch, strict=True))
    assert len(reads) == len(set(reads)) == len({dataset.regions[i].image_path for _, i in keys})


def test_kept_items_are_not_overwritten(regions):
    dataset = _dataset(regions)
    kept = dataset[0]["image"]
    before = kept.clone()
    for index in range(1, len(dataset)):
        dataset[index]
    assert torch.equal(kept, before)


def test_geometry_depends_on_seed_view_index_alone(regions):
    """The teacher's crop of a view is the same in every epoch that shows it, augmented student or not."""
    plain = _dataset(regions, train=True, views=2, teacher_image_size=24, **CLIP)
    augmented = _dataset(
        regions, train=True, views=2, augment=get_augmented_transform(24, 1.0), teacher_image_size=24, **CLIP
    )
    for epoch in range(4):
        a, b = plain[epoch, 5], augmented[epoch, 5]
        assert torch.equal(a["teacher_image"], b["teacher_image"])
        assert torch.equal(a["teacher_image"], plain[epoch % 2, 5]["teacher_image"])
        assert a["view"] == epoch % 2
    students = [augmented[epoch, 5]["image"] for epoch in (0, 2, 4)]  # one view, three augmentations
    assert not torch.equal(students[0], students[1]) or not torch.equal(students[1], students[2])
    assert not torch.equal(plain[0, 5]["image"], plain[1, 5]["image"])
    other_seed = _dataset(regions, train=True, views=2, seed=4)
    assert any(not torch.equal(other_seed[0, i]["image"], plain[0, i]["image"]) for i in range(3))


def test_every_region_and_view_has_a_crop_of_its_own(regions):
    """The same box many times: windows vary with index and view, and about half of them are mirrored."""
    dataset = _dataset([regions[0]] * 40, train=True, views=3)
    drawn = [dataset.geometry(index, view, (WIDTH, HEIGHT)) for view in range(3) for index in range(40)]
    assert len({window for window, _ in drawn}) > 60
    assert 0.3 < np.mean([mirror for _, mirror in drawn]) < 0.7


def test_teacher_sees_the_clean_crop_in_its_own_normalisation(regions):
    dataset = _dataset(regions, train=True, teacher_image_size=24, **CLIP)
    item = dataset[6]
    pixels = item["image"] * torch.tensor(IMAGENET_STD)[:, None, None] + torch.tensor(IMAGENET_MEAN)[:, None, None]
    again = item["teacher_image"] * torch.tensor(CLIP["teacher_std"])[:, None, None]
    assert torch.allclose(pixels, again + torch.tensor(CLIP["teacher_mean"])[:, None, None], atol=1e-5)


def test_evaluation_is_the_same_every_epoch(regions):
    dataset = _dataset(regions, views=3, augment=get_augmented_transform(24))
    assert all(_same(dataset[0, i], dataset[5, i]) for i in range(4))
    assert _same(dataset[2], dataset[0, 2])


def test_crops_with_a_side_in_their_caption_are_never_mirrored(regions, captions):
    dataset = _dataset(regions, train=True, views=40, caption_source="coco", image_captions=captions)
    mirrored = Counter()
    for view in range(40):
        for index in (0, 1):  # a car ("A car beside an apple.") and an apple (also "... on the left ...")
            text = dataset.texts[dataset.text_ids[view, index]]
            mirrored[text] += dataset.geometry(index, view, (WIDTH, HEIGHT))[1]
    assert mirrored["the apple on the left of a road"] == 0
    assert mirrored["A car beside an apple."] > 5


def test_worker_count_does_not_matter(regions):
    dataset = _dataset(regions, train=True, augment=get_augmented_transform(24))
    sampler = ImageGroupedBatchSampler(regions, 6, min_images=3, seed=0)
    sampler.set_position(2)
    alone, two = (list(DataLoader(dataset, batch_sampler=sampler, num_workers=n)) for n in (0, 2))
    assert len(alone) == len(two) == len(sampler)
    for a, b in zip(alone, two, strict=True):
        assert torch.equal(a["index"], b["index"])
        assert torch.equal(a["image"], b["image"])
        assert a["text"] == b["text"]


# Captions -------------------------------------------------------------------------------------------------------------


def test_template_captions(regions):
    dataset = _dataset(regions, views=2)
    assert set(dataset.texts) == {"a small car", "a large apple", "a small apple"}
    assert len(dataset.texts) == len(set(dataset.texts))
    assert dataset.text_ids.shape == (2, len(regions))
    named = [dataset.texts[i] for i in dataset.text_ids[1]]
    assert all(r.category in text and r.size in text for r, text in zip(regions, named, strict=True))


def test_coco_captions_mention_the_category(regions, captions):
    dataset = _dataset(regions, caption_source="coco", image_captions=captions)
    borrowed = {"A car beside an apple.", "the apple on the left of a road"}
    for region, text_id in zip(regions, dataset.text_ids[0], strict=True):
        prominent = region.annotation_id % 10 in (0, 1)  # the image's largest car and its largest apple
        assert (dataset.texts[text_id] in borrowed) == prominent
    assert borrowed < set(dataset.texts)
    silent = _dataset(regions, caption_source="coco", image_captions={})
    assert set(silent.texts) == set(_dataset(regions).texts)


def test_mixed_captions_are_about_half(regions, captions):
    dataset = _dataset(regions, caption_source="mixed", image_captions=captions, views=20)
    prominent = [i for i, region in enumerate(regions) if region.annotation_id % 10 in (0, 1)]
    borrowed = np.array([text[:2] != "a " for text in dataset.texts])[dataset.text_ids]
    assert 0.4 < borrowed[:, prominent].mean() < 0.6
    assert borrowed.sum() == borrowed[:, prominent].sum()
    again = _dataset(regions, caption_source="mixed", image_captions=captions, views=20)
    assert again.texts == dataset.texts
    assert np.array_equal(again.text_ids, dataset.text_ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"caption_source": "blip"}, "template, coco, mixed"),
        ({"caption_source": "coco"}, "image_captions"),
        ({"teacher_image_size": 24}, "teacher_mean"),
    ],
)
def test_contradictory_options(regions, options, message):
    with pytest.raises(ValueError, match=message):
        _dataset(regions, **options)


# Real images ----------------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_real_counts(real_samples):
    """731 usable objects, 682 of at least 8 px; 299 small, 282 medium, 150 large by mask area."""
    layout = find_coco(real_samples / "coco")
    assert validate_coco(real_samples / "coco") == []

    def both(**options) -> list[Region]:
        return load_regions(layout, "train", **options) + load_regions(layout, "val", **options)

    usable = both(min_side_px=0, large_area_px=96**2)
    assert Counter(region.size for region in usable) == {"small": 299, "medium": 282, "large": 150}
    found = both()
    assert len(found) == 682
    assert len(COCORegionTextDataset(found)) == 682
    assert len({region.category for region in usable}) == 80
    by_box = Counter("small" if r.box_xywh_px[2] * r.box_xywh_px[3] < 1024 else "other" for r in usable)
    assert by_box["small"] == 222


@pytest.mark.real
def test_real_batches_mix_eight_images(real_samples):
    layout = find_coco(real_samples / "coco")
    found = load_regions(layout, "train") + load_regions(layout, "val")
    sampler = ImageGroupedBatchSampler(found, 64, min_images=8, seed=0)
    for epoch in range(20):
        assert all(len({found[i].image_id for i in batch}) >= 8 for batch in sampler.batches(epoch))


@pytest.mark.real
def test_real_items(real_samples):
    layout = find_coco(real_samples / "coco")
    found = load_regions(layout, "val")
    dataset = COCORegionTextDataset(
        found, image_size=64, caption_source="coco", image_captions=load_image_captions(layout, "val"), train=True
    )
    items = dataset.__getitems__([(0, i) for i in range(0, len(found), 5)])
    images = torch.stack([item["image"] for item in items])
    assert torch.isfinite(images).all()
    assert images.flatten(1).std(1).min() > 0.01
    assert abs(images.mean()) < 1
