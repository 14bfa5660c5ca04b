"""A small grid, detector and batch, shared by the tests of detector and weight transfer."""

import numpy as np
import torch

from voxel_mae.backbone import RMAECMAEBackbonePhase1
from voxel_mae.decode import DecodeSettings
from voxel_mae.detector import DetectionSettings, RMAECMAEDetectorPhase1
from voxel_mae.grid import Grid
from voxel_mae.head import HeadSettings
from voxel_mae.pretraining import PretrainSettings
from voxel_mae.teacher import TeacherSettings
from voxel_mae.voxelize import batch_voxels, voxelize

RANGE_M = (-6.4, -6.4, -2.0, 6.4, 6.4, 2.0)
WIDTHS = (4, 8, 8, 8, 8)
BEV = 8


def small_grid(voxel_m=(0.2, 0.2, 0.4)):
    return Grid(RANGE_M, voxel_m)


def small_backbone(grid=None, features=3, widths=WIDTHS):
    return RMAECMAEBackbonePhase1(features, (grid or small_grid()).shape_zyx, widths, BEV)


def small_settings(groups=((1, 2, 3, 4),), kernel=1, **more):
    return DetectionSettings(
        HeadSettings(groups, BEV, kernel), DecodeSettings((*RANGE_M[:2], -3, *RANGE_M[3:5], 3), **more)
    )


def small_detector(seed=0, grid=None, features=3, widths=WIDTHS, settings=None, world=None):
    torch.manual_seed(seed)
    grid = grid or small_grid()
    backbone = small_backbone(grid, features, widths)
    return RMAECMAEDetectorPhase1(grid, backbone, detection=settings or small_settings(), world=world)


def small_pretrainer(seed=0, grid=None, teacher=True):
    torch.manual_seed(seed)
    grid = grid or small_grid()
    settings = PretrainSettings({"occupancy": 1.0}, TeacherSettings(0.9, "constant") if teacher else None)
    return RMAECMAEDetectorPhase1(grid, small_backbone(grid), pretraining=settings, total_steps=4)


def cloud(seed, count=400, features=3):
    rng = np.random.default_rng(seed)
    points = rng.uniform(RANGE_M[:3], RANGE_M[3:], (count, 3))
    points = np.concatenate([points, rng.random((count, features - 3))], 1)
    return torch.from_numpy(points.astype(np.float32))


def small_batch(counts=(400, 300), grid=None, features=3):
    grid = grid or small_grid()
    return batch_voxels([voxelize(cloud(k, count, features), grid) for k, count in enumerate(counts)])


def small_boxes():
    """(2,3,8): two boxes, one box, the rest padding."""
    boxes = torch.zeros(2, 3, 8)
    boxes[0, 0] = torch.tensor([1.0, 2, 0, 4, 2, 2, 0.3, 1])
    boxes[0, 1] = torch.tensor([-3.0, -3, 0.5, 3, 2, 1, -2.0, 4])
    boxes[1, 0] = torch.tensor([4.0, -1, 0, 2, 2, 2, 1.0, 2])
    return boxes
