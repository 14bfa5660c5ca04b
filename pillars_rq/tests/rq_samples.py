"""Small books, frames and codecs that the tests of quantizer, bitstream and wire share."""

from pathlib import Path

import numpy as np
import torch

from pillars_rq.bitstream.codec import Codec
from pillars_rq.bitstream.tables import Tables
from pillars_rq.grid import Grid
from pillars_rq.network import PointPillars
from pillars_rq.rq.codebooks import ResidualQuantizer
from pillars_rq.rq.lloyd import fit_nested
from pillars_rq.voxelize import batch_pillars, voxelize
from pillars_rq.weights import load_folded_encoder

DIM = 8
SCHEDULE = (2, 4, 8)
SMALL_GRID = Grid((0.0, -5.12, -3.0, 10.24, 5.12, 1.0), (0.16, 0.16, 4.0))  # 64 x 64
REDUCED = ("000000", "000001", "000003", "000005", "000006", "000008")  # the reference's training frames


def features_like(count: int, seed: int = 0, dim: int = DIM) -> torch.Tensor:
    """Non-negative, clustered vectors, as an encoder with a ReLU gives them."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(5, dim, generator=torch.Generator().manual_seed(99))
    which = torch.randint(5, (count,), generator=generator)
    return (centres[which] + 0.4 * torch.randn(count, dim, generator=generator)).relu()


def cells_of(count: int, seed: int = 0, grid: Grid = SMALL_GRID) -> torch.Tensor:
    """(P, 2) different cells y, x, in no order."""
    flat = torch.randperm(grid.cells, generator=torch.Generator().manual_seed(seed))[:count]
    return torch.stack([flat // grid.width, flat % grid.width], 1)


def trained(n: int = 3, seed: int = 0, schedule: tuple[int, ...] = SCHEDULE) -> ResidualQuantizer:
    return fit_nested(features_like(600, seed), n, schedule, torch.Generator().manual_seed(seed), passes=4)


def codec_of(quantizer: ResidualQuantizer, grid: Grid = SMALL_GRID, seed: int = 0) -> Codec:
    features = features_like(600, seed, quantizer.dim)
    tables = Tables.counted(quantizer.points(), lambda n, k: quantizer.encode(features, n, k))
    return Codec(quantizer, tables, grid)


def codec_of_features(features: torch.Tensor, grid: Grid, n: int, schedule: tuple[int, ...]) -> Codec:
    """Books and tables fitted to an encoder's features (P, D)."""
    quantizer = fit_nested(features, n, schedule, torch.Generator().manual_seed(0), passes=3)
    tables = Tables.counted(quantizer.points(), lambda n, k: quantizer.encode(features, n, k))
    return Codec(quantizer, tables, grid)


# ---------------------------------------------------------------- real frames


def real_encoder(samples: Path) -> PointPillars:
    """The published first layer, batch norm folded."""
    model = PointPillars(Grid.kitti()).eval()
    load_folded_encoder(model, samples / "pointpillars" / "pfn_folded.npz")
    return model


def real_cloud(samples: Path, name: str) -> np.ndarray:
    """Points of a reduced frame, `000134` or `testing/000002`."""
    folder, stem = name.split("/") if "/" in name else ("training", name)
    path = samples / "kitti" / folder / "velodyne_reduced" / f"{stem}.bin"
    return np.fromfile(path, dtype="<f4").reshape(-1, 4)


@torch.no_grad()
def real_frame(model: PointPillars, samples: Path, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """features (P, 64), coords (P, 2) y, x of a reduced frame."""
    pillars = voxelize(real_cloud(samples, name), model.grid, model.grid.max_voxels_eval)
    return model.headnet(batch_pillars([pillars])), pillars.coords
