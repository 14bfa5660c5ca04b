"""Pictures of a prediction: what was seen, what was heard, what was measured, what was predicted, and where it errs.

    figure = rows_of([View("Building_09/3", item, {"audio": depth})], max_error_m=2.0, mark="embedded synthetic data")

One row per image: camera, left and right spectrogram, measured depth (holes grey), then for every model its depth and
its error. Depths of a row share one scale, which holds the predictions too; errors of all rows share another. `mark` is
written over every figure of embedded data.
"""

# C channels, H x W pixels

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

DEPTH_MAP, ERROR_MAP, SOUND_MAP = "viridis", "coolwarm", "magma"
HOLE_GREY = "#9aa3b0"
CELL_IN = 1.65  # size of one picture, inches
TITLE_CHARACTERS = 19  # of a line above a picture
LABEL_CHARACTERS = 60  # of a line below a plot
OUTER = (0.02, 0.98)  # quantiles between which a row's depth scale runs
INK, BLUE, DOT = "#1c2330", "#2f5fd0", "#5b6472"


@dataclass(frozen=True, eq=False)
class View:
    """One image: its item of the data set, and (1,H,W) metres by the name of the model that predicted it."""

    name: str
    item: Mapping[str, Any]
    depths: Mapping[str, Tensor]


def rows_of(views: Sequence[View], *, max_error_m: float = 2.0, mark: str = "") -> Figure:
    """A figure with one row per view. Raises ValueError without any."""
    if not views:
        raise ValueError("no image to draw")
    columns = _headings(views[0])
    height = CELL_IN * len(views) + 0.7
    figure = Figure(figsize=(CELL_IN * len(columns), height), layout="constrained")
    panels = figure.subplots(len(views), len(columns), squeeze=False)
    for row, view in zip(panels, views, strict=True):
        _draw_row(row, view, max_error_m)
        row[0].set_ylabel(view.name, fontsize=7, color=INK, parse_math=False)
    for panel, heading in zip(panels[0], columns, strict=True):
        panel.set_title(heading, fontsize=8, color=INK, parse_math=False)
    figure.suptitle(mark, fontsize=8, color="#c2364f", parse_math=False)
    return figure


def _headings(view: View) -> list[str]:
    camera = ["camera"] if "rgb" in view.item else []
    wrapped = [fill(name, TITLE_CHARACTERS) for name in view.depths]
    models = [heading for name in wrapped for heading in (name, f"{name}\nerror, m")]
    return [*camera, "left ear", "right ear", "measured depth, m", *models]


def _draw_row(row: Sequence[Axes], view: View, max_error_m: float) -> None:
    item, panels = view.item, iter(row)
    if "rgb" in item:
        _show(next(panels), item["rgb"].permute(1, 2, 0).numpy())
    ears = item["audio"][:2].numpy()
    for ear in ears:
        _show(next(panels), ear, cmap=SOUND_MAP, vmin=float(ears.min()), vmax=float(ears.max()), origin="lower")
    valid = item["valid"][0].numpy()
    depth = np.where(valid, item["depth"][0].numpy(), np.nan)
    scale = depth_range_m([depth, *(predicted.numpy() for predicted in view.depths.values())])
    _colour_bar(row, _show(next(panels), depth, cmap=DEPTH_MAP, **scale))
    for predicted in view.depths.values():
        _show(next(panels), predicted[0].numpy(), cmap=DEPTH_MAP, **scale)
        error = np.where(valid, predicted[0].numpy() - depth, np.nan)
        _colour_bar(row, _show(next(panels), error, cmap=ERROR_MAP, vmin=-max_error_m, vmax=max_error_m))


def depth_range_m(depths: Sequence[np.ndarray]) -> dict[str, float]:
    """vmin, vmax (metres) that hold each of these maps but for its outer 2 %; NaN where nothing was measured.

    0..1 m when no map holds a number.
    """
    ranges = [np.nanquantile(depth, OUTER) for depth in depths if np.isfinite(depth).any()]
    if not ranges:
        return {"vmin": 0.0, "vmax": 1.0}
    low, high = np.min(ranges), np.max(ranges)
    return {"vmin": float(low), "vmax": float(max(high, low + 0.1))}


def _show(panel: Axes, picture: np.ndarray, *, cmap: str | None = None, **options: Any) -> Any:
    panel.set_xticks([])
    panel.set_yticks([])
    panel.spines[:].set_visible(False)
    colours = colormaps[cmap].with_extremes(bad=HOLE_GREY) if cmap else None
    return panel.imshow(picture, cmap=colours, aspect="auto", interpolation="nearest", **options)


def _colour_bar(row: Sequence[Axes], image: Any) -> None:
    bar = row[0].figure.colorbar(image, ax=image.axes, fraction=0.06, pad=0.02)
    bar.ax.tick_params(labelsize=5, length=0)
    bar.outline.set_visible(False)


def arms_figure(
    by_seed: Mapping[str, Sequence[float]], intervals: Mapping[str, tuple[float, float]], label: str
) -> Figure:
    """Error by arm: a bar for the mean with its interval, a dot for every seed."""
    figure = Figure(figsize=(7.5, 0.45 * len(by_seed) + 1.1), layout="constrained")
    panel = figure.subplots()
    for place, (name, values) in enumerate(by_seed.items()):
        low, high = intervals[name]
        panel.hlines(place, low, high, color=BLUE, lw=6, alpha=0.25)
        panel.vlines(float(np.mean(values)), place - 0.28, place + 0.28, color=BLUE, lw=2.5)
        panel.scatter(values, [place] * len(values), s=14, color=DOT, zorder=3)
    panel.set_yticks(range(len(by_seed)), labels=list(by_seed), fontsize=9, parse_math=False)
    panel.invert_yaxis()
    figure.supxlabel(fill(label, LABEL_CHARACTERS), fontsize=9)
    panel.grid(axis="x", alpha=0.3)
    panel.spines[["top", "right", "left"]].set_visible(False)
    return figure


def curve_figure(sizes: Sequence[str], errors: Mapping[str, Sequence[float]], label: str) -> Figure:
    """Error over the number of training samples (in words, evenly spaced), one line per arm."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    panel = figure.subplots()
    for name, values in errors.items():
        panel.plot(range(len(sizes)), values, marker="o", label=name)
    panel.set_xticks(range(len(sizes)), labels=list(sizes))
    panel.set_xlabel("training samples")
    panel.set_ylabel(fill(label, LABEL_CHARACTERS // 2))
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    return figure
