"""Boxes: the convention, points inside, rotated overlaps against an independent clipper, NMS, KITTI's numbers."""

import json
import math

import numpy as np
import pytest
from custom_root_samples import REAL_INSIDE

from voxel_mae import boxes as bx

CAR = np.array([[10.0, 5.0, 1.0, 4.0, 2.0, 1.5, 0.3]])


def random_boxes(rng, count, spread=4.0):
    centre = rng.uniform(-spread, spread, (count, 3))
    return np.concatenate([centre, rng.uniform(0.5, 6, (count, 3)), rng.uniform(-7, 7, (count, 1))], 1)


# --- convention -------------------------------------------------------------------------------------------------------


def test_heading_turns_counter_clockwise_and_dx_lies_along_it():
    quarter = np.array([[0, 0, 0, 4, 2, 1, math.pi / 4]])
    front = bx.bev_corners(quarter)[0][[0, 3]].mean(0)  # middle of the front side
    np.testing.assert_allclose(front, [2 * math.sqrt(0.5)] * 2)
    assert bx.points_in_boxes([[1.3, 1.3, 0.0]], quarter)[0, 0]
    assert not bx.points_in_boxes([[1.3, -1.3, 0.0]], quarter)[0, 0]


def test_z_is_the_centre():
    heights = bx.corners(CAR)[0, :, 2]
    assert heights.min() == pytest.approx(0.25) and heights.max() == pytest.approx(1.75)
    inside = bx.points_in_boxes([[10, 5, 0.3], [10, 5, 1.7], [10, 5, 0.2]], CAR)[:, 0]
    assert inside.tolist() == [True, True, False]


def test_points_on_a_face_are_outside():
    box = np.array([[0, 0, 0, 4, 2, 2, 0.0]])
    faces = [[2, 0, 0], [0, 1, 0], [0, 0, 1], [-2, 0, 0]]
    assert not bx.points_in_boxes(faces, box).any()
    assert bx.points_in_boxes(0.999 * np.array(faces), box).all()


def test_points_turn_with_their_box():
    rng = np.random.default_rng(0)
    points, box = rng.uniform(-4, 4, (500, 3)), np.array([[0.5, -1, 0.2, 5, 2, 2, 0.4]])
    turn = 1.1
    matrix = np.array([[math.cos(turn), -math.sin(turn), 0], [math.sin(turn), math.cos(turn), 0], [0, 0, 1]])
    moved = box.copy()
    moved[:, :3] = box[:, :3] @ matrix.T
    moved[:, 6] += turn
    before = bx.points_in_boxes(points, box)
    assert 10 < before.sum() < 490
    np.testing.assert_array_equal(before, bx.points_in_boxes(points @ matrix.T, moved))


def test_limit_heading():
    angles = np.array([-math.pi, math.pi, 3 * math.pi, 0.2 - 4 * math.pi])
    np.testing.assert_allclose(bx.limit_heading(angles), [-math.pi, -math.pi, -math.pi, 0.2])


def test_shapes_are_checked_and_empty_is_fine():
    with pytest.raises(ValueError, match=r"\(N, 7\)"):
        bx.bev_corners(np.zeros((2, 8)))
    none = np.zeros((0, 7))
    assert bx.points_in_boxes(np.zeros((5, 3)), none).shape == (5, 0)
    assert bx.points_in_boxes(np.zeros((0, 4)), CAR).shape == (0, 1)
    assert bx.iou_3d(none, CAR).shape == (0, 1)
    assert bx.nms_rotated(none, [], 0.2).tolist() == []


# --- overlaps ---------------------------------------------------------------------------------------------------------


def clipped_area(a, b):
    """Oracle: a's outline cut by each side of b in turn (Sutherland-Hodgman), one pair at a time."""
    polygon, fence = [tuple(p) for p in bx.bev_corners(a[None])[0]], bx.bev_corners(b[None])[0]
    for start, end in zip(fence, np.roll(fence, -1, 0), strict=True):
        side = end - start
        depth = [side[0] * (q[1] - start[1]) - side[1] * (q[0] - start[0]) for q in polygon]
        cut = []
        for k, q in enumerate(polygon):
            before, here = depth[k - 1], depth[k]
            if (before >= 0) != (here >= 0):
                share = before / (before - here)
                cut.append(tuple(np.array(polygon[k - 1]) + share * (np.array(q) - polygon[k - 1])))
            if here >= 0:
                cut.append(q)
        polygon = cut
        if not polygon:
            return 0.0
    x, y = np.array(polygon).T
    return abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def test_overlap_equals_a_polygon_clipper():
    rng = np.random.default_rng(1)
    a, b = random_boxes(rng, 20), random_boxes(rng, 20)
    expected = np.array([[clipped_area(p, q) for q in b] for p in a])
    assert (expected > 0).mean() > 0.2
    np.testing.assert_allclose(bx.bev_overlap_m2(a, b), expected, atol=1e-9)


@pytest.mark.parametrize("iou", [bx.bev_iou, bx.iou_3d])
def test_iou_laws(iou):
    rng = np.random.default_rng(2)
    a, b = random_boxes(rng, 12), random_boxes(rng, 9)
    np.testing.assert_allclose(np.diag(iou(a, a)), 1, atol=1e-9)
    np.testing.assert_allclose(iou(a, b), iou(b, a).T, atol=1e-9)
    turned = b.copy()
    turned[:, 6] += math.pi  # half a turn is the same rectangle
    np.testing.assert_allclose(iou(a, b), iou(a, turned), atol=1e-9)
    assert (iou(a, b) <= 1).all() and (iou(a, b) >= 0).all()


