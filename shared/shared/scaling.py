"""How time and memory of a piece of work grow with its size: measured, fitted with an exponent, judged and drawn.

    def prepare(points: int) -> Callable[[], object]: ...        # makes what the work needs; returns the work

    growths = [Growth("points to pillars", "points", (2_000, 6_000, 20_000, 60_000, 200_000), prepare)]
    rows = [measure(growth, rounds=5) for growth in growths]
    picture(rows, "pillars_rq").savefig(...)

A package's `benchmarks/scaling.py` lists its growths and hands them to `command`. The exponent p of y = c x^p is the
least-squares slope of log y on log x, beside its standard error; a constant cost bends the small sizes down, so the
slope over the largest three sizes stands beside it, and either may show that work grows faster than its method should.
Seconds are CPU times of the process with one thread: what else the machine does hardly counts.
"""

import argparse
import io
import math
import statistics
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from .benchmark import PACKAGES, parse_options, run_benchmark
from .peak_memory import Action, rise_bytes_apart
from .report import GRID, INK, LINES, MUTED
from .storage import make_folder, write_atomic

SHORTEST_S = 0.02  # of a timed stretch: shorter work is repeated
SMALLEST_BYTES = 4 << 20  # smaller rises drown in the allocator's pages and are not fitted
TAIL = 3  # sizes at the large end
SLACK = 0.15  # how far an exponent may lie above the expected one, besides twice its standard error
DOTS_PER_INCH = 72
SAME_LABEL = 1.3  # values closer than this factor share one
TITLE_LETTERS = 32  # of a line


@dataclass(frozen=True)
class Growth:
    """One way for the work to grow.

    what: the work, and what of it grows; unit: of `sizes`, which rise; prepare: size -> the work, ready to be called
    many times; time_power, memory_power: the exponents that the method should have; why: of exponents other than 1;
    operations: size -> what the method does, counted. Where these grow slower than the time, an operation takes longer
    at larger sizes: the machine's doing (caches), not the method's.
    """

    what: str
    unit: str
    sizes: Sequence[int]
    prepare: Callable[[int], Action]
    time_power: float = 1.0
    memory_power: float = 1.0
    why: str = ""
    operations: Callable[[int], int] | None = None


class Fit(NamedTuple):
    """The exponent of a power law and its standard error."""

    exponent: float
    error: float


def fitted(sizes: Sequence[float], values: Sequence[float]) -> Fit:
    """Least squares of log value on log size; ValueError for fewer than three pairs or any that is not above 0."""
    if len(sizes) != len(values) or len(sizes) < TAIL or min(*sizes, *values) <= 0:
        raise ValueError(f"an exponent needs three sizes with values above 0, got {list(sizes)} and {list(values)}")
    x, y = np.log(sizes), np.log(values)
    x, y = x - x.mean(), y - y.mean()
    slope = float(x @ y / (x @ x))
    return Fit(slope, math.sqrt(float(((y - slope * x) ** 2).sum()) / (len(x) - 2) / float(x @ x)))


def judged_fit(sizes: Sequence[float], values: Sequence[float], expected: float) -> dict[str, Any] | None:
    """The exponent as JSON data, over all sizes and over the largest; None when too few values can be fitted.

    above: whether either lies above the expected one by more than SLACK and twice its standard error.
    """
    kept = [(size, value) for size, value in zip(sizes, values, strict=True) if value > 0]
    if len(kept) < TAIL:
        return None
    fits = [fitted(*zip(*part, strict=True)) for part in (kept, kept[-TAIL:])]
    (whole, tail), above = fits, any(fit.exponent - 2 * fit.error > expected + SLACK for fit in fits)
    return {"exponent": round(whole.exponent, 3), "error": round(whole.error, 3),
            "largest_exponent": round(tail.exponent, 3), "largest_error": round(tail.error, 3),
            "expected": expected, "above": above}  # fmt: skip


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(growth: Growth, rounds: int) -> dict[str, Any]:
    """A growth's row of the record: median CPU seconds and rise of the peak memory at every size, and their fits."""
    smallest = growth.prepare(growth.sizes[0])
    smallest()  # what is loaded at its first use is no size's cost
    rises = [rise_bytes_apart(lambda size=size: _warmed(smallest, growth.prepare, size)) for size in growth.sizes]
    actions = [smallest, *map(growth.prepare, growth.sizes[1:])]
    seconds = [statistics.median(times) for times in zip(*timed_rounds(actions, rounds), strict=True)]
    seen = [rise if rise >= SMALLEST_BYTES else 0 for rise in rises]
    operations = _counted(growth, seconds) if growth.operations else None
    return {
        "what": growth.what,
        "unit": growth.unit,
        "why": f"{growth.why} ({operations['words']})" if operations else growth.why,
        "sizes": list(growth.sizes),
        "seconds": seconds,
        "peak_bytes": rises,
        "time": judged_fit(growth.sizes, seconds, growth.time_power),
        "memory": judged_fit(growth.sizes, seen, growth.memory_power),
        "operations": operations,
    }


