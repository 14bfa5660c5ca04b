"""The pictures of the README: what trained models answer, and how the method works.

    python batvision_kd/benchmarks/pictures.py --out docs                    with what the demo left in results/demo
    python batvision_kd/benchmarks/pictures.py --out docs --results FOLDER   with that results/<plan> folder

batvision_kd_method.png  the method as a diagram; its picture, echo and depth are the embedded world's, no run is needed
batvision_kd.jpg         the comparison's own picture of evenly spread test images (not the best), its first rows. It
                         needs trained models: without the demo's results it stays as it is, and what to run is said
"""

import argparse
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from PIL import Image

from batvision_kd.config import PACKAGE_ROOT
from batvision_kd.spectrogram import SpectrogramSettings, echo_input
from batvision_kd.world import WorldSpec
from batvision_kd.world.sound import RATE
from batvision_kd.world.write import make_shot
from shared.errors import DataError
from shared.run import run_command
from shared.storage import write_atomic

DEMO = PACKAGE_ROOT / "results" / "demo"
MAX_BYTES = 300_000
WIDTH_PX = 1400
ROWS_SHARE = 0.53  # of the comparison's picture: title and half of its rows
SHOT = 8  # of the embedded world, for the diagram
LOOK = {"trained": "#d9ecff", "frozen": "#e9e9ee", "data": "#fff3d6", "loss": "#ffe0dc"}
EDGE = {"trained": "#2f7fc8", "frozen": "#8a8a96", "data": "#c99a2e", "loss": "#cc5b4c"}


# --- what trained models answer ---


def result_strip(results: Path) -> Image.Image:
    """The upper rows of results/<plan>/figures/predictions.png. DataError when there is none."""
    path = results / "figures" / "predictions.png"
    if not path.is_file():
        raise DataError(f"{path} is missing: finish a comparison first (train_distillation.py --experiments)")
    with Image.open(path) as whole:
        upper = whole.convert("RGB").crop((0, 0, whole.width, round(ROWS_SHARE * whole.height)))
    return upper.resize((WIDTH_PX, round(WIDTH_PX * upper.height / upper.width)), Image.Resampling.LANCZOS)


# --- how the method works ---


class Sheet:
    """A drawing in centimetres, with the few shapes that the diagram uses."""

    def __init__(self, width: float, height: float):
        self.figure = Figure(figsize=(width / 2.54, height / 2.54))
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height))
        self.axes.axis("off")
        self.limits = {"xlim": (0, width), "ylim": (0, height)}

    def box(self, x: float, y: float, w: float, h: float, text: str, kind: str) -> None:
        """A block with its lower left corner at (x, y)."""
        line = "--" if kind == "frozen" else "-"
        self.axes.add_patch(FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0,rounding_size=0.18", lw=1.3,
                                           fc=LOOK[kind], ec=EDGE[kind], ls=line))  # fmt: skip
        self.note(x + w / 2, y + h / 2, text, size=9, ha="center")

    def note(self, x: float, y: float, text: str, *, size: float = 8, ha: str = "left") -> None:
        self.axes.text(x, y, text, fontsize=size, ha=ha, va="center", linespacing=1.35, color="#22242c")

    def picture(self, pixels: np.ndarray, x: float, y: float, w: float, h: float, **options) -> None:
        self.axes.imshow(pixels, extent=(x, x + w, y, y + h), aspect="auto", zorder=2, **options)
        self.axes.add_patch(Rectangle((x, y), w, h, fill=False, ec=EDGE["data"], lw=1.3, zorder=3))
        self.axes.set(**self.limits)

    def arrow(self, *points: tuple[float, float]) -> None:
        """A line through the points, with its head at the last."""
        for start, end in pairwise(points[:-1]):
            self.axes.plot(*zip(start, end, strict=True), color="#4a4d58", lw=1.2)
        self.axes.add_patch(FancyArrowPatch(points[-2], points[-1], arrowstyle="-|>", mutation_scale=10, lw=1.2,
                                            color="#4a4d58", shrinkA=0, shrinkB=0))  # fmt: skip


@dataclass(frozen=True, eq=False)
class Example:
    """picture (H, W, 3) uint8, depth (H, W) metres with NaN in the holes, echoes (2, H, W) spectrograms."""

    picture: np.ndarray
    depth: np.ndarray
    echoes: torch.Tensor


def example(spec: WorldSpec, number: int = SHOT) -> Example:
    samples, picture, depth_mm = make_shot(spec, list(spec.shots())[number])
    echoes = echo_input(samples, RATE, SpectrogramSettings(size=(64, 128)), 12.0, "the embedded world")
    return Example(picture, np.where(depth_mm > 0, depth_mm / 1000, np.nan), echoes)


