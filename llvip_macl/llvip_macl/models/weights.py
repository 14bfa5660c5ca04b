"""Weights of a single-stream Faster R-CNN, made to fit the two-stream detector: its backbone serves both streams.

`single_stream_to_pair(state_dict)` copies `backbone.*` to `backbone_ir.*` (and `neck.*` to `neck_ir.*` for a detector
with two necks). `keep_one_class(state_dict, 0)` narrows the classifier of a COCO checkpoint to its class `person`, so
that the released weights detect persons from the first step.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.errors import CheckpointError

CLASSIFIER = "roi_head.bbox_head.fc_cls"
REGRESSOR = "roi_head.bbox_head.fc_reg"


@dataclass(frozen=True)
class PairWeights:
    """A state dict for the two-stream detector, and what was done to get it."""

    state_dict: dict[str, Tensor]
    report: str


def single_stream_to_pair(state_dict: Mapping[str, Tensor], *, two_necks: bool = False) -> PairWeights:
    """Weights for both streams; the values are shared with the argument, not copied.

    A state dict that has a second stream already is handed back as it is, and the report says so.

    Raises:
        CheckpointError: there is no `backbone.*` in it (not a detector's weights).
    """
    if any(name.startswith("backbone_ir.") for name in state_dict):
        return PairWeights(dict(state_dict), "the weights are of two streams already: nothing was mapped")
    if not any(name.startswith("backbone.") for name in state_dict):
        raise CheckpointError(
            f"no `backbone.*` among {len(state_dict)} tensors: these are no weights of a detector; pass its state dict."
        )
    parts = ("backbone", "neck") if two_necks else ("backbone",)
    second = {
        name.replace(f"{part}.", f"{part}_ir.", 1): value
        for name, value in state_dict.items()
        for part in parts
        if name.startswith(f"{part}.")
    }
    source = " and ".join(f"`{part}.*`" for part in parts)
    return PairWeights(
        {**state_dict, **second},
        f"single-stream weights: {len(second)} tensors of {source} serve the visible and the infrared stream",
    )


def keep_one_class(state_dict: Mapping[str, Tensor], index: int) -> PairWeights:
    """A softmax classifier of N classes and background narrowed to class `index` (COCO: 0 is person).

    Raises:
        CheckpointError: the weights hold no such classifier, or fewer classes.
    """
    rows = state_dict.get(f"{CLASSIFIER}.weight")
    if rows is None or not 0 <= index < len(rows) - 1:
        have = "no classifier" if rows is None else f"{len(rows) - 1} classes"
        raise CheckpointError(f"`{CLASSIFIER}` has {have}: class {index} cannot be taken from it.")
    classes = len(rows) - 1
    kept = dict(state_dict)
    for part in ("weight", "bias"):
        kept[f"{CLASSIFIER}.{part}"] = state_dict[f"{CLASSIFIER}.{part}"][torch.tensor([index, classes])]
        boxes = state_dict[f"{REGRESSOR}.{part}"]
        if len(boxes) == 4 * classes:  # one regression per class, not one for all
            kept[f"{REGRESSOR}.{part}"] = boxes[4 * index : 4 * index + 4]
    return PairWeights(kept, f"class {index} of {classes} was kept in `{CLASSIFIER}` and `{REGRESSOR}`")
