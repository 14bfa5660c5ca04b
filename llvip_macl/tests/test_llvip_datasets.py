"""Paired data sets: who is paired with whom, what is annotated, and that one access is one run of the pipeline."""

import json

import numpy as np
import pytest
import torch
from llvip_pair_samples import HW, KAIST_TEST, KAIST_TRAIN, PIPELINE, PLAIN, image, kaist_tree, voc, write_image
from torch.utils.data import DataLoader

from shared.errors import ConfigError, DataError


@pytest.fixture
def kaist(tmp_path):
    return kaist_tree(tmp_path / "KAIST")


# ---------------------------------------------------------------- LLVIP


def test_the_folder_is_the_split_and_names_make_pairs(kinds, llvip):
    for split, ids in (("train", [1, 2, 3, 4]), ("test", [901, 902])):
        data = kinds["llvip"](data_root=str(llvip), split=split, pipeline=PLAIN)
        assert [data.get_data_info(i)["img_id"] for i in range(len(data))] == ids
        item = data[1]
        visible = image(ids[1]).transpose(2, 0, 1)
        assert np.array_equal(item["inputs"].numpy(), visible)
        assert np.array_equal(item["inputs_ir"].numpy(), image(ids[1] + 5000).transpose(2, 0, 1))
        assert f"/{split}/" in item["data_samples"].img_path and f"/{split}/" in item["data_samples"].img_ir_path


def test_boxes_follow_the_official_converter_or_mmdets_habit(kinds, llvip):
    for one_based, box in ((False, [10, 8, 30, 40]), (True, [9, 7, 29, 39])):
        data = kinds["llvip"](data_root=str(llvip), one_based=one_based, pipeline=PLAIN)
        assert data[0]["data_samples"].gt_instances.bboxes.tensor.tolist() == [box]


def test_images_without_persons_stay_unless_training_filters_them(kinds, llvip):
    (llvip / "Annotations" / "000002.xml").write_text(voc([]))
    (llvip / "Annotations" / "000901.xml").write_text(voc([]))
    cls, filtering = kinds["llvip"], {"filter_empty_gt": True}
    assert len(cls(data_root=str(llvip))) == 4
    assert len(cls(data_root=str(llvip), filter_cfg=filtering)) == 3
    test = cls(data_root=str(llvip), split="test", test_mode=True, filter_cfg=filtering, pipeline=PLAIN)
    assert len(test) == 2 and len(test[0]["data_samples"].gt_instances) == 0
    assert len(cls(data_root=str(llvip), pipeline=PIPELINE)[1]["data_samples"].gt_instances) == 0


@pytest.mark.fault(15)
def test_a_missing_half_is_an_error_naming_both_paths(kinds, llvip, monkeypatch):
    (llvip / "infrared/train/000003.png").unlink()
    (llvip / "visible/train/000001.png").unlink()
    with pytest.raises(DataError) as error:
        kinds["llvip"](data_root=str(llvip))
    for path in ("visible/train/000003.png", "infrared/train/000003.png", "infrared/train/000001.png"):
        assert str(llvip / path) in str(error.value)
    told = []
    monkeypatch.setattr("llvip_macl.data.paired_dataset.print_log", lambda text, **_: told.append(text))
    assert len(kinds["llvip"](data_root=str(llvip), filter_unpaired=True)) == 2
    assert len(told) == 2 and "infrared/train/000003.png is missing" in told[1]  # the drops are printed


@pytest.mark.fault(15)
def test_unequal_halves_and_labels_for_another_size_fail_by_name(kinds, llvip):
    write_image(llvip / "infrared/train/000002.png", hw=(32, 40))
    (llvip / "Annotations" / "000003.xml").write_text(voc([(1, 1, 9, 9)], hw=(640, 800)))
    data = kinds["llvip"](data_root=str(llvip), pipeline=PLAIN)
    with pytest.raises(DataError, match=r"000002.png is 80x64, its partner .*infrared.*000002.png is 40x32"):
        data[1]
    with pytest.raises(DataError, match=r"000003.png is 80x64, its labels are for 800x640"):
        data[2]


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    ("text", "said"), [("<annotation><obj", "no valid XML"), (voc([(1, 1, 9, 9)], name="dog"), "unknown label 'dog'"),
                       (voc([(9, 9, 1, 1)]), "ends before"), (voc([(99, 9, 120, 20)]), "outside")]
)  # fmt: skip
def test_bad_annotations_stop_with_file_and_remedy(kinds, llvip, text, said):
    (llvip / "Annotations" / "000002.xml").write_text(text)
    with pytest.raises(DataError, match=rf"000002\.xml.*{said}"):
        kinds["llvip"](data_root=str(llvip))


