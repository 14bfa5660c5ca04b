"""Flat figures that always face the camera: people, two-wheelers, cones, signs.

Metres: u across, v up from the ground.

A figure is a list of marks drawn in order. `look` numbers choose hair, skin, clothes and pose, so that one object looks
the same whenever it is drawn.
"""

import functools
from dataclasses import dataclass

import numpy as np

from .camera import Camera
from .canvas import Canvas, Light

SKIN = ((236, 196, 164), (214, 162, 122), (168, 116, 82), (110, 74, 52))
HAIR = ((38, 28, 24), (84, 56, 34), (150, 108, 58), (190, 188, 184))
TROUSERS = ((52, 62, 92), (66, 58, 50), (44, 44, 50), (120, 104, 82))
TYRE, STEEL, DARK = (24, 24, 26), (156, 160, 166), (40, 40, 46)


@dataclass(frozen=True)
class Mark:
    """One shape: a polygon, a stroke (width_m > 0), or an ellipse (points = centre, radii)."""

    shape: str
    points: np.ndarray
    rgb: tuple[int, int, int]
    width_m: float = 0.0


def _polygon(points, rgb) -> Mark:
    return Mark("polygon", np.asarray(points, float), rgb)


def _stroke(points, width_m, rgb) -> Mark:
    return Mark("stroke", np.asarray(points, float), rgb, width_m)


def _ellipse(centre, radii, rgb) -> Mark:
    return Mark("ellipse", np.array([centre, radii], float), rgb)


def _tone(rgb, gain):
    return tuple(int(min(255, c * gain + (12 if gain > 1 else 0))) for c in rgb)


