"""Everything on a site without a label: containers, vans, stacks, pipes, fences, posts, people, trees, buildings.

Some of it is as large and as boxy as a machine, so that size alone tells nothing.
"""

from collections.abc import Callable

import numpy as np

from .bodies import CYLINDER, DRUM, ELLIPSOID, Body, block
from .machines import GLASS, RUBBER, Rng, Thing


def _thing(size_lwh, *bodies: Body) -> Thing:
    return Thing("", tuple(float(v) for v in size_lwh), tuple(bodies))


def _standing(l: float, w: float, h: float, **how) -> Body:
    return block((-l / 2, l / 2), (-w / 2, w / 2), (0, h), **how)


def container(rng: Rng) -> Thing:
    """A site office or a freight container, one or two high."""
    l, w, h = float(rng.choice([6.1, 12.2], p=[0.8, 0.2])), 2.44, 2.6 * int(rng.choice([1, 2], p=[0.75, 0.25]))
    return _thing((l, w, h), _standing(l, w, h, reflectance=float(rng.uniform(0.2, 0.6))))


def van(rng: Rng) -> Thing:
    """A delivery van or a pick-up: wheels and a cab, but no machine."""
    l, w, h = float(rng.uniform(4.6, 6.2)), 2.0, float(rng.uniform(1.8, 2.5))
    paint = {"reflectance": float(rng.uniform(0.15, 0.6))}
    wheels = [block((x - 0.36, x + 0.36), sorted((side * w / 2, side * (w / 2 - 0.25))), (0, 0.72), DRUM, **RUBBER)
              for x in (-0.3 * l, 0.32 * l) for side in (-1, 1)]  # fmt: skip
    return _thing(
        (l, w, h),
        block((-l / 2, 0.22 * l), (-w / 2, w / 2), (0.4, h), **paint),
        block((0.2 * l, l / 2), (-w / 2, w / 2), (0.4, 0.55 * h), **paint),
        block((0.18 * l, 0.36 * l), (-0.47 * w, 0.47 * w), (0.5 * h, 0.95 * h), **GLASS),
        *wheels,
    )


def stack(rng: Rng) -> Thing:
    """Pallets of bricks or boards: two or three boxes of different height side by side."""
    parts, x = [], 0.0
    for _ in range(int(rng.integers(2, 4))):
        step, h = float(rng.uniform(0.8, 1.6)), float(rng.uniform(0.5, 1.9))
        parts.append(block((x, x + step), (-0.6, 0.6), (0, h), reflectance=0.35))
        x += step + 0.15
    middle = [Body(p.shape, p.centre_m - np.array([x / 2, 0, 0]), p.half_m, p.turn, p.reflectance) for p in parts]
    return _thing((x, 1.2, 1.9), *middle)


def pipes(rng: Rng) -> Thing:
    """Two or three concrete pipes, lying."""
    radius, long, count = float(rng.uniform(0.4, 1.0)), float(rng.uniform(2, 4)), int(rng.integers(2, 4))
    bodies = [block((2 * radius * (k - count / 2), 2 * radius * (k + 1 - count / 2)), (-long / 2, long / 2),
                    (0, 2 * radius), DRUM, reflectance=0.3) for k in range(count)]  # fmt: skip
    return _thing((2 * radius * count, long, 2 * radius), *bodies)


def barrier(rng: Rng) -> Thing:
    l = float(rng.uniform(3, 8))
    return _thing((l, 0.5, 0.9), _standing(l, 0.5, 0.9, reflectance=0.4))


def fence(rng: Rng) -> Thing:
    l = float(rng.uniform(6, 14))
    return _thing((l, 0.1, 2.0), _standing(l, 0.08, 2.0, reflectance=0.3, leaky=0.6))


def post(rng: Rng) -> Thing:
    r, h = float(rng.uniform(0.06, 0.2)), float(rng.uniform(1.2, 7))
    return _thing((2 * r, 2 * r, h), block((-r, r), (-r, r), (0, h), CYLINDER, reflectance=0.4))


def person(rng: Rng) -> Thing:
    h = float(rng.uniform(1.6, 1.9))
    return _thing(
        (0.6, 0.6, h),
        block((-0.16, 0.16), (-0.2, 0.2), (0, 0.5 * h), CYLINDER, reflectance=0.2),
        block((-0.18, 0.18), (-0.28, 0.28), (0.48 * h, 0.86 * h), CYLINDER, reflectance=0.7),
        block((-0.12, 0.12), (-0.12, 0.12), (0.85 * h, h), ELLIPSOID, reflectance=0.6),
    )


def tree(rng: Rng) -> Thing:
    r, h, wide = float(rng.uniform(0.12, 0.3)), float(rng.uniform(4, 9)), float(rng.uniform(1.2, 2.6))
    crown = [block((x - wide, x + wide), (y - wide, y + wide), (0.35 * h, h), ELLIPSOID, reflectance=0.35, leaky=0.7)
             for x, y in rng.normal(0, 0.5, (3, 2))]  # fmt: skip
    return _thing((2 * wide, 2 * wide, h), block((-r, r), (-r, r), (0, 0.6 * h), CYLINDER), *crown)


def building(rng: Rng) -> Thing:
    """A shell under construction or a hall: far off, it closes the view."""
    l, w, h = float(rng.uniform(12, 30)), float(rng.uniform(6, 12)), float(rng.uniform(4, 12))
    columns = [block((x - 0.25, x + 0.25), (-w / 2 - 0.3, -w / 2 + 0.2), (0, h), reflectance=0.35)
               for x in np.arange(-l / 2, l / 2 + 0.1, 4.0)]  # fmt: skip
    return _thing((l, w, h), _standing(l, w, h, reflectance=float(rng.uniform(0.25, 0.5))), *columns)


Maker = Callable[[Rng], Thing]
NEAR: dict[Maker, float] = {container: 1.6, van: 2.0, stack: 3.0, pipes: 2.0, barrier: 3.0, fence: 2.5, post: 5.0,
                            person: 4.0, tree: 1.5}  # mean number within the site  # fmt: skip
FAR: dict[Maker, float] = {building: 3.0, tree: 8.0, fence: 5.0, container: 2.0}  # around it
