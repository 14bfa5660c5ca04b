"""One batch through the bottleneck that is being trained: residuals, codes, looked-up rows, and the loss terms.

    codebook loss   mean (sg[residual] - row)^2       the whole sum's distortion, since earlier books are frozen
    vq              the same value as commitment; no gradient: the encoder is frozen. Logged only
    det             cls + 2 reg + 0.2 dir of the frozen tail on the sum of the looked-up rows

The tail sees q = sum of rows, never x + sg(q - x): only so does the detection loss reach the rows.
Every vector's earlier books are cut at a size drawn from the schedule, so that one book fits behind all of them; the
draws follow from (seed, stage, epoch, frame), whatever the number of processes or workers.
"""

# P pillars, D channels, K rows, n books, B frames

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shared.run import World

from .batches import DetectionBatch
from .detection_loss import WEIGHTS, detection_losses
from .detector import FrozenDetector
from .progressive import Stage
from .rq.codebooks import ResidualQuantizer
from .rq.losses import codebook_loss, commitment_loss, joint_codebook_loss
from .targets import assign_targets

EACH_ONCE = slice(None)  # every vector counts alike


@dataclass(frozen=True, eq=False)
class Bottled:
    """quantized (P,D), with gradient to the new rows. residuals and codes: of each book that is trained, {book: (P,D)}
    and {book: (P,)}. codebook: the codebook loss, a scalar with gradient."""

    quantized: Tensor
    residuals: Mapping[int, Tensor]
    codes: Mapping[int, Tensor]
    codebook: Tensor


def generator_of(*key: int | str) -> torch.Generator:
    """A generator that follows from the key alone."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    return torch.Generator().manual_seed(int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1))


def sizes_behind(
    quantizer: ResidualQuantizer, stage: Stage, batch: DetectionBatch, seed: int, epoch: int
) -> Tensor | int:
    """Rows of the earlier books that each vector sees, (P,) int64; 0 where there is no earlier book to cut."""
    if stage.legacy or stage.codebook == 0:
        return 0
    counts = torch.bincount(batch.pillars.coords[:, 0], minlength=batch.pillars.batch_size).tolist()
    drawn = [
        quantizer.draw_sizes(count, generator_of(seed, stage.number, epoch, frame_id))
        for frame_id, count in zip(batch.frame_ids, counts, strict=True)
    ]
    return torch.cat(drawn)


def bottle(
    quantizer: ResidualQuantizer,
    stage: Stage,
    features: Tensor,
    sizes: Tensor | int,
    counted: Tensor | slice = EACH_ONCE,
    coords: Tensor | None = None,
    alone: bool = False,
) -> Bottled:
    """Quantize features (P,D) with the books so far, the last one (in legacy mode: all) being trained.

    counted: the vectors that the codebook loss is the mean over (`sensitivity.counted`). coords (P,3): their cells, for
    books that choose the codes of a frame together; None: each vector by itself. alone: so too in the book that is
    being trained, for averages of what is nearest.
    """
    if stage.legacy:
        return _bottle_jointly(quantizer, stage, features, counted, coords)
    book = stage.codebook
    scene = None if alone and book == 0 else quantizer.scene(features, coords)
    residual = quantizer.residual(features, book, sizes if isinstance(sizes, int) else sizes.to(features.device), scene)
    rows = quantizer.rows(book)
    codes = quantizer.nearest(residual, book, scene=None if alone else scene)
    looked_up = torch.nn.functional.embedding(codes, rows)
    return Bottled((features - residual) + looked_up, {book: residual}, {book: codes},
                   codebook_loss(residual[counted], looked_up[counted]))  # fmt: skip


def _bottle_jointly(quantizer: ResidualQuantizer, stage: Stage, features: Tensor, counted, coords) -> Bottled:
    codes = quantizer.search(features, [stage.size] * stage.n, coords=coords)
    with torch.no_grad():
        residuals = {book: features - quantizer.decode(codes, book) for book in stage.books}
    by_book = {book: codes[:, book] for book in stage.books}
    codebook = joint_codebook_loss(features[counted], codes[counted], quantizer)
    return Bottled(quantizer.decode(codes), residuals, by_book, codebook)


def distortion_terms(bottled: Bottled, features: Tensor, counted: Tensor | slice = EACH_ONCE) -> dict[str, Tensor]:
    return {"vq": commitment_loss(features[counted], bottled.quantized[counted]), "codebook": bottled.codebook}


def without_gradient(terms: Mapping[str, Tensor], rows: Sequence[Tensor]) -> dict[str, Tensor]:
    """The same values, whose gradient towards the rows is zero: the optimizer's step then moves nothing."""
    nothing = sum(row.sum() * 0.0 for row in rows)
    return {name: term.detach() + nothing for name, term in terms.items()}


def detection_term(detector: FrozenDetector, batch: DetectionBatch, quantized: Tensor) -> tuple[Tensor, Tensor]:
    """(the weighted detection loss, the positives it was divided by): scalars."""
    predictions = detector.tail(quantized, batch.pillars.coords, batch.pillars.batch_size)
    targets = assign_targets(detector.anchors, batch.boxes, batch.labels, detector.model.classes)
    terms = detection_losses(predictions, targets)
    return sum(WEIGHTS[name] * terms[name] for name in WEIGHTS), targets.positive.sum()


def over_processes(
    world: World, terms: Mapping[str, Tensor], frames: int, pillars: int, positives: Tensor | None
) -> dict[str, Tensor]:
    """Terms scaled so that their frame-weighted mean over the processes is the loss of one process with all frames:
    distortion divided by all pillars, detection by all positives. Collective; unchanged for one process.
    """
    if world.size == 1:
        return dict(terms)
    device = next(iter(terms.values())).device
    own = torch.stack([
        torch.tensor(float(frames), device=device),
        torch.tensor(float(pillars), device=device),
        torch.zeros((), device=device) if positives is None else positives.float(),
    ])  # fmt: skip
    total = world.sum(own)
    share = own.clamp(min=1) / total.clamp(min=1) * (total[0] / own[0])
    return {name: term * share[2 if name == "det" else 1] for name, term in terms.items()}
