"""What a run leaves for people: scalars as JSON and CSV, alignment values, config, one HTML page, and all as a zip.

    records = scalar_records(work_dir / "metrics.jsonl")
    write_zip(path, {"scalars.json": scalars_json(records), ...}, owner_of(work_dir))

Folders that several runs share get names that no other run has: a file of another run is never replaced. A zip says
whose it is in its comment, a picture in its `Run` text.
"""

import csv
import hashlib
import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.errors import DataError
from shared.metrics_log import read_records
from shared.storage import storage_error, write_atomic

from .alignment import LEGACY_NOTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Records = list[dict[str, Any]]
FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # of zip members: equal content gives equal bytes
NOT_VALUES = ("step", "split", "time")
MAX_CURVES = 12
EMBEDDED_MARK = "Embedded data: drawn scenes, no score of LLVIP or KAIST"


# --- folders and names ------------------------------------------------------------------------------------------------


def shared_folder(work_dir: Path | str, name: str) -> Path:
    """`work_dirs/<name>` for a run under a folder `work_dirs`, else `<work_dir>/<name>`."""
    work_dir = Path(work_dir).resolve()
    for parent in work_dir.parents:
        if parent.name == "work_dirs":
            return parent / name
    return work_dir / name


def owner_of(work_dir: Path | str) -> str:
    """A short name for a run's folder that no other folder has."""
    work_dir = Path(work_dir).resolve()
    return f"{work_dir.name}-{hashlib.sha256(str(work_dir).encode()).hexdigest()[:8]}"


def make_folder(folder: Path) -> Path:
    """The folder, made when missing; StorageError when the file system refuses."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error
    return folder


# --- pictures ---------------------------------------------------------------------------------------------------------


def write_figure(path: Path | str, figure: "Figure", owner: str = "") -> Path:
    """Write a picture as PNG, whole or absent; `owner` is kept in the file. Raises StorageError."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Run": owner} if owner else None)
    make_folder(Path(path).parent)
    return write_atomic(path, buffer.getvalue())


def picture_owner(path: Path) -> str:
    """Whose picture this is; empty when it does not say."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return str(image.info.get("Run", ""))
    except (OSError, UnidentifiedImageError):
        return ""


# --- scalars ----------------------------------------------------------------------------------------------------------


def scalar_records(metrics_jsonl: Path) -> Records:
    """The records of a metrics.jsonl, each (split, step) once (the last written counts), in order of writing.

    Raises DataError for a missing or broken file.
    """
    latest = {(record["split"], record["step"]): record for record in read_records(metrics_jsonl)}
    return list(latest.values())


def values_of(record: Mapping[str, Any]) -> dict[str, float]:
    """The scalars of one record, without the fields that say where it stands."""
    return {name: value for name, value in record.items() if name not in NOT_VALUES}


def scalars_json(records: Records) -> str:
    """{split: {name: [[step, value], ...]}}; values that are not finite are null."""
    series: dict[str, dict[str, list]] = {}
    for record in records:
        for name, value in values_of(record).items():
            plain = value if math.isfinite(value) else None
            series.setdefault(record["split"], {}).setdefault(name, []).append([record["step"], plain])
    return json.dumps(series, indent=1) + "\n"


def scalars_csv(records: Records) -> str:
    """split, step, name, value: one value a line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["split", "step", "name", "value"])
    for record in records:
        writer.writerows([record["split"], record["step"], n, repr(v)] for n, v in values_of(record).items())
    return text.getvalue()


# --- alignment values -------------------------------------------------------------------------------------------------