def test_boxes_over_the_border_are_clipped_and_kept_as_annotated_for_evaluation(kinds, llvip):
    (llvip / "Annotations" / "000001.xml").write_text(voc([(-4, 5, 90, 30)]))
    sample = kinds["llvip"](data_root=str(llvip), pipeline=PLAIN)[0]["data_samples"]
    assert sample.gt_instances.bboxes.tensor.tolist() == [[0, 5, 80, 30]]
    assert sample.metainfo["instances"][0]["bbox"] == [-4, 5, 90, 30]


@pytest.mark.fault(15)
def test_pairs_without_labels_are_an_error_or_left_out_aloud(kinds, llvip):
    (llvip / "Annotations" / "000902.xml").unlink()
    with pytest.raises(DataError, match=r"000902\.xml is missing"):
        kinds["llvip"](data_root=str(llvip), split="test")
    assert len(kinds["llvip"](data_root=str(llvip), split="test", filter_unlabelled=True)) == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"data_root": None}, "data_root is None"),
        ({"split": "val"}, "split='val'"),
        ({"metainfo": {"classes": "person"}}, "is a string"),
        ({"data_prefix": {"img": "x"}}, "data_prefix"),
        ({"max_refetch": 10}, "max_refetch"),
        ({"filter_cfg": {"empty": True}}, "filter_cfg has empty"),
    ],
)
def test_settings_that_make_no_sense_are_refused(kinds, llvip, settings, said):
    with pytest.raises(ConfigError, match=said):
        kinds["llvip"](**{"data_root": str(llvip), **settings})
    with pytest.raises(DataError, match="nowhere is missing"):
        kinds["llvip"](data_root=str(llvip / "nowhere"))


# ---------------------------------------------------------------- one access


def test_one_access_runs_the_pipeline_once_and_reads_two_files(kinds, llvip, monkeypatch):
    data = kinds["llvip"](data_root=str(llvip), pipeline=PIPELINE)
    runs, reads, lists = [], [], []
    run = type(data.pipeline).__call__
    monkeypatch.setattr(type(data.pipeline), "__call__", lambda *a, **k: runs.append(1) or run(*a, **k))
    loader = data.pipeline.transforms[0].load
    monkeypatch.setattr(type(loader), "transform", _noting(type(loader).transform, reads))
    monkeypatch.setattr(type(data), "load_data_list", lambda self: lists.append(1))
    data[2]
    assert (len(runs), len(reads), lists) == (1, 2, [])


def _noting(function, calls):
    def noted(self, results):
        calls.append(results["img_path"])
        return function(self, results)

    return noted


@pytest.mark.parametrize("workers", [1, 3])
def test_worker_count_does_not_change_a_sample(kinds, llvip, workers):
    from llvip_macl.data.sampler import PositionKeyedSampler

    data = kinds["llvip"](data_root=str(llvip), pipeline=PIPELINE)
    sampler = PositionKeyedSampler(data, seed=3, rank=0, world=1)

    def epochs(count):
        loader = DataLoader(data, 2, sampler=sampler, num_workers=count, collate_fn=list, persistent_workers=count > 0)
        found = []
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            found.append([item for batch in loader for item in batch])
        return found

    alone, several = epochs(0), epochs(workers)
    for one, other in zip((*alone[0], *alone[1]), (*several[0], *several[1]), strict=True):
        assert torch.equal(one["inputs"], other["inputs"]) and torch.equal(one["inputs_ir"], other["inputs_ir"])
        assert one["data_samples"].sample_key == other["data_samples"].sample_key
    by_id = [{item["data_samples"].img_id: item["inputs"] for item in epoch} for epoch in alone]
    assert any(not torch.equal(by_id[0][name], by_id[1][name]) for name in by_id[0])  # epochs draw anew


