"""The student's cross attention against one that writes its scores out; and a training step of student against teacher.

    python benchmarks/student_attention.py [--quick]

Memory: forward and backward of one level (x3, 64 x 64 tokens, 256 channels: base 64 at 256 px, one sample), as built
and with softmax(q k') v written out in the same block. Every measurement is a process of its own; what counts is how
far its peak resident memory rises above what it had before the step (ru_maxrss: what kernels allocate counts too).
Target: a quarter at most, for `mha` and for `reference`.

Time: a training step (forward, L1, backward, AdamW) of the default student and of the teacher at equal base channels,
on noise, rounds alternating, in seconds of CPU time with one thread: what else the machine does hardly counts. Target:
1.8 times the teacher's at most.
"""

# B batch, K heads, N tokens, d channels of a head.

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from batvision_kd.losses import task_losses
from batvision_kd.models import attention, create_binaural_attention_model, create_rgb_depth_model
from shared.benchmark import compared, median_ratio, parse_options, run_benchmark

OUT = Path(__file__).parent / "results" / "student_attention.json"
KINDS = ("mha", "reference")
MEMORY_TARGET, STEP_TARGET = 0.25, 1.8
LEVEL_CHANNELS, LEVEL_SIDE = 256, 64  # x3 of base 64 at 256 px
STEPS = ((16, 128, 8), (32, 128, 8), (16, 64, 16))  # base channels, side in px, batch
QUICK_STEPS = ((8, 32, 2),)


def written_out(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The baseline: (B,K,N,d_k), (B,K,N,d_k), (B,K,N,d_v) -> (B,K,N,d_v), with its (B,K,N,N) scores in memory."""
    return (query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])).softmax(-1) @ value


def rise_mib(kind: str, way: str, channels: int, side: int) -> float:
    """How far one forward and backward raises this process's peak memory; `way` is "ours" or "written_out"."""
    if way == "written_out":
        attention.attend = written_out
    torch.manual_seed(0)
    module = attention.CrossAttention(channels, kind, heads=8, dense=True)
    warm = [torch.randn(1, channels, 8, 8, requires_grad=True) for _ in range(2)]
    sum(x.sum() for x in module(*warm)).backward()  # libraries are loaded, gradients exist
    maps = [torch.randn(1, channels, side, side, requires_grad=True) for _ in range(2)]
    before = peak_mib()
    sum(x.sum() for x in module(*maps)).backward()
    return peak_mib() - before


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux


def measured_apart(kind: str, way: str, channels: int, side: int) -> float:
    """`rise_mib` in a process of its own."""
    asked = ["--child", kind, way, str(channels), str(side)]
    found = subprocess.run([sys.executable, __file__, *asked], capture_output=True, text=True, check=True)
    return float(json.loads(found.stdout))


def memory(channels: int, side: int) -> dict[str, dict[str, float | None]]:
    """{kind: {"ours_mib", "written_out_mib", "share"}}; share None where the baseline is too small to be seen."""
    found = {}
    for kind in KINDS:
        ours, baseline = (measured_apart(kind, way, channels, side) for way in ("ours", "written_out"))
        found[kind] = {"ours_mib": round(ours, 1), "written_out_mib": round(baseline, 1),
                       "share": round(ours / baseline, 3) if baseline else None}  # fmt: skip
    return found


class Training:
    """One model and what a step of it needs."""

    def __init__(self, model: nn.Module, channels: int, side: int, batch: int):
        self.model = model.train()
        self.optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)  # as training does
        self.input = torch.rand(batch, channels, side, side)
        self.depth = torch.rand(batch, 1, side, side) * 5 + 0.5
        self.valid = torch.rand(batch, 1, side, side) < 0.78

    def step_s(self) -> float:
        """Seconds of CPU time of one step."""
        started = time.process_time()
        self.optimizer.zero_grad()
        task_losses(self.model(self.input), self.depth, self.valid)["l1"].backward()
        self.optimizer.step()
        return time.process_time() - started


