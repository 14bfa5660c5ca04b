"""One scene: a street, the camera over it, its lamps and its weather. All of it follows from seed, layout and scene.

LLVIP's camera hangs on a pole and looks down on a crossing; KAIST's looks along the road from a car's roof. So the two
layouts differ in heights and places of persons, in the share of sky, and in contrast and noise of both pictures.
"""

from dataclasses import dataclass, replace

import numpy as np

from .camera import Camera
from .parts import Colour, jitter

STREET_SEED = 11  # keeps the draws of streets apart from those of their frames
HEADLIGHT = 0.2  # of a street lamp's power
DRIVE_M = 60.0  # the longest way a camera drives along its street
WALLS: tuple[Colour, ...] = (
    (0.28, 0.32, 0.42),
    (0.4, 0.45, 0.5),
    (0.5, 0.52, 0.55),
    (0.22, 0.28, 0.45),
    (0.35, 0.36, 0.36),
)
SODIUM, WHITE = (0.25, 0.6, 1.0), (0.95, 1.0, 0.95)  # light of lamps, BGR


@dataclass(frozen=True)
class Walls:
    """A row of buildings along one plane: left edges (N,) m, heights (N,) m, 0 for a gap, colours (N, 3), (N,) °C."""

    edges: np.ndarray
    heights: np.ndarray
    colours: np.ndarray
    celsius: np.ndarray

    def which(self, along_m: np.ndarray) -> np.ndarray:
        """The building at each position along the row; beyond the ends the first and the last."""
        return np.clip(np.searchsorted(self.edges, along_m) - 1, 0, len(self.edges) - 1)


@dataclass(frozen=True)
class Street:
    """Metres and degrees Celsius. The road runs along z; buildings stand at x = left, x = right and z = end."""

    night: bool
    camera: Camera
    left: float
    right: float
    end: float
    road_x: float
    road_half: float
    zebra_z: float
    walls: tuple[Walls, Walls, Walls]  # left, right, end
    road_colour: Colour
    pavement_colour: Colour
    lamps: np.ndarray  # (L, 4) x, height, z in m, and strength: 1 for a street lamp's head
    lamp_colour: Colour
    lamp_power: float
    ambient: float
    air_celsius: float
    road_celsius: float
    texture_seed: int

    def light(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Light (..., 3) BGR that falls on points of the world: the sky's, and by night that of the lamps."""
        sky = (1.0, 1.0, 1.0) if not self.night else (1.0, 0.85, 0.75)
        total = np.full((*np.shape(x), 3), self.ambient, np.float32) * np.asarray(sky, np.float32)
        if self.night:
            fall = sum(strength * self.lamp_power / ((x - lx) ** 2 + (y - ly) ** 2 * 0.6 + (z - lz) ** 2 + 4) ** 1.25
                       for lx, ly, lz, strength in self.lamps.tolist())  # fmt: skip
            total += np.asarray(fall, np.float32)[..., None] * np.asarray(self.lamp_colour, np.float32)
        return total

    def driven(self, forward_m: float) -> "Street":
        """The same street seen `forward_m` further along."""
        walls = tuple(replace(row, edges=row.edges - forward_m) for row in self.walls[:2])
        return replace(self, walls=(*walls, self.walls[2]), zebra_z=self.zebra_z - forward_m,
                       lamps=self.lamps - (0, 0, forward_m, 0))  # fmt: skip

    def with_headlight(self, x: float, z: float) -> "Street":
        """The same street with the pool of light that a car throws on the ground around (x, z)."""
        return replace(self, lamps=np.vstack([self.lamps, (x, 0.6, z, HEADLIGHT)]))

    def inside(self, x: float, z: float, clear_m: float = 0.6) -> bool:
        """Whether a ground point lies between the buildings."""
        return self.left + clear_m < x < self.right - clear_m and 1.0 < z < self.end - clear_m


def make_street(seed: int, layout: str, scene: int, night: bool, size_hw: tuple[int, int]) -> Street:
    """The street of one scene; `size_hw` changes its pixels, not its content."""
    rng = np.random.default_rng((seed, STREET_SEED, ("llvip", "kaist").index(layout), scene))
    camera = _pole_camera(rng, size_hw) if layout == "llvip" else _car_camera(rng, size_hw)
    left, right = -rng.uniform(7, 11), rng.uniform(7, 11)
    end = rng.uniform(38, 55) if layout == "llvip" else rng.uniform(70, 110)
    air = rng.uniform(6, 16) if night else rng.uniform(22, 29)
    warm = rng.uniform(1, 3) if night else rng.uniform(3, 8)
    return Street(
        night=night, camera=camera, left=left, right=right, end=end,
        road_x=rng.uniform(-2, 2) if layout == "llvip" else rng.uniform(-1.5, 0.5), road_half=rng.uniform(3, 4.2),
        zebra_z=rng.uniform(9, 16),
        walls=tuple(_walls(rng, air, warm, stop) for stop in (end + DRIVE_M, end + DRIVE_M, 40)),
        road_colour=jitter(rng, (0.16, 0.16, 0.16), 0.3), pavement_colour=jitter(rng, (0.3, 0.32, 0.34), 0.25),
        lamps=_lamps(rng, left, right, end, spacing=11 if layout == "llvip" else 17),
        lamp_colour=SODIUM if rng.random() < 0.6 else WHITE,
        lamp_power=rng.uniform(9, 20),
        ambient=(rng.uniform(0.03, 0.06) if layout == "llvip" else rng.uniform(0.015, 0.035)) if night
        else rng.uniform(0.8, 1.3),
        air_celsius=air, road_celsius=air + warm, texture_seed=int(rng.integers(1 << 31)),
    )  # fmt: skip


def _pole_camera(rng: np.random.Generator, size_hw: tuple[int, int]) -> Camera:
    return Camera(rng.uniform(4.2, 6.2), rng.uniform(0.3, 0.42), rng.uniform(-0.5, 0.5),
                  size_hw[0] * rng.uniform(1.3, 1.6), size_hw)  # fmt: skip


def _car_camera(rng: np.random.Generator, size_hw: tuple[int, int]) -> Camera:
    return Camera(rng.uniform(1.45, 1.8), rng.uniform(0.0, 0.07), rng.uniform(-0.1, 0.1),
                  size_hw[0] * rng.uniform(1.05, 1.25), size_hw)  # fmt: skip


def _walls(rng: np.random.Generator, air: float, warm: float, stop: float) -> Walls:
    edges = np.cumsum(np.concatenate([[-45.0], rng.uniform(8, 18, 20)]))
    edges = edges[edges < stop].astype(np.float32)
    count = len(edges)
    heights = np.float32(rng.uniform(6, 17, count) * (rng.random(count) > 0.12))
    colours = np.float32([jitter(rng, WALLS[rng.integers(len(WALLS))], 0.25) for _ in range(count)])
    return Walls(edges, heights, colours, np.float32(air + warm * rng.uniform(0.2, 1.1, count)))


def _lamps(rng: np.random.Generator, left: float, right: float, end: float, spacing: float) -> np.ndarray:
    places = np.arange(rng.uniform(5, 10), end + DRIVE_M, spacing * rng.uniform(0.9, 1.2))
    sides = [(left + 2.0, right - 2.0)[(i + int(rng.integers(2))) % 2] for i in range(len(places))]
    return np.array([(x, rng.uniform(4.5, 6), z, 1.0) for x, z in zip(sides, places, strict=True)])
