"""The evaluations' output: one (n, k) or all of them, beside the baselines, as table, plot, JSON and one HTML page.

<saved_path>-eval/<checkpoint>-3x64.json                    --mode eval, with KITTI result files in .../data/
<saved_path>-grid/{grid.json, grid.png, report.html, cells/}   --mode grid
<saved_path>/report.html                                    training
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from shared import benchmark
from shared.config import to_yaml
from shared.report import Report, curves
from shared.storage import make_folder, write_atomic

from . import evaluate
from .cells import Cell, base_sender, baseline_senders, fingerprint, measured, rows_of, rq_senders
from .checkpoints import Loaded, check_point
from .config import RqConfig
from .decode import Detections
from .detector import FrozenDetector
from .kitti.results import write_result_files
from .pictures import BevView, compare
from .progressive import describe, stages_of
from .rq.codebooks import OperatingPointError
from .rq_data import Data
from .senders import Stream
from .session import Session, feature_pool

PICTURES = 3
SIGNS = "sD^v<>P"  # of the baselines
SHOWN_SCORE = 0.3  # of a box in a picture
PACKAGES = ("torch", "numpy", "numba")
HEADERS = (
    "sent", "bits/pillar", "bytes/frame", "p50", "p95", "relMSE", "mAP 3D mod. R40", "R11", "drop R40", "x dense fp32",
    "x sparse fp16", "x raw cloud", "x cloud at 6 bit (cited)", "encode ms", "decode ms",
)  # fmt: skip


# --- one operating point ----------------------------------------------------------------------------------------------


def evaluate_point(config: RqConfig, detector: FrozenDetector, loaded: Loaded, data: Data, folder: Path) -> dict:
    """--mode eval: one (n, k) for all frames, or each frame's best within --target-kb; baselines beside it."""
    settings = config.evaluation
    if settings.target_kb is not None:
        sender = Stream(loaded.codec, target_bytes=int(1000 * settings.target_kb), beam=settings.beam)
        label = f"within {settings.target_kb:g} kB"
    else:
        sender = Stream(loaded.codec, settings.use_num_codebook, settings.use_num_embedding, beam=settings.beam)
        label = sender.name
    training = config.training
    indices = range(len(data.val))
    results = evaluate.judge(detector, data.val, indices, sender, workers=training.num_workers,
                             timeout_s=training.loader_timeout_s)  # fmt: skip
    found = evaluate.summary(results, data.val, detector, data.labelled)
    cell = Cell(label, "rq", found, [one.index for one in results], [one.detections for one in results])
    base_cells = _baseline_cells(config, detector, data, folder / "cells")
    name = f"{loaded.path.stem}-{label.replace(' ', '-')}"
    rows = rows_of(cell, data.val, detector.class_names)
    ids = [data.val.infos[i].frame_id for i in cell.indices]
    write_result_files(folder / name / "data", dict(zip(ids, rows, strict=True)))
    cells = [cell, *base_cells]
    print(table_text(cells, data.mark), flush=True)
    return _write_json(folder / f"{name}.json", "eval", cells, config, loaded, data)


# --- all of them ------------------------------------------------------------------------------------------------------


def evaluate_grid(config: RqConfig, detector: FrozenDetector, loaded: Loaded, data: Data, folder: Path) -> dict:
    """--mode grid: every (n, k) of one checkpoint, the base and the baselines; continues where it was cut."""
    points = grid_points(config, loaded)
    indices = range(len(data.val))
    cells = []
    for kind, sender in [("base", base_sender()), *(("rq", one) for one in rq_senders(config, loaded, points))]:
        key = fingerprint(
            detector, loaded if kind == "rq" else None, data, indices, config.evaluation.beam, sender.name
        )
        cells.append(measured(folder / "cells", kind, sender, key, config, detector, data, indices))
        print(_progress(cells[-1]), flush=True)
    cells += _baseline_cells(config, detector, data, folder / "cells", cells[0])
    print(table_text(cells, data.mark), flush=True)
    found = _write_json(folder / "grid.json", "grid", cells, config, loaded, data)
    _grid_page(folder, cells, config, loaded, data, detector)
    return found


