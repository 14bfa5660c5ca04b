"""OpenPCDet's VoxelNeXt checkpoints as ours: names, spconv's weight layouts, and a report.

    python -m voxel_mae.convert voxelnext_kitti.pth converted.pth
    python tools/train.py --cfg_file ... --pretrained_model converted.pth

Names are the same (`backbone_3d.conv1.0.conv1.weight`, `dense_head.heads_list.0.hm.1.weight`). What differs is how a
sparse convolution's weight lies in the file:

    spconv 1.x    (k, k, k, in, out)        moved to (out, k, k, k, in)
    spconv 2.x    (out, k, k, k, in)        taken as it is

One file has one layout, found from its kernels of 3. A kernel of 1 becomes a Linear layer's (out, in); spconv reads
the memory of such a weight as [in, out] whatever its shape says (measured on spconv 2.3.6, default algorithm and
Native), so that is how it is taken over. OpenPCDet states no grid in a checkpoint: the caller's configuration must have
the one it was trained with.
"""

import argparse
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from shared import checkpoint
from shared.errors import CheckpointError
from shared.run import run_command

from .transfer import BACKBONE, FIRST_LAYER, HEAD, OPENPCDET_COUNTER, SHOWN, detector_state

log = logging.getLogger(__name__)

Layout = Literal["spconv 1.x", "spconv 2.x"]
KERNEL = 3


@dataclass(frozen=True)
class ConversionReport:
    """layout: of the file; moved: names whose memory was rearranged; kept: taken as they are; dropped: not ours."""

    layout: Layout
    point_features: int
    moved: tuple[str, ...]
    kept: tuple[str, ...]
    dropped: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"layout {self.layout}, {self.point_features} point features: {len(self.moved)} weights rearranged, "
            f"{len(self.kept)} tensors as they are, {len(self.dropped)} dropped"
        ]
        if self.dropped:
            more = f", and {len(self.dropped) - SHOWN} more" if len(self.dropped) > SHOWN else ""
            lines.append(f"dropped (neither backbone nor head): {', '.join(self.dropped[:SHOWN])}{more}")
        return "\n  ".join(lines)


def convert_state(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], ConversionReport]:
    """OpenPCDet's `model_state` -> ours (backbone and head), and what was done.

    Raises CheckpointError when the file's convolutions have no layout known here, or contradict each other.
    """
    ours = {name: value for name, value in state.items() if name.startswith((BACKBONE, HEAD))}
    layout = find_layout(ours)
    converted = {name: _converted(value, layout).contiguous() for name, value in ours.items()}
    moved = tuple(name for name in ours if _is_moved(ours[name], layout))
    report = ConversionReport(
        layout=layout,
        point_features=converted[FIRST_LAYER].shape[-1] if FIRST_LAYER in converted else 0,
        moved=moved,
        kept=tuple(name for name in ours if name not in moved),
        dropped=tuple(name for name in state if name not in ours and name != OPENPCDET_COUNTER),
    )
    return converted, report


def find_layout(state: Mapping[str, Tensor]) -> Layout:
    """Which spconv wrote the file. Kernels of 3 decide; one whose channels are 3 too says nothing and is passed over.

    Raises CheckpointError when no layout fits, or more than one.
    """
    kernels = {name: value for name, value in state.items() if _is_convolution(value) and not _may_be_pointwise(value)}
    votes = {name: found for name, value in kernels.items() if len(found := _layouts(value)) != 2}
    strange = next((name for name, found in votes.items() if not found), None)
    if strange is not None:
        raise CheckpointError(
            f"`{strange}` has shape {tuple(state[strange].shape)}: neither spconv 1.x's (k, k, k, in, out) nor 2.x's "
            "(out, k, k, k, in). Is this a VoxelNeXt checkpoint of OpenPCDet?"
        )
    layouts = {found[0] for found in votes.values()}
    if len(layouts) != 1:
        state_of = f"{len(votes)} sparse convolutions that name {' and '.join(sorted(layouts)) or 'no layout'}"
        raise CheckpointError(f"the checkpoint has {state_of}: one file has one layout; was it put together by hand?")
    return layouts.pop()


def _is_convolution(value: Tensor) -> bool:
    return value.ndim in (4, 5)


def _layouts(value: Tensor) -> list[Layout]:
    """The layouts that a weight's shape agrees with."""
    shape, axes = tuple(value.shape), value.ndim - 2
    found: list[Layout] = ["spconv 1.x"] if set(shape[:axes]) == {KERNEL} else []
    return found + (["spconv 2.x"] if set(shape[1 : axes + 1]) == {KERNEL} else [])


def _may_be_pointwise(value: Tensor) -> bool:
    """A kernel of 1 in some layout: such a shape says nothing of the layout."""
    axes = value.ndim - 2
    return 1 in (math.prod(value.shape[:axes]), math.prod(value.shape[1 : axes + 1]))


def _is_pointwise(value: Tensor, layout: Layout) -> bool:
    axes = value.ndim - 2
    kernel = value.shape[:axes] if layout == "spconv 1.x" else value.shape[1 : axes + 1]
    return _is_convolution(value) and math.prod(kernel) == 1


def _is_moved(value: Tensor, layout: Layout) -> bool:
    return _is_convolution(value) and (layout == "spconv 1.x" or _is_pointwise(value, layout))


def _converted(value: Tensor, layout: Layout) -> Tensor:
    if not _is_convolution(value):
        return value
    if _is_pointwise(value, layout):
        inputs, outputs = value.shape[-2:] if layout == "spconv 1.x" else (value.shape[-1], value.shape[0])
        return value.reshape(inputs, outputs).T
    return value.movedim(-1, 0) if layout == "spconv 1.x" else value


def convert_file(source: Path, destination: Path, sha256: str | None = None) -> ConversionReport:
    """Read OpenPCDet's file, write ours with its manifest; the report is in the manifest too.

    Raises CheckpointError (unreadable, refused, another layout) or StorageError.
    """
    if source.resolve() == destination.resolve():
        raise CheckpointError(f"{destination} is the source itself: write the converted weights elsewhere.")
    state, report = convert_state(detector_state(checkpoint.load_weights(source, sha256), source))
    destination.parent.mkdir(parents=True, exist_ok=True)
    origin = {"converted_from": source.name, "layout": report.layout, "dropped": list(report.dropped)}
    content = {"model_state": state, "epoch": 0, "it": 0, "version": "voxel_mae, converted from OpenPCDet"}
    checkpoint.save(destination, content, step=0, pointers=(), extra=origin)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m voxel_mae.convert", description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="OpenPCDet's checkpoint (.pth)")
    parser.add_argument("destination", type=Path, help="where to write ours")
    parser.add_argument("--sha256", help="the source's sha256, to verify it")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return run_command(lambda: print(convert_file(chosen.source, chosen.destination, chosen.sha256)))


if __name__ == "__main__":
    sys.exit(main())
