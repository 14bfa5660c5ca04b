"""Pictures of predictions: the frame, both boxes, the command, the IoU, and where the model looked.

Ground truth is green, the prediction orange. The strip below a picture carries the command and the verdict; a small
object is shown again enlarged; `mark` ("embedded data", "overlay frames: not a score") stands on the picture itself so
that it survives copying. Drawn with Pillow alone. Boxes are given in pixels of the annotation frame and scaled to
whatever size the file has.
"""

# h, w cells of a map; H, W pixels of an image.

import hashlib
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from shared.checkpoint import write_atomic
from talk2car_kd.evaluation import Record
from talk2car_kd.images import read_rgb
from talk2car_kd.lettering import dejavu, printable, wrapped

Box = Sequence[float]  # [x, y, w, h]
Colour = tuple[int, int, int]

TRUTH: Colour = (57, 217, 119)
PREDICTION: Colour = (255, 112, 41)
MISS: Colour = (235, 77, 75)
AMBER: Colour = (255, 200, 61)
INK: Colour = (22, 25, 32)
PAPER: Colour = (240, 242, 246)
MUTED: Colour = (150, 158, 172)

PANEL_WIDTH_PX = 960
MAX_HEIGHT_PX = 1600  # of a panel, whatever the aspect ratio of the file
MIN_STRIP_PX = 420
MAX_LINES = 4
INSET_BELOW = 0.17  # objects narrower and lower than this share of the panel are shown again, enlarged
HEAT_STOPS = np.array([[20, 11, 52], [114, 31, 129], [222, 73, 104], [254, 159, 82], [252, 253, 191]], dtype=float)


# --- pixels ---


