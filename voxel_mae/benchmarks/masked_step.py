"""What masking saves: the student's training step on a masked cloud against the whole one, in one run.

    python benchmarks/masked_step.py [--threads 1]

Needs the real samples ($REAL_SAMPLES): full KITTI scans on the construction grid. A step is R-MAE's: encoder to conv4
at full width, occupancy decoder and loss on dilated sites, backward, and the optimizer's step. Compared are the whole
cloud, 20 % of the 10-degree sectors (a new draw each round), and 20 % of the voxels at random, which saves
less because scattered voxels still reach most coarse sites. Times are CPU times of the process, so that what else runs
on the machine does not count. Target: whole / radial >= 2.5 (the random one is reported).
"""

# V voxels

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shared.benchmark import compared, judged, median_ratio, parse_options, run_benchmark
from shared.errors import DataError
from voxel_mae.backbone import RMAECMAEBackbonePhase1
from voxel_mae.grid import Grid
from voxel_mae.masking import Radial, mask_batch
from voxel_mae.pretraining import Pretrainer, PretrainSettings
from voxel_mae.voxelize import VoxelBatch, batch_voxels, voxelize

SAMPLES = Path(os.environ.get("REAL_SAMPLES", Path(__file__).parents[2].parent / "shared" / "real"))
OUT = Path(__file__).parent / "results" / "masked_step.json"
FRAMES = ("000000", "000001")
KEPT = 0.2
TARGET = 2.5


def count(text: str) -> int:
    """A positive whole number from the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: 1 or more")
    return number


def real_points(frame: str) -> np.ndarray:
    """x, y, z (N, 3) float32 of a full KITTI scan; DataError when it is not there."""
    path = SAMPLES / "kitti" / "training" / "velodyne" / f"{frame}.bin"
    if not path.is_file():
        raise DataError(f"{path} is missing: this benchmark needs the real samples; set REAL_SAMPLES to their folder")
    return np.ascontiguousarray(np.fromfile(path, np.float32).reshape(-1, 4)[:, :3])


def real_batch(frame: str, grid: Grid) -> VoxelBatch:
    """One scan as a batch of one."""
    return batch_voxels([voxelize(real_points(frame), grid)])


def masks(batch: VoxelBatch, grid: Grid, seed: int) -> dict[str, Tensor]:
    """Name -> keep (V,) bool."""
    rng = np.random.default_rng(seed)
    radial = mask_batch(batch, grid, Radial(1 - KEPT, 36), [rng])[0]
    return {
        "full": torch.ones(len(batch), dtype=torch.bool),
        "radial": radial,
        "uniform": torch.from_numpy(rng.random(len(batch)) < KEPT),
    }


def stepper(pretrainer: Pretrainer, batch: VoxelBatch) -> Callable[[Tensor], float]:
    """A function of the mask that does one training step and returns its CPU seconds."""
    optimizer = torch.optim.AdamW([p for p in pretrainer.parameters() if p.requires_grad], 1e-4)

    def step(keep: Tensor) -> float:
        start = time.process_time()
        optimizer.zero_grad()
        pretrainer(batch, keep).losses["occupancy"].backward()
        optimizer.step()
        return time.process_time() - start

    return step


def row_of(frame: str, rounds: int) -> dict:
    """A frame's times, round by round, and ratios; printed too."""
    torch.manual_seed(0)
    grid = Grid.construction()
    batch = real_batch(frame, grid)
    step = stepper(Pretrainer(RMAECMAEBackbonePhase1(3, grid.shape_zyx), PretrainSettings()), batch)
    step(masks(batch, grid, 0)["radial"])  # what is loaded at its first use is no round's time
    times: dict[str, list[float]] = {"full": [], "radial": [], "uniform": []}
    kept: dict[str, list[int]] = {name: [] for name in times}
    for number in range(rounds):
        for name, keep in masks(batch, grid, number).items():
            times[name].append(step(keep))
            kept[name].append(int(keep.sum()))
    ratios = {name: median_ratio(times["full"], times[name]) for name in ("radial", "uniform")}
    medians = {name: round(statistics.median(values), 3) for name, values in times.items()}
    print(f"{frame}: {len(batch)} voxels, seconds {medians}, full / masked {ratios}")
    return {"frame": frame, "voxels": len(batch), "seconds": times, "voxels_kept": kept, "ratios": ratios}


def benchmark(args: argparse.Namespace) -> dict[str, object]:
    torch.set_num_threads(args.threads)
    rows = [row_of(frame, 1 if args.quick else args.rounds) for frame in (FRAMES[:1] if args.quick else FRAMES)]
    ratio = statistics.median(row["ratios"]["radial"] for row in rows)
    verdict = judged(ratio >= TARGET, quick=args.quick)
    print(f"a step on {100 * KEPT:.0f} % of the sectors is {ratio} x as fast (target {TARGET}: {verdict})")
    return {"kept": KEPT, "sectors": 36, "quick": args.quick, "frames": rows, "median_ratio": ratio,
            "target": TARGET, "ratios": ratios_of(rows)}  # fmt: skip


def ratios_of(rows: Sequence[dict]) -> list[dict[str, object]]:
    """Both masks against the whole cloud, medians over rounds and frames; only the radial one has a target."""
    seconds = {name: statistics.median(s for row in rows for s in row["seconds"][name])
               for name in ("full", "radial", "uniform")}  # fmt: skip
    return [
        compared(f"the student's step on {100 * KEPT:.0f} % of the {kept}, against the whole cloud", seconds["full"],
                 seconds[name], "CPU s", statistics.median(row["ratios"][name] for row in rows), at_least=target)
        for name, kept, target in (("radial", "sectors", TARGET), ("uniform", "voxels", None))
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=count, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--rounds", type=count, default=5, help="rounds per frame (default: 5)")
    args = parse_options(parser, argv, quick="one frame, one round: it runs, and measures little")
    return run_benchmark(benchmark, args, OUT, ("torch", "numpy", "spconv-cu120"))


if __name__ == "__main__":
    sys.exit(main())
