"""Head and tail as two ONNX graphs, each checked against PyTorch in ONNX Runtime before it counts.

    python -m pillars_rq.onnx_export base_results/embedded/base.pth --out onnx

    headnet.onnx   points (P,M,4) float32, counts (P,) int64, cells (P,2) int64 y, x -> features (P,D) float32
    tailnet.onnx   canvas (B,D,H,W) float32 -> cls, reg, dir maps (pillars_rq.network.Predictions)

P and B are free. Between the two lies what the edge sends and the server rebuilds; scatter and decoding stay in Python.
"""

# B frames, P pillars, M points of a pillar, D channels, H x W cells

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from shared.checkpoint import sha256_of, write_atomic
from shared.errors import ExportError
from shared.onnx_graphs import OPSET, require_extra, session_of, to_onnx, versions
from shared.run import run_command
from shared.storage import make_folder

from .network import PointPillars, Predictions
from .weights import load_base

HEAD, TAIL, RECORD = "headnet.onnx", "tailnet.onnx", "export.json"
# Two fp32 engines add in different orders: relative to the largest value of an output some hundred roundings.
TOLERANCE = 1e-4
PARITY_PILLARS = (1, 5, 40)  # another number than that of the example, one too


class HeadGraph(nn.Module):
    """The pillar encoder behind plain tensors, in its form of fixed shape: all slots, the empty ones too."""

    def __init__(self, model: PointPillars):
        super().__init__()
        self.encoder = model.pillar_encoder

    def forward(self, points: Tensor, counts: Tensor, cells: Tensor) -> Tensor:
        return self.encoder.every_slot(points, counts, cells)


class TailGraph(nn.Module):
    """Backbone, neck and head."""

    def __init__(self, model: PointPillars):
        super().__init__()
        self.backbone, self.neck, self.head = model.backbone, model.neck, model.head

    def forward(self, canvas: Tensor) -> Predictions:
        return self.head(self.neck(self.backbone(canvas)))


@dataclass(frozen=True)
class Parity:
    """Largest absolute difference to PyTorch over the largest value, for each output; `tolerance` is its bound."""

    inputs: int
    tolerance: float
    relative_difference: dict[str, float]

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value:.1e}" for name, value in self.relative_difference.items())
        return f"{parts} (at most {self.tolerance:.0e}; {self.inputs} inputs)"


def write_onnx(
    model: PointPillars, folder: Path, tolerance: float = TOLERANCE, *, weights_sha256: str | None = None
) -> dict:
    """Write both graphs and, last, export.json with sizes, hashes and parity; returns the record.

    weights_sha256: of the file the model came from, for the record.

    Raises UserError without the `export` extra, StorageError when the file system refuses, ExportError when ONNX
    Runtime does not give PyTorch's numbers (then nothing is written).
    """
    require_extra()
    make_folder(folder)
    model = model.eval()
    graphs = {HEAD: build_head(model), TAIL: build_tail(model)}
    parity = {
        HEAD: check_parity(graphs[HEAD], HeadGraph(model), head_inputs(model), tolerance),
        TAIL: check_parity(graphs[TAIL], TailGraph(model), tail_inputs(model), tolerance),
    }
    record = {
        "opset": OPSET,
        "weights_sha256": weights_sha256,
        "grid": model.grid.as_dict(),
        "classes": [one.as_dict() for one in model.classes],
        "parity": {name: asdict(one) for name, one in parity.items()},
        "versions": versions(),
        "files": {},
    }
    for name, graph in graphs.items():
        path = write_atomic(folder / name, graph)
        record["files"][name] = {"bytes": len(graph), "sha256": sha256_of(path)}
    write_atomic(folder / RECORD, json.dumps(record, indent=1) + "\n")
    return record


def build_head(model: PointPillars) -> bytes:
    pillars = torch.export.Dim("pillars", min=1)
    names = {"points": {0: pillars}, "counts": {0: pillars}, "cells": {0: pillars}}
    return to_onnx(HeadGraph(model), next(head_inputs(model, (7,))), ["features"], names)


