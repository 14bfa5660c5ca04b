"""A small data root in OpenPCDet's custom layout, and clouds, for the tests of data, voxels and masking."""

from pathlib import Path

import numpy as np

from voxel_mae.data import CustomRoot, LidarDataset
from voxel_mae.data.clouds import KITTI_FEATURES, NUSCENES_FEATURES, read_cloud
from voxel_mae.data.prepare import prepare
from voxel_mae.grid import Grid

CLASSES = ("dumptruck", "excavator", "grader", "roller")
RANGE_M = (-20.0, -20.0, -3.0, 20.0, 20.0, 5.0)
SMALL = Grid(RANGE_M, (0.2, 0.2, 0.4))
XYZI = ("x", "y", "z", "intensity")


def ring_cloud(count: int = 3000, seed: int = 0, reach_m: float = 19.0) -> np.ndarray:
    """(N,4) float32 points all around the sensor, denser nearby."""
    rng = np.random.default_rng(seed)
    angle, distance = rng.uniform(-np.pi, np.pi, count), reach_m * rng.random(count) ** 1.5 + 0.5
    z, intensity = rng.uniform(-1.5, 1.0, count), rng.random(count)
    return np.stack([distance * np.cos(angle), distance * np.sin(angle), z, intensity], 1).astype(np.float32)


def filled(box: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """(count,4) float32 points inside a box."""
    rng = np.random.default_rng(seed)
    local = rng.uniform(-0.45, 0.45, (count, 3)) * box[3:6]
    cos, sin = np.cos(box[6]), np.sin(box[6])
    x, y = local[:, 0] * cos - local[:, 1] * sin, local[:, 0] * sin + local[:, 1] * cos
    return np.stack([x + box[0], y + box[1], local[:, 2] + box[2], rng.random(count)], 1).astype(np.float32)


BOXES = {
    "site0_000": [
        ("dumptruck", (6.0, 2.0, 0.5, 4.0, 2.0, 2.0, 0.3)),
        ("roller", (-5.0, -6.0, 0.0, 3.0, 2.0, 2.0, -2.0)),
    ],
    "site0_001": [("excavator", (8.0, -3.0, 0.5, 4.0, 2.0, 2.0, 1.2))],
    "site1_000": [],
    "site2_000": [("dumptruck", (-9.0, 7.0, 0.5, 4.0, 2.0, 2.0, 3.0))],
}
LISTS = {
    "train": "site0_000\nsite0_001\nsite1_000",  # no final newline
    "val": "site2_000\n",
    "pretrain": "site0_000\nsite0_001\nsite1_000\nbare_000\n",
}


def write_root(folder: Path) -> Path:
    """train: three frames of two sequences, the last without objects; val: one; bare_000 is unlabelled."""
    for name in ("points", "labels", "ImageSets"):
        (folder / name).mkdir(parents=True)
    for number, (frame_id, objects) in enumerate(BOXES.items()):
        clouds = [filled(np.array(box), 40, number) for _, box in objects]
        np.save(folder / "points" / f"{frame_id}.npy", np.concatenate([ring_cloud(seed=number), *clouds]))
        lines = [" ".join([*map(str, box), name]) for name, box in objects]
        (folder / "labels" / f"{frame_id}.txt").write_text("".join(f"{line}\n" for line in lines))
    np.save(folder / "points" / "bare_000.npy", ring_cloud(seed=9))
    for split, text in LISTS.items():
        (folder / "ImageSets" / f"{split}.txt").write_text(text)
    return folder


def prepared_root(folder: Path) -> Path:
    """The same with infos of every list and a ground-truth database."""
    prepare(CustomRoot(write_root(folder)), XYZI, tuple(LISTS), say=lambda line: None)
    return folder


def opened(root: Path, split: str = "train", **changes) -> LidarDataset:
    """The data set of a sample root, as it lies on disk unless changed."""
    settings = {"classes": CLASSES, "point_features": XYZI, "range_m": RANGE_M, "training": False}
    return LidarDataset(root, split, **settings | changes)


# of reduced KITTI scans: points strictly inside the LiDAR boxes (the camera's tilt ignored), label order, no DontCare
REAL_INSIDE = {
    "000000": [377],
    "000001": [71, 9, 18],
    "000003": [674],
    "000005": [70],
    "000008": [1325, 1900, 881, 659, 55, 162],
    "000134": [570, 160, 81, 92, 36, 31, 40, 48, 46, 155, 54, 91, 64, 11, 3],
}


def real_clouds(samples: Path) -> dict[str, np.ndarray]:
    """The full real scans, (N, 4 or 5) float32."""
    places = {
        "000000": ("kitti/training/velodyne/000000.bin", KITTI_FEATURES),
        "000001": ("kitti/training/velodyne/000001.bin", KITTI_FEATURES),
        "frame_pgf": ("pointpillars/frame_pgf/sample.bin", KITTI_FEATURES),
        "nuscenes": ("nuscenes/samples/LIDAR_TOP/*.pcd.bin", NUSCENES_FEATURES),
    }
    return {name: read_cloud(next(samples.glob(where)), features) for name, (where, features) in places.items()}
