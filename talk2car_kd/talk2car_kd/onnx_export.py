"""The whole model as one ONNX graph: a picture and token ids in, a box out.

    image      (1, 3, H, W) float32   RGB in 0..1, resized to H x W; normalised inside the graph
    token_ids  (1, L) int64           CLIP's tokenizer, cut to L with [EOT] kept, padded with 0; the mask is made inside
 -> boxes_cxcywh (1, 4) float32       shares of the frame
    score_map    (1, h, w) float32    logits of the cells (not for the projection head)

The student's encoder, the frozen text tower and the head are in it; what Stage 2 never calls (the projection into the
teacher's space, the tower's own text projection) is not.

Nothing is written before ONNX Runtime has given PyTorch's numbers.
"""

# H, W input height and width; h, w cells; L tokens, always text_len of them.

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared import run as run_module
from shared.checkpoint import sha256_of, write_atomic
from shared.errors import ExportError
from shared.onnx_graphs import OPSET, session_of, to_onnx, versions

from .single import Grounder
from .student import parameter_count
from .teacher import token_tower

MODEL_NAME, RECORD_NAME, REPORT_NAME = "model.onnx", "export.json", "report.html"
# Two fp32 engines add in different orders: 1e-4 on logits of order 1..10 and on shares of the frame is some hundred
# roundings; a graph that computes something else is off by far more.
TOLERANCE = 1e-4
PARITY_COMMANDS = (
    "stop",
    "turn left",
    "park behind the red car on the right",
    "pull up next to the man in the white shirt, then wait until the truck in front of us has left",
    "follow the second black car from the left " * 12,  # longer than any tower reads: the ids are cut
)


class GroundingGraph(nn.Module):
    """Encoder, text tower and head behind the two inputs of the graph."""

    def __init__(self, grounder: Grounder):
        super().__init__()
        self.model, self.text = grounder.model, grounder.teacher.text
        self.register_buffer("mean", torch.tensor(grounder.record["mean"]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(grounder.record["std"]).view(1, 3, 1, 1))

    def forward(self, image: Tensor, token_ids: Tensor) -> tuple[Tensor, ...]:
        """image (1,3,H,W) in 0..1, token_ids (1,L) -> boxes_cxcywh (1,4) [, score_map (1,h,w)]."""
        end = token_ids.argmax(1, keepdim=True)  # [EOT] has the highest id
        mask = torch.arange(token_ids.shape[1], device=token_ids.device)[None] <= end
        states = token_tower(self.text, token_ids)
        output = self.model((image - self.mean) / self.std, states, mask, token_ids=token_ids)
        return tuple(output[name] for name in ("boxes_cxcywh", "score_map") if output[name] is not None)


def token_ids_of(grounder: Grounder, command: str) -> Tensor:
    """A command as the graph takes it: (1, text_len) int64, cut with [EOT] kept, padded with 0."""
    ids, length = grounder.teacher.tokenizer([command]), grounder.text_len
    if int(ids.argmax(1)) >= length:
        ids[:, length - 1] = ids.max()
    return F.pad(ids[:, :length], (0, max(0, length - ids.shape[1])))


@dataclass(frozen=True)
class Parity:
    """How far ONNX Runtime is from PyTorch: largest absolute differences over `inputs` inputs.

    The box is that of the best cell, so it jumps where two cells score alike: boxes are compared on the `decided`
    inputs only, whose best cell leads by more than twice the tolerance.
    """

    inputs: int
    decided: int
    tolerance: float
    max_abs_difference: dict[str, float]

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value:.1e}" for name, value in self.max_abs_difference.items())
        return f"{parts} (at most {self.tolerance:.0e}; {self.inputs} inputs, {self.decided} with a clear best cell)"


def build_onnx(grounder: Grounder) -> bytes:
    """The graph, serialised. UserError without the `export` extra."""
    graph = GroundingGraph(grounder).eval()
    example = {"image": torch.zeros(1, 3, *grounder.input_hw), "token_ids": token_ids_of(grounder, "stop")}
    with torch.no_grad():
        count = len(graph(*example.values()))
    return to_onnx(graph, example, ["boxes_cxcywh", "score_map"][:count])


