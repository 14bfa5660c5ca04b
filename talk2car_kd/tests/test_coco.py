"""COCO roots: discovery, regions, and a corpus of faults; a tiny official root for each test that changes it."""

import json
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from coco_samples import HEIGHT, IMAGES, WIDTH, write_coco_root, write_json

from shared.errors import DataError
from talk2car_kd.coco import (
    COCORegionTextDataset,
    find_coco,
    load_image_captions,
    load_regions,
    validate_coco,
)
from talk2car_kd.coco_annotations import held_out_images


@pytest.fixture(scope="module")
def sound_root(tmp_path_factory) -> Path:
    return write_coco_root(tmp_path_factory.mktemp("coco") / "coco")


@pytest.fixture
def root(sound_root, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(sound_root, tmp_path / "coco"))


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
    write_json(path, document)
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
    write_json(path, document)
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


@pytest.mark.fault(15)
def test_missing_root_says_what_is_expected(tmp_path):
    with pytest.raises(DataError, match=r"no such folder(.|\n)*expected layout(.|\n)*download.py"):
        find_coco(tmp_path / "nowhere")


@pytest.mark.fault(15)
def test_half_a_root_names_every_missing_piece(root):
    shutil.rmtree(root / "val2017")
    (root / "annotations/instances_train2017.json").unlink()
    with pytest.raises(DataError) as caught:
        find_coco(root)
    assert str(root / "val2017") in str(caught.value)
    assert "instances_train2017.json" in str(caught.value)
    assert "captions" not in str(caught.value).split("expected layout")[0]


@pytest.mark.fault(15)
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
        write_json(path, document)

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
    write_json(path, document)


def _caption(**values):
    def damage(root: Path) -> None:
        path = root / "annotations/captions_train2017.json"
        document = json.loads(path.read_text())
        document["annotations"][0].update(values)
        write_json(path, document)

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


@pytest.mark.fault(15)
@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_found_with_place_and_remedy(root, fault):
    damage, where, what = FAULTS[fault]
    damage(root)
    problems = [problem for problem in validate_coco(root) if where in problem and what in problem]
    assert len(problems) == 1, validate_coco(root)
    assert str(root) in problems[0]
    assert ";" in problems[0]  # the remedy


@pytest.mark.fault(15)
def test_all_faults_at_once(root):
    """Faults in different files do not hide each other."""
    chosen = ["image file cut short", "box outside the image", "caption empty", "splits overlap"]
    for name in chosen:
        FAULTS[name][0](root)
    problems = "\n".join(validate_coco(root))
    assert all(FAULTS[name][1] in problems and FAULTS[name][2] in problems for name in chosen)


@pytest.mark.fault(15)
@pytest.mark.parametrize("fault", ["box outside the image", "unknown category", "duplicate annotation id"])
def test_loading_refuses_faulty_annotations(root, fault):
    damage, where, what = FAULTS[fault]
    damage(root)
    with pytest.raises(DataError, match=where) as caught:
        load_regions(find_coco(root), "train")
    assert what in str(caught.value)


@pytest.mark.fault(15)
@pytest.mark.parametrize("fault", ["image file empty", "image file cut short", "image file is a web page"])
def test_damaged_images_do_not_become_grey_crops(root, fault):
    FAULTS[fault][0](root)
    found = load_regions(find_coco(root), "train")
    dataset = COCORegionTextDataset(found, image_size=16)
    index = next(i for i, region in enumerate(found) if region.image_id == 3)
    with pytest.raises(DataError, match=r"000003.jpg"):
        dataset[index]
