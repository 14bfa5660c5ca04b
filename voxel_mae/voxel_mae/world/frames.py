"""The frames of one sequence: the scan from where the sensor is, and the boxes an annotator would draw.

A machine is annotated over its whole sequence once one frame shows at least SEEN_POINTS of it, so some boxes hold few
points or none, as in real annotation of sequences. Some frames are cropped to a quarter turn; some sites have no
machine; with `odd_frames`, one frame of train has no point at all (a covered sensor).
"""

# P points, G boxes: x, y, z of the centre, dx along the heading, dy, dz in metres, heading counter-clockwise from x

from collections.abc import Sequence as List
from dataclasses import dataclass
from functools import cache

import numpy as np

from .sensor import Rays, Scan
from .site import Placed, Site, make_site
from .spec import SPLITS, Sequence, WorldSpec

SEEN_POINTS = 5
MACHINE_FREE_SHARE, CROPPED_SHARE = 0.08, 0.08
CROP_RAD = np.pi / 4  # to either side


@dataclass(frozen=True, eq=False)
class WorldFrame:
    """points (P,4) float32 x, y, z, intensity in the sensor's frame; boxes (G,7) float64; names of G classes; track
    numbers (G,) within the sequence; pose (x, y, yaw) of the sensor in the site; kind full, cropped or empty."""

    frame_id: str
    points: np.ndarray
    boxes: np.ndarray
    names: tuple[str, ...]
    tracks: tuple[int, ...]
    pose: tuple[float, float, float]
    kind: str


@dataclass(frozen=True, eq=False)
class _Shot:
    """A frame before annotation: every machine's box, and how many points show it."""

    points: np.ndarray
    boxes: np.ndarray
    counts: np.ndarray
    pose: tuple[float, float, float]
    crop_rad: float | None  # middle of what a cropped frame keeps


@cache
def _rays(beams: int, columns: int) -> Rays:
    return Rays.regular(beams, columns)


def make_sequence(spec: WorldSpec, sequence: Sequence) -> list[WorldFrame]:
    """All frames of a drive; random numbers follow from the seed, the split and the number alone."""
    rng = np.random.default_rng((spec.seed, SPLITS.index(sequence.split), sequence.number))
    machine_free = spec.odd_frames and rng.random() < MACHINE_FREE_SHARE
    site = make_site(spec, rng, machine_free=machine_free)
    machines = [placed for placed in site.things if placed.thing.name]
    shots = [_shoot(spec, site, machines, index, rng) for index in range(spec.frames)]
    seen = np.max([shot.counts for shot in shots], axis=0) >= SEEN_POINTS
    frames = [_annotated(sequence.frame_id(index), shot, machines, seen) for index, shot in enumerate(shots)]
    if spec.odd_frames and sequence == Sequence("train", spec.train_sequences - 1):
        frames[-1] = _emptied(frames[-1])
    return frames


def _shoot(spec: WorldSpec, site: Site, machines: List[Placed], index: int, rng: np.random.Generator) -> _Shot:
    pose = site.drive.pose(index)
    eye = float(site.terrain.height(*pose[:2])) + site.drive.height_m
    scan = Scan(_rays(spec.beams, spec.columns), rng)
    scan.cast_ground(site.terrain, pose, eye, site.rough_m)
    boxes = np.zeros((len(machines), 7))
    for number, placed in enumerate(site.things):
        place, turn = _seen_from(pose, eye, site, placed, index)
        scan.cast(number, [body.placed(place, turn) for body in placed.thing.bodies])
        if number < len(machines):
            l, w, h = placed.thing.size_lwh_m
            boxes[number] = (place[0], place[1], place[2] + h / 2, l, w, h, turn)
    points, owner = scan.returns()
    crop = float(rng.uniform(-np.pi, np.pi)) if spec.odd_frames and rng.random() < CROPPED_SHARE else None
    if crop is not None:
        kept = _within(points, crop)
        points, owner = points[kept], owner[kept]
    counts = np.bincount(owner[(owner >= 0) & (owner < len(machines))], minlength=len(machines))
    return _Shot(points, boxes, counts, pose, crop)


def _seen_from(pose, eye: float, site: Site, placed: Placed, index: int) -> tuple[tuple[float, float, float], float]:
    """Place and heading of a thing in the sensor's frame; it stands on the ground."""
    x0, y0, yaw = pose
    x, y = placed.at(index)
    cos, sin, dx, dy = np.cos(yaw), np.sin(yaw), x - x0, y - y0
    turn = (placed.yaw_rad - yaw + np.pi) % (2 * np.pi) - np.pi
    height = float(site.terrain.height(x, y)) - eye
    return (float(cos * dx + sin * dy), float(cos * dy - sin * dx), height), float(turn)


def _within(places: np.ndarray, middle_rad: float) -> np.ndarray:
    """Which places (.., x, y, ...) lie in a cropped frame."""
    off = np.arctan2(places[:, 1], places[:, 0]) - middle_rad
    return np.abs((off + np.pi) % (2 * np.pi) - np.pi) < CROP_RAD


def _annotated(frame_id: str, shot: _Shot, machines: List[Placed], seen: np.ndarray) -> WorldFrame:
    chosen = seen if shot.crop_rad is None else seen & _within(shot.boxes, shot.crop_rad)
    tracks = tuple(np.flatnonzero(chosen).tolist())
    names = tuple(machines[track].thing.name for track in tracks)
    kind = "full" if shot.crop_rad is None else "cropped"
    return WorldFrame(frame_id, shot.points, shot.boxes[chosen], names, tracks, shot.pose, kind)


def _emptied(frame: WorldFrame) -> WorldFrame:
    return WorldFrame(frame.frame_id, frame.points[:0], frame.boxes[:0], (), (), frame.pose, "empty")
