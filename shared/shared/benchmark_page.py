"""docs/benchmarks.md: every package's ratios, missed targets first, from the records of its benchmarks.

    python -m shared.benchmark_page [--out docs/benchmarks.md] [FILES...]

FILES are records, <package>/benchmarks/results/*.json; without any, all of the workspace. A record is a benchmark's
when the command in it is a script of the `benchmarks` folder; other files there are evidence of experiments and demos,
which the page links. A script whose record is missing, was a quick run, or is older than the list `ratios` (see
`benchmark.compared`) is listed as to be run again: it claims nothing until then. The same files give the same page.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .json_files import damage_named, read_json
from .machine import WORKSPACE
from .run import run_command
from .storage import write_atomic

OUT = WORKSPACE / "docs" / "benchmarks.md"
NO_MEASUREMENT = "pictures.py"  # the script of a package that measures nothing
NO_VALUE = "–"
HEADERS = ("ratio", "target", "what", "baseline", "ours", "hardware", "commit", "date", "command")
GROWTH_HEADERS = ("what", "sizes", "time exponent", "memory exponent", "why more than 1")
REMEDY = "run its script again."
INTRODUCTION = """# Benchmarks

Made by `shared/shared/benchmark_page.py` from the records in each package's `benchmarks/results`; `make bench` measures
them all again and rewrites it. A ratio is the baseline over ours, so more is better; where the target is an
upper bound (≤) it is ours over the baseline. It is the median of the ratios of single rounds, in which both were
measured next to each other; the two values beside it are medians of their own.
"""


@dataclass(frozen=True)
class Record:
    """A file of a `benchmarks/results` folder. DataError where it is no JSON or lacks what a record says."""

    path: Path

    @cached_property
    def data(self) -> Mapping[str, Any]:
        return read_json(self.path, REMEDY)

    @property
    def script(self) -> Path | None:
        """The benchmark that wrote it; None: no benchmark did."""
        words = self.data.get("command") if isinstance(self.data, Mapping) else None
        script = self.path.parents[1] / words[0] if words else None
        return script if script is not None and script.is_file() else None

    @property
    def command(self) -> str:
        """As typed in the package's folder, without where the record went."""
        words = list(self.data["command"])
        if "--out" in words:
            place = words.index("--out")
            del words[place : place + 2]
        return shlex.join(["python", f"benchmarks/{words[0]}", *words[1:]])

    @property
    def commit(self) -> str:
        """Short, `-dirty` where it was; else the package's version."""
        commit, dirty, _ = self.data["commit"].partition("-dirty")
        return commit if " " in commit else commit[:7] + dirty

    @property
    def date(self) -> str:
        return self.data["date_utc"][:10]

    @property
    def hardware(self) -> str:
        found = self.data["hardware"]
        counts = (f"{found[name]} {name if found[name] != 1 else name[:-1]}" for name in ("cores", "threads"))
        return ", ".join([found["cpu"], *counts, *found["gpus"]])

    @property
    def claims(self) -> bool:
        """Whether the page may repeat what it says."""
        return "ratios" in self.data["results"] and "--quick" not in self.data["command"]

    @property
    def ratios(self) -> list[Mapping[str, Any]]:
        return self.data["results"]["ratios"] if self.claims else []

    @property
    def growths(self) -> list[Mapping[str, Any]]:
        return self.data["results"].get("growths", []) if self.claims else []


