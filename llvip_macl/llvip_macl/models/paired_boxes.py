"""Which boxes are compared: the rows of MACL, as boxes in each modality, with the person that each belongs to.

Label sets with boxes per modality (AR-CNN's paired KAIST) give a person two boxes. A RoI around the visible box is
carried to the infrared one by the shift and scale between the two, and each modality is pooled inside its own.

    P rows of one image, G persons (ground-truth boxes) of one image; boxes xyxy in pixels of the padded input
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageRows:
    """Rows of one image: vis_boxes and ir_boxes (P,4), person (P,) index of the assigned ground truth."""

    vis_boxes: Tensor
    ir_boxes: Tensor
    person: Tensor


def carry_boxes(boxes: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Boxes (P,4) placed to `target` (P,4) as they are to `source` (P,4): same relative offset, same relative size."""
    scale = _size(target) / _size(source).clamp_min(1e-6)
    centre = _centre(target) + (_centre(boxes) - _centre(source)) * scale
    half = _size(boxes) * scale / 2
    return torch.cat([centre - half, centre + half], 1)


def image_rows(
    boxes: Tensor, person: Tensor, gt_boxes: Tensor, gt_boxes_ir: Tensor | None, limit: int | None
) -> ImageRows:
    """The rows of one image.

    Args:
        boxes: (P,4) RoIs; person: (P,) the ground truth of each.
        gt_boxes, gt_boxes_ir: (G,4) per modality; without the second, both modalities share the RoIs. A person whose
            infrared box has no area was not labelled there and gives no row.
        limit: at most so many rows, evenly spaced among them.
    """
    if gt_boxes_ir is not None and len(boxes):
        seen = (_size(gt_boxes_ir) > 0).all(1)[person]
        boxes, person = boxes[seen], person[seen]
    chosen = evenly(len(boxes), limit, boxes.device)
    boxes, person = boxes[chosen], person[chosen]
    ir_boxes = boxes if gt_boxes_ir is None else carry_boxes(boxes, gt_boxes[person], gt_boxes_ir[person])
    return ImageRows(boxes, ir_boxes, person)


def evenly(count: int, limit: int | None, device: torch.device | None = None) -> Tensor:
    """Indices (min(count, limit),) evenly spaced in 0..count-1, the first included; no draws, so resume is exact."""
    index = torch.arange(count, device=device)
    if limit is None or count <= limit:
        return index
    return index[:limit] * count // limit


def group_numbers(rows: Sequence[ImageRows], persons: Sequence[int]) -> Tensor:
    """(K,) numbers, equal for rows of one person in one image only; persons: G of each image."""
    starts = [sum(persons[:index]) for index in range(len(rows))]
    return torch.cat([image.person + start for image, start in zip(rows, starts, strict=True)])


def _centre(boxes: Tensor) -> Tensor:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _size(boxes: Tensor) -> Tensor:
    return boxes[:, 2:] - boxes[:, :2]
