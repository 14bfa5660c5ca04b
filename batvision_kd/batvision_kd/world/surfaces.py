"""What surfaces look like: finishes in the standard sizes of the trade, the same in every building.

A picture tells how far a wall is only by things whose size is known. So a brick is 25 cm long and a door 2.04 m high
wherever it stands; colours, contrasts and which finishes prevail are a building's own.

    walls       bricks, tiles or upright boards, darker below a rail at 0.9 m; skirting 10 cm; doors 0.9 x 2.04 m;
                sockets 8 cm, every 1.8 m
    floor       planks of 14 cm or tiles of 30 cm
    ceiling     a grid of 60 cm with one lamp of 1.2 x 0.6 m in its middle
    furniture   fronts of 45 x 35 cm, tops of planks
"""

# N rays, F surfaces as in building.py; u runs along a surface, v up it (or across it, where it lies flat)

from dataclasses import dataclass

import numpy as np

# width, height and joint in metres, and how far a course is shifted against the one below, in widths
FINISHES = {
    "bricks": (0.25, 1 / 12, 0.010, 0.5),
    "wall tiles": (0.20, 0.20, 0.005, 0.0),
    "boards": (0.10, 9.0, 0.006, 0.0),
    "planks": (1.20, 0.14, 0.004, 0.35),
    "floor tiles": (0.30, 0.30, 0.006, 0.0),
    "ceiling grid": (0.60, 0.60, 0.024, 0.0),
    "fronts": (0.45, 0.35, 0.008, 0.0),
}
NAMES = list(FINISHES)
TABLE = np.array(list(FINISHES.values()), np.float32)
WALLS = [NAMES.index(name) for name in ("bricks", "wall tiles", "boards")]
FLOORS = [NAMES.index(name) for name in ("planks", "floor tiles")]
SKIRTING_M = 0.10
RAIL_UP_M, RAIL_M = 0.90, 0.05
DOOR_M = (0.90, 2.04)
FRAME_M = 0.06
SOCKET_M, SOCKET_UP_M, SOCKET_EVERY_M = 0.08, 0.30, 1.8
LAMP_M = (1.2, 0.6)
WHITE = 0.92


@dataclass(frozen=True, eq=False)
class Taste:
    """A building's surfaces. texture (64, 64) 0..1: shades of bricks, tiles and boards."""

    texture: np.ndarray
    contrast: float  # of those shades
    joint: float  # how much darker a joint is
    dado: float  # how much darker walls are below the rail
    trim: float  # grey of doors and skirting
    walls: np.ndarray  # (3,) shares of bricks, tiles, boards
    floor: int  # its finish


@dataclass(frozen=True, eq=False)
class Look:
    """A room's surfaces. finish (F,): row of `TABLE`; origin_m (F, 3): where its courses begin; doors (4,): share of a
    wall's free length at which its door begins, above 1 without one."""

    taste: Taste
    finish: np.ndarray
    origin_m: np.ndarray
    doors: np.ndarray


def make_taste(rng: np.random.Generator) -> Taste:
    return Taste(
        texture=_texture(rng),
        contrast=rng.uniform(0.1, 0.5),
        joint=rng.uniform(0.3, 0.7),
        dado=rng.uniform(0.15, 0.45),
        trim=rng.uniform(0.35, 0.9),
        walls=rng.dirichlet(np.full(len(WALLS), 2.0)),
        floor=FLOORS[rng.integers(len(FLOORS))],
    )


def _texture(rng: np.random.Generator) -> np.ndarray:
    """Noise with structure in two sizes."""
    coarse = np.kron(rng.random((16, 16)), np.ones((4, 4)))
    return (0.6 * coarse + 0.4 * rng.random((64, 64))).astype(np.float32)


