"""Pictures from above: points, ground truth, and detections with and without residual quantization side by side.

    picture = compare(points, truth=boxes, without=found, with_rq=quantized, view=BevView.kitti(), title="000134")
    picture.save("000134.png")

x (ahead) runs to the right, y (left) upwards; a short line shows where a box heads. On data of the embedded world give
`embedded=True`: the picture says so.
"""

# P points, N boxes

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from pillars_rq.boxes import bev_corners

Colour = tuple[int, int, int]
TRUTH: Colour = (60, 190, 90)
WITHOUT_RQ: Colour = (70, 150, 255)
WITH_RQ: Colour = (255, 150, 40)
CLASS_COLOURS: dict[str, Colour] = {"Car": (70, 200, 110), "Pedestrian": (255, 96, 96), "Cyclist": (255, 200, 60)}
BACKGROUND, TEXT = (14, 16, 20), (230, 230, 230)
LOW_M, HIGH_M = -2.0, 1.0  # heights of the darkest and the brightest point colour
TITLE_PX = 22


@dataclass(frozen=True)
class BevView:
    """What is shown: range_m x, y smallest, x, y largest; px_per_m."""

    range_m: tuple[float, float, float, float]
    px_per_m: float

    @classmethod
    def kitti(cls) -> "BevView":
        return cls((0.0, -39.68, 69.12, 39.68), 9.0)

    @property
    def size_px(self) -> tuple[int, int]:
        x1, y1, x2, y2 = self.range_m
        return round((x2 - x1) * self.px_per_m), round((y2 - y1) * self.px_per_m)

    def to_px(self, xy: np.ndarray) -> np.ndarray:
        """(..., 2) metres -> (..., 2) pixels, right and down."""
        x1, _, _, y2 = self.range_m
        return np.stack([xy[..., 0] - x1, y2 - xy[..., 1]], -1) * self.px_per_m


@dataclass(frozen=True, eq=False)
class Layer:
    """Boxes (N,7) in one colour or one each, drawn `width_px` wide; scores (N,) are written beside them."""

    boxes: ArrayLike
    colour: Colour | Sequence[Colour]
    width_px: int = 2
    scores: ArrayLike | None = None


def draw_bev(points: np.ndarray, view: BevView, layers: Sequence[Layer] = (), title: str = "") -> Image.Image:
    """Points (P,3 or more) shaded by height, and boxes over them."""
    image = Image.fromarray(_points(points, view))
    drawing, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for layer in layers:
        _draw_layer(drawing, view, layer, font)
    if title:
        drawing.rectangle((0, 0, image.width, TITLE_PX), fill=(0, 0, 0))
        drawing.text((6, 3), title, fill=TEXT, font=font)
    return image


def _points(points: np.ndarray, view: BevView) -> np.ndarray:
    width, height = view.size_px
    canvas = np.full((height, width, 3), BACKGROUND, np.uint8)
    order = np.argsort(points[:, 2], kind="stable")  # high points over low ones
    places = np.floor(view.to_px(points[order, :2])).astype(np.int64)
    seen = ((places >= 0) & (places < (width, height))).all(1)
    level = np.clip((points[order, 2] - LOW_M) / (HIGH_M - LOW_M), 0, 1)[seen, None]
    canvas[places[seen, 1], places[seen, 0]] = (90 + 150 * level * [1.0, 0.9, 0.55]).astype(np.uint8)
    return canvas


def _draw_layer(drawing: ImageDraw.ImageDraw, view: BevView, layer: Layer, font) -> None:
    boxes = np.asarray(layer.boxes, np.float64).reshape(-1, 7)
    one = isinstance(layer.colour[0], int) if len(layer.colour) else True
    colours = [layer.colour] * len(boxes) if one else list(layer.colour)
    corners = view.to_px(bev_corners(boxes))
    heading = np.stack([-np.sin(boxes[:, 6]), -np.cos(boxes[:, 6])], 1) * (boxes[:, 4:5] / 2 + 0.5)
    middle, ahead = view.to_px(boxes[:, :2]), view.to_px(boxes[:, :2] + heading)
    for i, colour in enumerate(colours):
        outline = [tuple(corner) for corner in corners[i]]
        drawing.line([*outline, outline[0]], fill=tuple(colour), width=layer.width_px)
        drawing.line([tuple(middle[i]), tuple(ahead[i])], fill=tuple(colour), width=layer.width_px)
        if layer.scores is not None:
            score = float(np.asarray(layer.scores)[i])
            drawing.text(tuple(corners[i].max(0) + 2), f"{score:.2f}", fill=tuple(colour), font=font)


def compare(
    points: np.ndarray,
    *,
    truth: ArrayLike | None,
    without: ArrayLike,
    with_rq: ArrayLike,
    view: BevView,
    title: str = "",
    rate: str = "",
    without_scores: ArrayLike | None = None,
    with_scores: ArrayLike | None = None,
    embedded: bool = False,
) -> Image.Image:
    """Two views side by side: detections (N,7) of the whole network, and those behind the quantized features.

    truth (N,7) is drawn thinly in both, None where there are no labels. rate: what the codes cost, for the caption.
    """
    truths = [] if truth is None else [Layer(truth, TRUTH, 1)]
    mark = " - embedded world, no real data" if embedded else ""
    views = [
        draw_bev(points, view, [*truths, Layer(without, WITHOUT_RQ, 2, without_scores)], f"{title} without RQ{mark}"),
        draw_bev(points, view, [*truths, Layer(with_rq, WITH_RQ, 2, with_scores)], f"{title} with RQ {rate}{mark}"),
    ]
    whole = Image.new("RGB", (2 * views[0].width + 6, views[0].height), (255, 255, 255))
    for number, one in enumerate(views):
        whole.paste(one, (number * (one.width + 6), 0))
    return whole
