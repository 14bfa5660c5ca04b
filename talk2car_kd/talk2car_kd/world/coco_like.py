"""The COCO-like part: road-side pictures framed freely, with masks, crowds and captions in COCO's own JSON.

The things are those of the driving frames, but the camera is anybody's: closer, higher, lower, looking aside. Masks
come from the drawn silhouettes, so `area` (mask pixels) differs from the box area as it does in COCO. Sizes are planned
so that about 41 / 34 / 24 % of the annotations are small / medium / large at 32^2 and 96^2 mask pixels.
"""

import functools
from dataclasses import dataclass, replace

import cv2
import numpy as np

from . import figures
from .camera import Camera
from .canvas import SUPERSAMPLE, Canvas, jpeg_bytes
from .language import with_colour
from .scene import apart, nobody_hides, sample_identity
from .scenery import draw_scenery
from .spec import COCO_SPLITS, PAINTS, WorldSpec
from .street import Street, sample_street, widen
from .things import Thing, draw_things, with_box

# Official names and ids (they have gaps), with the shares of this world.
CATEGORIES = {
    "person": (1, "person", 0.32), "bicycle": (2, "vehicle", 0.07), "car": (3, "vehicle", 0.27),
    "motorcycle": (4, "vehicle", 0.07), "bus": (6, "vehicle", 0.07), "truck": (8, "vehicle", 0.10),
    "traffic light": (10, "outdoor", 0.04), "stop sign": (13, "outdoor", 0.03), "bench": (15, "outdoor", 0.03),
}  # fmt: skip
ASPECTS = {  # typical width over height of a box
    "person": 0.42, "bicycle": 1.2, "car": 1.8, "motorcycle": 1.1, "bus": 1.8, "truck": 1.5,
    "traffic light": 0.13, "stop sign": 0.32, "bench": 2.0,
}  # fmt: skip
FIXED_COLOURS = {"stop sign": "red", "traffic light": "black", "bench": "orange"}  # drawn so, and never named
PLANNED_AREAS = ((0.42, 14, 1500), (0.18, 1800, 13500), (0.40, 17000, 44000))  # share, lowest, highest box area
ROOM_M = 2.8  # beside the road, before the walls
NEAREST_M, DEEPEST_M = 3.2, 400.0
MIN_INSIDE, MAX_HIDDEN = 0.5, 0.55  # shares of a box
MIN_MASK_PX2, MIN_SIDE_PX = 5.0, 3.0
CROWD_SHARE = 0.12
PLACES = {"city": "city street", "suburb": "suburban street", "industrial": "road"}
GENERIC = (
    "a busy street", "a street with some traffic", "a quiet road", "people and vehicles on a street",
    "a view of a road",
)  # fmt: skip


@dataclass(frozen=True)
class View:
    """One picture: its street and camera, its things, and the groups of things that are one crowd row each."""

    street: Street
    camera: Camera
    travelled_m: float
    things: tuple[Thing, ...]
    crowds: tuple[tuple[int, ...], ...]


def _sample_place(rng) -> Street:
    """A street, often widened to a square so that there is room in front of the walls."""
    street = sample_street(rng)
    return widen(street, int(rng.integers(2, 5)), rng) if rng.random() < 0.55 else street


def _sample_camera(frame_wh, rng) -> Camera:
    width, height = frame_wh
    vanish = (width * rng.uniform(0.0, 1.0), height * rng.uniform(0.22, 0.55))
    return Camera(frame_wh, width * rng.uniform(1.1, 2.0), vanish, height_m=float(rng.uniform(1.1, 3.2)))


def _identity(kind: str, rng) -> Thing:
    """A thing of this class; its colour follows the mean of the driving frames' shares and equal shares."""
    names, shares = list(PAINTS), np.array([0.5 * share + 0.5 / len(PAINTS) for share, _ in PAINTS.values()])
    return sample_identity(kind, FIXED_COLOURS.get(kind) or str(rng.choice(names, p=shares / shares.sum())), rng)


def _depth(thing: Thing, box_area_px2: float, camera: Camera) -> float:
    """Depth at which the thing has about this box area."""
    height_px = np.sqrt(box_area_px2 / ASPECTS[thing.kind])
    return float(np.clip(camera.depth_of(thing.size_m[1], height_px), NEAREST_M, DEEPEST_M)) + 0.4 * thing.size_m[2]


def _place(thing: Thing, z_m: float, street: Street, camera: Camera, rng) -> Thing:
    """The thing at this depth, on the road or beside it, heading anywhere."""
    seen = [(share * camera.frame_wh[0] - camera.vanish_xy[0]) / camera.px_per_m(z_m) for share in (0.03, 0.97)]
    low, high = max(seen[0], street.left_edge_m - ROOM_M), min(seen[1], street.right_edge_m + ROOM_M)
    straight = thing.kind in ("bicycle", "motorcycle")
    yaw = float(rng.integers(4) * np.pi / 2 if straight else rng.uniform(-np.pi, np.pi))
    x_m = float(rng.uniform(low, max(low, high)))
    return with_box(replace(thing, x_m=x_m, z_m=z_m, yaw_rad=yaw, place="anywhere"), camera)