def parity_inputs(grounder: Grounder, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Seeded pictures, from smooth to noise, each with one of the commands, from one word to too many."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for number, command in enumerate(PARITY_COMMANDS):
        cells = [max(2, side >> (len(PARITY_COMMANDS) - 1 - number)) for side in grounder.input_hw]
        coarse = torch.rand(1, 3, *cells, generator=generator)
        image = F.interpolate(coarse, grounder.input_hw, mode="bilinear", align_corners=False)
        pairs.append((image, token_ids_of(grounder, command)))
    return pairs


def check_parity(onnx_bytes: bytes, grounder: Grounder, tolerance: float = TOLERANCE) -> Parity:
    """Run graph and PyTorch on the same inputs; ExportError when they differ by more than `tolerance`."""
    session = session_of(onnx_bytes)
    graph = GroundingGraph(grounder).eval()
    largest = {output.name: 0.0 for output in session.get_outputs()}
    pairs, decided = parity_inputs(grounder), 0
    for image, ids in pairs:
        found = session.run(None, {"image": image.numpy(), "token_ids": ids.numpy()})
        with torch.no_grad():
            wanted = dict(zip(largest, graph(image, ids), strict=True))
        clear = has_clear_best(wanted.get("score_map"), 2 * tolerance)
        decided += clear
        for (name, want), got in zip(wanted.items(), found, strict=True):
            if name == "score_map" or clear:
                largest[name] = max(largest[name], float(np.abs(want.numpy() - got).max()))
    parity = Parity(len(pairs), decided, tolerance, largest)
    if not decided or not all(value <= tolerance for value in largest.values()):  # NaN is not within it either
        raise ExportError(
            f"{grounder.path}: ONNX Runtime does not give PyTorch's numbers: {parity}. Nothing was exported. If NaN is "
            "among them the weights are bad: train again; else use the versions of torch, onnx, onnxscript and "
            "onnxruntime that the lock names."
        )
    return parity


def has_clear_best(score_map: Tensor | None, margin: float) -> bool:
    """Whether the best cell leads by more than `margin`; a head without cells always answers clearly."""
    if score_map is None:
        return True
    first, second = score_map.flatten().topk(2).values.tolist()
    return first - second > margin


def sizes_of(grounder: Grounder) -> dict[str, int]:
    """Parameters of what the graph holds, part by part, and their sum."""
    encoder, text = grounder.model.encoder, grounder.teacher.text
    parts = {
        "student_tower": parameter_count(encoder) - parameter_count(encoder.projection),
        "head": parameter_count(grounder.model.head),
        "text_tower": sum(p.numel() for p in text_parameters(text)),
    }
    return {**parts, "total": sum(parts.values())}


def text_parameters(text: nn.Module) -> list[Tensor]:
    """What `token_tower` uses of a text tower (or of a CLIP model that is its own text tower)."""
    return [text.token_embedding.weight, text.positional_embedding, *text.transformer.parameters(),
            *text.ln_final.parameters()]  # fmt: skip


def write_export(
    grounder: Grounder, folder: Path, tolerance: float = TOLERANCE, measured: Callable[[], dict] | None = None
) -> dict:
    """Write `folder`/model.onnx and, last, export.json, which completes it; returns the record.

    measured: asked, once the graph has proved right, for what the record shall say of speed. An earlier export is
    removed first: after a failure or a kill there is no file that looks like this one.
    """
    for name in (REPORT_NAME, RECORD_NAME, MODEL_NAME):
        (folder / name).unlink(missing_ok=True)
    onnx_bytes = build_onnx(grounder)
    run_module.check()
    parity = check_parity(onnx_bytes, grounder, tolerance)
    speed = measured() if measured else None
    path = write_atomic(folder / MODEL_NAME, onnx_bytes)
    record = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint": {"path": str(grounder.path), "sha256": sha256_of(grounder.path)},
        "teacher": grounder.record["teacher"],
        "mark": grounder.mark,
        "file": {"name": MODEL_NAME, "bytes": len(onnx_bytes), "sha256": sha256_of(path), "opset": OPSET},
        "inputs": {
            "image": {"shape": [1, 3, *grounder.input_hw], "type": "float32",
                      "meaning": "RGB in 0..1, resized to H x W; normalised inside the graph"},
            "token_ids": {"shape": [1, grounder.text_len], "type": "int64",
                          "meaning": "CLIP tokenizer, cut with [EOT] kept, padded with 0"},
        },
        "outputs": {"boxes_cxcywh": "centre and size, shares of the frame", "score_map": "logits of the cells"},
        "frame_wh": list(grounder.config.stage2.frame_wh),
        "parameters": sizes_of(grounder),
        "parity": asdict(parity),
        "latency": speed,
        "versions": versions(),
    }  # fmt: skip
    write_atomic(folder / RECORD_NAME, json.dumps(record, indent=1) + "\n")
    return record


def describe(record: dict) -> str:
    """The sizes as a table, parts apart."""
    counts = record["parameters"]
    lines = [f"{name.replace('_', ' '):14s}{count / 1e6:9.2f} M parameters {4 * count / 2**20:9.1f} MiB in fp32"
             for name, count in counts.items()]  # fmt: skip
    return "\n".join([*lines, f"{MODEL_NAME:14s}{record['file']['bytes'] / 2**20:31.1f} MiB"])