def method_diagram(shown: Example) -> Figure:
    sheet = Sheet(32, 13.6)
    _teacher(sheet, shown)
    _student(sheet, shown)
    _losses(sheet, shown)
    for number, (kind, text) in enumerate((("trained", "trained"), ("frozen", "frozen, training only"),
                                           ("data", "data"), ("loss", "loss"))):  # fmt: skip
        sheet.box(0.6 + 4.6 * number, 0.3, 0.9, 0.55, "", kind)
        sheet.note(1.7 + 4.6 * number, 0.57, text)
    return sheet.figure


def _teacher(sheet: Sheet, shown: Example) -> None:
    sheet.picture(shown.picture, 0.6, 9.6, 5.2, 2.93)
    sheet.note(3.2, 12.9, "camera (training only)", ha="center")
    sheet.box(7.2, 10.1, 11.4, 1.9, "RGB teacher: U-Net, encoder x1..x5, decoder d4..d1", "frozen")
    sheet.arrow((5.8, 11.05), (7.2, 11.05))
    sheet.arrow((18.6, 11.05), (23.4, 11.05))


def _student(sheet: Sheet, shown: Example) -> None:
    for place, name, echo in zip((4.6, 1.9), ("left ear", "right ear"), shown.echoes, strict=True):
        sheet.picture(echo.numpy(), 0.6, place, 5.2, 1.9, cmap="magma", origin="lower")
        sheet.note(3.2, place + 2.15, name, ha="center")
        sheet.box(7.2, place + 0.2, 3.2, 1.5, "encoder", "trained")
        sheet.arrow((5.8, place + 0.95), (7.2, place + 0.95))
        sheet.arrow((10.4, place + 0.95), (11.6, place + 0.95))
    sheet.box(11.6, 1.9, 3.2, 4.6, "cross attention\nbetween the ears,\nfused x1..x5", "trained")
    sheet.box(15.9, 3.2, 2.7, 2.0, "decoder\nd4..d1", "trained")
    sheet.arrow((14.8, 4.2), (15.9, 4.2))
    sheet.arrow((18.6, 4.2), (23.4, 4.2))
    sheet.arrow((17.25, 10.1), (17.25, 8.9))
    sheet.arrow((17.25, 5.2), (17.25, 7.4))


def _losses(sheet: Sheet, shown: Example) -> None:
    sheet.box(13.4, 7.4, 7.7, 1.5, "features: cosine on d1..d4,\nstatistics on x3..x5", "loss")
    sheet.box(23.4, 10.1, 8.0, 1.9, "teacher's depth, weighted by its confidence:\nHuber on the log ratio", "loss")
    sheet.box(23.4, 3.2, 8.0, 2.0, "student's depth (1,H,W), metres:\nL1 where depth was measured", "loss")
    sheet.arrow((27.4, 10.1), (27.4, 5.2))
    sheet.picture(shown.depth, 25.3, 0.2, 4.2, 2.37, cmap="viridis")
    sheet.note(30.6, 1.4, "measured\n(white: hole)", ha="center")
    sheet.arrow((27.4, 2.57), (27.4, 3.2))


# --- files ---


def save_jpeg(image: Image.Image, path: Path) -> None:
    """Write under MAX_BYTES, at the best quality that fits."""
    for quality in range(92, 40, -6):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() < MAX_BYTES:
            break
    write_atomic(path, buffer.getvalue())


def save_diagram(figure: Figure, path: Path) -> None:
    """Write as a PNG of at most 256 colours."""
    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, dpi=130, facecolor="white")
    Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    write_atomic(path, small.getvalue())


def make(out: Path, results: Path | None) -> int:
    out.mkdir(parents=True, exist_ok=True)
    save_diagram(method_diagram(example(WorldSpec())), out / "batvision_kd_method.png")
    print(f"wrote {out / 'batvision_kd_method.png'}")
    if results is None and not (DEMO / "figures").is_dir():
        print(f"{out / 'batvision_kd.jpg'} stays as it is: {DEMO} is not there; run the demo first, in {PACKAGE_ROOT}: "
              "python train_distillation.py --experiments --config config/demo.yaml")  # fmt: skip
        return 0
    save_jpeg(result_strip(results or DEMO), out / "batvision_kd.jpg")
    print(f"wrote {out / 'batvision_kd.jpg'} from {results or DEMO}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PACKAGE_ROOT.parent / "docs", help="folder for the pictures")
    parser.add_argument("--results", type=Path, help="results/<plan> (default: results/demo)")
    args = parser.parse_args(argv)
    return run_command(lambda: make(args.out, args.results))


if __name__ == "__main__":
    sys.exit(main())
