"""Turned rectangles seen from above: hand values, laws, and a sampled oracle."""

import numpy as np
import pytest

from shared import rectangles
from shared.rectangles import corners, iou, iou_3d, nms, overlap_m2, points_nearby

SQUARE = np.array([[0.0, 0, 2, 2, 0]])


def drawn(count, seed):
    rng = np.random.default_rng(seed)
    place, size = rng.uniform(-3, 3, (count, 2)), rng.uniform(0.5, 4, (count, 2))
    return np.concatenate([place, size, rng.uniform(-7, 7, (count, 1))], 1)


def test_heading_turns_counter_clockwise_from_x():
    left = corners(np.array([[1.0, 2, 4, 2, np.pi / 2]]))[0]
    np.testing.assert_allclose(left, [[0, 4], [0, 0], [2, 0], [2, 4]], atol=1e-12)  # its front now looks along +y


def test_an_octagon():
    turned = np.array([[0.0, 0, 2, 2, np.pi / 4]])
    octagon = 8 * (np.sqrt(2) - 1)
    np.testing.assert_allclose(overlap_m2(SQUARE, turned), octagon)
    np.testing.assert_allclose(iou(SQUARE, turned), octagon / (8 - octagon))


def test_touching_and_distant_rectangles_do_not_overlap_and_an_inner_one_is_its_own_overlap():
    others = np.array([[2.0, 0, 2, 2, 0], [9, 9, 2, 2, 1], [0.1, 0.2, 0.5, 0.5, 0.3], [0, 0, 0, 0, 0]])
    np.testing.assert_allclose(overlap_m2(SQUARE, others)[0], [0, 0, 0.25, 0], atol=1e-12)


def test_overlap_agrees_with_sampled_points():
    a, b = drawn(12, 0), drawn(12, 1)
    grid = np.stack(np.meshgrid(*[np.arange(-6, 6, 0.02) + 0.01] * 2), -1).reshape(-1, 2)
    sampled = contains(a, grid).T.astype(float) @ contains(b, grid) * 0.02**2
    np.testing.assert_allclose(overlap_m2(a, b), sampled, atol=0.08)


def contains(boxes, points):
    """(P,N) bool, without any function that is tested here but the corners: left of every side."""
    start = corners(boxes)
    side = np.roll(start, -1, axis=1) - start
    offset = points[:, None, None] - start
    return (side[..., 0] * offset[..., 1] - side[..., 1] * offset[..., 0] >= 0).all(2)


def test_iou_is_symmetric_one_with_itself_and_does_not_change_when_all_is_moved():
    a, b = drawn(20, 2), drawn(15, 3)
    np.testing.assert_allclose(iou(a, b), iou(b, a).T, atol=1e-9)
    np.testing.assert_allclose(np.diag(iou(a, a)), 1)
    angle = 0.7
    moved = [np.concatenate([rectangles.turned(r[:, None, :2], np.full(len(r), angle))[:, 0] + [40, -3],
                             r[:, 2:4], r[:, 4:] + angle], 1) for r in (a, b)]  # fmt: skip
    np.testing.assert_allclose(iou(*moved), iou(a, b), atol=1e-9)


def test_volumes():
    half_up = iou_3d(SQUARE, np.array([[0.0, 2]]), SQUARE, np.array([[1.0, 3], [2, 4], [0, 2]])[:1])
    np.testing.assert_allclose(half_up, 1 / 3)
    assert iou_3d(SQUARE, np.array([[0.0, 2]]), SQUARE, np.array([[2.0, 4]])) == 0


def test_points_find_their_place_in_the_rectangle():
    p, n, place = points_nearby(np.array([[1.0, 3.5], [50, 50]]), np.array([[1.0, 2, 4, 2, np.pi / 2]]))
    assert p.tolist() == [0] and n.tolist() == [0]
    np.testing.assert_allclose(place, [[1.5, 0]], atol=1e-12)


def test_nms_keeps_the_best_of_a_heap_and_prefers_the_earlier_of_equals():
    heap = np.array([[0.0, 0, 2, 2, 0], [0.1, 0, 2, 2, 0], [5, 5, 2, 2, 0], [5, 5, 2, 2, 1.5], [0, 9, 1, 1, 0]])
    scores = [0.5, 0.9, 0.7, 0.7, 0.1]
    assert nms(heap, scores, 0.5).tolist() == [1, 2, 4]
    assert nms(heap, scores, 1.0).tolist() == [1, 2, 3, 0, 4]  # nothing overlaps by more than all
    assert nms(heap, scores, 0.5, pre=3).tolist() == [1, 2] and nms(heap, scores, 0.5, post=1).tolist() == [1]


@pytest.mark.parametrize("count", [0, 1])
def test_none_and_one(count):
    a = drawn(count, 4)
    assert iou(a, a).shape == (count, count) and nms(a, np.ones(count), 0.5).tolist() == list(range(count))
