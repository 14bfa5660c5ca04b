"""Anchors of every cell of the head's map, and boxes written relative to them.

One size a class, at two rotations, at the centre of every cell of the map (half the grid's resolution). A class brings
its own size, height and thresholds, so any class set is a list of `AnchorClass`. Numbers: zhulf0804/PointPillars.
"""

# N anchors or boxes, S sizes (= classes), h x w cells of the head's map

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from shared.errors import ConfigError

from .grid import Grid

HEAD_STRIDE = 2  # cells of the grid to a cell of the head's map
ROTATIONS_RAD = (0.0, 1.57)  # not pi/2: the published weights were trained with this
ROTATIONS = len(ROTATIONS_RAD)
BOX_CODE = 7  # numbers of a box, encoded or not


@dataclass(frozen=True)
class AnchorClass:
    """What one class looks like before anything is learnt.

    size_wlh_m: width, length, height; z_bottom_m: height of the bottom face. An anchor whose overlap with a box
    (turned to the nearest axis, seen from above) reaches positive_iou learns it; below negative_iou it is background.
    """

    name: str
    size_wlh_m: tuple[float, float, float]
    z_bottom_m: float
    positive_iou: float
    negative_iou: float

    def __post_init__(self):
        object.__setattr__(self, "size_wlh_m", tuple(float(value) for value in self.size_wlh_m))
        if len(self.size_wlh_m) != 3 or min(self.size_wlh_m) <= 0:
            raise ConfigError(f"anchor of {self.name}: size_wlh_m {self.size_wlh_m}: three lengths above 0 m")
        if not 0 < self.negative_iou <= self.positive_iou <= 1:
            raise ConfigError(
                f"anchor of {self.name}: negative_iou {self.negative_iou}, positive_iou {self.positive_iou}: "
                "0 < negative <= positive <= 1"
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain Python for a checkpoint; `AnchorClass(**c.as_dict()) == c`."""
        return {**asdict(self), "size_wlh_m": list(self.size_wlh_m)}


KITTI_CLASSES = (  # in the order of the published labels: Pedestrian 0, Cyclist 1, Car 2
    AnchorClass("Pedestrian", (0.6, 0.8, 1.73), -0.6, 0.5, 0.35),
    AnchorClass("Cyclist", (0.6, 1.76, 1.73), -0.6, 0.5, 0.35),
    AnchorClass("Car", (1.6, 3.9, 1.56), -1.78, 0.6, 0.45),
)


def classes_named(names: Sequence[str]) -> tuple[AnchorClass, ...]:
    """KITTI's classes by name, in the order given. Raises ConfigError for an unknown or repeated name."""
    known = {one.name: one for one in KITTI_CLASSES}
    for name in names:
        if name not in known:
            raise ConfigError(f"class {name!r} has no anchor here; known: {', '.join(known)}; for others give anchors")
    if len(set(names)) != len(names):
        raise ConfigError(f"classes {', '.join(names)}: one stands twice")
    return tuple(known[name] for name in names)


def make_anchors(grid: Grid, classes: Sequence[AnchorClass], device: torch.device | str = "cpu") -> Tensor:
    """(h, w, S, 2, 7) float32: anchors of every cell, size and rotation; flattened, in the order of the head."""
    h, w = grid.height // HEAD_STRIDE, grid.width // HEAD_STRIDE
    y, x = (
        low + (torch.arange(cells, dtype=torch.float64) + 0.5) * size * HEAD_STRIDE
        for low, size, cells in ((grid.range_m[1], grid.voxel_m[1], h), (grid.range_m[0], grid.voxel_m[0], w))
    )
    anchors = torch.empty(h, w, len(classes), ROTATIONS, BOX_CODE, dtype=torch.float64)
    anchors[..., 0], anchors[..., 1] = x[None, :, None, None], y[:, None, None, None]
    for number, one in enumerate(classes):
        anchors[:, :, number, :, 2:6] = torch.tensor([one.z_bottom_m, *one.size_wlh_m], dtype=torch.float64)
    anchors[..., 6] = torch.tensor(ROTATIONS_RAD, dtype=torch.float64)
    return anchors.float().to(device)


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """(N,7) boxes relative to (N,7) anchors: what the head learns.

    x, y over the anchor's diagonal; z between the CENTRES over its height; logarithms of the sizes' ratios; the plain
    difference of the angles.
    """
    x, y, z, w, l, h, theta = boxes.unbind(1)
    xa, ya, za, wa, la, ha, theta_a = anchors.unbind(1)
    diagonal = torch.hypot(wa, la)
    dz = (z + h / 2 - za - ha / 2) / ha
    sizes = [torch.log(size / anchor) for size, anchor in ((w, wa), (l, la), (h, ha))]
    return torch.stack([(x - xa) / diagonal, (y - ya) / diagonal, dz, *sizes, theta - theta_a], 1)


def decode_boxes(deltas: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of `encode_boxes`."""
    dx, dy, dz, dw, dl, dh, turn = deltas.unbind(1)
    xa, ya, za, wa, la, ha, theta_a = anchors.unbind(1)
    diagonal = torch.hypot(wa, la)
    w, l, h = wa * dw.exp(), la * dl.exp(), ha * dh.exp()
    z = za + ha / 2 + dz * ha - h / 2
    return torch.stack([xa + dx * diagonal, ya + dy * diagonal, z, w, l, h, theta_a + turn], 1)
