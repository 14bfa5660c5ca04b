"""Pictures for people: pairs with their detections, and how well the modalities agree against chance.

picture = pair_picture(read_image(visible), read_image(infrared), boxes, scores, truth=boxes, mark="embedded data")
figure = alignment_figure({"MACL embedding": report}, mark="...")
"""

# M detections, G annotated boxes, H W pixels of a picture

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from shared.errors import DataError
from shared.storage import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .evaluation.alignment import Measure

GREEN, ORANGE, YELLOW, WHITE, BLACK, GREY = (
    (80, 220, 80),
    (40, 150, 255),
    (60, 210, 250),
    (255, 255, 255),
    (24, 20, 18),
    (150, 150, 150),
)  # fmt: skip - BGR
HALF_WIDTH_PX = 480  # of each half, at least
CAPTION_PX = 24
LINES = ("#2f5fd0", "#d9662b", "#2a9d6f", "#8a4fc4", "#5b6472")
MUTED, GRID, CHANCE = "#5b6472", "#e3e6eb", "#c2364f"
# Measures that share the axis 0..1, with what they are called.
SHOWN = {
    "retrieval_at1_vis_to_ir": "partner found first, visible to infrared",
    "retrieval_at1_ir_to_vis": "partner found first, infrared to visible",
    "retrieval_at5_vis_to_ir": "partner among five, visible to infrared",
    "retrieval_at5_ir_to_vis": "partner among five, infrared to visible",
    "cosine_gap": "cosine of pairs minus that of others",
    "modality_mixing": "modality mixing (1 - silhouette)",
    "probe_accuracy": "a linear probe names the modality",
}


