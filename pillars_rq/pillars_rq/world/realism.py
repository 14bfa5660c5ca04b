"""How like the real frames the world is: the table that was fixed before any AP was aimed at.

    python -m pillars_rq.world.realism [--frames 60] [--real DIR] [--seed 0]

Real: the KITTI frames of $REAL_SAMPLES (labels, cropped clouds). Objects seen well (occlusion 0 or 1, truncation below
.3) are compared: each real one with the world's objects of its class within 15 % of its range, by their median number
of points; the ratio of a class is the median over its real objects. The stated tolerances are in TOLERANCES.
"""

# P points, N objects

import argparse
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pillars_rq.boxes import points_in_boxes
from pillars_rq.grid import Grid, strictly_inside
from pillars_rq.kitti.calibration import Calibration, boxes_to_lidar, read_calibration
from pillars_rq.kitti.clouds import in_view, read_points
from pillars_rq.kitti.labels import Annotations, read_labels
from pillars_rq.kitti.layout import CLASSES
from shared.errors import DataError
from shared.run import run_command

from .annotate import IMAGE_HW, make_calibration
from .frame import make_frame
from .spec import WorldSpec

BANDS_M = ((0, 12), (12, 20), (20, 30), (30, 45))
NEARBY = 0.15  # relative difference in range of objects that are compared
# What counts as matched: ratio world / real, at least and at most.
TOLERANCES = {"points of an object": 1.4, "occupied cells": 1.25, "points": 1.25, "reflectance": 1.25, "box size": 1.1,
              "points of a pillar": 1.25}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Measured:
    """One frame: points in the grid, occupied cells, mean reflectance, and its well seen objects: name (N,),
    range_m (N,), count (N,) of points, sizes (N,3) l, h, w."""

    points: int
    occupied: int
    reflectance: float
    name: np.ndarray
    range_m: np.ndarray
    count: np.ndarray
    sizes: np.ndarray


def measure(points: np.ndarray, labels: Annotations | None, calib: Calibration, grid: Grid) -> Measured:
    """points: the cropped cloud (P,4)."""
    inside = points[strictly_inside(points, *np.split(np.array(grid.range_m), 2))]
    cells = np.floor((inside[:, :2] - np.float32(grid.range_m[:2])) / np.float32(grid.voxel_m[:2])).astype(np.int64)
    occupied = len(np.unique(cells[:, 1] * grid.width + cells[:, 0]))
    found = (labels if labels is not None else Annotations.empty()).without_dont_care()
    found = found.select((found.occluded <= 1) & (found.truncated < 0.3))
    boxes = boxes_to_lidar(found.location, found.dimensions, found.rotation_y, calib)
    count = points_in_boxes(points, boxes).sum(0)
    bright = float(inside[:, 3].mean())
    return Measured(
        len(inside), occupied, bright, found.name, np.hypot(boxes[:, 0], boxes[:, 1]), count, found.dimensions
    )


def measure_world(spec: WorldSpec, frames: int, grid: Grid) -> list[Measured]:
    """The first train frames of a world, cropped to the image as preparation would."""
    calib, measured = make_calibration(), []
    for number in range(frames):
        frame = make_frame(spec, "train", number)
        points = frame.points[in_view(frame.points, calib, IMAGE_HW)]
        measured.append(measure(points, frame.labels, calib, grid))
    return measured


def measure_real(folder: Path, grid: Grid) -> list[Measured]:
    """The real frames under `folder`. DataError when there are none."""
    other, measured = folder / "pointpillars" / "frame_pgf", []
    for path in sorted((folder / "kitti").glob("*/velodyne_reduced/*.bin")):
        calib, labels = (path.parents[1] / kind / f"{path.stem}.txt" for kind in ("calib", "label_2"))
        found = read_labels(labels) if labels.exists() else None
        measured.append(measure(read_points(path), found, read_calibration(calib), grid))
    if (other / "sample.bin").exists():
        calib, points = read_calibration(other / "sample_calib.txt"), read_points(other / "sample.bin")
        points = points[in_view(points, calib, (375, 1242))]
        measured.append(measure(points, read_labels(other / "sample_label.txt"), calib, grid))
    if not measured:
        raise DataError(f"{folder} holds no real frames (looked for kitti/*/velodyne_reduced): set REAL_SAMPLES.")
    return measured


# --- comparing --------------------------------------------------------------------------------------------------------


def ratios(real: Sequence[Measured], world: Sequence[Measured]) -> dict[str, float]:
    """World over real, for every line of the tolerances: "occupied cells", "points of an object: Car", ..."""
    result = {
        "points": _mean(world, "points") / _mean(real, "points"),
        "occupied cells": _mean(world, "occupied") / _mean(real, "occupied"),
        "points of a pillar": _mean(world, "points") / _mean(world, "occupied") * _mean(real, "occupied")
        / _mean(real, "points"),
        "reflectance": _mean(world, "reflectance") / _mean(real, "reflectance"),
    }  # fmt: skip
    for name in CLASSES:
        result[f"points of an object: {name}"] = points_ratio(objects(real, name), objects(world, name))
        sizes = [objects(part, name)[2].mean(0) for part in (real, world)]
        for axis, letter in enumerate("lhw"):
            result[f"box size: {name} {letter}"] = float(sizes[1][axis] / sizes[0][axis])
    return result


