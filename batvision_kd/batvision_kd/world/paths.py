"""The ways sound takes from the speaker to the head: straight, by walls, by faces of furniture, and scattered.

    wall images   mirror sources of the empty room to order 4 (128 of them), weaker where furniture stands in the way
    faces         first mirror image in each face of furniture that the mirror point lies on, weaker for faces smaller
                  than the Fresnel zone
    scattered     rays over the whole sphere; each patch they meet sends some of its energy back (Lambert)

Amplitudes are relative to the direct sound at 1 m.
"""

# P paths, B octave bands, F surfaces

from dataclasses import dataclass
from itertools import product

import numpy as np

from .building import BANDS_HZ, Rig, Room
from .head import SPEAKER_M
from .rays import cast, unit_sphere

ORDER = 4
SCATTER_RAYS = 4096
BLOCKED_GAIN = 0.2  # amplitude of a mirror path with furniture in its first or last leg
AIR_DB_M = np.array([1.3, 2.7, 4.7, 9.9, 29.7, 105.0, 330.0]) / 1000  # about 20 degrees, 50 % humidity (ISO 9613-1)
SPHERE = unit_sphere(SCATTER_RAYS)
LATTICE = np.array([n for n in product(range(-ORDER, ORDER + 1), repeat=3) if 0 < np.abs(n).sum() <= ORDER])


@dataclass(frozen=True, eq=False)
class Paths:
    """length_m (P,), leave and arrive (P, 3) unit vectors (of emission; from the head to where it seems to come from),
    gain (P, B) amplitude with spreading and air."""

    length_m: np.ndarray
    leave: np.ndarray
    arrive: np.ndarray
    gain: np.ndarray


def joined(parts: list[Paths]) -> Paths:
    return Paths(*(np.concatenate([getattr(part, name) for part in parts]) for name in Paths.__dataclass_fields__))


def speaker_place(rig: Rig) -> np.ndarray:
    """(3,) metres."""
    return rig.position_m + SPEAKER_M[0] * rig.forward + SPEAKER_M[1] * rig.left + SPEAKER_M[2] * np.array([0, 0, 1.0])


def all_paths(room: Room, rig: Rig, rng: np.random.Generator) -> Paths:
    """Every path of the room, the direct one first."""
    return joined([direct(rig), wall_images(room, rig), face_images(room, rig), scattered(room, rig, rng)])


def direct(rig: Rig) -> Paths:
    return _from_images(speaker_place(rig)[None], rig.position_m, np.ones((1, 3)), np.ones((1, len(BANDS_HZ))))


def _from_images(images_m: np.ndarray, head_m: np.ndarray, flips: np.ndarray, gain: np.ndarray) -> Paths:
    """Paths from mirror images (P, 3). flips (P, 3): -1 along the axes in which the image is mirrored."""
    away = images_m - head_m
    length = np.sqrt((away**2).sum(axis=1))
    arrive = away / length[:, None]
    return Paths(length, -arrive * flips, arrive, gain * _spreading(length))


def _spreading(length_m: np.ndarray) -> np.ndarray:
    """(P, B): one over the length, and the air's share."""
    return 10 ** (-AIR_DB_M * length_m[:, None] / 20) / length_m[:, None]


def wall_images(room: Room, rig: Rig) -> Paths:
    """Mirror sources of the six walls (Allen and Berkley 1979), order 1 to 4."""
    odd = LATTICE % 2 == 1
    images = LATTICE * room.size_m + np.where(odd, room.size_m - speaker_place(rig), speaker_place(rig))
    half = np.abs(LATTICE) // 2
    first = np.abs(LATTICE) - half  # reflections at the wall that is met first: the high one for positive numbers
    low, high = np.where(LATTICE > 0, half, first), np.where(LATTICE > 0, first, half)
    mirror = np.sqrt((1 - room.absorption[:6]) * (1 - room.scattering[:6, None]))  # (6, B) amplitude
    times = np.stack([low, high], axis=2).reshape(-1, 6)  # (P, 6), the order of the surfaces
    gain = np.exp((times[:, :, None] * np.log(mirror)[None]).sum(axis=1))
    paths = _from_images(images, rig.position_m, np.where(odd, -1.0, 1.0), gain)
    return _weakened(paths, _blocked(room, rig, paths, np.full(len(images), np.inf)))


