"""Boxes: one vocabulary of formats, and the two overlaps the losses need.

Three formats occur, always with the four numbers in the last dimension:

    xywh    corner and size, pixels of the 1600x900 annotation frame: Talk2Car's files and predictions.json
    cxcywh  centre and size, fractions of the frame in 0..1: what the grounding heads predict and L1 compares
    xyxy    two corners: what IoU and GIoU are computed on

Conversions take torch tensors or numpy arrays and return the same kind. `paired_iou` and `paired_giou` compare row i
with row i (never all with all), in float32 at least, also under autocast.
"""

# B boxes; `...` any leading shape.

import numpy as np
import torch
from torch import Tensor

Boxes = Tensor | np.ndarray

MIN_SIDE = 1e-6  # shorter sides count as this long, so that a collapsed box keeps a finite overlap and gradient


def xywh_to_xyxy(boxes: Boxes) -> Boxes:
    """(..., 4) x, y, w, h -> x1, y1, x2, y2 in the same unit."""
    x, y, w, h = _columns(boxes)
    return _stack(x, y, x + w, y + h)


def xyxy_to_xywh(boxes: Boxes) -> Boxes:
    """(..., 4) x1, y1, x2, y2 -> x, y, w, h in the same unit."""
    x1, y1, x2, y2 = _columns(boxes)
    return _stack(x1, y1, x2 - x1, y2 - y1)


def cxcywh_to_xyxy(boxes: Boxes) -> Boxes:
    """(..., 4) centre x, centre y, w, h -> x1, y1, x2, y2 in the same unit."""
    cx, cy, w, h = _columns(boxes)
    return _stack(cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)


def xyxy_to_cxcywh(boxes: Boxes) -> Boxes:
    """(..., 4) x1, y1, x2, y2 -> centre x, centre y, w, h in the same unit."""
    x1, y1, x2, y2 = _columns(boxes)
    return _stack((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)


def to_unit_cxcywh(boxes_xywh_px: Boxes, frame_wh: tuple[int, int]) -> Boxes:
    """(..., 4) pixels of the annotation frame -> centre and size as fractions of it (never of the file's size)."""
    width, height = frame_wh
    x, y, w, h = _columns(boxes_xywh_px)
    return _stack((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)


def to_frame_xywh(boxes_cxcywh: Boxes, frame_wh: tuple[int, int]) -> Boxes:
    """(..., 4) fractions -> pixels of the annotation frame, cut off at its border: the rows of predictions.json."""
    width, height = frame_wh
    x1, y1, x2, y2 = _columns(cxcywh_to_xyxy(boxes_cxcywh))
    left, right = (x1 * width).clip(0, width), (x2 * width).clip(0, width)
    top, bottom = (y1 * height).clip(0, height), (y2 * height).clip(0, height)
    return _stack(left, top, right - left, bottom - top)


def paired_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Intersection over union of row i of `a` with row i of `b`: (..., 4), (..., 4) -> (...) in 0..1.

    Computed in float32 (float64 stays float64) whatever autocast says. ValueError when the shapes differ.
    """
    intersection, union, _ = _overlap(*_float_pair(a_xyxy, b_xyxy))
    return intersection / union


def paired_giou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Generalised IoU, IoU - (C - U) / C with C the smallest box around both: (..., 4), (..., 4) -> (...) in -1..1.

    Unlike IoU it has a gradient when the boxes are apart (Rezatofighi et al., CVPR 2019, eq. 1). Precision and errors
    as in `paired_iou`.
    """
    intersection, union, hull = _overlap(*_float_pair(a_xyxy, b_xyxy))
    return intersection / union - (hull - union) / hull


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Areas of the intersection, the union and the hull of paired boxes."""
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    outer = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=MIN_SIDE)
    intersection = _product(inner)
    union = _area(a) + _area(b) - intersection
    # The hull holds both boxes; only rounding and sides lifted to MIN_SIDE could make it the smaller area.
    return intersection, union, torch.maximum(_product(outer), union)


def _area(xyxy: Tensor) -> Tensor:
    return _product((xyxy[..., 2:] - xyxy[..., :2]).clamp(min=MIN_SIDE))


def _product(sides: Tensor) -> Tensor:
    return sides[..., 0] * sides[..., 1]  # the backward of Tensor.prod reads the count of zeros on the host


def _float_pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.shape != b.shape or a.shape[-1:] != (4,):
        raise ValueError(f"paired boxes need two equal shapes (..., 4), got {tuple(a.shape)} and {tuple(b.shape)}")
    dtype = torch.float64 if torch.float64 in (a.dtype, b.dtype) else torch.float32
    return a.to(dtype), b.to(dtype)


def _columns(boxes: Boxes) -> tuple[Boxes, Boxes, Boxes, Boxes]:
    if boxes.shape[-1:] != (4,):
        raise ValueError(f"boxes need four numbers in the last dimension, got shape {tuple(boxes.shape)}")
    return tuple(boxes[..., i] for i in range(4))


def _stack(*columns: Boxes) -> Boxes:
    return torch.stack(columns, dim=-1) if isinstance(columns[0], Tensor) else np.stack(columns, axis=-1)