def test_wrapped_data_sets_keep_the_samplers_draws(kinds, llvip):
    from mmengine.dataset import ConcatDataset, RepeatDataset

    from llvip_macl.data.randomness import SampleKey

    data = kinds["llvip"](data_root=str(llvip), pipeline=PIPELINE)
    for twice in (RepeatDataset(data, times=2), ConcatDataset([data, data])):
        item = twice[SampleKey(5, seed=1, epoch=2)]  # the second sample of the second copy
        assert (item["data_samples"].img_id, item["data_samples"].sample_key) == (2, (1, 2, 5))
        assert torch.equal(item["inputs"], twice[SampleKey(5, seed=1, epoch=2)]["inputs"])
        others = [twice[SampleKey(5, 1, epoch)]["inputs"] for epoch in range(4)]
        assert any(not torch.equal(item["inputs"], other) for other in others)


@pytest.mark.fault(15)
def test_a_sample_that_fails_is_named_and_not_replaced(kinds, llvip):
    (llvip / "visible/train/000002.png").write_bytes(b"no image")
    data = kinds["llvip"](data_root=str(llvip), pipeline=PLAIN)
    with pytest.raises(DataError, match=r"sample 1, .*visible/train/000002\.png \+ .*infrared/train/000002\.png"):
        data[1]
    loader = DataLoader(data, 1, num_workers=1, collate_fn=list)
    with pytest.raises(DataError, match=r"000002\.png"):
        list(loader)
    (llvip / "infrared/train/000003.png").unlink()
    with pytest.raises(DataError, match=r"infrared/train/000003\.png is missing"):
        data[2]
    broken = kinds["llvip"](data_root=str(llvip), split="test", pipeline=[*PLAIN[:2], _Raises()])
    with pytest.raises(RuntimeError, match=r"sample 0, .*000901\.png.*ZeroDivisionError"):
        broken[0]


class _Raises:
    paired = True

    def __call__(self, results):
        return 1 / 0


def test_serialized_lazy_and_subset_habits_of_mmengine_hold(kinds, llvip):
    lazy = kinds["llvip"](data_root=str(llvip), pipeline=PLAIN, lazy_init=True)
    assert not lazy._fully_initialized
    plain = kinds["llvip"](data_root=str(llvip), pipeline=PLAIN, serialize_data=False)
    assert len(lazy) == len(plain) == 4
    assert lazy.get_data_info(2) == plain.get_data_info(2)
    assert len(kinds["llvip"](data_root=str(llvip), indices=3)) == 3
    subset = plain.get_subset([3, 1])
    assert [subset[i]["data_samples"].img_id for i in range(2)] == [4, 2]
    assert lazy.metainfo["classes"] == ("person",) and lazy.metainfo["label_version"] == "not stated"


def test_mosaic_takes_its_partners_from_the_data_set(kinds, llvip):
    from llvip_macl.data.randomness import SampleKey

    steps = [*PIPELINE[:2], {"type": "Mosaic", "img_scale": [80, 64]}, PIPELINE[-1]]
    data = kinds["llvip"](data_root=str(llvip), pipeline=steps)
    item, again = data[SampleKey(0, 0, 0)], data[SampleKey(0, 0, 0)]
    assert item["inputs"].shape == item["inputs_ir"].shape == (3, 128, 160)
    assert len(item["data_samples"].gt_instances) >= 2 and torch.equal(item["inputs"], again["inputs"])


# ---------------------------------------------------------------- KAIST


