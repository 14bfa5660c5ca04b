"""Pictures: every kind of image and text goes in, boxes land where they belong, files stay in their folder."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shared.errors import DataError
from talk2car_kd import lettering
from talk2car_kd import visualization as vis
from talk2car_kd.evaluation import Record
from talk2car_kd.talk2car_annotations import Command

FRAME_WH = (1600, 900)
BIG_BOX = (400.0, 200.0, 600.0, 400.0)  # too large for an inset


def black(width=800, height=450):
    return Image.new("RGB", (width, height))


def extent(picture, colour):
    """x1, y1, x2, y2 (inclusive) of the pixels of exactly this colour, or None."""
    rows, columns = np.nonzero((np.asarray(picture) == colour).all(axis=2))
    return (columns.min(), rows.min(), columns.max(), rows.max()) if len(rows) else None


def panel_of(picture, width=800, height=450):
    return picture.crop((0, 0, width, height))


def record(image_path, token="token", text="stop here", **maps):
    command = Command(token, text, Path(image_path), "sample", "scene", BIG_BOX, "vehicle.car", {})
    return Record(7, command, (410.0, 210.0, 600.0, 400.0), maps)


# --- pixels ---


def test_denormalize_undoes_the_normalisation_exactly():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = torch.from_numpy(((pixels / 255 - mean) / std).transpose(2, 0, 1)).float()
    assert (vis.denormalize(image, mean, std) == pixels).all()
    assert vis.denormalize(torch.full((3, 2, 2), 1e6), mean, std).min() == 255  # clamped, not wrapped around
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 4\)"):
        vis.denormalize(torch.zeros(2, 3, 4, 4), mean, std)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"])
def test_every_mode_becomes_rgb(mode):
    ramp = np.tile(np.linspace(0, 250, 6).astype(np.uint8), (4, 1))
    grey = Image.fromarray(ramp)
    image = Image.fromarray(ramp.astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    assert image.mode == mode
    rgb = vis.to_rgb(image)
    assert rgb.mode == "RGB" and rgb.size == (6, 4)
    if mode != "HSV" and mode != "LAB":
        levels = np.asarray(rgb.convert("L"))[0].astype(int)
        assert levels[0] < 10 and levels[-1] > 240 and (np.diff(levels) >= 0).all()


def test_transparency_goes_on_white():
    assert vis.to_rgb(Image.new("RGBA", (2, 2), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (2, 2))
    palette.info["transparency"] = 0
    assert vis.to_rgb(palette).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 3), (4, 6, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, bool])
def test_arrays_become_rgb(shape, dtype):
    assert vis.to_rgb(np.ones(shape, dtype=dtype)).size == (6, 4)
    values = np.zeros(shape, dtype=np.float64)
    values[0, 0] = np.nan
    assert vis.to_rgb(values).mode == "RGB"


def test_other_number_ranges_are_stretched():
    assert np.asarray(vis.to_rgb(np.array([[0.0, 0.5, 1.0]])))[0, :, 0].tolist() == [0, 128, 255]
    assert np.asarray(vis.to_rgb(np.array([[1000, 3000]], dtype=np.uint16)))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("shape", [(4,), (4, 6, 2), (2, 4, 6, 3), (0, 6, 3)])
def test_arrays_that_are_no_picture_are_refused(shape):
    with pytest.raises(ValueError, match="a picture is"):
        vis.to_rgb(np.zeros(shape, dtype=np.uint8))


# --- one prediction ---


@pytest.mark.parametrize("size", [(800, 450), (1600, 900), (400, 225), (1296, 729)])
def test_boxes_land_on_their_place_whatever_the_files_size(size):
    truth = (800.0, 300.0, 700.0, 500.0)
    picture = vis.draw_prediction(black(*size), BIG_BOX, truth, "x", None, frame_wh=FRAME_WH, width_px=800)
    panel = panel_of(picture)
    assert extent(panel, vis.PREDICTION) == pytest.approx((200, 100, 500, 300), abs=3)
    _, top, right, bottom = extent(panel, vis.TRUTH)  # its left side lies under the prediction's
    assert (top, right, bottom) == pytest.approx((150, 750, 400), abs=3)


def test_without_a_frame_boxes_are_pixels_of_the_image():
    picture = vis.draw_prediction(black(400, 225), (100, 50, 200, 100), None, "x", None, width_px=800)
    assert extent(panel_of(picture), vis.PREDICTION) == pytest.approx((200, 100, 600, 300), abs=3)


def test_only_what_is_known_is_drawn():
    assert extent(vis.draw_prediction(black(), BIG_BOX, None, "x", None), vis.TRUTH) is None
    assert extent(vis.draw_prediction(black(), None, BIG_BOX, "x", None), vis.PREDICTION) is None


@pytest.mark.parametrize("box", [(1200, 600, 900, 900), (-50, -50, 500, 500), (0, 0, 1600, 900)])
def test_boxes_at_the_border_stay_visible_on_all_sides(box):
    panel = panel_of(vis.draw_prediction(black(), box, None, "x", None, frame_wh=FRAME_WH, width_px=800))
    left, top, right, bottom = extent(panel, vis.PREDICTION)
    pixels = (np.asarray(panel) == vis.PREDICTION).all(axis=2)
    rows, columns = slice(top, bottom + 1), slice(left, right + 1)
    for line in (pixels[top, columns], pixels[bottom, columns], pixels[rows, left], pixels[rows, right]):
        assert line.mean() > 0.9


def test_a_box_without_size_in_the_last_corner_is_still_seen():
    picture = vis.draw_prediction(black(), (1600, 900, 0, 0), None, "x", None, frame_wh=FRAME_WH, width_px=800)
    assert extent(picture.crop((700, 400, 800, 450)), vis.PREDICTION) is not None


def test_boxes_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        vis.draw_prediction(black(), (0, 0, float("nan"), 1), None, "x", None)


def test_small_objects_are_shown_again_enlarged_on_the_far_side():
    frame = black()
    frame.paste((0, 0, 255), (100, 200, 110, 210))  # a blue object of 10 px
    picture = vis.draw_prediction(frame, (200, 400, 20, 20), None, "x", None, frame_wh=FRAME_WH, width_px=800)
    far = np.asarray(picture.crop((400, 0, 800, 200)))
    assert ((far[..., 2] > 200) & (far[..., 0] < 60)).sum() > 20 * 10 * 10
    near = np.asarray(picture.crop((0, 0, 400, 190)))
    assert not near.any()


def test_the_mark_is_on_the_picture_itself():
    plain = vis.draw_prediction(black(), BIG_BOX, None, "x", None)
    marked = vis.draw_prediction(black(), BIG_BOX, None, "x", None, "embedded data")
    assert extent(panel_of(plain), vis.AMBER) is None
    assert extent(panel_of(marked, 960, 540), vis.AMBER) is not None


@pytest.mark.parametrize("iou, colour", [(0.51, vis.TRUTH), (0.5, vis.MISS), (0.0, vis.MISS), (None, None)])
def test_the_verdict_follows_the_strict_rule(iou, colour):
    picture = vis.draw_prediction(black(), BIG_BOX, None, "x", iou)
    for other in (vis.TRUTH, vis.MISS):
        assert (extent(picture, other) is not None) == (other == colour)


COMMANDS = [
    "",
    " \n\t ",
    "x" * 3000,
    "stop " * 3000,
    "вправо за красной машиной — café ⚠",
    "停在那辆红色的车后面 🚗",
    "\u202eevil\u0000\x1b[31m",
    "\ud800 lone surrogate",
]


@pytest.mark.parametrize(
    "command, size",
    [*((command, (400, 225)) for command in COMMANDS), *(("stop", size) for size in [(1, 1), (3, 4000), (4000, 3)])],
)
def test_any_command_on_any_shape_gives_a_bounded_picture(command, size):
    heat, box = np.ones((2, 3)), (0, 0, 1, 1)
    picture = vis.draw_prediction(black(*size), box, box, command, 0.7, "embedded data", heat=heat)
    assert 400 <= picture.width <= 2000 and picture.height <= 2000
    assert picture.mode == "RGB"


def test_text_is_shown_in_the_strip():
    strips = [
        np.asarray(vis.draw_prediction(black(), None, None, command, None).crop((0, 540, 960, 580)))
        for command in ("stop here", "stop there", "")
    ]
    assert all((strip == vis.PAPER).all(axis=2).any() for strip in strips[:2])
    assert not np.array_equal(strips[0], strips[1])
    assert (strips[2] != vis.INK).any()  # "(empty command)", muted
    assert not (strips[2] == vis.PAPER).all(axis=2).any()


def test_wrapping_keeps_the_words_and_the_width():
    font = lettering.dejavu(18)
    text = "turn right after the second parked car and stop next to the man in the orange jacket"
    lines = lettering.wrapped(text, font, 300, lines=9)
    assert " ".join(lines) == text and len(lines) > 2
    for sample in (text, "y" * 200, "a " + "w" * 100):
        cut = lettering.wrapped(sample, font, 300, lines=2)
        assert len(cut) == 2 and cut[-1].endswith("…")
        assert all(font.getlength(line) <= 300 for line in cut)


@pytest.mark.fault(21)
def test_printable_text_is_one_bounded_line():
    assert lettering.printable("a\n b\tc\u202e\x00d") == "a b cd"
    assert len(lettering.printable("z" * 10**6)) == lettering.MAX_CHARACTERS


# --- heat ---


def test_scores_become_heat_relative_to_the_peak():
    scores = np.array([[0.0, 1.0], [3.0, -np.inf]])
    heat = vis.heat_of_scores(scores)
    assert heat.max() == heat[1, 0] == 1.0 and heat[1, 1] == 0.0
    assert np.allclose(vis.heat_of_scores(scores + 1000), heat)
    assert heat[0, 1] / heat[0, 0] == pytest.approx(np.e)


def test_heat_glows_where_it_is_hot_and_dims_the_rest():
    heat = np.zeros((4, 8))
    heat[1, 6] = 0.2
    shown = np.asarray(vis.overlay_heat(Image.new("RGB", (800, 400), (90, 90, 90)), heat)).astype(int).sum(axis=2)
    row, column = np.unravel_index(shown.argmax(), shown.shape)
    assert 100 <= row < 200 and 600 <= column < 700
    assert shown[300:, :400].max() < 270  # dimmer than the grey it was


def test_heat_without_a_peak_and_heat_that_is_none():
    grey = Image.new("RGB", (80, 40), (90, 90, 90))
    assert np.asarray(vis.overlay_heat(grey, np.zeros((2, 2)))).std() == 0
    for bad in (np.array([[-1.0]]), np.array([[np.nan]]), np.zeros(4)):
        with pytest.raises(ValueError, match="heat map"):
            vis.overlay_heat(grey, bad)


def test_a_heat_map_adds_a_panel():
    one = vis.draw_prediction(black(), BIG_BOX, None, "x", None, width_px=800)
    two = vis.draw_prediction(black(), BIG_BOX, None, "x", None, width_px=800, heat=np.ones((2, 2)))
    assert one.width == 800 and 1600 <= two.width < 1620
    assert extent(two.crop((804, 0, two.width, 450)), vis.PREDICTION) is not None


def test_attention_comes_before_scores():
    attention, scores = np.full((2, 2), 0.25), np.zeros((2, 2))
    assert vis.heat_of(record("x", attention=attention, score_map=scores)) is attention
    assert (vis.heat_of(record("x", score_map=scores)) == 1).all()
    assert vis.heat_of(record("x")) is None


# --- many pictures, files ---


def test_contact_sheet_holds_every_picture():
    colours = [(250, 10 * i, 0) for i in range(5)]
    pictures = [Image.new("RGB", (300, 100 + 20 * i), colour) for i, colour in enumerate(colours)]
    sheet = vis.contact_sheet(pictures, columns=2, cell_width_px=200, title="T")
    assert all(extent(sheet, colour) is not None for colour in colours)
    assert 400 < sheet.width < 460
    assert extent(sheet, colours[0])[1] == extent(sheet, colours[1])[1] < extent(sheet, colours[2])[1]
    assert vis.contact_sheet([black()], columns=3, cell_width_px=200).width < 240
    with pytest.raises(ValueError, match="at least one"):
        vis.contact_sheet([])


HOSTILE = [
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a/b",
    "a\\b",
    "a\0b",
    "c:x",
    "x" * 5000,
    "ü",
    "\ud800",
    "-rf",
]


@pytest.mark.fault(21)
def test_file_names_cannot_leave_the_folder(tmp_path):
    names = [vis.safe_file_name(text) for text in HOSTILE]
    assert len(set(names)) == len(HOSTILE)
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.jpg", name) and len(name) < 100
        assert (tmp_path / name).resolve().parent == tmp_path.resolve()
    assert vis.safe_file_name("00007-abc") == "00007-abc.jpg"  # a plain name stays as it is


@pytest.mark.fault(21)
@pytest.mark.parametrize("suffix, kind", [(".jpg", "JPEG"), (".png", "PNG")])
def test_pictures_are_saved_whole(tmp_path, suffix, kind):
    path = vis.save_picture(black(), tmp_path, "../x", suffix)
    assert list(tmp_path.iterdir()) == [path]
    with Image.open(path) as image:
        image.load()
        assert image.format == kind and image.size == (800, 450)


@pytest.mark.fault(21)
def test_records_are_drawn_from_their_frames(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    black(400, 225).save(tmp_path / "frame.png")
    records = [
        record(tmp_path / "frame.png"),
        record(tmp_path / "frame.png", token="../../x", score_map=np.zeros((2, 3), dtype=np.float32)),
    ]
    paths = vis.visualize_records(records, out, frame_wh=FRAME_WH, mark="embedded data")
    assert paths[0] == out / "00007-token.jpg"
    assert sorted(out.iterdir()) == sorted(paths) and len(list(tmp_path.iterdir())) == 2
    widths = [Image.open(path).size[0] for path in paths]
    assert widths[1] > 1.9 * widths[0]
    drawn = vis.draw_record(records[0], FRAME_WH, width_px=800)
    assert extent(panel_of(drawn), vis.PREDICTION) == pytest.approx((205, 105, 505, 305), abs=3)
    with pytest.raises(DataError, match=r"gone\.jpg"):
        vis.visualize_records([record(tmp_path / "gone.jpg")], out, frame_wh=FRAME_WH)


@pytest.mark.real
def test_real_pictures_of_odd_kind(real_samples):
    folder = real_samples / "talk2car"
    figure = Image.open(folder / "images" / "readme_example_annotated.png")
    assert figure.mode == "RGBA"
    assert vis.draw_prediction(figure, (10, 10, 300, 200), None, "x", None).width == 960
    overlay = sorted((folder / "images_overlay").glob("*.jpg"))[0]
    picture = vis.draw_record(record(overlay), FRAME_WH, "overlay frames: not a score", width_px=800)
    # JPEG frames hold no pixel of exactly this colour by chance; the box is scaled from 1600 to 1296 and on to 800
    assert extent(panel_of(picture), vis.PREDICTION) == pytest.approx((205, 105, 505, 305), abs=3)
