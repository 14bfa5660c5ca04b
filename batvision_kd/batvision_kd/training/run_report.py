"""results/<experiment>/report.html: what was learned, how it went, and what it was asked to do."""

from pathlib import Path

from shared.metrics import read_records
from shared.report import Report, curves
from shared.storage import write_atomic

from ..config import Settings
from ..data_source import Sources
from ..metrics import MAIN
from .saving import folder_of
from .validation import PROTOCOL

TITLES = {
    "rgb": "RGB depth teacher",
    "audio": "Binaural depth, audio alone",
    "distillation": "Binaural depth, distilled",
}
JUDGED = ("rmse", "abs_rel", "delta1")


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
    report.heading("Configuration")
    report.code((logs / "config.yaml").read_text(encoding="utf-8"))
    path = results / "report.html"
    report.write(path)
    return path


def _terms(metrics: Path, kind: str) -> list[str]:
    """The loss and its terms, as the epochs' means name them."""
    rows = [row for row in read_records(metrics) if row["split"] == f"{kind}/epoch"]
    return [name for name in rows[-1] if name not in ("step", "split", "time")]


def _curves(metrics: Path, keys, path: Path, split: str) -> Path:
    figure = curves(metrics, list(keys), split_prefix=split)
    write_atomic(path, _png(figure))
    return path


def _png(figure) -> bytes:
    import io

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144)
    return buffer.getvalue()