def grid_points(config: RqConfig, loaded: Loaded) -> list[tuple[int, int]]:
    """The cells to measure; OperatingPointError for one the checkpoint does not hold."""
    held = loaded.codec.quantizer.points()
    if not held:
        raise OperatingPointError(f"{loaded.path} holds no finished book: train further")
    for n, k in config.evaluation.grid_cells or ():
        check_point(loaded, n, k)
    return list(config.evaluation.grid_cells or held)


def _baseline_cells(
    config: RqConfig, detector: FrozenDetector, data: Data, folder: Path, base: Cell | None = None
) -> list[Cell]:
    """The baselines, and before them the detector without RQ on the same frames where `base` is not that already."""
    indices = list(range(len(data.val))[: config.evaluation.baseline_frames])
    if not indices:
        return []
    cells = []
    if base is None or base.indices != indices:
        sender = base_sender()
        key = fingerprint(detector, None, data, indices, config.evaluation.beam, sender.name)
        own = measured(folder / "beside-baselines", "base", sender, key, config, detector, data, indices)
        cells.append(replace(own, name=f"base, {len(indices)} frames"))
    pool = feature_pool(config, detector, data).features
    for sender in baseline_senders(detector, pool):
        key = fingerprint(detector, None, data, indices, config.training.seed, sender.name)
        cells.append(measured(folder, "baseline", sender, key, config, detector, data, indices))
    return cells


def _progress(cell: Cell) -> str:
    score = cell.found.get("map_3d_moderate_r40")
    return f"{cell.name}: {f'mAP {score:.2f}, ' if score is not None else ''}relMSE {cell.found['rel_mse']:.4f}"


# --- tables -----------------------------------------------------------------------------------------------------------


def table(cells: Sequence[Cell]) -> list[list[Any]]:
    """Rows under HEADERS; None where a figure does not exist. The drop is from the base on the same frames."""
    bases = [cell for cell in cells if cell.kind == "base"]
    return [_row(cell, next((base for base in bases if base.indices == cell.indices), None)) for cell in cells]


def _row(cell: Cell, base: Cell | None) -> list[Any]:
    found, score = cell.found, cell.found.get("map_3d_moderate_r40")
    sizes, ratios, times = found.get("bytes", {}), found.get("ratios", {}), found.get("time", {})
    whole = base.found.get("map_3d_moderate_r40") if base is not None else None
    drop = whole - score if whole is not None and score is not None else None
    ratio = [ratios.get(name) for name in evaluate.BASES]
    return [cell.name, found.get("bits_per_pillar"), *(sizes.get(key) for key in ("mean", "p50", "p95")),
            found["rel_mse"], score, found.get("map_3d_moderate_r11"), drop, *ratio,
            times.get("encode_ms_median"), times.get("decode_ms_median")]  # fmt: skip


def table_text(cells: Sequence[Cell], mark: str = "") -> str:
    """The table for a terminal."""
    rows = [HEADERS, *([_short(value) for value in row] for row in table(cells))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADERS))]
    sized = [[cell.ljust(widths[0]) if not i else cell.rjust(widths[i]) for i, cell in enumerate(row)] for row in rows]
    lines = ["  ".join(row) for row in sized]
    return "\n".join([*([mark] if mark else []), *lines])


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.4g}" if abs(value) < 100 else f"{value:,.0f}"


def _write_json(path: Path, name: str, cells: Sequence[Cell], config, loaded: Loaded, data: Data) -> dict:
    """The record with hardware, commit and command; whole or absent."""
    results = {
        "data": "embedded" if data.mark else str(data.root.path),
        "mark": data.mark,
        "frames": len(data.val),
        "checkpoint": {"path": str(loaded.path), "sha256": loaded.sha256, "origin": dict(loaded.origin)},
        "base": str(config.model.pretrained_weight),
        "cells": [{"name": cell.name, "kind": cell.kind, **cell.found} for cell in cells],
    }
    record = benchmark.record(name, results, PACKAGES)
    make_folder(path.parent, path)
    write_atomic(path, json.dumps(record, indent=1) + "\n")
    print(f"wrote {path}", flush=True)
    return record


