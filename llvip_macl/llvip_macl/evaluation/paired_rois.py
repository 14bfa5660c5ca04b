"""Embeddings of the same persons in both modalities: the annotated boxes of a data set, pooled from both pyramids.

    pairs = gather_pairs(model, dataset, max_pairs=256)
    report = alignment_report(pairs.visible, pairs.infrared, pairs.images)

With a MACL head these are its embeddings (space "MACL embedding"); a detector without one is compared by the pooled
features that the head would have got (space "RoI features"): its control. Where labels have boxes per modality, each
modality is pooled inside its own.

The images are the same in every epoch and run (a fixed permutation), nothing is drawn from the global generators that
stays drawn, and neither BatchNorm statistics nor queues move.
"""

# K persons, D embedding size

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shared.checkpoint import rng_state, set_rng_state
from shared.errors import ConfigError

BATCH = 4  # images at a time


@dataclass(frozen=True, eq=False)
class PairedRows:
    """visible, infrared: (K,D) float32, row i is one person; images: (K,) place of its image in the data set; space."""

    visible: np.ndarray
    infrared: np.ndarray
    images: np.ndarray
    space: str


def can_pair(model: nn.Module) -> bool:
    """Whether a detector sees both modalities and its RoI head can embed them."""
    roi_head = getattr(model, "roi_head", None)
    return getattr(model, "modality", None) == "both" and hasattr(roi_head, "paired_embeddings")


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation without gradients; random generators and every module's mode are put back afterwards."""
    generators, modes = rng_state(), {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        set_rng_state(generators)


def gather_pairs(model: nn.Module, dataset: Any, *, max_pairs: int = 256, seed: int = 0) -> PairedRows:
    """Up to `max_pairs` persons (ignored boxes left out) of a data set with a test pipeline.

    Raises ConfigError for a data set whose pipeline flips, or that has no person at all.
    """
    visible, infrared, images, count = [], [], [], 0
    order = np.random.default_rng(seed).permutation(len(dataset)).tolist()
    with undisturbed(model):
        for start in range(0, len(order), BATCH):
            if count >= max_pairs:
                break
            chosen = order[start : start + BATCH]
            vis, ir, sizes = embed_batch(model, [dataset[place] for place in chosen])
            visible.append(vis)
            infrared.append(ir)
            images += [place for place, size in zip(chosen, sizes, strict=True) for _ in range(size)]
            count += len(vis)
    if not count:
        raise ConfigError(
            "the data set has no annotated person: there is nothing to align; give another val_dataloader"
        )
    both = (torch.cat(part)[:max_pairs].float().cpu().numpy() for part in (visible, infrared))
    return PairedRows(*both, np.array(images[:max_pairs]), space_of(model))


def space_of(model: nn.Module) -> str:
    """What is compared: see the module."""
    return "RoI features" if model.roi_head.macl_head is None else "MACL embedding"


def embed_batch(model: nn.Module, items: list[Mapping[str, Any]]) -> tuple[Tensor, Tensor, list[int]]:
    """((K,D) visible, (K,D) infrared, persons of each image) of some items of a data set."""
    from mmengine.dataset import pseudo_collate

    data = model.data_preprocessor(pseudo_collate(items), False)
    device = next(model.parameters()).device
    persons = [person_boxes(sample) for sample in data["data_samples"]]
    boxes, boxes_ir = ([pair[half].to(device) for pair in persons] for half in (0, 1))
    vis, ir, _ = model.extract_pyramids(data["inputs"])
    if model.roi_head.macl_head is None:
        rows = model.roi_head.pool(vis, boxes), model.roi_head.pool(ir, boxes_ir)
    else:
        rows = model.roi_head.paired_embeddings(vis, ir, boxes, boxes_ir)
    return *rows, [len(part) for part in boxes]


def person_boxes(sample: Any) -> tuple[Tensor, Tensor]:
    """(K,4) float32 boxes in the visible and in the infrared image, x1 y1 x2 y2 in the pixels of the network's input.

    Persons to ignore, and those without area in one modality (not labelled there), are left out. Raises ConfigError for
    a sample that was flipped.
    """
    if sample.get("flip", False):
        raise ConfigError(f"{sample.img_path}: alignment reads a test pipeline; take RandomFlip out of val_dataloader")
    scale = np.tile(np.asarray(sample.get("scale_factor", (1.0, 1.0)), np.float32)[:2], 2)
    counted = [entry for entry in sample.instances if not entry.get("ignore_flag", 0)]
    pairs = np.array([(entry["bbox"], entry.get("bbox_ir", entry["bbox"])) for entry in counted], np.float32)
    pairs = pairs.reshape(-1, 2, 4) * scale
    pairs = pairs[(pairs[..., 2:] > pairs[..., :2]).all((1, 2))]
    return torch.from_numpy(pairs[:, 0]), torch.from_numpy(pairs[:, 1])
