"""Augmentation: what each step leaves as it was, and that boxes go where their points go."""

import math

import numpy as np
import pytest

from pillars_rq.boxes import bev_overlap_m2, points_in_boxes
from pillars_rq.kitti.augmentation import (
    AugmentationSettings,
    Sample,
    augment,
    collide,
    flip_y,
    keep_in_range,
    paste_objects,
    shake_objects,
    turn_and_scale,
)
from pillars_rq.kitti.database import Pasted

RANGE_M = (0.0, -39.68, -3.0, 69.12, 39.68, 1.0)
SETTINGS = AugmentationSettings(RANGE_M)


def boxes(rng, n: int) -> np.ndarray:
    """Boxes apart from each other, of any turn."""
    places = np.stack([10 + 8.0 * np.arange(n), rng.uniform(-3, 3, n), np.full(n, -1.7)], 1)
    return np.concatenate([places, rng.uniform(0.6, 3.0, (n, 3)), rng.uniform(-3, 3, (n, 1))], 1)


def sample(seed: int = 0, n: int = 4, scattered: int = 400) -> Sample:
    """Points in the boxes (200 each, marked by reflectance 0.1, 0.2, ..) and anywhere else (0)."""
    rng = np.random.default_rng(seed)
    found = boxes(rng, n)
    clouds = [rng.uniform((0, -20, -2, 0), (60, 20, 0.9, 0), (scattered, 4))]
    clouds[0] = clouds[0][~points_in_boxes(clouds[0], found).any(1)]
    for i, (x, y, z, w, l, h, theta) in enumerate(found):
        across, along, up = rng.uniform(-0.49, 0.49, (3, 200)) * np.array([[w], [l], [h]])
        clouds.append(
            np.stack([x + across * math.cos(theta) + along * math.sin(theta),
                      y - across * math.sin(theta) + along * math.cos(theta),
                      z + h / 2 + up, np.full(200, 0.1 * (i + 1))], 1)
        )  # fmt: skip
    labels = np.arange(n) % 3
    return Sample(np.concatenate(clouds).astype(np.float32), found, labels, np.array(["x"] * n))


def inside(found: Sample) -> np.ndarray:
    """(N,N) points marked as of object j that lie in box i."""
    marks = np.round(found.points[:, 3] * 10).astype(int)
    hits = points_in_boxes(found.points, found.boxes)
    return np.array([[(hits[:, i] & (marks == j + 1)).sum() for j in range(len(found.boxes))]
                     for i in range(len(found.boxes))])  # fmt: skip


@pytest.mark.parametrize(
    "step",
    [
        flip_y,
        lambda s: turn_and_scale(s, 0.7, 1.04),
        lambda s: turn_and_scale(s, -0.7, 0.96),
        lambda s: shake_objects(s, SETTINGS, np.random.default_rng(3)),
    ],
)
def test_points_move_with_their_boxes(step):
    before = sample()
    copy = before.points.copy(), before.boxes.copy()
    after = step(before)
    assert np.array_equal(inside(after), np.eye(4) * 200)
    assert not np.allclose(after.boxes[:, :2], before.boxes[:, :2])
    assert np.array_equal(before.points, copy[0]) and np.array_equal(before.boxes, copy[1])


def test_flip_and_turn_have_their_inverse():
    before = sample()
    np.testing.assert_allclose(flip_y(flip_y(before)).boxes, before.boxes, atol=1e-12)
    back = turn_and_scale(turn_and_scale(before, 0.5, 1.0), -0.5, 1.0)
    np.testing.assert_allclose(back.boxes, before.boxes, atol=1e-12)
    np.testing.assert_allclose(back.points, before.points, atol=1e-5)


def test_a_turn_is_clockwise_like_theta():
    one = Sample(
        np.array([[10, 0, 0, 0]], np.float32), np.array([[10, 0, 0, 1, 2, 1, 0.0]]), np.array([0]), np.array(["x"])
    )
    turned = turn_and_scale(one, math.pi / 2, 1.0)
    np.testing.assert_allclose(turned.points[0, :2], [0, -10], atol=1e-5)
    assert turned.boxes[0, 6] == pytest.approx(math.pi / 2)


def test_shaken_boxes_do_not_collide_and_points_outside_stay():
    before = sample(n=4)
    after = shake_objects(before, SETTINGS, np.random.default_rng(0))
    overlap = bev_overlap_m2(after.boxes, after.boxes)
    assert (overlap[~np.eye(4, dtype=bool)] == 0).all()
    loose = before.points[:, 3] == 0
    assert np.array_equal(after.points[loose], before.points[loose])
    assert (np.abs(after.boxes[:, 6] - before.boxes[:, 6]) <= SETTINGS.noise_turn_rad).all()


