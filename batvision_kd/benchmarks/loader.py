"""The loader with and without its cache, in one run.

    python benchmarks/loader.py [--samples 64] [--size 256]

Writes a world at the size of the real files (720 x 1280), reads it through the loader (picture, depth, spectrogram)
without a cache, once to fill a cache, and from the cache; rounds alternate. The figure is the median ratio of uncached
to cached (target: 3). One process, so that nothing else is measured.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from batvision_kd.data.dataset import EchoDepthDataset
from batvision_kd.spectrogram import SpectrogramSettings
from batvision_kd.world import write_world
from shared.benchmark import compared, judged, median_ratio, parse_options, run_benchmark

OUT = Path(__file__).parent / "results" / "loader.json"
TARGET = 3.0


def pass_ms(data: EchoDepthDataset) -> float:
    """Milliseconds a sample of one pass."""
    started = time.perf_counter()
    for index in range(len(data)):
        data[index]
    return 1000 * (time.perf_counter() - started) / len(data)


def measure(root: Path, cache: Path, size: int, rounds: int) -> dict[str, object]:
    settings = SpectrogramSettings(size=(size, size))
    wanted = {"settings": settings, "size": (size, size), "rgb": True}
    plain = EchoDepthDataset(root, "train", **wanted)
    cached = EchoDepthDataset(root, "train", cache_dir=cache, **wanted)
    fill_ms, plain_ms, cached_ms = pass_ms(cached), [], []
    for _ in range(rounds):
        plain_ms.append(pass_ms(plain))
        cached_ms.append(pass_ms(cached))
    return {"size": size, "samples": len(plain), "fill_ms": fill_ms, "uncached_ms": plain_ms, "cached_ms": cached_ms,
            "ratio": median_ratio(plain_ms, cached_ms)}  # fmt: skip


def benchmark(args: argparse.Namespace) -> dict[str, object]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        height_width = (180, 320) if args.quick else (720, 1280)
        root = write_world(Path(folder) / "world", train=args.samples, val=1, test=1, size_hw=height_width)
        row = measure(root, Path(folder) / "cache", args.size, 1 if args.quick else args.rounds)
    verdict = judged(row["ratio"] >= TARGET, quick=args.quick)
    print(
        f"{row['samples']} samples at {args.size} px: uncached {statistics.median(row['uncached_ms']):.1f} ms, cached "
        f"{statistics.median(row['cached_ms']):.1f} ms a sample, ratio {row['ratio']:.1f} (target {TARGET:.0f}: "
        f"{verdict})"
    )
    found = compared(f"a sample at {args.size} px: from the cache against without one",
                     statistics.median(row["uncached_ms"]), statistics.median(row["cached_ms"]), "ms", row["ratio"],
                     at_least=TARGET)  # fmt: skip
    return {**row, "source_hw": height_width, "quick": args.quick, "target": TARGET, "ratios": [found]}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=64, help="samples (default: 64)")
    parser.add_argument("--size", type=int, default=256, help="side of what the models get (default: 256)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default: 3)")
    args = parse_options(parser, argv, quick="one round on small pictures: it runs, and measures little")
    return run_benchmark(benchmark, args, OUT)


if __name__ == "__main__":
    sys.exit(main())