def _counted(growth: Growth, seconds: Sequence[float]) -> dict[str, Any]:
    """How the operations grow, and what one of them takes at both ends."""
    counts = [growth.operations(size) for size in growth.sizes]
    fit = fitted(growth.sizes, counts)
    first, last = (1e9 * seconds[end] / counts[end] for end in (0, -1))
    words = f"exponent {fit.exponent:.2f}; {first:.2g} ns each at the smallest size, {last:.2g} at the largest"
    return {"counts": counts, "exponent": round(fit.exponent, 3), "words": words}


def _warmed(smallest: Action, prepare: Callable[[int], Action], size: int) -> Action:
    """The work, in a fork that has used its libraries: else their pages would come into its memory with the work."""
    smallest()
    return prepare(size)


def timed_rounds(actions: Sequence[Action], rounds: int) -> list[list[float]]:
    """CPU seconds of one call of every action, in each of the rounds, which go through all actions in turn."""
    repeats = [max(1, math.ceil(SHORTEST_S / max(cpu_seconds(action, 1), 1e-9))) for action in actions]
    return [[cpu_seconds(*one) for one in zip(actions, repeats, strict=True)] for _ in range(rounds)]


def cpu_seconds(action: Action, repeats: int) -> float:
    """Of one call, the mean over `repeats` calls."""
    started = time.process_time()
    for _ in range(repeats):
        action()
    return (time.process_time() - started) / repeats


def described(row: Mapping[str, Any]) -> str:
    """A row in words."""
    parts = [f"{row['what']}, {row['sizes'][0]:,} to {row['sizes'][-1]:,} {row['unit']}"]
    for name in ("time", "memory"):
        if (fit := row[name]) is None:
            parts.append(f"{name} too small to be seen")
            continue
        verdict = "ABOVE the expected" if fit["above"] else "expected at most"
        parts.append(f"{name} exponent {fit['exponent']:.2f} ± {fit['error']:.2f} (largest sizes "
                     f"{fit['largest_exponent']:.2f}; {verdict} {fit['expected']:g})")  # fmt: skip
    if row["operations"]:
        parts.append(row["why"])
    return "; ".join(parts)


# --- the picture ------------------------------------------------------------------------------------------------------


