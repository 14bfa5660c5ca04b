"""Miss rate against false positives per image, log-log, as pedestrian detection draws it: one line a detector.

    save_curves("figures/fppi.png", {"fused": evaluate(truth, detections)["reasonable_all"]}, "reasonable_all, matlab")

The legend orders the detectors by log-average miss rate, best first; the nine references of the mean are marked below.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .kaist_mr import REFERENCES_FPPI, MissRate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOWEST_MISS = 0.01  # of the vertical axis
FPPI_RANGE = (10**-3.5, 10.0)
MISS_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
COLOURS = ("#2f5fd0", "#d9662b", "#2a9d6f", "#8a4fc4", "#c2364f", "#8a6d1a")
DASHES = ("-", "--", ":")
MUTED, GRID = "#5b6472", "#e3e6eb"


def steps(found: MissRate) -> tuple[np.ndarray, np.ndarray]:
    """(false positives per image, miss rate 0..1), from (the axis's left end, 1) on; points left of it move onto it."""
    fppi = np.maximum(np.concatenate([[0.0], found.fppi]), FPPI_RANGE[0])
    return fppi, 1 - np.concatenate([[0.0], found.recall])


def curves_figure(curves: Mapping[str, MissRate], title: str = "", mark: str = "") -> "Figure":
    """The picture. mark: written across the top when the data are embedded. Raises ValueError without a curve."""
    from matplotlib.figure import Figure  # slow to import

    if not curves:
        raise ValueError("no curve to draw: give at least one detector")
    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    axes = figure.subplots()
    ordered = sorted(curves.items(), key=lambda item: (math.isnan(item[1].percent), item[1].percent))
    for number, (name, found) in enumerate(ordered):
        style = {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number // len(COLOURS) % len(DASHES)]}
        fppi, miss = steps(found)
        axes.step(fppi, np.maximum(miss, LOWEST_MISS / 10), where="post", label=_label(name, found), lw=1.7, **style)
    _dress(axes, title)
    if mark:
        figure.suptitle(mark, fontsize=9, color="#8a5a00", parse_math=False)
    return figure


def save_curves(path: Path | str, curves: Mapping[str, MissRate], title: str = "", mark: str = "") -> Path:
    """Write the picture as PNG, whole or absent, its folder made when missing. Raises StorageError, ValueError."""
    from .export import write_figure

    return write_figure(path, curves_figure(curves, title, mark))


def _label(name: str, found: MissRate) -> str:
    percent = "no person" if math.isnan(found.percent) else f"{found.percent:.2f} %"
    return f"{percent}  {name}"


def _dress(axes, title: str) -> None:
    """Scales, ticks, references, legend."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*FPPI_RANGE)
    axes.set_ylim(LOWEST_MISS, 1.03)
    axes.set_yticks(MISS_TICKS, [f"{100 * tick:g}" for tick in MISS_TICKS])
    axes.minorticks_off()
    axes.grid(color=GRID, linewidth=0.8)
    axes.plot(REFERENCES_FPPI["matlab"], np.full(9, LOWEST_MISS), "^", color=MUTED, markersize=5, clip_on=False)
    axes.set_xlabel("false positives per image (triangles: the nine references)", fontsize=9, color=MUTED)
    axes.set_ylabel("miss rate, %", fontsize=9, color=MUTED)
    axes.tick_params(labelsize=8.5, colors=MUTED, length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=11, loc="left", parse_math=False)
    legend = axes.legend(fontsize=8.5, loc="lower left", edgecolor="none", title="log-average miss rate")
    for text in legend.get_texts():
        text.set_parse_math(False)  # a `$` in a file name is a character
