"""Sampling a frame: which objects stand where, so that their boxes have the statistics of the real data.

Sizes come first: a box height is drawn, and the distance follows from the metric height of the class. The place (lanes,
parking lanes, sidewalks, the crossing) gives the side and the heading. A thing is refused when it would stand inside
another, mostly outside the frame, or hide another one (or be hidden) beyond 38 percent.
"""

from dataclasses import dataclass, replace

import numpy as np

from . import figures
from .camera import Camera
from .solids import STYLES
from .spec import (
    FRAME_WH,
    HELD_OUT,
    HELD_OUT_SHARE,
    KINDS,
    PERCENTILES,
    colour_table,
)
from .street import CROSS_M, LANE_M, PARKING_M, SIDEWALK_M, Street
from .things import Thing, paint_of, with_box

FOCAL_PX = 1266.0  # of the nuScenes front camera
MAX_HIDDEN = 0.38  # share of a box that boxes of nearer things may cover
MIN_INSIDE = 0.42  # share of a box that must lie in the frame
MIN_SIDE_PX = 14  # of a box, as in the real data
TRIES = 10  # places tried for a thing before the frame goes without it
LARGE = ("car", "truck", "bus")
COMPANY = ("adult", "bicycle", "trafficcone", "barrier", "motorcycle")  # may be placed beside a large thing
BESIDE_SHARE = 0.4
STEP_M = 5.0  # the car's advance between two frames of a scene


@dataclass(frozen=True)
class Spot:
    """A place where things of a class may stand: x range, heading, weight; z range when bound to one."""

    name: str
    x_m: tuple[float, float]
    yaws: tuple[float, ...]
    weight: float
    z_m: tuple[float, float] | None = None


@dataclass(frozen=True)
class Frame:
    """One frame: the street, the camera, how far the car has come, the things in view.

    `wanted` are the classes that the frame was made to be asked about, one for each planned command.
    """

    street: Street
    camera: Camera
    travelled_m: float
    things: tuple[Thing, ...]
    wanted: tuple[str, ...]


def sample_camera(rng: np.random.Generator) -> Camera:
    """The car's front camera with a little yaw and pitch."""
    vanish = (800 + 55 * float(np.clip(rng.normal(), -2, 2)), 462 + 9 * float(np.clip(rng.normal(), -2, 2)))
    return Camera(FRAME_WH, FOCAL_PX, vanish, height_m=float(rng.uniform(1.46, 1.60)))


def spots(kind: str, street: Street, travelled_m: float) -> list[Spot]:
    """Where things of this class may be in this street."""
    sides = ((-1, street.left_edge_m, "left", 1.25), (1, street.right_edge_m, "right", 1.0))
    crossing = None if street.crossing_m is None else street.crossing_m - travelled_m
    if kind in ("car", "truck", "bus", "motorcycle"):
        return _vehicle_spots(kind, street, sides, crossing)
    found = []
    for side, edge, name, weight in sides:
        walk = tuple(sorted((edge + side * 0.5, edge + side * (SIDEWALK_M - 0.4))))
        kerb = tuple(sorted((edge - side * 0.3, edge - side * (0.9 + street.parking[side > 0] * PARKING_M))))
        along = (0.0, np.pi)
        if kind == "adult":
            found.append(Spot(f"{name} sidewalk", walk, (*along, *along, np.pi / 2, -np.pi / 2), 2.2 * weight))
            found.append(Spot(f"{name} kerb", kerb, (-side * np.pi / 2, *along), 0.6 * weight))
        elif kind == "bicycle":
            found.append(Spot(f"{name} kerb", kerb, along, 1.0 * weight))
            found.append(Spot(f"{name} sidewalk", walk, (np.pi / 2, -np.pi / 2, 1.2), 1.2 * weight))
        else:
            found.append(Spot(f"{name} kerb", kerb, (0.0, 0.18, -0.18), 1.6 * weight))
            found.append(Spot(f"{name} sidewalk", walk, (0.0, 0.3), 0.5 * weight))
    if kind in ("adult", "bicycle"):
        road = (street.left_edge_m + 0.5, street.right_edge_m - 0.5)
        zebra = crossing is not None and crossing > 8.0
        z = (crossing - 3.4, crossing - 0.6) if zebra else (5.0, 40.0)
        found.append(Spot("crossing", road, (np.pi / 2, -np.pi / 2), 1.8 if zebra else 0.9, z))
    if kind in ("trafficcone", "barrier"):
        found.append(Spot("road", (street.left_edge_m + 1.5, street.right_edge_m - 1.5), (0.0, 0.25, -0.25), 1.2))
    return found


