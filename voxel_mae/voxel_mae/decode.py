"""From the head's answers at active sites to boxes in metres, without or with non-maximum suppression (A15).

NMS-free (the default): a site stands for an object of a class when no ACTIVE neighbour in its 3 x 3 window scores
higher for that class. The neighbours are found by their keys, so that no layer of spconv is needed: its sparse max-pool
changes the set of sites, starts at 0 and has no submanifold form. Of equal scores the first site in (y, x) stands.
"""

# S active sites of the batch, C classes of a head, D detections of a sample

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.errors import ConfigError

from .assignment import BevMap
from .boxes import nms_rotated
from .detection_loss import codes_of
from .keys import look_up, shifts, site_keys

LOG_SIZE_LIMIT = 5.0  # sizes are exp of at most this: 148 m


@dataclass(frozen=True)
class DecodeSettings:
    """POST_PROCESSING of the head.

    centre_range_m: x, y, z from and to, in which a centre must lie. max_boxes: of a sample, before suppression.
    nms_iou: None for NMS-free; else the bird's-eye IoU of each class (in the order of all labels), within which the
    weaker of two boxes falls.

    Raises ConfigError for an empty range or values out of bounds.
    """

    centre_range_m: tuple[float, float, float, float, float, float]
    score_threshold: float = 0.1
    max_boxes: int = 500
    nms_iou: tuple[float, ...] | None = None
    nms_pre: int = 4096
    nms_post: int = 500

    def __post_init__(self) -> None:
        low, high = self.centre_range_m[:3], self.centre_range_m[3:]
        if len(self.centre_range_m) != 6 or any(a >= b for a, b in zip(low, high, strict=True)):
            raise ConfigError(
                f"POST_CENTER_LIMIT_RANGE {list(self.centre_range_m)} must be x, y, z from, then x, y, z to, in metres."
            )
        if not 0 <= self.score_threshold < 1 or self.max_boxes < 1:
            raise ConfigError(
                f"SCORE_THRESH {self.score_threshold} must lie in [0, 1), MAX_OBJ_PER_SAMPLE {self.max_boxes} be at "
                "least 1."
            )


@dataclass(frozen=True)
class Detections:
    """Of one sample, best first: boxes (D,7) float32 as in boxes.py, scores (D,) 0..1, labels (D,) int64 from 1."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, rows: Tensor) -> "Detections":
        return Detections(self.boxes[rows], self.scores[rows], self.labels[rows])

    def cpu(self) -> "Detections":
        return Detections(self.boxes.cpu(), self.scores.cpu(), self.labels.cpu())


def is_local_maximum(scores: Tensor, sites: Tensor, size_yx: tuple[int, int]) -> Tensor:
    """Which scores (S,C) no active neighbour of the 3 x 3 window exceeds: (S,C) bool.

    sites: (S,3) integers b, y, x, all different, in any order, inside the map.
    """
    shape = (size_yx[0] + 2, size_yx[1] + 2)  # a border of one cell, so that no neighbour is the next row's or sample's
    keys = site_keys(sites.long() + sites.new_tensor([0, 1, 1]), shape)
    kept = torch.ones_like(scores, dtype=torch.bool)
    for dy, dx in shifts(2):
        step = dy * shape[1] + dx
        if not step:
            continue
        row = look_up(keys, keys + step)
        other = scores[row]
        beaten = other >= scores if step < 0 else other > scores  # of equals the first stands
        kept &= ~((row >= 0)[:, None] & beaten)
    return kept


def decode_codes(codes: Tensor, site_xy: Tensor, bev: BevMap) -> Tensor:
    """Codes (S,8) at sites (S,2) x, y -> boxes (S,7) float32; the inverse of `assignment.encode`."""
    codes = codes.float()
    xy = bev.metres(site_xy.to(codes) + codes[:, :2])
    sizes = codes[:, 3:6].clamp(-LOG_SIZE_LIMIT, LOG_SIZE_LIMIT).exp()
    return torch.cat([xy, codes[:, 2:3], sizes, torch.atan2(codes[:, 7:8], codes[:, 6:7])], 1)


def decode(
    answers: Sequence[Mapping[str, Tensor]],
    sites: Tensor,
    batch_size: int,
    classes: Sequence[Sequence[int]],
    bev: BevMap,
    settings: DecodeSettings,
) -> list[Detections]:
    """The boxes of every sample of a batch.

    Args:
        answers: of each head its branches, "hm" (S,C) logits and the regression branches.
        sites: (S,3) b, y, x.
        classes: of each head its labels (from 1), in the order of its heat columns.
    """
    heads = [_candidates(answer, sites, labels, bev, settings) for answer, labels in zip(answers, classes, strict=True)]
    sample, found = torch.cat([head[0] for head in heads]), _joined([head[1] for head in heads])
    return [_finished(found.select(sample == index), settings) for index in range(batch_size)]


def _candidates(
    answer: Mapping[str, Tensor], sites: Tensor, labels: Sequence[int], bev: BevMap, settings: DecodeSettings
) -> tuple[Tensor, Detections]:
    """Every (site, class) of a head that scores, is a maximum (NMS-free) and lies in range: samples (N,), boxes."""
    scores = answer["hm"].float().sigmoid()
    passed = scores > settings.score_threshold
    if settings.nms_iou is None:
        passed &= is_local_maximum(scores, sites, bev.size_yx)
    row, column = passed.nonzero(as_tuple=True)
    boxes = decode_codes(codes_of(answer)[row], sites[row][:, [2, 1]], bev)
    limits = boxes.new_tensor(settings.centre_range_m)
    inside = ((boxes[:, :3] >= limits[:3]) & (boxes[:, :3] <= limits[3:])).all(1)
    names = torch.tensor(list(labels), device=row.device)[column]
    return sites[row, 0].long()[inside], Detections(boxes, scores[row, column], names).select(inside)


def _joined(parts: Sequence[Detections]) -> Detections:
    return Detections(*(torch.cat([getattr(part, name) for part in parts]) for name in ("boxes", "scores", "labels")))


def _finished(found: Detections, settings: DecodeSettings) -> Detections:
    """The best of a sample, sorted; suppressed class by class when asked."""
    order = found.scores.argsort(descending=True, stable=True)[: settings.max_boxes]
    found = found.select(order)
    return found if settings.nms_iou is None else _suppressed(found, settings)


def _suppressed(found: Detections, settings: DecodeSettings) -> Detections:
    boxes, scores, labels = found.boxes.cpu().numpy(), found.scores.cpu().numpy(), found.labels.cpu().numpy()
    kept = []
    for label, iou in enumerate(settings.nms_iou, start=1):
        (rows,) = (labels == label).nonzero()
        kept.append(torch.from_numpy(rows[nms_rotated(boxes[rows], scores[rows], iou, pre=settings.nms_pre)]))
    rows = torch.cat(kept).sort().values[: settings.nms_post]  # sorted by score before, so by row again
    return found.select(rows.to(found.boxes.device))
