"""Occupancy asked at sparse places against the dense stride-1 decoder, at the KITTI grid, in one run.

    python benchmarks/occupancy_decoding.py [--threads 1]

Needs the real samples ($REAL_SAMPLES). Decoder and loss, forward and backward, from the same student sites with 128
channels, 20 % of a full scan's 10-degree sectors visible:

- dense: the features on R-MAE's grid (2 x 200 x 176), transposed 3D convolutions 128 -> 32 -> 8 -> 1 to the input's
  41 x 1600 x 1408 cells, and the cross entropy of 92 million logits;
- sparse: this package's decoder on the dilated sites of stride 8, targets and all.

Memory is the most that the process held during the action above what it held before (`shared.peak_memory`); times are
CPU times of the process, so that what else runs on the machine does not count. Targets: >= 3 x faster and >= 10 x less
memory, medians over rounds.
"""

# N sites, C channels; grids are (z, y, x)

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from masked_step import FRAMES, KEPT, count, masks, real_batch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.benchmark import compared, judged, median_ratio, parse_options, run_benchmark
from shared.peak_memory import rise_bytes
from voxel_mae.grid import Grid
from voxel_mae.keys import site_keys
from voxel_mae.occupancy import Occupancy, OccupancySettings
from voxel_mae.sparse import sparse_tensor
from voxel_mae.twin import filled, reached_sites
from voxel_mae.voxelize import VoxelBatch

OUT = Path(__file__).parent / "results" / "occupancy_decoding.json"
GRID = Grid((0.0, -40.0, -3.0, 70.4, 40.0, 1.0), (0.05, 0.05, 0.1))
CHANNELS = 128
DENSE_SHAPE = (2, 200, 176)  # what R-MAE's encoder leaves of 41 x 1600 x 1408
TARGETS = {"time": 3.0, "memory": 10.0}


class DenseDecoder(nn.Sequential):
    """R-MAE's occupancy decoder: (B, 128, 2, 200, 176) -> (B, 1, 41, 1600, 1408)."""

    def __init__(self) -> None:
        super().__init__(
            _transposed(CHANNELS, 32, 2), nn.BatchNorm3d(32), nn.ReLU(),
            _transposed(32, 8, (4, 2, 2)), nn.BatchNorm3d(8), nn.ReLU(),
            _transposed(8, 1, (3, 2, 2)),
        )  # fmt: skip


def _transposed(inputs: int, outputs: int, stride: int | tuple[int, int, int]) -> nn.ConvTranspose3d:
    return nn.ConvTranspose3d(inputs, outputs, 3, stride, padding=1, output_padding=1, bias=False)


def student_sites(coords: Tensor) -> tuple[Tensor, list[int]]:
    """Sites (N, 4) of stride 8 that visible voxels reach, and their shape."""
    shape = list(GRID.shape_zyx)
    for _ in range(3):
        coords, shape = reached_sites(coords, shape)
    return coords, shape