def denormalize(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """(3, H, W) float, normalised by (x - mean) / std with x in 0..1 -> (H, W, 3) uint8 RGB."""
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"denormalize takes one image (3, H, W), got {tuple(image.shape)}")
    image = image.detach().float().cpu()
    pixels = image * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    return (pixels * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


def to_rgb(image: Image.Image | np.ndarray) -> Image.Image:
    """Any picture as 8-bit RGB: transparency goes on white, 16-bit and float greys are stretched to 0..255.

    Arrays are (H, W) or (H, W, 1 | 3 | 4), uint8 as they are, other types stretched.
    """
    if isinstance(image, np.ndarray):
        image = _from_array(image)
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_stretched(np.asarray(image, dtype=np.float64))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _from_array(array: np.ndarray) -> Image.Image:
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise ValueError(f"a picture is (H, W) or (H, W, 1 | 3 | 4), got {array.shape}")
    return Image.fromarray(array if array.dtype == np.uint8 else _stretched(array.astype(np.float64)))


def _stretched(values: np.ndarray) -> np.ndarray:
    values = np.nan_to_num(values)
    low, high = values.min(), values.max()
    return ((values - low) * (255 / (high - low or 1))).round().astype(np.uint8)


# --- one prediction ---


def draw_prediction(
    image: Image.Image | np.ndarray,
    predicted_xywh_px: Box | None,
    truth_xywh_px: Box | None,
    command: str,
    iou: float | None,
    mark: str | None = None,
    *,
    frame_wh: tuple[int, int] | None = None,
    heat: np.ndarray | None = None,
    width_px: int = PANEL_WIDTH_PX,
) -> Image.Image:
    """The picture of one command.

    Boxes are pixels of `frame_wh` (the image's own size when None). `heat` (h, w), not negative, adds a second panel
    with the heat laid over the frame. `width_px` is the width of a panel. Returns an RGB image.
    """
    image = to_rgb(image)
    frame_wh = frame_wh or image.size
    panel = _resized(image, width_px)
    boxes = [(truth_xywh_px, TRUTH), (predicted_xywh_px, PREDICTION)]
    boxes = [(_corners(box, frame_wh, panel.size), colour) for box, colour in boxes if box is not None]
    plain = _with_boxes(panel, boxes)
    _paste_inset(plain, panel, boxes)
    panels = [plain] if heat is None else [plain, _with_boxes(overlay_heat(panel, heat), boxes, line_px=2)]
    picture = _at_least(_beside(panels), MIN_STRIP_PX)
    if mark:
        _draw_mark(picture, mark)
    return _stacked([picture, _caption(picture.width, command, iou, [colour for _, colour in boxes])])


def _corners(box: Box, frame_wh: tuple[int, int], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Corners in the panel, inside it and at least a pixel apart."""
    if not np.isfinite(box).all():
        raise ValueError(f"cannot draw a box that is not finite: {list(box)}")
    x, y, w, h = box
    scale_x, scale_y = size[0] / frame_wh[0], size[1] / frame_wh[1]
    left, right = np.clip([x * scale_x, (x + w) * scale_x], 0, size[0] - 1)
    top, bottom = np.clip([y * scale_y, (y + h) * scale_y], 0, size[1] - 1)
    return float(left), float(top), float(max(right, left)), float(max(bottom, top))


def _with_boxes(panel: Image.Image, boxes: Sequence[tuple], line_px: int | None = None) -> Image.Image:
    picture = panel.copy()
    draw = ImageDraw.Draw(picture)
    line = line_px or max(2, round(panel.width / 320))
    for box, colour in boxes:  # a dark rim keeps the colour readable on any ground
        draw.rectangle(_grown(box, line + 1, panel.size, 0), outline=INK, width=line + 2)
        draw.rectangle(_grown(box, line, panel.size, 1), outline=colour, width=line)
    return picture


def _grown(box: Sequence[float], by_px: int, size: tuple[int, int], inside_px: int) -> tuple[float, ...]:
    """Corners moved outwards so that the line lies around the box, but never off the panel."""
    left, top, right, bottom = box
    high_x, high_y = size[0] - 1 - inside_px, size[1] - 1 - inside_px
    low = (max(left - by_px, inside_px), max(top - by_px, inside_px))
    high = (max(min(right + by_px, high_x), low[0]), max(min(bottom + by_px, high_y), low[1]))
    return (*low, *high)


def _paste_inset(picture: Image.Image, panel: Image.Image, boxes: Sequence[tuple]) -> None:
    """Show what the boxes hold once more, enlarged, in the top corner that is farther away."""
    if not boxes:
        return
    corners = np.array([box for box, _ in boxes])
    low, high = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
    side, edge = max(24.0, 1.8 * float((high - low).max())), round(0.36 * panel.height)
    if max((high - low) / panel.size) > INSET_BELOW or side > 0.5 * min(panel.size) or edge > 0.5 * panel.width:
        return
    centre = (low + high) / 2
    origin = np.clip(centre - side / 2, 0, np.array(panel.size) - side)
    crop = panel.resize((edge, edge), Image.Resampling.BICUBIC, box=(*origin, *(origin + side)))
    zoom = edge / side
    inside = [(tuple((np.array(box).reshape(2, 2) - origin).ravel() * zoom), colour) for box, colour in boxes]
    crop = _framed(_with_boxes(crop, inside, max(2, round(panel.width / 480))), PAPER)
    margin = round(panel.height / 50)
    left = panel.width - crop.width - margin if centre[0] < panel.width / 2 else margin
    picture.paste(crop, (left, margin))


def _framed(image: Image.Image, colour: Colour) -> Image.Image:
    ImageDraw.Draw(image).rectangle((0, 0, image.width - 1, image.height - 1), outline=colour, width=2)
    return image


def _draw_mark(picture: Image.Image, mark: str) -> None:
    draw = ImageDraw.Draw(picture)
    font = dejavu(max(11, round(min(picture.width, PANEL_WIDTH_PX) / 60)), bold=True)
    pad = font.size // 2
    text = wrapped(mark.upper(), font, picture.width - 4 * pad, lines=1)[0]
    width, height = font.getlength(text) + 2 * pad, font.size + 2 * pad
    left, top = pad, picture.height - height - pad
    draw.rounded_rectangle((left, top, left + width, top + height), radius=pad, fill=AMBER, outline=INK)
    draw.text((left + pad, top + height / 2), text, font=font, fill=INK, anchor="lm")


# --- the strip below a picture ---


def _caption(width: int, command: str, iou: float | None, legend: Sequence[Colour]) -> Image.Image:
    size = int(np.clip(width / 44, 13, 24))
    font, small, pad = dejavu(size), dejavu(round(0.72 * size)), size
    text = printable(command)
    lines = wrapped(text or "(empty command)", font, width - 2 * pad, MAX_LINES)
    strip = Image.new("RGB", (width, round(1.35 * size * len(lines) + 2.2 * pad + 1.2 * small.size)), INK)
    draw = ImageDraw.Draw(strip)
    for row, line in enumerate(lines):
        draw.text((pad, 0.7 * pad + 1.35 * size * row), line, font=font, fill=PAPER if text else MUTED)
    baseline = strip.height - 0.75 * pad - small.size / 2
    _draw_legend(draw, pad, baseline, small, legend)
    if iou is not None:
        _draw_verdict(draw, width - pad, baseline, small, iou)
    return strip


def _draw_legend(draw: ImageDraw.ImageDraw, left: float, middle: float, font, colours: Sequence[Colour]) -> None:
    for colour in colours:
        half = font.size * 0.36
        draw.rectangle((left, middle - half, left + 2 * half, middle + half), outline=colour, width=2)
        left += 2 * half + font.size / 2
        name = "ground truth" if colour == TRUTH else "prediction"
        draw.text((left, middle), name, font=font, fill=MUTED, anchor="lm")
        left += font.getlength(name) + 1.5 * font.size


def _draw_verdict(draw: ImageDraw.ImageDraw, right: float, middle: float, font, iou: float) -> None:
    text = f"IoU {iou:.2f}  {'hit' if iou > 0.5 else 'miss'}"
    pad = 0.6 * font.size
    left = right - font.getlength(text) - 2 * pad
    box = (left, middle - font.size / 2 - 0.6 * pad, right, middle + font.size / 2 + 0.6 * pad)
    draw.rounded_rectangle(box, radius=pad, fill=TRUTH if iou > 0.5 else MISS)
    draw.text((left + pad, middle), text, font=font, fill=INK if iou > 0.5 else PAPER, anchor="lm")


# --- where the model looked ---


def heat_of_scores(score_map: np.ndarray) -> np.ndarray:
    """Cell logits (h, w) -> softmax, relative to its peak, in 0..1."""
    score_map = np.asarray(score_map, dtype=np.float64)
    return np.exp(score_map - score_map.max())


def overlay_heat(image: Image.Image | np.ndarray, heat: np.ndarray, *, strength: float = 0.8) -> Image.Image:
    """Lay a heat map (h, w), not negative, over an image: hot cells glow, the rest is dimmed. Returns RGB.

    The map is scaled to its own peak; the square root keeps weaker places visible. ValueError for negative or
    non-finite values.
    """
    image, heat = to_rgb(image), np.asarray(heat, dtype=np.float32)
    if heat.ndim != 2 or not np.isfinite(heat).all() or heat.min() < 0:
        raise ValueError(f"a heat map is (h, w), finite and not negative; got shape {heat.shape}")
    level = np.sqrt(heat / (heat.max() or 1))
    smooth = Image.fromarray(level).resize(image.size, Image.Resampling.BICUBIC)
    level = np.asarray(smooth).clip(0, 1)[..., None]
    stops = np.linspace(0, 1, len(HEAT_STOPS))
    colour = np.concatenate([np.interp(level, stops, HEAT_STOPS[:, c]) for c in range(3)], axis=2)
    ground = np.asarray(image) * (1 - 0.45 * strength * (1 - level))
    cover = strength * level
    return Image.fromarray((ground * (1 - cover) + colour * cover).round().clip(0, 255).astype(np.uint8))


def heat_of(record: Record) -> np.ndarray | None:
    """What a record tells of where the model looked: its attention, else its cell scores, else None."""
    if "attention" in record.maps:
        return record.maps["attention"]
    return heat_of_scores(record.maps["score_map"]) if "score_map" in record.maps else None


# --- many pictures ---


def contact_sheet(
    pictures: Sequence[Image.Image], *, columns: int = 3, cell_width_px: int = 480, title: str | None = None
) -> Image.Image:
    """Pictures in rows on one dark sheet, each scaled to the cell's width; ValueError without pictures."""
    if not pictures:
        raise ValueError("a contact sheet needs at least one picture")
    columns, gap = min(columns, len(pictures)), 12
    cells = [_resized(to_rgb(picture), cell_width_px) for picture in pictures]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    head = _heading(columns * (cell_width_px + gap) - gap, title) if title else None
    return _stacked([*([head] if head else []), *(_beside(row, gap) for row in rows)], gap, border=gap)


def _heading(width: int, title: str) -> Image.Image:
    font = dejavu(22, bold=True)
    lines = wrapped(printable(title), font, width, lines=2)
    heading = Image.new("RGB", (width, 32 * max(1, len(lines))), INK)
    for row, line in enumerate(lines):
        ImageDraw.Draw(heading).text((0, 32 * row), line, font=font, fill=PAPER)
    return heading


def _resized(image: Image.Image, width_px: int) -> Image.Image:
    scale = min(width_px / image.width, MAX_HEIGHT_PX / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _beside(images: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    sheet = Image.new("RGB", (width, max(image.height for image in images)), INK)
    left = 0
    for image in images:
        sheet.paste(image, (left, 0))
        left += image.width + gap
    return sheet


def _at_least(image: Image.Image, width_px: int) -> Image.Image:
    """The image in the middle of a dark ground when it is narrower than the caption needs."""
    if image.width >= width_px:
        return image
    ground = Image.new("RGB", (width_px, image.height), INK)
    ground.paste(image, ((width_px - image.width) // 2, 0))
    return ground


def _stacked(images: Sequence[Image.Image], gap: int = 0, *, border: int = 0) -> Image.Image:
    width = max(image.width for image in images)
    height = sum(image.height for image in images) + gap * (len(images) - 1)
    sheet = Image.new("RGB", (width + 2 * border, height + 2 * border), INK)
    top = border
    for image in images:
        sheet.paste(image, (border, top))
        top += image.height + gap
    return sheet


# --- files ---


def safe_file_name(text: str, suffix: str = ".jpg", *, limit: int = 64) -> str:
    """A file name made of letters, digits, "-", "_" and "." that cannot leave its folder.

    Text that had to be changed gets a short hash, so that two texts never share a name.
    """
    kept = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.")[:limit]
    if kept != text or not kept:
        kept = f"{kept}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}".lstrip("-")
    return kept + suffix


def save_picture(image: Image.Image, folder: Path, text: str, suffix: str = ".jpg") -> Path:
    """Write a picture atomically under a safe name made of `text`; the suffix (.jpg, .png) decides the format."""
    path = Path(folder) / safe_file_name(text, suffix)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG" if suffix == ".jpg" else suffix[1:].upper(), quality=90)
    write_atomic(path, buffer.getvalue())
    return path


def draw_record(record: Record, frame_wh: tuple[int, int], mark: str | None = None, **options) -> Image.Image:
    """`draw_prediction` for a record of evaluation.predict: reads the frame, adds the heat panel when it has maps.

    DataError names a frame that cannot be read.
    """
    command = record.command
    return draw_prediction(
        read_rgb(command.image_path),
        record.predicted_xywh_px,
        command.box_xywh_px,
        command.text,
        record.iou,
        mark,
        frame_wh=frame_wh,
        heat=heat_of(record),
        **options,
    )


def visualize_records(
    records: Sequence[Record], folder: Path, *, frame_wh: tuple[int, int], mark: str | None = None
) -> list[Path]:
    """Write a picture for every record, `<index>-<command token>.jpg`, into an existing folder; returns the paths."""
    return [
        save_picture(draw_record(record, frame_wh, mark), folder, f"{record.index:05d}-{record.command.command_token}")
        for record in records
    ]
