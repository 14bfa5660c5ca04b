"""Dynamic hard negatives (DHN): queues of the other modality's recent keys, of which each anchor meets the nearest.

Two first-in first-out queues of M unit keys, one per modality, filled by a key encoder that lags behind MACL's
projection g: theta_m <- m theta_m + (1 - m) theta (He et al., "Momentum Contrast", CVPR 2020). Each visible anchor gets
the `top_k` infrared keys of highest cosine as further negatives, and the reverse. Keys of the anchor's own image are
never among them, which also rules out its own positive and every other RoI of the same person; nor are empty slots.

The order of a step, which keeps autograd and exact resume sound:

    negatives(...)      in the loss: reads a copy of the queue, changes nothing
    hold(features)      in the loss: remembers what to enqueue; a second loss replaces it, nothing piles up
    after_backward()    by the training loop, once after every backward: moves the key encoder, encodes, enqueues

So the state dict is complete whenever the loop is between steps. Under gradient accumulation every micro-batch enqueues
when the loop calls `after_backward` after each backward; if it calls it per optimizer step only, the last micro-batch
of the step is enqueued. Under torch.distributed the keys of all ranks are gathered in rank order, so queues stay equal.

    K anchors, D embedding dimension, M queue size, k = min(top_k, M)
"""

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor, nn

from shared.errors import ConfigError

from .macl_loss import Negatives
from .settings import settings_from

ALIASES = {"K": "queue_size", "m": "momentum", "topk": "top_k"}
MODES = ("columns", "separate")
NO_IMAGE = -1


@dataclass(frozen=True)
class DhnSettings:
    """Keys of `dhn`; K and m are understood as queue_size and momentum.

    mode: "columns" adds the negatives to MACL's softmax, "separate" makes a term of its own (weight `dhn_weight`).
    """

    dim: int = 128
    queue_size: int = 8192
    momentum: float = 0.99
    top_k: int = 256
    mode: str = "columns"

    def __post_init__(self) -> None:
        if self.dim < 1 or self.queue_size < 1:
            raise ConfigError(f"DHNSampler: dim={self.dim} and queue_size={self.queue_size} must be > 0.")
        if self.mode not in MODES:
            raise ConfigError(f"DHNSampler: mode={self.mode!r}; use one of {', '.join(MODES)}.")
        check_schedule(self.top_k, self.momentum)


def check_schedule(top_k: int, momentum: float) -> None:
    """ConfigError unless top_k >= 1 and 0 <= momentum < 1 (at 1 the key encoder would never move)."""
    if top_k < 1 or not 0 <= momentum < 1:
        raise ConfigError(f"DHNSampler: top_k={top_k} must be >= 1 and momentum={momentum} in 0..1, 1 excluded.")


def hard_negatives(anchors: Tensor, keys: Tensor, allowed: Tensor, top_k: int) -> Negatives:
    """Each anchor's allowed keys of highest cosine, with gradient to the anchors alone.

    anchors (K,D) and keys (M,D), unit rows; allowed (K,M) bool. Returns (K,k), falling; what is not valid fills up.
    """
    cosine = anchors @ keys.detach().T
    cosine, index = cosine.masked_fill(~allowed, -2.0).topk(min(top_k, len(keys)), dim=1)  # -2: below every cosine
    return Negatives(cosine, allowed.gather(1, index))


