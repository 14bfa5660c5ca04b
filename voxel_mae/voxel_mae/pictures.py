"""Pictures from above: clouds with boxes, reconstructed occupancy, and how alike teacher and student see a place.

    frames_figure([(title, points, boxes, names), ...])           clouds with their labels
    detections_figure([View(...), ...])                           labels and detections
    occupancy_figure(OccupancyView(...))                          visible, predicted, true, wrong
    similarity_figure({"conv1": (places, cosine), ...})           student against teacher, level by level
    summary_figure(OccupancyView(...), View(...))                 masked, reconstructed, detected

x points up and y to the left, as a driver would hold the map. `mark` is written over every figure of embedded data.
"""

# P points, G boxes, N sites; boxes are x, y, z, dx, dy, dz, heading in metres and radians

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

from .boxes import bev_corners

CLASS_COLOURS = {"dumptruck": "#d9662b", "excavator": "#e5a50a", "grader": "#2a9d6f", "roller": "#8a4fc4"}
OTHER, FOUND, INK, MARKED, FLOOR = "#5b6472", "#2f5fd0", "#1c2330", "#c2364f", "#f5f6f8"
HEIGHTS_M = (-2.5, 2.0)  # of the colours of points
PANEL_IN = 4.2
ANSWER = "its probability that a block is occupied"
HIDDEN = "#9aa3af"
OCCUPIED = ListedColormap(["#dfe3e8", "#2f5fd0"])  # empty, occupied
WRONG = ListedColormap(["#dfe3e8", "#2a9d6f", "#c2364f", "#e5a50a"])  # empty, found, missed, invented


@dataclass(frozen=True, eq=False)
class View:
    """One cloud: points (P, >= 3); labels and detections: boxes (G,7) with class names; scores of the detections."""

    title: str
    points: np.ndarray
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 7)))
    names: Sequence[str] = ()
    found: np.ndarray = field(default_factory=lambda: np.zeros((0, 7)))
    found_names: Sequence[str] = ()
    scores: Sequence[float] = ()


@dataclass(frozen=True, eq=False)
class OccupancyView:
    """One masked cloud: visible (V,2) and hidden (H,2) voxels, x and y in metres; blocks (N,2) that were asked, their
    probability (N,) of being occupied and whether they are (N,), block_m their side."""

    title: str
    visible_xy: np.ndarray
    hidden_xy: np.ndarray
    blocks_xy: np.ndarray
    probability: np.ndarray
    occupied: np.ndarray
    block_m: float


# --- clouds and boxes -------------------------------------------------------------------------------------------------


def frames_figure(frames: Sequence[tuple[str, np.ndarray, np.ndarray, Sequence[str]]], mark: str = "") -> Figure:
    """Clouds with their labelled boxes, side by side: (title, points, boxes, names) each. ValueError without any."""
    figure, panels = _panels(len(frames), mark)
    for panel, (title, points, boxes, names) in zip(panels, frames, strict=True):
        _draw_cloud(panel, points)
        _draw_boxes(panel, boxes, names)
        _dress(panel, title)
    return figure


def detections_figure(views: Sequence[View], mark: str = "") -> Figure:
    """Clouds with labels (solid) and detections (dashed, with their score), both in their class's colour."""
    figure, panels = _panels(len(views), mark, columns=2)
    for panel, view in zip(panels, views, strict=True):
        _draw_detected(panel, view)
        _dress(panel, f"{view.title}: {len(view.boxes)} labels, {len(view.found)} detections")
    _box_legend(figure, [name for view in views for name in (*view.names, *view.found_names)])
    return figure


def _draw_detected(panel: Axes, view: View) -> None:
    _draw_cloud(panel, view.points)
    _draw_boxes(panel, view.boxes, view.names)
    _draw_boxes(panel, view.found, view.found_names, line="--")
    for box, name, score in zip(view.found, view.found_names, view.scores, strict=True):
        panel.text(-box[1], box[0], f"{score:.2f}", fontsize=6, color=CLASS_COLOURS.get(name, OTHER), ha="center",
                   va="center", bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8},
                   parse_math=False)  # fmt: skip


