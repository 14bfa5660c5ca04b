"""Which things stand where: a street, a quiet road with gardens, a square, or a country road, seen from its right lane.

A place is laid out along its road (s metres ahead, t metres to the left of the middle line) and then turned into the
LiDAR frame. Labelled things are drawn first, so that the counts of the spec hold in the field of view; clutter gives
way to them, except what frames the place.
"""

# N footprints

from dataclasses import dataclass, field

import numpy as np

from pillars_rq.kitti.augmentation import collide

from . import things
from .sensor import Ground
from .spec import WorldSpec
from .things import Rng, Thing

VIEW_RAD = np.radians(39)  # half of the camera's field of view, nearly
NEAREST_M = 4.5
NEAREST_OF_CLASS_M = {"Van": 9.0, "Truck": 16.0}  # nearer ones would hide the whole place
TRIES = 40
LANE_M = 1.75


@dataclass(frozen=True)
class Kind:
    """A kind of place. Means: objects as shares of the spec's counts; clutter in pieces."""

    chance: float
    half_road_m: float
    people: float  # share of the spec's pedestrians and cyclists
    vehicles: float
    parked: float  # share of the cars that stand beside the road
    edge_m: float  # where fronts, walls, hedges stand, from the middle line
    edging: dict[str, float] = field(default_factory=dict)  # what stands there -> chance
    small: dict[str, float] = field(default_factory=dict)  # small clutter -> mean number


KINDS = {
    "street": Kind(0.35, 6.2, 1.1, 1.1, 0.6, 9.5, {"facade": 0.85, "fence": 0.08, "wall": 0.07},
                   {"pole": 6, "tree": 4, "bin": 3, "bollard": 4, "bush": 1}),
    "gardens": Kind(0.30, 4.8, 0.8, 1.1, 0.65, 7.5, {"hedge": 0.4, "wall": 0.2, "fence": 0.2, "gap": 0.2},
                    {"pole": 4, "tree": 7, "bin": 2, "bush": 8}),
    "square": Kind(0.15, 11.0, 1.7, 0.5, 0.5, 16.0, {"facade": 0.8, "gap": 0.2},
                   {"pole": 6, "tree": 4, "bin": 4, "bollard": 8, "bush": 1}),
    "country": Kind(0.20, 4.5, 0.5, 0.9, 0.1, 9.0, {"rail": 0.3, "hedge": 0.2, "gap": 0.5},
                    {"pole": 3, "tree": 9, "bush": 12}),
}  # fmt: skip


@dataclass(eq=False)
class Scene:
    """A place with its things. Things of a class named in KITTI come with their boxes."""

    kind: str
    ground: Ground
    asphalt: float  # reflectance
    things: list[Thing]


@dataclass(eq=False)
class _Site:
    """A scene being laid out."""

    rng: Rng
    spec: WorldSpec
    kind: Kind
    ground: Ground
    things: list[Thing] = field(default_factory=list)

    def place(self, thing: Thing, s: float, t: float, turn: float) -> Thing:
        """Put a thing at (s, t), turned against the road's direction."""
        yaw = self.ground.road_yaw_rad
        x, y = s * np.cos(yaw) - t * np.sin(yaw), s * np.sin(yaw) + t * np.cos(yaw) + self.ground.road_offset_m
        return thing.at((float(x), float(y), float(self.ground.height(x, y))), float(yaw + turn))

    def add(self, thing: Thing, margin_m: float = 0.25) -> bool:
        """Keep it if it stands on nobody's feet (margin: free space around it) and not on the sensor's car."""
        box = thing.box[None].copy()
        box[:, 3:5] += 2 * margin_m
        own_car = np.array([[-0.5, 0, -1.7, 2.2, 7.0, 1.6, -np.pi / 2]])
        others = np.concatenate([own_car, *(other.box[None] for other in self.things)])
        if collide(box, others).any():
            return False
        self.things.append(thing)
        return True


def make_scene(spec: WorldSpec, rng: Rng) -> Scene:
    """One place, from the generator alone."""
    name = str(rng.choice(list(KINDS), p=[kind.chance for kind in KINDS.values()]))
    kind = KINDS[name]
    site = _Site(rng, spec, kind, _ground(rng, kind))
    _add_objects(site)
    _add_far_traffic(site)
    for side in (-1, 1):
        _add_edging(site, side)
    if rng.random() < 0.75:
        _add_end(site)
    _add_small(site)
    return Scene(name, site.ground, float(rng.uniform(0.18, 0.34)), site.things)


def _ground(rng: Rng, kind: Kind) -> Ground:
    waves = tuple((float(rng.uniform(0.002, 0.012)), float(rng.uniform(4, 20)), *map(float, rng.uniform(0, 6.3, 2)))
                  for _ in range(5))  # fmt: skip
    slope = tuple(float(v) for v in rng.normal(0, (0.006, 0.008)))
    half = kind.half_road_m * float(rng.uniform(0.9, 1.1))
    rough = (0.004, float(rng.choice([0.005, 0.02, 0.045])))  # pavement, lawn, grown grass
    return Ground(slope, waves, float(rng.normal(0, 0.06)), LANE_M + float(rng.normal(0, 0.4)), half, 0.11, rough)


# --- labelled things --------------------------------------------------------------------------------------------------


def _add_objects(site: _Site) -> None:
    spec, kind, rng = site.spec, site.kind, site.rng
    means = {"Car": spec.cars * kind.vehicles, "Pedestrian": spec.pedestrians * kind.people,
             "Cyclist": spec.cyclists * kind.people, "Van": 0.12 * spec.cars, "Truck": 0.04 * spec.cars}  # fmt: skip
    for name, mean in means.items():
        for _ in range(rng.poisson(mean)):
            _add_object(site, name)


