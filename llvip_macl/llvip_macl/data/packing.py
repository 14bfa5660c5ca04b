"""The last step of a pipeline: both images as tensors, boxes and origin in a DetDataSample."""

from typing import Any

import numpy as np
import torch
from mmdet.datasets.transforms import PackDetInputs
from mmdet.registry import TRANSFORMS

from shared.errors import DataError

META_KEYS = (
    "img_id", "img_path", "img_ir_path", "pair_name", "ori_shape", "img_shape", "scale_factor", "flip",
    "flip_direction", "sample_key", "instances",
)  # fmt: skip
ALWAYS = ("img_ir_path", "pair_name", "sample_key", "instances")  # also when a config lists its own keys


@TRANSFORMS.register_module()
class PackPairedDetInputs(PackDetInputs):
    """mmdet's PackDetInputs for pairs.

    Gives {'inputs': (3, H, W) uint8 visible, 'inputs_ir': (3, H, W) uint8 infrared, 'data_samples': DetDataSample}.
    `gt_instances` and `ignored_instances` have `bboxes_ir` (n, 4) float32 where labels are per modality. The meta
    information has `instances`, the boxes as annotated: metrics without an annotation file read them.

    Args:
        meta_keys: of the sample dict, copied to the DetDataSample.
    """

    paired = True

    def __init__(self, meta_keys: tuple[str, ...] = META_KEYS):
        super().__init__(meta_keys=(*meta_keys, *(key for key in ALWAYS if key not in meta_keys)))

    def transform(self, results: dict) -> dict[str, Any]:
        if "img_ir" not in results:
            raise DataError(f"{results.get('img_path')}: only the visible half reaches the end of the pipeline.")
        packed = super().transform(results)
        packed["inputs_ir"] = torch.from_numpy(np.ascontiguousarray(results["img_ir"].transpose(2, 0, 1)))
        if "gt_bboxes_ir" in results:
            ignored = torch.from_numpy(np.asarray(results["gt_ignore_flags"], bool))
            boxes, sample = results["gt_bboxes_ir"].tensor, packed["data_samples"]
            sample.gt_instances.bboxes_ir = boxes[~ignored]
            sample.ignored_instances.bboxes_ir = boxes[ignored]
        return packed
