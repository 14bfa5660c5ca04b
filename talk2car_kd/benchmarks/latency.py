"""The student's image tower against CLIP's: latency, parameters and GMACs, all measured in one run.

    python benchmarks/latency.py [--device cuda] [--threads 2]

Batch 1, fp32, eval mode, random pixels. All towers have random weights: no operation here takes longer or shorter for
other values, so latency needs none. The student is the whole tower of Stage 1 (ConvNeXt, fused map, projection). Rounds
go through all towers in turn, so that a slow moment of the machine meets all of them; a tower's latency is its median.
GMACs are torch.utils.flop_counter's operations halved: matrix products and convolutions.

Target: ViT-L/14 takes at least 10 times as long as the default student at 224. No claim is made against ViT-B/32, which
is about as fast as the student.
"""

# B images (1), H, W pixels.

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import open_clip
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from shared.benchmark import record, write
from shared.config import load_config
from shared.run import run_command, world_from_environment
from talk2car_kd.config import DEFAULT, EMBEDDED, Config
from talk2car_kd.student import build_student, parameter_count

OUT = Path(__file__).parent / "results" / "latency.json"
TARGET = 10.0  # times the latency of the default student at 224
CLIP_DIM = 512  # of ViT-B, the default teacher
TEACHERS = ("ViT-B-32", "ViT-B-16", "ViT-L-14")
WARM_UP = 3
STUDENT = "student 224"  # the first tower; the last one is the baseline


@dataclass(frozen=True)
class Tower:
    """An image tower, and the size of the picture it is given."""

    name: str
    module: nn.Module
    call: Callable[[torch.Tensor], object]
    height: int
    width: int


@dataclass(frozen=True)
class Row:
    name: str
    height: int
    width: int
    parameters: int
    gmacs: float
    latency_ms: float  # median
    fastest_ms: float
    slowest_ms: float


def student_tower(name: str, files: Sequence[Path], embed_dim: int | None, hw: tuple[int, int] | None) -> Tower:
    """The student of a configuration, with random weights; hw None gives it Stage 2's frames (its map alone)."""
    config = load_config(Config, files)
    recipe = config.teacher.train
    student = build_student(config.student.model_copy(update={"init": "random"}), embed_dim or recipe.embed_dim)
    height, width = hw or config.stage2.input_hw
    return Tower(name, student, student if hw else student.feature_map, height, width)


def clip_tower(name: str) -> Tower:
    tower = open_clip.create_model(name, load_weights=False).visual
    return Tower(f"{name} 224", tower, tower, 224, 224)


def towers(quick: bool) -> list[Tower]:
    """All towers of the table, the student first and the baseline last; quick: small students on small pictures."""
    preset = [DEFAULT, EMBEDDED]
    if quick:
        return [student_tower(STUDENT, preset, None, (64, 64)), student_tower("quick baseline", preset, None, (96, 96))]
    return [
        student_tower(STUDENT, [DEFAULT], CLIP_DIM, (224, 224)),
        student_tower("student 448x800", [DEFAULT], CLIP_DIM, None),
        student_tower("embedded preset's student 224", preset, None, (224, 224)),
        *(clip_tower(name) for name in TEACHERS),
    ]


@torch.no_grad()
def gmacs(tower: Tower) -> float:
    """10^9 multiply-adds of one picture, on the CPU; attention is written out as products, or it would not count."""
    pixels = torch.zeros(1, 3, tower.height, tower.width)
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            tower.call(pixels)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops() / 2e9


@torch.no_grad()
def latencies_ms(models: Sequence[Tower], repeats: int, device: torch.device) -> list[list[float]]:
    """Wall-clock milliseconds of every tower in every round, after the warm-up."""
    pixels = [torch.rand(1, 3, tower.height, tower.width, device=device) for tower in models]
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times: list[list[float]] = [[] for _ in models]
    for _ in range(WARM_UP + repeats):
        for tower, image, row in zip(models, pixels, times, strict=True):
            wait()
            started = time.perf_counter()
            tower.call(image)
            wait()
            row.append(1000 * (time.perf_counter() - started))
    return [row[WARM_UP:] for row in times]


def measure(models: Sequence[Tower], repeats: int, device: torch.device) -> list[Row]:
    for tower in models:
        tower.module.eval()
    counted = [gmacs(tower) for tower in models]
    for tower in models:
        tower.module.to(device)
    rows = []
    for tower, macs, times in zip(models, counted, latencies_ms(models, repeats, device), strict=True):
        ms = [round(value, 3) for value in (statistics.median(times), min(times), max(times))]
        rows.append(Row(tower.name, tower.height, tower.width, parameter_count(tower.module), round(macs, 5), *ms))
    return rows


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """How many times as long as the default student at 224 every tower takes."""
    student = next(row for row in rows if row.name == STUDENT)
    return {row.name: round(row.latency_ms / student.latency_ms, 2) for row in rows}


def table(rows: Sequence[Row]) -> str:
    times = ratios(rows)
    lines = [f"{'image tower':32s}{'input':>10s}{'params M':>10s}{'GMACs':>9s}{'ms':>10s}{'x student':>11s}"]
    for row in rows:
        size = f"{row.height}x{row.width}"
        lines.append(f"{row.name:32s}{size:>10s}{row.parameters / 1e6:10.2f}{row.gmacs:9.2f}{row.latency_ms:10.1f}"
                     f"{times[row.name]:11.2f}")  # fmt: skip
    return "\n".join(lines)


def benchmark(args: argparse.Namespace) -> int:
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    with world_from_environment(args.device) as world:
        repeats = 1 if args.quick else args.repeats
        rows = measure(towers(args.quick), repeats, world.device)
        name = torch.cuda.get_device_name() if world.device.type == "cuda" else f"CPU, {args.threads} threads"
    baseline = rows[-1].name
    reached = ratios(rows)[baseline]
    print(f"{name}, batch 1, fp32, random weights, median of {repeats} after {WARM_UP}\n{table(rows)}")
    if not args.quick:
        verdict = "reached" if reached >= TARGET else "MISSED"
        print(f"{baseline} takes {reached:.1f}x the student's time (target {TARGET:.0f}x on the CPU: {verdict})")
    out = args.out or (None if args.quick else OUT)
    if out is not None:
        settings = {"device": name, "batch": 1, "precision": "fp32", "repeats": repeats, "warm_up": WARM_UP,
                    "weights": "random", "quick": args.quick}  # fmt: skip
        results = {"settings": settings, "towers": [asdict(row) for row in rows], "latency_ratio": ratios(rows),
                   "baseline": baseline, "target": TARGET}  # fmt: skip
        write(out, record("latency", results))
    return 0


def repeats_of(text: str) -> int:
    if int(text) < 10:
        raise argparse.ArgumentTypeError("a median needs at least 10 repeats")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--repeats", type=repeats_of, default=20, help="rounds, at least 10 (default: 20)")
    parser.add_argument(
        "--out", type=Path, help="where to write the JSON (default: benchmarks/results/; quick: nowhere)"
    )
    parser.add_argument("--quick", action="store_true", help="tiny towers, one round: it runs, and measures nothing")
    args = parser.parse_args(argv)
    return run_command(lambda: benchmark(args))


if __name__ == "__main__":
    sys.exit(main())
