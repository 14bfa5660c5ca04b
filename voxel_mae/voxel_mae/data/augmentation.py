"""Training augmentation in OpenPCDet's order, from one generator a sample.

    paste objects of the database -> flip -> turn -> scale -> move

Headings are counter-clockwise. OpenPCDet's names: a flip "along x" negates y and the heading, one "along y" negates x
and turns the heading into pi - heading. The sensor's place moves with the cloud, so that masks stay centred at it.
The draws of flip, turn, scale and move do not depend on labels: a frame looks the same with and without them.
"""

# P points, G boxes

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from shared.errors import ConfigError
from voxel_mae.boxes import bev_overlap_m2, points_in_boxes

from .database import Drawn, GroundTruthDatabase

TOUCHING_M2 = 1e-9  # boxes that overlap by less only touch


@dataclass(frozen=True)
class PasteSettings:
    """gt_sampling. up_to: objects by class. limit_whole_scene: whether a frame's own objects count towards up_to.
    min_points: least points of a pasted object, by class. extra_width_m: by which a pasted box is enlarged where the
    scene's points give way."""

    up_to: Mapping[str, int]
    limit_whole_scene: bool = False
    min_points: Mapping[str, int] = field(default_factory=dict)
    extra_width_m: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def check(self, classes: Sequence[str]) -> None:
        """Raises ConfigError for a class that is not among the classes, or a negative count."""
        for key, counts in (("SAMPLE_GROUPS", self.up_to), ("filter_by_min_points", self.min_points)):
            strange = [name for name in counts if name not in classes]
            if strange:
                raise ConfigError(
                    f"gt_sampling: {key} names {strange[0]!r}, which is not among CLASS_NAMES ({', '.join(classes)}): "
                    "take it out, or add the class"
                )
            if any(count < 0 for count in counts.values()):
                raise ConfigError(f"gt_sampling: {key} {dict(counts)}: counts must be at least 0")


@dataclass(frozen=True)
class AugmentSettings:
    """flip_axes: each flips with chance one half. turn_rad, scale: uniform between both. move_std_m: normal, x, y, z.
    paste: None pastes nothing."""

    flip_axes: tuple[str, ...] = ("x", "y")
    turn_rad: tuple[float, float] = (-math.pi / 4, math.pi / 4)
    scale: tuple[float, float] = (0.95, 1.05)
    move_std_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    paste: PasteSettings | None = None

    def __post_init__(self):
        if not set(self.flip_axes) <= {"x", "y"}:
            raise ConfigError(f"augmentation: flips along {list(self.flip_axes)}; the axes are x and y")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(f"augmentation: scale {self.scale}; give least and greatest, both above 0")
        if self.turn_rad[0] > self.turn_rad[1]:
            raise ConfigError(f"augmentation: turn {self.turn_rad} rad; give least and greatest")

    @classmethod
    def pretraining(cls) -> "AugmentSettings":
        """The note's pretraining: flip x, scale .98 to 1.02, no turn, nothing pasted."""
        return cls(flip_axes=("x",), turn_rad=(0.0, 0.0), scale=(0.98, 1.02))

    @classmethod
    def finetuning(cls, paste: PasteSettings | None) -> "AugmentSettings":
        """The note's fine-tuning: flip x, turn up to 45 degrees, scale .95 to 1.05."""
        return cls(flip_axes=("x",), paste=paste)


@dataclass(frozen=True, eq=False)
class Sample:
    """points (P,C) float32; boxes (G,7) float64; labels (G,) int64, 0 for ignored classes; sensor_xy (2,) float64.
    Every step makes a new one."""

    points: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    sensor_xy: np.ndarray


def augment(
    sample: Sample,
    settings: AugmentSettings,
    database: GroundTruthDatabase | None,
    classes: Sequence[str],
    rng: np.random.Generator,
) -> Sample:
    """All steps in order; without a database nothing is pasted. What was given is left as it is."""
    paste_rng, world_rng = rng.spawn(2)
    if database is not None and settings.paste is not None:
        sample = paste_objects(sample, settings.paste, database, classes, paste_rng)
    flips = world_rng.random(2) < 0.5
    for axis, flipped in zip("xy", flips, strict=True):
        if flipped and axis in settings.flip_axes:
            sample = flip(sample, axis)
    sample = turn(sample, world_rng.uniform(*settings.turn_rad))
    sample = scale(sample, world_rng.uniform(*settings.scale))
    return move(sample, world_rng.normal(0.0, settings.move_std_m, 3))


