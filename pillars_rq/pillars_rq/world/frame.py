"""One frame of the world: a scene, its scan, its labels and its picture, from (seed, split, number) alone."""

from dataclasses import dataclass

import numpy as np

from pillars_rq.kitti.labels import Annotations

from .annotate import annotate, make_calibration
from .picture import draw
from .scene import Scene, make_scene
from .sensor import Scan
from .spec import SPLITS, WorldSpec

GROUND_TEXTURE = 0.05  # of the ground's reflectance, from ray to ray


@dataclass(frozen=True, eq=False)
class WorldFrame:
    """points (P,4) float32 over some 88 degrees ahead; labels with DontCare; the picture (375,1242,3) uint8 RGB."""

    scene: Scene
    points: np.ndarray
    labels: Annotations
    picture: np.ndarray


def make_frame(spec: WorldSpec, split: str, number: int) -> WorldFrame:
    """The number-th frame of a split."""
    rng = np.random.default_rng(np.random.SeedSequence((spec.seed, SPLITS.index(split), number)))
    scene, calib = make_scene(spec, rng), make_calibration()
    scan = Scan(rng)
    scan.cast_ground(scene.ground, scene.asphalt, GROUND_TEXTURE)
    for owner, thing in enumerate(scene.things):
        scan.cast(owner, thing.bodies())
    points, owners = scan.returns()
    return WorldFrame(scene, points, annotate(scene.things, scan, owners, calib, spec), draw(scene, calib))
