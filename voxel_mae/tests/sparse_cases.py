"""Small clouds of voxels for the tests of sparse layers and pretraining."""

from dataclasses import dataclass

import torch
from torch import Tensor

from voxel_mae.backbone import RMAECMAEBackbonePhase1
from voxel_mae.keys import sites_of

SHAPE = (17, 48, 48)  # z, y, x; the level of stride 8 has 3 x 6 x 6 sites
WIDTHS = (4, 6, 8, 8, 8)


@dataclass(frozen=True)
class Cloud:
    features: Tensor
    coords: Tensor
    batch_size: int


def sites(count: int, shape=SHAPE, batch_size: int = 2, seed: int = 0) -> Tensor:
    """Different sites (count, 1 + D) int32 in no order."""
    cells = batch_size * int(torch.tensor(shape).prod())
    return sites_of(torch.randperm(cells, generator=torch.Generator().manual_seed(seed))[:count], shape)


def cloud(count: int = 300, seed: int = 0, batch_size: int = 2) -> Cloud:
    generator = torch.Generator().manual_seed(seed)
    return Cloud(torch.randn(count, 3, generator=generator), sites(count, SHAPE, batch_size, seed), batch_size)


def empty_cloud(batch_size: int = 2) -> Cloud:
    return Cloud(torch.zeros(0, 3), torch.zeros(0, 4, dtype=torch.int32), batch_size)


def half(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(100 + seed)) < 0.5


def toy_backbone(seed: int = 0) -> RMAECMAEBackbonePhase1:
    torch.manual_seed(seed)
    return RMAECMAEBackbonePhase1(3, SHAPE, WIDTHS, 8)