def _vehicle_spots(kind, street, sides, crossing) -> list[Spot]:
    found = [Spot("own lane", (-0.3, 0.3), (0.0,), 1.0 if kind != "motorcycle" else 0.6)]
    for index in range(1, street.left_lanes + 1):
        yaw = 0.0 if index <= street.same_way else np.pi
        found.append(Spot("left lane", (-index * LANE_M - 0.3, -index * LANE_M + 0.3), (yaw,), 1.5))
    for index in range(1, street.right_lanes + 1):
        found.append(Spot("right lane", (index * LANE_M - 0.3, index * LANE_M + 0.3), (0.0,), 1.2))
    if kind != "bus":
        for side, edge, name, weight in sides:
            if street.parking[side > 0]:
                x = edge - side * PARKING_M / 2
                yaw = 0.0 if side > 0 or street.same_way == street.left_lanes else np.pi
                found.append(Spot(f"{name} parking", (x - 0.1, x + 0.1), (yaw, yaw, 0.0), 2.0 * weight))
            elif kind in ("car", "truck"):
                x = edge + side * (SIDEWALK_M + 2.6)
                found.append(
                    Spot(f"{name} driveway", (x - 0.8, x + 0.8), (side * np.pi / 2, -side * np.pi / 2), 0.4 * weight)
                )
    if crossing is not None and crossing + CROSS_M > 8:
        for z, yaw in ((crossing + 2.2, np.pi / 2), (crossing + 5.8, -np.pi / 2)):
            if z > 7:
                found.append(Spot("crossing street", (-26.0, 24.0), (yaw,), 0.8, (z - 0.3, z + 0.3)))
    return found


def _height_px(rng: np.random.Generator) -> float:
    """A box height. The table lies above the real percentiles, since large things are refused more often."""
    quantiles = (0.0, *PERCENTILES, 1.0)
    heights = (26, 46, 96, 176, 320, 740, 900)
    return float(np.exp(np.interp(rng.random(), quantiles, np.log(heights))))


def sample_identity(kind: str, colour: str, rng) -> Thing:
    """A thing of this class and colour with its size and looks, not yet placed."""
    size = 1 + 0.06 * np.clip(rng.normal(size=3), -2, 2)
    style = str(rng.choice(STYLES.get(kind, ("",))))
    return Thing(
        kind, colour, paint_of(colour, rng), 0.0, 10.0, 0.0, tuple(size.tolist()), style, int(rng.integers(1 << 14)), ""
    )


def place_anywhere(thing: Thing, street: Street, camera: Camera, travelled_m: float, rng) -> Thing:
    """The thing at a random place for its class; it may turn out unusable (see `fits`)."""
    places = spots(thing.kind, street, travelled_m)
    weights = np.array([spot.weight for spot in places])
    spot = places[rng.choice(len(places), p=weights / weights.sum())]
    yaw = float(rng.choice(spot.yaws)) + float(rng.normal(0, 0.035))
    if spot.z_m is None:
        z = float(np.clip(camera.depth_of(thing.size_m[1], _height_px(rng)), 3.6, 75.0))
        z += 0.9 * replace(thing, yaw_rad=yaw).halves_m[1]  # the near end sets the height
    else:
        z = float(rng.uniform(*spot.z_m))
    x = float(rng.uniform(*spot.x_m))
    return with_box(replace(thing, x_m=x, z_m=z, yaw_rad=yaw, place=spot.name), camera)


def place_beside(thing: Thing, anchor: Thing, camera: Camera, rng) -> Thing:
    """The thing next to another one: what "the person beside the truck" needs."""
    half_x, half_z = anchor.halves_m
    x = anchor.x_m + float(rng.choice((-1, 1)) * (half_x + rng.uniform(0.5, 1.1)))
    z = max(3.8, anchor.z_m + float(rng.uniform(-0.9, 0.3)) * half_z)
    yaw = float(rng.choice((0.0, np.pi, np.pi / 2, -np.pi / 2) if thing.kind != "barrier" else (0.0, 0.2, -0.2)))
    return with_box(replace(thing, x_m=x, z_m=z, yaw_rad=yaw, place="beside"), camera)


