"""Drawing the scenery: sky, skyline, ground with its markings and texture, buildings, trees, lamps."""

import functools

import cv2
import numpy as np

from .camera import Camera
from .canvas import NOISE_SEED, Canvas, Light
from .street import CROSS_M, LANE_M, SIDEWALK_M, Block, Street

NEAR_M, FAR_M = 2.4, 260.0  # of ground that is drawn
LEAVES = ((74, 122, 58), (92, 138, 66), (58, 104, 60), (120, 142, 60), (150, 122, 56))
GROUNDS = {"city": (168, 164, 158), "suburb": (112, 142, 78), "industrial": (152, 146, 134)}
WALK, KERB, ASPHALT, WHITE, YELLOW = (176, 170, 162), (206, 202, 196), (98, 99, 103), (232, 232, 228), (236, 190, 60)
GLASS, LAMPLIGHT = (92, 112, 130), (250, 214, 140)


def _fractal(shape: tuple[int, int], power: float, aspect: float, rng) -> np.ndarray:
    """Noise with spectrum 1 / frequency^power, mean 0, sigma 1, that tiles without a seam."""
    rows, columns = np.fft.fftfreq(shape[0])[:, None] * shape[0], np.fft.rfftfreq(shape[1])[None] * shape[1]
    frequency = np.maximum(np.hypot(rows, columns * aspect), 1.0)
    phases = np.exp(2j * np.pi * rng.random(frequency.shape))
    noise = np.fft.irfft2(phases / frequency**power, s=shape)
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


@functools.lru_cache(maxsize=1)
def _cloud_tile() -> np.ndarray:
    """Soft cloud cover (128, 1024) in 0..1."""
    noise = _fractal((128, 1024), 1.7, 0.22, np.random.default_rng(NOISE_SEED + 1))
    return np.clip(0.12 + 0.5 * noise, 0, 1) ** 0.8


@functools.lru_cache(maxsize=1)
def _asphalt_tile() -> np.ndarray:
    """Ground texture (512, 512) uint8 around 128; one pixel is 2.5 cm."""
    rng = np.random.default_rng(NOISE_SEED + 2)
    total = 8.0 * _fractal((512, 512), 1.1, 1.0, rng) + rng.normal(0, 6, (512, 512))
    return np.clip(128 + total, 0, 255).astype(np.uint8)


