"""One pair of pictures with its boxes.

Labels are of really drawn pixels: a box is tight around a silhouette before anything hides it, clipped to the picture;
the visible share of the silhouette decides the occlusion level; a person who would be nearly all hidden or nearly all
outside is taken out of the picture instead of being left in it without a box.
"""

from dataclasses import dataclass, replace
from math import ceil, floor

import cv2
import numpy as np

from .backdrop import Scenery, backdrop
from .canvas import MARGIN_PX, SUPERSAMPLE, Stamp, canvas_hw, paint, pixel_centres, stamps, union
from .parts import Part, Thing, ellipse
from .scenes import LEAST_PX, Stage, set_stage
from .sensors import SENSORS, crop, expose, sense
from .spec import LINES, Shot, WorldSpec

SENSOR_SEED, SHIFT_SEED = 13, 14
CLEAR, HALF = 0.9, 0.5  # visible shares from which on occlusion is 0, is 1; below: 2
LEAST_VISIBLE, LEAST_INSIDE = 0.2, 0.3  # shares of a silhouette that must be seen, must lie in the picture
LEFT_OVER = 0.03  # of a weak person's contrast

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, x1 and y1 not included


@dataclass(frozen=True)
class Labelled:
    """One labelled thing. `silhouette` (H, W) bool: pixels of the visible picture that it touches, hidden or not.
    contrast_visible, contrast_infrared: distance of its seen pixels' mean to that of a ring around, in grey levels."""

    label: str
    box: Box
    box_infrared: Box | None  # None: outside the infrared picture
    occlusion: int
    visible_share: float
    weak: str | None
    silhouette: np.ndarray
    contrast_visible: float
    contrast_infrared: float


@dataclass(frozen=True)
class Pair:
    """visible (H, W, 3) uint8 BGR; infrared (H, W) uint8; shift_px (right, down) of infrared against visible;
    `present`: kinds of all things that are in the picture."""

    visible: np.ndarray
    infrared: np.ndarray
    objects: tuple[Labelled, ...]
    shift_px: tuple[int, int]
    night: bool
    present: tuple[str, ...]


@dataclass(frozen=True)
class Cut:
    """A thing with the stamps of its parts and of the whole, and how much of it is seen."""

    thing: Thing
    parts: tuple[Stamp | None, ...]
    whole: Stamp
    seen: np.ndarray  # of the whole's mask
    share: float


def make_pair(spec: WorldSpec, shot: Shot) -> Pair:
    """The pair of one shot; random numbers follow from the seed and the shot alone."""
    stage = set_stage(spec, shot)
    cuts = cut_out(stage, spec.size_hw)
    view = painted(stage, cuts, spec.size_hw)
    sensors = SENSORS[shot.layout, shot.night]
    shift = draw_shift(spec, shot)
    rng = np.random.default_rng((spec.seed, SENSOR_SEED, ("llvip", "kaist").index(shot.layout), shot.scene, shot.frame))
    visible = expose(view, sensors, spec.size_hw, rng)
    infrared = sense(view, stage.street.air_celsius, sensors, spec.size_hw, shift, rng)
    objects = tuple(_labelled(cut, visible, infrared, shift) for cut in cuts if cut.thing.label)
    return Pair(visible, infrared, objects, shift, shot.night, tuple(cut.thing.kind for cut in cuts))


def draw_shift(spec: WorldSpec, shot: Shot) -> tuple[int, int]:
    """(right, down) in pixels: misalignment_px to the left or right, and up to half of it up or down."""
    rng = np.random.default_rng((spec.seed, SHIFT_SEED, ("llvip", "kaist").index(shot.layout), shot.scene, shot.frame))
    side, down = int(rng.choice((-1, 1))), float(rng.uniform(-0.5, 0.5))
    return side * spec.misalignment_px, round(down * spec.misalignment_px)


def _inside(stamp: Stamp, size_hw: tuple[int, int], shift: tuple[int, int] = (0, 0)) -> np.ndarray:
    """The stamp's mask without what lies outside the picture of a camera whose picture is shifted so."""
    rows, columns = (np.arange(s.start, s.stop) - (MARGIN_PX - by) * SUPERSAMPLE
                     for s, by in zip(stamp.window, shift[::-1], strict=True))  # fmt: skip
    keep = [(axis >= 0) & (axis < side * SUPERSAMPLE) for axis, side in zip((rows, columns), size_hw, strict=True)]
    return stamp.mask & keep[0][:, None] & keep[1]


def cut_out(stage: Stage, size_hw: tuple[int, int]) -> list[Cut]:
    """Things that are in the picture, near to far, each with the share of it that nothing nearer hides."""
    camera = stage.street.camera
    near_first = sorted(stage.things, key=lambda thing: camera.project(thing.x, 0.0, thing.z)[2])
    cover = np.zeros(canvas_hw(size_hw), bool)
    cuts = []
    for thing in near_first:
        parts = stamps(camera, thing)
        whole = union(parts)
        if whole is None:
            continue
        inside, free = _inside(whole, size_hw), ~cover[whole.window]
        share = (inside & free).sum() / max(1, inside.sum())
        if thing.label and not _worth_a_label(whole, inside, share, size_hw):
            continue
        cuts.append(Cut(thing, tuple(parts), whole, inside & free, float(share)))
        if thing.solid:
            cover[whole.window] |= whole.mask
    return cuts


def _worth_a_label(whole: Stamp, inside: np.ndarray, share: float, size_hw: tuple[int, int]) -> bool:
    rows = np.flatnonzero(inside.any(axis=1))
    tall = 0 if not len(rows) else (rows[-1] + 1 - rows[0]) / SUPERSAMPLE * LINES / size_hw[0]
    return tall >= LEAST_PX and share >= LEAST_VISIBLE and inside.sum() >= LEAST_INSIDE * whole.area