# --- pages ------------------------------------------------------------------------------------------------------------


def rate_plot(cells: Sequence[Cell], mark: str = "") -> Figure:
    """Bytes a frame (log axis) against mAP and relMSE: a line for each k, a sign for each baseline, `mark` above."""
    figure = Figure(figsize=(11.5, 4.2), layout="constrained")
    if mark:
        figure.suptitle(mark, fontsize=9)
    panels = figure.subplots(1, 2)
    for panel, key, label in zip(panels, ("map_3d_moderate_r40", "rel_mse"), ("mAP 3D moderate, R40", "relMSE"),
                                 strict=True):  # fmt: skip
        _draw_rq(panel, cells, key)
        _draw_baselines(panel, cells, key)
        if key != "rel_mse":
            _draw_bases(panel, cells, key)
        panel.set(xscale="log", xlabel="bytes a frame", ylabel=label)
        panel.grid(color="#e3e6eb", linewidth=0.8)
    panels[0].set_ylim(bottom=0, top=max(1.0, panels[0].get_ylim()[1]))
    if any(cell.found["rel_mse"] for cell in cells):
        panels[1].set_yscale("log")
    # That of the fuller panel: a cloud has no relMSE, and frames without labels have no mAP.
    figure.legend(*max((panel.get_legend_handles_labels() for panel in panels), key=lambda shown: len(shown[1])),
                  loc="outside right center", fontsize=7.5)  # fmt: skip
    return figure


def _draw_rq(panel: Any, cells: Sequence[Cell], key: str) -> None:
    lines: dict[int, list[tuple[float, float]]] = {}
    for cell in cells:
        if cell.kind == "rq" and cell.found.get(key) is not None:
            lines.setdefault(int(cell.name.split("x")[1]), []).append((cell.found["bytes"]["mean"], cell.found[key]))
    for k, points in sorted(lines.items()):
        panel.plot(*zip(*sorted(points), strict=True), marker="o", markersize=3.5, linewidth=1.4, label=f"k = {k}")


def _draw_baselines(panel: Any, cells: Sequence[Cell], key: str) -> None:
    """A sign each, as they stand too close together for names."""
    baselines = [cell for cell in cells if cell.kind == "baseline"]
    for cell, sign in zip(baselines, itertools.cycle(SIGNS)):
        if cell.found.get(key) is not None:
            panel.plot([cell.found["bytes"]["mean"]], [cell.found[key]], sign, fillstyle="none", color="#5b6472",
                       label=cell.name)  # fmt: skip


def _draw_bases(panel: Any, cells: Sequence[Cell], key: str) -> None:
    """The detector without RQ: dashed on the frames of the points, dotted on those of baselines that saw fewer."""
    bases = [cell for cell in cells if cell.kind == "base" and cell.found.get(key) is not None]
    for cell, style in zip(bases, ("--", ":"), strict=False):
        panel.axhline(cell.found[key], color="#1c2330", linewidth=0.9, linestyle=style,
                      label=cell.name.replace("base", "without RQ"))  # fmt: skip


def _grid_page(folder: Path, cells: Sequence[Cell], config, loaded: Loaded, data: Data, detector) -> None:
    figure = rate_plot(cells, data.mark)
    figure.savefig(folder / "grid.png", dpi=130)
    report = Report("Rate and accuracy of residual quantization", banner=data.mark or None,
                    subtitle=f"{loaded.path}, {len(data.val)} validation frames")  # fmt: skip
    report.figure(
        figure,
        "Bytes of the whole stream, positions included. Dashed: the detector without "
        "quantization; dotted: the same on the frames of the baselines, where these saw fewer.",
    )
    report.heading("Table")
    report.table(HEADERS, table(cells), "Ratios are against four bases; above about two codes a pillar the compressed "
                 "cloud is cheaper. 6 bit a point is literature's figure, not measured here.")  # fmt: skip
    report.heading("Code usage")
    usage = [[cell.name, " ".join(f"{part['used']:.2f}" for part in cell.found["usage"]),
              " ".join(f"{part['perplexity']:.1f}" for part in cell.found["usage"])]
             for cell in cells if "usage" in cell.found]  # fmt: skip
    report.table(["point", "share of rows used, by book", "perplexity, by book"], usage)
    report.heading("Detections without and with quantization")
    report.gallery(_pictures(folder, cells, data, detector))
    report.heading("Configuration")
    report.code(to_yaml(config))
    report.write(folder / "report.html")
    print(f"wrote {folder / 'report.html'}", flush=True)