def _add_object(site: _Site, name: str) -> None:
    """In view and in range, by some tries; a full place stays as it is."""
    if name == "Pedestrian" and site.rng.random() < 0.35:
        _add_couple(site)
        return
    thing = things.OBJECTS[name](site.rng)
    for _ in range(TRIES):
        s, t, turn = _spot(site, name)
        placed = site.place(thing, s, t, turn)
        if in_reach(placed, site.spec) and site.add(placed):
            return


def _add_couple(site: _Site) -> None:
    """Two who walk side by side."""
    pair = [things.pedestrian(site.rng) for _ in range(2)]
    for _ in range(TRIES):
        s, t, turn = _spot(site, "Pedestrian")
        placed = [site.place(one, s + dx, t + dy, turn) for one, dx, dy in zip(pair, (0, 0.1), (0, 0.95), strict=True)]
        if all(in_reach(one, site.spec) for one in placed) and all(site.add(one, 0.02) for one in placed):
            return


def in_reach(thing: Thing, spec: WorldSpec) -> bool:
    """Whether a labelled thing's middle lies in the field of view and in the spec's range."""
    x, y, _ = thing.place_m
    distance = np.hypot(x, y)
    nearest = NEAREST_OF_CLASS_M.get(thing.name, NEAREST_M)
    near_enough = x < spec.max_range_m and abs(y) < spec.max_side_m and distance > nearest
    return bool(near_enough and abs(np.arctan2(y, x)) < VIEW_RAD)


def _spot(site: _Site, name: str) -> tuple[float, float, float]:
    """(s, t, turn): where a thing of this class may be, and which way it looks."""
    rng, half, reach = site.rng, site.ground.half_road_m, site.spec.max_range_m
    s = float(NEAREST_M + (reach + 2 - NEAREST_M) * rng.random() ** 0.85)
    if name == "Pedestrian":
        open_place = rng.random() < 0.25 or site.kind is KINDS["square"]
        t = rng.uniform(-half, half) if open_place else rng.choice([-1, 1]) * (half + rng.uniform(0.4, 2.6))
        return (
            s,
            float(t),
            float(rng.uniform(0, 2 * np.pi) if open_place else rng.normal(0, 0.3) + np.pi * rng.integers(2)),
        )
    if name == "Cyclist":
        t = rng.choice([-1, 1]) * (half - rng.uniform(-1.5, 3.0))
        crossing = rng.random() < 0.25
        return s, float(t), float(rng.normal(np.pi / 2 if crossing else 0.0, 0.25) + np.pi * rng.integers(2))
    side = int(rng.choice([-1, 1]))
    if rng.random() < site.kind.parked:
        return s, side * (half - 1.15), float(rng.normal(0, 0.05) + np.pi * rng.integers(2))
    if rng.random() < 0.22:  # crossing or turning
        return s, float(rng.uniform(-half - 4, half + 4)), float(rng.uniform(0, 2 * np.pi))
    return s, side * LANE_M + float(rng.normal(0, 0.3)), float(rng.normal(0, 0.04) + (np.pi if side > 0 else 0))


def _add_far_traffic(site: _Site) -> None:
    """Vehicles beyond the labelled range: the DontCare regions."""
    for _ in range(site.rng.poisson(1.2)):
        s = float(site.spec.max_range_m * site.rng.uniform(1.1, 1.6))
        side = int(site.rng.choice([-1, 1]))
        name = str(site.rng.choice(["Car", "Van", "Truck"], p=[0.75, 0.15, 0.1]))
        site.add(site.place(things.OBJECTS[name](site.rng), s, side * LANE_M, np.pi if side > 0 else 0.0))


# --- clutter ----------------------------------------------------------------------------------------------------------


def _add_edging(site: _Site, side: int) -> None:
    """Fronts, walls and hedges along one side of the road, piece by piece."""
    rng, s = site.rng, float(site.rng.uniform(-2, 4))
    distance = max(site.kind.edge_m * float(rng.uniform(0.85, 1.4)), site.ground.half_road_m + 2.8)
    names, chances = list(site.kind.edging), list(site.kind.edging.values())
    while s < 78:
        length = float(rng.uniform(6, 16))
        name = str(rng.choice(names, p=chances))
        if name != "gap":
            thing = getattr(things, name)(rng, length)
            aside = distance + float(rng.normal(0, 0.4)) + (0.6 if name == "facade" else 0.0)
            site.add(site.place(thing, s + length / 2, side * aside, 0.0 if side > 0 else np.pi), 0.0)
        s += length + float(rng.uniform(0, 2.5) if rng.random() < 0.8 else rng.uniform(5, 12))


def _add_end(site: _Site) -> None:
    """What closes the view: a front or a hedge across."""
    rng = site.rng
    make = things.facade if "facade" in site.kind.edging else things.hedge
    for t in (-12.0, 0.0, 12.0):
        if rng.random() < 0.7:
            site.add(site.place(make(rng, 11.0), float(rng.uniform(45, 75)), t, -np.pi / 2), 0.0)


def _add_small(site: _Site) -> None:
    rng, half = site.rng, site.ground.half_road_m
    wealth = float(rng.lognormal(0.15, 0.5))  # bare and overgrown places
    for name, mean in site.kind.small.items():
        for _ in range(rng.poisson(mean * wealth)):
            aside = half + (rng.uniform(0.4, 1.0) if name in ("pole", "bollard", "bin") else rng.exponential(4.0) + 1.0)
            s = float(rng.uniform(3, 60))
            site.add(site.place(things.SMALL_CLUTTER[name](rng), s, float(rng.choice([-1, 1]) * aside), 0.0), 0.1)
