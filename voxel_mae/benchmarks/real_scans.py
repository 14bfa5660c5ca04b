"""Reference numbers on real scans: voxels, kept shares, occupancy sites, sites by level, points in boxes.

    python benchmarks/real_scans.py

Needs the real samples ($REAL_SAMPLES): three full KITTI scans, one nuScenes key frame, six labelled KITTI crops. All on
the construction grid (0.1 x 0.1 x 0.2 m, 1408 x 1408 x 80 cells), masks at 80 %, means over draws. Nothing is trained
or timed; the tests marked `real` hold the same numbers to the reference's.
"""

# V voxels, N sites; coords are (b, z, y, x)

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shared.benchmark import compared, parse_options, run_benchmark
from shared.errors import DataError
from voxel_mae.backbone import RMAECMAEBackbonePhase1
from voxel_mae.boxes import points_in_boxes
from voxel_mae.data.clouds import KITTI_FEATURES, NUSCENES_FEATURES, read_cloud
from voxel_mae.data.labels import read_kitti_labels
from voxel_mae.grid import Grid
from voxel_mae.keys import look_up, site_keys
from voxel_mae.masking import Calibrated, Masking, Radial, RangeOnly, TwoStage, mask_batch, mask_rng, seen_from
from voxel_mae.occupancy import block_keys, query_sites
from voxel_mae.twin import reached_sites
from voxel_mae.voxelize import VoxelBatch, Voxels, batch_voxels, voxelize

HERE = Path(__file__).resolve().parent
SAMPLES = Path(os.environ.get("REAL_SAMPLES", HERE.parents[2] / "shared" / "real"))
OUT = HERE / "results" / "real_scans.json"
GRID = Grid.construction()
SCANS = {
    "kitti 000000": ("kitti/training/velodyne/000000.bin", KITTI_FEATURES),
    "kitti 000001": ("kitti/training/velodyne/000001.bin", KITTI_FEATURES),
    "kitti, third scan": ("pointpillars/frame_pgf/sample.bin", KITTI_FEATURES),
    "nuscenes": ("nuscenes/samples/LIDAR_TOP/*.pcd.bin", NUSCENES_FEATURES),
}
MASKINGS: Mapping[str, Masking] = {
    "radial": Radial(), "range_only": RangeOnly(), "two_stage": TwoStage(), "calibrated": Calibrated(),
}  # fmt: skip
QUERIES = {  # name: sectors of the radial mask, sites, block
    "Q1, 1 degree, corner": (360, "active", "corner"),
    "Q1, 10 degrees, corner": (36, "active", "corner"),
    "Q2, 1 degree, centred": (360, "dilated", "centred"),
    "Q2, 10 degrees, centred": (36, "dilated", "centred"),
}
LABELLED = ("000000", "000001", "000003", "000005", "000008", "000134")


def scan(samples: Path, name: str) -> Voxels:
    """A scan's voxels. DataError when it is not there."""
    pattern, features = SCANS[name]
    path = next(iter(sorted(samples.glob(pattern))), None)
    if path is None:
        raise DataError(f"{samples} holds no {pattern}: set REAL_SAMPLES to the folder of the real samples.")
    return voxelize(read_cloud(path, features), GRID)


