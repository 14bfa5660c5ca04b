"""Modal-aware contrastive learning (MACL): each person's visible RoI must find its infrared half among all others.

Rows are paired RoIs: row i of `vis` and row i of `ir` are embeddings of the same place in the two images of a pair.
Rows of one person (proposals that were assigned the same ground truth) carry the same group number. They are never
each other's negatives: with `average` they are all positives, with `mask` they leave the denominator.

    S = vis ir^T / tau
    average   L = mean_i -(1/|P(i)|) sum_{j in P(i)} log softmax(S_i)_j
    mask      L = mean_i -log softmax(S_i without the other rows of i's group)_i
    total     (L of S + L of S^T) / 2

Chance is ln(columns): embeddings that are all equal give exactly that. A perfect match with a small tau gives 0 for
`mask` and mean ln |P| for `average`. Hard negatives from a queue (dhn.py) are further columns of the same softmax.

    K paired RoIs, D embedding dimension, Q hard negatives of each row
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.errors import ConfigError

MULTI_POSITIVE = ("average", "mask")


@dataclass(frozen=True)
class Negatives:
    """Extra columns of each anchor: cosine (K,Q) in -1..1, valid (K,Q) bool. What is not valid is never looked at."""

    cosine: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Contrast:
    """A contrastive loss and what it must be read against; all scalars, float32.

    loss: mean over rows (and directions). accuracy: share of rows whose best column is a positive, without gradient.
    columns: mean number of columns that a row's positive competes among, itself included; chance is their logarithm.
    """

    loss: Tensor
    accuracy: Tensor
    columns: Tensor

    @property
    def chance(self) -> Tensor:
        """ln(columns): the loss of embeddings that know nothing; 0 without rows."""
        return self.columns.clamp_min(1).log()


def symmetric_contrast(
    vis: Tensor,
    ir: Tensor,
    groups: Tensor,
    tau: Tensor | float,
    *,
    multi_positive: str = "average",
    vis_negatives: Negatives | None = None,
    ir_negatives: Negatives | None = None,
) -> Contrast:
    """Both directions of the loss above, averaged, in float32 (float64 stays) and outside autocast.

    Args:
        vis, ir: (K,D) unit rows; row i of each is one RoI.
        groups: (K,) integers, equal for RoIs of one person in one image.
        tau: temperature, > 0.
        vis_negatives: extra columns of the visible anchors (infrared keys); ir_negatives: of the infrared anchors.

    Returns the mean of both directions. K = 0 gives a zero that still hangs on `vis`, `ir` and `tau`; K = 1 without
    negatives gives exactly 0.

    Raises:
        ConfigError: `multi_positive` is neither "average" nor "mask".
        ValueError: the shapes do not belong together.
    """
    _check(vis, ir, groups, multi_positive)
    with torch.autocast(vis.device.type, enabled=False):
        vis, ir = _at_least_float32(vis), _at_least_float32(ir)
        if len(vis) == 0:
            return _nothing(vis, ir, tau)
        positive, dropped = positives_of(groups, multi_positive)
        cosine = vis @ ir.T
        forth = _one_way(cosine, positive, dropped, tau, vis_negatives)
        back = _one_way(cosine.T, positive, dropped, tau, ir_negatives)
    return Contrast(*((getattr(forth, name) + getattr(back, name)) / 2 for name in ("loss", "accuracy", "columns")))


def positives_of(groups: Tensor, multi_positive: str) -> tuple[Tensor, Tensor]:
    """(K,) groups -> positive (K,K) bool, dropped (K,K) bool: columns that leave the denominator."""
    same = groups[:, None] == groups[None, :]
    if multi_positive == "average":
        return same, torch.zeros_like(same)
    own = torch.eye(len(groups), dtype=torch.bool, device=groups.device)
    return own, same & ~own


def _one_way(cosine: Tensor, positive: Tensor, dropped: Tensor, tau: Tensor | float, extra: Negatives | None):
    """One direction: cosine (K,K), anchors in rows."""
    logits = (cosine / tau).masked_fill(dropped, -math.inf)
    present = ~dropped
    if extra is not None:
        # Masked after the division: -inf / tau would give tau a gradient of 0 * inf.
        logits = torch.cat([logits, (extra.cosine / tau).masked_fill(~extra.valid, -math.inf)], 1)
        positive = torch.cat([positive, torch.zeros_like(extra.valid)], 1)
        present = torch.cat([present, extra.valid], 1)
    log_share = torch.where(positive, logits.log_softmax(1), 0.0)
    hit = positive.gather(1, logits.detach().argmax(1, keepdim=True))
    columns = present.sum(1).to(logits.dtype).mean()
    return Contrast(-(log_share.sum(1) / positive.sum(1)).mean(), hit.to(logits.dtype).mean(), columns)


def queue_contrast(
    vis: Tensor, ir: Tensor, tau: Tensor | float, vis_negatives: Negatives, ir_negatives: Negatives
) -> Tensor:
    """The hard-negative term of its own (DHN mode 'separate'): each row's own half against its queue keys only.

    vis, ir (K,D) unit rows -> scalar float32, mean over rows and both directions. A row without a valid key gives 0;
    K = 0 gives a zero that hangs on the arguments.
    """
    with torch.autocast(vis.device.type, enabled=False):
        vis, ir = _at_least_float32(vis), _at_least_float32(ir)
        if len(vis) == 0:
            return _nothing(vis, ir, tau).loss
        own = (vis * ir).sum(1, keepdim=True) / tau
        both = [_against_queue(own, negatives, tau) for negatives in (vis_negatives, ir_negatives)]
    return (both[0] + both[1]) / 2


def _against_queue(own: Tensor, negatives: Negatives, tau: Tensor | float) -> Tensor:
    keys = (negatives.cosine / tau).masked_fill(~negatives.valid, -math.inf)
    return -torch.cat([own, keys], 1).log_softmax(1)[:, 0].mean()


def _nothing(vis: Tensor, ir: Tensor, tau: Tensor | float) -> Contrast:
    zero = vis.sum() * 0 + ir.sum() * 0 + tau * 0
    return Contrast(zero, zero.detach(), zero.detach())


def _at_least_float32(rows: Tensor) -> Tensor:
    return rows if rows.dtype == torch.float64 else rows.float()


def _check(vis: Tensor, ir: Tensor, groups: Tensor, multi_positive: str) -> None:
    if multi_positive not in MULTI_POSITIVE:
        raise ConfigError(f"multi_positive is {multi_positive!r}; use one of {', '.join(MULTI_POSITIVE)}.")
    if vis.shape != ir.shape or vis.ndim != 2 or groups.shape != vis.shape[:1]:
        raise ValueError(
            f"need vis and ir (K,D) and groups (K,); got {tuple(vis.shape)}, {tuple(ir.shape)}, {tuple(groups.shape)}"
        )