def step_times(base: int, side: int, batch: int, rounds: int) -> dict:
    """Seconds of each round for both models, and the ratio student to teacher (median over rounds)."""
    torch.manual_seed(0)
    models = {"teacher": Training(create_rgb_depth_model(base, output_size=None), 3, side, batch),
              "student": Training(create_binaural_attention_model(base, output_size=None), 2, side, batch)}  # fmt: skip
    times = {name: [] for name in models}
    for _ in range(rounds + 1):
        for name, training in models.items():
            times[name].append(training.step_s())
    times = {name: values[1:] for name, values in times.items()}  # the first round warms up
    return {
        "base_channels": base,
        "side_px": side,
        "batch": batch,
        "step_s": {name: [round(value, 4) for value in values] for name, values in times.items()},
        "ratio": median_ratio(times["student"], times["teacher"]),
    }


def benchmark(args: argparse.Namespace) -> dict[str, object]:
    torch.set_num_threads(args.threads)
    size = (16, 16) if args.quick else (LEVEL_CHANNELS, LEVEL_SIDE)
    found = {"memory": memory(*size), "memory_target": MEMORY_TARGET, "threads": args.threads}
    show_memory(found["memory"])
    found["step_target"] = STEP_TARGET
    found["steps"] = [step_times(*size, args.rounds) for size in (QUICK_STEPS if args.quick else STEPS)]
    for row in found["steps"]:
        show_step(row)
    return {**found, "ratios": ratios_of(found)}


def ratios_of(found: dict) -> list[dict[str, object]]:
    """Both kinds' memory, and the step at every size; a memory too small to be seen has no row."""
    memory = [
        compared(f"memory of `{kind}`: streamed against its scores written out", row["written_out_mib"],
                 row["ours_mib"], "MiB", row["share"], at_most=MEMORY_TARGET)
        for kind, row in found["memory"].items() if row["share"] is not None
    ]  # fmt: skip
    steps = [
        compared(f"a training step, base {row['base_channels']} at {row['side_px']} px: student against teacher",
                 *(statistics.median(row["step_s"][name]) for name in ("teacher", "student")), "CPU s", row["ratio"],
                 at_most=STEP_TARGET)
        for row in found["steps"]
    ]  # fmt: skip
    return memory + steps


def show_memory(kinds: dict[str, dict[str, float | None]]) -> None:
    for kind, row in kinds.items():
        print(f"{kind:10s} rises {row['ours_mib']:.0f} MiB, scores written out {row['written_out_mib']:.0f} MiB: "
              f"{verdict(row['share'], MEMORY_TARGET)}")  # fmt: skip


def show_step(row: dict) -> None:
    teacher, student = (statistics.median(row["step_s"][name]) for name in ("teacher", "student"))
    print(f"base {row['base_channels']} at {row['side_px']} px, batch {row['batch']}: teacher {1000 * teacher:.0f} ms, "
          f"student {1000 * student:.0f} ms: {verdict(row['ratio'], STEP_TARGET)}")  # fmt: skip


def verdict(found: float | None, target: float) -> str:
    if found is None:
        return "too small to measure"
    return f"{found:.2f} (target {target}: {'reached' if found <= target else 'MISSED'})"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads (default: 1; with more, waiting counts too)"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", nargs=4, metavar=("KIND", "WAY", "CHANNELS", "SIDE"), help=argparse.SUPPRESS)
    args = parse_options(parser, argv, quick="tiny sizes, one round: it runs, and measures nothing")
    if args.child:
        kind, way, channels, side = args.child
        torch.set_num_threads(1)
        print(json.dumps(rise_mib(kind, way, int(channels), int(side))))
        return 0
    args.rounds = 1 if args.quick else args.rounds
    return run_benchmark(benchmark, args, OUT, ("torch", "numpy"))


if __name__ == "__main__":
    sys.exit(main())