def painted(stage: Stage, cuts: list[Cut], size_hw: tuple[int, int]) -> Scenery:
    """The canvas with backdrop, shadows and all things, as yet without any camera's faults."""
    view = backdrop(stage.street, pixel_centres(size_hw[1]), pixel_centres(size_hw[0]))
    for cut in cuts:
        if cut.thing.solid:
            _cast_shadow(view, stage, cut.thing)
    for cut in reversed(cuts):
        thing = cut.thing
        light = stage.street.light(np.float32(thing.x), np.float32(1.0), np.float32(thing.z)) * thing.shade
        for part, stamp in zip(thing.parts, cut.parts, strict=True):
            if stamp is not None:
                paint(view, _blended_in(part, thing.weak, view, stamp, light), stamp, light)
    _roughen(view, np.random.default_rng(stage.street.texture_seed))
    return view


def _roughen(view: Scenery, rng: np.random.Generator) -> None:
    """Real surfaces are not even: stains and folds of a canvas pixel and of several, in either picture its own."""
    for field, strength in ((view.colour, 0.07), (view.celsius, 0.22)):
        rough = sum(_smooth_noise(rng, field.shape[:2], cell) for cell in (2, 6))
        if field.ndim == 3:
            field *= 1 + strength * rough[..., None]
        else:
            field += strength * rough


def _smooth_noise(rng: np.random.Generator, canvas: tuple[int, int], cell: int) -> np.ndarray:
    """Noise (H, W) with a standard deviation near 1 and a grain of `cell` canvas pixels."""
    small = rng.standard_normal([-(-side // cell) for side in canvas], np.float32)
    return cv2.resize(small, canvas[::-1], interpolation=cv2.INTER_LINEAR)


def _blended_in(part: Part, weak: str | None, view: Scenery, stamp: Stamp, light: np.ndarray) -> Part:
    """The part as bright, or as warm, as what is behind it, where the person is to be hard to see: dark clothes before
    a dark wall, thick clothes in the air's or the sun's warmth."""
    if weak is None or not stamp.area:
        return part
    if weak == "infrared":
        behind = float(view.celsius[stamp.window][stamp.mask].mean())
        return replace(part, celsius=behind + LEFT_OVER * (part.celsius - behind))
    behind = (view.colour * view.light + view.glow)[stamp.window][stamp.mask].mean(axis=0) / np.maximum(light, 1e-3)
    own = np.float32(part.colour)
    return replace(part, colour=tuple(np.clip(behind + LEFT_OVER * (own - behind), 0.005, 0.9).tolist()))


def _cast_shadow(view: Scenery, stage: Stage, thing: Thing) -> None:
    """A soft dark patch at the foot; infrared knows no shadow."""
    wide = max(float(np.abs(part.outline[:, 0]).max()) for part in thing.parts)
    flat = Part(ellipse(0.25, 0.0, min(wide, 2.3) * 1.15, 0.09 + 0.06 * min(wide, 2.0)), (0, 0, 0), 0.0)
    stamp = stamps(stage.street.camera, replace(thing, parts=(flat,)))[0]
    if stamp is not None:
        view.light[stamp.window][stamp.mask] *= 0.6 if not stage.night else 0.75


def _box(stamp: Stamp, size_hw: tuple[int, int], shift: tuple[int, int] = (0, 0)) -> Box | None:
    """Tight around what a camera sees of a stamp, in pixels of its picture; None when it sees nothing."""
    mask, edges = _inside(stamp, size_hw, shift), []
    if not mask.any():
        return None
    for axis, start, by in ((0, stamp.columns.start, shift[0]), (1, stamp.rows.start, shift[1])):
        hit = np.flatnonzero(mask.any(axis=axis)) + start
        offset = by - MARGIN_PX
        edges.append((floor(hit[0] / SUPERSAMPLE) + offset, ceil((hit[-1] + 1) / SUPERSAMPLE) + offset))
    (x0, x1), (y0, y1) = edges
    return x0, y0, x1, y1


def _labelled(cut: Cut, visible: np.ndarray, infrared: np.ndarray, shift: tuple[int, int]) -> Labelled:
    size_hw = infrared.shape
    inside = _inside(cut.whole, size_hw)
    silhouette = crop(Stamp(*cut.whole.window, inside).on(canvas_hw(size_hw)).astype(np.float32), size_hw) > 0
    seen = crop(Stamp(*cut.whole.window, cut.seen).on(canvas_hw(size_hw)).astype(np.float32), size_hw) > 0.5
    level = 0 if cut.share >= CLEAR else 1 if cut.share >= HALF else 2
    return Labelled(
        cut.thing.label, _box(cut.whole, size_hw), _box(cut.whole, size_hw, shift), level, cut.share, cut.thing.weak,
        silhouette, _contrast(visible, seen), _contrast(infrared, _shifted(seen, shift)),
    )  # fmt: skip


def _shifted(mask: np.ndarray, shift: tuple[int, int]) -> np.ndarray:
    """The mask moved by (right, down) pixels; what enters is False."""
    matrix = np.float32([[1, 0, shift[0]], [0, 1, shift[1]]])
    return cv2.warpAffine(mask.astype(np.uint8), matrix, mask.shape[::-1], flags=cv2.INTER_NEAREST).astype(bool)


def _contrast(picture: np.ndarray, seen: np.ndarray) -> float:
    """How far the mean of the seen pixels is from that of a ring around, in grey levels; 0 where nothing is seen."""
    ring = cv2.dilate(seen.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool) & ~seen
    if not seen.any() or not ring.any():
        return 0.0
    return float(np.abs(picture[seen].mean(axis=0) - picture[ring].mean(axis=0)).max())
