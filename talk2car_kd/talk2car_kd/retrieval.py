"""Stage 1's yardstick, region Recall@K: for "a small car", is one of the K nearest region crops a small car?

Text -> image over unit vectors. A query is a concept, (category, size word), with its templates averaged; every region
of that concept in the gallery is a positive; a query counts 1 when at least one positive is among the K best, else 0
(CLIP_benchmark's image_retrieval_recall). Small, medium and large are analysed apart in the same gallery. Recall@K says
little without the size of the gallery and the recall of chance, so both stand beside every number.
"""

# T text queries, G gallery images, D embedding dimension.

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.metrics import recall_at_k, recall_chance
from talk2car_kd.captions import TEMPLATES, region_caption
from talk2car_kd.coco_annotations import Region
from talk2car_kd.evaluation import evaluating

Concept = tuple[str, str]  # category name, size word


def region_recall(
    image_emb: Tensor,
    image_labels: Sequence[Hashable],
    image_sizes: Sequence[str],
    text_emb: Tensor,
    text_labels: Sequence[Hashable],
    ks: Sequence[int] = (1, 5, 10),
) -> dict[str, dict[str, float]]:
    """Recall@K of text queries in a gallery of regions, overall and for each size word of the gallery.

    Args:
        image_emb: (G, D) gallery, float; made unit length here.
        image_labels: G labels (concepts or text ids); a query's positives are the images with its label.
        image_sizes: G size words. For one size the gallery stays whole and only positives of that size count.
        text_emb: (T, D) queries, float; made unit length here.
        text_labels: T labels. A query without a positive in the gallery is no query and is left out.
        ks: cut-offs; a K beyond the gallery counts as the whole gallery.

    Returns {"overall" | size word: {"queries", "gallery", "recall@K" ..., "chance@K" ...}}, recalls in 0..1.
    ValueError for an empty gallery or when no query has a positive.
    """
    scores = (F.normalize(text_emb.float(), dim=-1) @ F.normalize(image_emb.float(), dim=-1).T).cpu()
    positives = _positives(text_labels, image_labels)
    parts = {"overall": positives}
    for size in sorted(set(image_sizes)):
        parts[size] = positives & torch.tensor([other == size for other in image_sizes])
    if not positives.any():
        raise ValueError(f"none of {len(text_labels)} queries has a positive among {len(image_labels)} regions")
    return {name: _recall(scores, part, ks) for name, part in parts.items() if part.any()}


def concepts_of(regions: Sequence[Region]) -> list[Concept]:
    """The (category, size) of each region: the labels of the gallery."""
    return [(region.category, region.size) for region in regions]


def concept_embeddings(concepts: Sequence[Concept], encode_texts: Callable[[list[str]], Tensor]) -> Tensor:
    """Embed concepts as the mean of all caption templates: T concepts -> (T, D) unit vectors."""
    texts = [region_caption(name, size, k) for name, size in concepts for k in range(len(TEMPLATES))]
    each = F.normalize(encode_texts(texts).float(), dim=-1)
    return F.normalize(each.unflatten(0, (len(concepts), len(TEMPLATES))).mean(dim=1), dim=-1)


def embed_regions(model: nn.Module, loader, *, device=None, world=None) -> tuple[list[int], Tensor]:
    """Embed a loader's regions: dataset indices (ascending, each once over all processes) and (G, D) on the CPU.

    Batches are dicts with "image" (B, 3, S, S) and "index" (B,); `model(image)` gives (B, D).
    """
    device = device or next(model.parameters()).device
    found: dict[int, Tensor] = {}
    with evaluating(model) as model:
        for batch in loader:
            embeddings = model(batch["image"].to(device)).float().cpu()
            found.update(zip((int(i) for i in batch["index"]), embeddings, strict=True))
    if world is not None:
        found = {index: embedding for part in world.gather(found) for index, embedding in part.items()}
    indices = sorted(found)
    return indices, torch.stack([found[index] for index in indices])


def evaluate_regions(
    model: nn.Module,
    loader,
    regions: Sequence[Region],
    encode_texts: Callable[[list[str]], Tensor],
    *,
    ks: Sequence[int] = (1, 5, 10),
    device=None,
    world=None,
) -> dict[str, dict[str, float]]:
    """Stage 1's validation: embed the loader's regions, ask for every concept among them; see `region_recall`.

    `regions[i]` belongs to the loader's index i; `encode_texts` is the teacher's (N strings -> (N, D)).
    """
    indices, image_emb = embed_regions(model, loader, device=device, world=world)
    gallery = [regions[index] for index in indices]
    labels = concepts_of(gallery)
    queries = sorted(set(labels))
    text_emb = concept_embeddings(queries, encode_texts).cpu()
    return region_recall(image_emb, labels, [region.size for region in gallery], text_emb, queries, ks)


def flat_recall(result: dict[str, dict[str, float]]) -> dict[str, float]:
    """The recalls as one level of names for a metrics log: "recall@1", "recall@1/small" ..."""
    return {
        name if part == "overall" else f"{name}/{part}": value
        for part, values in result.items()
        for name, value in values.items()
        if name.startswith("recall@")
    }


def describe_recall(result: dict[str, dict[str, float]]) -> str:
    """The table for the console: a line for each part, recall and (chance) in %, with queries and gallery."""
    names = [name for name in result["overall"] if name.startswith("recall@")]
    lines = [f"{'':10}{'queries':>8}{'gallery':>9}" + "".join(f"{name:>18}" for name in names)]
    for part, values in result.items():
        cells = (f"{100 * values[n]:8.1f} ({100 * values[n.replace('recall', 'chance')]:5.1f})" for n in names)
        lines.append(f"{part:10}{values['queries']:8d}{values['gallery']:9d}" + "".join(f"{c:>18}" for c in cells))
    return "\n".join(lines) + "\n(in brackets: chance)"


def _positives(text_labels: Sequence[Hashable], image_labels: Sequence[Hashable]) -> Tensor:
    """(T, G) bool, True where the labels are equal."""
    numbers = {label: number for number, label in enumerate(dict.fromkeys([*text_labels, *image_labels]))}
    texts = torch.tensor([numbers[label] for label in text_labels], dtype=torch.long)
    images = torch.tensor([numbers[label] for label in image_labels], dtype=torch.long)
    return texts[:, None] == images[None, :]


def _recall(scores: Tensor, positives: Tensor, ks: Sequence[int]) -> dict[str, float]:
    asked = positives.any(dim=1)
    scores, positives = scores[asked], positives[asked]
    queries, gallery = positives.shape
    recall = recall_at_k(scores, positives, ks)
    counts = positives.sum(dim=1).tolist()
    chance = {k: float(np.mean([recall_chance(gallery, p, min(k, gallery)) for p in counts])) for k in ks}
    return {
        "queries": queries,
        "gallery": gallery,
        **{f"recall@{k}": float(recall[k]) for k in ks},
        **{f"chance@{k}": chance[k] for k in ks},
    }
