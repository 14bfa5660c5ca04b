"""A frame of the world as a picture."""

import numpy as np

from .canvas import Canvas
from .scene import Frame
from .scenery import draw_scenery
from .things import draw_things


def draw_frame(frame: Frame, stored_wh: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """The frame as (h, w, 3) uint8 RGB at its stored size."""
    canvas = Canvas(frame.camera.frame_wh, stored_wh)
    draw_scenery(canvas, frame.camera, frame.street, frame.travelled_m, rng)
    draw_things(canvas, frame.camera, frame.street.light, frame.things)
    return canvas.finish(rng)
