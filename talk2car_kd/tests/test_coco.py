"""COCO: discovery, regions, crops, captions, and a corpus of faults.

A tiny official root is written for each test that changes it; the 80 real images check the numbers that matter.
"""

import json
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from shared.errors import DataError
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
from talk2car_kd.coco_annotations import held_out_images
from talk2car_kd.images import IMAGENET_MEAN, IMAGENET_STD, read_rgb

WIDTH, HEIGHT, IMAGES = 80, 60, 6
CATEGORIES = [{"id": 3, "name": "car"}, {"id": 53, "name": "apple"}]  # ids with gaps
CLIP = {"teacher_mean": (0.48, 0.46, 0.41), "teacher_std": (0.27, 0.26, 0.28)}


def _instances(first_id: int) -> dict:
    images, annotations = [], []
    for i in range(IMAGES):
        image_id = first_id + i
        images.append({"id": image_id, "file_name": f"{image_id:06d}.jpg", "width": WIDTH, "height": HEIGHT})
        boxes = [[5.0, 5.0, 20.0, 16.0], [30.5, 10.0, 40.0, 45.0], [1.0, 50.0, 30.0, 5.0], [60.0, 40.0, 12.0, 12.0]]
        for k, box in enumerate(boxes):
            annotations.append(
                {
                    "id": 10 * image_id + k,
                    "image_id": image_id,
                    "category_id": CATEGORIES[k % 2]["id"],
                    "bbox": box,
                    "area": box[2] * box[3] * np.pi / 4,
                    "iscrowd": int(k == 3 and i == 0),
                }
            )
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def _captions(instances: dict) -> dict:
    rows = []
    for image in instances["images"]:
        for k, text in enumerate(["A car beside an apple.", "the apple on the left of a road", "nothing of note"]):
            rows.append({"id": 100 * image["id"] + k, "image_id": image["id"], "caption": text})
    return {"annotations": rows}


def _write(path: Path, document: object) -> None:
    path.write_text(json.dumps(document))


def _write_root(root: Path) -> Path:
    (root / "annotations").mkdir(parents=True)
    for split, first_id in (("train", 1), ("val", 501)):
        instances = _instances(first_id)
        _write(root / f"annotations/instances_{split}2017.json", instances)
        _write(root / f"annotations/captions_{split}2017.json", _captions(instances))
        (root / f"{split}2017").mkdir()
        for image in instances["images"]:
            pixels = np.random.default_rng(image["id"]).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            cv2.imwrite(str(root / f"{split}2017" / image["file_name"]), cv2.GaussianBlur(pixels, (0, 0), 3))
    return root


@pytest.fixture(scope="module")
def sound_root(tmp_path_factory) -> Path:
    return _write_root(tmp_path_factory.mktemp("coco") / "coco")


@pytest.fixture
def root(sound_root, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(sound_root, tmp_path / "coco"))


@pytest.fixture(scope="module")
def regions(sound_root) -> list[Region]:
    return load_regions(find_coco(sound_root), "train", min_side_px=4)


@pytest.fixture(scope="module")
def captions(sound_root) -> dict[int, list[str]]:
    return load_image_captions(find_coco(sound_root), "train")


# Discovery and regions ------------------------------------------------------------------------------------------------


def test_sound_root_has_no_faults(sound_root):
    assert validate_coco(sound_root) == []


def test_official_layout(sound_root):
    layout = find_coco(sound_root)
    assert layout.official
    assert layout.val.images == sound_root / "val2017"
    assert layout.train.captions == sound_root / "annotations/captions_train2017.json"


def test_images_folder_may_hold_the_official_splits(root):
    (root / "images").mkdir()
    for split in ("train2017", "val2017"):
        (root / split).rename(root / "images" / split)
    assert len(load_regions(find_coco(root), "val")) == len(load_regions(find_coco(root), "train"))


def test_region_fields_and_filters(sound_root):
    found = load_regions(find_coco(sound_root), "train")
    assert len(found) == 3 * IMAGES - IMAGES + (IMAGES - 1)  # the 5 px box everywhere and one crowd are left out
    first = found[0]
    assert (first.image_id, first.category, first.size) == (1, "car", "small")
    assert first.mask_area_px == pytest.approx(320 * np.pi / 4)  # the mask's, not the box's
    assert first.image_path == sound_root / "train2017/000001.jpg"
    assert Counter(region.size for region in found)["large"] == IMAGES
    assert not any(region.annotation_id == 13 for region in found)


def test_size_without_mask_area_is_the_boxes(root):
    path = root / "annotations/instances_train2017.json"
    document = json.loads(path.read_text())
    for row in document["annotations"]:
        del row["area"]
    _write(path, document)
    assert load_regions(find_coco(root), "train")[0].mask_area_px == 320


