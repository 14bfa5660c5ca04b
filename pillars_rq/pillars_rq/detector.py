"""The base detector as the books see it: frozen, in two halves, the bottleneck between them.

    features = detector.head(pillars)                      # (P,D), never a gradient
    predictions = detector.tail(quantized, coords, B)      # the gradient passes through to what was looked up

Frozen means eval mode (batch-norm statistics stay), no gradients, and that no parent's `train()` changes it. `sha256`
is the hash of every parameter and buffer, taken at the start; `check` proves that they are still the same.
"""

# P pillars, D channels, B frames

from pathlib import Path

import torch
from torch import Tensor, nn

from shared.checkpoint import tensors_sha256

from .anchors import make_anchors
from .base_config import GridSettings, ModelSettings
from .decode import Decoding, Detections, detect
from .grid import Grid
from .network import PointPillars, Predictions, scatter
from .voxelize import PillarBatch
from .weights import Base, load_base


class FrozenDetector(nn.Module):
    """Both halves of a base detector. base_sha256: of its file; sha256: of its tensors."""

    def __init__(self, base: Base, device: torch.device):
        super().__init__()
        self.model: PointPillars = base.model.to(device)
        self.path, self.base_sha256 = base.path, base.sha256
        self.anchors = make_anchors(base.model.grid, base.model.classes, device)
        self.decoding = decoding_of(base.model.grid)
        self.requires_grad_(False)
        self.train()
        self.sha256 = tensors_sha256(self.model.state_dict())

    def train(self, mode: bool = True) -> "FrozenDetector":
        """Stays in eval mode whatever a parent asks."""
        return super().train(False)

    @property
    def grid(self) -> Grid:
        return self.model.grid

    @property
    def channels(self) -> int:
        return self.model.widths.pillar

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.model.classes)

    @property
    def device(self) -> torch.device:
        return self.anchors.device

    @torch.no_grad()
    def head(self, pillars: PillarBatch) -> Tensor:
        """(P,D) float32 on the detector's device."""
        return self.model.headnet(pillars.to(self.device))

    def tail(self, features: Tensor, coords: Tensor, batch_size: int) -> Predictions:
        """features (P,D), coords (P,3) frame, y, x."""
        canvas = scatter(features.to(self.device), coords.to(self.device), batch_size, self.grid)
        return self.model.tailnet(canvas)

    def detections(self, predictions: Predictions) -> list[Detections]:
        return detect(predictions, self.anchors, self.decoding)

    def check(self) -> None:
        """RuntimeError (a defect, not a mistake of the user's) when a parameter or buffer has moved."""
        if tensors_sha256(self.model.state_dict()) != self.sha256:
            raise RuntimeError("the frozen detector has changed in training")


def open_detector(path: Path, grid: Grid | None, device: torch.device) -> FrozenDetector:
    """The detector of a file; CheckpointError, naming both remedies, when it is missing."""
    return FrozenDetector(load_base(path, grid), device)


def decoding_of(grid: Grid) -> Decoding:
    """KITTI's own limits on KITTI's grid, elsewhere the grid's range."""
    return ModelSettings(grid=GridSettings(**grid.as_dict())).decoding()
