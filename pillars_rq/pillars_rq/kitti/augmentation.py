"""Training augmentation, in the published order, from one generator a sample.

    paste objects of the database -> shake each object -> flip y -> turn and scale everything -> range -> shuffle

Angles are clockwise like theta, so a flip of y gives theta -> pi - theta, and a turn by a moves (x, y) to
(x cos a + y sin a, -x sin a + y cos a) and adds a to theta. Boxes of other classes (label -1) move with the rest.
"""

# P points, N boxes, T tries

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from pillars_rq.boxes import bev_corners, limit_period, points_in_boxes
from pillars_rq.grid import strictly_inside

from .database import GroundTruthDatabase

MARGIN_M = 1e-6  # boxes that only touch do not collide


@dataclass(frozen=True)
class AugmentationSettings:
    """The published values; range_m (x, y, z smallest, then largest) is the grid's."""

    range_m: tuple[float, float, float, float, float, float]
    paste_up_to: Mapping[str, int] = field(default_factory=lambda: {"Car": 15, "Pedestrian": 10, "Cyclist": 10})
    noise_tries: int = 100
    noise_std_m: float = 0.25
    noise_turn_rad: float = 0.15707963267
    flip_chance: float = 0.5
    turn_rad: float = math.pi / 4
    scale: tuple[float, float] = (0.95, 1.05)


@dataclass(eq=False)
class Sample:
    """points (P,4) float32; boxes (N,7) float64; labels (N,), -1 for other classes; names (N,). Steps make new ones."""

    points: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    names: np.ndarray


def augment(
    sample: Sample, settings: AugmentationSettings, database: GroundTruthDatabase | None, rng: np.random.Generator
) -> Sample:
    """All steps in order; without a database nothing is pasted. What was given is left as it is."""
    if database is not None:
        sample = paste_objects(sample, settings, database, rng)
    sample = shake_objects(sample, settings, rng)
    if rng.random() < settings.flip_chance:
        sample = flip_y(sample)
    sample = turn_and_scale(sample, rng.uniform(-settings.turn_rad, settings.turn_rad), rng.uniform(*settings.scale))
    sample = keep_in_range(sample, settings.range_m)
    return replace(sample, points=rng.permutation(sample.points))


# --- steps ------------------------------------------------------------------------------------------------------------


def paste_objects(
    sample: Sample, settings: AugmentationSettings, database: GroundTruthDatabase, rng: np.random.Generator
) -> Sample:
    """Fill every class up to its count; an object that would collide is left out; scene points in it give way."""
    boxes, labels, names, clouds = sample.boxes, sample.labels, sample.names, []
    for name, target in settings.paste_up_to.items():
        if name not in database.classes:
            continue
        present = int((sample.labels == database.classes.index(name)).sum())
        drawn = database.draw(name, max(0, target - present), rng)
        kept = _without_collisions(drawn.boxes, boxes)
        boxes, labels = np.concatenate([boxes, drawn.boxes[kept]]), np.append(labels, drawn.labels[kept])
        names = np.append(names, [name] * len(kept))
        clouds += [drawn.clouds[i] for i in kept]
    covered = points_in_boxes(sample.points, boxes[len(sample.boxes) :]).any(1)
    return Sample(np.concatenate([sample.points[~covered], *clouds]), boxes, labels, names)


def _without_collisions(drawn: np.ndarray, boxes: np.ndarray) -> list[int]:
    """One after the other: which drawn boxes (T,7) touch neither `boxes` (N,7) nor one that was kept before."""
    clash = collide(drawn, np.concatenate([boxes, drawn]))
    standing, kept = list(range(len(boxes))), []
    for i in range(len(drawn)):
        if not clash[i, standing].any():
            standing.append(len(boxes) + i)
            kept.append(i)
    return kept


def shake_objects(sample: Sample, settings: AugmentationSettings, rng: np.random.Generator) -> Sample:
    """Move and turn each box with its points a little, by the first of T random tries that collides with nothing."""
    if not (settings.noise_std_m or settings.noise_turn_rad):
        return sample
    boxes, points = sample.boxes.copy(), sample.points.copy()
    inside = points_in_boxes(points, boxes)
    owner = np.where(inside.any(1), inside.argmax(1), -1) if len(boxes) else np.full(len(points), -1)
    for i in range(len(boxes)):
        shifts = rng.normal(0, settings.noise_std_m, (settings.noise_tries, 3))
        turns = rng.uniform(-settings.noise_turn_rad, settings.noise_turn_rad, settings.noise_tries)
        chosen = _first_free(boxes, i, shifts, turns)
        if chosen is None:
            continue
        own = owner == i
        points[own, :3] = _moved(points[own, :3], boxes[i, :3], shifts[chosen], turns[chosen])
        boxes[i, :3] += shifts[chosen]
        boxes[i, 6] += turns[chosen]
    return replace(sample, points=points, boxes=boxes)


