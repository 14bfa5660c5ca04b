"""demo/pair_demo.py: detections on your own pairs.

    python demo/pair_demo.py VISIBLE INFRARED --config CONFIG --checkpoint WEIGHTS [--out DIR]

VISIBLE and INFRARED are two images or two folders, in which files of one name belong together (an ending such as
_visible or _lwir does not count). Writes a picture a pair and detections.json; prints how long each pair took.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shared.errors import ConfigError
from shared.run import run_command
from shared.storage import write_atomic

from .demo_command import CONFIGS, LEAST_SCORE
from .inference import PairDetections, PairInferencer, pairs_of


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    flags = argparse.ArgumentParser(
        prog="demo/pair_demo.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = flags.add_argument
    add("visible", help="visible image, or folder of such")
    add("infrared", help="infrared image, or folder of such")
    add("--config", default=str(CONFIGS["stage2"]), help="(default: configs/embedded/stage2.py, of the demo)")
    add("--checkpoint", required=True, help="weights: best.pth, epoch_N.pth, ...")
    add("--out", type=Path, default=Path("work_dirs/pairs"), help="folder of pictures and JSON (default: %(default)s)")
    add("--score", type=float, default=LEAST_SCORE, help="least score that is drawn and written (default: %(default)s)")
    add("--device", default="cpu", help="cpu, cuda:0, ... (default: cpu)")
    add("--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code (2: a missing half, or another mistake to mend)."""
    args = parser().parse_args(argv)
    return run_command(lambda: detect(args))


def detect(args: argparse.Namespace) -> int:
    """Every pair: detections, picture, latency; then detections.json."""
    if not 0 <= args.score <= 1:
        raise ConfigError(f"--score {args.score} must be in 0..1.")
    pairs = pairs_of(args.visible, args.infrared)
    detector = PairInferencer(args.config, args.checkpoint, options=args.cfg_options, device=args.device)
    found = []
    for visible, infrared in pairs:
        one = detector(visible, infrared).above(args.score)
        picture = draw(one, args.out)
        spans = ", ".join(f"{name} {value:.1f} ms" for name, value in one.latency_ms.items())
        print(f"{visible.name}: {len(one.scores)} detections, {spans} -> {picture}", flush=True)
        found.append(one)
    write_atomic(args.out / "detections.json", json.dumps([one.to_json() for one in found], indent=1) + "\n")
    print(latency_line(found))
    return 0


def draw(found: PairDetections, folder: Path) -> Path:
    """The pair with its boxes; the picture of a drawn pair says so."""
    from shared.embedded_world import lies_in_embedded

    from .pictures import pair_picture, read_image, write_picture

    embedded = lies_in_embedded(found.visible)
    picture = pair_picture(
        read_image(found.visible),
        read_image(found.infrared),
        found.boxes_xyxy_px,
        found.scores,
        caption=found.visible.name,
        mark="EMBEDDED WORLD: no real data" if embedded else "",
    )
    return write_picture(folder / f"{found.visible.stem}.png", picture)


def latency_line(found: Sequence[PairDetections]) -> str:
    """Median latencies; the first pair, which warms caches up, is left out when there are others."""
    counted = found[1:] or found
    spans = {name: statistics.median(one.latency_ms[name] for one in counted) for name in counted[0].latency_ms}
    text = ", ".join(f"{name} {value:.1f} ms" for name, value in spans.items())
    sizes = sorted({one.size_hw for one in counted})
    shown = ", ".join(f"{width}x{height}" for height, width in sizes)
    return (
        f"median of {len(counted)} pair(s) of {shown}: {text} ({1000 / np.maximum(spans['total'], 1e-9):.2f} pairs/s)"
    )
