"""The pictures of the embedded world: boxes lie on what is drawn, colours are those named, COCO rows fit the masks."""

import re
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest

from talk2car_kd.world import WorldSpec, coco_like
from talk2car_kd.world.camera import Camera
from talk2car_kd.world.canvas import SUPERSAMPLE, Canvas
from talk2car_kd.world.preview import sheet
from talk2car_kd.world.scene import hidden_share, sample_identity
from talk2car_kd.world.spec import KINDS, PAINTS
from talk2car_kd.world.street import LIGHTS
from talk2car_kd.world.talk2car_like import make_frame, picture
from talk2car_kd.world.things import draw_things, paint_of, with_box

SPEC = WorldSpec(seed=5)
FLAT = Camera((1600, 900), 1266.0, (800.0, 460.0), 1.5)


def seen_box(mask: np.ndarray, scale: float) -> list[float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [v / scale for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]


def iou(a, b) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(0.0, width) * max(0.0, height)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def drawn(things, light=LIGHTS[0], stored_wh=(800, 450)) -> Canvas:
    canvas = Canvas((1600, 900), stored_wh, with_ids=True)
    canvas.image[:] = (98, 99, 103)
    draw_things(canvas, FLAT, light, things)
    return canvas


def one(kind: str, colour: str, yaw: float, z: float = 14.0, x: float = 0.6, seed: int = 0):
    thing = sample_identity(kind, colour, np.random.default_rng(seed))
    return with_box(replace(thing, x_m=x, z_m=z, yaw_rad=yaw, place="road"), FLAT)


def test_a_point_on_the_road_axis_falls_on_the_vanishing_column():
    points = FLAT.project(np.array([[0.0, 0.0, 10.0], [0.0, 1.5, 50.0], [1.0, 1.5, 1266.0]]))
    assert points.tolist() == [[800.0, 460.0 + 126.6 * 1.5], [800.0, 460.0], [801.0, 460.0]]


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("yaw", [0.0, 0.9, np.pi / 2, np.pi, -np.pi / 2])
def test_a_box_is_the_extent_of_what_is_drawn(kind, yaw):
    thing = one(kind, "orange", yaw)
    x, y, w, h = thing.box_xywh
    found = seen_box(drawn([thing]).ids == 1, SUPERSAMPLE * 800 / 1600)
    assert iou((x, y, x + w, y + h), found) > 0.9


def test_boxes_are_clipped_to_the_frame():
    thing = one("car", "red", 0.0, z=7.0, x=-4.0)
    x, y, w, h = thing.box_xywh
    assert x == 0 and w > 0 and y + h <= 900 and thing.whole_xywh[0] < 0 and 0 < thing.inside_share < 1


def test_hidden_share_bounds_what_the_drawing_hides():
    """The bound used for placing is never below the share of silhouette pixels that nearer things really cover."""
    checked = 0
    for index in range(12):
        things = make_frame(SPEC, "train", index)[0].things
        together = drawn(things).ids
        for number, thing in enumerate(things):
            alone = drawn([thing]).ids == 1
            if alone.sum() > 400:
                visible = (together == number + 1).sum() / alone.sum()
                assert visible > 0.55
                checked += hidden_share(thing, things) > 0.05
    assert checked > 3  # some things do cover others


def hues(pixels: np.ndarray) -> Counter:
    """How many of the pixels (N, 3) are of each chromatic colour word; gray ones are left out."""
    hsv = cv2.cvtColor(pixels[None], cv2.COLOR_RGB2HSV)[0]
    vivid = hsv[(hsv[:, 1] > 110) & (hsv[:, 2] > 50)]
    words = np.array(["red", "orange", "yellow", "green", "blue", "red"])
    return Counter(words[np.searchsorted([4, 18, 35, 85, 150], vivid[:, 0])].tolist())


@pytest.mark.parametrize("light", LIGHTS, ids=lambda light: light.name)
def test_a_vehicle_looks_like_its_colour(light):
    """In every light the vivid pixels of a coloured vehicle have its hue; white is bright, gray between, black dark."""
    for kind in ("car", "truck", "bus"):
        for colour in ("red", "orange", "yellow", "green", "blue"):
            canvas = drawn([one(kind, colour, 0.5)], light)
            found = hues(canvas.image[canvas.ids == 1])
            assert found.most_common(1)[0][0] == colour and found[colour] > 0.7 * found.total(), (kind, colour, found)
        images = [drawn([one(kind, colour, 0.5)], light).image.mean(axis=2) for colour in ("black", "gray", "white")]
        painted = images[0] != images[2]  # leaves windows, tyres and the road out
        black, gray, white = (np.median(image[painted]) for image in images)
        assert black + 45 < gray and gray + 45 < white, (kind, black, gray, white)


def test_paints_never_become_another_colour():
    rng = np.random.default_rng(0)
    for colour in PAINTS:
        for _ in range(200):
            paint = np.array(paint_of(colour, rng))
            assert min(PAINTS, key=lambda name: np.abs(paint - PAINTS[name][1]).sum()) == colour


def test_pictures_differ_in_light_and_repeat_exactly():
    frames = [make_frame(SPEC, "val", index)[0] for index in range(0, 24, 4)]
    pictures = [picture(SPEC, frame, "val", index) for index, frame in zip(range(0, 24, 4), frames, strict=True)]
    assert np.std([p.mean() for p in pictures]) > 2
    assert np.array_equal(picture(SPEC, frames[0], "val", 0), pictures[0])
    assert len({frame.street.light.name for frame in frames}) > 1


def test_frames_of_a_scene_share_their_street():
    frames = [make_frame(SPEC, "train", index)[0] for index in range(5)]
    assert all(frame.street == frames[0].street for frame in frames[:4]) and frames[4].street != frames[0].street
    assert len({frame.travelled_m for frame in frames[:4]}) == 4


def test_preview_is_a_grid_of_tiles():
    assert sheet(SPEC, frames=2, columns=2).size == (2 * 640 + 6, 404)


# ---- COCO


@pytest.fixture(scope="module")
def views():
    return [coco_like.make_view(SPEC, "train2017", index) for index in range(150)]


def annotations(views):
    return [row for _, _, rows, _ in views for row in rows]


def decode(rle: dict) -> np.ndarray:
    """COCO's uncompressed run lengths, read by their definition."""
    values = np.repeat(np.arange(len(rle["counts"])) % 2, rle["counts"])
    return values.reshape(rle["size"], order="F")


def test_sizes_are_spread_as_in_coco(views):
    areas = np.array([row["area"] for row in annotations(views) if not row["iscrowd"]])
    shares = [np.mean(areas < 1024), np.mean((areas >= 1024) & (areas < 9216)), np.mean(areas >= 9216)]
    assert shares == pytest.approx([0.41, 0.34, 0.24], abs=0.09)
    sides = np.array([min(row["bbox"][2:]) for row in annotations(views)])
    assert 3 <= sides.min() < 5 and 0.03 < np.mean(sides < 8) < 0.3


def test_mask_area_is_not_box_area(views):
    rows = [row for row in annotations(views) if not row["iscrowd"]]
    fill = np.array([row["area"] / (row["bbox"][2] * row["bbox"][3]) for row in rows])
    assert fill.max() <= 1.0 and 0.5 < fill.mean() < 0.8


def test_polygons_cover_the_mask_and_area_counts_it(views):
    for view, _, rows, _ in views[:25]:
        _, ids = coco_like.draw_view(view, (320, 240), np.random.default_rng(0))
        for row in (row for row in rows if not row["iscrowd"]):
            mask, filled = ids == row["thing"] + 1, np.zeros_like(ids)
            outlines = [np.rint(np.array(p).reshape(-1, 2) * SUPERSAMPLE).astype(np.int32) for p in row["segmentation"]]
            for outline in outlines:
                cv2.fillPoly(filled, [outline], 1)
            assert row["area"] == mask.sum() / SUPERSAMPLE**2
            assert (filled[mask] == 1).mean() > 0.95


def test_crowds_are_run_lengths_of_their_mask(views):
    crowds = [row for row in annotations(views) if row["iscrowd"]]
    assert 3 <= len(crowds) <= 40
    for row in crowds:
        mask = decode(row["segmentation"])
        assert mask.shape == (240, 320) and mask.sum() == pytest.approx(row["area"], rel=0.3, abs=12)
        box = row["bbox"]
        found = seen_box(mask, 1.0)
        assert iou((box[0], box[1], box[0] + box[2], box[1] + box[3]), found) > 0.6


def test_run_lengths_start_with_zeros():
    assert coco_like.run_lengths(np.array([[1, 0], [1, 1]], np.uint8)) == {"counts": [0, 2, 1, 1], "size": [2, 2]}
    assert coco_like.run_lengths(np.zeros((2, 3), np.uint8))["counts"] == [6]


def test_boxes_lie_in_the_picture(views):
    for row in annotations(views):
        x, y, w, h = row["bbox"]
        assert x >= 0 and y >= 0 and x + w <= 320 and y + h <= 240


def test_five_captions_name_colours_and_places_and_repeat(views):
    texts = [text for *_, captions in views for text in captions]
    assert all(len(captions) == 5 for *_, captions in views)
    assert np.mean([bool(re.search("|".join(PAINTS), text)) for text in texts]) > 0.6
    assert any(re.search("parked (beside|next to|near)", text) for text in texts)
    assert len(set(texts)) < len(texts)
    assert all(text[0].isupper() and text.endswith(".") for text in texts)


def test_captions_name_only_what_is_there(views):
    names = {"motorbike": "motorcycle", "man": "person", "woman": "person", "lady": "person"}
    known = [*coco_like.CATEGORIES, *names]
    for view, _, _, captions in views:
        there = {thing.kind for thing in view.things}
        for text in (text for text in captions if text[:-1].lower() not in coco_like.GENERIC):
            named = {names.get(word, word) for word in known if re.search(rf"\b{word}\b", text.lower())}
            assert named <= there, text


def test_ids_and_names_follow_coco(tmp_path):
    written = [coco_like.write_view(tmp_path, SPEC, "val2017", index) for index in range(3)]
    documents = coco_like.documents(written, SPEC)
    instances = documents["instances"]
    assert all(re.fullmatch(r"\d{12}\.jpg", image["file_name"]) for image in instances["images"])
    assert [int(image["file_name"][:12]) for image in instances["images"]] == [i["id"] for i in instances["images"]]
    categories = {category["name"]: category["id"] for category in instances["categories"]}
    assert categories["person"] == 1 and categories["motorcycle"] == 4 and categories["bus"] == 6
    assert sorted(categories.values()) != list(range(1, len(categories) + 1))
    ids = [row["id"] for row in instances["annotations"]]
    assert len(set(ids)) == len(ids)
    assert {row["image_id"] for row in instances["annotations"]} <= {image["id"] for image in instances["images"]}
    assert set(instances["annotations"][0]) == {
        "id",
        "image_id",
        "category_id",
        "segmentation",
        "area",
        "bbox",
        "iscrowd",
    }
    assert len(documents["captions"]["annotations"]) == 15
    assert coco_like.image_id("train2017", 4) != coco_like.image_id("val2017", 4)
