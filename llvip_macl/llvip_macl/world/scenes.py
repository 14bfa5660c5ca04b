"""What stands where in one shot: persons and what hides them, traffic, furniture, and what is mistaken for a person.

Everything follows from the seed, the scene and the frame; misalignment and the number of pairs change nothing here.
"""

from dataclasses import dataclass, replace

import numpy as np

from . import figure, things
from .parts import Thing, moved
from .spec import LINES, Shot, WorldSpec
from .street import DRIVE_M, Street, make_street

FRAME_SEED = 12
SKIN_C = 33.0
LEAST_PX, MOST_PX = 20.0, 165.0  # heights of persons at 512 lines; tall or near ones of a group reach 200
COUNTS = (0.1, 0.24, 0.24, 0.18, 0.12, 0.08, 0.04)  # of images with 0 to 6 persons
WEAK_BY_NIGHT = {"visible": 0.32, "infrared": 0.26}  # shares of the persons that are drawn to be hard to see there
WEAK_BY_DAY = {"visible": 0.18, "infrared": 0.4}
HIDDEN = 0.3  # share of persons with something in front of them


@dataclass(frozen=True)
class Stage:
    """A street and all things in it."""

    street: Street
    things: tuple[Thing, ...]
    night: bool


class _Setter:
    """Draws places and looks for one shot, with one random generator."""

    def __init__(self, street: Street, shot: Shot, rng: np.random.Generator):
        self.street, self.rng, self.layout = street, rng, shot.layout
        self.rows, self.columns = street.camera.size_hw

    def spot(self, least: float, most: float, tall_m: float = 1.7) -> tuple[float, float]:
        """A free ground point where something `tall_m` is least..most px tall at 512 lines (log-uniform)."""
        for _ in range(25):
            pixels = np.exp(self.rng.uniform(np.log(least), np.log(most))) * self.rows / LINES
            along = self.street.camera.along_for(tall_m, pixels)
            x, z = self.street.camera.ground(self.rng.uniform(-0.02, 1.02) * self.columns, along)
            if along > 2 and self.street.inside(x, z) and self.in_sight(x, z):
                break
        return x, z

    def in_sight(self, x: float, z: float) -> bool:
        """Whether the foot of something here lies above the picture's lower edge, or little below it."""
        return self.street.camera.project(x, 0.0, z)[1] < 1.05 * self.rows

    def beside_wall(self) -> tuple[float, float]:
        """A point at the foot of a building."""
        side = self.street.left + 0.25 if self.rng.random() < 0.5 else self.street.right - 0.25
        return side, self.rng.uniform(7, min(24, self.street.end))

    def look(self) -> figure.Look:
        night, air = self.street.night, self.street.air_celsius
        clothes = air + (self.rng.uniform(7, 13) if night else self.rng.uniform(6, 10))
        return figure.draw_look(self.rng, SKIN_C + (0 if night else 1.5), clothes)

    def aside(self, thing: Thing, across_m: float, nearer_m: float) -> tuple[float, float]:
        """The point `across_m` to the right of a thing and `nearer_m` closer, as the camera sees it."""
        yaw = self.street.camera.yaw
        return (thing.x + across_m * np.cos(yaw) - nearer_m * np.sin(yaw),
                thing.z - across_m * np.sin(yaw) - nearer_m * np.cos(yaw))  # fmt: skip


def set_stage(spec: WorldSpec, shot: Shot) -> Stage:
    """The street of the shot's scene and the things of its frame."""
    rng = np.random.default_rng((spec.seed, FRAME_SEED, ("llvip", "kaist").index(shot.layout), shot.scene, shot.frame))
    street = make_street(spec.seed, shot.layout, shot.scene, shot.night, spec.size_hw)
    if shot.layout == "kaist":
        street = street.driven(rng.uniform(0, DRIVE_M))
        if shot.night:
            street = street.with_headlight(0.0, 8.0)  # the car's own headlights
    setter = _Setter(street, shot, rng)
    persons = _persons(setter)
    cars = _cars(setter)
    for thing in cars:
        if thing.kind == "oncoming" and shot.night:
            street = street.with_headlight(thing.x, thing.z - 4.0)
    rest = [*_furniture(setter), *_hidden_by(setter, persons), *_mistaken(setter)]
    if shot.layout == "kaist":
        rest += _ignored(setter)
    return Stage(street, (*persons, *_ground_mirrors(setter, persons), *cars, *rest), shot.night)


def _persons(setter: _Setter) -> list[Thing]:
    rng = setter.rng
    count = int(rng.choice(len(COUNTS), p=COUNTS))
    least = 1.3 * LEAST_PX if setter.layout == "kaist" else 2.2 * LEAST_PX
    found: list[Thing] = []
    for _ in range(count):
        if found and rng.random() < 0.35:  # a group: beside the one before
            x, z = setter.aside(found[-1], rng.uniform(0.25, 0.9) * rng.choice((-1, 1)), rng.uniform(-0.6, 0.6))
        else:
            x, z = setter.spot(least, MOST_PX)
        found.append(_person(setter, x, z))
    return found


def _person(setter: _Setter, x: float, z: float) -> Thing:
    rng, look = setter.rng, setter.look()
    chances = WEAK_BY_NIGHT if setter.street.night else WEAK_BY_DAY
    weak = rng.choice(("visible", "infrared", "none"), p=(*chances.values(), 1 - sum(chances.values())))
    weak = None if weak == "none" else str(weak)
    look = replace(look, away=True) if weak else look
    shade = rng.uniform(0.15, 0.4) if weak == "visible" and setter.street.night else 1.0
    return Thing("person", x, z, figure.person(look), label="person", weak=weak, shade=shade)