def overlap_px(a, b) -> float:
    """Area that two [x, y, w, h] boxes share."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


def hidden_share(thing: Thing, things) -> float:
    """Upper bound of the share of a thing's box that nearer things cover (their boxes' overlaps, summed)."""
    box = thing.box_xywh
    covered = sum(overlap_px(box, other.box_xywh) for other in things if other.z_m < thing.z_m)
    return covered / max(1.0, box[2] * box[3])


def apart(thing: Thing, other: Thing, gap_m: float) -> bool:
    """Whether two footprints leave this gap between them."""
    (ax, az), (bx, bz) = thing.halves_m, other.halves_m
    return abs(thing.x_m - other.x_m) >= ax + bx + gap_m or abs(thing.z_m - other.z_m) >= az + bz + gap_m


def nobody_hides(thing: Thing, things, most: float) -> bool:
    """Whether nothing is hidden beyond the share `most` when the thing joins the others."""
    if hidden_share(thing, things) > most:
        return False
    touched = [o for o in things if o.z_m > thing.z_m and overlap_px(o.box_xywh, thing.box_xywh) > 0]
    return all(hidden_share(other, [*things, thing]) <= most for other in touched)


def fits(thing: Thing, things) -> bool:
    """Whether the thing may join: enough of it in the frame, on free ground, hiding nothing much and not hidden."""
    if min(thing.box_xywh[2:]) < MIN_SIDE_PX or thing.inside_share < MIN_INSIDE:
        return False
    return all(apart(thing, other, 0.3) for other in things) and nobody_hides(thing, things, MAX_HIDDEN)


def pick_colour(kind: str, split: str, rng) -> str:
    """A colour word for a thing of this class in this split."""
    names, shares = colour_table(kind, split)
    return str(rng.choice(names, p=shares))


def _wanted(count: int, rng) -> tuple[str, ...]:
    shares = np.array([k.share for k in KINDS.values()])
    return tuple(str(kind) for kind in rng.choice(list(KINDS), size=count, p=shares / shares.sum()))


def _plan(split: str, wanted, rng) -> list[tuple[str, str]]:
    """(class, colour) of the things of a frame: those to be referred to first, then company, then traffic."""
    count, plan = len(wanted), []
    for kind in sorted(dict.fromkeys(wanted), key=lambda kind: -KINDS[kind].size_m[2]):
        plan.append((kind, pick_colour(kind, split, rng)))
    if split != "train" and rng.random() < 1 - (1 - HELD_OUT_SHARE) ** count:
        colour, kind = sorted(HELD_OUT)[rng.integers(len(HELD_OUT))]
        plan.append((kind, colour))
    for kind in dict.fromkeys(kind for kind, _ in plan):
        if rng.random() < KINDS[kind].companions:
            extra = 1 + int(rng.random() < 0.38) + int(kind == "car" and rng.random() < 0.25)
            plan += [(kind, pick_colour(kind, split, rng)) for _ in range(extra)]
    plan += [
        (kind, pick_colour(kind, split, rng))
        for kind in rng.choice(["car", "car", "adult", "truck"], size=rng.integers(0, 2))
    ]
    return plan


def _anchors(things) -> list[Thing]:
    """Large things near enough to be stood beside; those alone of their class, if any, since one word names them."""
    large = [t for t in things if t.kind in LARGE and t.z_m < 40]
    alone = [t for t in large if sum(o.kind == t.kind for o in things) == 1]
    return alone or large


def sample_frame(street: Street, index_in_scene: int, split: str, commands: int, rng: np.random.Generator) -> Frame:
    """A frame of this street with things for about this many commands."""
    camera, travelled = sample_camera(rng), index_in_scene * STEP_M
    things: list[Thing] = []
    wanted = _wanted(commands, rng)
    for kind, colour in _plan(split, wanted, rng):
        thing = sample_identity(kind, colour, rng)
        for _ in range(TRIES):
            anchors = _anchors(things) if kind in COMPANY else []
            if anchors and rng.random() < BESIDE_SHARE:
                placed = place_beside(thing, anchors[rng.integers(len(anchors))], camera, rng)
            else:
                placed = place_anywhere(thing, street, camera, travelled, rng)
            if fits(placed, things):
                things.append(placed)
                break
    return Frame(street, camera, travelled, tuple(things), wanted)


def describe(thing: Thing) -> dict:
    """The thing as plain JSON values: what a command can speak about, and where it is."""
    return {
        "class": thing.kind,
        "colour": thing.colour,
        "box_xywh": list(thing.box_xywh),
        "distance_m": round(thing.z_m, 3),
        "x_m": round(thing.x_m, 3),
        "halves_m": [round(half, 3) for half in thing.halves_m],
        "place": thing.place,
        "woman": figures.is_woman(thing.look) if thing.kind == "adult" else None,
    }
