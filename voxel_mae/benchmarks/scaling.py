"""How a cloud's work grows with its points: voxels, the sparse backbone, and a two-stage mask.

    python benchmarks/scaling.py

On the construction grid, the backbone with its full widths and random weights; one thread, CPU times. The clouds are
rough ground of one density, and a larger cloud covers more of it, so that voxels and the backbone's sites grow as the
points do: a denser cloud would put more points in the same voxels, and grow less.
"""

# N points, V voxels

import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from shared.peak_memory import Action
from shared.scaling import Growth, command
from voxel_mae.backbone import RMAECMAEBackbonePhase1
from voxel_mae.grid import Grid
from voxel_mae.masking import TwoStage, mask_batch, mask_rng
from voxel_mae.sparse import spconv
from voxel_mae.voxelize import VoxelBatch, batch_voxels, voxelize

GRID = Grid.construction()
CACHES = "its multiply-adds grow as the points do, and take longer where the features outgrow the caches"
POINTS_A_M2, ROUGHNESS_M = 6.0, 0.3


def ground(points: int) -> np.ndarray:
    """x, y, z (N, 3) float32 of a square around the sensor."""
    rng, half_m = np.random.default_rng(0), (points / POINTS_A_M2) ** 0.5 / 2
    xy = rng.uniform(-half_m, half_m, (points, 2))
    return np.column_stack([xy, rng.normal(-1.7, ROUGHNESS_M, points)]).astype(np.float32)


def batch_of(points: int) -> VoxelBatch:
    return batch_voxels([voxelize(ground(points), GRID)])


def voxels(points: int) -> Action:
    cloud = ground(points)
    return lambda: voxelize(cloud, GRID)


def encoded(points: int) -> Action:
    """Forward of the whole backbone."""
    torch.manual_seed(0)
    batch, backbone = batch_of(points), RMAECMAEBackbonePhase1(3, GRID.shape_zyx).eval()

    @torch.no_grad()
    def work() -> None:
        backbone(batch)

    return work


def multiply_adds(work: Action) -> int:
    """Of all sparse convolutions: pairs of neighbours times the channels on both sides."""
    ops = spconv.ops
    with mock.patch.object(ops, "indice_conv", wraps=ops.indice_conv) as layers:
        work()
    return sum(pairs_of(*call.args) * call.args[1].shape[0] * call.args[1].shape[-1] for call in layers.call_args_list)


def pairs_of(
    features: Tensor, filters: Tensor, table: Tensor, listed: Tensor, sites: int, inverse: bool, subm: bool = False
) -> int:
    """Of one layer. A submanifold table lists half of them: the others are their mirrors, and each site with itself."""
    return 2 * int(listed.sum()) + sites if subm else int(listed.sum())


def masked(points: int) -> Action:
    batch = batch_of(points)
    return lambda: mask_batch(batch, GRID, TwoStage(), [mask_rng(0, 0, 0)])


def growths() -> Sequence[Growth]:
    sizes = (2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
    return [
        Growth("points to voxels", "points", sizes, voxels),
        Growth("the sparse backbone, forward", "points", sizes[:5], encoded, why=CACHES,
               operations=lambda points: multiply_adds(encoded(points))),
        Growth("a two-stage mask", "points", sizes, masked),
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    return command(growths, Path(__file__), __doc__, argv, ("torch", "numpy", "spconv-cu120"))


if __name__ == "__main__":
    sys.exit(main())
