"""results/<experiment>/report.html: what was learned, how it went, what it looks like, and what it was asked to do."""

import io
from pathlib import Path

import torch
from matplotlib.figure import Figure

from shared.metrics import read_records
from shared.report import Report, curves
from shared.storage import write_atomic

from ..checkpoints import load_model
from ..config import Settings
from ..data_source import Sources
from ..metrics import MAIN
from ..pictures import View, rows_of
from .saving import folder_of
from .validation import PROTOCOL

TITLES = {
    "rgb": "RGB depth teacher",
    "audio": "Binaural depth, audio alone",
    "distillation": "Binaural depth, distilled",
}
JUDGED = ("rmse", "abs_rel", "delta1")
SHOWN = 4  # validation images


def write_report(settings: Settings, sources: Sources, logs: Path, trained) -> Path:
    """Write the report and its curves; returns the report's path. trained: experiment.TrainedRun."""
    results, metrics = folder_of(settings, "results"), logs / "metrics.jsonl"
    report = Report(TITLES[settings.kind], banner=sources.mark or None, subtitle=settings.name)
    report.highlights({"validation RMSE, m": trained.best_val["rmse"], "ABS_REL": trained.best_val["abs_rel"],
                       "delta1": trained.best_val["delta1"]})  # fmt: skip
    report.text(
        f"Best of the epochs by RMSE under the protocol {PROTOCOL}, on {len(sources.val)} validation images "
        f"({trained.best_val['skipped']:.0f} without enough measured depth). Weights: {trained.best}."
    )
    report.heading("Validation")
    report.table(["metric", "value"], [[name, trained.best_val[name]] for name in MAIN])
    report.figure(_curves(metrics, JUDGED, results / "validation.png", f"{settings.kind}/val"))
    report.heading("Training")
    report.figure(_curves(metrics, _terms(metrics, settings.kind), results / "training.png", f"{settings.kind}/epoch"))
    report.heading("Validation images")
    report.figure(_samples(settings, sources, trained.best, results / "predictions.png"), "Grey: nothing was measured.")
    report.heading("Configuration")
    report.code((logs / "config.yaml").read_text(encoding="utf-8"))
    path = results / "report.html"
    report.write(path)
    return path


def _terms(metrics: Path, kind: str) -> list[str]:
    """The loss and its terms, as the epochs' means name them."""
    rows = [row for row in read_records(metrics) if row["split"] == f"{kind}/epoch"]
    return [name for name in rows[-1] if name not in ("step", "split", "time")]


def _samples(settings: Settings, sources: Sources, best: Path, path: Path) -> Path:
    """Evenly spread validation images with the best model's depth."""
    model, source = load_model(best)[0], "rgb" if settings.kind == "rgb" else "audio"
    chosen = torch.linspace(0, len(sources.val) - 1, min(SHOWN, len(sources.val))).round().int().tolist()
    items = [sources.val[index] for index in chosen]
    with torch.no_grad():
        views = [View(item["id"], item, {TITLES[settings.kind]: model(item[source][None])[0]}) for item in items]
    write_atomic(path, _png(rows_of(views, mark=sources.mark), dpi=100))
    return path


def _curves(metrics: Path, keys, path: Path, split: str) -> Path:
    write_atomic(path, _png(curves(metrics, list(keys), split_prefix=split)))
    return path


def _png(figure: Figure, dpi: int = 144) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
