"""The labels of a scanned scene, as KITTI's annotators would write them, and the camera they refer to.

The rays tell how much of a thing is hidden: those that meet it first, of those that would if it stood alone. What is
too far, or leaves hardly a point or hardly a share to be seen, becomes a DontCare region, or nothing at all.
"""

# N labelled things

from collections.abc import Sequence

import numpy as np

from pillars_rq.boxes import limit_period
from pillars_rq.kitti.calibration import Calibration, boxes_to_camera, clip_to_image, image_boxes
from pillars_rq.kitti.labels import DONT_CARE, Annotations, difficulty

from .scene import in_reach
from .sensor import NOTHING, Scan
from .spec import WorldSpec
from .things import Thing

IMAGE_HW = (375, 1242)
VISIBLE_SHARES = (0.80, 0.45, 0.15)  # at least this: occluded 0, 1, 2; else 3
MIN_POINTS, MIN_VISIBLE, MAX_TRUNCATED = 3, 0.08, 0.9
MIN_HEIGHT_PX = 8
FOCAL_PX, CENTRE_PX = 720.0, (610.0, 173.0)
CAMERA_IN_LIDAR_M = (0.27, 0.06, -0.08)
TILT_RAD = 0.006  # of the rectified camera against the LiDAR


def make_calibration() -> Calibration:
    """A camera like KITTI's: 0.27 m before the LiDAR, a little tilted, image_2 beside camera 0."""
    axes = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
    cos, sin = np.cos(TILT_RAD), np.sin(TILT_RAD)
    to_camera = np.eye(4)
    to_camera[:3, :3] = axes
    to_camera[:3, 3] = -axes @ CAMERA_IN_LIDAR_M
    rectify = np.eye(4)
    rectify[:3, :3] = [[1, 0, 0], [0, cos, -sin], [0, sin, cos]]
    matrices = {"R0_rect": rectify, "Tr_velo_to_cam": to_camera, "Tr_imu_to_velo": np.eye(4)}
    for name, beside_m in (("P0", 0.0), ("P1", -0.54), ("P2", 0.06), ("P3", -0.48)):
        project = np.eye(4)
        project[:3, :3] = [[FOCAL_PX, 0, CENTRE_PX[0]], [0, FOCAL_PX, CENTRE_PX[1]], [0, 0, 1]]
        project[0, 3] = FOCAL_PX * beside_m
        matrices[name] = project
    return Calibration(matrices)


def calibration_text(calib: Calibration) -> str:
    """The calib/*.txt file."""
    rows = {"R0_rect": (3, 3)}
    order = ("P0", "P1", "P2", "P3", "R0_rect", "Tr_velo_to_cam", "Tr_imu_to_velo")
    lines = []
    for name in order:
        height, width = rows.get(name, (3, 4))
        values = calib.matrices[name][:height, :width].ravel()
        lines.append(f"{name}: " + " ".join(f"{value:.12e}" for value in values))
    return "\n".join(lines) + "\n"


def annotate(
    things: Sequence[Thing], scan: Scan, owners: np.ndarray, calib: Calibration, spec: WorldSpec
) -> Annotations:
    """Labels of the things (owner numbers are their places in the list).

    owners: (P,) owners of the points that came back.
    """
    counts = np.bincount(owners[owners > NOTHING] + 1, minlength=len(things) + 1)[1:]
    labels = [row for number, thing in enumerate(things) if thing.name
              for row in _label(number, thing, scan, int(counts[number]), calib, spec)]  # fmt: skip
    if not labels:
        return Annotations.empty()
    columns = {key: [label[key] for label in labels] for key in labels[0]}
    found = Annotations(**columns, score=np.zeros(len(labels)))
    found = found.select(np.argsort(found.name == DONT_CARE, kind="stable"))
    return found.with_columns(difficulty=difficulty(found))


def _label(number: int, thing: Thing, scan: Scan, points: int, calib: Calibration, spec: WorldSpec) -> list[dict]:
    outline = image_boxes(thing.box[None], calib)[0]
    if not np.isfinite(outline).all() or not points:
        return []
    box = clip_to_image(outline[None], (IMAGE_HW[0] - 1, IMAGE_HW[1] - 1))[0]
    whole, inside = np.prod(outline[2:] - outline[:2]), np.prod(box[2:] - box[:2])
    if inside <= 0 or box[3] - box[1] < MIN_HEIGHT_PX:
        return []
    truncated, share = 1 - inside / whole, scan.visible(number) / max(scan.alone[number], 1)
    clear = points >= MIN_POINTS and share >= MIN_VISIBLE and truncated <= MAX_TRUNCATED
    if not (clear and in_reach(thing, spec)):
        return [_dont_care(box)]
    location, dimensions, rotation_y = boxes_to_camera(thing.box[None], calib)
    alpha = limit_period(rotation_y[0] - np.arctan2(location[0, 0], location[0, 2]), 0.5, 2 * np.pi)
    occluded = next((level for level, least in enumerate(VISIBLE_SHARES) if share >= least), 3)
    return [{"name": thing.name, "truncated": float(truncated), "occluded": occluded, "alpha": float(alpha),
             "bbox": box, "dimensions": dimensions[0], "location": location[0],
             "rotation_y": float(rotation_y[0])}]  # fmt: skip


def _dont_care(box: np.ndarray) -> dict:
    return {"name": DONT_CARE, "truncated": -1.0, "occluded": -1, "alpha": -10.0, "bbox": box,
            "dimensions": np.full(3, -1.0), "location": np.full(3, -1000.0), "rotation_y": -10.0}  # fmt: skip
