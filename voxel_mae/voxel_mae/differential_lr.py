"""Learning rates by part of the detector: a pretrained backbone moves slowly, a new head fast.

    optimizer = create_optimizer_with_differential_lr(model, config.OPTIMIZATION)

Groups are disjoint and complete. `UNTRAINED_LR_RATIO` gives the layers that stride-8 pretraining never trained (conv5,
conv6, the fusion's convolutions) a ratio of their own; 1.0 there is the ablation of "backbone 10 %".
"""

import torch
from torch import nn

from shared.errors import ConfigError
from shared.optim import lr_groups

from .backbone import UNTRAINED_BY_PRETRAINING
from .config import Optimization
from .onecycle import adam

BACKBONE, HEAD = "backbone_3d.*", "dense_head.*"
UNTRAINED = tuple(f"backbone_3d.{part}.*" for part in UNTRAINED_BY_PRETRAINING)


def ratios(settings: Optimization) -> dict[str, float]:
    """Pattern of parameter names -> ratio of LR; {} without DIFFERENTIAL_LR."""
    if not settings.DIFFERENTIAL_LR:
        return {}
    untrained = {} if settings.UNTRAINED_LR_RATIO is None else dict.fromkeys(UNTRAINED, settings.UNTRAINED_LR_RATIO)
    return {**untrained, BACKBONE: settings.BACKBONE_LR_RATIO, HEAD: settings.DENSE_HEAD_LR_RATIO}


def create_optimizer_with_differential_lr(model: nn.Module, settings: Optimization) -> torch.optim.AdamW:
    """The optimizer of a run; decay acts on every parameter, batch norm's too, as OpenPCDet's does.

    Raises ConfigError when DIFFERENTIAL_LR is asked of a model without backbone or head.
    """
    try:
        groups = lr_groups(model, settings.LR, ratios(settings), weight_decay=settings.WEIGHT_DECAY, decay_1d=True)
    except ConfigError as error:
        raise ConfigError(f"OPTIMIZATION.DIFFERENTIAL_LR: {error}") from error
    return adam(groups, settings)