def person(paint, look: int, view: str, woman: bool) -> list[Mark]:
    """A walking person; the paint colours the upper clothes. `view`: front, rear or side."""
    skin, hair, trousers = SKIN[look % 4], HAIR[(look // 4) % 4], TROUSERS[(look // 16) % 4]
    coat, stride = (look // 64) % 3 == 0, 0.10 + 0.04 * ((look // 192) % 4)
    if sum(abs(a - b) for a, b in zip(paint, trousers, strict=True)) < 60:
        trousers = _tone(trousers, 1.7)
    step = stride * (1.15 if view == "side" else 0.5)
    marks = [*_legs(trousers, skin, step, woman and not coat), *_torso(paint, coat or woman, view, look)]
    return [*marks, *_head(skin, hair, view, woman)]


def _legs(trousers, skin, step, skirt):
    shade = _tone(trousers, 0.75)
    leg = skin if skirt else trousers
    marks = [
        _stroke([(0.07, 0.86), (step + 0.05, 0.45), (step + 0.06, 0.07)], 0.15, _tone(skin, 0.85) if skirt else shade),
        _stroke([(-0.07, 0.86), (-step * 0.6 - 0.05, 0.46), (-step - 0.06, 0.07)], 0.155, leg),
        _ellipse((step + 0.09, 0.045), (0.11, 0.05), DARK),
        _ellipse((-step - 0.04, 0.045), (0.11, 0.05), DARK),
    ]
    if skirt:
        marks.append(_polygon([(-0.16, 0.95), (0.16, 0.95), (0.27, 0.50), (-0.27, 0.50)], trousers))
    return marks


def _torso(paint, long, view, look):
    half = 0.17 if view == "side" else 0.235
    hem, dark, lit = (0.66 if long else 0.84), _tone(paint, 0.78), _tone(paint, 1.06)
    swing = 0.12 if (look // 768) % 2 else -0.10
    body = [
        (-half, 1.40),
        (-half * 0.72, 1.475),
        (half * 0.72, 1.475),
        (half, 1.40),
        (half * 0.88, hem),
        (-half * 0.88, hem),
    ]
    right = [(half + 0.01, 1.38), (half + 0.06 + swing / 3, 1.12), (half + 0.05 + swing, 0.88)]
    left = [(-half - 0.01, 1.38), (-half - 0.06 + swing / 3, 1.12), (-half - 0.05 + swing, 0.88)]
    hands = [_ellipse((p[2][0], p[2][1] - 0.03), (0.055, 0.06), SKIN[look % 4]) for p in (right, left)]
    marks = [_stroke(right, 0.125, dark), _polygon(body, paint), _stroke(left, 0.125, _tone(paint, 0.9)), *hands]
    marks.append(_polygon([(half * 0.35, 1.46), (half * 0.95, 1.40), (half * 0.86, hem), (half * 0.45, hem)], dark))
    if view == "front":
        marks.append(_polygon([(-0.05, 1.475), (0.05, 1.475), (0.0, 1.36)], lit))
    return marks


def _head(skin, hair, view, woman):
    marks = [_polygon([(-0.05, 1.44), (0.05, 1.44), (0.045, 1.54), (-0.045, 1.54)], _tone(skin, 0.85))]
    if woman:
        marks.insert(0, _polygon([(-0.135, 1.66), (0.135, 1.66), (0.16, 1.36), (-0.16, 1.36)], hair))
    marks.append(_ellipse((0, 1.605), (0.105, 0.135), skin))
    if view == "rear":
        marks.append(_ellipse((0, 1.63), (0.115, 0.13 if not woman else 0.15), hair))
    else:
        cap = [(-0.115, 1.62), (-0.10, 1.71), (0, 1.765), (0.10, 1.71), (0.115, 1.62), (0.05, 1.685), (-0.05, 1.685)]
        marks.append(_polygon(cap, hair))
    return marks


def _wheel(u, radius, tyre=0.06):
    angles = np.linspace(0, 2 * np.pi, 21)
    rim = np.stack([u + radius * np.cos(angles), radius + radius * np.sin(angles)], axis=1)
    spokes = [
        _stroke([(u - radius * c, radius - radius * s), (u + radius * c, radius + radius * s)], 0.012, STEEL)
        for c, s in ((1, 0), (0, 1), (0.7, 0.7), (0.7, -0.7))
    ]
    return [*spokes, _stroke(rim * (1, 1) + (0, 0.02), tyre, TYRE)]


def bicycle(paint, look: int, view: str, ridden: bool) -> list[Mark]:
    """A bicycle in its colour, standing alone or ridden by somebody in a shirt of that colour."""
    rider = _cyclist(paint, look, view) if ridden else []
    if view != "side":
        post = [_stroke([(0, 0.0), (0, 0.68)], 0.075, TYRE), _stroke([(0, 0.5), (0, 0.96)], 0.07, paint)]
        bar = [_stroke([(-0.28, 1.0), (0.28, 1.0)], 0.05, DARK), _stroke([(-0.1, 0.92), (0.1, 0.92)], 0.09, DARK)]
        return [*post, *bar, *rider]
    frame = [
        [(-0.52, 0.34), (0.02, 0.32), (0.38, 0.80), (-0.22, 0.78), (0.02, 0.32)],
        [(-0.52, 0.34), (-0.24, 0.86)],
        [(0.52, 0.34), (0.34, 0.98)],
    ]
    marks = [*_wheel(-0.52, 0.33), *_wheel(0.52, 0.33), *(_stroke(line, 0.07, paint) for line in frame)]
    marks.append(_stroke([(0.24, 1.04), (0.36, 1.0), (0.46, 1.06)], 0.045, DARK))
    marks.append(_stroke([(-0.36, 0.89), (-0.12, 0.90)], 0.075, DARK))
    return [*marks, *rider]


def _cyclist(paint, look, view):
    skin, trousers = SKIN[look % 4], TROUSERS[(look // 16) % 4]
    if view != "side":
        legs = [
            _stroke([(s * 0.11, 0.95), (s * 0.15, 0.62), (s * 0.11, h)], 0.14, trousers)
            for s, h in ((1, 0.30), (-1, 0.16))
        ]
        body = _polygon([(-0.20, 1.42), (0.20, 1.42), (0.15, 0.9), (-0.15, 0.9)], paint)
        arms = [_stroke([(s * 0.21, 1.38), (s * 0.28, 1.02)], 0.1, _tone(paint, 0.85)) for s in (1, -1)]
        return [*legs, *arms, body, *_helmet(0.0, 1.58, skin, paint)]
    return [
        _stroke([(-0.22, 0.96), (0.14, 0.68), (0.02, 0.24)], 0.14, trousers),
        _polygon([(-0.36, 0.98), (-0.12, 0.90), (0.24, 1.30), (0.14, 1.47), (-0.02, 1.46)], paint),
        _stroke([(0.12, 1.36), (0.28, 1.12), (0.40, 1.06)], 0.095, _tone(paint, 0.82)),
        *_helmet(0.24, 1.58, skin, paint),
    ]


def _helmet(u, v, skin, paint, full=False):
    if full:
        return [_ellipse((u, v), (0.145, 0.155), paint), _ellipse((u + 0.03, v), (0.09, 0.055), DARK)]
    cap = [(u - 0.13, v + 0.02), (u - 0.09, v + 0.13), (u, v + 0.165), (u + 0.09, v + 0.13), (u + 0.13, v + 0.02)]
    return [_ellipse((u, v), (0.10, 0.13), skin), _polygon(cap, _tone(paint, 0.9))]


def motorcycle(paint, look: int, view: str) -> list[Mark]:
    """A motorcycle with a rider: tank, fairing and helmet in its colour, the rider in dark leather."""
    leather = ((52, 50, 56), (70, 58, 50), (58, 64, 82))[look % 3]
    if view != "side":
        light = (232, 30, 30) if view == "rear" else (255, 250, 220)
        return [
            _stroke([(0, 0.1), (0, 0.5)], 0.19, TYRE),
            *[
                _stroke([(s * 0.17, 1.0), (s * 0.27, 0.72), (s * 0.24, 0.42)], 0.15, _tone(leather, 0.8))
                for s in (1, -1)
            ],
            _polygon([(-0.21, 0.95), (0.21, 0.95), (0.15, 0.42), (-0.15, 0.42)], paint),
            *[_stroke([(s * 0.24, 1.32), (s * 0.36, 1.02)], 0.12, _tone(leather, 0.85)) for s in (1, -1)],
            _stroke([(-0.42, 1.02), (0.42, 1.02)], 0.06, DARK),
            _polygon([(-0.23, 1.38), (0.23, 1.38), (0.18, 0.86), (-0.18, 0.86)], leather),
            _ellipse((0, 0.74), (0.085, 0.06), light),
            *_helmet(0.0, 1.53, SKIN[look % 4], paint, full=True),
        ]
    return [
        *_wheel(-0.68, 0.31, 0.12),
        *_wheel(0.70, 0.31, 0.12),
        _stroke([(0.70, 0.33), (0.46, 0.98)], 0.09, STEEL),
        _polygon([(-0.42, 0.32), (0.30, 0.30), (0.36, 0.62), (-0.40, 0.60)], DARK),
        _stroke([(-0.2, 0.34), (-0.86, 0.40)], 0.10, STEEL),
        _polygon(
            [
                (-0.98, 0.82),
                (-0.86, 0.62),
                (-0.30, 0.56),
                (0.36, 0.52),
                (0.62, 0.74),
                (0.50, 0.98),
                (0.12, 0.94),
                (-0.30, 0.74),
            ],
            paint,
        ),
        _polygon([(-0.66, 0.80), (-0.14, 0.74), (-0.10, 0.82), (-0.62, 0.88)], DARK),
        _ellipse((0.66, 0.84), (0.07, 0.08), (255, 246, 210)),
        _stroke([(-0.32, 0.90), (0.06, 0.72), (-0.06, 0.36)], 0.17, _tone(leather, 0.85)),
        _polygon([(-0.46, 0.86), (-0.14, 0.84), (0.14, 1.30), (0.0, 1.42), (-0.2, 1.38)], leather),
        _stroke([(0.02, 1.30), (0.22, 1.08), (0.46, 1.04)], 0.12, _tone(leather, 1.2)),
        *_helmet(0.10, 1.53, SKIN[look % 4], paint, full=True),
    ]


def cone(paint, look: int) -> list[Mark]:
    """A traffic cone with two white bands."""
    bands = [[(-w, v), (w, v), (w - 0.05, v + 0.15), (-w + 0.05, v + 0.15)] for w, v in ((0.155, 0.28), (0.09, 0.54))]
    return [
        _polygon([(-0.26, 0.0), (0.26, 0.0), (0.22, 0.10), (-0.22, 0.10)], _tone(paint, 0.72)),
        _polygon([(-0.20, 0.08), (0.20, 0.08), (0.035, 0.84), (-0.035, 0.84)], paint),
        *(_polygon(band, (250, 250, 248)) for band in bands),
        _polygon([(0.06, 0.08), (0.20, 0.08), (0.035, 0.84), (0.012, 0.84)], _tone(paint, 0.80)),
        _polygon([(0.045, 0.28), (0.155, 0.28), (0.105, 0.43), (0.035, 0.43)], (212, 212, 210)),
    ]


def stop_sign(paint, look: int) -> list[Mark]:
    """A red octagon with a white rim on a pole."""
    angles = np.pi / 8 + np.arange(8) * np.pi / 4
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    letters = [_stroke([(u, 2.18), (u, 2.42)], 0.05, (250, 250, 250)) for u in (-0.21, -0.07, 0.07, 0.21)]
    plate = [_polygon(ring * r + (0, 2.3), rgb) for r, rgb in ((0.44, (245, 245, 245)), (0.40, (196, 18, 28)))]
    return [_stroke([(0, 0), (0, 2.0)], 0.08, STEEL), *plate, *letters]


def traffic_light(paint, look: int) -> list[Mark]:
    """A signal head with three lamps on a pole, one of them lit."""
    lamps = ((235, 30, 28), (250, 190, 40), (40, 214, 96))
    lit = look % 3
    marks = [
        _stroke([(0, 0), (0, 2.3)], 0.12, (70, 74, 78)),
        _polygon([(-0.2, 2.2), (0.2, 2.2), (0.2, 3.3), (-0.2, 3.3)], (30, 32, 34)),
    ]
    for index, rgb in enumerate(lamps):
        marks.append(_ellipse((0, 3.1 - 0.35 * index), (0.13, 0.13), rgb if index == lit else _tone(rgb, 0.3)))
    return marks


def bench(paint, look: int) -> list[Mark]:
    """A wooden park bench."""
    wood, dark = (158, 104, 58), (64, 66, 70)
    legs = [_polygon([(u, 0), (u + 0.07, 0), (u + 0.07, 0.8), (u, 0.8)], dark) for u in (-0.72, 0.65)]
    planks = [
        _polygon([(-0.85, v), (0.85, v), (0.85, v + 0.11), (-0.85, v + 0.11)], _tone(wood, g))
        for v, g in ((0.62, 1), (0.78, 1.05))
    ]
    seat = _polygon([(-0.9, 0.38), (0.9, 0.38), (0.85, 0.50), (-0.85, 0.50)], _tone(wood, 0.85))
    return [*legs, *planks, seat]


@functools.lru_cache(maxsize=1024)
def marks_of(kind: str, paint, look: int, view: str) -> list[Mark]:
    """The marks of a flat class."""
    if kind in ("adult", "person"):
        return person(paint, look, view, is_woman(look))
    if kind == "bicycle":
        return bicycle(paint, look, view, is_ridden(look))
    if kind == "motorcycle":
        return motorcycle(paint, look, view)
    return {"trafficcone": cone, "stop sign": stop_sign, "traffic light": traffic_light, "bench": bench}[kind](
        paint, look
    )


def is_woman(look: int) -> bool:
    """Whether a person of this look is drawn as a woman."""
    return (look // 4096) % 2 == 1


def is_ridden(look: int) -> bool:
    """Whether a bicycle of this look has a rider."""
    return (look // 4096) % 2 == 1


def extent(marks: list[Mark]) -> tuple[float, float, float, float]:
    """(u0, v0, u1, v1) in metres over all marks."""
    spans = [_span(mark) for mark in marks]
    return tuple(pick(span[i] for span in spans) for i, pick in enumerate((min, min, max, max)))


def _span(mark: Mark) -> tuple[float, float, float, float]:
    if mark.shape == "ellipse":
        (u, v), (du, dv) = mark.points.tolist()
        return u - du, v - dv, u + du, v + dv
    us, vs = mark.points.T.tolist()
    half = mark.width_m / 2
    return min(us) - half, min(vs) - half, max(us) + half, max(vs) + half


@functools.lru_cache(maxsize=1024)
def extent_of(kind: str, paint, look: int, view: str) -> tuple[float, float, float, float]:
    """The extent of a flat class' marks."""
    return extent(marks_of(kind, paint, look, view))


def draw_figure(canvas: Canvas, camera: Camera, light: Light, marks, stretch: tuple[float, float], at_m) -> None:
    """Draw a figure standing at (x, z) = at_m; `stretch` scales u and v."""
    scale = camera.px_per_m(at_m[1])
    foot = camera.project(np.array([at_m[0], 0.0, at_m[1]]))
    per_m = np.array([scale * stretch[0], -scale * stretch[1]])
    for mark in marks:
        rgb = light.shade(mark.rgb, None, at_m[1])
        if mark.shape == "ellipse":
            canvas.ellipse(foot + mark.points[0] * per_m, np.abs(mark.points[1] * per_m), rgb)
        elif mark.shape == "stroke":
            canvas.stroke(foot + mark.points * per_m, mark.width_m * scale * abs(stretch[1]), rgb)
        else:
            canvas.polygon(foot + mark.points * per_m, rgb)