def test_iou_by_hand():
    a = np.array([[0, 0, 0, 4, 2, 2, 0.0]])
    b = np.array([[2, 0, 1, 4, 2, 2, 0.0]])  # half of it along x, half along z
    assert bx.bev_iou(a, b)[0, 0] == pytest.approx(4 / 12)
    assert bx.iou_3d(a, b)[0, 0] == pytest.approx(4 / 28)
    assert bx.iou_3d(a, b + np.array([0, 0, 5, 0, 0, 0, 0]))[0, 0] == 0


# --- NMS --------------------------------------------------------------------------------------------------------------


def test_nms_equals_the_table_of_all_pairs():
    rng = np.random.default_rng(3)
    boxes, scores = random_boxes(rng, 60, spread=8), rng.random(60)
    overlapping, alive = bx.bev_iou(boxes, boxes) > 0.2, np.ones(60, bool)
    kept = []
    for k in np.argsort(-scores):
        if alive[k]:
            kept.append(k)
            alive &= ~overlapping[k]
    assert bx.nms_rotated(boxes, scores, 0.2).tolist() == kept
    assert 5 < len(kept) < 55
    assert bx.nms_rotated(boxes, scores, 0.2, post=3).tolist() == kept[:3]
    assert set(bx.nms_rotated(boxes, scores, 0.2, pre=10)) <= set(np.argsort(-scores)[:10])


def test_nms_looks_at_the_turned_boxes():
    crossing = np.array([[0, 0, 0, 10, 1, 1, 0.0], [0, 0, 0, 10, 1, 1, math.pi / 2], [0.2, 0, 0, 10, 1, 1, 0.0]])
    assert bx.nms_rotated(crossing, [0.9, 0.8, 0.7], 0.2).tolist() == [0, 1]
    assert bx.nms_rotated(crossing, [0.5, 0.5, 0.5], 0.2).tolist() == [0, 1]  # of equal scores the first


# --- KITTI ------------------------------------------------------------------------------------------------------------


def test_kitti_convention_round_trips():
    boxes = random_boxes(np.random.default_rng(4), 20)
    boxes[:, 6] = bx.limit_heading(boxes[:, 6])
    np.testing.assert_allclose(bx.from_kitti_camera(bx.to_kitti_camera(boxes)), boxes, atol=1e-9)


def test_kitti_row_by_hand():
    row = bx.to_kitti_camera([[10, 5, 1, 4, 2, 1.5, 0.0]])[0]
    np.testing.assert_allclose(row, [1.5, 2, 4, -5, -0.25, 10, -math.pi / 2], atol=1e-9)


def read_calibration(path):
    rows = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
    rectify, velo = np.eye(4), np.eye(4)
    rectify[:3, :3] = np.array(rows["R0_rect"].split(), float).reshape(3, 3)
    velo[:3] = np.array(rows["Tr_velo_to_cam"].split(), float).reshape(3, 4)
    return rectify @ velo


CAMERA_COUNTS = {  # the same by the camera's boxes
    "000000": [376],
    "000001": [70, 9, 18],
    "000003": [680],
    "000005": [70],
    "000008": [1424, 1940, 878, 668, 53, 164],
    "000134": [523, 160, 80, 91, 36, 31, 43, 48, 46, 154, 54, 91, 64, 11, 3],
}


@pytest.mark.real
@pytest.mark.parametrize("frame", REAL_INSIDE)
def test_points_in_real_boxes(real_samples, frame):
    root = real_samples / "kitti" / "training"
    points = np.fromfile(root / "velodyne_reduced" / f"{frame}.bin", np.float32).reshape(-1, 4)
    labels = [line.split() for line in (root / "label_2" / f"{frame}.txt").read_text().splitlines()]
    rows = np.array([[float(word) for word in words[8:15]] for words in labels if words[0] != "DontCare"])
    to_camera = read_calibration(root / "calib" / f"{frame}.txt")
    in_lidar = bx.points_in_boxes(points, bx.from_kitti_camera(rows, np.linalg.inv(to_camera))).sum(0)
    assert in_lidar.tolist() == REAL_INSIDE[frame]
    camera = points[:, :3] @ to_camera[:3, :3].T + to_camera[:3, 3]
    upright = np.stack([camera[:, 2], -camera[:, 0], -camera[:, 1]], 1)  # camera axes, no tilt left
    assert bx.points_in_boxes(upright, bx.from_kitti_camera(rows)).sum(0).tolist() == CAMERA_COUNTS[frame]


@pytest.mark.real
def test_points_in_real_nuscenes_boxes(real_samples):
    """The sample states each box's points, counted in boxes that are tilted with the car: 8 of 69 differ, by few."""
    folder = real_samples / "nuscenes" / "samples" / "LIDAR_TOP"
    frame = json.loads(next(folder.glob("*.json")).read_text())["instances"]
    points = np.fromfile(next(folder.glob("*.bin")), np.float32).reshape(-1, 5)
    found = bx.points_in_boxes(points, np.array([each["box"] for each in frame])).sum(0)
    stated = np.array([each["num_lidar_pts"] for each in frame])
    vehicle = next(k for k, each in enumerate(frame) if each["name"] == "construction_vehicle")
    assert found[vehicle] == 4
    assert (found == stated).mean() > 0.85 and abs(found.sum() - stated.sum()) < 0.02 * stated.sum()
