"""From the configuration to the network, its masking, and the weights of its losses.

MODEL.NAME and BACKBONE_3D.NAME choose from the registries of detector.py and backbone.py. A loss is weighted here and
nowhere else: LOSS_CONFIG at the root of the configuration reaches every term.
"""

from typing import Any

from torch import nn

from shared.run import World

from ..backbone import BACKBONES
from ..config import Backbone, Experiment
from ..contrast import VoxelContrastSettings
from ..detector import DETECTORS, detection_settings
from ..frame_level import FrameContrastSettings
from ..masking import KINDS, Masking
from ..mlfr import MlfrSettings
from ..occupancy import OccupancySettings
from ..pretraining import PretrainSettings
from ..teacher import TeacherSettings
from .sources import grid_of

SITES = {"Q1": "active", "Q2": "dilated", "Q4": "dense"}


def build_network(experiment: Experiment, *, total_steps: int, world: World | None = None) -> nn.Module:
    """The detector of a configuration, on the CPU with fresh weights, in its mode (PRETRAINING).

    total_steps: optimizer steps of the run, for the teacher's momentum.
    """
    model, grid = experiment.MODEL, grid_of(experiment.DATA_CONFIG)
    settings = model.BACKBONE_3D
    features = len(experiment.DATA_CONFIG.POINT_FEATURE_ENCODING.used_feature_list)
    backbone = BACKBONES[settings.NAME](features, grid.shape_zyx, settings.CHANNELS, settings.FEATURE_DIM)
    detector = DETECTORS[model.NAME]
    if experiment.pretraining:
        return detector(grid, backbone, pretraining=pretrain_settings(experiment), total_steps=total_steps, world=world)
    return detector(grid, backbone, detection=detection_settings(model.DENSE_HEAD, experiment.CLASS_NAMES), world=world)


def loss_weights(experiment: Experiment) -> dict[str, float]:
    """Term -> weight. TEACHER_STUDENT_WEIGHT multiplies the sum of the teacher's terms; a term of weight 0 is left
    out, and is not computed."""
    given, head = experiment.LOSS_CONFIG, experiment.MODEL.DENSE_HEAD
    if not experiment.pretraining:
        weights = head.LOSS_CONFIG.LOSS_WEIGHTS
        return {
            "cls": given.DETECTION_WEIGHT * weights.cls_weight,
            "loc": given.DETECTION_WEIGHT * weights.loc_weight,
        }
    backbone, teacher = experiment.MODEL.BACKBONE_3D, given.TEACHER_STUDENT_WEIGHT
    weights = {
        "occupancy": given.RMAE_WEIGHT,
        "mlfr": teacher * given.MLFR_WEIGHT * backbone.ENABLE_MLFR,
        "voxel": teacher * given.VOXEL_CONTRASTIVE_WEIGHT * backbone.ENABLE_VOXEL_CONTRASTIVE,
        "frame": teacher * given.FRAME_CONTRASTIVE_WEIGHT * backbone.ENABLE_FRAME_CONTRASTIVE,
    }
    return {name: weight for name, weight in weights.items() if weight > 0}


def pretrain_settings(experiment: Experiment) -> PretrainSettings:
    """What BACKBONE_3D says of pretraining, in parts."""
    b = experiment.MODEL.BACKBONE_3D
    voxel, frame = b.VOXEL_CONTRASTIVE_CONFIG, b.FRAME_CONTRASTIVE_CONFIG
    teacher = TeacherSettings(b.TEACHER_MOMENTUM, b.TEACHER_MOMENTUM_SCHEDULE) if b.ENABLE_TEACHER_STUDENT else None
    return PretrainSettings(
        weights=loss_weights(experiment),
        teacher=teacher,
        occupancy=OccupancySettings(
            SITES[b.OCCUPANCY_SITES], b.OCCUPANCY_BLOCK, b.OCCUPANCY_POS_WEIGHT, b.OCCUPANCY_VISIBLE_WEIGHT
        ),
        mlfr=MlfrSettings(b.MLFR_CONFIG.SCALES, b.MLFR_CONFIG.SCALE_WEIGHTS, b.MLFR_CONFIG.DISTANCE),
        voxel=VoxelContrastSettings(
            kind=voxel.METHOD,
            temperature=voxel.CONTRASTIVE_TEMPERATURE,
            projection_dim=voxel.PROJECTION_DIM,
            max_anchors=voxel.MAX_ANCHORS,
            max_negatives=voxel.MAX_NEGATIVE_SAMPLES,
            hard_ratio=voxel.HARD_NEGATIVE_RATIO if voxel.USE_HARD_NEGATIVES else 0.0,
            negatives_from=voxel.NEGATIVES_FROM,
        ),
        frame=FrameContrastSettings(
            kind=frame.METHOD,
            temperature=frame.FRAME_TEMPERATURE,
            projection_dim=frame.PROJECTION_DIM,
            bank_size=frame.MEMORY_BANK_SIZE,
            max_negatives=frame.MAX_FRAME_NEGATIVES,
            hard_ratio=frame.HARD_NEGATIVE_RATIO,
            projector_momentum=frame.MOMENTUM_UPDATE,
        ),
        seed=experiment.SEED,
    )


def masking_of(backbone: Backbone) -> Masking | None:
    """The masking that the switches name; None outside pretraining, where nothing is ever masked."""
    if not backbone.PRETRAINING:
        return None
    sectors = {"ratio": backbone.MASKED_RATIO, "sectors": backbone.NUM_ANGULAR_GROUPS}
    bands = {
        "bands_m": backbone.DISTANCE_THRESHOLDS,
        "mask_probs": tuple(backbone.RANGE_MASK_PROBS.model_dump().values()),
    }
    arguments: dict[str, dict[str, Any]] = {
        "radial": {**sectors, "least_keep": backbone.RADIAL_LEAST_KEEP},
        "range_aware": {**sectors, "bands_m": backbone.RANGE_AWARE_LIMITS,
                        "extra_keep": backbone.RANGE_AWARE_EXTRA_KEEP},
        "range_only": bands,
        "two_stage": {**sectors, **bands},
        "calibrated": {**sectors, **bands},
    }  # fmt: skip
    return KINDS[backbone.masking](**arguments[backbone.masking])
