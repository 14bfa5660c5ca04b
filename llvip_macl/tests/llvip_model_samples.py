"""A small model and random pairs for the tests of the models."""

from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.structures import InstanceData

import llvip_macl.models.detector
import llvip_macl.models.msp
import llvip_macl.models.neck  # noqa: F401

CONFIGS = Path(__file__).parents[1] / "configs/_base_/models"
HW = (64, 96)  # pixels: the smallest that leaves every level of the pyramid a cell or more
WIDTH = 32  # of the small detector's pyramid
SCOPE = "mmdet"


def build(config):
    """A module of mmdet's registry from its config, as the runner builds it."""
    if DefaultScope.get_current_instance() is None:
        init_default_scope(SCOPE)
    return MODELS.build(config)


def small_config(**changes):
    """`model` of the small config, with a stock preprocessor (these tests hand over tensors) and nested changes."""
    config = Config.fromfile(CONFIGS / "faster_rcnn_r18_small.py")
    config.model.data_preprocessor = {"type": "DetDataPreprocessor"}
    config.merge_from_dict({f"model.{key.replace('__', '.')}": value for key, value in changes.items()})
    return config.model


def small_model(seed=0, **changes):
    """The small detector in training mode, seeded; changes as neck__num_outs=4."""
    torch.manual_seed(seed)
    return build(small_config(**changes)).train()


def sample(image, boxes, boxes_ir=None, hw=HW):
    """A DetDataSample: boxes [(x1, y1, x2, y2)] of persons."""
    meta = {"img_id": image, "img_path": f"{image}.jpg", "img_shape": hw, "ori_shape": hw, "scale_factor": (1.0, 1.0)}
    made = DetDataSample(metainfo={**meta, "pad_shape": hw, "batch_input_shape": hw})
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    made.gt_instances = InstanceData(bboxes=corners, labels=torch.zeros(len(corners), dtype=torch.long))
    if boxes_ir is not None:
        made.gt_instances.bboxes_ir = torch.tensor(boxes_ir, dtype=torch.float32).reshape(-1, 4)
    nothing = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    made.ignored_instances = nothing
    return made


def images(count=2, seed=0, hw=HW):
    """{'vis': (B,3,H,W), 'ir': (B,3,H,W)}, random."""
    g = torch.Generator().manual_seed(seed)
    return {name: torch.randn(count, 3, *hw, generator=g) for name in ("vis", "ir")}


def batch(count=2, seed=0):
    """A batch of pairs with three persons in the first image and one in each other."""
    persons = [[(8, 10, 20, 38), (50, 20, 60, 44), (70, 8, 82, 40)]] + [[(30, 12, 42, 44)]] * (count - 1)
    return images(count, seed), [sample(image, boxes) for image, boxes in enumerate(persons)]