def _cars(setter: _Setter) -> list[Thing]:
    rng, street, found = setter.rng, setter.street, []
    for _ in range(rng.integers(0, 3)):  # parked at the kerb, as seen from the side across, from the front along it
        x, z = setter.spot(45, 130, tall_m=1.45)
        side = bool(abs(street.camera.yaw) > 0.25 or rng.random() < 0.3)
        found.append(Thing("car", x, z, things.car(rng, street.air_celsius, street.night, side)))
    if rng.random() < (0.4 if setter.layout == "kaist" else 0.12):
        z = rng.uniform(14, min(45, street.end - 2))
        x = street.road_x - 0.5 * street.road_half
        found.append(Thing("oncoming", x, z, things.car(rng, street.air_celsius, street.night, side=False)))
    return found


def _furniture(setter: _Setter) -> list[Thing]:
    rng, street, air = setter.rng, setter.street, setter.street.air_celsius
    posts = [Thing("lamp", x, z, things.lamp_post(y, x, air, street.lamp_colour, street.night))
             for x, y, z, strength in street.lamps if 3 < z < street.end and strength == 1]  # fmt: skip
    kinds = (
        ("tree", lambda: things.tree(rng, air), 0.5),
        ("bollard", lambda: things.bollard(air), 0.5),
        ("sign", lambda: things.sign(rng, air), 0.4),
        ("cabinet", lambda: things.cabinet(rng, air, rng.random() < 0.4), 0.35),
    )
    found = posts
    for kind, build, chance in kinds:
        for _ in range(rng.binomial(2, chance)):
            z = rng.uniform(6, min(32, street.end - 1))
            side = rng.choice((-1, 1)) * (street.road_half + rng.uniform(0.5, 1.6))
            found.append(Thing(kind, street.road_x + side, z, build()))
    return found


def _hidden_by(setter: _Setter, persons: list[Thing]) -> list[Thing]:
    """Things set before some persons, so that all degrees of occlusion are there."""
    rng, air, found = setter.rng, setter.street.air_celsius, []
    for person in persons:
        if rng.random() > HIDDEN:
            continue
        kind = str(rng.choice(("cabinet", "pillar", "car", "bollard")))
        x, z = setter.aside(person, rng.uniform(-0.35, 0.35) if kind != "car" else rng.uniform(-1.6, 1.6), 1.2)
        parts = {
            "cabinet": lambda: things.cabinet(rng, air, False),
            "pillar": lambda: things.pillar(rng, air),
            "car": lambda: things.car(rng, air, setter.street.night, side=True),
            "bollard": lambda: things.bollard(air),
        }[kind]()
        found.append(Thing(kind, x, z, parts))
    return found


def _mistaken(setter: _Setter) -> list[Thing]:
    """About one thing a picture that only one of the modalities takes for a person, and warm spots besides."""
    rng, air, found = setter.rng, setter.street.air_celsius, []
    seen_only = {"statue": things.statue, "mannequin": things.mannequin, "poster": things.poster}
    for kind, build in seen_only.items():
        if rng.random() < 0.2:
            found.append(Thing(kind, *setter.spot(40, 120), build(setter.look(), air)))
    if rng.random() < 0.2:
        found.append(_at_wall(setter, "glass_mirror", things.mirrored_in_glass(setter.look())))
    for _ in range(rng.binomial(3, 0.3)):  # a shutter of a building or of a kiosk
        x, z = setter.spot(45, 120) if rng.random() < 0.4 else setter.beside_wall()
        found.append(Thing("metal_mirror", x, z, things.mirrored_in_metal(setter.look(), air + 0.5)))
    for _ in range(rng.binomial(2, 0.25)):
        found.append(_at_wall(setter, "hot_pipe", things.hot_pipe(rng, air)))
    if rng.random() < 0.3:
        found.append(Thing("vent", *setter.spot(50, 150), things.vent(rng, air), solid=False))
    if rng.random() < 0.25:
        found.append(Thing("dog", *setter.spot(40, 150), figure.dog(rng, air + 15)))
    return found


def _at_wall(setter: _Setter, kind: str, parts: tuple) -> Thing:
    """At the foot of a building."""
    x, z = setter.beside_wall()
    return Thing(kind, x, z, parts, solid=False)


def _ground_mirrors(setter: _Setter, persons: list[Thing]) -> list[Thing]:
    """On some nights the ground is wet: every body is seen in it again, in infrared."""
    if not setter.street.night or setter.rng.random() > 0.3:
        return []
    opacity = float(setter.rng.uniform(0.2, 0.45))
    return [Thing("ground_mirror", p.x, p.z + 0.01, things.mirrored_in_ground(p.parts, opacity), solid=False)
            for p in persons if p.weak != "infrared"]  # fmt: skip


def _ignored(setter: _Setter) -> list[Thing]:
    """KAIST's other labels: a crowd in one box, a cyclist, somebody who may be a person."""
    rng, found = setter.rng, []
    if rng.random() < 0.16:
        members = [[moved(part, x=0.42 * i + rng.normal(0, 0.08)) for part in figure.person(setter.look())]
                   for i in range(int(rng.integers(3, 6)))]  # fmt: skip
        found.append(Thing("crowd", *setter.spot(24, 60), tuple(p for m in members for p in m), label="people"))
    if rng.random() < 0.14:
        parts = figure.cyclist(setter.look(), setter.street.air_celsius)
        found.append(Thing("cyclist", *setter.spot(35, 120), parts, label="cyclist"))
    if rng.random() < 0.12:
        x, z = setter.spot(20, 32)
        dim = tuple(replace(part, visible=0.5, infrared=0.4) for part in figure.person(setter.look()))
        found.append(Thing("unsure", x, z, dim, label="person?"))
    return found