def _box_legend(figure: Figure, names: Sequence[str]) -> None:
    """The colours of the classes that are there, and what a solid and a dashed outline is."""
    colours = {name: CLASS_COLOURS.get(name, OTHER) for name in (*CLASS_COLOURS, *names) if name in names}
    if not colours:
        return
    handles = [Line2D([], [], color=colour, lw=2.5, label=name) for name, colour in colours.items()]
    handles += [Line2D([], [], color=INK, lw=1.3, label="label"),
                Line2D([], [], color=INK, lw=1.3, ls="--", label="detection, with score")]  # fmt: skip
    columns = 3 * round(figure.get_figwidth() / PANEL_IN)  # three entries fit below one panel
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _draw_cloud(panel: Axes, points: np.ndarray) -> None:
    order = np.argsort(points[:, 2])  # high points on top
    x, y, z = points[order, :3].T
    panel.scatter(-y, x, s=0.35, c=z, cmap="viridis", vmin=HEIGHTS_M[0], vmax=HEIGHTS_M[1], linewidths=0,
                  rasterized=True)  # fmt: skip
    panel.plot(0, 0, marker="+", color=MARKED, markersize=6)


def _draw_boxes(panel: Axes, boxes: np.ndarray, names: Sequence[str], colour: str | None = None, line="-") -> None:
    """Outlines with a stroke from the middle to the front."""
    if not len(boxes):
        return
    boxes = np.asarray(boxes, dtype=float)[:, :7]
    colours = [colour or CLASS_COLOURS.get(name, OTHER) for name in names]
    corners = bev_corners(boxes)
    panel.add_collection(PolyCollection(np.stack([-corners[..., 1], corners[..., 0]], -1), facecolors="none",
                                        edgecolors=colours, linewidths=1.3, linestyles=line))  # fmt: skip
    middle = boxes[:, :2]
    front = middle + boxes[:, 3:4] / 2 * np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], 1)
    strokes = np.stack([middle, front], 1)[..., ::-1] * [-1, 1]
    panel.add_collection(LineCollection(strokes, colors=colours, linewidths=1.0))


# --- pretraining ------------------------------------------------------------------------------------------------------


def occupancy_figure(view: OccupancyView, mark: str = "") -> Figure:
    """Four panels from above: the voxels that the student saw and those it did not, how probable it holds the most
    probable block of each column, which columns hold an occupied block, and its mistakes."""
    figure, panels = _panels(4, mark, columns=2)
    _draw_masked(panels[0], view)
    cells, extent = _blocks(view.blocks_xy, view.block_m)
    probability, occupied = _highest(cells, view.probability), _highest(cells, view.occupied.astype(float))
    answer = np.where(np.isnan(probability), np.nan, outcome(probability > 0.5, occupied > 0.5))
    answered = _show(panels[1], probability, extent, cmap="magma", vmin=0, vmax=1)
    true = _show(panels[2], occupied, extent, cmap=OCCUPIED, vmin=-0.5, vmax=1.5)
    wrong = _show(panels[3], answer, extent, cmap=WRONG, vmin=-0.5, vmax=3.5)
    _scale(figure, panels[1], answered)
    _scale(figure, panels[2], true, ("empty", "occupied"))
    _scale(figure, panels[3], wrong, ("empty", "found", "missed", "invented"))
    titles = (f"{view.title}: {_seen(view)}", ANSWER, f"blocks of {view.block_m:g} m that are occupied",
              "its answer at probability 1/2")  # fmt: skip
    for panel, title in zip(panels, titles, strict=True):
        _dress(panel, title)
        panel.set_xlim(extent[0], extent[1])
        panel.set_ylim(extent[2], extent[3])
    return figure


def summary_figure(masked: OccupancyView, detected: View, mark: str = "") -> Figure:
    """The method in a row: what the student sees, what it makes of it, and the detector's answer on the same frame."""
    figure, panels = _panels(3, mark)
    cells, extent = _blocks(masked.blocks_xy, masked.block_m)
    _draw_masked(panels[0], masked)
    _scale(figure, panels[1], _show(panels[1], _highest(cells, masked.probability), extent, cmap="magma", vmin=0,
                                    vmax=1))  # fmt: skip
    _draw_detected(panels[2], detected)
    titles = (_seen(masked), ANSWER, "labels (solid) and detections (dashed)")
    for panel, title in zip(panels, titles, strict=True):
        _dress(panel, title)
        panel.set_xlim(extent[0], extent[1])
        panel.set_ylim(extent[2], extent[3])
    _box_legend(figure, [*detected.names, *detected.found_names])
    return figure


def _draw_masked(panel: Axes, view: OccupancyView) -> None:
    panel.scatter(-view.hidden_xy[:, 1], view.hidden_xy[:, 0], s=1.6, color=HIDDEN, linewidths=0)
    panel.scatter(-view.visible_xy[:, 1], view.visible_xy[:, 0], s=2.0, color=FOUND, linewidths=0)


