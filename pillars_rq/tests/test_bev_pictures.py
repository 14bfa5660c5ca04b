"""Pictures from above: things stand where they are, and both sides of a comparison show their own boxes."""

import numpy as np
import pytest

from pillars_rq.decode import Detections
from pillars_rq.grid_report import SHOWN_SCORE, shown
from pillars_rq.pictures import TRUTH, WITH_RQ, WITHOUT_RQ, BevView, Layer, compare, draw_bev
from pillars_rq.world import WorldSpec
from pillars_rq.world.preview import sheet

VIEW = BevView((0.0, -10.0, 20.0, 10.0), 10.0)
NOTHING = np.zeros((0, 7))
BOX = np.array([[10.0, 4.0, -1, 2, 4, 1.5, 0.0]])


def has(image, colour) -> np.ndarray:
    return (np.asarray(image) == colour).all(-1)


def test_points_lie_where_they_are():
    image = np.asarray(draw_bev(np.array([[5.05, 2.05, 0, 0.3], [50, 0, 0, 0.3], [5, -30, 0, 0.3]]), VIEW))
    lit = np.argwhere(image.max(-1) > 60)
    assert image.shape == (200, 200, 3) and lit.tolist() == [[79, 50]]


def test_a_box_covers_its_place_and_shows_its_heading():
    drawn = np.argwhere(has(draw_bev(np.zeros((0, 4)), VIEW, [Layer(BOX, (255, 0, 0))]), (255, 0, 0)))
    low, high = drawn.min(0), drawn.max(0)
    assert high[1] == pytest.approx(110, abs=2) and low[1] == pytest.approx(90, abs=2)  # w = 2 m along x
    assert low[0] == pytest.approx(40, abs=2)
    assert high[0] == pytest.approx(85, abs=2), "theta 0 heads to -y: half a metre beyond the box"


def test_each_side_shows_its_own_detections():
    points, other = np.zeros((0, 4)), BOX + np.array([0, -8, 0, 0, 0, 0, 0])
    image = compare(points, truth=BOX, without=BOX, with_rq=other, view=VIEW, title="000134", embedded=True)
    half = VIEW.size_px[0]
    without, with_rq = has(image, WITHOUT_RQ), has(image, WITH_RQ)
    assert image.size == (2 * half + 6, 200)
    assert without[:, :half].any() and not without[:, half:].any()
    assert with_rq[:, half:].any() and not with_rq[:, :half].any() and has(image, TRUTH)[:, half:].any()


def test_nothing_to_show_and_no_labels():
    image = compare(np.zeros((0, 4)), truth=None, without=NOTHING, with_rq=NOTHING, view=VIEW)
    assert not has(image, TRUTH).any()


def test_scores_are_written():
    plain, scored = (draw_bev(np.zeros((0, 4)), VIEW, [Layer(BOX, (255, 0, 0), 2, scores)]) for scores in (None, [0.5]))
    assert has(scored, (255, 0, 0)).sum() > has(plain, (255, 0, 0)).sum()


def test_the_sheet_of_the_world():
    image = sheet(WorldSpec(), frames=2)
    assert image.width > 1200 and len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 500


def test_a_report_draws_the_sure_boxes_with_their_own_scores():
    scores = np.array([0.11, 0.9, SHOWN_SCORE, 0.4], np.float32)
    found = shown(Detections(np.arange(28, dtype=np.float32).reshape(4, 7), scores, np.arange(4)))
    assert found.labels.tolist() == [1, 3] and found.boxes[:, 0].tolist() == [7, 21]
    assert found.scores.tolist() == pytest.approx([0.9, 0.4])
