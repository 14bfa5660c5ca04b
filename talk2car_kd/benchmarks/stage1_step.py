"""A step of Stage 1 with the teacher's embeddings from the cache, against the teacher computed at every step.

    python benchmarks/stage1_step.py [--device cuda] [--batch 16]

The same batch, the same student, the same training.train_epoch; only `targets` differs: CachedTargets reads a table,
OnlineTargets runs the frozen teacher, sized as ViT-B/32 at 224, with random weights (time does not depend on them). The
batch lies in memory: what the loader would spend on the online way's second picture of every crop is left out, which
favours the baseline. Rounds alternate; the ratio is the median over rounds.

Target: 1.4x with the embedded preset's student. ConvNeXt-Tiny's own step is so heavy that no more than 1.33x can come
out; its ratio is printed without a target.
"""

# N regions of the batch, S image side, T texts, D embedding dimension.

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import open_clip
import torch

from shared.benchmark import compared, median_ratio, parse_options, run_benchmark
from shared.config import load_config
from shared.optim import lr_groups, optimizer_step
from shared.run import World, world_from_environment
from talk2car_kd import embedded_teacher
from talk2car_kd.config import DEFAULT, EMBEDDED, Config, TeacherTraining
from talk2car_kd.losses import DistillationLosses
from talk2car_kd.student import build_student, parameter_count
from talk2car_kd.teacher import Teacher, load_teacher
from talk2car_kd.teacher_cache import CachedTargets, OnlineTargets
from talk2car_kd.training import train_epoch

OUT = Path(__file__).parent / "results" / "stage1_step.json"
TARGETS = {"embedded preset": 1.4, "ConvNeXt-Tiny": None}  # by student; None: printed without a target
PRESETS = {"embedded preset": [DEFAULT, EMBEDDED], "ConvNeXt-Tiny": [DEFAULT]}
TEXTS = ("a small car", "a large red truck", "a pedestrian", "a bicycle on the left")
TINY_TEACHER = {"image_tower": "test_convnext", "embed_dim": 16, "text_width": 16, "text_layers": 1, "text_heads": 2,
                "image_size": 32, "epochs": 1, "batch_size": 2, "lr": 1e-3, "weight_decay": 0.0}  # fmt: skip


class OneBatch:
    """Stands for shared.loop.Loop: gives train_epoch one batch and takes one optimizer step, without a run's folder."""

    def __init__(self, batch: dict, student, criterion, config: Config, world: World):
        self.batch, self.student, self.world, self.weights = batch, student, world, criterion.weights
        groups = lr_groups(student, config.stage1.lr, {}, weight_decay=config.stage1.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, betas=config.stage1.betas)
        self.clip = config.stage1.clip_grad

    def batches(self, loader) -> Iterator[dict]:
        yield self.batch

    def step(self, terms, *, ids, count) -> None:
        loss = sum(self.weights[name] * term for name, term in terms.items())
        optimizer_step(loss, self.student, self.optimizer, clip=self.clip, world=self.world, step=1, terms=terms,
                       sample_ids=ids)  # fmt: skip

    def close_epoch(self) -> dict[str, float]:
        return {}


def vit_b_32(device: torch.device) -> Teacher:
    """A teacher of ViT-B/32's size with random weights: only its time is of interest here."""
    model = open_clip.create_model("ViT-B-32", load_weights=False)
    return Teacher(model, open_clip.get_tokenizer("ViT-B-32"), "ViT-B-32, random weights", device)


def tiny_teacher(device: torch.device) -> Teacher:
    """For --quick: the embedded world's kind of teacher, as small as it goes."""
    recipe = TeacherTraining(**TINY_TEACHER)
    with tempfile.TemporaryDirectory() as folder:
        embedded_teacher.save_folder(embedded_teacher.new_model(recipe), recipe, Path(folder))
        config = load_config(Config, [DEFAULT, EMBEDDED]).teacher
        return load_teacher(config.model_copy(update={"pretrained": f"local-dir:{folder}"}), device)


def random_batch(size: int, image_size: int, teacher: Teacher) -> dict:
    """What Stage 1's loader gives, from noise: the step's time does not depend on the pixels."""
    return {
        "image": torch.randn(size, 3, image_size, image_size),
        "teacher_image": torch.randn(size, 3, teacher.image_size, teacher.image_size),
        "text_id": torch.arange(size) % len(TEXTS),
        "index": torch.arange(size),
        "view": torch.zeros(size, dtype=torch.long),
    }


