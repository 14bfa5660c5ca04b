"""What the contract's 25 stages cost on KITTI: seconds a frame, measured here, and the days that follow from them.

    python benchmarks/schedule.py [--threads 1] [--device cuda]

No data set is needed: clouds of the embedded world's generator, out to the published range, through the published
network with random weights, which cost the same. Measured for each frame: a warm-up step (pillar features, codes), a
gradient step (those, and the tail forward and backward with its loss) and a validation (features, codes, tail,
detections). The extrapolation counts every epoch of `exp/split1_ALL.yaml` in full; early stopping ends some sooner.
"""

# P pillars.

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from search import count

from pillars_rq.anchors import KITTI_CLASSES
from pillars_rq.batches import DetectionBatch
from pillars_rq.bottleneck import detection_term
from pillars_rq.config import RqConfig
from pillars_rq.detector import FrozenDetector
from pillars_rq.grid import Grid
from pillars_rq.kitti.calibration import boxes_to_lidar
from pillars_rq.network import PointPillars
from pillars_rq.progressive import stages_of
from pillars_rq.rq.codebooks import ResidualQuantizer
from pillars_rq.rq.lloyd import fit_dedicated
from pillars_rq.voxelize import batch_pillars, voxelize
from pillars_rq.weights import Base
from pillars_rq.world.annotate import make_calibration
from pillars_rq.world.frame import make_frame
from pillars_rq.world.spec import FARTHEST_M, WorldSpec
from shared.benchmark import compared, parse_options, run_benchmark
from shared.config import load_config

OUT = Path(__file__).parent / "results" / "schedule.json"
CONTRACT = Path(__file__).parents[1] / "exp" / "split1_ALL.yaml"
TRAIN_FRAMES, VAL_FRAMES = 3712, 3769  # of KITTI
SUBSET_FRAMES = 300  # judged after every epoch: about as many hold 41 cyclists of moderate difficulty
DAY_S = 86_400


def network(device: str) -> FrozenDetector:
    torch.manual_seed(0)
    return FrozenDetector(Base(PointPillars(Grid.kitti()), Path("random weights"), "", {}), torch.device(device))


def batch_of(number: int, grid: Grid) -> DetectionBatch:
    """A frame of the embedded world out to the published range, with its labels."""
    frame = make_frame(WorldSpec(max_range_m=FARTHEST_M, max_side_m=38.0), "train", number)
    labels, names = frame.labels.without_dont_care(), [one.name for one in KITTI_CLASSES]
    boxes = boxes_to_lidar(labels.location, labels.dimensions, labels.rotation_y, make_calibration())
    classes = torch.tensor([names.index(name) if name in names else -1 for name in labels.name])
    pillars = batch_pillars([voxelize(frame.points, grid, grid.max_voxels_train)])
    return DetectionBatch([str(number)], pillars, [torch.from_numpy(boxes).float()], [classes])


def parts_of(detector: FrozenDetector, books: ResidualQuantizer, batch: DetectionBatch) -> dict[str, Callable]:
    """The three kinds of work on one frame; k and n are the largest of the contract."""
    n, k, coords = books.n_codebook, books.schedule[-1], batch.pillars.coords

    def codes() -> torch.Tensor:
        return books.encode(detector.head(batch.pillars), n, k, coords=coords)

    def gradient() -> None:
        quantized = books.decode(codes()).requires_grad_()
        detection_term(detector, batch, quantized)[0].backward()

    @torch.no_grad()
    def validation() -> None:
        detector.detections(detector.tail(books.decode(codes()), coords, 1))

    return {"warmup": codes, "gradient": gradient, "validation": validation}


def seconds(action: Callable[[], object], device: str) -> float:
    started = time.perf_counter()
    action()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def days_of(seconds_a_frame: dict[str, float], config: RqConfig) -> float:
    """The whole schedule, every epoch and every validation counted."""
    frames = {"warmup": 0, "gradient": 0, "validation": 0}
    for stage in stages_of(config):
        frames["warmup"] += stage.warmup * TRAIN_FRAMES
        frames["gradient"] += (stage.epochs - stage.warmup) * TRAIN_FRAMES
        frames["validation"] += stage.epochs * SUBSET_FRAMES + VAL_FRAMES
    return sum(frames[name] * seconds_a_frame[name] for name in frames) / DAY_S


def benchmark(args: argparse.Namespace) -> dict[str, object]:
    torch.set_num_threads(args.threads)
    config, detector = load_config(RqConfig, [CONTRACT], []), network(args.device)
    batches = [batch_of(number, detector.grid) for number in range(1 if args.quick else args.frames)]
    features = torch.cat([detector.head(batch.pillars) for batch in batches])
    largest, generator = config.progressive_learning.embedding_schedule[-1], torch.Generator().manual_seed(0)
    books = fit_dedicated(features.cpu(), config.model.n_codebook, largest, generator, passes=1)
    books = books.to(args.device)
    found: dict[str, list[float]] = {"warmup": [], "gradient": [], "validation": []}
    for batch in [batches[0], *batches]:  # the first pass sets things up and is no measurement
        for name, action in parts_of(detector, books, batch).items():
            found[name].append(seconds(action, args.device))
    medians = {name: statistics.median(times[1:]) for name, times in found.items()}
    days = days_of(medians, config)
    print("  ".join(f"{name} {value:.3f} s a frame" for name, value in medians.items()))
    print(f"{len(stages_of(config))} stages on KITTI, {args.device}, {args.threads} thread(s): {days:.1f} days at most")
    pillars = [len(batch.pillars.coords) for batch in batches]
    return {"device": args.device, "seconds": found, "median_seconds": medians, "days": days, "pillars": pillars,
            "quick": args.quick, "subset_frames": SUBSET_FRAMES,
            "ratios": [compared("the contract's 25 stages on KITTI, every epoch, extrapolated; no baseline", None,
                                days, "days", None)]}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=count, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--frames", type=count, default=5, help="frames (default: 5)")
    args = parse_options(parser, argv, quick="one frame: it runs, and measures little")
    return run_benchmark(benchmark, args, OUT)


if __name__ == "__main__":
    sys.exit(main())
