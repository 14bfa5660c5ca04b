"""The pictures of the READMEs: what a trained run answers, and how the method works.

    python talk2car_kd/benchmarks/pictures.py --out docs              from the newest run that has talk2car_best.pth
    python talk2car_kd/benchmarks/pictures.py --out docs --run NAME

talk2car_kd.jpg          two right answers with different deciding cues and, if there is one, a wrong one, each above
                         how [REG] scores the cells; the first of evenly spread val frames, not the best
talk2car_kd_method.png   the method as a diagram; its frame, crop and target map are drawn by the embedded world, no run
                         is needed
"""

import argparse
import io
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from PIL import Image

from shared.checkpoint import write_atomic
from shared.config import load_config
from shared.errors import DataError
from shared.run import World, run_command
from talk2car_kd.boxes import to_unit_cxcywh
from talk2car_kd.config import PACKAGE_ROOT, Config
from talk2car_kd.evaluation import Record
from talk2car_kd.images import read_rgb
from talk2car_kd.inference import inference_and_visualize
from talk2car_kd.losses import gaussian_targets
from talk2car_kd.stages.context import Context, data_roots, grounding_loader
from talk2car_kd.stages.ground import command_reader, commands_of
from talk2car_kd.stages.teacher import teacher_of
from talk2car_kd.visualization import contact_sheet, draw_record, heat_of, overlay_heat
from talk2car_kd.weights import BEST, load_grounding, newest, refuse_other
from talk2car_kd.world import WorldSpec
from talk2car_kd.world.talk2car_like import make_frame, picture

WORKSPACE = PACKAGE_ROOT.parent
MAX_BYTES = 300_000
FRAMES = 60  # val frames looked at
MAPS = ("score_map", "attention")  # how [REG] scores the cells; what its last decoder layer attends to
CELL_PX = 520
MIN_SHARE = 0.004  # of the frame: a smaller object says little on a small picture
LOOK = {"trained": "#d9ecff", "frozen": "#e9e9ee", "data": "#fff3d6", "loss": "#ffe0dc"}
EDGE = {"trained": "#2f7fc8", "frozen": "#8a8a96", "data": "#c99a2e", "loss": "#cc5b4c"}


# --- the strip of results ---


@dataclass(frozen=True)
class FinishedRun:
    """What a Context asks of a run, for one that is only read."""

    path: Path
    log: logging.Logger


def open_finished(run: Path) -> Context:
    """The context of a finished run, from the configuration it wrote."""
    config = load_config(Config, [run / "config.yaml"])
    one, log = World(), logging.getLogger("pictures")
    return Context(config, FinishedRun(run, log), one, *data_roots(config, one, log))


