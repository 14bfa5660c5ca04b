"""Encoding a frame's features: occupied cells alone against dense search over the whole canvas, in one run.

    python benchmarks/search.py [--books 1] [--threads 1]

Needs the real samples ($REAL_SAMPLES). For each of the eight reduced frames the same books (256 rows, fitted to six of
the frames) code the occupied pillars and, as the baseline, all 214,272 cells of the canvas, in the same chunks. A
frame's ratio is the median over rounds, each measured next to the other; the figure is the median over the frames
(target: 30). The JSON holds every round's times, from which the ratios follow.
Printed too: the dense search without chunks, and the bytes its distances take.
"""

# P pillars, D channels, K rows.

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

from pillars_rq.grid import Grid
from pillars_rq.kitti.clouds import read_points
from pillars_rq.network import PointPillars, scatter
from pillars_rq.rq.codebooks import ResidualQuantizer
from pillars_rq.rq.lloyd import fit_dedicated
from pillars_rq.voxelize import batch_pillars, voxelize
from pillars_rq.weights import load_folded_encoder
from shared.benchmark import compared, judged, median_ratio, parse_options, run_benchmark
from shared.errors import DataError

OUT = Path(__file__).parent / "results" / "search.json"
SAMPLES = Path(os.environ.get("REAL_SAMPLES", Path(__file__).parents[3] / "shared" / "real"))
TRAIN = tuple(f"training/00000{index}" for index in (0, 1, 3, 5, 6, 8))
FRAMES = (*TRAIN, "training/000134", "testing/000002")
K = 256
TARGET = 30.0


def real_encoder() -> PointPillars:
    """The published first layer with its batch norm folded; DataError without the samples."""
    path = SAMPLES / "pointpillars" / "pfn_folded.npz"
    if not path.is_file():
        raise DataError(f"{path} is missing: this benchmark needs the real samples; set REAL_SAMPLES to their folder.")
    model = PointPillars(Grid.kitti()).eval()
    load_folded_encoder(model, path)
    return model


def real_points(name: str) -> np.ndarray:
    """Points (N, 4) of a frame as `training/000134`; DataError when it is not there."""
    folder, stem = name.split("/")
    return read_points(SAMPLES / "kitti" / folder / "velodyne_reduced" / f"{stem}.bin")


@torch.no_grad()
def real_features(model: PointPillars, names: Sequence[str] = FRAMES) -> dict[str, tuple[Tensor, Tensor]]:
    """Frame -> features (P, 64), coords (P, 2) y, x."""
    found = {}
    for name in names:
        pillars = voxelize(real_points(name), model.grid, model.grid.max_voxels_eval)
        found[name] = model.headnet(batch_pillars([pillars])), pillars.coords
    return found


def fitted_books(frames: dict[str, tuple[Tensor, Tensor]], books: int, passes: int) -> ResidualQuantizer:
    train = torch.cat([frames[name][0] for name in TRAIN if name in frames])
    return fit_dedicated(train, books, K, torch.Generator().manual_seed(0), passes)


def seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


@torch.no_grad()
def unchunked_argmin(cells: Tensor, rows: Tensor) -> Tensor:
    """The whole canvas against one book at once: what a dense implementation holds in memory."""
    return (rows.square().sum(1) - 2 * cells @ rows.T).argmin(1)


def measure(
    name: str, features: Tensor, coords: Tensor, books: ResidualQuantizer, rounds: int, grid: Grid
) -> dict[str, object]:
    """A frame's row of the record: every round's milliseconds, sparse and dense in turn, and their ratio."""
    canvas = scatter(features, torch.nn.functional.pad(coords, (1, 0)), 1, grid)[0].flatten(1).T.contiguous()
    sparse_ms, dense_ms = [], []
    for _ in range(rounds):
        sparse_ms.append(1000 * seconds(lambda: books.encode(features, books.n_codebook, K)))
        dense_ms.append(1000 * seconds(lambda: books.encode(canvas, books.n_codebook, K)))
    unchunked_ms = 1000 * seconds(lambda: unchunked_argmin(canvas, books.rows(0)))
    return {"frame": name, "pillars": len(features), "sparse_ms": sparse_ms, "dense_ms": dense_ms,
            "ratio": median_ratio(dense_ms, sparse_ms), "dense_unchunked_one_book_ms": unchunked_ms}  # fmt: skip


def benchmark(args: argparse.Namespace) -> dict[str, object]:
    torch.set_num_threads(args.threads)
    model, rounds = real_encoder(), 1 if args.quick else args.rounds
    frames = real_features(model, FRAMES[:2] if args.quick else FRAMES)
    books, rows = fitted_books(frames, args.books, 1 if args.quick else 5), []
    for name, (features, coords) in frames.items():
        row = measure(name, features, coords, books, rounds, model.grid)
        rows.append(row)
        print(
            f"{name}: {row['pillars']} pillars {statistics.median(row['sparse_ms']):.1f} ms, all cells "
            f"{statistics.median(row['dense_ms']):.0f} ms, ratio {row['ratio']:.1f}; unchunked, one book: "
            f"{row['dense_unchunked_one_book_ms']:.0f} ms"
        )
    ratio, distance_bytes = statistics.median(row["ratio"] for row in rows), model.grid.cells * K * 4
    print(
        f"K = {K}, {args.books} book(s), {args.threads} thread(s): median ratio {ratio:.1f} (target {TARGET:.0f}: "
        f"{judged(ratio >= TARGET, quick=args.quick)}); unchunked, the distances of a book take "
        f"{distance_bytes:,} bytes"
    )
    dense, sparse = (statistics.median(ms for row in rows for ms in row[name]) for name in ("dense_ms", "sparse_ms"))
    row = compared(f"codes of a real frame, {args.books} x {K}: occupied cells against the whole canvas",
                   dense, sparse, "ms", ratio, at_least=TARGET)  # fmt: skip
    return {"k": K, "books": args.books, "quick": args.quick, "frames": rows, "median_ratio": ratio,
            "target": TARGET, "unchunked_distance_bytes": distance_bytes, "ratios": [row]}  # fmt: skip


def count(text: str) -> int:
    """An argument that is a whole number from 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--books", type=count, default=1, help="codebooks (default: 1)")
    parser.add_argument("--threads", type=count, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--rounds", type=count, default=5, help="rounds per frame (default: 5)")
    args = parse_options(parser, argv, quick="two frames, one round: it runs, and measures little")
    return run_benchmark(benchmark, args, OUT)


if __name__ == "__main__":
    sys.exit(main())
