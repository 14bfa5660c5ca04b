"""What every entry script starts with: device, processes, seeds, signals, the run's folder, batches.

    def body() -> int:
        with world_from_environment(config.device) as world:
            seed_everything(config.seed)
            with RunFolder.open("results", name=..., stages=("1", "2"), world=world, ...) as run:
                ...
        return 0

    sys.exit(run_command(body))

`python x.py` and `torchrun --nproc-per-node N x.py` take the same path; a world of one needs no process group.
"""

import contextlib
import gc
import os
import random
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from .allocator import keep_freed_memory
from .errors import ConfigError, NonFiniteError, UserError
from .folder import RunFolder
from .loader import WaitClock, iterate, make_loader
from .signals import Interrupted, Signals, check, deferred, stop, stop_requested
from .storage import NO_SPACE

__all__ = [
    "Interrupted",
    "RunFolder",
    "Signals",
    "WaitClock",
    "World",
    "announce",
    "check",
    "deferred",
    "format_line",
    "iterate",
    "make_loader",
    "run_command",
    "sample_rng",
    "seed_everything",
    "stop",
    "stop_requested",
    "world_from_environment",
]


# ---------------------------------------------------------------- processes


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them. Every method is collective; with one process it costs nothing."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among the processes of this machine
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Elementwise sum over the processes; the argument is left as it is."""
        if self.size == 1:
            return tensor
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process."""
        if self.size == 1:
            return bool(flag)
        return bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0)

    def gather(self, value: Any) -> list[Any]:
        """Every process's value (anything that pickles), by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any) -> Any:
        """The main process's value."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


# Kept until the interpreter ends. DistributedDataParallel's reducer holds the group too, and one that outlives it would
# destroy it with the interpreter's lock held, while gloo's thread waits for that lock: the process would never end.
_GROUPS: list[dist.ProcessGroup] = []


@contextlib.contextmanager
def world_from_environment(device: str = "auto", *, timeout_s: float = 600) -> Iterator[World]:
    """The world that torchrun's variables describe, else a world of one.

    Args:
        device: "auto" (CUDA when there is one), "cpu", "cuda" or "cuda:N"; under torchrun a GPU per local rank.
        timeout_s: how long a process waits for the others before it gives up.

    Raises:
        UserError: incomplete variables, or a device that is not there.
    """
    rank, size, local_rank = _torchrun_numbers()
    world = World(rank, size, local_rank, _pick_device(device, local_rank, size))
    if world.device.type == "cpu":
        keep_freed_memory()
    if size == 1:
        yield world
        return
    backend = "cpu:gloo,cuda:nccl" if world.device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    try:
        yield world
    except BaseException as error:
        # The others wait for this process: closing its connections ends them at once. NCCL would wait here for work
        # that never finishes; its connections close when this process ends.
        if world.device.type != "cuda":
            _forget_frames(error)
            dist.destroy_process_group()
        raise
    _GROUPS.append(dist.group.WORLD)
    dist.destroy_process_group()


def _forget_frames(error: BaseException | None) -> None:
    """Free what the functions that an error has left still hold: of a model's reducer and its group, the group must be
    the last to go (see _GROUPS). Where the error arose stays known."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    gc.collect()


def _torchrun_numbers() -> tuple[int, int, int]:
    if "WORLD_SIZE" not in os.environ:
        return 0, 1, 0
    try:
        rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    except (KeyError, ValueError) as error:
        raise UserError(
            f"WORLD_SIZE is set but RANK, WORLD_SIZE and LOCAL_RANK are not all numbers ({error}): "
            "start several processes with torchrun, or unset WORLD_SIZE for one."
        ) from error
    return rank, size, local_rank


def _pick_device(name: str, local_rank: int, size: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is not a device; use auto, cpu, cuda or cuda:N.") from error
    if device.type != "cuda":
        return device
    index = local_rank if size > 1 else device.index or 0
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        raise ConfigError(
            f"device cuda:{index} is not there ({count} CUDA devices found); use cpu, or fewer processes."
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


# ---------------------------------------------------------------- randomness


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's (all devices) global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries draw from it
    torch.manual_seed(seed)


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator of one sample in one epoch: the same whichever process draws it, and in whatever order."""
    return np.random.default_rng(np.random.SeedSequence((seed, epoch, index)))


# ---------------------------------------------------------------- commands


_announced: set[str] = set()  # by the command that runs


def announce(banner: str) -> None:
    """Print it, unless this command has: a comparison of many trainings says once that its data are embedded."""
    if banner not in _announced:
        _announced.add(banner)
        print(banner, flush=True)


def run_command(body: Callable[[], int | None]) -> int:
    """Run an entry script's body and turn its end into an exit code.

    0 or the body's own; 2 a mistake of the user's (message, no traceback); 1 non-finite numbers or a full disk; 143
    SIGTERM; 130 SIGINT. Anything else is a defect and propagates with its traceback.
    """
    _announced.clear()
    try:
        with Signals():
            return body() or 0
    except UserError as error:
        return _fail(error, 2)
    except NonFiniteError as error:
        return _fail(error, 1)
    except Interrupted as error:
        _tell(f"{error}; the same command continues")
        return error.exit_code
    except KeyboardInterrupt:
        _tell("interrupted by SIGINT; the same command continues")
        return 130
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        return _fail(error, 1)


def _fail(error: Exception, exit_code: int) -> int:
    _tell(f"error: {error}")
    return exit_code


def _tell(message: str) -> None:
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    rank = f"[rank {os.environ.get('RANK', '?')}] " if several else ""  # the message may be that RANK is missing
    print(f"{rank}{message}", file=sys.stderr, flush=True)


def format_line(
    epoch: int,
    step: int,
    total: int,
    terms: Mapping[str, float],
    lrs: Sequence[float],
    samples_per_s: float,
    wait_share: float,
    eta_s: float,
) -> str:
    """One console line of training progress."""
    losses = "  ".join(f"{name} {value:.4g}" for name, value in terms.items())
    rates = "/".join(f"{lr:.2g}" for lr in lrs)
    eta = timedelta(seconds=round(eta_s))
    return (
        f"epoch {epoch}  step {step}/{total}  {losses}  lr {rates}  "
        f"{samples_per_s:.1f} samples/s  data wait {100 * wait_share:.0f} %  ETA {eta}"
    )
