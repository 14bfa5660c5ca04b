"""`python evaluate.py --checkpoint best_model.pth`: a trained model's scores on a split, under every protocol.

The data are those that the model was trained with (its manifest says which), or with `--data_dir` another root of the
same layout. With `--controls` the best constant map (chosen on validation) and, for a model that listens, shuffled,
swapped, silenced and one-eared echoes stand beside it. Writes scores.json, report.html and pictures.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from shared import benchmark, checkpoint
from shared.errors import CheckpointError, ConfigError, UserError
from shared.report import Report
from shared.run import run_command
from shared.storage import storage_error

from .checkpoints import load_model
from .config import Settings
from .controls import AUDIO_CONTROLS, CONSTANTS, best_constant, constant_maps, constant_predictor, heard_wrongly
from .data_source import Sources, open_data
from .evaluation import ImageTable, column_means, predictor, score
from .metrics import BANDS_M, MAIN, PROTOCOLS
from .pictures import View, rows_of
from .sureness import calibrate_on, reliability_on, write_calibration

SPLITS = ("val", "test")
SHOWN = 6  # images drawn
SETTINGS = "the settings in its manifest"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="evaluate.py", description="Judge a trained model.", allow_abbrev=False)
    parser.add_argument("--checkpoint", type=Path, required=True, help="best_model.pth or epoch_*.pth")
    parser.add_argument("--data_dir", type=Path, help="data root (default: the data of its training)")
    parser.add_argument("--split", choices=SPLITS, default="test", help="default: %(default)s")
    parser.add_argument("--protocol", choices=PROTOCOLS, nargs="+", default=list(PROTOCOLS), help="default: all")
    parser.add_argument("--controls", action="store_true", help="constant maps and impaired echoes beside the model")
    sure = "calibrate the student's confidence on validation, check it on the split, write confidence.json"
    parser.add_argument("--confidence", action="store_true", help=sure)
    parser.add_argument("--max_depth_m", type=float, help="must be the model's own; a check for scripts")
    parser.add_argument("--batch_size", type=int, default=16, help="default: %(default)s")
    parser.add_argument("--num_workers", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: results/<experiment>/evaluation-<split>")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command(lambda: _execute(args))


def _execute(args: argparse.Namespace) -> int:
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("evaluate.py runs in one process: start it without torchrun (training may use several)")
    expect = {} if args.max_depth_m is None else {"max_depth_m": args.max_depth_m}
    model, card = load_model(args.checkpoint, expect=expect, map_location=args.device)
    settings = settings_of(args.checkpoint, args.data_dir)
    sources = open_data(settings)
    tables = judged(args, model, card, sources)
    out = args.out or settings.folder("results") / f"evaluation-{args.split}"
    _show(tables, args.protocol)
    _write(out, args, tables, sources, model, card)
    if args.confidence:
        _confidence(out, args, model, card, sources)
    return 0


def _confidence(out: Path, args: argparse.Namespace, model: nn.Module, card: dict[str, Any], sources: Sources) -> None:
    """Writes confidence.json; prints whether the confidence holds on the split."""
    if source_of(card) != "audio":
        raise UserError(f"--confidence is the student's, and {args.checkpoint} is an RGB model: leave it out")
    calibration = calibrate_on(model, sources.val, sources.spectrogram, args.batch_size)
    found = reliability_on(model, getattr(sources, args.split), sources.spectrogram, calibration, args.batch_size)
    about = {"weights_sha256": checkpoint.manifest(args.checkpoint)["sha256"], "mark": sources.mark, args.split: found}
    write_calibration(out / "confidence.json", calibration, about)
    shares = f"right within a factor of 1.25: all pixels {found['all']:.3f}, the surer half {found['kept_half']:.3f}"
    print(f"confidence on {args.split}: off by {found['calibration_error']:.3f} on average; {shares}", flush=True)
    print(f"wrote {out / 'confidence.json'}", flush=True)


def settings_of(path: Path, data_dir: Path | None) -> Settings:
    """The settings a checkpoint was trained with, with another data root if one is given.

    Raises CheckpointError when its manifest holds none that this version reads.
    """
    data = checkpoint.manifest(path)["config"]
    if not isinstance(data, dict) or "data" not in data:
        raise CheckpointError(f"{path}: its manifest holds no configuration: was it written by the training scripts?")
    if data_dir is not None:
        data = {**data, "data": {**data["data"], "dir": str(data_dir)}}
    try:
        return Settings.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise CheckpointError(f"{path}: {SETTINGS} are of another version ({error.error_count()} do not fit, the "
                              f"first: {error.errors()[0]['loc']}): train it with this version") from None  # fmt: skip


def judged(args: argparse.Namespace, model: nn.Module, card: dict[str, Any], sources: Sources) -> dict[str, ImageTable]:
    """Scores by name: the model, and with --controls what it has to beat."""
    common = {"max_depth_m": card["max_depth_m"], "protocols": args.protocol, "batch_size": args.batch_size,
              "workers": args.num_workers}  # fmt: skip
    data, source = getattr(sources, args.split), source_of(card)
    predict = predictor(model, source, args.device)
    tables = {"model": score(predict, data, **common)}
    if not args.controls:
        return tables
    name, constant = _constant(sources, args.protocol[0], common)
    tables[f"constant map ({name})"] = score(constant_predictor(constant), data, **common)
    if source == "audio":
        changed = {control: heard_wrongly(data, control, sources.spectrogram) for control in AUDIO_CONTROLS}
        tables |= {control: score(predict, wrong, **common) for control, wrong in changed.items()}
    return tables


def source_of(card: dict[str, Any]) -> str:
    return "rgb" if card["kind"] == "rgb" else "audio"


def _constant(sources: Sources, protocol: str, common: dict[str, Any]) -> tuple[str, torch.Tensor]:
    """The constant map of the training split with the lowest validation RMSE."""
    plain = sources.train.of_records(sources.train.records)
    plain.augment = False
    maps = constant_maps(plain)
    errors = {name: score(constant_predictor(maps[name]), sources.val, **common).means(protocol) for name in CONSTANTS}
    if any("rmse" not in found for found in errors.values()):
        raise UserError(f"no validation image counts under the protocol {protocol}: no constant map can be chosen")
    best = best_constant({name: found["rmse"] for name, found in errors.items()})
    return best, maps[best]


# --- showing ----------------------------------------------------------------------------------------------------------


def rows(tables: dict[str, ImageTable], protocol: str) -> list[list[Any]]:
    """One row per name: the metrics of MAIN, the interval of the RMSE, images counted and left out."""
    found = []
    for name, table in tables.items():
        means = table.means(protocol)
        interval = "[{:.3f}, {:.3f}]".format(*table.interval(protocol, "rmse")) if means["counted"] else None
        found.append([name, *(means.get(metric) for metric in MAIN), interval, means["counted"], means["skipped"]])
    return found


HEADERS = ["", *MAIN, "95 % of rmse", "images", "left out"]


def _show(tables: dict[str, ImageTable], protocols: Sequence[str]) -> None:
    for protocol in protocols:
        print(f"{protocol}: " + "  ".join(HEADERS[1:]))
        for row in rows(tables, protocol):
            cells = [f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row]
            print(f"  {cells[0]:24s} " + "  ".join(cells[1:]), flush=True)


def _write(
    out: Path, args: argparse.Namespace, tables: dict[str, ImageTable], sources: Sources, model: nn.Module, card: dict
) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(out, error) from error
    found = {name: {protocol: table.means(protocol) for protocol in args.protocol} for name, table in tables.items()}
    about = {"checkpoint": str(args.checkpoint), "split": args.split, "mark": sources.mark,
             "data_fingerprint": sources.fingerprint, "scores": _words(found)}  # fmt: skip
    benchmark.write(out / "scores.json", benchmark.record("evaluate", about, ("torch", "numpy")))
    figure = _pictures(getattr(sources, args.split), model, source_of(card), args.device, sources.mark)
    figure.savefig(out / "predictions.png", dpi=110)
    report = Report("Depth, judged", banner=sources.mark or None, subtitle=f"{args.checkpoint}, {args.split} split")
    for protocol in args.protocol:
        report.heading(f"Protocol {protocol}")
        report.table(HEADERS, rows(tables, protocol), f"Intervals resample {tables['model'].scenes.unit}.")
    report.heading("By range (strict)")
    bands = {band: column_means(columns) for band, columns in tables["model"].bands.items()}
    report.table(["", *MAIN, "images"], [[b, *(bands[b].get(m) for m in MAIN), bands[b]["counted"]] for b in BANDS_M])
    report.heading("Pictures")
    report.figure(out / "predictions.png", "Grey: nothing was measured.")
    report.write(out / "report.html")
    print(f"wrote {out / 'report.html'}", flush=True)


def _words(value: Any) -> Any:
    """JSON knows no infinities (the official log10 of a zero prediction): they become words."""
    if isinstance(value, dict):
        return {key: _words(item) for key, item in value.items()}
    return str(value) if isinstance(value, float) and value in (float("inf"), float("-inf")) else value


def _pictures(data, model: nn.Module, source: str, device: str, mark: str):
    chosen = torch.linspace(0, len(data) - 1, min(SHOWN, len(data))).round().int().tolist()
    items = [data[index] for index in chosen]
    with torch.no_grad():
        depths = [model(item[source][None].to(device))[0].float().cpu() for item in items]
    views = [View(item["id"], item, {"model": depth}) for item, depth in zip(items, depths, strict=True)]
    return rows_of(views, mark=mark)