def predicted(ctx: Context) -> list[Record]:
    """Val commands of evenly spread frames, predicted by the run's best model, with their maps."""
    path = ctx.run.path / BEST
    model, record = load_grounding(path)
    teacher = teacher_of(ctx)
    refuse_other(path, "teacher.sha256", record["teacher"]["sha256"], teacher.sha256)
    commands = commands_of(ctx, "val")
    frames = list(dict.fromkeys(command.sample_token for command in commands))
    kept = set(frames[:: max(1, len(frames) // FRAMES)])
    commands = [command for command in commands if command.sample_token in kept]
    reader = command_reader(teacher, commands, record["text_len"])
    loader, _ = grounding_loader(ctx, commands, reader, train=False)
    return inference_and_visualize(model, loader, ctx.config, pictures=len(commands))


def choose(records: Sequence[Record], frame_wh: tuple[int, int]) -> list[Record]:
    """Two hits of different frames and, where possible, cues, then a miss; fewer kinds when there are no others."""
    area = frame_wh[0] * frame_wh[1]
    shown = [r for r in records if np.prod(r.command.box_xywh_px[2:]) > MIN_SHARE * area] or list(records)
    hits, misses = [r for r in shown if r.iou > 0.5], [r for r in shown if r.iou <= 0.5]
    order = [*_different(hits)[:2], *_different(misses)[:1]]
    return [*order, *(record for record in _different(shown) if record not in order)][:3]


def _different(records: Sequence[Record]) -> list[Record]:
    """One record a frame; those that bring a new deciding cue first."""
    by_frame = list({record.command.sample_token: record for record in records}.values())
    first = {record.command.tags.get("cue"): record for record in reversed(by_frame)}
    leading = [record for record in by_frame if any(record is other for other in first.values())]
    return leading + [record for record in by_frame if not any(record is other for other in leading)]


def result_strip(run: Path, shown_map: str) -> Image.Image:
    """Three answers in the upper row, below each its map laid over the frame."""
    ctx = open_finished(run)
    frame_wh, mark = ctx.config.stage2.frame_wh, ctx.config.data.mark or None
    chosen = choose(predicted(ctx), frame_wh)
    answers = [draw_record(replace(r, maps={}), frame_wh, mark, width_px=CELL_PX) for r in chosen]
    shown = [replace(r, maps={shown_map: r.maps[shown_map]}) for r in chosen if shown_map in r.maps]
    looks = [overlay_heat(_wide(read_rgb(r.command.image_path)), heat_of(r)) for r in shown]
    return contact_sheet([*answers, *looks], columns=3, cell_width_px=CELL_PX)


def _wide(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(pixels)
    return image.resize((CELL_PX, round(CELL_PX * image.height / image.width)), Image.Resampling.LANCZOS)


# --- the diagram of the method ---


class Sheet:
    """A drawing in units of centimetres, with the few shapes that the diagram uses."""

    def __init__(self, width: float, height: float):
        self.figure, self.axes = plt.subplots(figsize=(width / 2.54, height / 2.54))
        self.axes.set(xlim=(0, width), ylim=(0, height))
        self.axes.axis("off")
        self.figure.subplots_adjust(0, 0, 1, 1)

    def box(self, x: float, y: float, w: float, h: float, text: str, kind: str) -> None:
        """A block with its lower left corner at (x, y)."""
        style = FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0,rounding_size=0.18", lw=1.3,
                               fc=LOOK[kind], ec=EDGE[kind], ls="--" if kind == "frozen" else "-")  # fmt: skip
        self.axes.add_patch(style)
        self.note(x + w / 2, y + h / 2, text, size=9, ha="center")

    def note(self, x: float, y: float, text: str, *, size: float = 8, ha: str = "left", **style) -> None:
        self.axes.text(x, y, text, fontsize=size, ha=ha, va="center", linespacing=1.35, **{"color": "#22242c", **style})

    def picture(self, pixels: np.ndarray, x: float, y: float, w: float, h: float) -> None:
        self.axes.imshow(pixels, extent=(x, x + w, y, y + h), aspect="auto", zorder=2, interpolation="bilinear")
        self.axes.add_patch(Rectangle((x, y), w, h, fill=False, ec=EDGE["data"], lw=1.3, zorder=3))
        self.axes.set(xlim=self.axes.get_xlim(), ylim=self.axes.get_ylim())

    def arrow(self, *points: tuple[float, float]) -> None:
        """A line through the points, with its head at the last."""
        for start, end in pairwise(points[:-1]):
            self.axes.plot(*zip(start, end, strict=True), color="#4a4d58", lw=1.2, solid_capstyle="round")
        self.axes.add_patch(FancyArrowPatch(points[-2], points[-1], arrowstyle="-|>", mutation_scale=10, lw=1.2,
                                            color="#4a4d58", shrinkA=0, shrinkB=0))  # fmt: skip


@dataclass(frozen=True)
class Example:
    """A frame of the embedded world, its command, the crop of the object, and Stage 2's target map over the frame."""

    frame: np.ndarray
    crop: np.ndarray
    target: np.ndarray
    command: str
    box_cxcywh: list[float]  # as shares of the frame


def example(spec: WorldSpec, frames: int = 60) -> Example:
    """The first short command about a large car away from the edge."""
    for index in range(frames):
        frame, rows, _ = make_frame(spec, "val", index)
        for row in rows:
            x, _, w, _ = row["2d_box"]
            if row["obj_name"] == "vehicle.car" and 300 < w < 520 and 40 < x < 1040 and len(row["command"]) < 60:
                return _example(picture(spec, frame, "val", index), row)
    raise DataError(f"no frame of {frames} shows a large car; draw with another seed")


def _example(pixels: np.ndarray, row: dict) -> Example:
    scale = pixels.shape[1] / 1600
    x, y, w, h = row["2d_box"]
    side, cx, cy = 1.25 * max(w, h), x + w / 2, y + h / 2
    left, top = max(0, round((cx - side / 2) * scale)), max(0, round((cy - side / 2) * scale))
    crop = pixels[top : top + round(side * scale), left : left + round(side * scale)]
    box = to_unit_cxcywh(torch.tensor([row["2d_box"]], dtype=torch.float64), (1600, 900)).float()
    heat = gaussian_targets(box, (20, 36)).reshape(20, 36).numpy()
    return Example(pixels, crop, np.asarray(overlay_heat(pixels, heat)), row["command"], box[0].tolist())


def method_diagram(shown: Example) -> plt.Figure:
    sheet = Sheet(32, 17)
    _stage_1(sheet, shown)
    _stage_2(sheet, shown)
    _legend(sheet)
    return sheet.figure


def _stage_1(sheet: Sheet, shown: Example) -> None:
    sheet.note(0.5, 16.4, "Stage 1   distillation on COCO regions", size=13, weight="bold")
    sheet.picture(shown.crop, 0.6, 11.6, 3.4, 3.4)
    sheet.note(2.3, 15.3, "region crop", ha="center")
    sheet.box(0.6, 9.6, 3.4, 1.1, '"a large car"', "data")
    sheet.box(6, 13.4, 5.4, 1.7, "student: ConvNeXt-Tiny,\nstrides 8, 16, 32 in one map", "trained")
    sheet.box(13, 13.4, 3.6, 1.7, "mean of the map,\nlinear", "trained")
    sheet.box(6, 11.4, 10.6, 1.4, "OpenCLIP image tower", "frozen")
    sheet.box(6, 9.45, 10.6, 1.4, "OpenCLIP text tower", "frozen")
    for y in (14.25, 12.1):
        sheet.arrow((4.0, y), (6, y))
    sheet.arrow((4.0, 10.15), (6, 10.15))
    sheet.arrow((11.4, 14.25), (13, 14.25))
    for y, name in ((14.25, "s"), (12.1, "v"), (10.15, "t")):
        sheet.arrow((16.6, y), (18.9, y))
        sheet.note(17.6, y + 0.32, name, size=11, ha="center", style="italic")
    sheet.box(19, 9.2, 0.9, 6.1, "", "data")
    sheet.note(19.45, 12.25, "unit vectors of dimension D", ha="center", rotation=90)
    losses = (
        (13.75, "$L_{clip}$   s finds its own text t among the batch's texts"),
        (11.6, "$L_{sim}$   logits s·t follow the teacher's v·t (KL)"),
        (9.45, "$L_{cos}$   s points where v points"),
    )
    for y, text in losses:
        sheet.box(21.6, y, 9.8, 1.35, text, "loss")
        sheet.arrow((19.9, y + 0.68), (21.6, y + 0.68))


def _stage_2(sheet: Sheet, shown: Example) -> None:
    sheet.axes.plot([0.5, 31.5], [8.75, 8.75], color="#c9ccd6", lw=1)
    sheet.note(0.5, 8.2, "Stage 2   grounding of Talk2Car commands", size=13, weight="bold")
    sheet.picture(shown.frame, 0.6, 4.4, 5.0, 2.8)
    sheet.box(0.6, 1.5, 5.0, 1.3, _two_lines(f'"{shown.command}"'), "data")
    sheet.box(7, 5.1, 4.5, 1.5, "student\n(Stage 1's weights)", "trained")
    sheet.box(7, 1.4, 4.5, 1.5, "OpenCLIP text tower,\nevery token", "frozen")
    sheet.box(13, 5.1, 4.1, 1.5, "cells of the map\n+ 2-D positions", "trained")
    sheet.box(13, 1.4, 4.1, 1.5, "[REG] + tokens,\nbidirectional layer", "trained")
    sheet.box(18.6, 2.9, 3.9, 2.2, "decoder layers:\nwords attend to\nwords, then to cells", "trained")
    for y in (5.85, 2.15):
        sheet.arrow((5.6, y), (7, y))
        sheet.arrow((11.5, y), (13, y))
    sheet.arrow((17.1, 5.85), (20.55, 5.85), (20.55, 5.1))
    sheet.arrow((17.1, 2.15), (20.55, 2.15), (20.55, 2.9))
    sheet.picture(shown.target, 24.2, 3.2, 4.6, 2.6)
    cx, cy, w, h = np.array(shown.box_cxcywh) * (4.6, 2.6, 4.6, 2.6)
    sheet.axes.add_patch(
        Rectangle((24.2 + cx - w / 2, 5.8 - cy - h / 2), w, h, fill=False, ec="#39d977", lw=1.3, zorder=4)
    )
    sheet.note(26.5, 6.15, "[REG] scores the cells", ha="center")
    sheet.arrow((22.5, 4.0), (24.2, 4.0))
    sheet.arrow((28.8, 4.5), (29.8, 4.5))
    sheet.note(29.95, 4.5, "box of the\nbest cell", size=9)
    sheet.box(24.2, 1.5, 7.2, 1.3, "cross-entropy to a Gaussian in the box,\nL1 + GIoU at the cells under it", "loss")


def _two_lines(text: str) -> str:
    words = text.split()
    half = (len(words) + 1) // 2
    return " ".join(words[:half]) + "\n" + " ".join(words[half:])


def _legend(sheet: Sheet) -> None:
    for number, (kind, text) in enumerate((("trained", "trained"), ("frozen", "frozen teacher"), ("data", "data"),
                                           ("loss", "loss"))):  # fmt: skip
        sheet.box(0.6 + 4 * number, 0.25, 0.9, 0.55, "", kind)
        sheet.note(1.7 + 4 * number, 0.52, text)


# --- files ---


def save_jpeg(image: Image.Image, path: Path) -> None:
    """Write under MAX_BYTES, at the best quality that fits."""
    for quality in range(92, 40, -6):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() < MAX_BYTES:
            break
    write_atomic(path, buffer.getvalue())


def save_figure(figure: plt.Figure, path: Path) -> None:
    """Write as a PNG of at most 256 colours: a diagram loses nothing by it and becomes a third of the size."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=130, facecolor="white")
    plt.close(figure)
    small = io.BytesIO()
    Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    write_atomic(path, small.getvalue())


def make(out: Path, run: str | None, shown_map: str) -> int:
    out.mkdir(parents=True, exist_ok=True)
    spec = WorldSpec(stored_wh=(800, 450))
    save_figure(method_diagram(example(spec)), out / "talk2car_kd_method.png")
    results = PACKAGE_ROOT / "results"
    folder = results / run if run else newest(results, BEST).parent
    print(f"pictures from {folder}")
    save_jpeg(result_strip(folder, shown_map), out / "talk2car_kd.jpg")
    return 0


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, default=WORKSPACE / "docs", help="folder for the pictures")
    arguments.add_argument("--run", help="run below results/ (default: the newest with a grounding model)")
    arguments.add_argument(
        "--map", default=MAPS[0], choices=MAPS, help="what the lower row shows (default: %(default)s)"
    )
    return arguments


if __name__ == "__main__":
    args = parser().parse_args()
    sys.exit(run_command(lambda: make(args.out, args.run, args.map)))
