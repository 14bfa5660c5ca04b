"""A detector's boxes as KITTI's camera rows: what the evaluator and the result files read."""

# M detections

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from pillars_rq.boxes import limit_period
from pillars_rq.kitti.calibration import Calibration, boxes_to_camera, clip_to_image, image_boxes
from pillars_rq.kitti.labels import NO_ALPHA, Annotations

NO_BOX = (-1.0, -1.0, -1.0, -1.0)


def detections_to_kitti(
    boxes: ArrayLike,
    scores: ArrayLike,
    labels: ArrayLike,
    calib: Calibration | None,
    image_hw: tuple[int, int] | None,
    classes: Sequence[str],
) -> Annotations:
    """LiDAR boxes (M,7) with scores (M,) and labels (M,) -> camera columns, in the order given.

    Boxes whose eight corners project beside the image (clipped to [0, w] x [0, h] nothing is left) are dropped. Without
    calibration or image size nothing is dropped, and the 2D box and alpha are -1 and -10, KITTI's "unknown".
    alpha = rotation_y - atan2(x, z), brought with rotation_y into [-pi, pi).

    Raises ValueError for other shapes or a label that is not a place in `classes`.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 7)
    scores, labels = np.asarray(scores, np.float64).reshape(-1), np.asarray(labels, np.int64).reshape(-1)
    if not len(boxes) == len(scores) == len(labels):
        raise ValueError(f"{len(boxes)} boxes, {len(scores)} scores and {len(labels)} labels: one of each a detection")
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(classes)):
        raise ValueError(f"labels {labels.min()}..{labels.max()} for {len(classes)} classes")
    location, dimensions, rotation_y = boxes_to_camera(boxes, calib or Calibration.lidar_only())
    rotation_y = limit_period(rotation_y, 0.5, 2 * np.pi)
    seen, outlines, alpha = np.ones(len(boxes), bool), np.tile(NO_BOX, (len(boxes), 1)), np.full(len(boxes), NO_ALPHA)
    if calib is not None and calib.projects and image_hw is not None:
        outlines = clip_to_image(np.nan_to_num(image_boxes(boxes, calib), nan=-1.0), image_hw)
        seen = (outlines[:, 2] > outlines[:, 0]) & (outlines[:, 3] > outlines[:, 1])
        alpha = limit_period(rotation_y - np.arctan2(location[:, 0], location[:, 2]), 0.5, 2 * np.pi)
    rows = Annotations(
        name=np.array(classes)[labels] if len(labels) else (),
        truncated=np.full(len(boxes), -1.0),
        occluded=np.full(len(boxes), -1),
        alpha=alpha,
        bbox=outlines,
        dimensions=dimensions,
        location=location,
        rotation_y=rotation_y,
        score=scores,
    )
    return rows.select(seen)
