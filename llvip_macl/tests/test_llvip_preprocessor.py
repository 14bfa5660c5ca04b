"""From packed samples to batches: own statistics, one padded size, the device of the model."""

import numpy as np
import pytest
import torch
from llvip_pair_samples import marked_sample

from llvip_macl.data.packing import PackPairedDetInputs
from llvip_macl.data.preprocessor import PairedDetDataPreprocessor
from shared.errors import ConfigError, DataError

VIS = {"mean": [10.0, 20.0, 30.0], "std": [2.0, 4.0, 5.0], "bgr_to_rgb": True}
IR = {"mean": [70.0] * 3, "std": [10.0] * 3, "bgr_to_rgb": False}


def batch(*shapes, per_modality=False):
    items = [PackPairedDetInputs()(marked_sample(i, hw=hw, per_modality=per_modality)) for i, hw in enumerate(shapes)]
    return {key: [item[key] for item in items] for key in items[0]}


def test_each_modality_has_its_own_statistics_and_channel_order():
    data = batch((64, 96))
    data["inputs"][0] = torch.tensor([30, 20, 10]).view(3, 1, 1).expand(3, 64, 96).to(torch.uint8)  # BGR
    data["inputs_ir"][0] = torch.full((3, 64, 96), 80, dtype=torch.uint8)
    inputs = PairedDetDataPreprocessor(vis=VIS, ir=IR)(data)["inputs"]
    assert inputs["vis"].abs().max() == 0  # RGB means are taken from RGB
    assert torch.equal(inputs["ir"], torch.ones(1, 3, 64, 96))
    assert inputs["vis"].dtype == torch.float32


def test_mixed_sizes_are_padded_to_the_batch_maximum_in_both_halves():
    data = batch((64, 96), (70, 80), (33, 50))
    done = PairedDetDataPreprocessor(vis=VIS, ir=IR, pad_size_divisor=32)(data, training=True)
    assert done["inputs"]["vis"].shape == done["inputs"]["ir"].shape == (3, 3, 96, 96)
    assert done["inputs"]["ir"][2, :, 33:].abs().max() == 0 and done["inputs"]["vis"][1, :, :, 80:].abs().max() == 0
    assert [sample.batch_input_shape for sample in done["data_samples"]] == [(96, 96)] * 3
    assert isinstance(done["data_samples"][0].gt_instances.bboxes, torch.Tensor)


def test_boxes_per_modality_stay_in_their_rows():
    sample = marked_sample(1, per_modality=True)
    sample["gt_ignore_flags"] = np.array([True, False])
    packed = PackPairedDetInputs()(dict(sample))["data_samples"]
    assert torch.equal(packed.gt_instances.bboxes_ir, sample["gt_bboxes_ir"].tensor[1:])
    assert torch.equal(packed.ignored_instances.bboxes_ir, sample["gt_bboxes_ir"].tensor[:1])
    moved = packed.to("meta")
    assert moved.gt_instances.bboxes_ir.device.type == "meta"


def test_packing_puts_both_images_into_tensors_and_keeps_their_origin():
    sample = marked_sample(1)
    item = PackPairedDetInputs(meta_keys=("img_id",))(dict(sample))
    assert torch.equal(item["inputs_ir"], torch.from_numpy(sample["img_ir"]).permute(2, 0, 1))
    assert torch.equal(item["inputs"], torch.from_numpy(sample["img"]).permute(2, 0, 1))
    assert item["data_samples"].metainfo["img_ir_path"] == "infrared.png"
    assert "inputs_ir" not in item["data_samples"]
    del sample["img_ir"]
    with pytest.raises(DataError, match="only the visible half"):
        PackPairedDetInputs()(sample)


def test_a_batch_without_its_infrared_half_is_an_error():
    data = batch((64, 96))
    preprocessor = PairedDetDataPreprocessor(vis=VIS, ir=IR)
    with pytest.raises(DataError, match="sizes"):
        preprocessor({**data, "inputs_ir": [torch.zeros(3, 64, 64)]})
    del data["inputs_ir"]
    with pytest.raises(DataError, match="inputs_ir"):
        preprocessor(data)
    with pytest.raises(ConfigError, match="pad_size_divisor=0"):
        PairedDetDataPreprocessor(vis=VIS, ir=IR, pad_size_divisor=0)


def test_it_moves_with_its_parent_and_by_itself():
    data = batch((64, 96))
    preprocessor = PairedDetDataPreprocessor(vis=VIS, ir=IR).to("meta")
    assert {half.device.type for half in preprocessor(data)["inputs"].values()} == {"meta"}
    assert not preprocessor.state_dict()  # statistics are settings, not weights