def build_tail(model: PointPillars) -> bytes:
    canvas = torch.zeros(2, model.widths.pillar, model.grid.height, model.grid.width)
    names = {"canvas": {0: torch.export.Dim("frames", min=1)}}
    return to_onnx(TailGraph(model), {"canvas": canvas}, list(Predictions._fields), names)


def head_inputs(model: PointPillars, pillars: tuple[int, ...] = PARITY_PILLARS) -> Iterator[dict[str, Tensor]]:
    """Seeded pillars with points in their cells, some slots empty."""
    grid, generator = model.grid, torch.Generator().manual_seed(0)
    for number in pillars:
        cells = torch.stack(
            [torch.randint(size, (number,), generator=generator) for size in (grid.height, grid.width)], 1
        )
        counts = torch.randint(1, grid.max_points + 1, (number,), generator=generator)
        low, size = torch.tensor(grid.range_m[:3]), torch.tensor(grid.voxel_m)
        corner = torch.cat([cells.flip(1), torch.zeros(number, 1)], 1) * size + low
        inside = torch.rand(number, grid.max_points, 4, generator=generator)
        points = torch.cat([corner[:, None] + inside[..., :3] * size, inside[..., 3:]], 2)
        occupied = torch.arange(grid.max_points) < counts[:, None]
        yield {"points": points * occupied[..., None], "counts": counts, "cells": cells}


def tail_inputs(model: PointPillars) -> Iterator[dict[str, Tensor]]:
    """An empty canvas, and a batch of three with some cells occupied."""
    generator = torch.Generator().manual_seed(0)
    shape = (model.widths.pillar, model.grid.height, model.grid.width)
    yield {"canvas": torch.zeros(1, *shape)}
    occupied = torch.rand(3, 1, *shape[1:], generator=generator) < 0.03
    yield {"canvas": torch.rand(3, *shape, generator=generator) * occupied}


@torch.no_grad()
def check_parity(
    onnx_bytes: bytes, graph: nn.Module, inputs: Iterable[Mapping[str, Tensor]], tolerance: float = TOLERANCE
) -> Parity:
    """Run ONNX Runtime and PyTorch on the same inputs; ExportError when they differ by more than `tolerance`."""
    session = session_of(onnx_bytes)
    names = [output.name for output in session.get_outputs()]
    worst, inputs = dict.fromkeys(names, 0.0), list(inputs)
    for one in inputs:
        found = session.run(None, {name: value.numpy() for name, value in one.items()})
        wanted = graph.eval()(*one.values())
        wanted = (wanted,) if isinstance(wanted, Tensor) else wanted
        for name, want, got in zip(names, wanted, found, strict=True):
            difference = np.abs(want.numpy() - got).max() / max(float(want.abs().max()), 1e-6)
            worst[name] = max(worst[name], float(difference)) if np.isfinite(difference) else float("nan")
    parity = Parity(len(inputs), tolerance, worst)
    if not all(value <= tolerance for value in worst.values()):  # NaN is not within it either
        raise ExportError(f"ONNX Runtime does not give PyTorch's numbers: {parity}. Nothing was exported.")
    return parity


# --- the command ------------------------------------------------------------------------------------------------------


def export(weights: Path, folder: Path) -> int:
    """Write the graphs of a base detector's file; print each one's size and parity."""
    base = load_base(weights)
    record = write_onnx(base.model, folder, weights_sha256=base.sha256)
    for name, file in record["files"].items():
        print(f"{folder / name}  {file['bytes']:,} bytes  difference to PyTorch: {Parity(**record['parity'][name])}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pillars_rq.onnx_export", description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path, help="base.pth of train_pointpillars.py, or epoch_160.pth")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the two graphs go")
    args = parser.parse_args(argv)
    return run_command(lambda: export(args.weights, args.out))


if __name__ == "__main__":
    sys.exit(main())
