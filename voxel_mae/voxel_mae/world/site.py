"""A construction site and a drive over it: which things stand where, which move, and where the sensor is.

The site's frame is the sensor's at the start of the drive, with z = 0 at the mean ground. Labelled machines are placed
first, then heaps, then clutter; a thing gives way to everything placed before it, and nothing stands in the drive.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from .clutter import FAR, NEAR, Maker
from .machines import MACHINES, Rng, Thing
from .spec import WorldSpec
from .terrain import Heap, Terrain

TRIES = 30
CLEAR_M = 2.6  # kept free around the drive
NEAREST_M = 6.0  # of a machine's middle to the drive's middle
EDGE_M = (50.0, 78.0)  # where the surroundings begin and end
SENSOR_HEIGHT_M = (1.7, 2.5)


@dataclass(frozen=True, eq=False)
class Placed:
    """A thing at (x, y) with its heading, moving velocity_m along it from frame to frame."""

    thing: Thing
    x: float
    y: float
    yaw_rad: float
    velocity_m: float = 0.0

    def at(self, index: int) -> tuple[float, float]:
        way = self.velocity_m * index
        return self.x + way * np.cos(self.yaw_rad), self.y + way * np.sin(self.yaw_rad)


@dataclass(frozen=True)
class Drive:
    """An arc: step_m from frame to frame, turning by turn_rad each; the sensor's height above the ground there."""

    step_m: float
    turn_rad: float
    height_m: float

    def pose(self, index: int) -> tuple[float, float, float]:
        """(x, y, yaw) at a frame."""
        headings = self.turn_rad * np.arange(index)
        x, y = self.step_m * np.cos(headings).sum(), self.step_m * np.sin(headings).sum()
        return float(x), float(y), float(self.turn_rad * index)


@dataclass(eq=False)
class Site:
    """terrain, the things (machines first), the drive, and the roughness of the ground in metres."""

    terrain: Terrain
    drive: Drive
    frames: int
    rough_m: float
    things: list[Placed] = field(default_factory=list)
    circles: list[tuple[float, float, float]] = field(default_factory=list)  # taken: x, y, radius

    def is_free(self, x: float, y: float, radius: float, *, by_drive: bool = True) -> bool:
        """Whether a circle meets nothing that was placed, and (by_drive) not the drive either."""
        taken = np.array(self.circles).reshape(-1, 3)
        if (np.hypot(taken[:, 0] - x, taken[:, 1] - y) < taken[:, 2] + radius).any():
            return False
        way = np.array([self.drive.pose(index)[:2] for index in range(self.frames)])
        return not by_drive or bool((np.hypot(way[:, 0] - x, way[:, 1] - y) > radius + CLEAR_M).all())

    def middle(self) -> tuple[float, float]:
        return self.drive.pose(self.frames // 2)[:2]


def make_site(spec: WorldSpec, rng: Rng, *, machine_free: bool = False) -> Site:
    """One site, from the generator alone."""
    step = float(rng.choice([0.0, rng.uniform(0.5, 2.5)], p=[0.2, 0.8]))
    drive = Drive(step, float(rng.normal(0, 0.06)), float(rng.uniform(*SENSOR_HEIGHT_M)))
    site = Site(_ground(rng), drive, spec.frames, float(rng.uniform(0.01, 0.04)))
    if not machine_free:
        for _ in range(max(1, rng.poisson(spec.machines))):
            _add_machine(site, spec, rng)
    site.terrain = _with_heaps(site, rng)
    _add_clutter(site, NEAR, (4.0, EDGE_M[0]), rng)
    _add_clutter(site, FAR, EDGE_M, rng)
    return site


def _ground(rng: Rng) -> Terrain:
    waves = [(float(rng.uniform(0.01, 0.05)), float(rng.uniform(3, 9)), *map(float, rng.uniform(0, 6.3, 2)))
             for _ in range(3)]  # ruts  # fmt: skip
    waves += [(float(rng.uniform(0.05, 0.35)), float(rng.uniform(25, 70)), *map(float, rng.uniform(0, 6.3, 2)))
              for _ in range(3)]  # fmt: skip
    return Terrain(tuple(float(v) for v in rng.normal(0, 0.008, 2)), tuple(waves))


def _add_machine(site: Site, spec: WorldSpec, rng: Rng) -> None:
    """A machine of any class at any heading; a full site stays as it is."""
    thing = MACHINES[str(rng.choice(list(MACHINES)))](rng)
    velocity = float(rng.choice([0.0, rng.uniform(0.3, 1.2)], p=[0.6, 0.4]))
    travel = velocity * (site.frames - 1)
    for _ in range(TRIES):
        x, y, yaw = _spot(site, (NEAREST_M, spec.reach_m), rng)
        centre = x + travel / 2 * np.cos(yaw), y + travel / 2 * np.sin(yaw)
        if site.is_free(*centre, thing.radius_m + travel / 2):
            site.things.append(Placed(thing, x, y, yaw, velocity))
            site.circles.append((*centre, thing.radius_m + travel / 2))
            return


def _spot(site: Site, between_m: tuple[float, float], rng: Rng) -> tuple[float, float, float]:
    """(x, y, heading) around the drive's middle; near places are as likely as far ones."""
    x0, y0 = site.middle()
    distance, angle = rng.uniform(*between_m), rng.uniform(-np.pi, np.pi)
    return (
        float(x0 + distance * np.cos(angle)),
        float(y0 + distance * np.sin(angle)),
        float(rng.uniform(-np.pi, np.pi)),
    )


def _with_heaps(site: Site, rng: Rng) -> Terrain:
    heaps = []
    for _ in range(rng.poisson(7)):
        radius = float(rng.uniform(1.5, 7))
        x, y, _ = _spot(site, (8.0, 60.0), rng)
        if site.is_free(x, y, radius):
            heaps.append(Heap(x, y, radius, radius * float(rng.uniform(0.2, 0.45))))
            site.circles.append((x, y, radius))
    return Terrain(site.terrain.slope, site.terrain.waves, tuple(heaps))


def _add_clutter(site: Site, kinds: Mapping[Maker, float], between_m: tuple[float, float], rng: Rng) -> None:
    wealth = float(rng.lognormal(0, 0.4))  # tidy and crowded sites
    for make, mean in kinds.items():
        for _ in range(rng.poisson(mean * wealth)):
            thing = make(rng)
            x, y, yaw = _spot(site, between_m, rng)
            if site.is_free(x, y, thing.radius_m):
                site.things.append(Placed(thing, x, y, yaw))
                site.circles.append((x, y, thing.radius_m))