def read_image(path: str | Path) -> np.ndarray:
    """(H,W,3) uint8 BGR. Raises DataError for a file that is missing or no image."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"cannot read the image {path}: {error.strerror}") from None
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if image is None:
        raise DataError(f"{path} is no image that OpenCV can read: it is cut short, or of another kind.")
    return image


def pair_picture(
    visible: np.ndarray,
    infrared: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray,
    *,
    truth: np.ndarray | None = None,
    ignored: np.ndarray | None = None,
    caption: str = "",
    mark: str = "",
) -> np.ndarray:
    """Both halves side by side (H', W', 3) uint8: detections with scores orange, annotations green, ignored yellow.

    visible, infrared: (H,W,3) BGR of one size; boxes (M,4) xyxy px, scores (M,); truth, ignored (G,4). Small pictures
    are enlarged, so that lines and numbers can be read. Raises DataError for halves of two sizes.
    """
    if visible.shape != infrared.shape:
        raise DataError(f"the halves are {visible.shape[:2]} and {infrared.shape[:2]}: a pair has one size.")
    factor = max(1, math.ceil(HALF_WIDTH_PX / visible.shape[1]))
    drawn = []
    for name, image in (("visible", visible), ("infrared", infrared)):
        half = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        for group, colour in ((ignored, YELLOW), (truth, GREEN)):
            for box in [] if group is None else group:
                _rectangle(half, box * factor, colour)
        for box, score in zip(boxes, scores, strict=True):
            _rectangle(half, box * factor, ORANGE)
            _score(half, box * factor, float(score))
        drawn.append(_captioned(half, f"{name}  {caption}" if name == "visible" else f"{name}  {mark}"))
    return np.hstack([drawn[0], np.full((len(drawn[0]), 4, 3), GREY, np.uint8), drawn[1]])


def _rectangle(image: np.ndarray, box: np.ndarray, colour: tuple[int, int, int]) -> None:
    x1, y1, x2, y2 = (round(float(edge)) for edge in box)
    cv2.rectangle(image, (x1, y1), (x2 - 1, y2 - 1), colour, 2 if image.shape[1] > HALF_WIDTH_PX else 1, cv2.LINE_AA)


def _score(image: np.ndarray, box: np.ndarray, score: float) -> None:
    """Above the box where there is room, else inside."""
    x, y = max(0, round(float(box[0]))), round(float(box[1]))
    place = (x, y - 3 if y > 14 else y + 13)
    for colour, thickness in ((BLACK, 3), (WHITE, 1)):
        cv2.putText(image, f"{score:.2f}", place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, thickness, cv2.LINE_AA)


def _captioned(image: np.ndarray, text: str) -> np.ndarray:
    """A line above the picture; text wider than the picture is cut."""
    head = np.full((CAPTION_PX, image.shape[1], 3), BLACK, np.uint8)
    plain = text.encode("ascii", "replace").decode()  # OpenCV draws no other letters
    cv2.putText(head, plain, (6, CAPTION_PX - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.42, WHITE, 1, cv2.LINE_AA)
    return np.vstack([head, image])


def sheet(pictures: Sequence[np.ndarray], columns: int = 1) -> np.ndarray:
    """Pictures of one width in a grid, row by row, with lines between them. Raises ValueError without a picture."""
    if not pictures:
        raise ValueError("no picture to put on the sheet")
    height = max(len(picture) for picture in pictures)
    tiles = [cv2.copyMakeBorder(p, 0, height - len(p) + 4, 0, 4, cv2.BORDER_CONSTANT, value=WHITE) for p in pictures]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)])


def write_picture(path: str | Path, image: np.ndarray, quality: int = 92) -> Path:
    """Write a BGR picture as png or jpg by its name, whole or absent, its folder made. Raises StorageError."""
    from .evaluation.export import make_folder

    path = Path(path)
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality] if path.suffix == ".jpg" else []
    done, data = cv2.imencode(path.suffix, image, settings)
    assert done
    make_folder(path.parent)
    return write_atomic(path, data.tobytes())


# --- figures ----------------------------------------------------------------------------------------------------------


def alignment_figure(reports: Mapping[str, Mapping[str, "Measure"]], title: str = "", mark: str = "") -> "Figure":
    """Every measure with its 95 % interval for each of the reports; a red line marks chance.

    Raises ValueError without a report. reports: name -> `alignment_report`'s measures.
    """
    from matplotlib.figure import Figure

    if not reports:
        raise ValueError("no alignment to draw")
    names = [name for name in SHOWN if any(name in report for report in reports.values())]
    figure = Figure(figsize=(8.2, 0.55 * len(names) * max(1, 0.6 * len(reports)) + 1.5), layout="constrained")
    axes = figure.subplots()
    for number, (label, report) in enumerate(reports.items()):
        _draw_report(axes, names, report, label, (number + 0.5) / len(reports) - 0.5, LINES[number % len(LINES)])
    axes.plot([], [], color=CHANCE, linewidth=2, label="chance")
    axes.set_yticks(range(len(names)), [SHOWN[name] for name in names], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(-0.05, 1.05)
    axes.grid(axis="x", color=GRID)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelcolor=MUTED)
    axes.set_title(title, fontsize=11, loc="left", parse_math=False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower right", ncols=4, fontsize=8.5, frameon=False)
    if mark:
        figure.suptitle(mark, fontsize=9, color="#8a5a00", parse_math=False)
    return figure


def _draw_report(axes, names: Sequence[str], report: Mapping[str, "Measure"], label: str, shift: float, colour) -> None:
    height = 0.7 * abs(shift) if shift else 0.3
    for place, name in enumerate(names):
        if name not in report:
            continue
        found, y = report[name], place + 0.8 * shift
        if math.isfinite(found.low):
            axes.plot([found.low, found.high], [y, y], color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
        axes.plot([found.value], [y], "o", color=colour, markersize=6, label=label if place == 0 else None)
        if math.isfinite(found.chance):
            axes.plot([found.chance] * 2, [y - height, y + height], color=CHANCE, linewidth=2)


def arms_figure(
    values: Mapping[str, Sequence[float]], intervals: Mapping[str, tuple[float, float]], label: str, mark: str = "",
    chance: float | None = None,
) -> "Figure":  # fmt: skip
    """A row an arm: line at the mean over seeds, band for the 95 % interval, dots for the seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.2, 0.5 * len(values) + 1.5), layout="constrained")
    axes = figure.subplots()
    for place, (name, seeds) in enumerate(values.items()):
        low, high = intervals[name]
        if math.isfinite(low):
            axes.barh(place, high - low, left=low, height=0.5, color=LINES[0], alpha=0.25)
        axes.plot([float(np.mean(seeds))] * 2, [place - 0.32, place + 0.32], color=LINES[0], linewidth=2)
        axes.plot(seeds, [place] * len(seeds), "o", color=MUTED, markersize=4)
    if chance is not None:
        axes.axvline(chance, color=CHANCE, linewidth=1.5, label="chance")
        axes.legend(fontsize=8.5, frameon=False)
    axes.set_yticks(range(len(values)), list(values), fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel(label, fontsize=9, color=MUTED)
    axes.grid(axis="x", color=GRID)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if mark:
        figure.suptitle(mark, fontsize=9, color="#8a5a00", parse_math=False)
    return figure