def step_times_ms(config: Config, teacher: Teacher, size: int, rounds: int, world: World) -> dict[str, list[float]]:
    """Wall-clock milliseconds of a step in every round, cached and online by turns; the first round warms up."""
    student = build_student(config.student.model_copy(update={"init": "random"}), teacher.embed_dim).to(world.device)
    weights = config.stage1.loss.resolved(teacher.embed_dim)
    criterion = DistillationLosses(weights, config.stage1.loss.temperature).to(world.device)
    batch = random_batch(size, config.stage1.image_size, teacher)
    table = teacher.encode_images(batch["teacher_image"])[None].cpu().half()
    ways = {"cached": CachedTargets(table, world.device), "online": OnlineTargets(teacher)}
    text_emb = teacher.encode_texts(list(TEXTS))
    loop = OneBatch(batch, student, criterion, config, world)
    wait = torch.cuda.synchronize if world.device.type == "cuda" else lambda: None
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, targets in ways.items():
            wait()
            started = time.perf_counter()
            train_epoch(student, None, targets, text_emb, teacher.scale, criterion, loop)
            wait()
            times[name].append(1000 * (time.perf_counter() - started))
    return {name: values[1:] for name, values in times.items()}


def measure(name: str, teacher: Teacher, size: int, rounds: int, world: World, overrides: Sequence[str] = ()) -> dict:
    """One student: its step both ways, the ratio, and what it was."""
    config = load_config(Config, PRESETS[name], overrides)
    times = step_times_ms(config, teacher, size, rounds, world)
    student = build_student(config.student.model_copy(update={"init": "random"}), teacher.embed_dim)
    return {
        "backbone": config.student.backbone,
        "parameters": parameter_count(student),
        "image_size": config.stage1.image_size,
        "ms": {way: [round(value, 2) for value in values] for way, values in times.items()},
        "ratio": median_ratio(times["online"], times["cached"]),
        "target": TARGETS[name],
    }


def benchmark(args: argparse.Namespace) -> dict[str, object]:
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    with world_from_environment(args.device) as world:
        teacher = (tiny_teacher if args.quick else vit_b_32)(world.device)
        size, rounds = (4, 1) if args.quick else (args.batch, args.rounds)
        names = ["embedded preset"] if args.quick else list(PRESETS)
        small = ["stage1.image_size=32"] if args.quick else []
        students = {name: measure(name, teacher, size, rounds, world, small) for name in names}
        device = torch.cuda.get_device_name() if world.device.type == "cuda" else f"CPU, {args.threads} threads"
    show(students, f"{device}, batch {size}, fp32, teacher {teacher.name} at {teacher.image_size}", quick=args.quick)
    settings = {"device": device, "batch": size, "rounds": rounds, "precision": "fp32", "teacher": teacher.name,
                "teacher_image_size": teacher.image_size, "quick": args.quick}  # fmt: skip
    return {"settings": settings, "students": students, "ratios": ratios_of(students)}


def ratios_of(students: dict[str, dict]) -> list[dict]:
    return [
        compared(f"a Stage 1 step, {name}: cached targets against the teacher at every step",
                 statistics.median(found["ms"]["online"]), statistics.median(found["ms"]["cached"]), "ms",
                 found["ratio"], at_least=found["target"])
        for name, found in students.items()
    ]  # fmt: skip


def show(students: dict[str, dict], heading: str, *, quick: bool) -> None:
    print(heading)
    for name, found in students.items():
        cached, online = (sorted(found["ms"][way])[len(found["ms"][way]) // 2] for way in ("cached", "online"))
        print(f"{name:16s} {found['backbone']} at {found['image_size']}: "
              f"online {online:.0f} ms, cached {cached:.0f} ms, "
              f"{found['ratio']:.2f}x{verdict(found, quick)}")  # fmt: skip


def verdict(found: dict, quick: bool) -> str:
    if quick or found["target"] is None:
        return "" if not quick else " (quick: no measurement)"
    return f" (target {found['target']}x: {'reached' if found['ratio'] >= found['target'] else 'MISSED'})"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--batch", type=int, default=16, help="regions a step (default: 16)")
    parser.add_argument("--rounds", type=int, default=5)
    args = parse_options(parser, argv, quick="tiny teacher, one round: it runs, and measures nothing")
    return run_benchmark(benchmark, args, OUT)


if __name__ == "__main__":
    sys.exit(main())
