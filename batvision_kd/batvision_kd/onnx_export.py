"""The student as one ONNX graph, for listening without PyTorch.

    audio (1,C,H,W) float32     spectrogram as the student was trained on (its settings stand in the record)
 -> depth (1,1,H',W') float32   metres

    record = write_export(model, folder, audio_shape=(2, 256, 256), card=card)      student.onnx and export.json

Nothing is written before ONNX Runtime has given PyTorch's depths on seeded inputs.
"""

# C channels, H, W frequency rows and time columns, H', W' height and width of the depth map.

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shared.errors import ExportError
from shared.onnx_graphs import OPSET, session_of, to_onnx, versions
from shared.storage import sha256_of, write_atomic

MODEL_NAME, RECORD_NAME = "student.onnx", "export.json"
# Relative to the depth: two fp32 engines add in different orders, some hundred roundings of 6e-8; a graph that computes
# something else is off by far more.
TOLERANCE = 1e-4
PARITY_INPUTS = 4


@dataclass(frozen=True)
class Parity:
    """How far ONNX Runtime is from PyTorch: the largest |difference| / depth over all pixels of `inputs` inputs."""

    inputs: int
    max_relative_difference: float
    tolerance: float

    def __str__(self) -> str:
        found = f"{self.max_relative_difference:.1e} of the depth at most"
        return f"{found} (allowed {self.tolerance:.0e}, {self.inputs} inputs)"


def build_onnx(model: nn.Module, audio_shape: Sequence[int]) -> bytes:
    """The graph of a student for inputs (1, *audio_shape), serialised. UserError without the `export` extra."""
    return to_onnx(model.cpu().float(), {"audio": torch.zeros(1, *audio_shape)}, ["depth"])


def parity_inputs(audio_shape: Sequence[int], seed: int = 0) -> list[Tensor]:
    """Seeded spectrograms (1, *audio_shape) in 0..1: noise, fading in time, one ear silent, both silent."""
    noise = torch.rand(1, *audio_shape, generator=torch.Generator().manual_seed(seed))
    fading = noise * torch.linspace(1, 0, audio_shape[-1])
    one_ear = noise.clone()
    one_ear[:, 1] = 0
    return [noise, fading, one_ear, torch.zeros_like(noise)][:PARITY_INPUTS]


@torch.no_grad()
def check_parity(
    onnx_bytes: bytes, model: nn.Module, audio_shape: Sequence[int], tolerance: float = TOLERANCE
) -> Parity:
    """Run graph and PyTorch on the same inputs; ExportError when they differ by more than `tolerance`."""
    session = session_of(onnx_bytes)
    inputs, largest = parity_inputs(audio_shape), 0.0
    for audio in inputs:
        wanted = model(audio).numpy()
        found = session.run(["depth"], {"audio": audio.numpy()})[0]
        largest = float(np.maximum(largest, np.abs(found / wanted - 1).max()))  # np.maximum hands a NaN on
    parity = Parity(len(inputs), largest, tolerance)
    if not largest <= tolerance:  # NaN is not within it either
        raise ExportError(
            f"the export fails: ONNX Runtime does not give PyTorch's depths: {parity}. Nothing was written; try other "
            "versions of torch and onnxruntime (the lock's are known to agree)"
        )
    return parity


def write_export(
    model: nn.Module, folder: Path, *, audio_shape: Sequence[int], card: Mapping[str, Any], tolerance: float = TOLERANCE
) -> dict[str, Any]:
    """Write folder/student.onnx and, last, export.json, which completes it; returns the record.

    `card` (JSON data) says how to make the input: spectrogram settings, greatest depth, where the weights come from. An
    earlier export is removed first: after a failure or a kill there is no file that looks like this one. Raises
    UserError without the extra, ExportError when the graph does not give PyTorch's depths, StorageError.
    """
    for name in (RECORD_NAME, MODEL_NAME):
        (folder / name).unlink(missing_ok=True)
    onnx_bytes = build_onnx(model, audio_shape)
    parity = check_parity(onnx_bytes, model, audio_shape, tolerance)
    folder.mkdir(parents=True, exist_ok=True)
    path = write_atomic(folder / MODEL_NAME, onnx_bytes)
    record = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "file": {"name": MODEL_NAME, "bytes": len(onnx_bytes), "sha256": sha256_of(path), "opset": OPSET},
        "input": {"name": "audio", "shape": [1, *audio_shape], "type": "float32"},
        "output": {"name": "depth", "unit": "metres", "type": "float32"},
        "parameters": sum(p.numel() for p in model.parameters()),
        "parity": asdict(parity),
        "versions": versions(),
        "card": dict(card),
    }
    write_atomic(folder / RECORD_NAME, json.dumps(record, indent=1, allow_nan=False) + "\n")
    return record
