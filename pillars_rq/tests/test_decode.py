import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pillars_rq.anchors import KITTI_CLASSES, encode_boxes, make_anchors
from pillars_rq.boxes import nms_rotated
from pillars_rq.decode import KITTI_LIMIT_M, Decoding, Detections, detect, within
from pillars_rq.golden_check import compare
from pillars_rq.grid import Grid
from pillars_rq.network import Predictions
from pillars_rq.targets import direction_of

GRID = Grid((0.0, -5.12, -3.0, 10.24, 5.12, 1.0), (0.32, 0.32, 4.0))
ANCHORS = make_anchors(GRID, KITTI_CLASSES)
CAR = [5.0, 0.5, -1.7, 1.7, 4.1, 1.5, -2.3]


def predict(planted: list[tuple[int, int, float, list[float]]], frames: int = 1) -> Predictions:
    """planted in frame 0: anchor (flat index), class, score, box."""
    flat = ANCHORS.reshape(-1, 7)
    logits, deltas = torch.full((frames, len(flat), 3), -8.0), torch.zeros(frames, len(flat), 7)
    directions = torch.zeros(frames, len(flat), 2)
    for anchor, label, score, box in planted:
        logits[0, anchor, label] = math.log(score / (1 - score))
        deltas[0, anchor] = encode_boxes(torch.tensor([box]), flat[anchor : anchor + 1])[0]
        directions[0, anchor, direction_of(torch.tensor(box[6]))] = 5.0
    return Predictions(*(part.view(frames, 16, 16, -1).permute(0, 3, 1, 2) for part in (logits, deltas, directions)))


def moved(box: list[float], x: float = 0, y: float = 0, z: float = 0) -> list[float]:
    return [box[0] + x, box[1] + y, box[2] + z, *box[3:]]


def test_a_planted_box_comes_back():
    for theta in (-2.3, -0.1, 0.0, 1.2, 3.1):
        (found,) = detect(predict([(400, 2, 0.8, [*CAR[:6], theta])]), ANCHORS)
        assert found.labels.tolist() == [2] and found.scores[0] == pytest.approx(0.8, abs=1e-5)
        np.testing.assert_allclose(found.boxes[0], [*CAR[:6], theta], atol=1e-4)


def test_frames_without_detections_have_empty_arrays():
    found = detect(predict([(400, 2, 0.8, CAR)], frames=3), ANCHORS)
    assert [len(one) for one in found] == [1, 0, 0]
    assert found[1].boxes.shape == (0, 7) and found[1].scores.shape == (0,) and found[1].labels.dtype == np.int64


def test_scores_up_to_the_threshold_are_dropped():
    (found,) = detect(predict([(400, 2, 0.09, CAR), (10, 0, 0.11, moved(CAR, y=4))]), ANCHORS)
    assert found.labels.tolist() == [0]


def test_overlapping_boxes_fall_within_a_class_only():
    planted = [
        (400, 2, 0.6, CAR),
        (401, 2, 0.9, moved(CAR, x=0.5)),
        (402, 0, 0.5, CAR),
        (403, 2, 0.3, moved(CAR, y=-4.8)),
    ]
    (found,) = detect(predict(planted), ANCHORS)
    assert found.scores == pytest.approx([0.9, 0.5, 0.3], abs=1e-5)  # best first
    assert found.labels.tolist() == [2, 0, 2]


def test_one_anchor_may_answer_for_two_classes():
    prediction = predict([(400, 2, 0.8, CAR)])
    cell, anchor = divmod(400, 6)
    prediction.cls[0, anchor * 3 + 0, cell // 16, cell % 16] = 2.0
    (found,) = detect(prediction, ANCHORS)
    assert sorted(found.labels.tolist()) == [0, 2]


def test_the_cap_and_the_number_of_anchors():
    small = [0, 0, -0.6, 0.2, 0.2, 1.0, 0.0]
    planted = [
        (k * 6, k % 3, 0.2 + 0.005 * k, moved(small, 0.5 + k % 16 * 0.6, -4.5 + k // 16 * 0.8)) for k in range(150)
    ]
    prediction = predict(planted)
    (found,) = detect(prediction, ANCHORS)
    assert len(found) == 50 and found.scores.min() == pytest.approx(0.2 + 0.005 * 100, abs=1e-4)
    (wide,) = detect(prediction, ANCHORS, Decoding(max_boxes=500))
    assert len(wide) == 100  # the best anchors alone are looked at
    (all_,) = detect(prediction, ANCHORS, Decoding(max_boxes=500, best_anchors=10_000))
    assert len(all_) == 150


def test_boxes_outside_the_limits_are_dropped_at_last():
    planted = [(400, 2, 0.8, moved(CAR, x=-5.1)), (500, 2, 0.7, moved(CAR, y=4, z=1.8)), (600, 2, 0.6, CAR)]
    (found,) = detect(predict(planted), ANCHORS)
    assert found.scores == pytest.approx([0.6], abs=1e-5)
    (kept,) = detect(predict(planted), ANCHORS, replace(Decoding(), limit_m=None))
    assert len(kept) == 3
    on_the_edge = np.array(
        [[0, 0, -1, 1, 1, 1, 0], [1, 0, 0, 1, 1, 1, 0], [1, 0, -3, 1, 1, 1, 0], [70, 39, -0.1, 1, 1, 1, 0]]
    )
    assert within(on_the_edge, KITTI_LIMIT_M).tolist() == [False, False, False, True]


@pytest.mark.real
def test_golden_detections_survive_our_nms_and_limits(real_samples):
    """They left the published decoder, so nothing of them may fall to ours."""
    golden = np.loadtxt(real_samples / "pointpillars/golden_pytorch_origin.txt")
    assert within(golden[:, :7], KITTI_LIMIT_M).all()
    for label in range(3):
        rows = golden[golden[:, 8] == label]
        assert len(nms_rotated(rows[:, :7], rows[:, 7], Decoding().nms_iou)) == len(rows)
    assert np.bincount(golden[:, 8].astype(int)).tolist() == [9, 7, 2]


@pytest.mark.real
def test_the_golden_comparison_sees_a_moved_a_turned_and_a_missing_box(real_samples):
    golden = np.loadtxt(real_samples / "pointpillars/golden_pytorch_origin.txt")
    labels = golden[:, 8].astype(int)
    half_turn = golden[:, :7] + [0, 0, 0, 0, 0, 0, math.pi]
    same = compare(Detections(half_turn, golden[:, 7], labels), golden)
    assert all(iou > 0.999 and yaw < 1e-6 for iou, yaw in same)
    wrong = golden.copy()
    wrong[0, 0] += 0.3
    wrong[1, 6] += 0.2
    found = compare(Detections(wrong[:, :7], golden[:, 7], np.where(labels == 2, 1, labels)), golden)
    assert found[0][0] < 0.8 and found[1][1] == pytest.approx(0.2) and found[-1][0] == 0
