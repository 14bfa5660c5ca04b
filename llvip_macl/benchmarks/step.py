"""What a second stream, its checkpointing, and MACL with DHN cost: training steps and saved activations, in one run.

    python benchmarks/step.py --size r50          # R50-FPN, 512x640, batch 2, queue 8192: some minutes a round on a CPU
    python benchmarks/step.py --size demo         # R18, 128x160, batch 4, queue 512: seconds a round
    python benchmarks/step.py --size r50 --activations    # the saved activations alone, under a minute

A step is forward, losses, backward, DHN's enqueueing and the optimizer's step (plain SGD), on one synthetic batch with
three persons a pair; the variants take turns within every round, under the same seed, and ratios are medians over the
rounds. Times are CPU times of the process, so that what else runs on the machine counts less. Saved activations are the
bytes that autograd keeps between forward and backward, parameters left out, every storage once.

    single        visible stream alone
    two           both streams, separate backbones, fused by addition, without MACL
    checkpointed  the same, the infrared stream computed again in backward
    full          `two` with MACL and DHN, its queue full

Targets: two / single <= 1.9 (time) and 2.15 (activations), checkpointed / single <= 1.7 (activations), (full - two) /
full <= 5 %.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llvip_macl.inference import build_model, model_config
from llvip_macl.self_checks import PACKAGE_ROOT, synthetic_batch
from shared.benchmark import compared, judged, parse_options, run_benchmark

RESULTS = Path(__file__).parent / "results"
CONFIGS = {"r50": "configs/llvip/stage2_kaist_domain_ft_nodomain.py", "demo": "configs/embedded/stage2.py"}
SIZES = {"r50": ((512, 640), 2), "demo": ((128, 160), 4)}  # pixels, pairs
PLAIN = ["macl_head=None", "model.roi_head.dhn=None"]
VARIANTS = {
    "single": ["model.modality=vis", *PLAIN],
    "two": PLAIN,
    "checkpointed": ["model.checkpoint_ir=True", *PLAIN],
    "full": [],
}
TARGETS = {"two_over_single": 1.9, "activations_two": 2.15, "activations_checkpointed": 1.7, "macl_dhn_share": 0.05}
PACKAGES = ("torch", "onedl-mmdetection", "onedl-mmcv", "onedl-mmengine")


def build(size: str, variant: str) -> nn.Module:
    """A variant in training mode, weights of one seed; a queue is full of random keys."""
    model = build_model(model_config(str(PACKAGE_ROOT / CONFIGS[size]), VARIANTS[variant])).train()
    dhn = getattr(model.roi_head, "dhn", None)
    if dhn is not None:
        keys = nn.functional.normalize(
            torch.randn(2, *dhn.queue_vis.shape, generator=torch.Generator().manual_seed(0)), dim=2
        )
        dhn.enqueue(keys[0], keys[1], torch.arange(len(dhn.images)) + 1_000_000)  # of other images
    return model


def losses_of(model: nn.Module, batch: Mapping[str, Any], seed: int) -> Tensor:
    """The forward half of a step: the total loss."""
    torch.manual_seed(seed)
    data = model.data_preprocessor(dict(batch), True)
    return model.parse_losses(model(**data, mode="loss"))[0]


def timed_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Mapping[str, Any], seed: int) -> tuple:
    """(CPU seconds, wall seconds) of one step."""
    cpu, wall = time.process_time(), time.perf_counter()
    optimizer.zero_grad()
    losses_of(model, batch, seed).backward()
    model.after_backward()
    optimizer.step()
    return time.process_time() - cpu, time.perf_counter() - wall


def saved_bytes(model: nn.Module, batch: Mapping[str, Any]) -> int:
    """Bytes that autograd keeps for backward, every storage once, without parameters and buffers."""
    own = {value.untyped_storage().data_ptr() for value in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses_of(model, batch, 0)
    return sum(kept.values())


def rounds_of(models: Mapping[str, nn.Module], batch: Mapping[str, Any], rounds: int) -> dict[str, list[tuple]]:
    """(CPU, wall) seconds of every variant in every round; one round before is not counted."""
    optimizers = {name: torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-5)
                  for name, model in models.items()}  # fmt: skip
    times: dict[str, list[tuple]] = {name: [] for name in models}
    for number in range(rounds + 1):
        for name, model in models.items():
            spent = timed_step(model, optimizers[name], batch, number)
            if number:
                times[name].append(spent)
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    return times


def figures(times: Mapping[str, list[tuple]], saved: Mapping[str, int]) -> dict[str, float]:
    """The ratios that have targets, and two for information; those of times where steps were timed."""
    found = {f"activations_{name}": saved[name] / saved["single"] for name in ("two", "checkpointed", "full")}
    if not times:
        return found
    cpu = {name: [one[0] for one in rounds] for name, rounds in times.items()}

    def ratio(a: str, b: str) -> float:
        return statistics.median(x / y for x, y in zip(cpu[a], cpu[b], strict=True))

    share = statistics.median((x - y) / x for x, y in zip(cpu["full"], cpu["two"], strict=True))
    return {
        "two_over_single": ratio("two", "single"),
        "checkpointed_over_two": ratio("checkpointed", "two"),
        **found,
        "macl_dhn_share": share,
    }


def benchmark(args: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(args.threads)
    size_hw, pairs = SIZES[args.size]
    batch = synthetic_batch(pairs, size_hw)
    models = {name: build(args.size, name) for name in VARIANTS}
    saved = {name: saved_bytes(model, batch) for name, model in models.items()}
    rounds = 1 if args.quick else args.rounds
    times = {} if args.activations else rounds_of(models, batch, rounds)
    found = figures(times, saved)
    for name, value in found.items():
        target = TARGETS.get(name)
        words = "" if target is None else f"  (target <= {target}: {judged(value <= target, quick=args.quick)})"
        print(f"{name:<26}{value:8.3f}{words}")
    medians = {name: round(statistics.median(one[0] for one in rounds), 3) for name, rounds in times.items()}
    print(f"CPU seconds a step: {medians}; saved MB: { {name: round(v / 1e6, 1) for name, v in saved.items()} }")
    return {"size": args.size, "pixels_hw": size_hw, "pairs": pairs, "rounds": rounds, "figures": found,
            "targets": TARGETS, "saved_bytes": saved, "median_cpu_s": medians, "cpu_wall_s": times,
            "ratios": ratios_of(found, saved, medians, args.size)}  # fmt: skip


def ratios_of(
    found: Mapping[str, float], saved: Mapping[str, int], cpu_s: Mapping[str, float], size: str
) -> list[dict[str, Any]]:
    """The figures that have targets, with what they are made of; MACL's and DHN's part is of the step that has them."""
    megabytes = {name: value / 1e6 for name, value in saved.items()}
    parts = {
        "two_over_single": ("a training step: both streams against one", cpu_s, "single", "two", "CPU s"),
        "activations_two": ("saved activations: both streams against one", megabytes, "single", "two", "MB"),
        "activations_checkpointed": ("saved activations: both streams, one checkpointed, against one", megabytes,
                                     "single", "checkpointed", "MB"),
    }  # fmt: skip
    rows = [compared(f"{what}, {size}", of[baseline], of[ours], unit, found[name], at_most=TARGETS[name])
            for name, (what, of, baseline, ours, unit) in parts.items() if name in found]  # fmt: skip
    if cpu_s:
        rows.append(compared(f"MACL and DHN's part of a whole training step, {size}", cpu_s["full"],
                             cpu_s["full"] - cpu_s["two"], "CPU s", found["macl_dhn_share"],
                             at_most=TARGETS["macl_dhn_share"]))  # fmt: skip
    return rows


def count(text: str) -> int:
    """A positive whole number from the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: 1 or more")
    return number


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="demo", help="(default: demo)")
    parser.add_argument("--rounds", type=count, default=10, help="counted rounds (default: 10)")
    parser.add_argument("--threads", type=count, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--activations", action="store_true", help="count saved activations and time nothing")
    args = parse_options(parser, argv, quick="one round: it runs, and measures little")
    name = f"{'activations' if args.activations else 'step'}_{args.size}.json"
    return run_benchmark(benchmark, args, RESULTS / name, PACKAGES)


if __name__ == "__main__":
    sys.exit(main())
