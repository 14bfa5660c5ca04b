"""How sure the student is of each pixel, in units that can be checked: the chance of being within a factor of 1.25.

    depth, disagreement = predict_with_disagreement(model, audio, swap)     a second pass with the ears exchanged
    calibration = calibrate(disagreement, correct)                          once, on validation pixels
    confidence = calibration(disagreement)                                  0..1 per pixel

A mirrored room is a room: exchanging the ears must mirror the depth map. Where the student breaks that law, it guesses;
u = |ln p - ln mirrored p'| measures by how much. No weight is trained for it. Calibration turns u into a chance: the
validation pixels are cut into bins of equal count by u, the share of correct pixels (delta < 1.25) is taken in each,
and neighbours that would rise with u are pooled (isotonic regression by pooling adjacent violators, Ayer et al. 1955).
It is fitted on validation alone; `reliability` on test data says whether it holds there. A student that is wrong in
both ears alike (a room it has never heard the like of) is sure of it: agreement is evidence, not proof.
"""

# B batch, C channels, H, W height and width, n pixels, k bins.

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn

from shared.errors import UserError

from .losses.response import flip_disagreement

BINS = 20
CORRECT_FACTOR = 1.25  # the first threshold of delta; strict, as in the metrics


@dataclass(frozen=True)
class Calibration:
    """From disagreement to confidence: `confidence[i]` holds from edges[i-1] (0 before the first) up to edges[i]."""

    edges: tuple[float, ...]  # k-1, rising
    confidence: tuple[float, ...]  # k, falling
    pixels: int  # that it was fitted on

    def __call__(self, disagreement: Tensor) -> Tensor:
        """Any shape, >= 0 -> the same shape, float32 in 0..1."""
        edges, levels = (torch.tensor(x, device=disagreement.device) for x in (self.edges, self.confidence))
        return levels[torch.bucketize(disagreement.float(), edges, right=True)]

    def to_dict(self) -> dict:
        """JSON data."""
        return {name: list(x) if isinstance(x, tuple) else x for name, x in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict) -> "Calibration":
        return cls(tuple(data["edges"]), tuple(data["confidence"]), int(data["pixels"]))


@torch.no_grad()
def predict_with_disagreement(
    model: nn.Module, audio: Tensor, swap: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Depth (B,1,H,W) metres and disagreement (B,1,H,W) of a model in eval mode, in one pass over twice the batch.

    audio (B,C,H,W); `swap` exchanges the ears of such an input (for channels beyond the two ears use
    `spectrogram.swap_ears` with its settings; None exchanges the two channels). ValueError when None does not do.
    """
    if swap is None and audio.shape[1] != 2:
        raise ValueError(f"an input of {audio.shape[1]} channels: give `swap`, which knows what the others mean")
    swapped = audio.flip(1) if swap is None else swap(audio)
    depth, mirrored = model(torch.cat([audio, swapped])).chunk(2)
    return depth, flip_disagreement(depth, mirrored.flip(-1))


def is_correct(prediction: Tensor, depth: Tensor, valid: Tensor) -> Tensor:
    """(n,) bool over the valid pixels: within a factor of 1.25 of the measurement."""
    p, g = prediction[valid], depth[valid]
    return torch.maximum(p / g, g / p) < CORRECT_FACTOR


def calibrate(disagreement: Tensor, correct: Tensor, bins: int = BINS) -> Calibration:
    """Fit on validation pixels: disagreement (n,) >= 0, correct (n,) bool. UserError with fewer pixels than bins."""
    u, hit = (x.detach().cpu().numpy().astype(np.float64) for x in (disagreement.flatten(), correct.flatten()))
    if u.shape != hit.shape:
        raise ValueError(f"{u.size} disagreements and {hit.size} verdicts: one each per pixel")
    if len(u) < bins:
        raise UserError(f"{len(u)} validation pixels cannot fill {bins} bins of confidence: give more validation data")
    edges = np.unique(np.quantile(u, np.linspace(0, 1, bins + 1)[1:-1]).astype(np.float32))
    index = np.searchsorted(edges, u.astype(np.float32), side="right")
    counts = np.bincount(index, minlength=len(edges) + 1)
    hits = np.bincount(index, weights=hit, minlength=len(edges) + 1)
    filled = counts > 0
    edges = edges[filled[:-1]] if filled[-1] else edges[filled[:-1]][:-1]
    levels = falling(hits[filled] / counts[filled], counts[filled])
    return Calibration(tuple(map(float, edges)), tuple(map(float, levels)), len(u))


def falling(values: Sequence[float], weights: Sequence[float]) -> np.ndarray:
    """The nearest falling sequence in weighted least squares, by pooling adjacent violators."""
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values, weights, strict=True):
        mean, total, length = float(value), float(weight), 1
        while blocks and blocks[-1][0] < mean:
            before, heavy, long = blocks.pop()
            mean, total, length = (before * heavy + mean * total) / (heavy + total), heavy + total, long + length
        blocks.append((mean, total, length))
    return np.repeat([b[0] for b in blocks], [b[2] for b in blocks])


def reliability(confidence: Tensor, correct: Tensor, bins: int = 10) -> dict:
    """Whether confidence is what it says, on pixels it was not fitted on; confidence (n,) in 0..1, correct (n,) bool.

    Returns {"table": rows of {"confidence", "correct", "pixels"}, "calibration_error": mean |difference| over pixels,
    "kept_half": share correct of the surer half, "all": share correct}. ValueError without pixels.
    """
    c, hit = (x.detach().cpu().numpy().astype(np.float64).ravel() for x in (confidence, correct))
    if not c.size:
        raise ValueError("reliability needs at least one pixel")
    index = np.minimum((c * bins).astype(int), bins - 1)
    rows = [{"confidence": float(c[index == i].mean()), "correct": float(hit[index == i].mean()),
             "pixels": int((index == i).sum())} for i in range(bins) if (index == i).any()]  # fmt: skip
    error = sum(abs(row["confidence"] - row["correct"]) * row["pixels"] for row in rows) / c.size
    surer = np.argsort(-c, kind="stable")[: (c.size + 1) // 2]
    return {"table": rows, "calibration_error": error, "kept_half": float(hit[surer].mean()), "all": float(hit.mean())}