def _seen(view: OccupancyView) -> str:
    share = len(view.visible_xy) / max(1, len(view.visible_xy) + len(view.hidden_xy))
    return f"the student sees {share:.0%} of the voxels (blue)"


def outcome(answered: np.ndarray, true: np.ndarray) -> np.ndarray:
    """0 rightly empty, 1 rightly occupied, 2 missed, 3 invented."""
    return np.where(answered, np.where(true, 1, 3), np.where(true, 2, 0))


def similarity_figure(levels: Mapping[str, tuple[np.ndarray, np.ndarray]], site_m: Mapping[str, float],
                      mark: str = "") -> Figure:  # fmt: skip
    """A panel a level: places (N,2) in metres and the cosine (N,) of student's and teacher's features there; places
    over one another show their mean. site_m: the side of a site of each level."""
    figure, panels = _panels(len(levels), mark, columns=2)
    for panel, (name, (places, cosine)) in zip(panels, levels.items(), strict=True):
        cells, extent = _blocks(places, site_m[name])
        image = _show(panel, _mean(cells, cosine), extent, cmap="viridis", vmin=-0.2, vmax=1)
        _scale(figure, panel, image)
        mean = f"mean cosine {float(cosine.mean()):.2f}" if len(cosine) else "no common site"
        _dress(panel, f"{name}, sites of {site_m[name]:g} m: {mean}")
    return figure


# --- rasters ----------------------------------------------------------------------------------------------------------


def _blocks(places_xy: np.ndarray, side_m: float) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Middles (N,2) of cells of one raster -> row (x) and column (-y) of each from 0, and the raster's extent in
    metres on the page."""
    if not len(places_xy):
        return np.zeros((0, 2), int), (-1.0, 1.0, -1.0, 1.0)
    page = np.stack([places_xy[:, 0], -places_xy[:, 1]], 1)
    low, high = page.min(0) - side_m / 2, page.max(0) + side_m / 2
    cells = np.floor((page - low) / side_m).astype(int)
    return cells, tuple(float(v) for v in (low[1], high[1], low[0], high[0]))


def _highest(cells: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Raster of the largest value of each cell, NaN where there is none."""
    raster = np.full(_size(cells), -np.inf)
    np.maximum.at(raster, tuple(cells.T), values)
    return np.where(np.isinf(raster), np.nan, raster)


def _mean(cells: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Raster of the mean of each cell, NaN where there is none."""
    total, count = np.zeros(_size(cells)), np.zeros(_size(cells))
    np.add.at(total, tuple(cells.T), values)
    np.add.at(count, tuple(cells.T), 1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _size(cells: np.ndarray) -> tuple[int, int]:
    return tuple(int(n) for n in cells.max(0) + 1) if len(cells) else (1, 1)


# --- the page ---------------------------------------------------------------------------------------------------------


def _panels(count: int, mark: str, columns: int = 4) -> tuple[Figure, list[Axes]]:
    if not count:
        raise ValueError("nothing to draw")
    columns = min(count, columns)
    rows = -(-count // columns)
    figure = Figure(figsize=(PANEL_IN * columns, PANEL_IN * rows + 0.3), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for panel in panels[count:]:
        panel.set_visible(False)
    figure.suptitle(mark, fontsize=8, color=MARKED, parse_math=False)
    return figure, panels[:count]


def _show(panel: Axes, raster: np.ndarray, extent, *, cmap, **options) -> AxesImage:
    colours = (colormaps[cmap] if isinstance(cmap, str) else cmap).with_extremes(bad=FLOOR)
    return panel.imshow(raster, extent=extent, origin="lower", cmap=colours, interpolation="nearest", **options)


def _scale(figure: Figure, panel: Axes, image: AxesImage, names: Sequence[str] = ()) -> None:
    """The colours' scale beside a panel: numbers, or a name for each whole number."""
    bar = figure.colorbar(image, ax=panel, shrink=0.6, aspect=30, pad=0.01)
    bar.outline.set_visible(False)
    if names:
        bar.set_ticks(range(len(names)), labels=names)
    bar.ax.tick_params(labelsize=6, length=0)


def _dress(panel: Axes, title: str) -> None:
    panel.set_title(title, fontsize=8, color=INK, parse_math=False)
    panel.set_xlabel("metres; forward is up", fontsize=6, color=INK)
    panel.set_aspect("equal")
    panel.set_facecolor(FLOOR)
    panel.tick_params(labelsize=6, length=0)
    panel.spines[:].set_visible(False)
