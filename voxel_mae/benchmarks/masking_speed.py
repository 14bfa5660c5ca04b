"""Masking, vectorised, against a dict-of-lists loop over Python floats with the same draw rule, in one run.

    python benchmarks/masking_speed.py [--rounds 21] [--threads 1]

Needs the real samples ($REAL_SAMPLES). Both begin with a frame's voxels as a tensor of cells and end with a mask as a
tensor. The baseline computes centres as Python floats, sorts voxels into a dictionary of lists by sector, draws
sectors, and decides voxel by voxel; from equal generators both draw the same mask, which every round checks. Times are
CPU times of the process, so that what else runs on the machine does not count. Target: >= 15 times faster.
"""

# V voxels, G sectors

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from real_scans import GRID, SAMPLES, scan
from torch import Tensor

from shared.benchmark import compared, median_ratio, parse_options, run_benchmark
from voxel_mae.grid import Grid
from voxel_mae.masking import Calibrated, Masking, Radial, TwoStage, mask_batch, mask_rng
from voxel_mae.voxelize import VoxelBatch, batch_voxels

OUT = Path(__file__).parent / "results" / "masking_speed.json"
TARGET = 15.0
FRAMES = ("kitti 000000", "kitti 000001", "nuscenes")
Centres = list[tuple[float, float]]  # x, y in metres from the sensor


# --- the baseline -----------------------------------------------------------------------------------------------------


def centres_of(batch: VoxelBatch, grid: Grid) -> Centres:
    """Of a batch of one frame. One list an axis: a list a voxel would be paid to the garbage collector."""
    sensor = batch.sensor_xy[0].tolist()
    axes = [[low + (cell + 0.5) * size - origin for cell in batch.coords[:, column].tolist()]
            for column, low, size, origin in zip((3, 2), grid.range_m, grid.voxel_m, sensor, strict=False)]  # fmt: skip
    return list(zip(*axes, strict=True))


def by_sector(centres: Centres, count: int) -> dict[int, list[int]]:
    """Voxels of each sector: the dictionary of lists."""
    found: dict[int, list[int]] = {}
    for number, (x, y) in enumerate(centres):
        sector = int((math.atan2(y, x) + math.pi) / (2 * math.pi) * count) % count
        if sector not in found:
            found[sector] = []
        found[sector].append(number)
    return found


def band_of(x: float, y: float, limits_m: Sequence[float]) -> int:
    distance = math.sqrt(x * x + y * y)
    return sum(1 for limit in limits_m if distance > limit)


def radial_loop(centres: Centres, masking: Radial, rng: np.random.Generator) -> list[bool]:
    groups = by_sector(centres, masking.sectors)
    filled = sorted(groups)
    number = max(1, math.floor((1 - masking.ratio) * len(filled) + 0.5))
    keep = [False] * len(centres)
    for sector in rng.choice(filled, number, replace=False).tolist():
        for voxel in groups[sector]:
            keep[voxel] = True
    return keep


def two_stage_loop(centres: Centres, masking: TwoStage, rng: np.random.Generator) -> list[bool]:
    groups = by_sector(centres, masking.sectors)
    bands = [band_of(x, y, masking.bands_m) for x, y in centres]
    keep_probs = [1 - probability for probability in masking.mask_probs]
    chance = 1 - masking.ratio
    if isinstance(masking, Calibrated):
        share = sum(keep_probs[band] for band in bands) / len(bands)
        chance = min(1.0, chance / share)
    voxel_draws, sector_draws = rng.random(len(centres)).tolist(), rng.random(masking.sectors).tolist()
    filled = sorted(groups)
    kept_sectors = [sector for sector in filled if sector_draws[sector] < chance] or [int(rng.choice(filled))]
    keep = [False] * len(centres)
    for sector in kept_sectors:
        for voxel in groups[sector]:
            keep[voxel] = voxel_draws[voxel] < keep_probs[bands[voxel]]
    return keep


LOOPS: dict[type, Callable[..., list[bool]]] = {
    Radial: radial_loop,
    TwoStage: two_stage_loop,
    Calibrated: two_stage_loop,
}


def mask_by_loop(batch: VoxelBatch, grid: Grid, masking: Masking, rng: np.random.Generator) -> Tensor:
    """(V,) bool: what `mask_batch` returns of one frame."""
    return torch.tensor(LOOPS[type(masking)](centres_of(batch, grid), masking, rng))


# --- measuring --------------------------------------------------------------------------------------------------------


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU milliseconds of the process, and the answer."""
    started = time.process_time()
    answer = work()
    return (time.process_time() - started) * 1e3, answer


def compare(batch: VoxelBatch, grid: Grid, masking: Masking, rounds: int) -> dict[str, Any]:
    """Milliseconds of both, round by round in turn, and their ratio. RuntimeError when the masks differ."""
    found: dict[str, list[float]] = {"loop_ms": [], "ours_ms": []}
    mask_batch(batch, grid, masking, [mask_rng(0, 0, 0)])  # what happens at a first use is no round's time
    for number in range(rounds):
        loop_ms, slow = timed(lambda n=number: mask_by_loop(batch, grid, masking, mask_rng(0, 0, n)))
        ours_ms, (keep, _) = timed(lambda n=number: mask_batch(batch, grid, masking, [mask_rng(0, 0, n)]))
        if not torch.equal(keep, slow):
            raise RuntimeError(f"{masking}: the loop and ours drew different masks in round {number}")
        found["loop_ms"].append(loop_ms)
        found["ours_ms"].append(ours_ms)
    ratio = median_ratio(found["loop_ms"], found["ours_ms"])
    medians = {f"median_{name}": round(statistics.median(times), 3) for name, times in found.items()}
    return {"times_faster": ratio, **medians, **{k: [round(t, 3) for t in v] for k, v in found.items()}}


def measure(samples: Path, rounds: int, wanted: Sequence[str]) -> dict[str, Any]:
    maskings = {"radial": Radial(), "two_stage": TwoStage(), "calibrated": Calibrated()}
    results: dict[str, Any] = {"target_times_faster": TARGET, "frames": {}}
    for name in wanted:
        batch = batch_voxels([scan(samples, name)])
        results["frames"][name] = {"voxels": len(batch)}
        for kind, masking in maskings.items():
            one = compare(batch, GRID, masking, rounds)
            results["frames"][name][kind] = one
            print(
                f"{name}, {len(batch):,} voxels, {kind}: loop {one['median_loop_ms']:.1f} ms, ours "
                f"{one['median_ours_ms']:.2f} ms, {one['times_faster']:.1f} times faster"
            )
    return results


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path, default=SAMPLES, help="default: $REAL_SAMPLES, or beside the workspace")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=1)
    args = parse_options(parser, argv, quick="one frame, three rounds")
    return run_benchmark(benchmark, args, OUT)


def benchmark(args: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(args.threads)
    rounds, wanted = (3, ["nuscenes"]) if args.quick else (args.rounds, FRAMES)
    found = measure(args.samples, rounds, wanted)
    return {"threads": args.threads, **found, "ratios": ratios_of(found["frames"])}


def ratios_of(frames: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every masking of every frame."""
    return [
        compared(f"{kind} masking of {frame}: vectorised against a loop over Python floats", one["median_loop_ms"],
                 one["median_ours_ms"], "CPU ms", one["times_faster"], at_least=TARGET)
        for frame, row in frames.items() for kind, one in row.items() if kind != "voxels"
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
