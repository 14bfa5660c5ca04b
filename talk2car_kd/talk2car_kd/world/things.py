"""A thing: one object on the ground, with its class, colour, place, heading, and its box in the picture."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np

from . import figures, solids
from .camera import Camera
from .canvas import Canvas, Light
from .spec import KINDS, PAINTS

FIGURE_SIZES = {
    "person": (0.62, 1.74, 0.4),
    "stop sign": (0.88, 2.74, 0.1),
    "traffic light": (0.4, 3.3, 0.3),
    "bench": (1.8, 0.9, 0.5),
}


@dataclass(frozen=True)
class Thing:
    """One object. Boxes are pixels of the annotation frame, [x, y, w, h].

    Attributes:
        kind: Class of the world (a key of KINDS, or a COCO-like extra).
        colour: Colour word; `paint` is the exact RGB it is drawn in.
        x_m, z_m: Place on the ground: right of the camera, ahead of it.
        yaw_rad: Heading; 0 drives away from us, pi towards us, pi/2 to the right.
        scale: Stretch of its drawing (across, up, along).
        style: Variant of a solid. look: number that fixes hair, clothes, pose of a figure.
        place: Where it stands or drives ("own lane", "left lane", "right parking", "left sidewalk", ...).
        whole_xywh: Box before clipping to the frame. box_xywh: the same, clipped, whole pixels.
    """

    kind: str
    colour: str
    paint: tuple[int, int, int]
    x_m: float
    z_m: float
    yaw_rad: float
    scale: tuple[float, float, float]
    style: str
    look: int
    place: str
    whole_xywh: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    box_xywh: tuple[int, int, int, int] = (0, 0, 0, 0)

    @cached_property
    def size_m(self) -> tuple[float, float, float]:
        """Width across, height, length along the heading."""
        base = KINDS[self.kind].size_m if self.kind in KINDS else FIGURE_SIZES[self.kind]
        return tuple(b * s for b, s in zip(base, self.scale, strict=True))

    @cached_property
    def halves_m(self) -> tuple[float, float]:
        """Half extents of its ground footprint along x and z."""
        width, _, length = self.size_m
        sin, cos = abs(math.sin(self.yaw_rad)), abs(math.cos(self.yaw_rad))
        return (width * cos + length * sin) / 2, (length * cos + width * sin) / 2

    @cached_property
    def view(self) -> str:
        """Which face a figure shows: rear, front or side."""
        turn = self.yaw_rad - math.atan2(self.x_m, self.z_m)
        if abs(math.sin(turn)) > 0.62:
            return "side"
        return "rear" if math.cos(turn) > 0 else "front"

    @cached_property
    def centre_x(self) -> float:
        """x of the box centre in pixels."""
        return self.box_xywh[0] + self.box_xywh[2] / 2

    @property
    def inside_share(self) -> float:
        """Share of the whole box that lies in the frame."""
        whole = self.whole_xywh[2] * self.whole_xywh[3]
        return self.box_xywh[2] * self.box_xywh[3] / whole if whole > 0 else 0.0


def _stretch(thing: Thing) -> tuple[float, float]:
    """Scale of a figure's u and v: mirrored when it heads left, narrower when seen at an angle."""
    sin = math.sin(thing.yaw_rad - math.atan2(thing.x_m, thing.z_m))
    across = 1.0
    if thing.view == "side":
        across = (1 if sin > 0 else -1) * (max(0.72, abs(sin)) if thing.kind in ("bicycle", "motorcycle") else 1.0)
    return across * thing.scale[0], thing.scale[1]


def with_box(thing: Thing, camera: Camera) -> Thing:
    """The same thing with its boxes as this camera sees it."""
    if thing.kind in solids.SOLIDS:
        points = solids.outline(thing.kind, thing.style, thing.scale, thing.yaw_rad, (thing.x_m, thing.z_m), camera)
        (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    else:
        u0, v0, u1, v1 = figures.extent_of(thing.kind, thing.paint, thing.look, thing.view)
        across, up = _stretch(thing)
        foot, per_m = camera.project(np.array([thing.x_m, 0.0, thing.z_m])).tolist(), camera.px_per_m(thing.z_m)
        xs = sorted((u0 * across, u1 * across))
        x0, x1 = foot[0] + xs[0] * per_m, foot[0] + xs[1] * per_m
        y0, y1 = foot[1] - v1 * up * per_m, foot[1] - v0 * up * per_m
    width, height = camera.frame_wh
    cx0, cx1 = (round(min(max(v, 0), width)) for v in (x0, x1))
    cy0, cy1 = (round(min(max(v, 0), height)) for v in (y0, y1))
    whole = (float(x0), float(y0), float(x1 - x0), float(y1 - y0))
    return replace(thing, whole_xywh=whole, box_xywh=(cx0, cy0, cx1 - cx0, cy1 - cy0))


def draw_thing(canvas: Canvas, camera: Camera, light: Light, thing: Thing) -> None:
    """Draw one thing where it stands."""
    at = (thing.x_m, thing.z_m)
    if thing.kind in solids.SOLIDS:
        solids.draw_solid(canvas, camera, light, thing.kind, thing.style, thing.scale, thing.yaw_rad, at, thing.paint)
    else:
        marks = figures.marks_of(thing.kind, thing.paint, thing.look, thing.view)
        figures.draw_figure(canvas, camera, light, marks, _stretch(thing), at)


def shadow(thing: Thing, camera: Camera, light: Light) -> np.ndarray:
    """Outline (N, 2) in pixels of the shadow it casts on the ground."""
    half_x, half_z = thing.halves_m
    corners = np.array([(-half_x, -half_z), (half_x, -half_z), (half_x, half_z), (-half_x, half_z)]) * 0.98
    reach = np.array([-light.sun[0], -light.sun[2]]) / max(light.sun[1], 0.5) * thing.size_m[1] * 0.55
    ground = np.concatenate([corners, corners + reach]) + np.array((thing.x_m, thing.z_m))
    points = camera.project(np.stack([ground[:, 0], np.zeros(8), ground[:, 1]], axis=1))
    return cv2.convexHull(np.clip(points, -1e4, 1e4).astype(np.float32))[:, 0]


def draw_things(canvas: Canvas, camera: Camera, light: Light, things) -> None:
    """All shadows, then all things from far to near; thing i gets the number i + 1 in the canvas' ids."""
    canvas.darken([shadow(t, camera, light) for t in things], light.shadow, blur_px=canvas.frame_wh[0] / 200)
    for index in sorted(range(len(things)), key=lambda i: -things[i].z_m):
        canvas.number = index + 1
        draw_thing(canvas, camera, light, things[index])
    canvas.number = 0


def paint_of(colour: str, rng: np.random.Generator) -> tuple[int, int, int]:
    """A colour's RGB with a little variation, small enough that no colour becomes another."""
    base = np.array(PAINTS[colour][1], float)
    spread = 1.5 if colour in ("black", "white", "gray") else 5.5  # a tinted gray would be another colour
    return tuple(int(c) for c in np.clip(base * rng.uniform(0.94, 1.05) + rng.normal(0, spread, 3), 12, 252))