def statistics_of(voxels: Voxels) -> dict[str, Any]:
    band = seen_from(voxels.coords, GRID, torch.zeros(2)).bands((10, 30))
    return {
        "voxels": len(voxels),
        "points_a_voxel": round(float(voxels.counts.double().mean()), 2),
        "share_above_5_points": round(float((voxels.counts > 5).double().mean()), 3),
        "share_to_10m_to_30m_beyond": np.round(np.bincount(band, minlength=3) / len(voxels), 3).tolist(),
        "occupied_blocks": len(torch.unique(voxels.coords // 8, dim=0)),
    }


def kept_shares(batch: VoxelBatch, draws: int) -> dict[str, list[float]]:
    """Masking -> mean and spread of the realised kept share over draws."""
    found = {}
    for name, masking in MASKINGS.items():
        shares = [mask_batch(batch, GRID, masking, [mask_rng(0, 0, n)])[1].overall for n in range(draws)]
        found[name] = [round(float(np.mean(shares)), 3), round(float(np.std(shares)), 3)]
    return found


def occupancy_sites(batch: VoxelBatch, draws: int) -> dict[str, list[float]]:
    """Query -> number of sites, share of positives, share of the occupied blocks that are asked: means over draws."""
    found = {}
    for name, (sectors, query, block) in QUERIES.items():
        masks = (mask_batch(batch, GRID, Radial(0.8, sectors), [mask_rng(0, 0, n)])[0] for n in range(draws))
        count, positive, asked = np.mean([_asked(batch.coords, keep, query, block) for keep in masks], axis=0)
        found[name] = [round(float(count)), round(float(positive), 3), round(float(asked), 3)]
    return found


def _asked(coords: Tensor, keep: Tensor, query: str, block: str) -> tuple[int, float, float]:
    levels = levels_of(coords[keep], 3)
    sites, shape = levels[-1]
    keys, occupied = site_keys(query_sites(sites, shape, 1, query), shape), block_keys(coords, shape, block)
    positive, asked = ((look_up(a, b) >= 0).float().mean() for a, b in ((occupied, keys), (keys, occupied)))
    return len(keys), float(positive), float(asked)


def levels_of(coords: Tensor, downsamplings: int) -> list[tuple[Tensor, list[int]]]:
    """Sites (N,4) and shape of every level from the input on."""
    levels = [(coords, list(GRID.shape_zyx))]
    for _ in range(downsamplings):
        levels.append(reached_sites(*levels[-1]))
    return levels


def points_inside(samples: Path, frame: str) -> list[int]:
    """Points of a reduced KITTI scan in each of its labelled boxes, by the LiDAR box."""
    folder = samples / "kitti/training"
    labels = read_kitti_labels(folder / "label_2" / f"{frame}.txt", folder / "calib" / f"{frame}.txt")
    points = read_cloud(folder / "velodyne_reduced" / f"{frame}.bin", KITTI_FEATURES)
    return points_in_boxes(points, labels.boxes).sum(0).tolist()


def parameters() -> int:
    """Of the backbone up to conv6, at 3 point features."""
    named = RMAECMAEBackbonePhase1().named_parameters()
    return sum(value.numel() for name, value in named if not name.startswith(("conv_out", "shared_conv")))


def measure(samples: Path, draws: int) -> dict[str, Any]:
    results: dict[str, Any] = {"parameters_to_conv6": parameters(), "draws": draws, "scans": {}}
    for name in SCANS:
        voxels = scan(samples, name)
        batch = batch_voxels([voxels])
        results["scans"][name] = {**statistics_of(voxels), "kept": kept_shares(batch, draws),
                                  "occupancy": occupancy_sites(batch, draws)}  # fmt: skip
        print(f"{name}: {results['scans'][name]}", flush=True)
    coords = batch_voxels([scan(samples, "kitti 000000")]).coords
    uniform = torch.rand(len(coords), generator=torch.Generator().manual_seed(0)) < 0.2
    results["sites_by_level_000000"] = [len(sites) for sites, _ in levels_of(coords, 5)]
    results["sites_by_level_000000_uniform_20_percent"] = [len(sites) for sites, _ in levels_of(coords[uniform], 5)]
    results["points_in_boxes"] = {frame: points_inside(samples, frame) for frame in LABELLED}
    return results


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path, default=SAMPLES, help="default: $REAL_SAMPLES, or beside the workspace")
    parser.add_argument("--draws", type=int, default=30)
    args = parse_options(parser, argv, quick="one draw: it runs, and says little")
    return run_benchmark(benchmark, args, OUT, ("torch", "numpy"))


def benchmark(args: argparse.Namespace) -> dict[str, Any]:
    results = measure(args.samples, 1 if args.quick else args.draws)
    print({key: value for key, value in results.items() if key != "scans"})
    asked = round(1 - MASKINGS["radial"].ratio, 3)
    kept = {name: row["kept"]["radial"][0] for name, row in results["scans"].items()}
    ratios = [compared(f"share of voxels that radial masking keeps of {name}: drawn against asked", asked, share,
                       "of all", round(asked / share, 3)) for name, share in kept.items()]  # fmt: skip
    return {**results, "ratios": ratios}


if __name__ == "__main__":
    sys.exit(main())