def test_medium_needs_a_limit(sound_root):
    layout = find_coco(sound_root)
    sizes = {region.size for region in load_regions(layout, "train", small_area_px=200, large_area_px=1000)}
    assert sizes == {"small", "medium", "large"}


def test_boxes_that_overshoot_by_a_rounding_are_clipped(root):
    path = root / "annotations/instances_train2017.json"
    document = json.loads(path.read_text())
    document["annotations"][0]["bbox"] = [60.0, 40.0, 20.9, 20.9]
    document["annotations"][2]["bbox"] = [10.0, 10.0, 0.0, 12.0]  # COCO has a few flat boxes
    _write(path, document)
    assert load_regions(find_coco(root), "train")[0].box_xywh_px == (60, 40, 20, 20)
    assert validate_coco(root) == []


def test_single_set_is_divided_by_image(tmp_path, sound_root):
    (tmp_path / "annotations").mkdir()
    shutil.copytree(sound_root / "train2017", tmp_path / "images")
    for name in ("instances", "captions"):
        shutil.copy(sound_root / f"annotations/{name}_train2017.json", tmp_path / f"annotations/{name}.json")
    layout = find_coco(tmp_path)
    train, val = (load_regions(layout, split, val_fraction=0.3, seed=4) for split in ("train", "val"))
    assert validate_coco(tmp_path) == []
    assert len({region.image_id for region in val}) == 2
    assert not {region.image_id for region in train} & {region.image_id for region in val}
    whole = load_regions(find_coco(sound_root), "train")
    assert {r.annotation_id for r in train + val} == {r.annotation_id for r in whole}
    assert load_regions(layout, "val", val_fraction=0.3, seed=4) == val


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.5, 1.0])
def test_held_out_images_leave_something_on_both_sides(fraction):
    held_out = held_out_images(range(10), fraction, seed=0)
    assert 1 <= len(held_out) <= 9
    assert held_out_images(list(reversed(range(10))), fraction, seed=0) == held_out


def test_missing_root_says_what_is_expected(tmp_path):
    with pytest.raises(DataError, match=r"no such folder(.|\n)*expected layout(.|\n)*download.py"):
        find_coco(tmp_path / "nowhere")


def test_half_a_root_names_every_missing_piece(root):
    shutil.rmtree(root / "val2017")
    (root / "annotations/instances_train2017.json").unlink()
    with pytest.raises(DataError) as caught:
        find_coco(root)
    assert str(root / "val2017") in str(caught.value)
    assert "instances_train2017.json" in str(caught.value)
    assert "captions" not in str(caught.value).split("expected layout")[0]


def test_missing_images_are_counted(root):
    for name in ("000002.jpg", "000005.jpg"):
        (root / "train2017" / name).unlink()
    with pytest.raises(DataError, match=r"missing 2 of 6 images .*000002.jpg, 000005.jpg"):
        load_regions(find_coco(root), "train")


def test_captions_are_optional_until_asked_for(root):
    (root / "annotations/captions_train2017.json").unlink()
    layout = find_coco(root)
    assert load_regions(layout, "train")
    with pytest.raises(DataError, match=r"stage1.captions=template"):
        load_image_captions(layout, "train")


# The corpus of faults -------------------------------------------------------------------------------------------------


def _edit(change):
    """A fault inside the train instances file."""

    def damage(root: Path) -> None:
        path = root / "annotations/instances_train2017.json"
        document = json.loads(path.read_text())
        change(document)
        _write(path, document)

    return damage


def _annotation(**values):
    return _edit(lambda document: document["annotations"][1].update(values))


def _instances_bytes(change):
    def damage(root: Path) -> None:
        path = root / "annotations/instances_train2017.json"
        path.write_bytes(change(path.read_bytes()))

    return damage


def _image_bytes(change):
    def damage(root: Path) -> None:
        path = root / "train2017/000003.jpg"
        path.write_bytes(change(path.read_bytes()))

    return damage


def _other_size(root: Path) -> None:
    cv2.imwrite(str(root / "train2017/000003.jpg"), np.zeros((HEIGHT, WIDTH + 1, 3), np.uint8))


def _overlap(root: Path) -> None:
    shutil.copy(root / "train2017/000001.jpg", root / "val2017/000001.jpg")
    path = root / "annotations/instances_val2017.json"
    document = json.loads(path.read_text())
    document["images"].append({"id": 1, "file_name": "000001.jpg", "width": WIDTH, "height": HEIGHT})
    _write(path, document)


def _caption(**values):
    def damage(root: Path) -> None:
        path = root / "annotations/captions_train2017.json"
        document = json.loads(path.read_text())
        document["annotations"][0].update(values)
        _write(path, document)

    return damage


