"""`PairedFasterRCNN`: a two-stage detector that looks at a visible and an infrared image of the same scene.

    visible  -> backbone    -> neck -> visible pyramid  --+-> fusion -> RPN, RoI head -> boxes
    infrared -> backbone_ir -> neck -> infrared pyramid --+
                                       both pyramids -------> MACL (roi_head.py)

Both backbones are built from the one `backbone` config, so depth, norm and frozen stages follow in both; with
`share_backbone` it is one. The neck is shared unless `share_neck=False`. `modality='vis'` or `'ir'` builds and runs one
stream and nothing else; with 'both', a missing half is an error.

    B images, H, W pixels of the padded input
"""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from mmdet.models.detectors import TwoStageDetector
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample, SampleList
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from shared.errors import ConfigError, DataError

from .finite import raise_if_not_finite
from .fusion import build_fusion
from .roi_head import MACLRoIHead, Pyramid

MODALITIES = ("both", "vis", "ir")
DET_MODALITIES = ("fused", "vis", "ir")
WORDS = {"vis": "visible", "ir": "infrared"}


class Pyramids(NamedTuple):
    """Feature pyramids of a batch; a stream that the model does not have is None. `fused` is what is detected on."""

    vis: Pyramid | None
    ir: Pyramid | None
    fused: Pyramid


