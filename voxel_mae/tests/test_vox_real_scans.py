"""Real scans, outside the repository: voxel counts, realised keep ratios, points in boxes, against references."""

import numpy as np
import pytest
import torch
from custom_root_samples import REAL_INSIDE, real_clouds

from voxel_mae.boxes import points_in_boxes
from voxel_mae.data import AugmentSettings, LidarDataset, find_root
from voxel_mae.data.clouds import KITTI_FEATURES, NUSCENES_FEATURES, read_cloud
from voxel_mae.data.labels import read_kitti_labels
from voxel_mae.data.layout import KittiRoot, NuscenesRoot
from voxel_mae.grid import Grid
from voxel_mae.masking import (
    Calibrated,
    Radial,
    RangeOnly,
    TwoStage,
    calibrated_chance,
    mask_batch,
    mask_rng,
    seen_from,
)
from voxel_mae.voxelize import batch_voxels, voxelize

pytestmark = pytest.mark.real
GRID = Grid.construction()
CROPS = ("000000", "000001", "000003", "000005", "000006", "000008", "000134")
FULL = ("000000", "000001", "nuscenes")

# voxels, points a voxel, share with more than 5, near/mid/far, 8^3 blocks
SCANS = {
    "000000": (41_408, 2.8, 0.12, (0.46, 0.49, 0.05), 3095),
    "000001": (60_080, 2.0, 0.06, (0.27, 0.50, 0.23), 6340),
    "frame_pgf": (56_316, 1.9, 0.06, (0.22, 0.47, 0.32), 7471),
    "nuscenes": (17_477, 2.0, 0.01, (0.35, 0.47, 0.17), 3743),
}


@pytest.fixture(scope="module")
def voxels(real_samples):
    return {name: voxelize(points, GRID) for name, points in real_clouds(real_samples).items()}


def polar_of(voxels):
    return seen_from(voxels.coords, GRID, torch.zeros(2))


@pytest.mark.parametrize("name", SCANS)
def test_voxel_counts_and_statistics(voxels, name):
    found, (count, per_voxel, capped, bands, blocks) = voxels[name], SCANS[name]
    assert len(found) == count
    assert float(found.counts.double().mean()) == pytest.approx(per_voxel, abs=0.05)
    assert float((found.counts > 5).double().mean()) == pytest.approx(capped, abs=0.005)
    shares = np.bincount(polar_of(found).bands((10, 30))) / count
    np.testing.assert_allclose(shares, bands, atol=0.0051)
    assert len(torch.unique(found.coords // 8, dim=0)) == blocks


@pytest.mark.parametrize("name", SCANS)
def test_full_scans_fill_every_sector(voxels, name):
    """Trap T1: indices for metres, or the corner for the sensor, fill 48 to 65 of 360."""
    for count in (36, 360):
        assert len(np.unique(polar_of(voxels[name]).sectors(count))) == count


def test_crops_fill_a_camera_s_view(real_samples):
    counts = []
    for name in CROPS:
        folder = real_samples / "kitti" / "training" / "velodyne_reduced"
        found = voxelize(read_cloud(folder / f"{name}.bin", KITTI_FEATURES), GRID)
        counts.append(len(found))
        assert 9 <= len(np.unique(polar_of(found).sectors(36))) <= 10
        assert 81 <= len(np.unique(polar_of(found).sectors(360))) <= 83
    assert 8_715 <= min(counts) < max(counts) <= 14_166


def realised(voxels, masking, draws=30):
    batch = batch_voxels([voxels])
    return [mask_batch(batch, GRID, masking, [mask_rng(0, 0, number)])[1] for number in range(draws)]


# 000000 / 000001 / nuScenes
@pytest.mark.parametrize(
    ("masking", "wanted", "off"),
    [
        (Radial(), (0.20, 0.20, 0.20), 0.02),
        (RangeOnly(), (0.36, 0.28, 0.31), 0.006),
        (TwoStage(), (0.07, 0.06, 0.06), 0.015),
        (Calibrated(), (0.20, 0.20, 0.20), 0.025),
    ],
    ids=["radial", "range_only", "two_stage", "calibrated"],
)
def test_realised_keep_ratios(voxels, masking, wanted, off):
    shares = [np.mean([one.overall for one in realised(voxels[name], masking)]) for name in FULL]
    np.testing.assert_allclose(shares, wanted, atol=off)


def test_the_note_s_masking_leaves_little_beyond_30_m(voxels):
    """55 / 264 / 55 voxels."""
    left = [np.mean([one.kept[2] for one in realised(voxels[name], TwoStage())]) for name in FULL]
    np.testing.assert_allclose(left, (55, 264, 55), rtol=0.4)


def test_a_calibrated_sector_s_chance_is_that_of_the_facts(voxels):
    keep = (1 - np.array((0.5, 0.75, 0.9)))[polar_of(voxels["000000"]).bands((10, 30))]
    assert keep.mean() == pytest.approx(0.357, abs=0.001)
    assert calibrated_chance(0.8, keep) == pytest.approx(0.56, abs=0.003)


@pytest.mark.parametrize("name", REAL_INSIDE)
def test_points_in_boxes_of_kitti_frames(real_samples, name):
    folder = real_samples / "kitti" / "training"
    labels = read_kitti_labels(folder / "label_2" / f"{name}.txt", folder / "calib" / f"{name}.txt")
    points = read_cloud(folder / "velodyne_reduced" / f"{name}.bin", KITTI_FEATURES)
    assert points_in_boxes(points, labels.boxes).sum(0).tolist() == REAL_INSIDE[name]


def test_points_at_range_zero_of_nuscenes_are_left_out(real_samples):
    path = next((real_samples / "nuscenes" / "samples" / "LIDAR_TOP").glob("*.bin"))
    raw = np.fromfile(path, "<f4").reshape(-1, 5)
    assert len(raw) == 34_688
    assert len(read_cloud(path, NUSCENES_FEATURES)) == len(raw) - int((raw[:, :3] == 0).all(1).sum())


@pytest.mark.parametrize(("folder", "layout", "frames"), [("kitti", KittiRoot, 2), ("nuscenes", NuscenesRoot, 1)])
def test_published_roots_give_frames_for_pretraining(real_samples, folder, layout, frames):
    root = find_root(real_samples / folder)
    assert type(root) is layout
    found = LidarDataset(root, "all", classes=("Car",), range_m=GRID.range_m, training=True, labels=False,
                         augment=AugmentSettings.pretraining())  # fmt: skip
    assert len(found) == frames
    frame = found[(1, 0)]
    assert frame.points.shape[1] == 3
    assert len(voxelize(frame.points, GRID)) > 15_000
