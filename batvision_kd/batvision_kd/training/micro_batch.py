"""What one sample costs, and into how many passes a batch must be split to fit into memory.

The cost is measured on the model itself: one sample forward, counting what autograd keeps. A batch is then split only
if it does not fit; a split batch gives the same gradient but for two things, which is why it is said in the log: batch
norm takes its statistics from one pass, and a mean over valid pixels is a mean over those of its pass.
"""

import copy
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

MEMORY_SHARE = 0.6  # of what is free: the rest is for the loader, the optimizer's temporary copies, and other people
BACKWARD_FACTOR = 2.0  # gradients and workspace beside what autograd keeps
STEP_FACTOR = 3.0  # a training step takes about three forward passes
STATE_BYTES = 16  # of one float32 parameter with its gradient and two moments
UNITS = (("days", 86_400), ("hours", 3_600), ("minutes", 60), ("seconds", 1))
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Cost:
    """Of one sample in training. bytes: kept for the backward pass; seconds: of forward and backward together."""

    bytes: int
    seconds: float


def measure(model: nn.Module, example: Tensor) -> Cost:
    """The cost of one sample, example (1,C,H,W) on the model's device. Model and random generators stay as they are."""
    model = copy.deepcopy(model).train()
    sizes: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.random.fork_rng():
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(example)
        seconds = min(_forward_s(model, example) for _ in range(2))  # the first call above also prepares the kernels
    return Cost(sum(sizes.values()), seconds * STEP_FACTOR)


def _forward_s(model: nn.Module, example: Tensor) -> float:
    started = time.perf_counter()
    float(model(example).detach().mean())  # waits for the device
    return time.perf_counter() - started


def fitting(batch: int, cost: Cost, parameters: int, free_bytes: int) -> int:
    """The largest number of samples in a pass that splits `batch` evenly and fits, at least 1.

    batch: samples of one process in one step; parameters: numbers that are trained.
    """
    budget = MEMORY_SHARE * free_bytes - STATE_BYTES * parameters
    fits = max(1, int(budget // (BACKWARD_FACTOR * max(cost.bytes, 1))))
    passes = -(-batch // fits)
    return -(-batch // passes)


def free_memory(device: torch.device) -> int:
    """Bytes that may still be used on the device, a container's limit included."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return min(available, _container_free())


def _container_free() -> float:
    limit, used = (CGROUP / name for name in ("memory.max", "memory.current"))
    if not limit.is_file() or not used.is_file() or limit.read_text().strip() == "max":
        return float("inf")
    return int(limit.read_text()) - int(used.read_text())


def estimate(cost: Cost, samples: int, epochs: int) -> str:
    """A line that says how long so many samples and epochs will take at this cost."""
    seconds = cost.seconds * samples * epochs
    unit, size = next((unit, size) for unit, size in UNITS if seconds >= 1.5 * size or size == 1)
    pace = f"{epochs} epochs of {samples} samples at {cost.seconds:.2g} s each"
    return f"no GPU: {pace} take about {seconds / size:.0f} {unit}"
