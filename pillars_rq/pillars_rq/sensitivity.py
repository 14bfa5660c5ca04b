"""What the tail notices: in which directions of a feature, and in which pillars, an error costs detections.

Two of train_eval_rq.py's settings rest on it, both of the encoder and of training alone; a decoder knows neither.

    rq_model.metric: tail          the nearest row is the one whose difference is smallest behind the tail's first
                                   convolution, |M (x - c)| with M M = sum W' W over its taps, instead of |x - c|
                     joint         from there on the codes of a frame are chosen together, so that their errors cancel
                                   behind that convolution (rq.together)
    training.object_repeats: 8     a pillar inside a labelled box counts so many times when rows are drawn, averaged
                                   and in the codebook loss: one in ten, they carry nearly all of the loss's gradient
"""

# P pillars, D channels, G boxes of a frame, B frames

from collections.abc import Sequence

import torch
from torch import Tensor

from .grid import Grid
from .network import PointPillars


@torch.no_grad()
def first_convolution(model: PointPillars) -> tuple[Tensor, Tensor]:
    """taps (O,D,3,3) and shift (O,) float32 of the tail's first convolution with its batch norm: what the ReLU cuts."""
    conv, bn = model.backbone.multi_blocks[0][:2]
    scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
    return conv.weight * scale[:, None, None, None], bn.bias - bn.running_mean * scale


@torch.no_grad()
def tail_metric(model: PointPillars) -> Tensor:
    """M (D,D) float32, symmetric: the root of the sum of W' W over the taps and outputs of the tail's first
    convolution, scaled to the mean square 1, so that errors keep their size."""
    weight = first_convolution(model)[0].double()
    squares, axes = torch.linalg.eigh(torch.einsum("oiyx,ojyx->ij", weight, weight))
    squares = squares.clamp(min=0) / squares.mean()
    return (axes * squares.sqrt() @ axes.T).float()


def counted(coords: Tensor, boxes: Sequence[Tensor], grid: Grid, repeats: int) -> Tensor:
    """Which vectors count how often: indices into the pillars, those inside a box `repeats` times.

    coords (P,3) frame, y, x; boxes: (G,7) of each frame -> (P',) int64, ascending; P' = P where nothing is repeated.
    """
    inside = torch.cat([inside_boxes(coords[coords[:, 0] == frame, 1:], one, grid) for frame, one in enumerate(boxes)])
    return torch.arange(len(coords)).repeat_interleave(torch.where(inside, repeats, 1))


def inside_boxes(cells: Tensor, boxes: Tensor, grid: Grid) -> Tensor:
    """Cells (P,2) y, x whose centre lies, from above, in one of the boxes (G,7) grown by a cell on each side: (P,)."""
    size, low = torch.tensor(grid.voxel_m[:2]), torch.tensor(grid.range_m[:2])
    centres = cells.cpu().flip(1) * size + size / 2 + low
    dx, dy = (centres[:, None] - boxes[None, :, :2].float()).unbind(2)  # (P,G)
    cos, sin = boxes[:, 6].float().cos(), boxes[:, 6].float().sin()
    across, along = (dx * cos - dy * sin).abs(), (dx * sin + dy * cos).abs()
    return ((across < boxes[:, 3] / 2 + size[0]) & (along < boxes[:, 4] / 2 + size[1])).any(1)