def gather_rows(rows: Tensor) -> Tensor:
    """Rows (n,...) of every rank, in rank order; n may differ, other sizes not. In one process: `rows` itself."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    counts = [rows.new_zeros(1, dtype=torch.long) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, rows.new_tensor([len(rows)], dtype=torch.long))
    numbers = torch.cat(counts).tolist()
    padded = rows.new_zeros(max(numbers), *rows.shape[1:])
    padded[: len(rows)] = rows
    everyone = [torch.empty_like(padded) for _ in numbers]
    dist.all_gather(everyone, padded)
    return torch.cat([part[:number] for part, number in zip(everyone, numbers, strict=True)])


def image_number(metainfo: Mapping[str, Any]) -> int:
    """A stable non-negative number of an image: its integer `img_id`, else a hash of `img_id` or `img_path`.

    Raises ConfigError when the sample names neither: its keys could become its own negatives.
    """
    name = metainfo.get("img_id", metainfo.get("img_path"))
    if name is None:
        raise ConfigError(
            "DHN needs `img_id` or `img_path` to keep an image's keys from its own RoIs; add one to the meta_keys of "
            "PackPairedDetInputs."
        )
    if isinstance(name, int) and name >= 0:
        return name
    return int.from_bytes(hashlib.sha256(str(name).encode()).digest()[:7], "big")


@dataclass(frozen=True)
class Held:
    """What a loss left to enqueue: pooled RoI features (K,C) of both modalities, without graph, and image numbers."""

    vis_features: Tensor
    ir_features: Tensor
    images: Tensor


@MODELS.register_module()
class DHNSampler(nn.Module):
    """The queues, the key encoder and their schedule; keys are those of `DhnSettings`.

    All state is in buffers, changed in place: queue_vis, queue_ir (M,D), images (M,), pointer, valid, started. The
    key encoder starts as a copy of g at the first `after_backward`, so weights of a stage without DHN serve as well.
    """

    def __init__(self, **keys: Any) -> None:
        super().__init__()
        self.settings = config = settings_from(DhnSettings, "DHNSampler", keys, ALIASES)
        self.top_k, self.momentum = config.top_k, config.momentum
        for name in ("queue_vis", "queue_ir"):
            self.register_buffer(name, torch.zeros(config.queue_size, config.dim))
        self.register_buffer("images", torch.full((config.queue_size,), NO_IMAGE, dtype=torch.long))
        for name in ("pointer", "valid", "started"):
            self.register_buffer(name, torch.zeros((), dtype=torch.long))
        self.key_encoder: nn.Module | None = None
        self._held: Held | None = None

    def attach(self, encoder: nn.Module) -> None:
        """Make the key encoder as a copy of g: frozen, always in evaluation mode, its own state."""
        self.key_encoder = copy.deepcopy(encoder).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "DHNSampler":
        """The key encoder stays in evaluation mode."""
        super().train(mode)
        if self.key_encoder is not None:
            self.key_encoder.eval()
        return self

    def set_schedule(self, top_k: int | None = None, momentum: float | None = None) -> None:
        """Change top_k and momentum from now on (the epoch's, by DHNScheduleHook). ConfigError out of range."""
        top_k = self.top_k if top_k is None else top_k
        momentum = self.momentum if momentum is None else momentum
        check_schedule(top_k, momentum)
        self.top_k, self.momentum = top_k, momentum

    def negatives(self, vis: Tensor, ir: Tensor, images: Tensor) -> tuple[Negatives, Negatives]:
        """(of the visible anchors: infrared keys, of the infrared anchors: visible keys).

        vis, ir (K,D) unit float32 anchors; images (K,) from `image_number`. The queues are read through a copy, so an
        enqueue before backward does no harm.
        """
        filled = torch.arange(len(self.images), device=vis.device) < self.valid
        allowed = filled[None, :] & (images[:, None] != self.images[None, :])
        with torch.autocast(vis.device.type, enabled=False):
            return (
                hard_negatives(vis, self.queue_ir.clone(), allowed, self.top_k),
                hard_negatives(ir, self.queue_vis.clone(), allowed, self.top_k),
            )

    def hold(self, vis_features: Tensor, ir_features: Tensor, images: Tensor) -> None:
        """Remember what `after_backward` is to enqueue; what an earlier loss held is dropped."""
        self._held = Held(vis_features.detach(), ir_features.detach(), images)

    @torch.no_grad()
    def after_backward(self, encoder: nn.Module) -> None:
        """Move the key encoder towards g, encode what is held and enqueue it. Does nothing when nothing is held.

        Collective under torch.distributed.
        """
        held, self._held = self._held, None
        if held is None:
            return
        self._follow(encoder)
        with torch.autocast(held.images.device.type, enabled=False):
            vis, ir = (
                F.normalize(self.key_encoder(rows.float()), dim=1) for rows in (held.vis_features, held.ir_features)
            )
        self.enqueue(vis, ir, held.images)

    @torch.no_grad()
    def _follow(self, encoder: nn.Module) -> None:
        """theta_m <- m theta_m + (1 - m) theta, a copy the first time; buffers (BatchNorm's) are copied."""
        share = 1.0 if self.started == 0 else 1.0 - self.momentum
        for own, theirs in zip(self.key_encoder.parameters(), encoder.parameters(), strict=True):
            own.copy_(theirs) if share == 1.0 else own.lerp_(theirs, share)
        for own, theirs in zip(self.key_encoder.buffers(), encoder.buffers(), strict=True):
            own.copy_(theirs)
        self.started.fill_(1)

    @torch.no_grad()
    def enqueue(self, vis_keys: Tensor, ir_keys: Tensor, images: Tensor) -> None:
        """Append the keys (K,D) of all ranks; of more than M the last M stay. No gradient enters the queue."""
        size = len(self.images)
        rows = [gather_rows(value.detach())[-size:] for value in (vis_keys, ir_keys, images)]
        count = len(rows[0])
        slots = (self.pointer + torch.arange(count, device=self.images.device)) % size
        for buffer, values in zip((self.queue_vis, self.queue_ir, self.images), rows, strict=True):
            buffer[slots] = values.to(buffer.dtype)
        self.pointer.copy_((self.pointer + count) % size)
        self.valid.copy_((self.valid + count).clamp_max(size))