def test_a_box_without_room_stays():
    """Walled in on all sides, closer than any try can move."""
    wall = [[0, 0, 0, 1.0, 1.0, 1, 0]]
    wall += [
        [x, y, 0, w, l, 1, 0]
        for x, y, w, l in ((1.001, 0, 1, 9), (-1.001, 0, 1, 9), (0, 1.001, 1, 1), (0, -1.001, 1, 1))
    ]
    cornered = Sample(np.zeros((1, 4), np.float32), np.array(wall), np.zeros(5, int), np.array(["x"] * 5))
    still = AugmentationSettings(RANGE_M, noise_turn_rad=0.15, noise_tries=30)
    after = shake_objects(cornered, still, np.random.default_rng(0))
    assert np.array_equal(after.boxes[0], cornered.boxes[0])


def test_collision_is_overlap():
    rng = np.random.default_rng(0)
    a, b = (np.concatenate([rng.uniform(-4, 4, (40, 3)), rng.uniform(0.5, 4, (40, 3)), rng.uniform(-4, 4, (40, 1))], 1)
            for _ in range(2))  # fmt: skip
    found = collide(a, b)
    assert np.array_equal(found, bev_overlap_m2(a, b) > 1e-5) and 0.05 < found.mean() < 0.95
    assert collide(a[:3], b[:0]).shape == (3, 0)


class FakeDatabase:
    """Offers boxes at given places, one point in the middle of each."""

    classes = ("Pedestrian", "Cyclist", "Car")

    def __init__(self, boxes: np.ndarray):
        self.boxes = boxes

    def draw(self, name: str, count: int, rng) -> Pasted:
        chosen = self.boxes[:count] if name == "Car" else self.boxes[:0]
        clouds = [np.array([[*box[:2], box[2] + box[5] / 2, 0.9]], np.float32) for box in chosen]
        return Pasted(chosen, np.full(len(chosen), 2), clouds)


def test_pasting_fills_up_avoids_collisions_and_clears_the_scene():
    before = sample()
    free = [[30.0, 12, -1.7, 2, 4, 1.6, 0.3], [30.5, 12, -1.7, 2, 4, 1.6, 0], [*before.boxes[0, :3], 2, 4, 1.6, 0]]
    settings = AugmentationSettings(RANGE_M, paste_up_to={"Car": 4})  # one is there: three are drawn
    after = paste_objects(before, settings, FakeDatabase(np.array(free)), np.random.default_rng(0))
    assert len(after.boxes) == 5, "the second collides with the first, the third with an object of the scene"
    assert after.labels[-1] == 2 and after.names[-1] == "Car"
    new = points_in_boxes(after.points, after.boxes[-1:])[:, 0]
    assert after.points[new, 3].tolist() == pytest.approx([0.9])
    assert points_in_boxes(before.points, after.boxes[-1:]).any(), "the scene had points there"


def test_a_full_frame_gets_nothing():
    settings = AugmentationSettings(RANGE_M, paste_up_to={"Car": 1})
    after = paste_objects(sample(), settings, FakeDatabase(np.array([[30.0, 12, -1.7, 2, 4, 1.6, 0]])), None)
    assert len(after.boxes) == 4


def test_range_is_strict_for_points_and_by_the_centre_for_boxes():
    points = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [1, 39.68, 0, 0], [1, 0, 1, 0]], np.float32)
    found = np.array([[1.0, 39.6, -9, 1, 1, 1, 7.0], [1, 39.7, 0, 1, 1, 1, 0]])
    kept = keep_in_range(Sample(points, found, np.array([0, 1]), np.array(["x", "y"])), RANGE_M)
    assert kept.points[:, :2].tolist() == [[1, 0]] and kept.labels.tolist() == [0] and kept.names.tolist() == ["x"]
    assert kept.boxes[0, 6] == pytest.approx(7 - 2 * math.pi)


def test_all_steps_keep_points_in_their_boxes_and_shuffle():
    before = sample(n=3)
    after = augment(before, SETTINGS, None, np.random.default_rng(1))
    counted = inside(after)
    assert (counted[~np.eye(len(counted), dtype=bool)] == 0).all() and np.trace(counted) > 300
    order = np.round(after.points[:, 3] * 10)
    assert (np.diff(order) < 0).sum() > 20


@pytest.mark.parametrize("n, scattered", [(0, 50), (0, 0), (2, 0)])
def test_frames_without_objects_or_points(n, scattered):
    empty = sample(n=n, scattered=scattered) if n or scattered else Sample(
        np.zeros((0, 4), np.float32), np.zeros((0, 7)), np.zeros(0, int), np.zeros(0, str))  # fmt: skip
    after = augment(empty, SETTINGS, None, np.random.default_rng(0))
    assert after.boxes.shape[1] == 7 and after.points.shape[1] == 4