INSTANCES, IMAGE = "instances_train2017.json", "000003.jpg"
FAULTS = {
    "annotation file missing": (lambda root: (root / "annotations" / INSTANCES).unlink(), INSTANCES, "missing"),
    "annotation file empty": (_instances_bytes(lambda data: b""), INSTANCES, "is empty"),
    "annotation file cut short": (_instances_bytes(lambda data: data[:-40]), INSTANCES, "is not JSON"),
    "annotation file not UTF-8": (
        _instances_bytes(lambda data: data.replace(b"car", b"c\xe4r")),
        INSTANCES,
        "not UTF-8",
    ),
    "annotation file of another kind": (_instances_bytes(lambda data: b"[1, 2]"), INSTANCES, "not a mapping"),
    "no annotations table": (_edit(lambda d: d.pop("annotations")), INSTANCES, "'annotations' is missing"),
    "image file missing": (lambda root: (root / "train2017" / IMAGE).unlink(), IMAGE, "missing"),
    "image file empty": (_image_bytes(lambda data: b""), IMAGE, "is empty"),
    "image file cut short": (_image_bytes(lambda data: data[: len(data) // 2]), IMAGE, "cut short"),
    "image file is a web page": (_image_bytes(lambda data: b"<!DOCTYPE html><html>404</html>"), IMAGE, "web page"),
    "image file of noise": (_image_bytes(lambda data: bytes(200)), IMAGE, "no image"),
    "image of another size": (_other_size, IMAGE, "its record says 80x60"),
    "box outside the image": (_annotation(bbox=[70.0, 5.0, 30.0, 10.0]), "annotation 11", "leaves the 80x60 frame"),
    "corners for sizes": (_annotation(bbox=[50.0, 5.0, -10.0, 10.0]), "annotation 11", "not two corners"),
    "box with NaN": (_annotation(bbox=[5.0, 5.0, float("nan"), 9.0]), "annotation 11", "finite"),
    "box of three numbers": (_annotation(bbox=[5.0, 5.0, 9.0]), "annotation 11", "four"),
    "area infinite": (_annotation(area=float("inf")), "annotation 11", "area"),
    "unknown category": (_annotation(category_id=4), "annotation 11", "unknown category_id 4"),
    "unknown image": (_annotation(image_id=99), "annotation 11", "unknown image_id 99"),
    "duplicate annotation id": (_annotation(id=12), "annotation id 12", "more than once"),
    "crowd flag of another kind": (_annotation(iscrowd=2), "annotation 11", "iscrowd"),
    "file name that leaves the folder": (
        _edit(lambda d: d["images"][2].update(file_name="../secret.jpg")),
        "image 3",
        "leaves the image folder",
    ),
    "duplicate image id": (_edit(lambda d: d["images"][2].update(id=1)), "image id 1", "more than once"),
    "splits overlap": (_overlap, "train and val", "000001.jpg"),
    "captions missing": (
        lambda root: (root / "annotations/captions_train2017.json").unlink(),
        INSTANCES,
        "no captions file",
    ),
    "caption empty": (_caption(caption="  "), "captions_train2017.json: caption 100", "is empty"),
    "caption of an unknown image": (_caption(image_id=777), "captions_train2017.json", "unknown to"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_found_with_place_and_remedy(root, fault):
    damage, where, what = FAULTS[fault]
    damage(root)
    problems = [problem for problem in validate_coco(root) if where in problem and what in problem]
    assert len(problems) == 1, validate_coco(root)
    assert str(root) in problems[0]
    assert ";" in problems[0]  # the remedy


def test_all_faults_at_once(root):
    """Faults in different files do not hide each other."""
    chosen = ["image file cut short", "box outside the image", "caption empty", "splits overlap"]
    for name in chosen:
        FAULTS[name][0](root)
    problems = "\n".join(validate_coco(root))
    assert all(FAULTS[name][1] in problems and FAULTS[name][2] in problems for name in chosen)


@pytest.mark.parametrize("fault", ["box outside the image", "unknown category", "duplicate annotation id"])
def test_loading_refuses_faulty_annotations(root, fault):
    damage, where, what = FAULTS[fault]
    damage(root)
    with pytest.raises(DataError, match=where) as caught:
        load_regions(find_coco(root), "train")
    assert what in str(caught.value)


@pytest.mark.parametrize("fault", ["image file empty", "image file cut short", "image file is a web page"])
def test_damaged_images_do_not_become_grey_crops(root, fault):
    FAULTS[fault][0](root)
    found = load_regions(find_coco(root), "train")
    dataset = COCORegionTextDataset(found, image_size=16)
    index = next(i for i, region in enumerate(found) if region.image_id == 3)
    with pytest.raises(DataError, match=r"000003.jpg"):
        dataset[index]


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
