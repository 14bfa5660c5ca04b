"""The two epochs: distillation of regions (Stage 1) and grounding of commands (Stage 2).

Position, saving, stopping and logging belong to `shared.loop.Loop`; what stands here is the method.

    N regions, B commands, F frames, D embedding dimension
"""

from collections.abc import Callable

import torch
import torch.distributed.nn.functional as dist_fn
from torch import Tensor, nn

from shared.loop import Loop

from .embedded_teacher import contrastive_terms
from .grounding import MODEL_INPUTS
from .losses import DistillationLosses, Talk2CarLoss

Targets = Callable[[dict], Tensor]  # batch -> teacher's image embeddings (N,D), cached or computed


def autocast(device: torch.device, bf16: bool):
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


def gather_rows(x: Tensor, world) -> Tensor:
    """(N,...) of this rank -> (N * ranks, ...) of all, with gradients; contrast then sees the global batch."""
    return x if world.size == 1 else torch.cat(dist_fn.all_gather(x))


def train_epoch(
    student: nn.Module,
    loader,
    targets: Targets,
    text_emb: Tensor,
    scale: float,
    criterion: DistillationLosses,
    loop: Loop,
    *,
    bf16: bool = False,
) -> dict[str, float]:
    """Stage 1. The frozen teacher gives embeddings only: `targets(batch)` for crops, `text_emb` (texts,D) for captions.

    Returns the epoch's means over all ranks: clip, sim, cos (unweighted), loss (weighted).
    """
    student.train()
    device = loop.world.device
    for batch in loop.batches(loader):
        with autocast(device, bf16):
            embedding = student(batch["image"].to(device, non_blocking=True))
        embedding = gather_rows(embedding.float(), loop.world)
        teacher_image = gather_rows(targets(batch), loop.world)
        text_ids = gather_rows(batch["text_id"].to(device), loop.world)
        terms = criterion(embedding, teacher_image, text_emb[text_ids], text_ids, scale)
        loop.step(terms, ids=[f"region {i}" for i in batch["index"].tolist()], count=len(batch["image"]))
    return loop.close_epoch()


def fine_tune_epoch(
    model: nn.Module, loader, criterion: Talk2CarLoss, loop: Loop, *, bf16: bool = False
) -> dict[str, float]:
    """Stage 2: back-propagate L1 + GIoU, and the score of the cells that hold the object.

    Returns the epoch's means over all ranks: l1, giou[, score, aux] (unweighted), loss (weighted).
    """
    model.train()
    device = loop.world.device
    for batch in loop.batches(loader):
        with autocast(device, bf16):
            outputs = model(*(batch[key].to(device, non_blocking=True) for key in MODEL_INPUTS))
        terms = criterion(outputs, batch["boxes_cxcywh"].to(device))
        loop.step(terms, ids=batch["tokens"], count=len(batch["tokens"]))
    return loop.close_epoch()


def teacher_epoch(model: nn.Module, loader, tokens: Tensor, loop: Loop) -> dict[str, float]:
    """The embedded world's teacher learns CLIP's objective on regions and captions; tokens (texts,77)."""
    model.train()
    for batch in loop.batches(loader):
        text_ids = batch["text_id"]
        terms = contrastive_terms(model, batch["image"], tokens, text_ids)
        loop.step(terms, ids=[f"region {i}" for i in batch["index"].tolist()], count=len(text_ids))
    return loop.close_epoch()