def test_kaist_ignores_all_but_persons_and_keeps_the_lists_order(kinds, kaist):
    for annotations in ("xml", "bbgt"):
        data = kinds["kaist"](
            data_root=str(kaist), ann_file="imageSets/test-all-20.txt", annotations=annotations, pipeline=PLAIN
        )
        assert [data.get_data_info(i)["pair_name"] for i in range(2)] == list(KAIST_TEST)
        sample = data[1]["data_samples"]
        assert sample.img_id == 1
        assert sample.gt_instances.bboxes.tensor.tolist() == [[10, 8, 19, 38]]
        assert sample.ignored_instances.bboxes.tensor.tolist() == [[40, 10, 65, 30]]
        assert [one["occlusion"] for one in sample.metainfo["instances"]] == [1, 0]


def test_kaist_flat_names_give_the_same_as_nested_ones(kinds, kaist, tmp_path):
    flat = kaist_tree(tmp_path / "flat", flat=True)
    one, other = (
        kinds["kaist"](data_root=str(root), ann_file="imageSets/train-all-02.txt", pipeline=PLAIN)[1]
        for root in (kaist, flat)
    )
    assert torch.equal(one["inputs"], other["inputs"]) and torch.equal(one["inputs_ir"], other["inputs_ir"])
    assert one["data_samples"].metainfo["instances"] == other["data_samples"].metainfo["instances"]


def test_paired_labels_give_each_half_its_boxes_and_record_their_version(kinds, kaist):
    settings = {"data_root": str(kaist), "ann_file": "imageSets/train-all-02.txt", "annotations": "paired"}
    data = kinds["kaist"](**settings, pipeline=PLAIN)
    sample = data[0]["data_samples"]
    assert sample.gt_instances.bboxes.tensor.tolist() == [[10, 8, 19, 38]]
    assert sample.gt_instances.bboxes_ir.tolist() == [[13, 8, 22, 38]]
    assert "Zhang" in data.metainfo["label_version"]
    for half in ("visible", "lwir"):  # a frame without persons has no boxes in either half
        (kaist / "annotations_paired" / "set00/V000" / half / "I00001.txt").write_text("% bbGt version=3\n")
    for steps in (PLAIN, [*PIPELINE[:2], {"type": "Mosaic", "img_scale": (80, 64)}, PIPELINE[-1]]):
        sample = kinds["kaist"](**settings, pipeline=steps)[0]["data_samples"]
        assert sample.gt_instances.bboxes_ir.shape == (len(sample.gt_instances), 4)


def test_sanitized_rows_are_read_as_corners_wherever_they_lie(kinds, kaist):
    for folder in ("sanitized_annotations", "annotations"):
        for frame in KAIST_TRAIN:
            path = kaist / folder / f"{frame}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("person 11 9 20 39\nignore 41 11 66 31\n")
    for annotations in ("sanitized", "bbgt"):
        data = kinds["kaist"](
            data_root=str(kaist), ann_file="imageSets/train-all-02.txt", annotations=annotations, pipeline=PLAIN
        )
        sample = data[0]["data_samples"]
        assert sample.gt_instances.bboxes.tensor.tolist() == [[10, 8, 19, 38]]
        assert sample.ignored_instances.bboxes.tensor.tolist() == [[40, 10, 65, 30]]


def test_the_benchmarks_json_gives_ids_order_and_flags(kinds, kaist):
    categories = [{"id": 1, "name": "person"}, {"id": 3, "name": "people"}]
    images = [{"id": 7 - i, "im_name": name, "height": 64, "width": 80} for i, name in enumerate(KAIST_TEST)]
    box = {"image_id": 6, "category_id": 1, "bbox": [10, 8, 9, 30], "occlusion": 2, "ignore": 1}
    path = kaist / "KAIST_annotation.json"
    path.write_text(json.dumps({"images": images, "annotations": [box], "categories": categories}))
    data = kinds["kaist"](data_root=str(kaist), ann_file=path.name, pipeline=PLAIN)
    assert [data.get_data_info(i)["pair_name"] for i in range(2)] == list(KAIST_TEST)
    assert data[1]["data_samples"].metainfo["instances"][0]["ignore_flag"] == 1
    assert [data.get_data_info(i)["img_id"] for i in range(2)] == [7, 6]


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"annotations": "coco"}, ConfigError, "annotations='coco'"),
        ({"ann_file": "imageSets/none.txt"}, DataError, "none.txt is missing"),
        ({"ann_file": "none.json"}, DataError, "none.json is missing"),
        ({"ann_dir": "elsewhere"}, DataError, r"elsewhere/set06/V000/I00019\.xml is missing"),
        ({"image_dir": "pictures"}, DataError, "pictures is missing"),
    ],
)
def test_kaist_says_what_is_missing(kinds, kaist, settings, error, said):
    with pytest.raises(error, match=said):
        kinds["kaist"](**{"data_root": str(kaist), "ann_file": "imageSets/test-all-20.txt", **settings})


