"""The base detector's weights: the published file, or one of `train_pointpillars.py`.

    base = load_base("pretrained/epoch_160.pth")
    base.model                                        # PointPillars, frozen

The published file is a plain table of 126 tensors without a word about its grid or classes, so these are the caller's
to name (default: KITTI's). Ours records grid, classes and widths, and rebuilds the network from them. Names and shapes
are matched strictly in both cases; there are no random weights to fall back on.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shared import checkpoint
from shared.errors import CheckpointError

from .anchors import KITTI_CLASSES, AnchorClass
from .grid import Grid
from .network import PointPillars, Widths

FORMAT = "pillars_rq base 1"
PUBLISHED = "https://github.com/zhulf0804/PointPillars/blob/main/pretrained/epoch_160.pth"
PUBLISHED_BLOB = "10d95c49a9a17d31b3750a282e33e2d7520d1c0c"  # git's name for the published bytes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Base:
    """A loaded detector. sha256: of the file. record: what the file says about itself ({} for a plain table)."""

    model: PointPillars
    path: Path
    sha256: str
    record: Mapping[str, Any]


def save_base(path: Path, model: PointPillars, *, step: int, config: Mapping | None = None, **more: Any) -> Path:
    """Write weights with grid, classes and widths, so that `load_base` needs nothing else; `more`: plain Python."""
    state = {
        "format": FORMAT,
        "model": model.state_dict(),
        "grid": model.grid.as_dict(),
        "classes": [one.as_dict() for one in model.classes],
        "widths": model.widths.as_dict(),
        **more,
    }
    return checkpoint.save(path, state, step=step, config=config, pointers=())


def load_base(path: Path | str, grid: Grid | None = None, classes: Sequence[AnchorClass] | None = None) -> Base:
    """The detector in a file, in eval mode and without gradients.

    grid, classes: for a plain table the ones it is used with (default KITTI's); for our own file, if given, the ones it
        has to agree with.

    Raises:
        CheckpointError: missing (the message names both remedies), damaged, of other names, shapes, grid or classes.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(missing_base(path))
    state = checkpoint.load_weights(path)
    record = {key: value for key, value in state.items() if key != "model"} if "format" in state else {}
    model = (
        _rebuilt(path, record, grid, classes)
        if record
        else PointPillars(grid or Grid.kitti(), classes or KITTI_CLASSES)
    )
    try:
        checkpoint.load_into(model, state.get("model", {}) if record else state)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is no base detector of this network: {error}\n  {_expected(model)}") from error
    if not record and git_blob_id(path) != PUBLISHED_BLOB:
        log.warning("%s fits by names and shapes, but its bytes are not those of the published epoch_160.pth", path)
    return Base(frozen(model), path, checkpoint.sha256_of(path), record)


def load_folded_encoder(model: PointPillars, path: Path | str) -> None:
    """Put a pillar encoder with its batch norm folded in (.npz: weight (D,9), bias (D,), float32) into a model.

    The first layer of the published network exists in this form, so real pillar features can be had
    without the whole of it. Meant for eval mode. Raises CheckpointError when the arrays have other shapes.
    """
    with np.load(path) as file:
        weight, bias = (torch.from_numpy(file[name]) for name in ("weight", "bias"))
    encoder = model.pillar_encoder
    state = {
        "conv.weight": weight[:, :, None],
        "bn.weight": torch.ones_like(bias),
        "bn.bias": bias,
        "bn.running_mean": torch.zeros_like(bias),
        "bn.running_var": torch.full_like(bias, 1 - encoder.bn.eps),  # eps is added before the root
        "bn.num_batches_tracked": torch.tensor(0),
    }
    checkpoint.load_into(encoder, state)


def missing_base(path: Path) -> str:
    """What to do when there are no base weights."""
    return (
        f"the base detector's weights {path} do not exist. Either put the published ones there (epoch_160.pth, about "
        f"19.4 MB: {PUBLISHED}), or train a base detector with `python train_pointpillars.py` and name its base.pth "
        "(model.pretrained_weight). Random weights are never used."
    )


def frozen(model: nn.Module) -> nn.Module:
    """Eval mode and no gradients. Whoever puts it into a larger module keeps `train()` from reaching it."""
    return model.eval().requires_grad_(False)


def git_blob_id(path: Path) -> str:
    """The name git gives a file's bytes: sha1 of "blob <size>" NUL <bytes>; it identifies, it does not protect."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _rebuilt(path: Path, record: Mapping, grid: Grid | None, classes: Sequence[AnchorClass] | None) -> PointPillars:
    if record["format"] != FORMAT:
        raise CheckpointError(f"{path} has the format {record['format']!r}; this code reads {FORMAT!r}: use the code "
                              "that wrote it, or train again")  # fmt: skip
    own_grid, own_classes = Grid(**record["grid"]), tuple(AnchorClass(**one) for one in record["classes"])
    _refuse_other(path, "grid", own_grid, grid)
    _refuse_other(path, "classes", own_classes, None if classes is None else tuple(classes))
    return PointPillars(own_grid, own_classes, Widths(**record["widths"]))


def _refuse_other(path: Path, what: str, recorded: Any, wanted: Any) -> None:
    if wanted is not None and recorded != wanted:
        raise CheckpointError(
            f"{path} was trained with another {what}: {recorded}, and this run has {wanted}. Use the configuration it "
            "was trained with, or train a base detector for this one: python train_pointpillars.py"
        )


def _expected(model: PointPillars) -> str:
    state: dict[str, Tensor] = model.state_dict()
    names = ", ".join(one.name for one in model.classes)
    return (
        f"expected: {len(state)} entries from {next(iter(state))} to {list(state)[-1]}, classes {names}, no wrapper "
        f"around them. The published file: {PUBLISHED}"
    )
