"""A t-SNE picture of paired embeddings: lines join the two halves of a pair. A picture, not a measurement.

points_vis, points_ir = tsne_plane(visible, infrared)
figure = pairs_figure(points_vis, points_ir, "epoch 7, stage1", mark="embedded data")
"""

# N pairs, D embedding size

from typing import TYPE_CHECKING

import numpy as np

from .alignment import LEGACY_NOTE, legacy_tsne_ratio, unit_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PERPLEXITY = 30.0
FEWEST_PAIRS = 4
VISIBLE, INFRARED, JOIN = "#2f5fd0", "#d9662b", "#c9ced6"
MAX_JOINED = 150


def tsne_plane(
    visible: np.ndarray, infrared: np.ndarray, seed: int = 0, perplexity: float = PERPLEXITY
) -> tuple[np.ndarray, np.ndarray]:
    """Both (N,D) sets in one t-SNE plane: two (N,2). Perplexity shrinks below a third of the points; own seed.

    Raises ValueError below four pairs. Global random generators stay as they are.
    """
    from sklearn.manifold import TSNE  # slow to import

    both = np.concatenate([unit_rows(visible), unit_rows(infrared)]).astype(np.float32)
    if len(both) < 2 * FEWEST_PAIRS:
        raise ValueError(f"{len(both) // 2} pairs: t-SNE needs at least {FEWEST_PAIRS}")
    fitted = TSNE(2, perplexity=min(perplexity, (len(both) - 1) / 3), init="random", random_state=seed)
    points = fitted.fit_transform(both)
    return points[: len(visible)], points[len(visible) :]


def pairs_figure(points_vis: np.ndarray, points_ir: np.ndarray, title: str, mark: str = "") -> "Figure":
    """The picture; mark: written across the top when the data are embedded."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 6.0), layout="constrained")
    axes = figure.subplots()
    for one, other in list(zip(points_vis, points_ir, strict=True))[:MAX_JOINED]:
        axes.plot([one[0], other[0]], [one[1], other[1]], color=JOIN, linewidth=0.6, zorder=1)
    axes.scatter(*points_vis.T, s=14, color=VISIBLE, label=f"visible ({len(points_vis)})", zorder=2)
    axes.scatter(*points_ir.T, s=14, color=INFRARED, marker="^", label=f"infrared ({len(points_ir)})", zorder=2)
    axes.set_title(title, fontsize=11, loc="left", parse_math=False)
    ratio = legacy_tsne_ratio(points_vis, points_ir)
    axes.set_xlabel(f"legacy_tsne_ratio {ratio:.3f} ({LEGACY_NOTE}); lines join pairs", fontsize=8.5)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(fontsize=8.5, edgecolor="none")
    if mark:
        figure.suptitle(mark, fontsize=9, color="#8a5a00", parse_math=False)
    return figure