def _fits(thing: Thing, things) -> bool:
    if thing.inside_share < MIN_INSIDE or min(thing.box_xywh[2:]) < 2:
        return False
    return all(apart(thing, other, 0.2) for other in things) and nobody_hides(thing, things, MAX_HIDDEN)


def sample_view(frame_wh, rng: np.random.Generator) -> View:
    """A random picture of about six things."""
    street, camera, travelled = _sample_place(rng), _sample_camera(frame_wh, rng), float(rng.uniform(0, 20))
    kinds, shares = list(CATEGORIES), np.array([share for *_, share in CATEGORIES.values()])
    things: list[Thing] = []
    areas = [_plan_area(rng) for _ in range(2 + rng.poisson(6.4))]
    for area in sorted(areas, reverse=True):
        for kind in rng.choice(kinds, size=2, p=shares / shares.sum()):
            thing = _identity(str(kind), rng)
            depth = _depth(thing, area, camera)
            places = (_place(thing, depth, street, camera, rng) for _ in range(5))
            fitting = next((placed for placed in places if _fits(placed, things)), None)
            if fitting:
                things.append(fitting)
                break
    crowds = _sample_crowd(things, street, camera, rng) if rng.random() < CROWD_SHARE else ()
    return View(street, camera, travelled, tuple(things), crowds)


def _plan_area(rng) -> float:
    shares = np.array([share for share, *_ in PLANNED_AREAS])
    _, low, high = PLANNED_AREAS[rng.choice(len(PLANNED_AREAS), p=shares / shares.sum())]
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _sample_crowd(things: list[Thing], street: Street, camera: Camera, rng) -> tuple[tuple[int, ...], ...]:
    kind = "person" if rng.random() < 0.7 else "car"
    area, first = float(np.exp(rng.uniform(np.log(60), np.log(400)))), len(things)
    lead = _identity(kind, rng)
    lead = _place(lead, _depth(lead, area, camera), street, camera, rng)
    step = lead.size_m[0] * 0.9
    for number in range(int(rng.integers(7, 13))):
        x_m = lead.x_m + (number - 4) * step * rng.uniform(0.8, 1.1)
        other = _place(_identity(kind, rng), lead.z_m + rng.uniform(-1, 1) * step, street, camera, rng)
        things.append(with_box(replace(other, x_m=x_m), camera))
    return (tuple(range(first, len(things))),)


def draw_view(view: View, stored_wh, rng) -> tuple[np.ndarray, np.ndarray]:
    """Picture (h, w, 3) uint8 RGB, and the numbers (2h, 2w) of the things seen (index + 1; 0 is scenery)."""
    canvas = Canvas(view.camera.frame_wh, stored_wh, with_ids=True)
    draw_scenery(canvas, view.camera, view.street, view.travelled_m, rng)
    draw_things(canvas, view.camera, view.street.light, view.things)
    return canvas.finish(rng), canvas.ids


def _mask_row(mask: np.ndarray) -> dict | None:
    """area, bbox and polygons of a mask at SUPERSAMPLE times the picture's size; None when too little is seen."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    area = float(np.count_nonzero(mask)) / SUPERSAMPLE**2
    if not len(rows):
        return None
    x, y, x1, y1 = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    bbox = [float(v) / SUPERSAMPLE for v in (x, y, x1 - x, y1 - y)]
    if area < MIN_MASK_PX2 or min(bbox[2:]) < MIN_SIDE_PX:
        return None
    contours, _ = cv2.findContours(mask[y:y1, x:x1], cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons = [((c[:, 0] + (x, y)) / SUPERSAMPLE).ravel().tolist() for c in contours if len(c) >= 4]
    return {"area": area, "bbox": bbox, "segmentation": polygons or [_corners(bbox)]}


def _corners(bbox) -> list[float]:
    x, y, w, h = bbox
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def run_lengths(mask: np.ndarray) -> dict:
    """COCO's uncompressed RLE of a mask (h, w): runs of zeros and ones in turn, down the columns."""
    flat = np.concatenate([[0], (mask > 0).astype(np.uint8).ravel(order="F"), [2]])
    edges = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], edges])).tolist()
    return {"counts": [int(c) for c in counts], "size": list(mask.shape)}


def annotate(view: View, ids: np.ndarray) -> list[dict]:
    """Annotation rows without ids: one for each thing seen, one (iscrowd 1) for each crowd."""
    groups = [(i,) for i in range(len(view.things)) if not any(i in crowd for crowd in view.crowds)]
    rows = []
    for group in (*groups, *view.crowds):
        mask = functools.reduce(np.bitwise_or, [ids == index + 1 for index in group]).astype(np.uint8)
        row = _mask_row(mask)
        if row is None:
            continue
        crowd = len(group) > 1
        if crowd:
            row["segmentation"] = run_lengths(mask[::SUPERSAMPLE, ::SUPERSAMPLE])
        category = CATEGORIES[view.things[group[0]].kind][0]
        rows.append({**row, "iscrowd": int(crowd), "category_id": category, "thing": group[0]})
    return rows


