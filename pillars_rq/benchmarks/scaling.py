"""How the edge's work grows: points of a cloud, occupied cells, rows of the books, and the stream of the codes.

    python benchmarks/scaling.py

The published grid and network with random weights; one thread, CPU times. Clouds are a frame of the embedded world,
its points drawn again and moved a little; features, books and cells are random, which cost the same. The stream's small
sizes carry the map of occupied cells of the whole grid, so its exponent lies below 1.
"""

# P pillars, K rows, D channels.

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pillars_rq.bitstream.codec import Codec
from pillars_rq.bitstream.stream import compress, decompress
from pillars_rq.bitstream.tables import Tables
from pillars_rq.grid import Grid
from pillars_rq.network import PointPillars
from pillars_rq.rq.codebooks import ResidualQuantizer
from pillars_rq.rq.lloyd import fit_dedicated
from pillars_rq.voxelize import batch_pillars, voxelize
from pillars_rq.world.frame import make_frame
from pillars_rq.world.spec import FARTHEST_M, WorldSpec
from shared.peak_memory import Action
from shared.scaling import Growth, command

BOOKS, K, P, D = 5, 256, 4096, 64
MOVED_M = 0.1
UNCAPPED = 10**9  # pillars: what a limit drops costs nothing
GRID = Grid.kitti()


@functools.cache
def frame_points() -> np.ndarray:
    return make_frame(WorldSpec(max_range_m=FARTHEST_M, max_side_m=38.0), "train", 0).points


def pillar_features(points: int) -> Action:
    """A cloud of so many points to the features of its pillars."""
    torch.manual_seed(0)
    rng, model = np.random.default_rng(0), PointPillars(GRID).eval()
    cloud = frame_points()[rng.integers(0, len(frame_points()), points)]
    cloud[:, :3] += rng.normal(0, MOVED_M, (points, 3))

    @torch.no_grad()
    def work() -> None:
        model.headnet(batch_pillars([voxelize(cloud, GRID, UNCAPPED)]))

    return work


@functools.cache
def books_of(n: int, k: int) -> ResidualQuantizer:
    generator = torch.Generator().manual_seed(0)
    return fit_dedicated(torch.randn(max(P, 2 * k), D, generator=generator), n, k, generator, passes=1)


def search(pillars: int, k: int) -> Action:
    """The codes of so many pillars in five books of k rows."""
    books, features = books_of(BOOKS, k), torch.randn(pillars, D, generator=torch.Generator().manual_seed(1))
    return lambda: books.encode(features, BOOKS, k)


def stream(pillars: int) -> Action:
    """The codes of so many pillars to bytes and back."""
    generator, books = torch.Generator().manual_seed(1), books_of(BOOKS, K)
    codes = torch.randint(0, K, (pillars, BOOKS), generator=generator)
    codec = Codec(books, Tables.counted(books.points(), lambda n, k: codes), GRID)
    coords = cells(pillars, generator)
    return lambda: decompress(compress(codes, coords, codec, BOOKS, K), codec)


def cells(pillars: int, generator: torch.Generator) -> Tensor:
    """(P, 2) y, x, none twice."""
    chosen = torch.randperm(GRID.cells, generator=generator)[:pillars].sort().values
    return torch.stack([chosen // GRID.width, chosen % GRID.width], 1)


def growths() -> Sequence[Growth]:
    return [
        Growth("points to pillar features", "points", (2_000, 6_000, 20_000, 60_000, 120_000), pillar_features),
        Growth(f"search of {BOOKS} x {K}, by occupied cells", "cells", (500, 1_000, 2_000, 4_000, 8_000, 16_000),
               lambda pillars: search(pillars, K)),
        Growth(f"search of {BOOKS} books for {P:,} cells, by rows", "rows", (16, 32, 64, 128, 256, 512, 1_024),
               lambda k: search(P, k)),
        Growth(f"stream of {BOOKS} x {K}, there and back, by occupied cells", "cells",
               (500, 1_000, 2_000, 4_000, 8_000, 16_000), stream),
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    return command(growths, Path(__file__), __doc__, argv, ("torch", "numpy", "numba"))


if __name__ == "__main__":
    sys.exit(main())
