"""How well paired embeddings of the two modalities agree, each value beside what chance would give.

    report = alignment_report(visible, infrared, groups=image_ids)
    report["retrieval_at1_vis_to_ir"]  ->  Measure(value=0.62, low=0.55, high=0.70, chance=0.0078)

Row i of both arrays is one person seen in both modalities. Intervals are 95 % bootstrap intervals over images (persons
of one image are drawn together), for the gallery as it is. What each measure says:

    paired_cosine, unpaired_cosine, cosine_gap   mean cosine of true pairs, of all other pairs, their difference
    retrieval_atK_vis_to_ir, ..._ir_to_vis       the partner is among the K most similar of the other modality
    centroid_gap                                 distance of the two modalities' means (0: none; chance: swapped labels)
    modality_mixing                              1 - silhouette of the modality label: 1 mixed, 0 two tight clusters
    probe_accuracy                               a linear classifier of the modality, cross-validated (0.5: cannot tell)

The ratio older reports print as an "alignment score" exists only as `legacy_tsne_ratio`: 0.5 = mixed, LOWER is better.
It lives in a t-SNE plane, whose distances follow perplexity and seed as much as the data.
"""

# N pairs, D embedding size

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared.metrics import bootstrap_interval, recall_chance

KS = (1, 5)
LEGACY_NOTE = "0.5 = mixed, lower is better"
FOLDS = 5
SWAPS = 200  # random exchanges of the modality labels


@dataclass(frozen=True)
class Measure:
    """A value, its 95 % interval (nan where there is none), and its value by chance (nan where unknown)."""

    value: float
    low: float = math.nan
    high: float = math.nan
    chance: float = math.nan

    def to_json(self) -> dict[str, float | None]:
        """JSON data; what is not finite becomes null."""
        return {name: number if math.isfinite(number) else None for name, number in vars(self).items()}


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """(N,D) float64 rows of length 1; rows of zeros stay. Raises ValueError for another shape or NaN."""
    rows = np.asarray(rows, dtype=np.float64)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise ValueError(f"embeddings of shape {rows.shape}: they must be finite numbers (pairs, size)")
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(float).tiny)