def _phrase(thing: Thing, rng) -> str:
    if thing.kind == "person":
        word = str(rng.choice(("woman", "lady") if figures.is_woman(thing.look) else ("man", "person")))
        return "a " + with_colour(word, thing.colour, "adult", rng)
    word = "motorbike" if thing.kind == "motorcycle" and rng.random() < 0.3 else thing.kind
    colour = None if thing.kind in FIXED_COLOURS else thing.colour
    phrase = with_colour(word, colour, thing.kind, rng)
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _where(thing: Thing, width: int) -> str:
    centre = (thing.box_xywh[0] + thing.box_xywh[2] / 2) / width
    return "on the left" if centre < 0.36 else "on the right" if centre > 0.64 else "in the middle"


def _verb(thing: Thing, rng) -> str:
    if thing.kind == "person":
        return str(rng.choice(("standing", "walking")))
    if thing.kind in ("car", "truck", "bus"):
        return str(rng.choice(("parked", "stopped")))
    return "seen" if thing.kind in ("traffic light", "stop sign", "bench") else "standing"


def captions(view: View, rows: list[dict], rng) -> list[str]:
    """Five captions: the most visible things with their colours and places, and general ones that repeat."""
    order = sorted((row for row in rows if not row["iscrowd"]), key=lambda row: -row["area"])
    seen = [view.things[row["thing"]] for row in order[:3]]
    texts = [_caption(seen, view.camera.frame_wh[0], PLACES[view.street.setting], rng) for _ in range(5)]
    return [text[0].upper() + text[1:] + "." for text in texts]


def _caption(seen: list[Thing], width: int, place: str, rng) -> str:
    pick = rng.random()
    if not seen or pick < 0.08:
        return str(rng.choice(GENERIC))
    first = seen[0] if rng.random() < 0.7 else seen[int(rng.integers(len(seen)))]
    others = [thing for thing in seen if thing is not first]
    what, verb, where = _phrase(first, rng), _verb(first, rng), _where(first, width)
    if others and pick < 0.42:
        near = rng.choice(("beside", "next to", "near"))
        return f"{what} {verb} {near} {_phrase(others[int(rng.integers(len(others)))], rng)}"
    if others and pick < 0.62:
        return f"{what} {where} and {_phrase(others[0], rng)} {_where(others[0], width)}"
    return f"{what} {where} of the picture" if pick < 0.82 else f"{what} {verb} on a {place}"


def image_id(split: str, index: int) -> int:
    """Id of an image; like COCO's, unique over both splits and not consecutive."""
    return (9 + 23 * index) * 2 + COCO_SPLITS.index(split)


def make_view(spec: WorldSpec, split: str, index: int):
    """View `index` of a split, its picture, annotation rows (without ids) and captions."""
    seed = np.random.SeedSequence((spec.seed, 100 + COCO_SPLITS.index(split), index))
    rng = np.random.default_rng(seed)
    view = sample_view(tuple(spec.coco_stored_wh), rng)
    picture, ids = draw_view(view, tuple(spec.coco_stored_wh), rng)
    rows = annotate(view, ids)
    return view, picture, rows, captions(view, rows, rng)


def write_view(folder, spec: WorldSpec, split: str, index: int) -> dict:
    """Write one picture below `folder`; return its image, annotation and caption rows in COCO's form."""
    _, picture, rows, texts = make_view(spec, split, index)
    number = image_id(split, index)
    name = f"{number:012d}.jpg"
    (folder / name).write_bytes(jpeg_bytes(picture))
    width, height = spec.coco_stored_wh
    annotations, texts_written = [], []
    for position, row in enumerate(rows):
        del row["thing"]
        annotations.append({**row, "image_id": number, "id": number * 100 + position})
    for position, text in enumerate(texts):
        texts_written.append({"image_id": number, "id": number * 100 + position, "caption": text})
    image = {"license": 1, "file_name": name, "height": height, "width": width, "id": number}
    return {"image": image, "annotations": annotations, "captions": texts_written}


def documents(written: list[dict], spec: WorldSpec) -> dict[str, dict]:
    """The instances and captions documents of a split from what `write_view` returned."""
    head = {
        "info": {"description": f"embedded synthetic world of talk2car_kd, seed {spec.seed}", "version": "1.0"},
        "licenses": [{"id": 1, "name": "generated, no photographs", "url": ""}],
        "images": [entry["image"] for entry in written],
    }
    categories = [{"supercategory": group, "id": i, "name": name} for name, (i, group, _) in CATEGORIES.items()]
    instances = [row for entry in written for row in entry["annotations"]]
    sentences = [row for entry in written for row in entry["captions"]]
    return {
        "instances": {**head, "annotations": instances, "categories": categories},
        "captions": {**head, "annotations": sentences},
    }
