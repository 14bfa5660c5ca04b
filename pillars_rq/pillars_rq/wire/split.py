"""The two halves of the detector at the two ends of the wire.

    encoder = EdgeEncoder(features_of_cloud(model), codec, Rate(n=2, k=256))
    encoded = encoder(points)                               # points (N, 4) -> stream, with its times
    answer_of = Receiver(detections_of(model), codec)       # stream -> Answer, for DetectionServer

Both take plain callables, so that any encoder and any detector with the same meaning can stand in.
"""

# N points, P pillars, D channels.

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shared.errors import ConfigError

from ..anchors import make_anchors
from ..bitstream.codec import Codec
from ..bitstream.stream import compress, decompress
from ..decode import Decoding, Detections, detect
from ..network import PointPillars, scatter
from ..rate import compress_within
from ..voxelize import batch_pillars, voxelize
from .protocol import Answer

HeadNet = Callable[[np.ndarray], tuple[Tensor, Tensor]]  # points (N, 4) -> features (P, D), coords (P, 2) y, x; on CPU
TailNet = Callable[[Tensor, Tensor], Detections]  # features (P, D), coords (P, 2) -> detections


@dataclass(frozen=True)
class Rate:
    """One (n, k) for all frames, or each frame's best within `target_kb` (1 kB = 1,000 bytes). beam: see `rq.search`.

    Raises ConfigError unless it is the one or the other.
    """

    n: int | None = None
    k: int | None = None
    target_kb: float | None = None
    beam: int = 1

    def __post_init__(self) -> None:
        fixed = self.n is not None and self.k is not None
        if fixed == (self.target_kb is not None) or (self.n is None) != (self.k is None):
            given = f"n {self.n}, k {self.k}, target_kb {self.target_kb}"
            raise ConfigError(f"a rate is both n and k, or target_kb alone, not {given}.")


@dataclass(frozen=True)
class Encoded:
    """A frame ready to send. pillars: occupied cells; times in milliseconds."""

    stream: bytes
    n: int
    k: int
    pillars: int
    headnet_ms: float
    encode_ms: float


class EdgeEncoder:
    """Points to bytes. Raises OperatingPointError at once when the codec does not hold the rate's (n, k)."""

    def __init__(self, headnet: HeadNet, codec: Codec, rate: Rate):
        if rate.n is not None and rate.k is not None:
            codec.quantizer.check(rate.n, rate.k)
        self.headnet, self.codec, self.rate = headnet, codec, rate

    def __call__(self, points: np.ndarray) -> Encoded:
        started = time.perf_counter()
        features, coords = self.headnet(points)
        between = time.perf_counter()
        stream, n, k = self._stream(features, coords)
        ended = time.perf_counter()
        return Encoded(stream, n, k, len(features), 1000 * (between - started), 1000 * (ended - between))

    def _stream(self, features: Tensor, coords: Tensor) -> tuple[bytes, int, int]:
        rate = self.rate
        if rate.target_kb is not None:
            target = int(1000 * rate.target_kb)
            stream, point = compress_within(features, coords, self.codec, target, rate.beam)
            return stream, point.n, point.k
        codes = self.codec.quantizer.encode(features, rate.n, rate.k, rate.beam, coords)
        return compress(codes, coords, self.codec, rate.n, rate.k), rate.n, rate.k


class Receiver:
    """Bytes to detections; StreamError for bytes that are no stream of this codec."""

    def __init__(self, tailnet: TailNet, codec: Codec):
        self.tailnet, self.codec = tailnet, codec

    @torch.no_grad()
    def __call__(self, stream: bytes) -> Answer:
        started = time.perf_counter()
        frame = decompress(stream, self.codec)
        features = self.codec.quantizer.decode(frame.codes)
        between = time.perf_counter()
        detections = self.tailnet(features, frame.coords)
        ended = time.perf_counter()
        return Answer(detections, decode_ms=1000 * (between - started), detect_ms=1000 * (ended - between))

    def warm_up(self) -> None:
        """Take an empty frame: what is compiled or set up at its first use is not the first edge's wait."""
        n, k = self.codec.quantizer.points()[-1]
        self(compress(torch.zeros((0, n), dtype=torch.int64), torch.zeros((0, 2), dtype=torch.int64), self.codec, n, k))


def features_of_cloud(model: PointPillars, device: torch.device | str = "cpu") -> HeadNet:
    """Voxelization and pillar encoder of a detector."""

    @torch.no_grad()
    def headnet(points: np.ndarray) -> tuple[Tensor, Tensor]:
        pillars = voxelize(points, model.grid, model.grid.max_voxels_eval)
        features = model.headnet(batch_pillars([pillars]).to(device))
        return features.cpu(), pillars.coords

    return headnet


def detections_of(model: PointPillars, decoding: Decoding | None = None, device: torch.device | str = "cpu") -> TailNet:
    """Canvas, backbone, neck, head and decoding of a detector."""
    anchors = make_anchors(model.grid, model.classes, device)

    @torch.no_grad()
    def tailnet(features: Tensor, coords: Tensor) -> Detections:
        cells = torch.nn.functional.pad(coords, (1, 0)).to(device)  # frame 0
        canvas = scatter(features.to(device), cells, 1, model.grid)
        return detect(model.tailnet(canvas), anchors, decoding or Decoding())[0]

    return tailnet
