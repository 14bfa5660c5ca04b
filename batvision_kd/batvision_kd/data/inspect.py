"""Every problem of a data root at once, each with its path and its remedy, before anything is trained.

    findings = inspect_root(Path("BatvisionV2"))
    python inspect_data.py BatvisionV2            # prints them; exit code 2 when there is a problem

A problem stops training or makes it learn something false; a warning is something the loader copes with (a location
without a table, a silent file, a depth map without a measurement).
"""

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from batvision_kd.audio import check_rate, crop_length, lead_in_samples, read_npy_pair, read_wav
from batvision_kd.depth import load_depth_m
from batvision_kd.spectrogram import SpectrogramSettings
from shared.errors import DataError
from shared.run import run_command

from .layout import (
    SPLITS,
    V1_NEEDED,
    V2_NEEDED,
    Record,
    find_version,
    locations_of,
    read_rooms,
    read_table,
    v1_records,
    v2_records,
)

MAX_DEPTH_M = {"v1": 12.0, "v2": 30.0}
FEW_VALID = 0.05  # share of measured pixels below which a depth map is worth a look


@dataclass
class Findings:
    """Lines for a person, and the number of records per location and split."""

    version: str = ""
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    counts: Counter = field(default_factory=Counter)

    def try_to(self, work, *args) -> object | None:
        """The result of `work`; its DataError becomes a problem, its warnings become warnings."""
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            try:
                return work(*args)
            except DataError as error:
                self.problems.append(str(error))
                return None
            finally:
                self.warnings += [str(one.message) for one in heard]


def inspect_root(root: Path | str, *, rate_hz: int = SpectrogramSettings.rate_hz) -> Findings:
    """All findings of a BatVision V1 or V2 root; reads every file. Raises DataError for a root that is neither."""
    root = Path(root)
    findings = Findings(find_version(root))
    records = list(_v2(root, findings) if findings.version == "v2" else _v1(root, findings))
    for record in records:
        findings.counts[record.location, record.split] += 1
        _check_record(record, findings, rate_hz, MAX_DEPTH_M[findings.version])
    _check_identities(records, findings)
    _check_orphans(root, records, findings)
    return findings


def _v2(root: Path, findings: Findings) -> Iterator[Record]:
    for location in locations_of(root):
        findings.try_to(read_rooms, root / location)
        for split in SPLITS:
            table = root / location / f"{split}.csv"
            if not table.is_file():
                findings.warnings.append(f"{table} is missing: {location} has no part in {split}.")
                continue
            rows = findings.try_to(read_table, table, V2_NEEDED) or []
            yield from _records(
                root, split, rows, findings, lambda row, s=split, at=location: v2_records(root, at, s, [row])
            )


def _v1(root: Path, findings: Findings) -> Iterator[Record]:
    for split in SPLITS:
        table = root / f"{split}.csv"
        if not table.is_file():
            findings.warnings.append(f"{table} is missing: there is no {split}.")
            continue
        rows = findings.try_to(read_table, table, V1_NEEDED) or []
        yield from _records(root, split, rows, findings, lambda row, s=split: v1_records(root, s, [row]))


def _records(root: Path, split: str, rows: Sequence[dict], findings: Findings, make) -> Iterator[Record]:
    """Row by row, so that one bad path does not hide the others."""
    for row in rows:
        yield from findings.try_to(lambda row=row: list(make(row))) or []


def _check_record(record: Record, findings: Findings, rate_hz: int, max_depth_m: float) -> None:
    """Audio, picture and depth of one record, each by the loader's own reader."""
    heard = findings.try_to(_read_audio, record.audio)
    if heard is not None:
        findings.try_to(check_rate, heard[1], rate_hz, str(record.audio[0]))
        _check_length(record.audio[0], *heard, max_depth_m, findings)
    if record.camera is not None:
        findings.try_to(_whole_picture, record.camera)
    measured = findings.try_to(load_depth_m, record.depth)
    if measured is not None and measured[1].mean() < FEW_VALID:
        findings.warnings.append(f"{record.depth}: only {measured[1].mean():.1%} of its pixels hold a measurement.")


def _read_audio(files: tuple[Path, ...]) -> tuple[np.ndarray, int]:
    return read_npy_pair(*files) if len(files) == 2 else read_wav(files[0])


def _check_length(path: Path, samples: np.ndarray, rate: int, max_depth_m: float, findings: Findings) -> None:
    start, needed = lead_in_samples(samples, "auto"), crop_length(max_depth_m, rate)
    if samples.shape[1] - start < needed:
        findings.warnings.append(
            f"{path}: {samples.shape[1]} samples, the sound begins at {start} and {max_depth_m:.0f} m need {needed}: "
            "the end is filled up with silence."
        )


def _whole_picture(path: Path) -> None:
    try:
        with Image.open(path) as image:
            image.load()
    except FileNotFoundError:
        raise DataError(f"{path} is missing: copy it again, or take its row out of the table.") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"{path} is no whole picture ({error}): copy it again.") from None


def _check_identities(records: Sequence[Record], findings: Findings) -> None:
    """One echo belongs to one row of one split."""
    seen: dict[tuple[Path, ...], Record] = {}
    for record in records:
        earlier = seen.setdefault(record.audio, record)
        if earlier is record:
            continue
        where = (
            f"twice in {record.split}" if earlier.split == record.split else f"in {earlier.split} and {record.split}"
        )
        findings.problems.append(f"{record.audio[0]} stands {where}: keep one of the two rows.")


def _check_orphans(root: Path, records: Sequence[Record], findings: Findings) -> None:
    """V2: files of which a table knows nothing."""
    if findings.version != "v2":
        return
    known = {path for record in records for path in record.files}
    for location in locations_of(root):
        for kind in ("audio", "camera", "depth"):
            there = sorted((root / location / kind).glob(f"{kind}_*"))
            if orphans := [path.name for path in there if path not in known]:
                findings.warnings.append(
                    f"{root / location / kind}: {len(orphans)} files stand in no table, the first is {orphans[0]}."
                )


def report(root: Path, findings: Findings) -> str:
    """The findings as text: counts, problems, warnings."""
    lines = [f"{root}: BatVision {findings.version.upper()}, {sum(findings.counts.values())} records"]
    for location in sorted({location for location, _ in findings.counts}):
        counts = ", ".join(f"{split} {findings.counts[location, split]}" for split in SPLITS)
        lines.append(f"  {location}: {counts}")
    lines += [f"problem: {line}" for line in findings.problems] + [f"warning: {line}" for line in findings.warnings]
    lines.append(f"{len(findings.problems)} problems, {len(findings.warnings)} warnings")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The `inspect` command; returns 0, or 2 when there are problems."""
    parser = argparse.ArgumentParser(description="Check a BatVision root: every file is read, all problems are listed.")
    parser.add_argument("root", type=Path, help="folder of BatVision V1 or V2, or of an embedded world")
    parser.add_argument("--rate", type=int, default=SpectrogramSettings.rate_hz, help="sample rate (default: 44100)")
    args = parser.parse_args(argv)
    return run_command(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    findings = inspect_root(args.root, rate_hz=args.rate)
    print(report(args.root, findings), file=sys.stderr if findings.problems else sys.stdout)
    return 2 if findings.problems else 0
