"""KITTI's calibration: from LiDAR to camera and to pixels, and boxes between the two frames.

    LiDAR   x forward, y left, z up; a box is x, y, z_bottom, w, l, h, theta          (see boxes.py)
    camera  x right, y down, z forward, rectified; a box is location (bottom centre), dimensions l, h, w, rotation_y

A location in the camera is R0_rect Tr_velo_to_cam (x, y, z_bottom, 1); sizes and theta = rotation_y pass unchanged.
Data without calibration (`Calibration.lidar_only`) use the plain exchange of axes x = -y, y = -z, z = x, so that
the same label and result files serve them; nothing can be projected into an image then.
"""

# N boxes, P points

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pillars_rq.boxes import corners
from shared.errors import DataError

CAMERAS = ("P0", "P1", "P2", "P3")
SHAPES = {
    **dict.fromkeys(CAMERAS, (3, 4)),
    "R0_rect": (3, 3),
    "Tr_velo_to_cam": (3, 4),
    "Tr_imu_to_velo": (3, 4),
}
NEEDED = ("P2", "R0_rect", "Tr_velo_to_cam")
ALIASES = {"R_rect": "R0_rect", "Tr_velo_cam": "Tr_velo_to_cam", "Tr_imu_velo": "Tr_imu_to_velo"}
EXCHANGE_OF_AXES = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
NEAR_M = 0.1  # a box's edges are cut this far before the camera: what lies behind has no place in the image
EDGES = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7]])


@dataclass(frozen=True, eq=False)
class Calibration:
    """matrices: name -> 4x4 float64 (smaller ones filled up with the identity); empty for LiDAR-only data."""

    matrices: Mapping[str, np.ndarray]

    @classmethod
    def lidar_only(cls) -> "Calibration":
        return cls({})

    @property
    def projects(self) -> bool:
        """Whether there is a camera to project into."""
        return "P2" in self.matrices

    @property
    def lidar_to_camera(self) -> np.ndarray:
        """4x4: homogeneous LiDAR points to the rectified camera."""
        if not self.matrices:
            return EXCHANGE_OF_AXES
        return self.matrices["R0_rect"] @ self.matrices["Tr_velo_to_cam"]

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """LiDAR points (P,3) -> rectified camera points (P,3), metres, float64."""
        return _moved(points, self.lidar_to_camera)

    def to_lidar(self, points: np.ndarray) -> np.ndarray:
        """Rectified camera points (P,3) -> LiDAR points (P,3), metres, float64."""
        return _moved(points, np.linalg.inv(self.lidar_to_camera))

    def project(self, points_camera: np.ndarray) -> np.ndarray:
        """Camera points (P,3) -> pixels (P,2) of image_2. The points lie before the camera."""
        assert self.projects, "LiDAR-only data have no image"
        pixels = np.asarray(points_camera, np.float64) @ self.matrices["P2"][:3, :3].T + self.matrices["P2"][:3, 3]
        return pixels[:, :2] / pixels[:, 2:]

    def as_json(self) -> dict[str, list]:
        return {name: matrix.tolist() for name, matrix in self.matrices.items()}

    @classmethod
    def from_json(cls, matrices: Mapping[str, list]) -> "Calibration":
        return cls({name: np.array(matrix, np.float64) for name, matrix in matrices.items()})