def read_alignment(path: Path) -> list[dict[str, Any]]:
    """The entries of an alignment.json by epoch, empty without the file. Raises DataError for a broken one."""
    if not path.exists():
        return []
    try:
        return sorted(json.loads(path.read_text(encoding="utf-8")), key=lambda entry: entry["epoch"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} holds no alignment values ({error!r}): remove it, the next epoch writes it") from None


def write_alignment(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Keep entries {"epoch", "pairs", "space", "measures"}, one an epoch: the last given counts."""
    by_epoch = {entry["epoch"]: dict(entry) for entry in entries}
    write_atomic(path, json.dumps([by_epoch[epoch] for epoch in sorted(by_epoch)], indent=1) + "\n")


# --- the zip ----------------------------------------------------------------------------------------------------------


def write_zip(path: Path, members: Mapping[str, str | bytes], owner: str) -> Path:
    """Write a zip, whole or absent; where `path` belongs to another run, beside it under this run's name.

    Returns where it went. Raises StorageError.
    """
    path = make_folder(path.parent) / path.name
    if path.exists() and _zip_owner(path) != owner:
        path = path.with_name(f"{path.stem}_{owner}{path.suffix}")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = owner.encode()
        for name, content in members.items():
            member = zipfile.ZipInfo(name, FIRST_DAY)
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, content)
    return write_atomic(path, buffer.getvalue())


def _zip_owner(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment.decode("utf-8", "replace")
    except (OSError, zipfile.BadZipFile):
        return ""


# --- the page ---------------------------------------------------------------------------------------------------------


def report_html(work_dir: Path, config_text: str, *, embedded: bool = False, title: str = "") -> str:
    """One self-contained page: last values, curves, alignment against chance, pictures, config. All text is escaped.

    Reads metrics.jsonl, alignment.json and figures/*.png of the run's folder; what is absent is named on the page.
    """
    from shared.report import Report

    page = Report(title or f"Run {work_dir.name}", banner=EMBEDDED_MARK if embedded else None)
    _scalars_section(page, work_dir / "metrics.jsonl")
    _alignment_section(page, read_alignment(work_dir / "alignment.json"))
    _pictures_section(page, work_dir)
    page.heading("Config")
    page.code(config_text)
    return page.html()


def _scalars_section(page: Any, metrics: Path) -> None:
    from shared.report import curves

    page.heading("Scalars")
    records = scalar_records(metrics) if metrics.exists() else []
    if not records:
        page.text(f"{metrics.name} is absent or empty: nothing was logged.")
        return
    for split in dict.fromkeys(record["split"] for record in records):
        own = [record for record in records if record["split"] == split]
        latest = {name: (record["step"], value) for record in own for name, value in values_of(record).items()}
        rows = [[name, value, step] for name, (step, value) in sorted(latest.items())]
        page.table(["name", "last value", "step"], rows, caption=f"{split}: the last value of each")
        if len(own) > 1 and latest:
            page.figure(curves(metrics, _most_telling(latest), split, split_prefix=split), caption=f"{split}")


def _most_telling(names: Mapping[str, Any]) -> list[str]:
    """Losses first, then scores, at most twelve."""
    return sorted(names, key=lambda name: ("loss" not in name, name))[:MAX_CURVES]


def _alignment_section(page: Any, entries: Sequence[Mapping[str, Any]]) -> None:
    if not entries:
        return
    last = entries[-1]
    page.heading("Alignment of the modalities")
    page.text(
        f"{last['pairs']} persons of the validation set after epoch {last['epoch']}, seen in both modalities "
        f"({last['space']}). "
        f"Chance is what unrelated embeddings would give. legacy_tsne_ratio: {LEGACY_NOTE}; its plane is a picture, "
        "not a measurement."
    )
    rows = [[name, m["value"], _interval(m), m["chance"]] for name, m in last["measures"].items()]
    page.table(["measure", "value", "95 % interval", "chance"], rows)
    names = ("cosine_gap", "retrieval_at1_vis_to_ir", "probe_accuracy", "legacy_tsne_ratio")
    history = [[e["epoch"], *(e["measures"].get(n, {}).get("value") for n in names)] for e in entries]
    page.table(["epoch", *names], history, caption="By epoch")


def _interval(measure: Mapping[str, float | None]) -> str | None:
    return None if measure["low"] is None else f"{measure['low']:.3f} to {measure['high']:.3f}"


def _pictures_section(page: Any, work_dir: Path) -> None:
    pictures = sorted((work_dir / "figures").glob("*.png"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    if pictures:
        page.heading("Pictures")
        page.gallery([(path, path.name) for path in pictures[-6:]])