def draw_sky(canvas: Canvas, camera: Camera, light: Light, rng: np.random.Generator) -> None:
    """Vertical gradient down to the horizon, with clouds; haze below it."""
    height, width = canvas.image.shape[:2]
    horizon = int(np.clip(camera.horizon_px * canvas.scale[1] + 1, 8, height))
    rows, columns = horizon // 4 + 1, width // 4
    part = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None]
    gradient = np.float32(light.sky_top) + np.float32(np.subtract(light.sky_low, light.sky_top)) * part**0.8
    tile = _cloud_tile()
    x = int(rng.integers(0, tile.shape[1] - 420))
    piece = tile[: max(16, 128 * horizon // height), x : x + 420]
    cloud = cv2.resize(piece, (columns, rows))[..., None] * (0.62 - 0.45 * part)
    brightest = np.minimum(np.float32(light.sky_low) * 1.06 + 8, 250)
    mixed = (gradient + (brightest - gradient) * cloud).astype(np.uint8)
    cv2.resize(mixed, (width, horizon), dst=canvas.image[:horizon], interpolation=cv2.INTER_LINEAR)
    cv2.rectangle(canvas.image, (0, horizon), (width, height), light.haze, -1)


def draw_skyline(canvas: Canvas, camera: Camera, street: Street, rng: np.random.Generator) -> None:
    """Far hazy roofs and tree tops along the horizon."""
    y, width = camera.horizon_px, canvas.frame_wh[0]
    unit = width / 1600
    for depth, low, high, count in ((420.0, 12, 70, 26), (230.0, 6, 34, 40)):
        rgb = street.light.shade((116, 124, 128) if street.setting != "suburb" else (96, 118, 96), None, depth)
        x = (np.arange(count) + rng.uniform(-0.4, 0.4, count)) * width / count
        span, top = rng.uniform(0.7, 1.5, count) * width / count, rng.uniform(low, high, count) * unit
        for left, wide, tall in zip(x.tolist(), span.tolist(), top.tolist(), strict=True):
            if street.setting == "suburb":
                canvas.ellipse((left + wide / 2, y), (wide * 0.8, tall * 0.7), rgb)
            else:
                canvas.polygon([(left, y + 3), (left, y - tall), (left + wide, y - tall), (left + wide, y + 3)], rgb)


def draw_ground(canvas: Canvas, camera: Camera, street: Street, travelled_m: float, rng) -> None:
    """Verge, sidewalks, road, crossing, markings; then their texture and the haze near the horizon."""
    edges = ((-1, street.left_edge_m), (1, street.right_edge_m))
    wide, endless = (-400.0, 400.0), (NEAR_M, FAR_M * 4)
    crossing = None if street.crossing_m is None else street.crossing_m - travelled_m
    strips = [(wide, endless, GROUNDS[street.setting])]
    strips += [((edge, edge + side * SIDEWALK_M), (NEAR_M, FAR_M), WALK) for side, edge in edges]
    strips += [((street.left_edge_m, street.right_edge_m), endless, ASPHALT)]
    strips += [((edge, edge + side * 0.22), (NEAR_M, FAR_M), KERB) for side, edge in edges]
    if crossing is not None and crossing + CROSS_M > NEAR_M:
        strips += [(wide, (max(crossing, NEAR_M), crossing + CROSS_M), ASPHALT)]
    for (x0, x1), (z0, z1), rgb in strips:
        corners = np.array([(x0, 0.0, z0), (x1, 0.0, z0), (x1, 0.0, z1), (x0, 0.0, z1)])
        canvas.polygon(camera.project(corners), street.light.shade(rgb))
    _draw_markings(canvas, camera, street, travelled_m, crossing)
    _texture(canvas, camera, travelled_m, rng)
    _haze(canvas, camera, street.light)


def _draw_markings(canvas, camera, street, travelled_m, crossing) -> None:
    lines = {WHITE: [], YELLOW: []}
    whole, dashes = _stretches(travelled_m, crossing)
    for index in range(-street.left_lanes, street.right_lanes + 2):
        x = (index - 0.5) * LANE_M
        if index == -street.same_way and street.same_way < street.left_lanes:
            lines[YELLOW] += [(x + shift, *piece) for shift in (-0.12, 0.12) for piece in whole]
        elif -street.left_lanes < index < street.right_lanes + 1:
            lines[WHITE] += [(x, *dash) for dash in dashes]
        elif street.parking[0 if index <= 0 else 1]:
            lines[WHITE] += [(x, *piece) for piece in whole]
    if crossing is not None and crossing - 3.4 > NEAR_M:
        bars = np.arange(street.left_edge_m + 0.5, street.right_edge_m - 0.3, 1.0)
        lines[WHITE] += [(x, crossing - 3.4, crossing - 0.8, 0.5) for x in bars]
    for rgb, strips in lines.items():
        quads = [_strip(*strip) for strip in strips if strip[2] > NEAR_M and strip[2] > strip[1]]
        if quads:
            canvas.polygons(camera.project(np.array(quads)), street.light.shade(rgb))


def _stretches(travelled_m: float, crossing: float | None):
    """Ranges (z0, z1) of unbroken lines and of dashes; both leave the crossing and its zebra free."""
    dashes = [(z, z + 2.6) for z in np.arange(-(travelled_m % 6.0), 80, 6.0)]
    if crossing is None:
        return [(NEAR_M, FAR_M)], dashes
    before, after = crossing - 4.3, crossing + CROSS_M + 0.6
    return [(NEAR_M, before), (after, FAR_M)], [(z0, z1) for z0, z1 in dashes if z1 < before or z0 > after]


def _strip(x: float, z0: float, z1: float, width: float = 0.13):
    z0, half = max(z0, NEAR_M), width / 2
    return [(x - half, 0.0, z0), (x + half, 0.0, z0), (x + half, 0.0, z1), (x - half, 0.0, z1)]


def _texture(canvas: Canvas, camera: Camera, travelled_m: float, rng) -> None:
    """Grain of the ground, in perspective, at half the canvas' resolution."""
    height, width = canvas.image.shape[:2]
    top = int(camera.horizon_px * canvas.scale[1]) + 6
    if top >= height - 4:
        return
    px_per_texel = 40.0
    near, far = 3.0, camera.focal_px * camera.height_m / (6.0 / canvas.scale[1])
    corners_m = np.array([(-20.0, near), (20.0, near), (20.0, far), (-20.0, far)])
    points = camera.project(np.stack([corners_m[:, 0], np.zeros(4), corners_m[:, 1]], axis=1)) * canvas.scale
    shift = np.array([rng.uniform(0, 512), travelled_m * px_per_texel])
    source = (corners_m * px_per_texel + shift).astype(np.float32)
    target = ((points - (0, top)) / 2).astype(np.float32)
    matrix = cv2.getPerspectiveTransform(source, target)
    size = (width // 2, (height - top) // 2)
    grain = cv2.warpPerspective(_asphalt_tile(), matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    grain = cv2.resize(grain, (width, height - top))
    strip = canvas.image[top:]
    cv2.multiply(strip, cv2.merge([grain] * 3), dst=strip, scale=1 / 128)


def _haze(canvas: Canvas, camera: Camera, light: Light) -> None:
    top = int(camera.horizon_px * canvas.scale[1])
    rows = np.arange(top, min(canvas.image.shape[0], top + 70))
    if not len(rows):
        return
    depth = camera.focal_px * camera.height_m / np.maximum((rows + 0.5) / canvas.scale[1] - camera.horizon_px, 0.5)
    fade = (1 - np.exp(-depth / 120.0)).astype(np.float32)[:, None, None]
    strip = canvas.image[rows[0] : rows[-1] + 1]
    strip[:] = (strip * (1 - fade) + np.float32(light.haze) * fade).astype(np.uint8)


def draw_block(canvas: Canvas, camera: Camera, light: Light, block: Block, travelled_m: float) -> None:
    """A building: the end wall facing us, the wall along the street with plinth, cornice, and rows of windows."""
    z0, z1 = block.near_m - travelled_m, block.far_m - travelled_m
    if z1 < NEAR_M:
        return
    near, x, top = max(z0, NEAR_M * 0.6), block.x_m, block.height_m
    depth = max(8.0, (near + z1) / 2)
    levels, feet = (0.0, 0.7, top - 0.45, top), ((x, near), (x, z1), (x + block.side * 9.0, z0))
    near_edge, far_edge, end_edge = camera.project(np.array([[(cx, y, z) for y in levels] for cx, z in feet]))
    if z0 > NEAR_M:
        normal = (0, 0, -1)
        canvas.polygon([near_edge[0], near_edge[3], end_edge[3], end_edge[0]], light.shade(block.rgb, normal, depth))
        edges = x + block.side * np.array([(1.2, 2.3), (3.4, 4.5), (5.6, 6.7)])
        _draw_windows(canvas, camera, light, block, edges, np.full((3, 2), z0), normal)
    normal = (-block.side, 0, 0)
    for low, high, gain in ((0, 3, 1.0), (0, 1, 0.72), (2, 3, 1.15)):
        rgb = light.shade([c * gain for c in block.rgb], normal, depth)
        canvas.polygon([near_edge[low], near_edge[high], far_edge[high], far_edge[low]], rgb)
    pitch = (z1 - z0) / max(2, int((z1 - z0) / 2.6))
    edges = np.arange(z0 + pitch / 4, z1 - pitch / 2, pitch)[:, None] + (0.0, pitch / 2)
    edges = edges[edges[:, 0] > near + 0.3]
    _draw_windows(canvas, camera, light, block, np.full(edges.shape, x), edges, normal)


def _draw_windows(canvas, camera, light, block, x_m, z_m, normal) -> None:
    """Panes between the edges x_m, z_m (columns, 2) of a wall on every storey; shop windows at street level."""
    depth = float(z_m.mean()) if len(z_m) else 0.0
    if depth <= NEAR_M or camera.px_per_m(depth) * canvas.scale[0] < 2.5:
        return
    storey = block.height_m / block.storeys
    floors = (np.arange(block.storeys) + 0.34) * storey
    panes = np.empty((len(floors), len(z_m), 4, 3))
    panes[..., 0], panes[..., 2] = x_m[:, [0, 0, 1, 1]], z_m[:, [0, 0, 1, 1]]
    panes[..., 1] = floors[:, None, None] + np.array([0, storey * 0.46, storey * 0.46, 0])
    if block.shops:
        panes[0, :, :, 1] = np.array([0.5, storey * 0.78, storey * 0.78, 0.5])
    corners = camera.project(panes)
    glass = LAMPLIGHT if light.lamps and block.lit else GLASS
    canvas.polygons(corners.reshape(-1, 4, 2), light.shade(glass, normal, depth))
    sills = corners[1:, :, [0, 3]].reshape(-1, 2, 2)
    if len(sills) and depth < 45:
        rgb = light.shade([min(255, c * 1.2) for c in block.rgb], normal, depth)
        canvas.lines(sills, 0.12 * camera.px_per_m(depth), rgb)


@functools.lru_cache(maxsize=128)
def _crown(look: int) -> tuple[tuple[float, float, float, float], ...]:
    """Leaf clumps of a tree of height 1: (gain of the leaf colour, u, v, radius), darker and lower ones first."""
    rng, clumps = np.random.default_rng(look), []
    for gain, shift, count in ((0.72, 0.0, 5), (0.9, 0.1, 4), (1.12, 0.2, 4)):
        u, v = rng.uniform(-0.24, 0.24, count) - shift / 10, rng.uniform(0.52, 0.86, count) + shift / 6
        radii = rng.uniform(0.10, 0.19, count)
        clumps += [(gain, *clump) for clump in zip(u.tolist(), v.tolist(), radii.tolist(), strict=True)]
    return tuple(clumps)


def draw_tree(canvas: Canvas, camera: Camera, light: Light, tree, travelled_m: float) -> None:
    """A trunk and a crown of round leaf clumps, darker below."""
    x, z, height, look = tree[0], tree[1] - travelled_m, tree[2], tree[3]
    if z < 5.0:
        return
    foot, scale = camera.project(np.array([x, 0.0, z])).tolist(), camera.px_per_m(z)
    canvas.stroke([foot, (foot[0], foot[1] - height * 0.6 * scale)], 0.26 * scale, light.shade((92, 70, 52), None, z))
    leaf, size = LEAVES[look % len(LEAVES)], height * scale
    for gain, u, v, radius in _crown(look % 128)[:: 1 if z < 40 else 2 if z < 70 else 4]:
        rgb = light.shade([min(255, c * gain) for c in leaf], None, z)
        canvas.ellipse((foot[0] + u * size, foot[1] - v * size), (radius * size, radius * 0.86 * size), rgb)


def draw_lamp(canvas: Canvas, camera: Camera, light: Light, lamp, travelled_m: float) -> None:
    """A street lamp leaning over the road."""
    x, z = lamp[0], lamp[1] - travelled_m
    if z < 6.0:
        return
    points = camera.project(np.array([(x, 0, z), (x, 6.2, z), (x - np.sign(x) * 1.4, 6.6, z)], float))
    scale = camera.px_per_m(z)
    canvas.stroke(points, 0.12 * scale, light.shade((82, 86, 92), None, z))
    head = LAMPLIGHT if light.lamps else light.shade((190, 194, 198), None, z)
    canvas.ellipse(points[2], (0.32 * scale, 0.12 * scale), head)


def draw_scenery(canvas: Canvas, camera: Camera, street: Street, travelled_m: float, rng) -> None:
    """Everything of a frame but its objects."""
    draw_sky(canvas, camera, street.light, rng)
    draw_skyline(canvas, camera, street, rng)
    draw_ground(canvas, camera, street, travelled_m, rng)
    for block in street.blocks:
        draw_block(canvas, camera, street.light, block, travelled_m)
    posts = [(tree[1], draw_tree, tree) for tree in street.trees]
    posts += [(lamp[1], draw_lamp, lamp) for lamp in street.lamps]
    for _, draw, post in sorted(posts, key=lambda entry: -entry[0]):
        draw(canvas, camera, street.light, post, travelled_m)