def make_look(rng: np.random.Generator, taste: Taste, bodies_m: np.ndarray) -> Look:
    """bodies_m (K, 2, 3) low and high corners: their courses begin at the low one. One wall in two has a door."""
    walls = rng.choice(WALLS, 4, p=taste.walls)
    fronts, planks = NAMES.index("fronts"), NAMES.index("planks")
    finish = [
        *walls,
        taste.floor,
        NAMES.index("ceiling grid"),
        *[fronts, fronts, fronts, fronts, planks, planks] * len(bodies_m),
    ]
    origin = np.concatenate([np.zeros((6, 3)), np.repeat(bodies_m[:, 0], 6, axis=0)])
    return Look(taste, np.array(finish), origin.astype(np.float32), rng.uniform(0, 2, 4))


def painted(look: Look, size_m, colours, surface, axis, points, pixel_m) -> tuple[np.ndarray, np.ndarray]:
    """What N points of surfaces reflect: colour (N, 3) of 0..1 and the shade (N,), a factor on it of about 1.

    size_m (3,) of the room; colours (F, 3); surface, axis (N,) as in `rays.Hits`; points (3, N) metres; pixel_m (N,):
    how much of a surface one pixel covers, which blurs its joints.
    """
    u, v = in_plane(look, surface, axis, points)
    shade = _coursed(look, surface, u, v, pixel_m)
    shade[(surface < 4) & (v < RAIL_UP_M)] *= np.float32(1 - look.taste.dado)
    colour = colours.astype(np.float32)[surface]
    for where, grey, factor in _fixtures(look, size_m, surface, axis, u, v):
        colour[where], shade[where] = grey, factor
    return colour, shade


def in_plane(look: Look, surface: np.ndarray, axis: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """u, v (N,) metres from where the surface's courses begin."""
    away = points - look.origin_m[surface].T
    return np.where(axis == 0, away[1], away[0]), np.where(axis == 2, away[1], away[2])


def _coursed(look: Look, surface: np.ndarray, u: np.ndarray, v: np.ndarray, pixel_m: np.ndarray) -> np.ndarray:
    """(N,) shade of bricks and the like: each its own, darker in the joints."""
    width, height, joint, shift = TABLE[look.finish[surface]].T
    up = v / height
    course = np.floor(up)
    along = u / width + shift * course
    unit = np.floor(along)
    row, column = (course + 13 * surface).astype(np.int32) & 63, (unit + 7 * surface).astype(np.int32) & 63
    gap = np.minimum((0.5 - np.abs(along - unit - 0.5)) * width, (0.5 - np.abs(up - course - 0.5)) * height)
    covered = np.clip(((joint + pixel_m) / 2 - gap) / pixel_m, 0, np.minimum(1, joint / pixel_m))
    taste = look.taste
    return 1 + np.float32(taste.contrast) * (taste.texture[column, row] - 0.5) - np.float32(taste.joint) * covered


def _fixtures(look: Look, size_m, surface, axis, u, v):
    """Masks (N,) of what is fixed to walls and ceiling, its grey and its shade; later ones lie over earlier ones."""
    wall = surface < 4
    low = wall & (v < DOOR_M[1])
    length = np.where(axis == 0, size_m[1], size_m[0]).astype(np.float32)
    begin = look.doors.astype(np.float32)[np.minimum(surface, 3)] * (length - DOOR_M[0])
    inward = np.minimum(np.minimum(u - begin, begin + DOOR_M[0] - u), DOOR_M[1] - v)  # metres inside the door's edge
    socket = np.abs(u % SOCKET_EVERY_M - SOCKET_EVERY_M / 2) < SOCKET_M / 2
    lamp = (np.abs(u - size_m[0] / 2) < LAMP_M[0] / 2) & (np.abs(v - size_m[1] / 2) < LAMP_M[1] / 2)
    trim = look.taste.trim
    yield wall & (v < SKIRTING_M), trim, 1.0
    yield low & (np.abs(v - RAIL_UP_M) < RAIL_M / 2), trim, 1.1
    yield low & socket & (np.abs(v - SOCKET_UP_M) < SOCKET_M / 2), WHITE, 1.0
    yield low & (inward > 0), trim, 0.7
    yield low & (inward > FRAME_M), trim, 1.0
    yield (surface == 5) & lamp, 1.0, 2.5
