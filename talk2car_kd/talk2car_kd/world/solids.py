"""Low-poly vehicles: convex parts with flat details, turned, projected, shaded and drawn far part first.

A solid is built once per style in its own frame (metres: x across, y up, z along its heading, origin on the ground
under its middle). Yaw 0 heads away from the camera (its rear is seen), pi comes towards it.
"""

import functools
from dataclasses import dataclass

import numpy as np

from .camera import Camera
from .canvas import HAZE_M, Canvas, Light

MATERIALS = {  # what is not painted in the object's own colour
    "glass": (48, 60, 74),
    "window": (74, 92, 110),
    "tyre": (22, 22, 24),
    "rim": (172, 175, 180),
    "dark": (38, 38, 42),
    "head": (255, 250, 225),
    "tail": (216, 20, 24),
    "amber": (250, 160, 40),
    "plate": (235, 232, 214),
    "steel": (150, 154, 160),
    "sign": (255, 190, 60),
    "line": (60, 62, 66),
    "board": (242, 242, 238),
}
PAINT_GAIN = {"paint": 1.0, "paint2": 0.86, "paint3": 1.12}  # the object's own colour, plain, darker, lighter


@dataclass(frozen=True)
class Group:
    """A convex part and the details on it; parts of one tier are drawn far to near, higher tiers later."""

    tier: int
    centre: np.ndarray
    polygons: tuple[np.ndarray, ...]
    materials: tuple[str, ...]


def _outward(polygon: np.ndarray, centre: np.ndarray) -> np.ndarray:
    normal = np.cross(polygon[1] - polygon[0], polygon[2] - polygon[1])
    return polygon if np.dot(normal, polygon.mean(axis=0) - centre) > 0 else polygon[::-1]


def _group(tier: int, shell, details=()) -> Group:
    points = np.concatenate([polygon for polygon, _ in shell])
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    faces = [(_outward(np.asarray(p, float), centre), m) for p, m in (*shell, *details)]
    return Group(tier, centre, tuple(p for p, _ in faces), tuple(m for _, m in faces))


def _prism(profile_zy, half_low: float, half_high: float | None = None, material: str = "paint", x: float = 0.0):
    """Faces of a profile (z, y) extruded across; the half width runs from `half_low` to `half_high` with height."""
    profile = np.asarray(profile_zy, float)
    half_high = half_low if half_high is None else half_high
    low, high = profile[:, 1].min(), profile[:, 1].max()
    half = half_low + (half_high - half_low) * (profile[:, 1] - low) / (high - low)
    right = np.stack([x + half, profile[:, 1], profile[:, 0]], axis=1)
    left = right * (-1, 1, 1) + (2 * x, 0, 0)
    strips = [np.stack([right[i - 1], right[i], left[i], left[i - 1]]) for i in range(len(profile))]
    return [(face, material) for face in (*strips, right, left)]


def _box(x, y, z, material: str = "paint"):
    """Faces of an upright box from ranges (low, high) in x, y and z."""
    middle = (x[0] + x[1]) / 2
    profile = [(z[0], y[0]), (z[0], y[1]), (z[1], y[1]), (z[1], y[0])]
    return _prism(profile, (x[1] - x[0]) / 2, material=material, x=middle)


def _both_sides(x: float, polygon_zy, material: str):
    """The same detail on the right and on the left, at distance x from the middle plane."""
    zy = np.asarray(polygon_zy, float)
    return [(np.stack([np.full(len(zy), side * x), zy[:, 1], zy[:, 0]], axis=1), material) for side in (1, -1)]


def _across(z: float, x, y, material: str):
    """An upright rectangle across the vehicle at z."""
    return [(np.array([(x[0], y[0], z), (x[1], y[0], z), (x[1], y[1], z), (x[0], y[1], z)], float), material)]


def _mirrored(z: float, x, y, material: str):
    return _across(z, x, y, material) + _across(z, (-x[1], -x[0]), y, material)


