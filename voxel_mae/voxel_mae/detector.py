"""The detector: backbone, bird's-eye view, head; and its pretraining mode, which is `Pretrainer`.

    detector = RMAECMAEDetectorPhase1(grid, backbone, detection=settings)
    losses, diagnostics = detector(batch, boxes=padded)      # training: named, unweighted terms "cls" and "loc"
    detections = detector.eval()(batch)                      # one Detections a sample

    detector = RMAECMAEDetectorPhase1(grid, backbone, pretraining=settings, total_steps=T)
    losses, diagnostics = detector(batch, keep=mask)         # see pretraining.py; no box is read
    detector.after_step()

Nothing is masked in detection, and the head reads the fused bird's-eye tensor in every mode. The grid's range and cell
size stand among the buffers, so that a checkpoint knows them: weights of another grid are refused (transfer.py).
Parameter names are OpenPCDet's `backbone_3d.*` and `dense_head.*`; in pretraining they stand under `pretrainer.`.
"""

# B samples, M boxes of a sample (padded), V voxels

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from shared.errors import ConfigError
from shared.run import World

from . import config as schema
from .assignment import AssignmentSettings, BevMap, assign_targets
from .backbone import RMAECMAEBackbonePhase1
from .decode import DecodeSettings, Detections, decode
from .detection_loss import LossWeights, detection_losses
from .grid import Grid
from .head import HeadSettings, VoxelNeXtHead, label_groups
from .pretraining import Pretrainer, PretrainOutput, PretrainSettings
from .voxelize import VoxelBatch

STRIDE = 8  # of the fused map: conv4's


@dataclass(frozen=True)
class DetectionSettings:
    """DENSE_HEAD of a configuration, in parts."""

    head: HeadSettings
    decoding: DecodeSettings
    assignment: AssignmentSettings = field(default_factory=AssignmentSettings)
    losses: LossWeights = field(default_factory=LossWeights)


class DetectionOutput(NamedTuple):
    """losses: "cls" and "loc", unweighted scalars; diagnostics: name -> scalar without gradient."""

    losses: dict[str, Tensor]
    diagnostics: dict[str, Tensor]


class RMAECMAEDetectorPhase1(nn.Module):
    """Both phases' detector, in one of two modes: `detection` or `pretraining` settings are given, not both."""

    def __init__(
        self,
        grid: Grid,
        backbone: RMAECMAEBackbonePhase1,
        *,
        detection: DetectionSettings | None = None,
        pretraining: PretrainSettings | None = None,
        total_steps: int | None = None,
        world: World | None = None,
    ):
        """total_steps: of the pretraining run (the teacher's momentum). world: the processes whose boxes are counted
        together when a loss is divided, and whose clouds share the queues of pretraining.

        Raises ConfigError when settings contradict each other, the grid or the backbone.
        """
        super().__init__()
        if (detection is None) == (pretraining is None):
            raise ConfigError("the detector is built for detection or for pretraining: give the settings of one.")
        self.grid, self.world, self.settings = grid, world, detection
        self.register_buffer("grid_range_m", torch.tensor(grid.range_m, dtype=torch.float64))
        self.register_buffer("grid_voxel_m", torch.tensor(grid.voxel_m, dtype=torch.float64))
        if pretraining is not None:
            self.pretrainer = Pretrainer(backbone, pretraining, total_steps=total_steps, world=world)
            return
        check_settings(detection, grid, backbone.bev_features)
        self.bev = BevMap.of(grid.range_m, grid.voxel_m, STRIDE)
        self.backbone_3d, self.dense_head = backbone, VoxelNeXtHead(detection.head)

    @property
    def is_pretraining(self) -> bool:
        return self.settings is None

    @property
    def backbone(self) -> RMAECMAEBackbonePhase1:
        """The backbone, the student's in pretraining."""
        return self.pretrainer.backbone_3d if self.is_pretraining else self.backbone_3d

    def forward(
        self, batch: VoxelBatch, *, boxes: Tensor | None = None, keep: Tensor | None = None
    ) -> PretrainOutput | DetectionOutput | list[Detections]:
        """One batch of voxels.

        Args:
            boxes: (B,M,8) padded ground truth; needed in training for detection, not looked at otherwise.
            keep: (V,) bool, what the student sees; needed in pretraining, refused in detection.
        """
        if self.is_pretraining:
            if keep is None:
                raise ValueError("pretraining needs `keep`, which voxels the student sees")
            return self.pretrainer(batch, keep)
        if keep is not None:
            raise ValueError("detection never masks: `keep` belongs to pretraining")
        answers, sites = self._answers(batch)
        if self.training:
            if boxes is None:
                raise ValueError("training for detection needs `boxes`, (B, M, 8)")
            return self._losses(answers, sites, boxes)
        with torch.no_grad():
            return decode(answers, sites, batch.batch_size, self.settings.head.groups, self.bev, self.settings.decoding)

    def after_step(self) -> None:
        """After every optimizer step: in pretraining the teacher and the queues move."""
        if self.is_pretraining:
            self.pretrainer.after_step()

    def _answers(self, batch: VoxelBatch) -> tuple[list[dict[str, Tensor]], Tensor]:
        bev = self.backbone_3d(batch).bev
        if tuple(bev.spatial_shape) != self.bev.size_yx:
            raise ValueError(
                f"the backbone's map has {tuple(bev.spatial_shape)} cells (y, x), the grid's range and cell size make "
                f"{self.bev.size_yx}: build the backbone with grid.shape_zyx"
            )
        return self.dense_head(bev), bev.indices

    def _losses(self, answers: list[dict[str, Tensor]], sites: Tensor, boxes: Tensor) -> DetectionOutput:
        with torch.no_grad():
            targets = [
                assign_targets(sites, boxes, labels, self.bev, self.settings.assignment)
                for labels in self.settings.head.groups
            ]
        losses = detection_losses(answers, targets, self.settings.losses.codes, self.world)
        assigned = torch.stack([each.valid.sum() for each in targets]).sum().float()
        return DetectionOutput(losses, {"boxes": assigned})


