import math

import numpy as np
import pytest
import torch

from pillars_rq.boxes import (
    bev_corners,
    bev_iou,
    bev_overlap_m2,
    corners,
    iou_3d,
    limit_period,
    nearest_axis_bev,
    nearest_axis_iou,
    nms_rotated,
    paired_bev_overlap_m2,
    points_in_boxes,
)


def box(x=0.0, y=0.0, z=0.0, w=2.0, l=4.0, h=1.5, theta=0.0):
    return [x, y, z, w, l, h, theta]


def random_boxes(number: int, seed: int, spread_m: float = 4.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.uniform(-spread_m, spread_m, (number, 3)) * [1, 1, 0.3]
    return np.concatenate([centres, rng.uniform(0.3, 4, (number, 3)), rng.uniform(-7, 7, (number, 1))], 1)


def turn_by(angle: float) -> np.ndarray:
    return np.array([0, 0, 0, 0, 0, 0, angle])


def clipped_area(a: np.ndarray, b: np.ndarray) -> float:
    """Readable twin of the overlap: Sutherland-Hodgman, one polygon at a time."""
    polygon, clip = list(bev_corners(a[None])[0]), bev_corners(b[None])[0]
    for start, end in zip(clip, np.roll(clip, -1, 0), strict=True):
        normal = np.array([end[1] - start[1], start[0] - end[0]])  # to the right: the corners run clockwise
        kept = []
        for p, q in zip(polygon, polygon[1:] + polygon[:1], strict=True):
            dp, dq = (p - start) @ normal, (q - start) @ normal
            kept += [p] if dp >= 0 else []
            kept += [p + (q - p) * dp / (dp - dq)] if (dp >= 0) != (dq >= 0) else []
        polygon = kept
    x, y = np.array(polygon).T if polygon else np.zeros((2, 0))
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


# --- the convention ---


def test_positive_angles_turn_clockwise():
    """The case that a port turning the other way gets reversed: 4 m along x, 0.5 m along y, turned by pi/4."""
    first = box(w=4, l=0.5, theta=math.pi / 4)
    along, beside = box(1, -1, w=4, l=0.5, theta=math.pi / 4), box(1, 1, w=4, l=0.5, theta=math.pi / 4)
    root = math.sqrt(2)
    assert bev_iou([first], [along])[0, 0] == pytest.approx((4 - root) / (4 + root), rel=1e-12)
    assert (4 - root) / (4 + root) == pytest.approx(0.4776, abs=1e-4)
    assert bev_iou([first], [beside])[0, 0] == pytest.approx(0, abs=1e-12)


def test_at_zero_the_width_lies_along_x_and_z_is_the_bottom():
    found = corners([box(10, 5, -1, w=2, l=4, h=1.5)])[0]
    assert (found.min(0) == [9, 3, -1]).all() and (found.max(0) == [11, 7, 0.5]).all()
    assert (found[:4, 2] == -1).all() and (found[4:, 2] == 0.5).all()


def test_a_quarter_turn_clockwise_takes_forward_to_the_right():
    turned = bev_corners([box(w=0, l=2, theta=math.pi / 2)])[0]
    assert turned[1] == pytest.approx([1, 0])  # the end that pointed along +y now points along +x


# --- overlaps ---


def test_overlap_equals_polygon_clipping():
    a, b = random_boxes(300, 0, 2.5), random_boxes(300, 1, 2.5)
    fast, slow = paired_bev_overlap_m2(a, b), [clipped_area(p, q) for p, q in zip(a, b, strict=True)]
    assert np.abs(fast - slow).max() < 1e-12
    assert (fast > 0).mean() > 0.3 and (fast == 0).any()


def test_overlap_laws():
    a, b = random_boxes(40, 2), random_boxes(40, 3)
    iou = bev_iou(a, b)
    np.testing.assert_allclose(iou, bev_iou(b, a).T, atol=1e-12)
    np.testing.assert_allclose(np.diag(bev_iou(a, a)), 1, atol=1e-12)
    np.testing.assert_allclose(np.diag(iou_3d(a, a)), 1, atol=1e-12)
    assert ((iou >= 0) & (iou <= 1 + 1e-12)).all() and ((iou_3d(a, b) >= 0) & (iou_3d(a, b) <= 1 + 1e-12)).all()
    half_turn = b + turn_by(math.pi)
    np.testing.assert_allclose(bev_iou(a, half_turn), iou, atol=1e-12)
    swapped = b[:, [0, 1, 2, 4, 3, 5, 6]] + turn_by(math.pi / 2)
    np.testing.assert_allclose(bev_iou(a, swapped), iou, atol=1e-12)


def test_overlap_does_not_move_with_the_frame():
    a, b = random_boxes(30, 4), random_boxes(30, 5)
    shift = np.array([35.0, -20, 1, 0, 0, 0, 0])
    np.testing.assert_allclose(bev_overlap_m2(a + shift, b + shift), bev_overlap_m2(a, b), atol=1e-11)


@pytest.mark.parametrize("theta", [0.0, 0.3, math.pi / 4, 1.57])
def test_touching_containing_and_coinciding_borders(theta):
    def place(along, **size):  # along the turned length
        return box(along * math.sin(theta), along * math.cos(theta), theta=theta, **size)

    inside = bev_overlap_m2([place(0)], [place(0, w=1, l=1), place(1, w=2, l=2), place(4), place(2), place(9)])[0]
    assert inside == pytest.approx([1, 4, 0, 4, 0], abs=1e-12)


def test_iou_3d_counts_heights_from_the_bottom():
    low, high = box(z=0, h=2), box(z=1, h=2)
    assert iou_3d([low], [high])[0, 0] == pytest.approx(1 / 3)
    assert iou_3d([low], [box(z=2, h=2)])[0, 0] == 0
    assert bev_iou([low], [high])[0, 0] == pytest.approx(1)


def test_no_boxes_and_boxes_without_area():
    none = np.zeros((0, 7))
    assert bev_iou(none, [box()]).shape == (0, 1) and iou_3d([box()], none).shape == (1, 0)
    assert bev_iou([box(w=0, l=0)], [box(w=0, l=0)])[0, 0] == 0
    assert corners(none).shape == (0, 8, 3) and nms_rotated(none, [], 0.1).shape == (0,)
    with pytest.raises(ValueError, match=r"\(N, 7\)"):
        bev_iou(np.zeros((2, 8)), none)


# --- nms and points ---


def test_nms_keeps_the_better_of_two_that_overlap():
    boxes = [box(0), box(0.5), box(10), box(0.2)]
    assert nms_rotated(boxes, [0.5, 0.9, 0.1, 0.9], 0.01).tolist() == [1, 2]  # of equal scores the earlier
    assert sorted(nms_rotated(boxes, [0.5, 0.9, 0.1, 0.9], 0.99)) == [0, 1, 2, 3]


def test_a_box_is_felled_by_survivors_only():
    """A chain a - b - c: b falls to a, so c stays although it overlaps b."""
    chain = [box(0), box(1.5), box(3.0)]
    assert nms_rotated(chain, [0.9, 0.8, 0.7], 0.1).tolist() == [0, 2]


def test_points_lie_in_a_box_up_to_its_corners():
    boxes = random_boxes(5, 7, 3)
    found, centres = corners(boxes), boxes[:, :3] + np.stack([boxes[:, 5] * 0, boxes[:, 5] * 0, boxes[:, 5] / 2], 1)
    inner = centres[:, None] + 0.999 * (found - centres[:, None])
    outer = centres[:, None] + 1.001 * (found - centres[:, None])
    for k in range(5):
        assert points_in_boxes(inner[k], boxes[k : k + 1]).all()
        assert not points_in_boxes(outer[k], boxes[k : k + 1]).any()
    assert points_in_boxes(np.zeros((0, 4)), boxes).shape == (0, 5)


# --- angles and anchors ---


def test_limit_period_lands_in_its_interval():
    angles = np.random.default_rng(0).uniform(-20, 20, 500)
    for offset, low, high in ((0.0, 0, 2 * math.pi), (0.5, -math.pi, math.pi), (1.0, -2 * math.pi, 0)):
        limited = limit_period(angles, offset, 2 * math.pi)
        assert (limited >= low - 1e-9).all() and (limited < high + 1e-9).all()
        np.testing.assert_allclose(np.sin(limited), np.sin(angles), atol=1e-9)
        tensor = limit_period(torch.from_numpy(angles), offset, 2 * math.pi)
        np.testing.assert_allclose(tensor.numpy(), limited, atol=1e-12)


def test_the_nearest_axis_swaps_width_and_length_beyond_an_eighth_turn():
    thetas = torch.tensor([0.0, 0.78, 0.79, 1.57, 2.35, 2.36, math.pi, -0.79])
    boxes = torch.tensor([box(1, 2)] * len(thetas))
    boxes[:, 6] = thetas
    low, high = nearest_axis_bev(boxes).split(2, 1)
    sizes = (high - low).tolist()
    across, along = [2.0, 4.0], [4.0, 2.0]
    assert sizes == [across, across, along, along, along, across, across, along]


def test_nearest_axis_iou_is_the_rotated_one_at_right_angles():
    a, b = random_boxes(20, 8), random_boxes(20, 9)
    a[:, 6], b[:, 6] = 0, math.pi / 2
    found = nearest_axis_iou(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(found.numpy(), bev_iou(a, b), atol=1e-12)


@pytest.mark.real
def test_golden_boxes_meet_the_labels_as_published(real_samples):
    """000134 of KITTI: detections of epoch_160 against label_2, best same-class 3D IoU in label order (another
    clipper: two of its 15 figures differ from ours by 0.0005 to 0.0009)."""
    golden = np.loadtxt(real_samples / "pointpillars/golden_pytorch_origin.txt")
    names, truth = read_labels(real_samples / "kitti/training", "000134")
    expected = {"Car": [0.689, 0, 0], "Cyclist": [0.807, 0.713, 0.387, 0.656, 0.763], "Pedestrian":
                [0.511, 0.493, 0.125, 0.472, 0.635, 0.482, 0.577]}  # fmt: skip
    for label, name in enumerate(("Pedestrian", "Cyclist", "Car")):
        best = iou_3d(truth[names == name], golden[golden[:, 8] == label, :7]).max(1)
        assert best == pytest.approx(expected[name], abs=1e-3)


def read_labels(folder, frame: str) -> tuple[np.ndarray, np.ndarray]:
    """Names and LiDAR boxes of a frame, written out here so that the test leans on nothing else."""
    calib = dict(line.split(":") for line in (folder / f"calib/{frame}.txt").read_text().splitlines() if line)
    rectify, velo = np.eye(4), np.eye(4)
    rectify[:3, :3] = np.array(calib["R0_rect"].split(), float).reshape(3, 3)
    velo[:3] = np.array(calib["Tr_velo_to_cam"].split(), float).reshape(3, 4)
    rows = [line.split() for line in (folder / f"label_2/{frame}.txt").read_text().splitlines()]
    numbers = np.array([row[1:] for row in rows if row[0] != "DontCare"], float)
    names = np.array([row[0] for row in rows if row[0] != "DontCare"])
    height, width, length = numbers[:, 7:10].T
    location = np.c_[numbers[:, 10:13], np.ones(len(numbers))] @ np.linalg.inv(rectify @ velo).T
    return names, np.c_[location[:, :3], width, length, height, numbers[:, 13]]
