"""Ways in which a frame's features reach the tail: whole, through books that still grow, as real bytes, as baselines.

    arrived = sender(frame)        # SplitFrame -> Arrived: what the tail gets, and what it cost

Every sender has one interface, so that the same evaluation judges them all on the same frames.
"""

# P pillars, D channels, n books, k rows

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .baselines import Baseline, SplitFrame
from .bitstream.codec import Codec
from .bitstream.header import read_header
from .bitstream.stream import compress, decompress
from .rate import compress_within
from .rq.codebooks import ResidualQuantizer

HeadOfPoints = Callable[[np.ndarray], tuple[Tensor, Tensor]]  # points (N,4) -> features (P,D), coords (P,2)


@dataclass(frozen=True, eq=False)
class Arrived:
    """features (P,D) float32 and coords (P,2) y, x as the tail gets them. bytes: sent, None where nothing is; of them
    position_bytes say where the pillars are. codes: (P,n), for usage. ms: under "time" in every record."""

    features: Tensor
    coords: Tensor
    bytes: int | None = None
    position_bytes: int | None = None
    codes: Tensor | None = None
    n: int = 0
    k: int = 0
    ms: dict[str, float] = field(default_factory=dict)


class Sender(Protocol):
    """One way to send a frame."""

    name: str

    def __call__(self, frame: SplitFrame) -> Arrived: ...


class Whole:
    """No quantization: the ceiling."""

    name = "base"

    def __call__(self, frame: SplitFrame) -> Arrived:
        return Arrived(torch.from_numpy(frame.features), torch.from_numpy(frame.coords))


class Books:
    """Books that may still grow, n of them with k rows; nothing is made into bytes (validation while training)."""

    def __init__(self, quantizer: ResidualQuantizer, n: int, k: int):
        self.quantizer, self.n, self.k, self.name = quantizer, n, k, f"{n}x{k}"

    @torch.no_grad()
    def __call__(self, frame: SplitFrame) -> Arrived:
        features = torch.from_numpy(frame.features).to(self.quantizer.books.device)
        codes = self.quantizer.search(features, [self.k] * self.n, coords=torch.from_numpy(frame.coords))
        return Arrived(self.quantizer.decode(codes), torch.from_numpy(frame.coords), codes=codes.cpu(), n=self.n,
                       k=self.k)  # fmt: skip


class Stream:
    """A codec's real bytes at (n, k), or at each frame's best point within target_bytes."""

    def __init__(self, codec: Codec, n: int = 0, k: int = 0, *, target_bytes: int | None = None, beam: int = 1):
        self.codec, self.n, self.k, self.target_bytes, self.beam = codec, n, k, target_bytes, beam
        self.name = f"{n}x{k}" if target_bytes is None else f"within {target_bytes} B"

    @torch.no_grad()
    def __call__(self, frame: SplitFrame) -> Arrived:
        features, coords = torch.from_numpy(frame.features), torch.from_numpy(frame.coords)
        started = time.perf_counter()
        data, n, k = self._encode(features, coords)
        between = time.perf_counter()
        received = decompress(data, self.codec)
        decoded = self.codec.quantizer.decode(received.codes)
        ended = time.perf_counter()
        return Arrived(
            decoded,
            received.coords,
            bytes=len(data),
            position_bytes=read_header(data).lengths[0],
            codes=received.codes,
            n=n,
            k=k,
            ms={"encode": 1000 * (between - started), "decode": 1000 * (ended - between)},
        )

    def _encode(self, features: Tensor, coords: Tensor) -> tuple[bytes, int, int]:
        if self.target_bytes is not None:
            data, point = compress_within(features, coords, self.codec, self.target_bytes, self.beam)
            return data, point.n, point.k
        codes = self.codec.quantizer.encode(features, self.n, self.k, self.beam, coords)
        return compress(codes, coords, self.codec, self.n, self.k), self.n, self.k


class Compared:
    """A baseline's bytes; one that sends points lets the receiver run the whole detector."""

    def __init__(self, baseline: Baseline, head_of_points: HeadOfPoints):
        self.baseline, self.head_of_points, self.name = baseline, head_of_points, baseline.name

    def __call__(self, frame: SplitFrame) -> Arrived:
        started = time.perf_counter()
        data = self.baseline.encode(frame)
        between = time.perf_counter()
        sent = self.baseline.decode(data)
        if sent.points is not None:
            features, coords = self.head_of_points(np.ascontiguousarray(sent.points, np.float32))
        else:
            values = np.asarray(sent.features, np.float32).reshape(len(sent.coords), frame.features.shape[1])
            features, coords = torch.from_numpy(values), torch.from_numpy(np.asarray(sent.coords))
        ended = time.perf_counter()
        ms = {"encode": 1000 * (between - started), "decode": 1000 * (ended - between)}
        return Arrived(features, coords, bytes=len(data), ms=ms)
