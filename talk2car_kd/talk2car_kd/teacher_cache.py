"""The teacher's image embeddings: looked up on disk, or computed step by step. Both give the same targets.

The teacher sees a region's crop without photometric augmentation, and a crop's geometry depends on (seed, view, index)
alone; so an embedding can be kept per (view, region), keyed by everything that decides it.

    N regions, V views, D embedding dimension
"""

import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor

from shared import checkpoint
from shared import run as run_module
from shared.errors import CheckpointError

from .teacher import Teacher


class OnlineTargets:
    """The teacher's own forward pass at every step, on the batch's "teacher_image"."""

    def __init__(self, teacher: Teacher):
        self.teacher = teacher

    def __call__(self, batch: dict) -> Tensor:
        return self.teacher.encode_images(batch["teacher_image"])


class CachedTargets:
    """A table (V,N,D) in half precision, indexed by the batch's "view" and "index"."""

    def __init__(self, table: Tensor, device: torch.device):
        self.table, self.device = table, device

    def __call__(self, batch: dict) -> Tensor:
        rows = self.table[batch["view"], batch["index"]].to(self.device).float()
        return torch.nn.functional.normalize(rows, dim=1)


def cache_key(teacher: Teacher, fingerprint: str, views: int) -> str:
    """16 hex digits of everything that decides an embedding."""
    parts = {"teacher": teacher.sha256, "mean": teacher.mean, "std": teacher.std, "size": teacher.image_size,
             "crops": fingerprint, "views": views}  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def cached_targets(
    teacher: Teacher, loader, sampler, *, fingerprint: str, views: int, folder: Path, world, log
) -> CachedTargets:
    """Load the table for this teacher and these crops from `folder`, or fill it and keep it there.

    `loader` walks all regions once an epoch with "teacher_image" in its batches; epoch v shows view v. A damaged file
    is named and made again. Every rank fills its share; rank 0 writes.
    """
    path = folder / f"teacher-{cache_key(teacher, fingerprint, views)}.pt"
    table = _read(path, log) if world.is_main else None
    table = world.broadcast(table)
    if table is None:
        table = _fill(teacher, loader, sampler, views, world)
        if world.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            checkpoint.save(path, {"table": table}, step=0, pointers=())
            log.info("teacher embeddings of %d regions x %d views kept in %s", table.shape[1], views, path)
    return CachedTargets(table, world.device)


def _read(path: Path, log) -> Tensor | None:
    if not path.exists():
        return None
    try:
        table = checkpoint.load(path)["table"]
    except CheckpointError as error:
        log.warning("the teacher cache is made again: %s", error)
        return None
    log.info("teacher embeddings read from %s", path)
    return table


@torch.no_grad()
def _fill(teacher: Teacher, loader, sampler, views: int, world) -> Tensor:
    regions = len(loader.dataset)
    table = torch.zeros(views, regions, teacher.embed_dim)
    for view in range(views):
        sampler.set_position(view, 0)
        for batch in run_module.iterate(loader):
            table[view, batch["index"]] = teacher.encode_images(batch["teacher_image"]).cpu()
    return world.sum(table.to(world.device)).cpu().half()
