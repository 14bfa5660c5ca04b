"""How like real scans the world is: voxels on the construction set's grid, beside full scans of other data sets.

    python -m voxel_mae.world --statistics [--statistics-frames 20] [--real DIR]

Real: the full scans under $REAL_SAMPLES (three of KITTI's sensor with 64 beams, one of nuScenes' with 32). A quantity
is within tolerance when the world's mean lies between the least and the largest real value, both widened by WIDENED.
No real scan of a construction site was at hand: this compares what a spinning sensor sees, not what stands on a site.
"""

# P points, V voxels

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from shared.errors import DataError
from voxel_mae.grid import Grid
from voxel_mae.voxelize import voxelize

from .frames import make_sequence
from .spec import WorldSpec

WIDENED = 1.25
BANDS_M = (10.0, 30.0)
BLOCK = 8  # cells of a block's side: the stride of the detector's map
SECTORS = 360
REAL_SCANS = (("kitti/training/velodyne/*.bin", 4), ("pointpillars/frame_pgf/sample.bin", 4),
              ("nuscenes/samples/LIDAR_TOP/*.bin", 5))  # pattern, float32 values of a point  # fmt: skip


@dataclass(frozen=True)
class ScanStatistics:
    """One scan on a grid: points in range, voxels, points of a voxel (mean), share of voxels with more than 5, share of
    the grid's cells, share of voxels by range from the sensor, occupied 8x8x8 blocks, degrees of azimuth with a voxel.
    """

    points: float
    voxels: float
    points_of_a_voxel: float
    share_above_5: float
    occupancy: float
    near_share: float
    middle_share: float
    far_share: float
    blocks: float
    sectors: float


def measure(points: np.ndarray, grid: Grid) -> ScanStatistics:
    """points (P, >= 3) float32, the sensor at the origin. DataError: none of them in the grid."""
    voxels = voxelize(points, grid, len(points) + 1)
    if not len(voxels):
        raise DataError("a scan without any point in the grid has no statistics")
    coords, counts = voxels.coords.numpy(), voxels.counts.numpy()
    x, y = grid.centres_m(voxels.coords)[:, :2].numpy().T
    band = np.digitize(np.hypot(x, y), BANDS_M)
    sector = np.floor((np.arctan2(y, x) + np.pi) / (2 * np.pi) * SECTORS).astype(int) % SECTORS
    near, middle, far = (float((band == k).mean()) for k in range(3))
    return ScanStatistics(
        points=float(counts.sum()),
        voxels=float(len(counts)),
        points_of_a_voxel=float(counts.mean()),
        share_above_5=float((counts > grid.max_points).mean()),
        occupancy=len(counts) / float(np.prod(grid.cells_zyx)),
        near_share=near,
        middle_share=middle,
        far_share=far,
        blocks=float(len(np.unique(coords // BLOCK, axis=0))),
        sectors=float(len(np.unique(sector))),
    )


def measure_real(folder: Path, grid: Grid) -> list[ScanStatistics]:
    """The full real scans under `folder`. DataError when there are none."""
    found = []
    for pattern, values in REAL_SCANS:
        for path in sorted(Path(folder).glob(pattern)):
            points = np.fromfile(path, np.float32).reshape(-1, values)[:, :3]
            found.append(measure(np.ascontiguousarray(points[np.abs(points).sum(1) > 0]), grid))
    if not found:
        raise DataError(f"{folder} holds no real scans (looked for {REAL_SCANS[0][0]}): set REAL_SAMPLES or --real")
    return found


def measure_world(spec: WorldSpec, frames: int, grid: Grid) -> list[ScanStatistics]:
    """The first full frames of different sequences."""
    found = []
    for sequence in spec.sequences():
        full = [frame for frame in make_sequence(spec, sequence) if frame.kind == "full"]
        found += [measure(np.ascontiguousarray(frame.points[:, :3]), grid) for frame in full[:1]]
        if len(found) >= frames:
            break
    return found


def outside(real: Sequence[ScanStatistics], world: Sequence[ScanStatistics]) -> list[str]:
    """The quantities whose mean over the world is out of tolerance."""
    missed = []
    for field in fields(ScanStatistics):
        values, mean = _values(real, field.name), float(np.mean(_values(world, field.name)))
        if not min(values) / WIDENED <= mean <= max(values) * WIDENED:
            missed.append(field.name)
    return missed


def table(real: Sequence[ScanStatistics], world: Sequence[ScanStatistics]) -> str:
    """The comparison as text: mean, least and largest."""
    lines = [f"{'quantity':20s}{'real: mean (range)':>34s}{'world: mean (range)':>34s}"]
    lines.append(f"{'scans':20s}{len(real):>34d}{len(world):>34d}")
    for field in fields(ScanStatistics):
        cells = [_spread(_values(part, field.name)) for part in (real, world)]
        lines.append(f"{field.name:20s}{cells[0]:>34s}{cells[1]:>34s}")
    missed = outside(real, world)
    lines.append("within tolerance: all" if not missed else f"OUTSIDE tolerance: {', '.join(missed)}")
    return "\n".join(lines)


def _values(scans: Sequence[ScanStatistics], name: str) -> list[float]:
    return [getattr(scan, name) for scan in scans]


def _spread(values: Sequence[float]) -> str:
    mean = float(np.mean(values))
    form = ",.0f" if mean >= 100 else ".2f" if mean >= 0.01 else ".1e"
    return f"{mean:{form}} ({min(values):{form}} .. {max(values):{form}})"