def face_images(room: Room, rig: Rig) -> Paths:
    """First-order mirror images in the faces of furniture."""
    speaker, head = speaker_place(rig), rig.position_m
    low, high = room.bodies_m[:, 0], room.bodies_m[:, 1]  # (K, 3)
    body, axis = np.nonzero((head < low) | (head > high))
    plane = np.where(head[axis] < low[body, axis], low[body, axis], high[body, axis])
    same_side = (speaker[axis] < plane) == (head[axis] < plane)
    images = np.repeat(speaker[None], len(body), axis=0)
    images[np.arange(len(body)), axis] = 2 * plane - speaker[axis]
    share = (plane - head[axis]) / np.where(same_side, images[np.arange(len(body)), axis] - head[axis], 1.0)
    points = head + share[:, None] * (images - head)
    inside = (points >= low[body]) & (points <= high[body])
    inside[np.arange(len(body)), axis] = True
    kept = np.flatnonzero(inside.all(axis=1) & same_side)
    body, axis = body[kept], axis[kept]
    flips = np.where(np.arange(3) == axis[:, None], -1.0, 1.0)
    surface = 6 + 6 * body + 2 * axis + (head[axis] > high[body, axis])
    paths = _from_images(images[kept], head, flips, _face_gain(room, body, axis, surface, images[kept] - head))
    reach = np.abs(share[kept]) * paths.length_m
    return _weakened(paths, _blocked(room, rig, paths, reach))


def _face_gain(room: Room, body: np.ndarray, axis: np.ndarray, surface: np.ndarray, away: np.ndarray) -> np.ndarray:
    """(P, B) amplitude: what is neither absorbed nor scattered, times the face's share of the first Fresnel zone."""
    extent = room.bodies_m[body, 1] - room.bodies_m[body, 0]
    area = np.prod(np.where(np.arange(3) == axis[:, None], 1.0, extent), axis=1)
    distance = np.sqrt((away**2).sum(axis=1)) / 2
    zone = np.pi / 2 * (343.0 / BANDS_HZ) * distance[:, None]
    kept = (1 - room.absorption[surface]) * (1 - room.scattering[surface, None])
    return np.sqrt(kept) * np.minimum(1, area[:, None] / zone)


def _blocked(room: Room, rig: Rig, paths: Paths, reach_m: np.ndarray) -> np.ndarray:
    """(P,) bool: furniture stands in the first or the last leg, nearer than `reach_m` (P,)."""
    if not len(paths.length_m):
        return np.zeros(0, bool)
    blocked = np.zeros(len(paths.length_m), bool)
    for origin, rays in ((speaker_place(rig), paths.leave), (rig.position_m, paths.arrive)):
        hits = cast(room, origin, rays.T)
        blocked |= (hits.surface >= 6) & (hits.reach < np.minimum(reach_m, paths.length_m) - 0.05)
    return blocked


def _weakened(paths: Paths, blocked: np.ndarray) -> Paths:
    gain = paths.gain * np.where(blocked, BLOCKED_GAIN, 1.0)[:, None]
    return Paths(paths.length_m, paths.leave, paths.arrive, gain)


def scattered(room: Room, rig: Rig, rng: np.random.Generator) -> Paths:
    """First-order diffuse returns: delay 2 r / c, energy dOmega rho s cos / (pi r^2), random sign; speaker and head are
    taken to be in one place."""
    hits = cast(room, rig.position_m, SPHERE)
    distance = hits.reach.astype(np.float64)
    cosine = np.abs(np.take_along_axis(SPHERE, hits.axis[None], 0)[0])
    sent_back = (1 - room.absorption[hits.surface]) * (room.scattering[hits.surface] * cosine)[:, None]
    amplitude = np.sqrt(4 * np.pi / SCATTER_RAYS * sent_back / np.pi) * 2  # x 2: spreading below divides by 2 r, not r
    sign = rng.choice((-1.0, 1.0), len(distance))[:, None]
    return Paths(2 * distance, SPHERE.T, SPHERE.T, sign * amplitude * _spreading(2 * distance))
