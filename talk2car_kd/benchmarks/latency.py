"""The default student's image tower against CLIP's: latency, parameters and GMACs, all measured in one run.

    python benchmarks/latency.py [--device cuda] [--threads 2]

How it is measured: talk2car_kd/latency.py, which `--stage export` uses on a trained model. Here all towers have random
weights, and the student is that of config/default.yaml.

Target: ViT-L/14 takes at least 10 times as long as the default student at 224. No claim is made against ViT-B/32, which
is about as fast as the student.
"""

# H, W height and width of the picture in pixels.

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from shared.benchmark import compared, parse_options, run_benchmark
from shared.config import load_config
from shared.run import world_from_environment
from talk2car_kd.config import DEFAULT, EMBEDDED, Config
from talk2car_kd.latency import STUDENT, Tower, as_record, clip_tower, conditions, measure, table
from talk2car_kd.student import build_student

OUT = Path(__file__).parent / "results" / "latency.json"
TARGET = 10.0  # times the latency of the default student at 224
CLIP_DIM = 512  # of ViT-B, the default teacher
TEACHERS = ("ViT-B-32", "ViT-B-16", "ViT-L-14")  # the last one is the baseline


def student_tower(name: str, files: Sequence[Path], embed_dim: int | None, hw: tuple[int, int] | None) -> Tower:
    """The student of a configuration, with random weights; hw None gives it Stage 2's frames (its map alone)."""
    config = load_config(Config, files)
    recipe = config.teacher.train
    student = build_student(config.student.model_copy(update={"init": "random"}), embed_dim or recipe.embed_dim)
    height, width = hw or config.stage2.input_hw
    return Tower(name, student, student if hw else student.feature_map, height, width)


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


def benchmark(args: argparse.Namespace) -> dict[str, object]:
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    with world_from_environment(args.device) as world:
        repeats = 1 if args.quick else args.repeats
        found = as_record(measure(towers(args.quick), repeats, world.device), repeats, world.device)
    found["settings"]["quick"] = args.quick
    baseline = found["towers"][-1]["name"]
    reached = found["latency_ratio"][baseline]
    print(f"{conditions(found)}, random weights\n{table(found)}")
    if not args.quick:
        verdict = "reached" if reached >= TARGET else "MISSED"
        print(f"{baseline} takes {reached:.1f}x the student's time (target {TARGET:.0f}x on the CPU: {verdict})")
    return {**found, "baseline": baseline, "target": TARGET, "ratios": ratios_of(found)}


def ratios_of(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The student against every tower that is no student."""
    student, *others = found["towers"]
    return [
        compared(f"a picture through the image tower: {student['name']} against {one['name']}", one["latency_ms"],
                 student["latency_ms"], "ms", found["latency_ratio"][one["name"]],
                 at_least=TARGET if one is others[-1] else None)
        for one in others if "student" not in one["name"]
    ]  # fmt: skip


def repeats_of(text: str) -> int:
    if int(text) < 10:
        raise argparse.ArgumentTypeError("a median needs at least 10 repeats")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--repeats", type=repeats_of, default=20, help="rounds, at least 10 (default: 20)")
    args = parse_options(parser, argv, quick="tiny towers, one round: it runs, and measures nothing")
    return run_benchmark(benchmark, args, OUT)


if __name__ == "__main__":
    sys.exit(main())
