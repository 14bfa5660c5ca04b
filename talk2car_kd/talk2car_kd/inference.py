"""Inference over a split, and the pictures of it."""

from pathlib import Path

import numpy as np
from torch import nn

from .evaluation import Record, all_records
from .visualization import visualize_records


def evenly(count: int, wanted: int) -> list[int]:
    """At most `wanted` indices spread evenly over 0 .. count - 1."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int)).tolist()


def inference_and_visualize(
    model: nn.Module,
    loader,
    config,
    folder: Path | None = None,
    *,
    pictures: int = 24,
    world=None,
    device=None,
) -> list[Record]:
    """Predict a box for every command of the loader's data set, in its order; draw `pictures` of them into `folder`.

    config: the resolved configuration (`stage2.frame_wh`, `data.mark`). folder None: no pictures are written, but the
    records chosen for pictures carry their maps all the same. Every rank returns all records; rank 0 draws.
    """
    chosen = evenly(len(loader.dataset.commands), pictures)
    records = all_records(model, loader, config.stage2.frame_wh, world=world, device=device, maps_for=chosen)
    if folder is not None and (world is None or world.is_main):
        folder.mkdir(parents=True, exist_ok=True)
        drawn = [records[index] for index in chosen]
        visualize_records(drawn, folder, frame_wh=config.stage2.frame_wh, mark=config.data.mark or None)
    return records
