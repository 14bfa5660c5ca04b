"""The demo's page: what was trained on what, what came out, pictures and curves, in words a newcomer can follow."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.report import Report, curves

TITLE = "Masked pretraining and detection: the demo"
# Diagnostics of pretraining that are shown, and what they are.
MEANINGS = {
    "occupancy": "occupancy loss: is a block of 8 x 8 x 8 voxels occupied?",
    "occupancy_entropy": "the same loss of the best constant answer",
    "occupancy_excess": "the difference: below 0, something was learnt",
    "occupancy_positive": "share of the asked blocks that are occupied",
    "occupancy_ap": "average precision at finding them",
    "occupancy_reached": "share of all occupied blocks that were asked",
    "keep": "share of the voxels that the student sees",
    "keep_0_10m": "... within 10 m of the sensor",
    "keep_10_30m": "... from 10 to 30 m",
    "similarity_conv1": "cosine of student and teacher, finest level",
    "similarity_conv4": "cosine of student and teacher, coarsest level",
}


@dataclass(frozen=True)
class Stage:
    """A finished training: its folder, last checkpoint, last evaluation, and the seconds this command spent on it."""

    folder: Path
    checkpoint: Path
    evaluation: Path
    seconds: float


def write_report(
    path: Path, pretrained: Stage, tuned: Stage, pictures: Sequence[tuple[Path, str]], seconds: float
) -> None:
    """The page, whole or absent. pictures: (path, caption)."""
    before, after = (_scores(stage) for stage in (pretrained, tuned))
    ap, means = after["ap"]["R40"], before["means"]
    spent = f"{seconds:.0f} s: pretraining {pretrained.seconds:.0f} s, fine-tuning {tuned.seconds:.0f} s"
    report = Report(TITLE, after["mark"] or None, spent)
    report.highlights({"mAP R40, bird's eye": _percent(ap["bev"]["mAP"]["all"]),
                       "mAP R40, 3D": _percent(ap["3d"]["mAP"]["all"]),
                       "occupancy loss against a constant's": f"{means['occupancy_excess']:+.3f}"})  # fmt: skip
    report.text(
        "A small backbone was pretrained on masked clouds without labels (Phase 2: occupancy, and the features of a "
        "teacher that sees the whole cloud), then fine-tuned as a detector of four kinds of machines, and judged on "
        "sites that neither training saw. It is small and short: it shows that every part works, not what the method "
        "can reach. What pretraining is worth is the question of `python -m voxel_mae.experiments`."
    )
    report.heading("Detection on validation frames")
    _detection_table(report, after)
    report.heading("Pretraining on held-out frames")
    rows = [[meaning, f"{means[name]:.3f}"] for name, meaning in MEANINGS.items() if name in means]
    report.table(["", "mean"], rows, f"{before['frames']} validation frames, masked as in training.")
    report.heading("Pictures")
    for picture, caption in pictures:
        report.figure(picture, caption)
    report.heading("Curves")
    terms = [name for name in ("occupancy_excess", "mlfr", "voxel", "frame") if name in means]
    _curves(report, pretrained, terms, "Pretraining, means of every epoch by step: the occupancy loss minus a "
            "constant's, and the teacher's terms, unweighted.")  # fmt: skip
    _curves(report, tuned, ["cls", "loc"], "Fine-tuning, means of every epoch by step: heatmap and box losses.")
    report.write(path)


def _scores(stage: Stage) -> dict[str, Any]:
    return json.loads((stage.evaluation / "scores.json").read_text(encoding="utf-8"))


def _detection_table(report: Report, scores: Mapping[str, Any]) -> None:
    ap, objects, iou = scores["ap"]["R40"], scores["objects"], scores["iou"]
    rows = [[name, str(objects[name]["all"]) if name in objects else "", f"{iou[name]:g}" if name in iou else "",
             _percent(ap["bev"][name]["all"]), _percent(ap["3d"][name]["all"])] for name in ap["bev"]]  # fmt: skip
    report.table(["class", "objects", "least overlap", "AP bird's eye", "AP 3D"], rows,
                 f"{scores['frames']} frames; average precision at 40 recall levels. A detection counts when it "
                 "overlaps a label of its class by at least this share.")  # fmt: skip


def _curves(report: Report, stage: Stage, names: Sequence[str], caption: str) -> None:
    prefix = "pretrain/epoch" if "occupancy_excess" in names else "finetune/epoch"
    report.figure(curves(stage.folder / "metrics.jsonl", names, split_prefix=prefix), caption)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
