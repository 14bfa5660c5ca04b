"""Real LLVIP, KAIST and RoadScene pairs through the loaders, the transforms and the preprocessor."""

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.real
PIPELINE = [
    {"type": "LoadImageFromFile"},
    {"type": "LoadAnnotations", "with_bbox": True},
    {"type": "Resize", "scale": [(640, 640), (672, 672), (704, 704)], "random_choice": True, "keep_ratio": True},
    {"type": "RandomFlip", "prob": 0.5},
    {"type": "ColorJitter", "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.02},
    {"type": "RandomCrop", "crop_size": (560, 560), "allow_negative_crop": True},
    {"type": "PackDetInputs"},
]
PLAIN = [PIPELINE[0], PIPELINE[1], PIPELINE[-1]]
KAIST = {"set06/V001/I00459": 8, "set08/V001/I02579": 19, "set09/V000/I01139": 5, "set10/V001/I03279": 3}


@pytest.fixture(scope="module")
def rgbt(real_samples):
    return real_samples / "rgbt"


def test_llvip_frames_have_their_boxes(rgbt):
    from llvip_macl.data.llvip import LLVIPDataset

    train = LLVIPDataset(data_root=str(rgbt / "LLVIP"), pipeline=PLAIN)
    samples = [train[i]["data_samples"] for i in range(len(train))]
    assert [len(sample.gt_instances) for sample in samples] == [6, 4, 5, 7, 3]
    assert [sample.img_id for sample in samples] == [10001, 10002, 10003, 10004, 10005]
    assert samples[1].metainfo["instances"][0]["bbox"] == [978, 1, 1074, 248]  # behind stray text, at the border
    test = LLVIPDataset(
        data_root=str(rgbt / "LLVIP"), split="test", filter_unlabelled=True, test_mode=True, pipeline=PLAIN
    )
    assert (len(test), len(test[0]["data_samples"].gt_instances)) == (1, 2)
    assert test[0]["data_samples"].gt_instances.bboxes.tensor[1, 2] == 1280
    assert test[0]["inputs"].shape == test[0]["inputs_ir"].shape == (3, 1024, 1280)


def test_kaist_frames_have_their_boxes_in_xml_and_text(rgbt):
    from llvip_macl.data.kaist import KAISTDataset

    found = {}
    for annotations in ("xml", "bbgt"):
        data = KAISTDataset(
            data_root=str(rgbt / "KAIST"), ann_file="imageSets/test-sample.txt", annotations=annotations, pipeline=PLAIN
        )
        samples = [data[i]["data_samples"] for i in range(4)]
        assert {sample.pair_name: len(sample.metainfo["instances"]) for sample in samples} == KAIST
        found[annotations] = [(len(sample.gt_instances), len(sample.ignored_instances)) for sample in samples]
    assert sum(persons for persons, _ in found["xml"]) > 0
    item = data[2]
    assert item["inputs"].shape == item["inputs_ir"].shape == (3, 512, 640)
    assert not torch.equal(item["inputs_ir"][0], item["inputs_ir"][1])  # KAIST's infrared is not quite grey
    assert found["bbgt"] == found["xml"] or "people" in {
        one["label_name"] for sample in samples for one in sample.metainfo["instances"]
    }


def test_real_pairs_of_several_sizes_make_a_batch(rgbt):
    from llvip_macl.data.kaist import KAISTDataset
    from llvip_macl.data.llvip import LLVIPDataset
    from llvip_macl.data.preprocessor import PairedDetDataPreprocessor
    from llvip_macl.data.randomness import SampleKey

    llvip = LLVIPDataset(data_root=str(rgbt / "LLVIP"), pipeline=PIPELINE)
    kaist = KAISTDataset(data_root=str(rgbt / "KAIST"), ann_file="imageSets/test-sample.txt", pipeline=PIPELINE)
    items = [data[SampleKey(1, 0, epoch)] for epoch in range(2) for data in (llvip, kaist)]
    batch = {key: [item[key] for item in items] for key in items[0]}
    preprocessor = PairedDetDataPreprocessor(
        vis={"mean": [51.00, 48.92, 33.50], "std": [49.81, 49.64, 46.55], "bgr_to_rgb": True},
        ir={"mean": [71.41] * 3, "std": [47.07] * 3},
    )
    inputs = preprocessor(batch, training=True)["inputs"]
    assert inputs["vis"].shape == inputs["ir"].shape and inputs["vis"].shape[-1] % 32 == 0
    assert all(torch.isfinite(half).all() for half in inputs.values())


def test_a_grey_infrared_image_of_odd_size_is_read_from_a_list(rgbt, tmp_path):
    import json

    from llvip_macl.data.pair_list import PairListDataset

    image = {"id": 1, "file_name": "vi/ROAD_040.jpg", "file_name_ir": "ir/ROAD_040.jpg", "width": 466, "height": 216}
    listing = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    (tmp_path / "pairs.json").write_text(json.dumps(listing))
    data = PairListDataset(
        data_root=str(rgbt / "RoadScene_unlabelled"), ann_file=str(tmp_path / "pairs.json"), pipeline=PLAIN
    )
    item = data[0]
    assert item["inputs"].shape == item["inputs_ir"].shape == (3, 216, 466)
    assert torch.equal(item["inputs_ir"][0], item["inputs_ir"][2])


def test_real_pictures_are_drawn_with_both_halves(rgbt, tmp_path):
    import cv2

    from llvip_macl.data.browse import browse
    from llvip_macl.data.llvip import LLVIPDataset

    paths = browse(LLVIPDataset(data_root=str(rgbt / "LLVIP"), pipeline=PIPELINE), tmp_path, number=2)
    picture = cv2.imread(str(paths[0]))
    left, right = np.hsplit(picture[18:], 2)
    assert (left == (80, 220, 80)).all(-1).any() and (right == (80, 220, 80)).all(-1).any()


def test_the_validator_finds_what_is_known_of_the_samples(rgbt):
    from llvip_macl.data.validate import validate

    problems = validate(rgbt / "LLVIP", "llvip")
    assert len(problems) == 3 and all("is missing" in problem for problem in problems)  # 190002-190004 have no labels
    assert validate(rgbt / "KAIST", "kaist") == []
