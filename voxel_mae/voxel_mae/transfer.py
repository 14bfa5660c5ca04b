"""Weights from pretraining into the detector, with a report of what arrived (A16).

    report = load_params_from_file(detector, Path(".../checkpoint_epoch_30.pth"))

The whole backbone must arrive: one tensor missing or of another width is an error, never a silent partial load
(conv_input of 5 point features into one of 3 gave nuScenes mAP .10 instead of .60: dvlab-research/VoxelNeXt issue 3).
What pretraining alone needs (teacher, decoders, projectors, queues) stays behind, and a head that the file does not
have keeps its initial values; both are reported. A checkpoint of another grid is refused.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shared import checkpoint
from shared.errors import CheckpointError
from shared.loading import LoadReport, load_into

log = logging.getLogger(__name__)

PRETRAINER = "pretrainer."  # where the student's backbone stands in a pretraining checkpoint
BACKBONE, HEAD = "backbone_3d.", "dense_head."
GRID = {"grid_range_m": "POINT_CLOUD_RANGE", "grid_voxel_m": "VOXEL_SIZE"}
FIRST_LAYER = "backbone_3d.conv_input.0.weight"
OPENPCDET_COUNTER = "global_step"
SHOWN = 5  # names that an error lists


def load_params_from_file(
    model: nn.Module, path: Path | str, *, min_coverage: float = 1.0, sha256: str | None = None
) -> LoadReport:
    """Load `model_state` of a checkpoint into a detector; on failure the detector keeps its values.

    Args:
        min_coverage: least share (0..1) of the BACKBONE's values that must arrive. Below 1, tensors of the backbone may
            be missing; tensors of another shape are an error whatever it is.
        sha256: of a foreign file without manifest.

    Returns the report over the whole detector, which is logged too.

    Raises:
        CheckpointError: unreadable or damaged; no weights of a backbone; another grid, width or feature count; less
            than the coverage asked for; a model in pretraining.
    """
    if getattr(model, "is_pretraining", False):
        raise CheckpointError(
            f"{path}: weights are loaded into a detector, and this model pretrains: its teacher starts as a copy of "
            "its own student. Leave --pretrained_model to fine-tuning; the same command continues a pretraining."
        )
    own, theirs = model.state_dict(), detector_state(checkpoint.load_weights(path, sha256), path)
    check_grid(own, theirs, path)
    wanted = {name: value for name, value in theirs.items() if name.startswith((BACKBONE, HEAD)) or name in own}
    arrived = check_coverage(own, wanted, min_coverage, path)
    try:
        report = load_into(model, wanted, allow_missing=_may_be_missing(wanted, min_coverage))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    left = sorted({name.split(".")[0] for name in theirs if name not in wanted})
    log.info("%s: %.1f %% of the backbone's values arrived; %s", path, 100 * arrived, report)
    if left:
        log.info("%s: left behind, as pretraining alone needs them: %s", path, ", ".join(left))
    return report


def detector_state(content: Mapping[str, Any], path: Path | str) -> dict[str, Tensor]:
    """The weights of a checkpoint under the detector's names.

    Raises CheckpointError when there is no backbone among them.
    """
    state = content.get("model_state", content)
    state = {name.removeprefix("module."): value for name, value in state.items() if isinstance(value, Tensor)}
    state = {name.removeprefix(PRETRAINER): value for name, value in state.items() if name != OPENPCDET_COUNTER}
    if not any(name.startswith(BACKBONE) for name in state):
        raise CheckpointError(
            f"{path} holds no `{BACKBONE}*` weights ({len(state)} tensors, the first {next(iter(state), 'none')}): "
            "give a checkpoint of tools/train_rmae_cmae_phase1.py or tools/train.py, or convert one of OpenPCDet with "
            "`python -m voxel_mae.convert`."
        )
    return state


def check_grid(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor], path: Path | str) -> None:
    """Raise CheckpointError when the checkpoint was trained on another grid; warn when it does not say."""
    for name, key in GRID.items():
        if name not in theirs:
            log.warning("%s does not state its %s: it is taken to be the configuration's", path, key)
        elif not torch.equal(own[name].cpu(), theirs[name].cpu()):
            raise CheckpointError(
                f"{path} was trained with {key} {theirs[name].tolist()}, the configuration has {own[name].tolist()}: "
                "the same weights mean other metres there. Use the grid of the checkpoint, or pretrain on this one."
            )


def check_coverage(
    own: Mapping[str, Tensor], wanted: Mapping[str, Tensor], min_coverage: float, path: Path | str
) -> float:
    """Share of the backbone's values that the file has in the model's shape. CheckpointError below min_coverage."""
    backbone = {name: value for name, value in own.items() if name.startswith(BACKBONE)}
    off = [name for name in backbone if name not in wanted or wanted[name].shape != backbone[name].shape]
    total = sum(value.numel() for value in backbone.values())
    share = 1 - sum(backbone[name].numel() for name in off) / total
    if share < min_coverage:
        listed = "; ".join(_deviation(name, backbone, wanted) for name in off[:SHOWN])
        raise CheckpointError(
            f"{path}: {100 * share:.2f} % of the backbone's values fit, {100 * min_coverage:.2f} % are asked for. "
            f"{len(off)} of {len(backbone)} tensors do not: {listed}.{_advice(backbone, wanted)}"
        )
    return share


def _deviation(name: str, own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
    found = f"file {tuple(theirs[name].shape)}, model {tuple(own[name].shape)}" if name in theirs else "missing"
    return f"{name} ({found})"


def _advice(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
    """What a first layer of another width means: its input is the point features, its output CHANNELS[0]."""
    mine, found = own.get(FIRST_LAYER), theirs.get(FIRST_LAYER)
    if mine is None or found is None or mine.shape == found.shape:
        return " Use the CHANNELS and FEATURE_DIM that it was trained with."
    return (
        f" The checkpoint reads {found.shape[-1]} point features into {found.shape[0]} channels, the configuration "
        f"{mine.shape[-1]} into {mine.shape[0]}: make used_feature_list and CHANNELS agree with it."
    )


def _may_be_missing(wanted: Mapping[str, Tensor], min_coverage: float) -> list[str]:
    has_head = any(name.startswith(HEAD) for name in wanted)
    return [*GRID, *([] if has_head else [f"{HEAD}*"]), *([f"{BACKBONE}*"] if min_coverage < 1 else [])]
