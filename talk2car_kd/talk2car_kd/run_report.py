"""report.html of a run: what was learned, against what, where it fails, and what it looks like."""

import json
from pathlib import Path

from shared.metrics import read_records
from shared.report import Report, curves

from .evaluation import Record
from .inference import evenly
from .latency import HEADERS, cells, conditions
from .onnx_export import RECORD_NAME, REPORT_NAME
from .visualization import contact_sheet, draw_record

SHEET = 8  # pictures in the report
CURVES = {"teacher": ("clip",), "stage1": ("clip", "sim", "cos", "recall@1", "recall@5"),
          "stage2": ("l1", "giou", "score", "ap50")}  # fmt: skip
SLICES = {
    "by_cue": "Deciding cue",
    "by_size": "Object size",
    "by_side": "Side word",
    "by_distractor": "Another object of the class in view",
    "by_class": "Class",
}


def write_report(folder: Path, config, checkpoint: Path, record: dict, results: dict) -> Path:
    """Write `folder`/report.html. results: {split: stages.test.SplitResult}."""
    report = Report("Talk2Car grounding", banner=config.data.mark or None, subtitle=f"{folder.name}, {checkpoint.name}")
    for split, result in results.items():
        report.heading(f"{split}: {len(result.records)} commands")
        if result.scores is None:
            report.text("No ground truth: predictions only.")
        else:
            _score_tables(report, result)
        _pictures(report, folder, split, result.records, config)
    _training(report, folder)
    exported = folder / "export" / RECORD_NAME
    if exported.exists():
        _export(report, json.loads(exported.read_bytes()))
    report.heading("Configuration")
    report.code((folder / "config.yaml").read_text() if (folder / "config.yaml").exists() else repr(config))
    path = folder / "report.html"
    report.write(path)
    return path


def _score_tables(report: Report, result) -> None:
    scores = result.scores
    interval = "[{:.3f}, {:.3f}]".format(*scores["intervals"]["ap50"]) if "intervals" in scores else ""
    named = {"AP50": "ap50", "AP50..95": "ap50_95", "mean IoU": "average_iou"}
    report.highlights({name: f"{scores[key]:.3f}" for name, key in named.items()} | {"95 % interval of AP50": interval})
    rows = [[name, row["ap50"], row.get("ap50_95"), row.get("average_iou")] for name, row in result.comparison.items()]
    caption = "The model, the same model with half of its input taken away, and floors without a model"
    report.table(["", *named], rows, caption=caption)
    for key, title in SLICES.items():
        rows = [[label, part["n"], part["ap50"], part["average_iou"]] for label, part in scores.get(key, {}).items()]
        if rows:
            report.table([title, "n", "AP50", "mean IoU"], rows)


def _pictures(report: Report, folder: Path, split: str, records: list[Record], config) -> None:
    with_maps = [record for record in records if record.maps]
    chosen = [with_maps[i] for i in evenly(len(with_maps), SHEET)] if with_maps else records[:SHEET]
    mark = config.data.mark or None
    sheet = contact_sheet([draw_record(r, config.stage2.frame_wh, mark) for r in chosen], columns=2, cell_width_px=960)
    path = folder / "figures" / f"{split}.png"
    path.parent.mkdir(exist_ok=True)
    sheet.save(path)
    report.figure(path, caption="Green: ground truth. Orange: prediction. Beside each frame: where [REG] looks.")


def _training(report: Report, folder: Path) -> None:
    metrics = folder / "metrics.jsonl"
    if not metrics.exists():
        return
    records = read_records(metrics)
    for stage, keys in CURVES.items():
        recorded = {key for row in records if row["split"].startswith(stage) for key in row}
        shown = [key for key in keys if key in recorded]
        if shown:
            report.heading(f"Training: {stage}", level=3)
            report.figure(curves(metrics, shown, stage, split_prefix=stage))


def write_export_report(folder: Path, record: dict) -> Path:
    """Write `folder`/report.html: what `--stage export` recorded (export.json), to be read."""
    report = Report("Talk2Car grounding, exported", banner=record["mark"], subtitle=record["file"]["name"])
    _export(report, record)
    report.write(folder / REPORT_NAME)
    return folder / REPORT_NAME


def _export(report: Report, record: dict) -> None:
    report.heading("Size and speed of the exported model")
    parity = ", ".join(f"{name} {value:.1e}" for name, value in record["parity"]["max_abs_difference"].items())
    report.text(
        f"{record['file']['name']} ({record['file']['bytes'] / 2**20:.1f} MiB) was made of "
        f"{Path(record['checkpoint']['path']).name} (sha256 {record['checkpoint']['sha256'][:12]}). ONNX Runtime "
        f"against PyTorch, largest difference: {parity}."
    )
    sizes = [[name.replace("_", " "), f"{count / 1e6:.2f}"] for name, count in record["parameters"].items()]
    report.table(["part", "parameters, M"], sizes, caption="What the graph holds; the text tower reads the commands")
    if speed := record.get("latency"):
        caption = f"Image towers in PyTorch, {conditions(speed)}, all in one run; CLIP's with random weights"
        report.table(HEADERS, cells(speed), caption=caption)