@pytest.mark.fault(15)
def test_a_kaist_frame_without_its_infrared_half_is_an_error(kinds, kaist):
    (kaist / "images/set06/V000/lwir/I00019.png").unlink()
    with pytest.raises(DataError, match=r"visible/I00019\.png has no partner: .*lwir/I00019\.png is missing"):
        kinds["kaist"](data_root=str(kaist), ann_file="imageSets/test-all-20.txt")


# ---------------------------------------------------------------- pair lists


def _pair_list(tmp_path, **changes):
    for name in ("a", "b"):
        write_image(tmp_path / f"rgb/{name}.png", seed=1)
        write_image(tmp_path / f"ir/{name}.png", pixels=np.full(HW, 77, np.uint8))  # one channel
    data = {
        "images": [{"id": 4, "file_name": "rgb/a.png", "file_name_ir": "ir/a.png"},
                   {"id": 9, "file_name": "rgb/b.png", "file_name_ir": "ir/b.png"}],
        "annotations": [{"image_id": 9, "category_id": 5, "bbox": [1, 2, 30, 40], "bbox_ir": [3, 2, 30, 40]},
                        {"image_id": 9, "category_id": 6, "bbox": [5, 5, 9, 9], "bbox_ir": [6, 5, 9, 9], "iscrowd": 1}],
        "categories": [{"id": 5, "name": "person"}, {"id": 6, "name": "rider"}],
    }  # fmt: skip
    (tmp_path / "pairs.json").write_text(json.dumps({**data, **changes}))
    return {"data_root": str(tmp_path), "ann_file": "pairs.json", "metainfo": {"classes": ("rider", "person")}}


def test_any_pairs_from_a_list_with_several_classes_and_grey_infrared(kinds, tmp_path):
    data = kinds["list"](**_pair_list(tmp_path), pipeline=PLAIN)
    item = data[1]
    sample = item["data_samples"]
    assert item["inputs_ir"].shape == (3, *HW) and item["inputs_ir"].float().mean() == 77
    assert (sample.img_id, sample.gt_instances.labels.tolist()) == (9, [1])
    assert sample.gt_instances.bboxes_ir.tolist() == [[3, 2, 33, 42]]
    assert len(sample.ignored_instances) == 1
    assert data[0]["data_samples"].gt_instances.bboxes_ir.shape == (0, 4)


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": [{"id": 4, "file_name": "rgb/a.png"}], "annotations": []}, "no 'file_name_ir'"),
        ({"images": [{"id": 4, "file_name": "rgb/a.png", "file_name_ir": "c.png"}], "annotations": []}, "no partner"),
        ({"annotations": [{"image_id": 1, "category_id": 5, "bbox": [1, 2, 3, 4]}]}, "image_id"),
        ({"annotations": [{"image_id": 4, "category_id": 5, "bbox": [1, 2, 3, 4]},
                          {"image_id": 4, "category_id": 5, "bbox": [1, 2, 3, 4], "bbox_ir": [1, 2, 3, 4]}]},
         "all or to none"),
        ({"categories": [{"id": 5, "name": "person"}, {"id": 6, "name": "dog"}]}, "unknown label 'dog'"),
    ],
)  # fmt: skip
def test_pair_lists_that_are_wrong_are_told(kinds, tmp_path, changes, said):
    with pytest.raises(DataError, match=said):
        kinds["list"](**_pair_list(tmp_path, **changes))
    (tmp_path / "pairs.json").write_text("{")
    with pytest.raises(DataError, match="no JSON"):
        kinds["list"](data_root=str(tmp_path), ann_file="pairs.json")