def picture(rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Time above memory, a column for each row, each with the line that was fitted.

    Both axes are logarithmic and the upright one spans as many decades at least: the diagonal is an exponent of 1.
    """
    figure = Figure(figsize=(2.6 * len(rows), 4.5), layout="constrained")
    panels = figure.subplots(2, len(rows), squeeze=False)
    for (upper, lower), row in zip(panels.T, rows, strict=True):
        _draw(upper, row, [1000 * value for value in row["seconds"]], row["time"], "CPU ms", LINES[0])
        _draw(lower, row, [value / 2**20 for value in row["peak_bytes"]], row["memory"], "peak MiB", LINES[1])
        title_lines = textwrap.fill(row["what"], TITLE_LETTERS)
        upper.set_title(title_lines, fontsize=8.5, color=INK, loc="left", parse_math=False)
        lower.set_xlabel(row["unit"], fontsize=8.5, color=MUTED)
    figure.suptitle(f"How {title} grows", fontsize=11, fontweight="bold", color=INK, parse_math=False)
    return figure


def _draw(panel: Any, row: Mapping[str, Any], values: Sequence[float], fit: Mapping[str, Any] | None, axis: str,
          colour: str) -> None:  # fmt: skip
    drawn = [(size, value) for size, value in zip(row["sizes"], values, strict=True) if value > 0]
    panel.set_ylabel(axis, fontsize=8.5, color=MUTED)
    panel.spines[:].set_visible(False)
    if not drawn:
        panel.set(xticks=[], yticks=[])
        panel.text(0.5, 0.5, "too small to be seen", ha="center", color=MUTED, fontsize=8, transform=panel.transAxes)
        return
    panel.loglog(*zip(*drawn, strict=True), "o", color=colour, markersize=4)
    if fit is not None:
        _draw_line(panel, drawn, fit, colour)
    _label_ends(panel, row["sizes"], [value for _, value in drawn])
    panel.tick_params(labelsize=8, colors=MUTED, length=0)
    panel.grid(color=GRID, linewidth=0.8)


def _draw_line(panel: Any, drawn: Sequence[tuple[float, float]], fit: Mapping[str, Any], colour: str) -> None:
    power = fit["exponent"]
    level = math.exp(statistics.fmean(math.log(value) - power * math.log(size) for size, value in drawn))
    ends = (drawn[0][0], drawn[-1][0])
    panel.plot(ends, [level * size**power for size in ends], color=colour, linewidth=1.2)
    panel.text(0.04, 0.96, f"exponent\n{power:.2f} ± {fit['error']:.2f}", color=INK, fontsize=8, va="top",
               transform=panel.transAxes, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip


def _label_ends(panel: Any, sizes: Sequence[float], values: Sequence[float]) -> None:
    """The upright axis with as many decades as the other and a little room; numbers at both ends of each."""
    middle = math.sqrt(min(values) * max(values))
    reach = 1.15 * math.sqrt(max(max(sizes) / min(sizes), max(values) / min(values)))
    panel.set_ylim(middle / reach, middle * reach)
    panel.minorticks_off()
    for set_ticks, numbers in ((panel.set_xticks, sizes), (panel.set_yticks, values)):
        low, high = min(numbers), max(numbers)
        ends = [low, high] if SAME_LABEL * low < high else [high]
        set_ticks(ends, [f"{number:,.0f}" if number >= 1000 else f"{number:.3g}" for number in ends])


def write_picture(path: Path, figure: Figure) -> None:
    """Save as PNG, whole or absent; StorageError when the file system refuses."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    write_atomic(make_folder(path.parent, path) / path.name, buffer.getvalue())
    print(f"wrote {path}")


# --- command line -----------------------------------------------------------------------------------------------------


def command(
    growths: Callable[[], Sequence[Growth]],
    script: Path,
    description: str | None,
    argv: Sequence[str] | None = None,
    packages: Sequence[str] = PACKAGES,
) -> int:
    """`<package>/benchmarks/scaling.py`: measure, print, and write results/scaling.json and docs/<package>_scaling.png.

    growths: made once the number of threads is set; script: the path of the calling file. The exit code.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds, all sizes in turn (default: 5)")
    parser.add_argument("--pictures", type=Path, help="folder of the plot (default: docs; quick or --out: none)")
    args = parse_options(parser, argv, quick="three small sizes, one round: it runs, and measures little")
    package, docs = script.parents[1].name, script.parents[2] / "docs"

    def benchmark(args: argparse.Namespace) -> dict[str, Any]:
        torch.set_num_threads(1)
        rows = []
        for growth in growths():
            rows.append(measure(shortened(growth), 1) if args.quick else measure(growth, args.rounds))
            print(described(rows[-1]), flush=True)
        folder = args.pictures or (None if args.quick or args.out else docs)
        if folder is not None:
            write_picture(folder / f"{package}_scaling.png", picture(rows, package))
        return {"growths": rows, "rounds": 1 if args.quick else args.rounds, "ratios": []}

    return run_benchmark(benchmark, args, script.parent / "results" / "scaling.json", packages)


def shortened(growth: Growth) -> Growth:
    """The same with its three smallest sizes."""
    return replace(growth, sizes=growth.sizes[:TAIL])