@dataclass(frozen=True)
class Package:
    """The records of one `benchmarks` folder, in the order of their names."""

    folder: Path
    records: Sequence[Record]

    @property
    def name(self) -> str:
        return self.folder.parent.name

    @property
    def scripts(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*.py") if path.name != NO_MEASUREMENT)

    @property
    def measured(self) -> list[Record]:
        return [record for record in self.records if record.script is not None]

    @property
    def evidence(self) -> list[Record]:
        return [record for record in self.records if record.script is None]


def packages_of(files: Sequence[Path]) -> list[Package]:
    """The records by package, both in the order of their names."""
    folders = sorted({path.parents[1] for path in files})
    return [Package(folder, [Record(path) for path in sorted(files) if path.parents[1] == folder])
            for folder in folders]  # fmt: skip


# --- the page ---------------------------------------------------------------------------------------------------------


def page(files: Sequence[Path], folder: Path) -> str:
    """The Markdown of the page; its links hold from `folder`. DataError names a record that is damaged."""
    packages = packages_of(files)
    for record in (record for package in packages for record in package.measured):
        damage_named(record.path, lambda record=record: _claims(record), REMEDY)
    parts = [INTRODUCTION, _summary(packages)]
    parts += [part for package in packages for part in _section(package, folder)]
    return "\n".join(parts)


def _summary(packages: Sequence[Package]) -> str:
    rows = [(package.name, row) for package in packages for record in package.measured for row in record.ratios]
    judged = [row for _, row in rows if row["reached"] is not None]
    missed = [(name, row) for name, row in rows if row["reached"] is False]
    waiting = sum(len(_waiting(package)) for package in packages)
    text = f"**{len(judged) - len(missed)} targets reached, {len(missed)} missed; {waiting} to be run again.**\n"
    if not missed:
        return text
    cells = [(name, row["what"], f"**{_number(row['ratio'])}**", row["target"]) for name, row in missed]
    return text + "\n" + _table(("package", "missed target", "ratio", "target"), cells)


def _section(package: Package, folder: Path) -> Iterator[str]:
    yield f"## {package.name}\n"
    if rows := [row for record in package.measured for row in _ratio_rows(record)]:
        yield _table(HEADERS, sorted(rows, key=lambda row: "MISSED" not in row[1]))
    if rows := [row for record in package.measured for row in _growth_rows(record)]:
        yield "### How it grows\n"
        yield _table(GROWTH_HEADERS, rows)
        yield from (f"Measured by {_measured_by(record)}.\n" for record in package.measured if record.growths)
        if (folder / (picture := f"{package.name}_scaling.png")).is_file():
            yield f"![Time and memory over size, with the fitted lines]({picture})\n"
    if waiting := _waiting(package):
        yield "### To be run again\n"
        yield "".join(f"- {line}\n" for line in waiting)
    if package.evidence:
        yield "### Evidence of experiments and demos\n"
        yield "".join(f"- [{record.path.name}]({_link(record.path, folder)})\n" for record in package.evidence)


def _claims(record: Record) -> list[Any]:
    """Everything that the page may say of a record: what it lacks is noticed here."""
    return [_measured_by(record), *_ratio_rows(record), *_growth_rows(record)]


def _ratio_rows(record: Record) -> Iterator[tuple[str, ...]]:
    for row in record.ratios:
        verdict = {None: "", True: " reached", False: " **MISSED**"}[row["reached"]]
        target = f"{row['target'] or NO_VALUE}{verdict}"
        values = (f"{_number(row[name])} {row['unit']}" if row[name] is not None else NO_VALUE
                  for name in ("baseline", "ours"))  # fmt: skip
        yield (_number(row["ratio"]), target, row["what"], *values, record.hardware, record.commit, record.date,
               f"`{record.command}`")  # fmt: skip


def _growth_rows(record: Record) -> Iterator[tuple[str, ...]]:
    for row in record.growths:
        sizes = f"{row['sizes'][0]:,} to {row['sizes'][-1]:,} {row['unit']}"
        yield row["what"], sizes, _exponent(row["time"]), _exponent(row["memory"]), row["why"] or NO_VALUE


def _exponent(fit: Mapping[str, Any] | None) -> str:
    if fit is None:
        return "too small to be seen"
    verdict = f"**above {fit['expected']:g}**" if fit["above"] else f"expected ≤ {fit['expected']:g}"
    return f"{fit['exponent']:.2f} ± {fit['error']:.2f} (largest sizes {fit['largest_exponent']:.2f}; {verdict})"


def _waiting(package: Package) -> list[str]:
    """A line for every record that claims nothing, and for every script without a record."""
    old = [f"`{record.command}`: its record is of {record.date}, {record.commit}, and holds no ratios for this page"
           for record in package.measured if not record.claims]  # fmt: skip
    recorded = {record.script for record in package.measured}
    missing = [f"`python benchmarks/{script.name}`: no record" for script in package.scripts if script not in recorded]
    return old + missing


def _measured_by(record: Record) -> str:
    return f"`{record.command}` on {record.hardware}, commit {record.commit}, {record.date}"


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _number(value: float | None) -> str:
    if value is None:
        return NO_VALUE
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _link(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


# --- command line -----------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", help="records (default: all of the workspace)")
    parser.add_argument("--out", type=Path, default=OUT, help="(default: docs/benchmarks.md)")
    args = parser.parse_args(argv)

    def work() -> int:
        files = [path.resolve() for path in args.files] or records_of(WORKSPACE)
        write_atomic(args.out, page(files, args.out.resolve().parent))
        print(f"wrote {args.out}")
        return 0

    return run_command(work)


def records_of(workspace: Path) -> list[Path]:
    """Every record of a workspace."""
    return sorted(workspace.glob("*/benchmarks/results/*.json"))


if __name__ == "__main__":
    sys.exit(main())