@MODELS.register_module()
class PairedFasterRCNN(TwoStageDetector):
    """mmdet's two-stage detector with a second stream.

    Args:
        modality: 'both', or the only stream ('vis', 'ir') that is built and run.
        det_modality: with 'both', the pyramid that is detected on: 'fused', 'vis' or 'ir'.
        fusion: dict(type='add' | 'concat1x1' | 'gate').
        share_backbone, share_neck: one module for both streams.
        checkpoint_ir: compute the infrared stream a second time in backward instead of keeping its activations.
        others: TwoStageDetector's.

    Raises:
        ConfigError: combinations that would train a stream for nothing, or levels that do not fit together.
    """

    def __init__(
        self,
        *,
        modality: str = "both",
        det_modality: str = "fused",
        fusion: dict | None = None,
        share_backbone: bool = False,
        share_neck: bool = True,
        checkpoint_ir: bool = False,
        **kwargs: Any,
    ) -> None:
        second = {name: copy.deepcopy(kwargs.get(name)) for name in ("backbone", "neck")}
        super().__init__(**kwargs)
        self.modality, self.det_modality, self.checkpoint_ir = modality, det_modality, checkpoint_ir
        self._check_streams(share_backbone)
        if modality == "both":
            self.backbone_ir = None if share_backbone else MODELS.build(second["backbone"])
            self.neck_ir = None if share_neck else MODELS.build(second["neck"])
        if modality == "both" and det_modality == "fused":
            self.fusion = build_fusion(fusion or {"type": "add"}, self.neck.out_channels, self.neck.num_outs)
        self._check_levels()

    def _check_streams(self, share_backbone: bool) -> None:
        if not (self.with_neck and self.with_rpn and self.with_roi_head):
            raise ConfigError("PairedFasterRCNN needs model.neck, model.rpn_head and model.roi_head.")
        for name, choices in (("modality", MODALITIES), ("det_modality", DET_MODALITIES)):
            if getattr(self, name) not in choices:
                raise ConfigError(f"model.{name}={getattr(self, name)!r}; use one of {', '.join(choices)}.")
        compared = getattr(self.roi_head, "macl_head", None) is not None
        if self.modality != "both" and compared:
            raise ConfigError(
                f"model.modality={self.modality!r} has one stream, MACL compares two: set macl_head=None (and "
                "model.roi_head.macl_head=None), or modality='both'."
            )
        if self.modality != "both" and self.det_modality not in ("fused", self.modality):
            raise ConfigError(f"model.det_modality={self.det_modality!r} is not the only stream {self.modality!r}.")
        unused = self.modality == "both" and self.det_modality != "fused" and not compared
        if unused and not share_backbone:
            raise ConfigError(
                f"model.det_modality={self.det_modality!r} without MACL leaves the other stream without a loss: use "
                f"modality={self.det_modality!r}, which does not build it."
            )

    def _check_levels(self) -> None:
        """The neck's levels are those of the anchors, and enough for the RoI extractor."""
        anchors = len(self.rpn_head.prior_generator.strides)
        if self.neck.num_outs != anchors:
            raise ConfigError(
                f"model.neck.num_outs={self.neck.num_outs}, but rpn_head.anchor_generator.strides names {anchors}: "
                "set one stride per level, each twice the one before it."
            )
        pooled = self.roi_head.bbox_roi_extractor.num_inputs
        if pooled > self.neck.num_outs:
            raise ConfigError(
                f"model.roi_head.bbox_roi_extractor.featmap_strides names {pooled} levels, the neck has "
                f"{self.neck.num_outs}."
            )

    def extract_pyramids(self, batch_inputs: dict[str, Tensor]) -> Pyramids:
        """inputs {'vis': (B,3,H,W), 'ir': (B,3,H,W)}, normalised -> pyramids of the streams and the fused one.

        Raises DataError when an image that a stream needs is missing, or the two differ in size.
        """
        if self.modality != "both":
            levels = self._stream(self._half(batch_inputs, self.modality), self.backbone, self.neck)
            return Pyramids(*((levels, None) if self.modality == "vis" else (None, levels)), levels)
        halves = self._half(batch_inputs, "vis"), self._half(batch_inputs, "ir")
        if halves[0].shape != halves[1].shape:
            raise DataError(
                f"the visible half of the batch is {tuple(halves[0].shape)}, the infrared {tuple(halves[1].shape)}: "
                "both are padded to one size; use PairedDetDataPreprocessor."
            )
        vis = self._stream(halves[0], self.backbone, self.neck)
        ir = self._infrared(halves[1])
        if self.det_modality == "fused":
            return Pyramids(vis, ir, self.fusion(vis, ir))
        return Pyramids(vis, ir, vis if self.det_modality == "vis" else ir)

    @staticmethod
    def _half(batch_inputs: dict[str, Tensor], name: str) -> Tensor:
        if not isinstance(batch_inputs, dict) or batch_inputs.get(name) is None:
            have = ", ".join(batch_inputs) if isinstance(batch_inputs, dict) else type(batch_inputs).__name__
            raise DataError(
                f"the batch has no {WORDS[name]} image (inputs: {have}): pack pairs with PackPairedDetInputs and "
                "PairedDetDataPreprocessor, or build the model with the modality that is there."
            )
        return batch_inputs[name]

    @staticmethod
    def _stream(images: Tensor, backbone: nn.Module, neck: nn.Module) -> Pyramid:
        return neck(backbone(images))

    def _infrared(self, images: Tensor) -> Pyramid:
        backbone = self.backbone if self.backbone_ir is None else self.backbone_ir
        neck = self.neck if self.neck_ir is None else self.neck_ir
        if not (self.checkpoint_ir and self.training and torch.is_grad_enabled()):
            return self._stream(images, backbone, neck)
        modules = [backbone, neck]
        return checkpoint(
            self._stream,
            images,
            backbone,
            neck,
            use_reentrant=False,
            context_fn=lambda: (contextlib.nullcontext(), statistics_kept(modules)),
        )

    def extract_feat(self, batch_inputs: dict[str, Tensor]) -> Pyramid:
        """The pyramid that is detected on; mmdet's `predict` and `_forward` call it."""
        return self.extract_pyramids(batch_inputs).fused

    def loss(self, batch_inputs: dict[str, Tensor], batch_data_samples: SampleList) -> dict[str, Any]:
        """All losses of a batch, by name; mmengine sums the keys that hold "loss", each weighted once already.

        Returns mmdet's rpn and RoI losses, those of MACLRoIHead, loss_msp_alpha when the neck asks for it, and
        numbers without "loss" in their names.

        Raises:
            NonFiniteError: on every rank when a loss is not finite on any, naming it and the images, before backward.
        """
        pyramids = self.extract_pyramids(batch_inputs)
        losses, proposals = self._propose(pyramids.fused, batch_data_samples)
        both = {"vis_feats": pyramids.vis, "ir_feats": pyramids.ir} if isinstance(self.roi_head, MACLRoIHead) else {}
        losses.update(self.roi_head.loss(pyramids.fused, proposals, batch_data_samples, **both))
        losses.update(self._neck_losses())
        names = [str(sample.get("img_path", sample.get("img_id", "unnamed"))) for sample in batch_data_samples]
        raise_if_not_finite({name: value for name, value in losses.items() if "loss" in name}, names)
        return losses

    def _propose(self, x: Pyramid, data_samples: SampleList) -> tuple[dict[str, Any], list[InstanceData]]:
        """Losses and proposals of the RPN, which knows one class: object."""
        found = self.train_cfg.get("rpn_proposal", self.test_cfg.rpn)
        losses, proposals = self.rpn_head.loss_and_predict(
            x, [_one_class(sample) for sample in data_samples], proposal_cfg=found
        )
        return {name if "rpn" in name else f"rpn_{name}": value for name, value in losses.items()}, proposals

    def _neck_losses(self) -> dict[str, Tensor]:
        penalties = [neck.penalty() for neck in self._necks() if hasattr(neck, "penalty")]
        asked = [penalty for penalty in penalties if penalty is not None]
        return {"loss_msp_alpha": self.neck.alpha_penalty * torch.stack(asked).sum()} if asked else {}

    def _necks(self) -> Iterator[nn.Module]:
        yield self.neck
        if getattr(self, "neck_ir", None) is not None:
            yield self.neck_ir

    def after_backward(self) -> None:
        """To be called by the training loop once after each backward: fills DHN's queues. Free without DHN."""
        if hasattr(self.roi_head, "after_backward"):
            self.roi_head.after_backward()


@contextlib.contextmanager
def statistics_kept(modules: list[nn.Module]) -> Iterator[None]:
    """A second forward through BatchNorms in training mode that leaves their running statistics as they are."""
    norms = [m for module in modules for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms if norm.training]
    for norm, _, _ in before:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, batches in before:
            norm.momentum, norm.num_batches_tracked = momentum, batches


def _one_class(sample: DetDataSample) -> DetDataSample:
    """The sample as the RPN sees it: its boxes, all of label 0, and what is to be ignored."""
    seen = DetDataSample(metainfo=sample.metainfo)
    gt = sample.gt_instances
    seen.gt_instances = InstanceData(bboxes=gt.bboxes, labels=torch.zeros_like(gt.labels))
    if "ignored_instances" in sample:
        seen.ignored_instances = sample.ignored_instances
    return seen
