"""Image towers side by side: latency, parameters and GMACs, all measured in one run.

Batch 1, fp32, eval mode, random pixels. Rounds go through all towers in turn, so that a slow moment of the machine
meets all of them; a tower's latency is its median. GMACs are torch.utils.flop_counter's operations halved: matrix
products and convolutions. Latency does not depend on the weights' values, so the towers it is compared with are built
with random ones and nothing is fetched.

    rows = measure([*student_towers(encoder, (448, 800)), clip_tower("ViT-L-14")], rounds=10)
    print(table(as_record(rows, rounds=10)))
"""

# H, W height and width of the picture in pixels.

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import open_clip
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from shared.errors import ConfigError

from .student import parameter_count

STUDENT = "student 224"  # the first tower of a table: the others' times are told in its
WARM_UP = 3  # rounds that are not counted


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


def student_towers(encoder: nn.Module, frame_hw: Sequence[int]) -> list[Tower]:
    """A student as Stage 1 calls it (a vector of a 224 picture) and as Stage 2 does (the map of a whole frame)."""
    height, width = frame_hw
    whole = Tower(f"student {height}x{width}", encoder, encoder.feature_map, height, width)
    return [Tower(STUDENT, encoder, encoder, 224, 224), whole]


def check_names(names: Sequence[str]) -> None:
    """ConfigError for a name that open_clip does not know."""
    for name in names:
        if name not in open_clip.list_models():
            raise ConfigError(f"export.image_towers: open_clip knows no model {name!r}; see open_clip.list_models()")


def clip_tower(name: str) -> Tower:
    """The image tower of an open_clip model, with random weights."""
    tower = open_clip.create_model(name, load_weights=False).visual
    size = tower.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return Tower(f"{name} {height}", tower, tower, height, width)


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
def latencies_ms(towers: Sequence[Tower], rounds: int, device: torch.device) -> list[list[float]]:
    """Wall-clock milliseconds of every tower in every round, after the warm-up."""
    pixels = [torch.rand(1, 3, tower.height, tower.width, device=device) for tower in towers]
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times: list[list[float]] = [[] for _ in towers]
    for _ in range(WARM_UP + rounds):
        for tower, image, row in zip(towers, pixels, times, strict=True):
            wait()
            started = time.perf_counter()
            tower.call(image)
            wait()
            row.append(1000 * (time.perf_counter() - started))
    return [row[WARM_UP:] for row in times]


def measure(towers: Sequence[Tower], rounds: int, device: torch.device | str = "cpu") -> list[Row]:
    """A row for each tower; the towers end up on `device`, in eval mode."""
    for tower in towers:
        tower.module.eval()
    counted, device = [gmacs(tower) for tower in towers], torch.device(device)
    for tower in towers:
        tower.module.to(device)
    rows = []
    for tower, macs, times in zip(towers, counted, latencies_ms(towers, rounds, device), strict=True):
        ms = [round(value, 3) for value in (statistics.median(times), min(times), max(times))]
        rows.append(Row(tower.name, tower.height, tower.width, parameter_count(tower.module), round(macs, 5), *ms))
    return rows


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """How many times as long as the first tower every tower takes."""
    return {row.name: round(row.latency_ms / rows[0].latency_ms, 2) for row in rows}


def as_record(rows: Sequence[Row], rounds: int, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The rows as JSON data, with the conditions that they hold under."""
    device = torch.device(device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    settings = {"device": name, "batch": 1, "precision": "fp32", "repeats": rounds, "warm_up": WARM_UP,
                "weights": "random"}  # fmt: skip
    return {"settings": settings, "towers": [asdict(row) for row in rows], "latency_ratio": ratios(rows)}


def conditions(record: Mapping[str, Any]) -> str:
    """The settings of a record in one line."""
    s = record["settings"]
    return f"{s['device']}, batch {s['batch']}, {s['precision']}, median of {s['repeats']} after {s['warm_up']}"


HEADERS = ("image tower", "input", "params M", "GMACs", "ms", "x student")


def cells(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The table of a record as text, in the order of HEADERS."""
    return [
        (row["name"], f"{row['height']}x{row['width']}", f"{row['parameters'] / 1e6:.2f}", f"{row['gmacs']:.2f}",
         f"{row['latency_ms']:.1f}", f"{record['latency_ratio'][row['name']]:.2f}")
        for row in record["towers"]
    ]  # fmt: skip


def table(record: Mapping[str, Any]) -> str:
    """The same with aligned columns."""
    rows = [HEADERS, *cells(record)]
    return "\n".join(f"{name:32s}" + "".join(f"{cell:>11s}" for cell in rest) for name, *rest in rows)