def _mean(frames: Iterable[Measured], what: str) -> float:
    return float(np.mean([getattr(frame, what) for frame in frames]))


def objects(frames: Sequence[Measured], name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(range_m, count, sizes) of all objects of a class."""
    chosen = [frame.name == name for frame in frames]
    return tuple(np.concatenate([getattr(frame, what)[rows] for frame, rows in zip(frames, chosen, strict=True)])
                 for what in ("range_m", "count", "sizes"))  # fmt: skip


def points_ratio(real, world) -> float:
    """Median over the real objects of (median of the world's at that range) / (own points); nan without any."""
    logs = []
    for range_m, count in zip(real[0], real[1], strict=True):
        near = np.abs(world[0] / range_m - 1) < NEARBY
        if near.sum() >= 3 and count:
            logs.append(math.log(max(float(np.median(world[1][near])), 0.5) / count))
    return math.exp(float(np.median(logs))) if logs else math.nan


def outside(found: dict[str, float]) -> list[str]:
    """The lines that miss their tolerance; a ratio that could not be taken counts as a miss."""
    return [name for name, ratio in found.items()
            if not 1 / TOLERANCES[name.split(":")[0]] <= ratio <= TOLERANCES[name.split(":")[0]]]  # fmt: skip


# --- printing ---------------------------------------------------------------------------------------------------------


def table(real: Sequence[Measured], world: Sequence[Measured], grid: Grid) -> str:
    """The comparison as text."""
    found, lines = ratios(real, world), [f"{'':34s}{'real':>22s}{'world':>22s}{'world/real':>12s}{'tolerance':>11s}"]

    def line(name: str, left: str, right: str) -> None:
        most = TOLERANCES[name.split(":")[0]]
        lines.append(f"{name:34s}{left:>22s}{right:>22s}{found[name]:12.2f}{f'x{most:g}':>11s}")

    lines.append(f"{'frames':34s}{len(real):>22d}{len(world):>22d}")
    for name, what in (("points", "points"), ("occupied cells", "occupied"), ("reflectance", "reflectance")):
        line(name, *(_spread([getattr(frame, what) for frame in part]) for part in (real, world)))
    shares = [_spread([100 * frame.occupied / grid.cells for frame in part]) for part in (real, world)]
    lines.append(f"{'occupied share, %':34s}{shares[0]:>22s}{shares[1]:>22s}")
    line("points of a pillar", *(f"{_mean(part, 'points') / _mean(part, 'occupied'):.2f}" for part in (real, world)))
    for name in CLASSES:
        line(f"points of an object: {name}", *(f"{len(objects(part, name)[0])} objects" for part in (real, world)))
        for low, high in BANDS_M:
            cells = [_band(objects(part, name), low, high) for part in (real, world)]
            lines.append(f"{f'    median at {low} to {high} m':34s}{cells[0]:>22s}{cells[1]:>22s}")
        for axis, letter in enumerate("lhw"):
            line(f"box size: {name} {letter}", *(f"{objects(part, name)[2][:, axis].mean():.2f} m"
                                                 for part in (real, world)))  # fmt: skip
    missed = outside(found)
    lines.append("within tolerance: all" if not missed else f"OUTSIDE tolerance: {', '.join(missed)}")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    digits = 0 if np.mean(values) > 100 else 2
    return f"{np.mean(values):.{digits}f} ({min(values):.{digits}f}..{max(values):.{digits}f})"


def _band(found, low: float, high: float) -> str:
    chosen = found[1][(found[0] >= low) & (found[0] < high)]
    return f"{np.median(chosen):.0f} (n={len(chosen)})" if len(chosen) else "-"


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every line is within its tolerance, 1 when one is not."""
    parser = argparse.ArgumentParser(
        prog="python -m pillars_rq.world.realism",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--frames", type=int, default=60, help="frames of the world (default: 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--real",
        type=Path,
        default=os.environ.get("REAL_SAMPLES"),
        help="folder of real samples (default: $REAL_SAMPLES)",
    )
    args = parser.parse_args(argv)
    return run_command(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    if args.real is None:
        raise DataError("no real frames to compare with: set REAL_SAMPLES or give --real DIR.")
    grid = Grid.kitti()
    real, world = measure_real(Path(args.real), grid), measure_world(WorldSpec(seed=args.seed), args.frames, grid)
    print(table(real, world, grid))
    return 1 if outside(ratios(real, world)) else 0


if __name__ == "__main__":
    raise SystemExit(main())