DETECTORS = {"RMAECMAEDetectorPhase1": RMAECMAEDetectorPhase1}  # MODEL.NAME of the configs


def check_settings(settings: DetectionSettings, grid: Grid, bev_features: int) -> None:
    """What head, grid and backbone must agree on. Raises ConfigError."""
    low, high = settings.decoding.centre_range_m[:3], settings.decoding.centre_range_m[3:]
    if any(a > b for a, b in zip(low, grid.range_m[:3], strict=True)) or any(
        a < b for a, b in zip(high, grid.range_m[3:], strict=True)
    ):
        raise ConfigError(
            f"POST_CENTER_LIMIT_RANGE {list(settings.decoding.centre_range_m)} does not cover POINT_CLOUD_RANGE "
            f"{list(grid.range_m)}: objects beyond it could never be found. Widen it."
        )
    if settings.head.inputs != bev_features:
        raise ConfigError(
            f"DENSE_HEAD.INPUT_FEATURES is {settings.head.inputs}, the backbone's FEATURE_DIM {bev_features}: they are "
            "the same features."
        )
    classes, limits = sum(len(group) for group in settings.head.groups), settings.decoding.nms_iou
    if limits is not None and len(limits) != classes:
        raise ConfigError(f"NMS_THRESH has {len(limits)} values for {classes} classes: give one each.")


def detection_settings(head: schema.DenseHead, classes: Sequence[str]) -> DetectionSettings:
    """The settings that MODEL.DENSE_HEAD and CLASS_NAMES state."""
    branches, targets, weights = head.SEPARATE_HEAD_CFG.HEAD_DICT, head.TARGET_ASSIGNER_CONFIG, head.LOSS_CONFIG
    depths = {name: getattr(branches, name).num_conv for name in type(branches).model_fields}
    return DetectionSettings(
        head=HeadSettings(
            groups=label_groups(head.CLASS_NAMES_EACH_HEAD, classes),
            inputs=head.SHARED_CONV_CHANNEL,
            kernel=head.KERNEL_SIZE_HEAD,
            bias=head.USE_BIAS_BEFORE_NORM,
            depths={"hm": head.NUM_HM_CONV, **depths},
        ),
        assignment=AssignmentSettings(targets.GAUSSIAN_OVERLAP, targets.MIN_RADIUS, targets.NUM_MAX_OBJS),
        losses=LossWeights(
            weights.LOSS_WEIGHTS.cls_weight, weights.LOSS_WEIGHTS.loc_weight, weights.LOSS_WEIGHTS.code_weights
        ),
        decoding=_decoding(head.POST_PROCESSING, len(classes)),
    )


def _decoding(post: schema.HeadPostProcessing, classes: int) -> DecodeSettings:
    basic = DecodeSettings(post.POST_CENTER_LIMIT_RANGE, post.SCORE_THRESH, post.MAX_OBJ_PER_SAMPLE)
    nms = post.NMS_CONFIG
    if nms is None:
        return basic
    limits = nms.NMS_THRESH
    each = tuple(limits) if isinstance(limits, Sequence) else (float(limits),) * classes
    return replace(basic, nms_iou=each, nms_pre=nms.NMS_PRE_MAXSIZE, nms_post=nms.NMS_POST_MAXSIZE)
