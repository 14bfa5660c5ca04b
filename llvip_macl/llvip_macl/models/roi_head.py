"""`MACLRoIHead`: mmdet's StandardRoIHead on the fused pyramid, and MACL, DHN and the domain term on the two behind it.

    roi_head = dict(type='MACLRoIHead', macl_head=dict(type='MACLHead'), dhn=None | dict(type='DHNSampler'),
                    macl_weight=1.0, dhn_weight=0.5, bbox_roi_extractor=..., bbox_head=...)

The boxes that the detector samples (or the ground truth) are pooled by the same RoI extractor from the visible and from
the infrared pyramid, averaged to one feature each, embedded and compared. K follows the number of RoIs, not the batch.

    loss_macl  = macl_weight   * terms["macl"]      lambda 1
    loss_dhn   = dhn_weight    * terms["dhn"]       lambda 2, in DHN's `separate` mode only
    loss_domain = domain_weight * terms["domain"]   lambda 3, when macl_head.enable_domain_loss is set

    B images, K paired RoIs, C channels of a level, D embedding dimension
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.models.utils import unpack_gt_instances
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox2roi, get_box_tensor
from mmdet.utils import InstanceList
from torch import Tensor

from shared.errors import ConfigError

from .dhn import DHNSampler, image_number
from .domain import DomainTerm
from .macl_head import MACLHead
from .paired_boxes import ImageRows, group_numbers, image_rows

Pyramid = tuple[Tensor, ...]
DOMAIN_LEVEL = 1  # p3


@MODELS.register_module()
class MACLRoIHead(StandardRoIHead):
    """StandardRoIHead with contrastive terms; without `macl_head` it is StandardRoIHead.

    Args:
        macl_head: dict of MACLHead, or None. Its in_dim defaults to the RoI extractor's channels.
        dhn: dict of DHNSampler, or None. Its dim defaults to MACLHead's proj_dim.
        roi_source: "positive" or "gt", overriding macl_head's.
        macl_weight, dhn_weight, domain_weight: lambda 1 to 3; domain_weight defaults to macl_head's.
        others: StandardRoIHead's.

    Raises:
        ConfigError: dhn without macl_head, another embedding width for DHN, or a mask head.
    """

    def __init__(
        self,
        *args: Any,
        macl_head: dict | None = None,
        dhn: dict | None = None,
        roi_source: str | None = None,
        macl_weight: float = 1.0,
        dhn_weight: float = 0.5,
        domain_weight: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if self.with_mask:
            raise ConfigError("MACLRoIHead detects boxes only: remove mask_head and mask_roi_extractor.")
        self.macl_head = self._build_macl(macl_head, roi_source)
        self.dhn = self._build_dhn(dhn)
        self.domain_term = self._build_domain()
        default = self.macl_head.settings.domain_weight if self.macl_head else 0.0
        self.weights = {
            "macl": macl_weight,
            "dhn": dhn_weight,
            "domain": default if domain_weight is None else domain_weight,
        }

    def _build_macl(self, config: dict | None, roi_source: str | None) -> MACLHead | None:
        if config is None:
            return None
        keys = {"in_dim": self.bbox_roi_extractor.out_channels, **config}
        return MODELS.build(keys if roi_source is None else {**keys, "roi_source": roi_source})

    def _build_dhn(self, config: dict | None) -> DHNSampler | None:
        if config is None:
            return None
        if self.macl_head is None:
            raise ConfigError("roi_head.dhn needs roi_head.macl_head: set macl_head, or dhn=None.")
        width = self.macl_head.settings.proj_dim
        sampler = MODELS.build({"dim": width, **config})
        if sampler.settings.dim != width:
            raise ConfigError(f"dhn.dim={sampler.settings.dim} must equal macl_head.proj_dim={width}.")
        sampler.attach(self.macl_head.proj)
        return sampler

    def _build_domain(self) -> DomainTerm | None:
        if self.macl_head is None or not self.macl_head.settings.enable_domain_loss:
            return None
        config = self.macl_head.settings
        return DomainTerm(config.domain_type, self.bbox_roi_extractor.out_channels, config.mmd_kernels)

    def loss(
        self,
        x: Pyramid,
        rpn_results_list: InstanceList,
        batch_data_samples: SampleList,
        vis_feats: Pyramid | None = None,
        ir_feats: Pyramid | None = None,
    ) -> dict[str, Tensor]:
        """Detection losses on x, contrastive terms on the two pyramids.

        Args:
            x: the fused pyramid, levels (B,C,H_i,W_i).
            rpn_results_list: B proposals (InstanceData with bboxes).
            batch_data_samples: B samples; gt_instances may hold `bboxes_ir` (G,4).
            vis_feats, ir_feats: pyramids of the modalities; both needed when there is a macl_head.

        Returns mmdet's loss_cls, loss_bbox, acc; loss_macl and, when configured, loss_dhn and loss_domain (weighted);
        macl_nats (unweighted loss), macl_chance, macl_acc1, macl_rows, macl_tau (no losses).
        """
        samples = self._sample(x, rpn_results_list, batch_data_samples)
        losses = dict(self.bbox_loss(x, samples)["loss_bbox"])
        if self.macl_head is None:
            return losses
        if vis_feats is None or ir_feats is None:
            raise ConfigError(
                "MACL compares two modalities, but only one reached the RoI head: use model.modality='both', or set "
                "macl_head and model.roi_head.macl_head to None."
            )
        rows = self._rows(samples, batch_data_samples)
        return {**losses, **self._contrastive(vis_feats, ir_feats, rows, batch_data_samples)}

    def _sample(self, x: Pyramid, proposals: InstanceList, data_samples: SampleList) -> list[SamplingResult]:
        """Assign proposals to persons and draw the RoIs of each image, as StandardRoIHead does."""
        gt, ignored, _ = unpack_gt_instances(data_samples)
        samples = []
        for index, proposal in enumerate(proposals):
            proposal.priors = proposal.pop("bboxes")
            assigned = self.bbox_assigner.assign(proposal, gt[index], ignored[index])
            feats = [level[index][None] for level in x]
            samples.append(self.bbox_sampler.sample(assigned, proposal, gt[index], feats=feats))
        return samples

    def _rows(self, samples: Sequence[SamplingResult], data_samples: SampleList) -> list[ImageRows]:
        """The RoIs of each image that are compared across the modalities."""
        config = self.macl_head.settings
        rows = []
        for sampled, data_sample in zip(samples, data_samples, strict=True):
            gt = data_sample.gt_instances
            gt_boxes = get_box_tensor(gt.bboxes)
            boxes, person = gt_boxes, torch.arange(len(gt_boxes), device=gt_boxes.device)
            if config.roi_source == "positive":
                boxes, person = get_box_tensor(sampled.pos_priors), sampled.pos_assigned_gt_inds
            gt_boxes_ir = get_box_tensor(gt.bboxes_ir) if "bboxes_ir" in gt else None
            rows.append(image_rows(boxes, person, gt_boxes, gt_boxes_ir, config.max_rows_per_image))
        return rows

    def _contrastive(
        self, vis_feats: Pyramid, ir_feats: Pyramid, rows: list[ImageRows], data_samples: SampleList
    ) -> dict[str, Tensor]:
        vis_rois = self.pool(vis_feats, [image.vis_boxes for image in rows])
        ir_rois = self.pool(ir_feats, [image.ir_boxes for image in rows])
        groups = group_numbers(rows, [len(sample.gt_instances) for sample in data_samples])
        vis, ir = self.macl_head.embed_pair(vis_rois, ir_rois)
        if self.dhn is None:
            terms = self.macl_head(vis, ir, groups, check=False)
        else:
            images = _image_of_rows(rows, data_samples)
            separate = self.dhn.settings.mode == "separate"
            negatives = self.dhn.negatives(vis, ir, images)
            terms = self.macl_head(vis, ir, groups, *negatives, separate=separate, check=False)
            self.dhn.hold(vis_rois, ir_rois, images)
        if self.domain_term is not None:
            terms["domain"] = self.domain_term(vis_feats[DOMAIN_LEVEL], ir_feats[DOMAIN_LEVEL])
        return self._named(terms)

    def _named(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """The one place where terms meet their weights; every other key lacks "loss", which mmengine would sum."""
        losses = {f"loss_{name}": self.weights[name] * terms[name] for name in self.weights if name in terms}
        return {
            **losses,
            "macl_nats": terms["macl"].detach(),
            "macl_chance": terms["chance"],
            "macl_acc1": terms["accuracy"],
            "macl_rows": terms["rows"],
            "macl_tau": self.macl_head.tau.detach(),
        }

    def pool(self, feats: Pyramid, boxes: Sequence[Tensor]) -> Tensor:
        """Levels (B,C,H_i,W_i) and B boxes (n_i,4) -> (K,C), the mean of each pooled RoI; float32."""
        levels = feats[: self.bbox_roi_extractor.num_inputs]
        return self.bbox_roi_extractor(levels, bbox2roi(list(boxes))).float().mean((2, 3))

    def paired_embeddings(
        self,
        vis_feats: Pyramid,
        ir_feats: Pyramid,
        boxes: Sequence[Tensor],
        ir_boxes: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """MACL's embeddings of given boxes, for reports: v, r (K,D) unit rows, K = sum of n_i, in the boxes' order.

        boxes: B tensors (n_i,4), xyxy in pixels of the network's input; ir_boxes: the same for the infrared image
        where they differ. Raises ConfigError without a macl_head.
        """
        if self.macl_head is None:
            raise ConfigError("there are no embeddings to compare: the model was built with macl_head=None.")
        vis = self.pool(vis_feats, boxes)
        return self.macl_head.embed_pair(vis, self.pool(ir_feats, boxes if ir_boxes is None else ir_boxes))

    def after_backward(self) -> None:
        """Enqueue what the last loss held (see dhn.py); to be called once after each backward. Collective."""
        if self.dhn is not None:
            self.dhn.after_backward(self.macl_head.proj)


def _image_of_rows(rows: Sequence[ImageRows], data_samples: SampleList) -> Tensor:
    """(K,) image numbers."""
    numbers = [image_number(sample.metainfo) for sample in data_samples]
    return torch.cat(
        [image.person.new_full((len(image.person),), number) for image, number in zip(rows, numbers, strict=True)]
    )
