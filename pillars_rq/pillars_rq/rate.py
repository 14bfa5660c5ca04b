"""Spending bytes: the best operating point for a frame's budget, or a depth for every pillar.

    stream, point = compress_within(features, coords, codec, target_bytes=8_000)

**Rate control** measures, for one frame, the true length of every (n, k) the books hold, and takes the one with the
least squared error among those that fit. The lengths come from one stream for each k: fewer books are a cut.

**Depth per pillar** gives codes to the pillars that gain most. With e_j the squared error of a pillar after j codes,

    depth = argmin_j  e_j + lambda j        (j = 1 .. n)

minimises the frame's error for the number of codes it spends; lambda is bisected. Streams of
version 2 carry the depths.
"""

# P pillars, D channels, n books, k rows, e errors.

from dataclasses import dataclass

import torch
from torch import Tensor

from shared.errors import UserError

from .bitstream.codec import Codec
from .bitstream.header import read_header
from .bitstream.stream import compress, truncate

BISECTIONS = 40  # of lambda: past float64's spread of errors
DEPTH_STEPS = 24  # of the mean depth, when a byte target is looked for


class RateError(UserError):
    """No operating point fits the target."""


@dataclass(frozen=True)
class Point:
    """What one (n, k) costs and leaves on one frame; bytes are of the whole stream, error is sum |x - q|^2."""

    n: int
    k: int
    bytes: int
    error: float


def errors_by_depth(features: Tensor, codes: Tensor, codec: Codec) -> Tensor:
    """Squared error of every pillar after 1..n codes: (P, D), (P, n) -> (P, n) float64."""
    quantizer, total, errors = codec.quantizer, torch.zeros_like(features), []
    for book in range(codes.shape[1]):
        total = total + quantizer.rows(book).detach()[codes[:, book]]
        errors.append((features.double() - total.double()).square().sum(1))
    return torch.stack(errors, 1)


@torch.no_grad()
def operating_points(features: Tensor, coords: Tensor, codec: Codec, beam: int = 1) -> dict[Point, bytes]:
    """Every (n, k) the books hold on this frame: features (P, D), coords (P, 2) -> its cost and its stream."""
    deepest: dict[int, int] = {}
    for n, k in codec.quantizer.points():
        deepest[k] = max(n, deepest.get(k, 0))
    found = {}
    for k, n_max in deepest.items():
        codes = codec.quantizer.encode(features, n_max, k, beam, coords)
        errors = errors_by_depth(features, codes, codec).sum(0).tolist()
        for n in range(1, n_max + 1):
            stream = compress(codes, coords, codec, n, k)
            found[Point(n, k, len(stream), errors[n - 1])] = stream
    return found


def compress_within(
    features: Tensor, coords: Tensor, codec: Codec, target_bytes: int, beam: int = 1
) -> tuple[bytes, Point]:
    """The stream with the least error among those of at most `target_bytes`; ties to the shorter one.

    Raises RateError, naming the least that would do, when none fits.
    """
    points = operating_points(features, coords, codec, beam)
    fitting = [point for point in points if point.bytes <= target_bytes]
    if not fitting:
        least = min(points, key=lambda point: point.bytes)
        raise RateError(
            f"a target of {target_bytes} bytes is below what this frame of {len(features)} pillars takes at least: "
            f"{least.bytes} bytes at {least.n} codebook(s) of {least.k}; allow more, or use a coarser grid."
        )
    best = min(fitting, key=lambda point: (point.error, point.bytes))
    return points[best], best


def choose_depths(errors: Tensor, budget: int) -> Tensor:
    """Depths of at most `budget` codes together: errors (P, n) after 1..n codes -> (P,) int64 of 1..n.

    Raises RateError for a budget below one code a pillar.
    """
    count, n = errors.shape
    if budget < count:
        raise RateError(f"{budget} codes are fewer than the {count} pillars, which have one each at least; allow more.")
    if budget >= count * n:
        return torch.full((count,), n, dtype=torch.int64)
    steps = torch.arange(n, dtype=torch.float64)
    low, high = 0.0, float(errors.max()) + 1  # at `high` every pillar stops after one code
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if int((errors + middle * steps).argmin(1).sum()) + count <= budget:
            high = middle
        else:
            low = middle
    return (errors + high * steps).argmin(1) + 1


@torch.no_grad()
def compress_deep_within(
    features: Tensor, coords: Tensor, codec: Codec, k: int, target_bytes: int, beam: int = 1
) -> tuple[bytes, Point]:
    """A version 2 stream of at most `target_bytes` at one k, with its depths chosen by error.

    The mean depth is searched for in steps of (n - 1) / DEPTH_STEPS, n the books that hold k.

    Returns:
        the stream, and its point; `n` there is the deepest that pillars may go.

    Raises RateError when even one code a pillar is too long.
    """
    n = max((n for n, size in codec.quantizer.points() if size == k), default=1)
    codes = codec.quantizer.encode(features, n, k, beam, coords)
    errors = errors_by_depth(features, codes, codec)
    best: tuple[bytes, Point] | None = None
    low, high = 0, DEPTH_STEPS
    while low <= high:
        step = (low + high) // 2
        depths = choose_depths(errors, len(codes) + len(codes) * (n - 1) * step // DEPTH_STEPS)
        stream = compress(codes, coords, codec, n, k, depths=depths)
        if len(stream) > target_bytes:
            high = step - 1
            continue
        error = float(errors.gather(1, depths[:, None] - 1).sum())
        best, low = (stream, Point(n, k, len(stream), error)), step + 1
    if best is None:
        raise RateError(f"a target of {target_bytes} bytes does not hold one code of {k} a pillar; allow more, or a "
                        "smaller k.")  # fmt: skip
    return best


def cut_to(stream: bytes, target_bytes: int) -> bytes:
    """A stream cut to the most books that fit, without its features (a relay's rate control); RateError if none do."""
    for n in range(read_header(stream).n, 0, -1):
        if len(shorter := truncate(stream, n)) <= target_bytes:
            return shorter
    raise RateError(f"{target_bytes} bytes do not hold the first book of this stream ({len(truncate(stream, 1))}).")