def dense_action(batch: VoxelBatch, sites: Tensor, features: Tensor) -> Callable[[], float]:
    """Fill the grid, decode, compare with every cell of the input, backward; returns the loss."""
    decoder = DenseDecoder()
    low = torch.cat([sites[:, :1], sites[:, 1:2] * 2 // 6, sites[:, 2:]], 1)  # six layers of z to the two there
    rows = torch.unique(site_keys(low, DENSE_SHAPE), return_inverse=True)[1]
    first = torch.full((int(rows.max()) + 1,), len(rows)).scatter_reduce(0, rows, torch.arange(len(rows)), "amin")

    def act() -> float:
        leaf = features[first].clone().requires_grad_()
        logits = decoder(filled(leaf, low[first], DENSE_SHAPE, 1))
        target = torch.zeros_like(logits)
        target[0, 0, batch.coords[:, 1], batch.coords[:, 2], batch.coords[:, 3]] = 1.0
        loss = F.binary_cross_entropy_with_logits(logits, target)
        loss.backward()
        return loss.item()

    return act


def sparse_action(
    batch: VoxelBatch, keep: Tensor, sites: Tensor, shape: list[int], features: Tensor
) -> Callable[[], float]:
    """The package's head on the same sites; returns the loss."""
    head = Occupancy(OccupancySettings(), CHANNELS)

    def act() -> float:
        leaf = features.clone().requires_grad_()
        found = head(sparse_tensor(leaf, sites, shape, 1), batch.coords, keep)
        found.loss.backward()
        return found.loss.item()

    return act


def measured(action: Callable[[], float]) -> tuple[float, int]:
    """CPU seconds of the process, and bytes held at most above what was held before."""
    seconds = []

    def timed() -> None:
        start = time.process_time()
        action()
        seconds.append(time.process_time() - start)

    rise = rise_bytes(timed)
    return seconds[0], rise


def row_of(frame: str, rounds: int) -> dict:
    """A frame's times and bytes, round by round, and ratios; printed too."""
    torch.manual_seed(0)
    batch = real_batch(frame, GRID)
    keep = masks(batch, GRID, 0)["radial"]
    sites, shape = student_sites(batch.coords[keep])
    features = torch.randn(len(sites), CHANNELS)
    actions = {
        "sparse": sparse_action(batch, keep, sites, shape, features),
        "dense": dense_action(batch, sites, features),
    }
    actions["sparse"]()  # what is loaded at its first use is no round's time
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    held: dict[str, list[int]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            taken, most = measured(action)
            seconds[name].append(taken)
            held[name].append(most)
    ratios = {"time": median_ratio(seconds["dense"], seconds["sparse"]),
              "memory": median_ratio(held["dense"], held["sparse"])}  # fmt: skip
    print(
        f"{frame}: {len(batch)} voxels, {len(sites)} student sites; dense {statistics.median(seconds['dense']):.2f} s "
        f"{statistics.median(held['dense']) / 2**20:.0f} MiB, sparse {statistics.median(seconds['sparse']):.3f} s "
        f"{statistics.median(held['sparse']) / 2**20:.0f} MiB; dense / sparse {ratios}"
    )
    return {"frame": frame, "voxels": len(batch), "student_sites": len(sites), "seconds": seconds, "bytes": held,
            "ratios": ratios}  # fmt: skip


def benchmark(args: argparse.Namespace) -> dict[str, object]:
    torch.set_num_threads(args.threads)
    rows = [row_of(frame, 1 if args.quick else args.rounds) for frame in (FRAMES[:1] if args.quick else FRAMES)]
    ratios = {name: statistics.median(row["ratios"][name] for row in rows) for name in TARGETS}
    reached = all(ratios[name] >= TARGETS[name] for name in TARGETS)
    verdict = judged(reached, quick=args.quick)
    print(
        f"sparse decoding: {ratios['time']} x faster, {ratios['memory']} x less memory (targets {TARGETS}: {verdict})"
    )
    return {"kept": KEPT, "quick": args.quick, "frames": rows, "median_ratios": ratios, "targets": TARGETS,
            "ratios": ratios_of(rows, ratios)}  # fmt: skip


def ratios_of(rows: Sequence[dict], ratios: dict[str, float]) -> list[dict[str, object]]:
    """Time and memory, medians over rounds and frames."""
    found = []
    for name, field, unit, scale in (("time", "seconds", "CPU s", 1), ("memory", "bytes", "MiB", 2**20)):
        dense, sparse = (statistics.median(value for row in rows for value in row[field][way]) / scale
                         for way in ("dense", "sparse"))  # fmt: skip
        found.append(compared(f"{name} of occupancy decoder and loss: sparse against dense, stride 1", dense, sparse,
                              unit, ratios[name], at_least=TARGETS[name]))  # fmt: skip
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=count, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--rounds", type=count, default=3, help="rounds per frame (default: 3)")
    args = parse_options(parser, argv, quick="one frame, one round: it runs, and measures little")
    return run_benchmark(benchmark, args, OUT, ("torch", "numpy", "spconv-cu120"))


if __name__ == "__main__":
    sys.exit(main())
