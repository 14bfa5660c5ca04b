"""Is this the published checkpoint? Detect on KITTI frame 000134 and compare with the published detections.

    python -m pillars_rq.golden_check pretrained/epoch_160.pth 000134.bin golden_pytorch_origin.txt

Rows of the golden file: x y z_bottom w l h theta score label. Boxes are compared by overlap and yaw modulo
pi, because a half turn and the last digits differ between engines.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from shared.errors import DataError
from shared.run import run_command

from .anchors import make_anchors
from .boxes import iou_3d, limit_period
from .decode import Detections, detect
from .kitti.clouds import read_points
from .voxelize import batch_pillars, voxelize
from .weights import load_base

GOLDEN_COLUMNS = 9
MIN_IOU, MAX_YAW_RAD = 0.95, 0.02


def compare(found: Detections, golden: np.ndarray) -> list[tuple[float, float]]:
    """For each golden row (M,9): 3D IoU with the best detection of its class, and their yaw difference modulo pi."""
    rows = []
    for row in golden:
        same = found.boxes[found.labels == int(row[8])]
        if len(same) == 0:
            rows.append((0.0, math.pi / 2))
            continue
        iou = iou_3d(row[None, :7], same)[0]
        turn = limit_period(float(same[iou.argmax(), 6]) - row[6], 0.5, math.pi)
        rows.append((float(iou.max()), abs(turn)))
    return rows


def read_golden(path: Path) -> np.ndarray:
    """The golden rows (M,9) float64. Raises DataError for anything but nine numbers a line."""
    try:
        table = np.loadtxt(path, ndmin=2)
    except ValueError as error:
        raise DataError(f"{path} is no table of numbers ({error}): give golden_pytorch_origin.txt") from error
    if table.shape[1] != GOLDEN_COLUMNS:
        raise DataError(f"{path} has {table.shape[1]} columns, not {GOLDEN_COLUMNS} (x y z_bottom w l h theta score "
                        "label): give golden_pytorch_origin.txt")  # fmt: skip
    return table


def check(weights: Path, points: Path, golden: Path) -> int:
    """Print a line for each golden row; 0 when all agree and nothing more was found, else 1."""
    for path in (points, golden):
        if not path.is_file():
            raise DataError(f"{path} is not a file: give the cropped cloud of 000134 and the golden table")
    cloud, table = read_points(points), read_golden(golden)
    model = load_base(weights).model
    batch = batch_pillars([voxelize(cloud, model.grid, model.grid.max_voxels_eval)])
    with torch.no_grad():
        (found,) = detect(model(batch), make_anchors(model.grid, model.classes))
    rows = compare(found, table)
    for row, (iou, yaw) in zip(table, rows, strict=True):
        print(f"{model.classes[int(row[8])].name:12s} score {row[7]:.3f}  IoU {iou:.4f}  yaw difference {yaw:.4f} rad")
    agree = sum(iou >= MIN_IOU and yaw <= MAX_YAW_RAD for iou, yaw in rows)
    print(f"{agree} of {len(rows)} golden detections agree; {len(found)} were found")
    return 0 if agree == len(rows) == len(found) else 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare a checkpoint with the published detections of frame 000134.")
    for name, text in (("weights", "epoch_160.pth"), ("points", "000134.bin, cropped"), ("golden", "the golden table")):
        parser.add_argument(name, type=Path, help=text)
    args = parser.parse_args(argv)
    return run_command(lambda: check(args.weights, args.points, args.golden))


if __name__ == "__main__":
    sys.exit(main())