def _first_free(boxes: np.ndarray, i: int, shifts: np.ndarray, turns: np.ndarray, chunk: int = 8) -> int | None:
    others = np.delete(boxes, i, 0)
    for start in range(0, len(turns), chunk):
        part = slice(start, start + chunk)
        tries = np.repeat(boxes[i : i + 1], len(turns[part]), 0)
        tries[:, :3] += shifts[part]
        tries[:, 6] += turns[part]
        free = ~collide(tries, others).any(1)
        if free.any():
            return start + int(free.argmax())
    return None


def _moved(points: np.ndarray, centre: np.ndarray, shift: np.ndarray, turn: float) -> np.ndarray:
    offset = points.astype(np.float64) - centre
    offset[:, :2] = turned(offset[:, :2], turn)
    return offset + centre + shift


def flip_y(sample: Sample) -> Sample:
    """Mirror left and right."""
    points, boxes = sample.points.copy(), sample.boxes.copy()
    points[:, 1] *= -1
    boxes[:, 1] *= -1
    boxes[:, 6] = math.pi - boxes[:, 6]
    return replace(sample, points=points, boxes=boxes)


def turn_and_scale(sample: Sample, turn: float, scale: float) -> Sample:
    """Turn everything clockwise by `turn` radians about the sensor, then scale it."""
    points, boxes = sample.points.copy(), sample.boxes.copy()
    points[:, :2] = turned(points[:, :2].astype(np.float64), turn)
    points[:, :3] *= scale
    boxes[:, :2] = turned(boxes[:, :2], turn)
    boxes[:, :6] *= scale
    boxes[:, 6] += turn
    return replace(sample, points=points, boxes=boxes)


def keep_in_range(sample: Sample, range_m) -> Sample:
    """Points strictly inside the range, boxes whose centre is inside seen from above; angles into [-pi, pi)."""
    low, high = np.array(range_m[:3]), np.array(range_m[3:])
    points = sample.points[strictly_inside(sample.points, low, high)]
    kept = ((sample.boxes[:, :2] > low[:2]) & (sample.boxes[:, :2] < high[:2])).all(1)
    boxes = sample.boxes[kept]
    boxes[:, 6] = limit_period(boxes[:, 6], 0.5, 2 * math.pi)
    return Sample(points, boxes, sample.labels[kept], sample.names[kept])


# --- geometry ---------------------------------------------------------------------------------------------------------


def turned(xy: np.ndarray, angle: float) -> np.ndarray:
    """Points (P,2) turned clockwise about the origin."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.stack([xy[:, 0] * cos + xy[:, 1] * sin, -xy[:, 0] * sin + xy[:, 1] * cos], 1)


def collide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether rectangles overlap seen from above: boxes (T,7), (N,7) -> (T,N) bool, by separating axes.

    Two convex shapes are apart exactly when along one of their sides' directions their shadows are.
    """
    first, second = bev_corners(a), bev_corners(b)  # (T,4,2), (N,4,2)
    apart = np.zeros((len(a), len(b)), bool)
    for own, directions in ((True, first), (False, second)):
        for side in (0, 1):
            axis = directions[:, side + 1] - directions[:, side]
            axis /= np.maximum(np.linalg.norm(axis, axis=1, keepdims=True), 1e-12)
            apart |= _shadows_apart(axis, first, second, own)
    return ~apart


def _shadows_apart(axis: np.ndarray, first: np.ndarray, second: np.ndarray, of_first: bool) -> np.ndarray:
    if of_first:
        low, high = _shadow(np.einsum("tvk,tk->tv", first, axis)[:, None])
        other_low, other_high = _shadow(np.einsum("nvk,tk->tnv", second, axis))
    else:
        low, high = _shadow(np.einsum("tvk,nk->tnv", first, axis))
        other_low, other_high = _shadow(np.einsum("nvk,nk->nv", second, axis)[None])
    return (high <= other_low + MARGIN_M) | (other_high <= low + MARGIN_M)


def _shadow(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return values.min(-1), values.max(-1)