def _pictures(folder: Path, cells: Sequence[Cell], data: Data, detector) -> list[tuple[Path, str]]:
    """The first frames with the base's detections beside those of the cheapest and of the richest cell."""
    base = cells[0]
    sent = sorted((cell for cell in cells if cell.kind == "rq"), key=lambda cell: cell.found["bytes"]["mean"])
    low, high = detector.grid.range_m[:2], detector.grid.range_m[3:5]
    view = BevView((*low, *high), min(9.0, 620 / (high[1] - low[1])))
    pictures = []
    for place in np.linspace(0, len(base.indices) - 1, min(PICTURES, len(base.indices))).astype(int):
        frame = data.val[base.indices[place]]
        for cell in (sent[0], sent[-1]) if len(sent) > 1 else sent:
            without, with_rq = shown(base.detections[place]), shown(cell.detections[place])
            image = compare(frame.points, truth=frame.boxes, without=without.boxes, with_rq=with_rq.boxes, view=view,
                            title=frame.frame_id, rate=cell.name, without_scores=without.scores,
                            with_scores=with_rq.scores, embedded=bool(data.mark))  # fmt: skip
            path = folder / "figures" / f"{frame.frame_id}-{cell.name}.png"
            path.parent.mkdir(exist_ok=True)
            image.save(path)
            pictures.append((path, f"{frame.frame_id}: left without quantization, right {cell.name}; green: labels"))
    return pictures


def shown(found: Detections) -> Detections:
    """The detections worth drawing: AP wants every box above 0.1, a reader only those above SHOWN_SCORE."""
    sure = found.scores > SHOWN_SCORE
    return Detections(found.boxes[sure], found.scores[sure], found.labels[sure])


def write_training_report(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    """`<run>/report.html`: plan, the table of stages, curves, configuration."""
    config, folder, stages = session.config, session.run.path, stages_of(session.config)
    report = Report("Progressive residual quantization", banner=session.data.mark or None, subtitle=folder.name)
    best = max(rows, key=lambda row: row["score"])
    report.highlights({"best stage": f"{best['n']}x{best['k']}", session.metric: f"{best['score']:.2f}",
                       "relMSE of the last": f"{rows[-1]['rel_mse']:.4f}"})  # fmt: skip
    report.text(describe(stages))
    report.heading("Stages")
    names = ["stage", "n", "k", "epochs", "stage_best", "score", "rel_mse"]
    report.table(names, [[row[name] for name in names] for row in rows],
                 f"score: {session.metric}, on all {len(session.data.val)} validation frames after the stage; "
                 f"stage_best: of its epochs, on {len(session.subset)}")  # fmt: skip
    report.heading("Curves")
    metrics = folder / "metrics.jsonl"
    detects = config.loss_weights.det_weight > 0 and any(stage.epochs > stage.warmup for stage in stages)
    keys = ["codebook", "det"] if detects else ["codebook"]
    report.figure(curves(metrics, keys, "Training, by epoch of the run", split_prefix="train"))
    keys = (["map"] if session.data.labelled else []) + ["loss", "rel_mse", "global_best"]
    report.figure(curves(metrics, keys, "Validation", split_prefix="val"))
    report.heading("Configuration")
    report.code(to_yaml(config))
    report.write(session.run.file("report.html"))