def alignment_report(
    visible: np.ndarray, infrared: np.ndarray, groups: Sequence[Any] | None = None, seed: int = 0, draws: int = 500
) -> dict[str, Measure]:
    """Every measure of the table above. visible, infrared: (N,D), paired by row, N >= 2; groups: N image ids.

    Raises ValueError for other shapes.
    """
    vis, ir = _checked(visible, infrared)
    images = np.arange(len(vis)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    cosines = vis @ ir.T

    def mean(values: np.ndarray, chance: float = math.nan) -> Measure:
        return Measure(float(values.mean()), *bootstrap_interval(values, images, samples=draws, seed=seed), chance)

    paired, unpaired = np.diag(cosines), unpaired_means(cosines)
    report = {
        "paired_cosine": mean(paired),
        "unpaired_cosine": mean(unpaired),
        "cosine_gap": mean(paired - unpaired, 0),
    }
    for way, scores in (("vis_to_ir", cosines), ("ir_to_vis", cosines.T)):
        for k in KS:
            report[f"retrieval_at{k}_{way}"] = mean(partner_found(scores, k), recall_chance(len(vis), 1, k))
    report["centroid_gap"] = Measure(centroid_gap(vis, ir), chance=centroid_gap_by_chance(vis, ir, seed))
    report["modality_mixing"] = Measure(modality_mixing(vis, ir), chance=1.0)
    if len(np.unique(images)) >= 2:
        report["probe_accuracy"] = mean(probe_hits(vis, ir, images).mean(0), 0.5)
    return report


def _checked(visible: np.ndarray, infrared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    vis, ir = unit_rows(visible), unit_rows(infrared)
    if vis.shape != ir.shape or len(vis) < 2:
        raise ValueError(f"visible {vis.shape}, infrared {ir.shape}: at least two pairs, row by row")
    return vis, ir


# --- cosines and retrieval --------------------------------------------------------------------------------------------


def unpaired_means(cosines: np.ndarray) -> np.ndarray:
    """(N,) mean cosine of each visible row with the infrared rows of other pairs. cosines: (N,N), N >= 2."""
    return (cosines.sum(1) - np.diag(cosines)) / (len(cosines) - 1)


def partner_found(scores: np.ndarray, k: int) -> np.ndarray:
    """(N,) 1.0 where column i is among the k best of row i; equal scores count against (a constant gets 0)."""
    ahead = (scores >= np.diag(scores)[:, None]).sum(1) - 1
    return (ahead < k).astype(float)


# --- the modality, seen in the embedding ------------------------------------------------------------------------------


def centroid_gap(vis: np.ndarray, ir: np.ndarray) -> float:
    """Euclidean distance of the two means: 0 for equal sets, at most 2 for unit rows."""
    return float(np.linalg.norm(vis.mean(0) - ir.mean(0)))


def centroid_gap_by_chance(vis: np.ndarray, ir: np.ndarray, seed: int = 0) -> float:
    """Its mean when each pair's modality labels are exchanged at random: what pairs without a modality would show."""
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(SWAPS, len(vis)))
    return float(np.linalg.norm(signs @ (vis - ir) / len(vis), axis=1).mean())


def modality_mixing(vis: np.ndarray, ir: np.ndarray) -> float:
    """1 - silhouette of the modality label (Euclidean): 1 when it explains nothing, towards 0 for two clusters."""
    from sklearn.metrics import silhouette_score  # slow to import

    both = np.concatenate([vis, ir])
    return 1 - float(silhouette_score(both, np.repeat([0, 1], [len(vis), len(ir)])))


def probe_hits(vis: np.ndarray, ir: np.ndarray, images: Sequence[Any]) -> np.ndarray:
    """(2,N) 1.0 where a linear probe, fitted on other images, names the modality of a row of (vis, ir) rightly.

    Logistic regression on standardised embeddings, 5 folds of whole images (both halves of a pair in one fold).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    label = np.repeat([0, 1], len(vis))
    groups = np.tile(np.asarray(images), 2)
    folds = GroupKFold(min(FOLDS, len(np.unique(groups))))
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    told = cross_val_predict(probe, np.concatenate([vis, ir]), label, groups=groups, cv=folds)
    return (told == label).astype(float).reshape(2, -1)


# --- the old ratio ----------------------------------------------------------------------------------------------------


def legacy_tsne_ratio(points_vis: np.ndarray, points_ir: np.ndarray) -> float:
    """inter / (intra_vis + intra_ir) of mean pairwise distances in a t-SNE plane. 0.5 = mixed, LOWER is better.

    points: (N,2) each, N >= 2. nan when all points of both modalities coincide. Never read it as "higher is better".
    """
    inter = _distances(points_vis, points_ir).mean()
    intra = _mean_distance(points_vis) + _mean_distance(points_ir)
    return float(inter / intra) if intra > 0 else math.nan


def _mean_distance(points: np.ndarray) -> float:
    return float(_distances(points, points).sum() / (len(points) * (len(points) - 1)))


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a[:, None] - b[None], axis=-1)


# --- for logs ---------------------------------------------------------------------------------------------------------


def scalars(report: Mapping[str, Measure]) -> dict[str, float]:
    """The plain values for a log, chance beside retrieval; what is not finite is left out."""
    values = {name: measure.value for name, measure in report.items()}
    values["retrieval_at1_chance"] = report["retrieval_at1_vis_to_ir"].chance
    return {name: value for name, value in values.items() if math.isfinite(value)}


def lines(report: Mapping[str, Measure]) -> list[str]:
    """For people: one line a measure, with interval and chance."""
    return [f"{name:<26}{_numbers(measure)}" for name, measure in report.items()]


def _numbers(measure: Measure) -> str:
    interval = f"  [{measure.low:.4f}, {measure.high:.4f}]" if math.isfinite(measure.low) else ""
    chance = f"  (chance {measure.chance:.4f})" if math.isfinite(measure.chance) else ""
    return f"{measure.value:8.4f}{interval}{chance}"
