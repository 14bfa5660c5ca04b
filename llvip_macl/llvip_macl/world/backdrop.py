"""The empty street, by casting a ray through every pixel: ground, two rows of buildings, a row across, sky.

# H, W rows and columns of the canvas, P points of one surface
"""

from dataclasses import dataclass

import numpy as np

from .street import Street, Walls

STOREY_M, WINDOW_M = 3.2, 2.3
FINE_UNTIL_M = 22.0  # joints of the pavement are finer than a pixel beyond


@dataclass
class Scenery:
    """What the camera looks at, painted over as things are added.

    colour (H, W, 3) reflectance BGR, light (H, W, 3) that falls on it, glow (H, W, 3) it gives itself, celsius (H, W).
    """

    colour: np.ndarray
    light: np.ndarray
    glow: np.ndarray
    celsius: np.ndarray


def backdrop(street: Street, columns_px: np.ndarray, rows_px: np.ndarray) -> Scenery:
    """The street without things, for pixel centres columns_px (W,) and rows_px (H,)."""
    rays = street.camera.rays(*np.meshgrid(columns_px, rows_px))
    distance, hits = _hits(street, rays)
    nearest = np.argmin(distance, axis=0)
    reach = np.take_along_axis(distance, nearest[None], axis=0)[0]
    sky = ~np.isfinite(reach)
    points = rays * np.where(sky, 0, reach)[..., None] + np.float32((0, street.camera.height_m, 0))
    shape = reach.shape
    view = Scenery(*(np.zeros((*shape, 3), np.float32) for _ in range(3)), np.zeros(shape, np.float32))
    for number, paint in enumerate(hits):
        where = (nearest == number) & ~sky
        colour, celsius, glow = paint(points[where])
        view.colour[where], view.celsius[where], view.glow[where] = colour, celsius, glow
    view.light[:] = street.light(points[..., 0], points[..., 1], points[..., 2])
    _paint_sky(street, view, sky, rays)
    return view


def _hits(street: Street, rays: np.ndarray) -> tuple[np.ndarray, list]:
    """Distances (4, H, W) along the rays, inf for a miss, and the painters of the four surfaces."""
    height = street.camera.height_m
    with np.errstate(divide="ignore", invalid="ignore"):
        far = [-height / rays[..., 1], street.left / rays[..., 0], street.right / rays[..., 0],
               street.end / rays[..., 2]]  # fmt: skip
        distance = np.stack([np.where(np.isfinite(d) & (d > 0), d, np.inf) for d in far])
    painters = [lambda points: _ground(street, points)]
    for number, (walls, axis) in enumerate(zip(street.walls, (2, 2, 0), strict=True), 1):
        reach = np.where(np.isfinite(distance[number]), distance[number], 0)
        along, y = reach * rays[..., axis], height + reach * rays[..., 1]
        distance[number][(y < 0) | (y > walls.heights[walls.which(along)])] = np.inf
        painters.append(lambda points, walls=walls, axis=axis: _wall(street, walls, points[:, axis], points[:, 1]))
    return distance, painters


def _ground(street: Street, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Road with lane marks and a zebra crossing, kerbs, slabs: colours (P, 3), temperatures (P,), no glow."""
    x, z = points[:, 0], points[:, 2]
    across = np.abs(x - street.road_x)
    road = across < street.road_half
    colour = np.where(road[:, None], np.float32(street.road_colour), np.float32(street.pavement_colour))
    zebra = road & (z > street.zebra_z) & (z < street.zebra_z + 3.2) & (x % 1.1 < 0.55)
    lane = (across < 0.09) & (z % 5 < 2.2) & ~((z > street.zebra_z - 1) & (z < street.zebra_z + 4.5))
    slab = ~road & (z < FINE_UNTIL_M) & ((x % 0.9 < 0.05) | (z % 0.9 < 0.07))
    kerb = np.abs(across - street.road_half) < 0.14
    colour[zebra | lane] = 0.7
    colour[kerb] = np.float32(street.pavement_colour) * 1.35
    colour[slab] *= 0.75
    worn = 1 + 0.16 * np.sin(x * 0.9 + 1.7 * np.sin(z * 0.31)) * np.sin(z * 0.53 + street.texture_seed % 7)
    celsius = np.where(road, street.road_celsius, street.air_celsius + 0.6 * (street.road_celsius - street.air_celsius))
    celsius = celsius - (zebra | lane) * (0.4 if street.night else 2.0) + 4 * (worn - 1)
    return colour * worn[:, None], celsius, np.zeros_like(colour)


def _wall(street: Street, walls: Walls, along: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Facades with windows above and shops below; by night some windows are lit."""
    index = walls.which(along)
    storey, bay = np.floor(y / STOREY_M), np.floor(along / WINDOW_M)
    up, right = y / STOREY_M - storey, along / WINDOW_M - bay
    shop = (y < STOREY_M) & (up > 0.12) & (up < 0.8) & (right > 0.06) & (right < 0.94)
    window = (y > STOREY_M) & (up > 0.28) & (up < 0.78) & (right > 0.24) & (right < 0.76)
    glass = shop | window
    chance = _hash(storey * 57 + bay * 131 + index * 17 + street.texture_seed % 1000)
    colour = np.where(glass[:, None], np.float32((0.16, 0.13, 0.11)), walls.colours[index].astype(np.float32))
    colour[(y % STOREY_M < 0.18) & ~glass] *= 0.8
    cool = 1.0 if street.night else 4.0
    celsius = walls.celsius[index] - glass * cool * (0.5 + chance) + 0.6 * np.sin(along * 0.8) + 0.3 * up
    lit = glass & (chance < (0.16 if street.night else 0.0))
    glow = lit[:, None] * np.float32((0.14, 0.26, 0.34)) * (0.5 + chance[:, None])
    return colour, celsius + lit * 1.5, glow


def _hash(numbers: np.ndarray) -> np.ndarray:
    """A fixed pseudo-random value in 0-1 for each number."""
    return (np.sin(numbers * 12.9898) * 43758.5453) % 1.0


def _paint_sky(street: Street, view: Scenery, sky: np.ndarray, rays: np.ndarray) -> None:
    up = np.clip(rays[..., 1][sky], 0, 0.6)[:, None]
    tint = np.float32((0.012, 0.01, 0.009)) if street.night else np.float32((0.85, 0.75, 0.68)) - 0.5 * up
    view.light[sky], view.colour[sky], view.glow[sky] = 0, 0, tint
    view.celsius[sky] = street.air_celsius - 20
