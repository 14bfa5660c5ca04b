"""A KITTI root of a few LiDAR-only frames, and the tiny configuration that trains on it."""

from pathlib import Path

import numpy as np

from pillars_rq.boxes import points_in_boxes
from pillars_rq.kitti.layout import find_kitti
from pillars_rq.kitti.prepare import prepare

SIZES_WLH_M = {"Pedestrian": (0.6, 0.8, 1.73), "Cyclist": (0.6, 1.76, 1.73), "Car": (1.6, 3.9, 1.56)}
GROUND_M = -1.7
TINY = """\
model:
  grid: {range_m: [0.0, -5.12, -3.0, 10.24, 5.12, 1.0], voxel_m: [0.32, 0.32, 4.0], max_points: 8}
  widths: {pillar: 8, blocks: [8, 8, 8], layers: [1, 0, 0], neck: 8}
data:
  augment: {paste_up_to: {}, noise_tries: 2}
  mark: "a few made-up frames"
training: {epochs: 2, batch_size: 2, eval_every: 1, workers: 0, log_every: 1, save_every: 1, device: cpu}
"""


def write_root(folder: Path, train: int = 6, val: int = 2) -> Path:
    """training/{velodyne,label_2} and ImageSets of `train` + `val` frames, prepared."""
    for part in ("training/velodyne", "training/label_2", "ImageSets"):
        (folder / part).mkdir(parents=True)
    for number in range(train + val):
        _write_frame(folder / "training", f"{number:06d}", np.random.default_rng(number))
    names = [f"{number:06d}\n" for number in range(train + val)]
    (folder / "ImageSets/train.txt").write_text("".join(names[:train]))
    (folder / "ImageSets/val.txt").write_text("".join(names[train:]))
    prepare(find_kitti(folder), say=lambda text: None)
    return folder


def _write_frame(folder: Path, name: str, rng: np.random.Generator) -> None:
    """Two cars, a cyclist and a pedestrian on flat ground, each full of points."""
    boxes, rows = [], []
    for place, kind in enumerate(("Car", "Car", "Cyclist", "Pedestrian")):
        w, l, h = SIZES_WLH_M[kind]
        x, y, theta = 2.5 + 5 * (place % 2), -2.5 + 5 * (place // 2), rng.uniform(-3, 3)
        boxes.append([x, y, GROUND_M, w, l, h, theta])
        # Without calibration camera axes are x right, y down, z forward of the LiDAR's.
        rows.append(f"{kind} 0 0 0 0 0 50 50 {h} {w} {l} {-y} {-GROUND_M} {x} {theta}")
    points = rng.uniform((0, -5, -1.7, 0), (10, 5, 0, 1), (6000, 4))
    inside = points_in_boxes(points, np.array(boxes)).any(1)
    points[~inside, 2] = GROUND_M
    points.astype("<f4").tofile(folder / "velodyne" / f"{name}.bin")
    (folder / "label_2" / f"{name}.txt").write_text("\n".join(rows) + "\n")