def read_calibration(path: Path) -> Calibration:
    """Read a calib/*.txt file.

    Raises:
        DataError: missing file, a line that is not `NAME: numbers`, wrong count of numbers, or a needed name missing.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing: put KITTI's calib folder there; for data without a camera remove the whole folder "
            f"{path.parent} (LiDAR-only data: no frustum crop, no 2D AP)."
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text ({error}): restore it from KITTI's data_object_calib.zip.") from error
    lines = [line.partition(":") for line in text.splitlines() if line.strip()]
    matrices = {ALIASES.get(name.strip(), name.strip()): values for name, _, values in lines}
    missing = [name for name in NEEDED if name not in matrices]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}: restore it from KITTI's data_object_calib.zip.")
    return Calibration({name: _matrix(path, name, matrices[name]) for name in SHAPES if name in matrices})


def _matrix(path: Path, name: str, text: str) -> np.ndarray:
    shape = SHAPES[name]
    try:
        values = np.array([float(word) for word in text.split()])
    except ValueError as error:
        raise DataError(f"{path}: {name} holds something that is not a number ({error}): restore the file.") from error
    if values.size != shape[0] * shape[1] or not np.isfinite(values).all():
        raise DataError(
            f"{path}: {name} holds {np.isfinite(values).sum()} finite numbers of {values.size}, not the "
            f"{shape[0] * shape[1]} of a {shape[0]}x{shape[1]} matrix: restore the file."
        )
    whole = np.eye(4)
    whole[: shape[0], : shape[1]] = values.reshape(shape)
    return whole


def _moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return np.asarray(points, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]


# --- boxes ------------------------------------------------------------------------------------------------------------


def boxes_to_lidar(location: np.ndarray, dimensions: np.ndarray, rotation_y: np.ndarray, calib: Calibration):
    """Camera columns (N,3), (N,3) = l, h, w, (N,) -> LiDAR boxes (N,7) float64."""
    l, h, w = np.asarray(dimensions, np.float64).reshape(-1, 3).T
    place = calib.to_lidar(np.reshape(location, (-1, 3)))
    return np.concatenate([place, np.stack([w, l, h, np.asarray(rotation_y, np.float64)], 1)], 1)


def boxes_to_camera(boxes: np.ndarray, calib: Calibration) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """LiDAR boxes (N,7) -> location (N,3), dimensions (N,3) = l, h, w, rotation_y (N,), float64."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 7)
    w, l, h = boxes[:, 3:6].T
    return calib.to_camera(boxes[:, :3]), np.stack([l, h, w], 1), boxes[:, 6].copy()


def nominal_boxes(location: np.ndarray, dimensions: np.ndarray, rotation_y: np.ndarray) -> np.ndarray:
    """Camera columns -> boxes (N,7) by the plain exchange of axes: overlaps stay exactly those of the camera frame."""
    return boxes_to_lidar(location, dimensions, rotation_y, Calibration.lidar_only())


def image_boxes(boxes: np.ndarray, calib: Calibration) -> np.ndarray:
    """LiDAR boxes (N,7) -> x1, y1, x2, y2 (N,4) of their outline in image_2, not clipped to it; NaN if all behind.

    Boxes that reach behind the camera are cut at NEAR_M before it, edge by edge.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 7)
    location, dimensions, rotation_y = boxes_to_camera(boxes, calib)
    upright = corners(nominal_boxes(location, dimensions, rotation_y)).reshape(-1, 3)  # upright in the camera's frame
    edges = _moved(upright, EXCHANGE_OF_AXES).reshape(-1, 8, 3)[:, EDGES]  # (N,12,2,3)
    points, seen = _cut_near(edges)
    pixels = calib.project(points.reshape(-1, 3)).reshape(len(boxes), 2 * len(EDGES), 2)
    seen = seen.reshape(len(boxes), 2 * len(EDGES), 1)
    low, high = np.where(seen, pixels, np.inf).min(1), np.where(seen, pixels, -np.inf).max(1)
    outline = np.concatenate([low, high], 1)
    return np.where(np.isfinite(outline), outline, np.nan)


def _cut_near(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges (N,12,2,3) with ends behind the near plane moved onto it, and which ends are to be seen (N,12,2)."""
    depth = edges[..., 2]
    span = depth[..., 1] - depth[..., 0]
    share = np.clip((NEAR_M - depth[..., 0]) / np.where(span == 0, 1.0, span), 0, 1)
    meeting = edges[..., 0, :] + share[..., None] * (edges[..., 1, :] - edges[..., 0, :])
    behind = depth < NEAR_M
    points = np.where(behind[..., None], meeting[..., None, :], edges)
    seen = ~behind.all(-1, keepdims=True) & np.ones_like(behind)
    points[..., 2] = np.maximum(points[..., 2], NEAR_M)
    return points, seen


def clip_to_image(outlines: np.ndarray, image_hw: tuple[int, int]) -> np.ndarray:
    """x1, y1, x2, y2 (N,4) clipped to [0, w] x [0, h]."""
    height, width = image_hw
    return np.clip(outlines, 0, [width, height, width, height])