def _ring(z: float, y: float, radius: float, count: int = 14):
    angles = np.arange(count) * 2 * np.pi / count + 0.2
    return np.stack([z + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)


def _wheels(half: float, axles, radius: float, width: float = 0.24):
    """Tyres under the body (tier 0) and their discs on its sides."""
    groups, discs = [], []
    for z in axles:
        for side in (1, -1):
            tyre = _prism(_ring(z, radius, radius), width / 2, material="tyre", x=side * (half - width / 2))
            groups.append(_group(0, tyre))
        discs += _both_sides(half + 0.004, _ring(z, radius, radius * 1.13), "dark")
        discs += _both_sides(half + 0.008, _ring(z, radius, radius), "tyre")
        discs += _both_sides(half + 0.012, _ring(z, radius, radius * 0.58, 9), "rim")
    return groups, discs


def _quad_on(lower, upper, across, along):
    """Rectangle inside a slanted pane that spans `lower` (z, y) to `upper` (z, y): fractions along and half widths."""
    (z0, y0), (z1, y1) = lower, upper
    corners = []
    for fraction, half in zip(along, across, strict=True):
        z, y = z0 + (z1 - z0) * fraction, y0 + (y1 - y0) * fraction
        corners.append(((-half, y, z), (half, y, z)))
    return np.array([corners[0][0], corners[0][1], corners[1][1], corners[1][0]], float)


# belt, hood and roof (y); cabin: rear foot, rear roof, front roof, front foot (z); start of the hood (z)
CAR_STYLES = {
    "sedan": {"belt": 0.92, "hood": 0.76, "roof": 1.45, "cabin": (-1.75, -1.0, 0.25, 1.05), "hood_z": 1.1},
    "hatchback": {"belt": 0.94, "hood": 0.78, "roof": 1.50, "cabin": (-2.16, -1.85, 0.25, 1.15), "hood_z": 1.2},
    "suv": {"belt": 1.06, "hood": 0.98, "roof": 1.74, "cabin": (-2.18, -1.95, 0.35, 1.05), "hood_z": 1.1},
}


@functools.cache
def car(style: str = "sedan") -> tuple[Group, ...]:
    """A car about 4.5 m long."""
    s = CAR_STYLES[style]
    belt, hood, roof, cabin = s["belt"], s["hood"], s["roof"], s["cabin"]
    body = [(-2.14, 0.26), (-2.25, 0.5), (-2.2, belt - 0.05), (-2.1, belt), (s["hood_z"], belt), (2.08, hood - 0.04)]
    body += [(2.25, hood - 0.2), (2.24, 0.4), (2.1, 0.26)]
    half, half_roof = 0.91, 0.70
    wheels, discs = _wheels(half, (-1.36, 1.36), 0.33)
    lights = _mirrored(-2.262, (0.55, 0.88), (belt - 0.30, belt - 0.10), "tail") + _mirrored(
        2.262, (0.52, 0.86), (hood - 0.26, hood - 0.1), "head"
    )
    front = _across(2.262, (-0.45, 0.45), (0.42, hood - 0.16), "dark") + _across(
        2.27, (-0.24, 0.24), (0.36, 0.46), "plate"
    )
    rear = _across(-2.262, (-0.26, 0.26), (belt - 0.36, belt - 0.24), "plate")
    rear += _across(-2.255, (-0.84, 0.84), (0.27, 0.42), "dark")
    doors = [
        _both_sides(half + 0.003, [(z, 0.36), (z, belt), (z + 0.035, belt), (z + 0.035, 0.36)], "line")
        for z in (-0.62, 0.42)
    ]
    sill = _both_sides(half + 0.003, [(-2.1, 0.27), (-2.1, 0.36), (2.1, 0.36), (2.1, 0.27)], "dark")
    shell = [(cabin[0], belt), (cabin[1], roof), (cabin[2], roof), (cabin[3], belt)]
    top = _group(2, _prism(shell, half - 0.02, half_roof), _car_windows(shell, half - 0.02, half_roof))
    details = [*sill, *(d for door in doors for d in door), *discs, *rear, *front, *lights]
    return (*wheels, _group(1, _prism(body, half), details), top)


def _car_windows(shell, half_low: float, half_high: float):
    """Windscreen, rear window and two panes on each side of a cabin profile (foot, roof, roof, foot)."""
    (z0, y0), (z1, y1), (z2, _), (z3, _) = shell
    out = 0.012  # panes stand this far off the shell

    def half(y):
        return half_low + (half_high - half_low) * (y - y0) / (y1 - y0) + out

    panes = []
    for foot, roof, slant in ((z0, z1, -1), (z3, z2, 1)):
        quad = _quad_on((foot, y0), (roof, y1), (half_low * 0.86, half_high * 0.88), (0.12, 0.9))
        panes.append((quad + np.array((0, out, slant * out)), "glass"))
    low, high, post = y0 + 0.05, y1 - 0.07, z0 + (z3 - z0) * 0.47
    rear = [z0 + (z1 - z0) * (y - y0) / (y1 - y0) + 0.10 for y in (low, high)]
    front = [z3 + (z2 - z3) * (y - y0) / (y1 - y0) - 0.10 for y in (low, high)]
    for back, ahead in ((rear, [post - 0.05] * 2), ([post + 0.05] * 2, front)):
        corners = ((back[0], low), (back[1], high), (ahead[1], high), (ahead[0], low))
        panes += [(np.array([(side * half(y), y, z) for z, y in corners]), "glass") for side in (1, -1)]
    return panes


@functools.cache
def truck(style: str = "box") -> tuple[Group, ...]:
    """A delivery truck: a cab ahead, cargo behind it (a closed box, or a tipper's open skip)."""
    wheels, discs = _wheels(1.12, (-2.3, 2.45), 0.46, 0.34)
    frame = _group(1, _box((-0.9, 0.9), (0.45, 0.85), (-3.5, 3.3), "dark"), discs)
    cab_shell = [(1.75, 0.55), (1.75, 2.35), (3.05, 2.35), (3.5, 1.55), (3.6, 0.55)]
    windscreen = [(_quad_on((3.5, 1.55), (3.05, 2.35), (0.98, 0.98), (0.08, 0.9)) + np.array((0, 0.01, 0.02)), "glass")]
    cab_details = [
        *windscreen,
        *_both_sides(1.105, [(2.1, 1.5), (2.1, 2.2), (3.0, 2.2), (3.35, 1.5)], "glass"),
        *_both_sides(1.105, [(2.0, 0.6), (2.0, 2.3), (2.04, 2.3), (2.04, 0.6)], "line"),
        *_mirrored(3.62, (0.62, 1.0), (0.72, 0.95), "head"),
        *_across(3.615, (-0.55, 0.55), (0.7, 1.3), "dark"),
        *_across(3.62, (-1.05, 1.05), (0.45, 0.62), "steel"),
    ]
    cab = _group(2, _prism(cab_shell, 1.1), cab_details)
    return (*wheels, frame, cab, _cargo(style))


def _cargo(style: str) -> Group:
    rear = -3.612
    lights = _mirrored(rear, (0.85, 1.12), (0.86, 1.06), "tail")
    if style == "box":
        shell = _box((-1.18, 1.18), (0.85, 3.0), (-3.6, 1.6), "paint")
        doors = _across(rear, (-0.02, 0.02), (1.12, 2.94), "line") + _across(rear, (-1.18, 1.18), (0.85, 0.9), "steel")
        rims = [
            _both_sides(1.19, [(-3.6, y), (-3.6, y + 0.1), (1.6, y + 0.1), (1.6, y)], "paint2") for y in (0.86, 2.9)
        ]
        frame = _across(rear, (-1.16, 1.16), (2.86, 2.96), "paint2")
        ribs = [
            _both_sides(1.188, [(z, 0.9), (z, 2.95), (z + 0.06, 2.95), (z + 0.06, 0.9)], "paint2")
            for z in (-2.3, -1.0, 0.3)
        ]
        bolts = [bolt for x in (-0.3, 0.24) for bolt in _across(rear, (x, x + 0.06), (1.15, 2.8), "steel")]
        extra = [*frame, *doors, *bolts, *(q for pair in (*rims, *ribs) for q in pair)]
    else:
        profile = [(-3.2, 0.9), (-3.6, 2.35), (1.6, 2.35), (1.45, 0.9)]
        shell = _prism(profile, 1.08, 1.18, "paint")
        extra = [
            quad
            for z in (-2.7, -1.7, -0.7, 0.3, 1.1)
            for quad in _both_sides(1.185, [(z, 1.0), (z, 2.3), (z + 0.12, 2.3), (z + 0.12, 1.0)], "paint2")
        ]
        extra += _across(-3.61, (-1.1, 1.1), (2.2, 2.34), "paint2")
    return _group(2, shell, [*extra, *lights])


@functools.cache
def bus(style: str = "city") -> tuple[Group, ...]:
    """A city bus with a long window row."""
    half, length = 1.28, 5.25
    wheels, discs = _wheels(half, (-3.1, 3.2), 0.48, 0.3)
    shell = [
        (-length, 0.36),
        (-length, 3.0),
        (-length + 0.15, 3.14),
        (length - 0.25, 3.14),
        (length, 2.9),
        (length, 0.36),
    ]
    panes = []
    for index in range(7):
        z = -length + 0.35 + index * 1.36
        panes += _both_sides(half + 0.006, [(z, 1.45), (z, 2.55), (z + 1.22, 2.55), (z + 1.22, 1.45)], "window")
    stripe = _both_sides(half + 0.004, [(-length, 0.95), (-length, 1.2), (length, 1.2), (length, 0.95)], "paint2")
    skirt = _both_sides(half + 0.003, [(-length, 0.37), (-length, 0.52), (length, 0.52), (length, 0.37)], "dark")
    door = _both_sides(half + 0.007, [(3.9, 0.5), (3.9, 2.5), (4.9, 2.5), (4.9, 0.5)], "glass")
    front = [
        *_across(length + 0.01, (-1.15, 1.15), (1.2, 2.5), "glass"),
        *_across(length + 0.012, (-0.85, 0.85), (2.58, 2.85), "dark"),
        *_across(length + 0.014, (-0.6, 0.6), (2.64, 2.8), "sign"),
        *_mirrored(length + 0.012, (0.75, 1.12), (0.62, 0.86), "head"),
        *_across(length + 0.012, (-1.28, 1.28), (0.37, 0.5), "dark"),
    ]
    rear = [
        *_across(-length - 0.01, (-1.05, 1.05), (1.75, 2.6), "glass"),
        *_mirrored(-length - 0.01, (0.95, 1.2), (0.8, 1.35), "tail"),
        *_across(-length - 0.01, (-0.7, 0.7), (0.7, 1.3), "paint2"),
        *_across(-length - 0.012, (-0.5, 0.5), (2.68, 2.88), "sign"),
        *_across(-length - 0.012, (-1.28, 1.28), (0.37, 0.52), "dark"),
    ]
    return (*wheels, _group(1, _prism(shell, half), [*stripe, *skirt, *panes, *door, *discs, *front, *rear]))


@functools.cache
def barrier(style: str = "board") -> tuple[Group, ...]:
    """A road-works barrier: two striped boards on a pair of legs; its boards face along its heading."""
    legs = [_group(0, _box((x - 0.05, x + 0.05), (0.0, 1.0), (-0.05, 0.05), "steel")) for x in (-0.75, 0.75)]
    feet = [_group(0, _box((x - 0.08, x + 0.08), (0.0, 0.1), (-0.3, 0.3), "dark")) for x in (-0.75, 0.75)]
    boards = []
    for low, high in ((0.28, 0.56), (0.68, 1.05)):
        stripes = []
        for x in np.arange(-0.95, 0.75, 0.48):
            for z in (-0.075, 0.075):
                slant = [
                    (x, low, z),
                    (x + 0.24, low, z),
                    (min(x + 0.40, 0.95), high, z),
                    (min(x + 0.16, 0.95), high, z),
                ]
                stripes.append((np.array(slant), "board"))
        boards.append(_group(1, _box((-0.95, 0.95), (low, high), (-0.07, 0.07), "paint"), stripes))
    return (*feet, *legs, *boards)


SOLIDS = {"car": car, "truck": truck, "bus": bus, "barrier": barrier}
STYLES = {"car": tuple(CAR_STYLES), "truck": ("box", "box", "tipper"), "bus": ("city",), "barrier": ("board",)}


@dataclass(frozen=True)
class _Flat:
    """All polygons of a solid, flattened for one projection: vertices, their ranges, facing triples, groups."""

    vertices: np.ndarray  # (V, 3)
    corners: np.ndarray  # (C, 3), the vertices without repeats
    starts: np.ndarray  # (P + 1,)
    normals: np.ndarray  # (P, 3)
    materials: tuple[str, ...]
    group_of: np.ndarray  # (P,)
    centres: np.ndarray  # (G, 3)
    tiers: np.ndarray  # (G,)


@functools.cache
def flat(kind: str, style: str) -> _Flat:
    """The solid of a class and style in arrays."""
    groups = SOLIDS[kind](style)
    polygons = [p for g in groups for p in g.polygons]
    normals = np.stack([np.cross(p[1] - p[0], p[2] - p[1]) for p in polygons])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return _Flat(
        np.concatenate(polygons),
        np.unique(np.concatenate(polygons), axis=0),
        np.cumsum([0, *(len(p) for p in polygons)]),
        normals,
        tuple(m for g in groups for m in g.materials),
        np.repeat(np.arange(len(groups)), [len(g.polygons) for g in groups]),
        np.stack([g.centre for g in groups]),
        np.array([g.tier for g in groups]),
    )


def turn(points: np.ndarray, yaw_rad: float) -> np.ndarray:
    """Points (..., 3) turned about the vertical; yaw 0 keeps the heading, pi/2 turns it to the right."""
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    return points @ np.array([(cos, 0.0, -sin), (0.0, 1.0, 0.0), (sin, 0.0, cos)])


def outline(kind: str, style: str, scale, yaw_rad: float, at_m, camera: Camera) -> np.ndarray:
    """Projected vertices (V, 2) of a solid standing at (x, z) = at_m: their extent is its box."""
    vertices = turn(flat(kind, style).corners * scale, yaw_rad) + np.array((at_m[0], 0.0, at_m[1]))
    return camera.project(vertices)


def footprint(kind: str, style: str, scale, yaw_rad: float, at_m) -> np.ndarray:
    """The four corners (4, 3) of the ground under a solid, for its shadow."""
    vertices = flat(kind, style).vertices * scale
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    corners = [(low[0], 0, low[2]), (high[0], 0, low[2]), (high[0], 0, high[2]), (low[0], 0, high[2])]
    return turn(np.array(corners, float), yaw_rad) + np.array((at_m[0], 0.0, at_m[1]))


def draw_solid(canvas: Canvas, camera: Camera, light: Light, kind, style, scale, yaw_rad, at_m, paint) -> None:
    """Draw a solid with its faces towards the camera, shaded by the light."""
    mesh = flat(kind, style)
    vertices = turn(mesh.vertices * scale, yaw_rad) + np.array((at_m[0], 0.0, at_m[1]))
    first = vertices[mesh.starts[:-1]]
    normals = turn(mesh.normals, yaw_rad)
    seen = np.einsum("pc,pc->p", normals, first - (0.0, camera.height_m, 0.0)) < 0
    centres = turn(mesh.centres * scale, yaw_rad) + np.array((at_m[0], 0.0, at_m[1]))
    rank = np.lexsort((-np.hypot(centres[:, 0], centres[:, 2]), mesh.tiers))
    place = np.empty(len(rank), int)
    place[rank] = np.arange(len(rank))
    order = np.argsort(place[mesh.group_of], kind="stable")
    colours = _colours(mesh, paint, normals, light, at_m[1])
    points = camera.project(vertices)
    canvas.mesh(points, mesh.starts, order[seen[order]], colours)


def _colours(mesh: _Flat, paint, normals: np.ndarray, light: Light, depth_m: float) -> np.ndarray:
    """Shaded colours (P, 3) of all faces."""
    base = np.array(
        [np.multiply(paint, PAINT_GAIN[m]) if m in PAINT_GAIN else MATERIALS[m] for m in mesh.materials], float
    )
    facing = 0.5 + 0.5 * normals @ np.asarray(light.sun)
    gain = 1.04 - light.contrast * (1.0 - facing)
    lit = base * np.asarray(light.tint) * gain[:, None]
    if light.lamps:
        glowing = np.array([m in ("head", "tail", "sign") for m in mesh.materials])
        lit[glowing] = base[glowing] * 1.1
    fade = 1.0 - np.exp(-depth_m / HAZE_M)
    return np.clip(lit * (1 - fade) + np.asarray(light.haze) * fade, 0, 255).astype(int)
