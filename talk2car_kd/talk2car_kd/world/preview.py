"""A contact sheet of the world: frames with the boxes and words of their commands, and the COCO-like pictures."""

import textwrap
from dataclasses import replace

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from . import coco_like, talk2car_like
from .spec import FRAME_WH, WorldSpec

COLOURS = ((255, 86, 64), (42, 196, 255), (255, 206, 46), (92, 224, 108))
TILE_WH = (640, 360)
TEXT_PX = 15


def _captioned(picture: np.ndarray, boxes_xywh, texts, frame_wh) -> Image.Image:
    """The picture with its boxes, and below it the texts, each in the colour of its box."""
    image = Image.fromarray(cv2.resize(picture, TILE_WH, interpolation=cv2.INTER_AREA))
    sheet = Image.new("RGB", (TILE_WH[0], TILE_WH[1] + 4 + 2 * (TEXT_PX + 5)), (18, 20, 24))
    sheet.paste(image)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT_PX)
    for box, colour in zip(boxes_xywh, COLOURS, strict=False):
        x, y, w, h = (v * TILE_WH[i % 2] / frame_wh[i % 2] for i, v in enumerate(box))
        draw.rectangle((x, y, x + w, y + h), outline=colour, width=2)
    for line, (text, colour) in enumerate(zip(texts, COLOURS, strict=False)):
        shown = textwrap.shorten(text, 88, placeholder=" ...")
        draw.text((6, TILE_WH[1] + 2 + line * (TEXT_PX + 5)), shown, font=font, fill=colour)
    return sheet


def _frame_tile(spec: WorldSpec, index: int) -> Image.Image:
    frame, rows, _ = talk2car_like.make_frame(spec, "val", index)
    fine = replace(spec, stored_wh=(TILE_WH[0] * 2, TILE_WH[1] * 2))
    chosen = list({tuple(row["2d_box"]): row for row in rows}.values())[:2]
    picture = talk2car_like.picture(fine, frame, "val", index)
    return _captioned(picture, [row["2d_box"] for row in chosen], [row["command"] for row in chosen], FRAME_WH)


def sheet(spec: WorldSpec, *, frames: int = 12, columns: int = 3) -> Image.Image:
    """A contact sheet of driving frames with up to two commands each.

    Of the first four times as many scenes, those whose first frame shows the most classes and things.
    """
    firsts = [number * spec.frames_per_scene for number in range(4 * frames)]
    richest = sorted(firsts, key=lambda index: _richness(spec, index), reverse=True)[:frames]
    return _grid([_frame_tile(spec, index) for index in sorted(richest)], columns)


def _richness(spec: WorldSpec, index: int) -> tuple[int, int]:
    frame, _, _ = talk2car_like.make_frame(spec, "val", index)
    return len({thing.kind for thing in frame.things}), len(frame.things)


def coco_sheet(spec: WorldSpec, *, images: int = 12, columns: int = 4) -> Image.Image:
    """A contact sheet of COCO-like pictures with mask outlines and two of their captions."""
    fine = replace(spec, coco_stored_wh=(spec.coco_stored_wh[0] * 2, spec.coco_stored_wh[1] * 2))
    tiles = []
    for index in range(images):
        _, picture, rows, texts = coco_like.make_view(fine, "val2017", index)
        width, height = fine.coco_stored_wh
        for row in rows:
            if not row["iscrowd"]:
                outlines = [np.array(p).reshape(-1, 1, 2).round().astype(np.int32) for p in row["segmentation"]]
                cv2.polylines(picture, outlines, True, (255, 235, 59), 1)
        tiles.append(_captioned(picture, [], texts[:2], (width, height)))
    return _grid(tiles, columns)


def _grid(tiles, columns: int) -> Image.Image:
    width, height = tiles[0].size
    rows = -(-len(tiles) // columns)
    image = Image.new("RGB", (columns * width + (columns - 1) * 6, rows * height + (rows - 1) * 6), (255, 255, 255))
    for number, tile in enumerate(tiles):
        image.paste(tile, ((number % columns) * (width + 6), (number // columns) * (height + 6)))
    return image