# --- steps ------------------------------------------------------------------------------------------------------------


def paste_objects(
    sample: Sample,
    settings: PasteSettings,
    database: GroundTruthDatabase,
    classes: Sequence[str],
    rng: np.random.Generator,
) -> Sample:
    """Add objects of every class; one that would overlap another is left out; scene points in a pasted box go."""
    boxes, labels, clouds = sample.boxes, sample.labels, []
    for name, count in settings.up_to.items():
        label = classes.index(name) + 1
        own = int((sample.labels == label).sum()) if settings.limit_whole_scene else 0
        drawn = database.draw(name, max(0, count - own), rng)
        kept = free_of_overlap(drawn.boxes, boxes)
        boxes = np.concatenate([boxes, drawn.boxes[kept]])
        labels = np.concatenate([labels, np.full(len(kept), label, np.int64)])
        clouds += _clouds(drawn, kept)
    added = boxes[len(sample.boxes) :].copy()
    added[:, 3:6] += settings.extra_width_m
    covered = points_in_boxes(sample.points, added).any(1)
    return replace(sample, points=np.concatenate([sample.points[~covered], *clouds]), boxes=boxes, labels=labels)


def _clouds(drawn: Drawn, rows: Sequence[int]) -> list[np.ndarray]:
    return [drawn.clouds[row] for row in rows]


def free_of_overlap(drawn: np.ndarray, boxes: np.ndarray) -> list[int]:
    """One after the other: rows of drawn boxes that overlap, seen from above, neither `boxes` nor one kept before."""
    overlap = bev_overlap_m2(drawn, np.concatenate([boxes, drawn])) > TOUCHING_M2
    standing, kept = list(range(len(boxes))), []
    for row in range(len(drawn)):
        if not overlap[row, standing].any():
            standing.append(len(boxes) + row)
            kept.append(row)
    return kept


def flip(sample: Sample, axis: str) -> Sample:
    """Mirror at the axis: along x negates y, along y negates x."""
    column = {"x": 1, "y": 0}[axis]
    points, boxes, sensor = sample.points.copy(), sample.boxes.copy(), sample.sensor_xy.copy()
    points[:, column] *= -1
    boxes[:, column] *= -1
    sensor[column] *= -1
    boxes[:, 6] = -boxes[:, 6] if axis == "x" else math.pi - boxes[:, 6]
    return replace(sample, points=points, boxes=boxes, sensor_xy=sensor)


def turn(sample: Sample, angle: float) -> Sample:
    """Turn everything counter-clockwise about the origin, radians."""
    points, boxes = sample.points.copy(), sample.boxes.copy()
    points[:, :2] = turned(points[:, :2].astype(np.float64), angle)
    boxes[:, :2] = turned(boxes[:, :2], angle)
    boxes[:, 6] += angle
    return replace(sample, points=points, boxes=boxes, sensor_xy=turned(sample.sensor_xy[None], angle)[0])


def turned(xy: np.ndarray, angle: float) -> np.ndarray:
    """(P,2) turned counter-clockwise about the origin."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.stack([xy[:, 0] * cos - xy[:, 1] * sin, xy[:, 0] * sin + xy[:, 1] * cos], 1)


def scale(sample: Sample, factor: float) -> Sample:
    """Scale everything about the origin."""
    points, boxes = sample.points.copy(), sample.boxes.copy()
    points[:, :3] *= factor
    boxes[:, :6] *= factor
    return replace(sample, points=points, boxes=boxes, sensor_xy=sample.sensor_xy * factor)


def move(sample: Sample, offset_m: np.ndarray) -> Sample:
    """Move everything, the sensor with it: offset (3,)."""
    points, boxes = sample.points.copy(), sample.boxes.copy()
    points[:, :3] += offset_m.astype(np.float32)
    boxes[:, :3] += offset_m
    return replace(sample, points=points, boxes=boxes, sensor_xy=sample.sensor_xy + offset_m[:2])
