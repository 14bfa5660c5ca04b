"""Casting rays into a room: slabs, all rays at once."""

# N rays, F surfaces as in building.py

from dataclasses import dataclass

import numpy as np

from .building import Room

NEARLY_ZERO = np.float32(1e-9)  # a component of 0 would divide 0 by 0 on a plane through the origin


@dataclass(frozen=True, eq=False)
class Hits:
    """Where N rays end. reach (N,): multiples of the ray's vector; surface (N,): number of the surface; axis (N,): 0..2
    along which its normal points."""

    reach: np.ndarray
    surface: np.ndarray
    axis: np.ndarray


def cast(room: Room, origin_m: np.ndarray, rays: np.ndarray) -> Hits:
    """The first surface that each ray (3, N) from a place inside the room meets."""
    rays = rays.astype(np.float32)
    inverse = 1 / np.where(np.abs(rays) < NEARLY_ZERO, NEARLY_ZERO, rays)
    origin = origin_m.astype(np.float32)[:, None]
    far = np.maximum(-origin * inverse, (room.size_m.astype(np.float32)[:, None] - origin) * inverse)
    axis = far.argmin(axis=0)
    reach = far.min(axis=0)
    surface = 2 * axis + (np.take_along_axis(rays, axis[None], 0)[0] > 0)
    for number, body in enumerate(room.bodies_m.astype(np.float32)):
        _meet(number, body, origin, inverse, reach, surface, axis)
    return Hits(reach, surface, axis)


def _meet(number: int, body: np.ndarray, origin, inverse, reach, surface, axis) -> None:
    """Shorten the rays that meet this body before anything else."""
    one, other = (body[0][:, None] - origin) * inverse, (body[1][:, None] - origin) * inverse
    near = np.minimum(one, other)
    enter, leave = near.max(axis=0), np.maximum(one, other).min(axis=0)
    hit = np.flatnonzero((enter < leave) & (enter > 0) & (enter < reach))
    if len(hit):
        reach[hit] = enter[hit]
        axis[hit] = near[:, hit].argmax(axis=0)
        low_side = np.take_along_axis(inverse[:, hit], axis[None, hit], 0)[0] > 0  # a ray going up meets the low face
        surface[hit] = 6 + 6 * number + 2 * axis[hit] + ~low_side


def unit_sphere(count: int) -> np.ndarray:
    """(3, count) directions spread evenly over the sphere, each for 4 pi / count of it (golden spiral)."""
    turn = np.arange(count) * (np.pi * (3 - np.sqrt(5)))
    height = 1 - (2 * np.arange(count) + 1) / count
    around = np.sqrt(1 - height**2)
    return np.stack([around * np.cos(turn), around * np.sin(turn), height])
