"""The whole bitstream of 5 x 256, encoded and decoded, against the full-grid tailnet, in one run.

    python benchmarks/bitstream.py [--threads 1]

Needs the real samples ($REAL_SAMPLES). Encoding is `compress` (codes and cells to bytes), decoding `decompress` and the
sum of the books' rows; finding the codes is the other benchmark, `search.py`, and is printed beside. The tailnet is the
published network's size with random weights, which cost the same. Target: encode + decode <= 2 % of its time, the
median over rounds of a frame and over the frames; the JSON holds every round's times.
Baselines of `pillars_rq.baselines` are sized on the same frames.
"""

# P pillars.

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from search import FRAMES, TRAIN, K, count, fitted_books, real_encoder, real_features, real_points, seconds
from torch import Tensor

from pillars_rq.baselines import Int8, QuantizedCloud, RawFp16, SplitFrame, compression_ratios
from pillars_rq.bitstream.codec import Codec
from pillars_rq.bitstream.stream import compress, decompress
from pillars_rq.bitstream.tables import Tables
from pillars_rq.network import PointPillars, scatter
from shared.benchmark import compared, judged, parse_options, run_benchmark

OUT = Path(__file__).parent / "results" / "bitstream.json"
BOOKS = 5
TARGET = 0.02  # of the tailnet's time


def fitted_codec(model: PointPillars, frames: dict[str, tuple[Tensor, Tensor]], passes: int) -> Codec:
    books = fitted_books(frames, BOOKS, passes)
    train = torch.cat([frames[name][0] for name in TRAIN if name in frames])
    return Codec(books, Tables.counted(books.points(), lambda n, k: books.encode(train, n, k)), model.grid)


@torch.no_grad()
def times_of(
    model: PointPillars, codec: Codec, features: Tensor, coords: Tensor, rounds: int
) -> tuple[dict[str, list[float]], int]:
    """Milliseconds of search, encode, decode and tailnet, round by round in turn; and the bytes of the stream."""
    codes = codec.quantizer.encode(features, BOOKS, K)
    stream = compress(codes, coords, codec, BOOKS, K)
    codec.quantizer.decode(decompress(stream, codec).codes)  # what is compiled at its first use is no round's time
    canvas = scatter(features, torch.nn.functional.pad(coords, (1, 0)), 1, model.grid)
    actions = {
        "search_ms": lambda: codec.quantizer.encode(features, BOOKS, K),
        "encode_ms": lambda: compress(codes, coords, codec, BOOKS, K),
        "decode_ms": lambda: codec.quantizer.decode(decompress(stream, codec).codes),
        "tailnet_ms": lambda: model.tailnet(canvas),
    }
    found: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            found[name].append(1000 * seconds(action))
    return found, len(stream)


def share_of(times: dict[str, list[float]]) -> float:
    """(encode + decode) / tailnet, the median over rounds."""
    rounds = zip(times["encode_ms"], times["decode_ms"], times["tailnet_ms"], strict=True)
    return statistics.median((encode + decode) / tail for encode, decode, tail in rounds)


def sizes_of(name: str, model: PointPillars, features: Tensor, coords: Tensor, rq_bytes: int) -> dict[str, object]:
    """Bytes of the baselines on a frame, and the ratios of RQ against the four bases."""
    points = real_points(name)
    low, high = np.array(model.grid.range_m).reshape(2, 3)
    points = points[((points[:, :3] > low) & (points[:, :3] < high)).all(1)]
    frame = SplitFrame(points, coords.numpy(), features.numpy())
    baselines = (RawFp16(model.grid), Int8(model.grid), Int8(model.grid, squeezed=True), QuantizedCloud(model.grid))
    sizes = {one.name: len(one.encode(frame)) for one in baselines}
    return {"bytes": sizes, "ratios_5x256": compression_ratios(rq_bytes, frame, model.grid)}


def row_of(name: str, model: PointPillars, codec: Codec, frame: tuple[Tensor, Tensor], rounds: int) -> dict:
    """A frame's row of the record, printed too."""
    times, size = times_of(model, codec, *frame, rounds)
    row = {"frame": name, "pillars": len(frame[0]), "stream_bytes": size, **times,
           "share_of_tailnet": share_of(times), **sizes_of(name, model, *frame, size)}  # fmt: skip
    medians = "  ".join(f"{key} {statistics.median(values):.4g}" for key, values in times.items())
    ratios = "  ".join(f"{base} {ratio:.1f}" for base, ratio in row["ratios_5x256"].items())
    print(f"{name}: {medians}  share {100 * row['share_of_tailnet']:.2f} %\n  {size} bytes, others {row['bytes']}")
    print(f"  ratios: {ratios}")
    return row


def benchmark(args: argparse.Namespace) -> dict[str, object]:
    torch.set_num_threads(args.threads)
    model, rounds = real_encoder(), 1 if args.quick else args.rounds
    frames = real_features(model, FRAMES[:2] if args.quick else FRAMES)
    codec = fitted_codec(model, frames, 1 if args.quick else 5)
    rows = [row_of(name, model, codec, frame, rounds) for name, frame in frames.items()]
    share = statistics.median(row["share_of_tailnet"] for row in rows)
    verdict = judged(share <= TARGET, quick=args.quick)
    print(
        f"{BOOKS} x {K}, {args.threads} thread(s): coding takes {100 * share:.2f} % of the tailnet's time (target at "
        f"most {100 * TARGET:.0f} %: {verdict})"
    )
    return {"books": BOOKS, "k": K, "quick": args.quick, "frames": rows, "median_share": share,
            "target": TARGET, "ratios": ratios_of(rows, share)}  # fmt: skip


def ratios_of(rows: Sequence[dict], share: float) -> list[dict[str, object]]:
    """Time against the tailnet, and bytes against the baseline that needs fewest, medians over the frames."""
    tail = statistics.median(ms for row in rows for ms in row["tailnet_ms"])
    coding = statistics.median(a + b for row in rows for a, b in zip(row["encode_ms"], row["decode_ms"], strict=True))
    cloud, stream = (
        statistics.median(sizes) / 1000
        for sizes in ([min(row["bytes"].values()) for row in rows], [row["stream_bytes"] for row in rows])
    )
    sizes = statistics.median(min(row["bytes"].values()) / row["stream_bytes"] for row in rows)
    return [
        compared(f"encoding and decoding {BOOKS} x {K} against the full-grid tailnet", tail, coding, "ms", share,
                 at_most=TARGET),
        compared(f"bytes of a frame, {BOOKS} x {K} against the smallest baseline", cloud, stream, "kB", sizes),
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=count, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--rounds", type=count, default=3, help="rounds per frame (default: 3)")
    args = parse_options(parser, argv, quick="two frames, one round: it runs, and measures little")
    return run_benchmark(benchmark, args, OUT, ("torch", "numpy", "numba"))


if __name__ == "__main__":
    sys.exit(main())
