"""Pictures from above and the page that turns: what is drawn where, and nothing that leaves the page."""

import base64
import json
import re

import numpy as np
import pytest

from voxel_mae.pictures import (
    CLASS_COLOURS,
    OccupancyView,
    View,
    _blocks,
    _highest,
    _mean,
    detections_figure,
    frames_figure,
    occupancy_figure,
    outcome,
    similarity_figure,
    summary_figure,
)
from voxel_mae.viewer import MOST_POINTS, viewer_html, write_viewer

RNG = np.random.default_rng(0)
POINTS = RNG.normal(0, 5, (200, 4)).astype(np.float32)
BOX = np.array([[4.0, 2.0, 0.0, 6.0, 2.0, 2.0, 0.3]])


def view(**changes):
    given = {"title": "site_1", "points": POINTS, "boxes": BOX, "names": ["grader"], "found": BOX + 0.2,
             "found_names": ["roller"], "scores": [0.8]}  # fmt: skip
    return View(**given | changes)


def test_cells_of_a_raster_go_by_the_middle_and_x_points_up():
    cells, extent = _blocks(np.array([[0.8, 0.8], [2.4, 0.8], [0.8, -0.8]]), 1.6)
    assert cells.tolist() == [[0, 0], [1, 0], [0, 1]]  # row: x; column: -y
    np.testing.assert_allclose(extent, (-1.6, 1.6, 0.0, 3.2), atol=1e-9)  # left, right, bottom, top


def test_a_column_of_sites_shows_its_largest_and_its_mean_and_empty_places_stay_empty():
    cells, values = np.array([[0, 0], [0, 0], [1, 1]]), np.array([0.2, 0.8, 0.5])
    np.testing.assert_array_equal(_highest(cells, values), [[0.8, np.nan], [np.nan, 0.5]])
    np.testing.assert_array_equal(_mean(cells, values), [[0.5, np.nan], [np.nan, 0.5]])


def test_the_four_outcomes():
    answered, true = np.array([False, True, False, True]), np.array([False, True, True, False])
    assert outcome(answered, true).tolist() == [0, 1, 2, 3]


def test_boxes_are_drawn_where_they_stand():
    panel = frames_figure([("a", POINTS, BOX, ["grader"])]).axes[0]
    outline = panel.collections[1].get_paths()[0].vertices[:4]
    np.testing.assert_allclose(outline.mean(0), [-2.0, 4.0], atol=1e-6)  # page: -y, x
    stroke = panel.collections[2].get_segments()[0]
    np.testing.assert_allclose(stroke[1] - stroke[0], [-3 * np.sin(0.3), 3 * np.cos(0.3)], atol=1e-6)


def test_detections_carry_class_and_score_and_the_mark_stands_above():
    figure = detections_figure([view(), view(found=np.zeros((0, 7)), found_names=[], scores=[])], mark="no real data")
    (score,) = figure.axes[0].texts
    assert (score.get_text(), score.get_color()) == ("0.80", CLASS_COLOURS["roller"]) and not figure.axes[1].texts
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["grader", "roller", "label", "detection, with score"]
    assert figure._suptitle.get_text() == "no real data"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_legend_lies_within_the_page(count):
    names = list(CLASS_COLOURS)
    one = view(found=np.repeat(BOX, 4, 0), found_names=names, scores=[0.5] * 4)
    figure = detections_figure([one] * count)
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 >= 0 and legend.x1 <= figure.bbox.x1


def test_empty_clouds_and_levels_can_be_drawn(tmp_path):
    empty = np.zeros((0, 2))
    nothing = OccupancyView("none", empty, empty, empty, np.zeros(0), np.zeros(0, bool), 1.6)
    occupancy_figure(nothing).savefig(tmp_path / "a.png")
    similarity_figure({"conv1": (empty, np.zeros(0))}, {"conv1": 0.2}).savefig(tmp_path / "b.png")
    detections_figure([View("none", np.zeros((0, 3), np.float32))]).savefig(tmp_path / "c.png")
    with pytest.raises(ValueError, match="nothing to draw"):
        frames_figure([])


def test_occupancy_shows_probabilities_and_mistakes():
    blocks = np.array([[0.8, 0.8], [2.4, 0.8]])
    shown = OccupancyView("a", blocks, blocks, blocks, np.array([0.9, 0.2]), np.array([True, True]), 1.6)
    panels = occupancy_figure(shown).axes[:4]  # the others are the colours' scales
    assert panels[1].images[0].get_array().ravel().tolist() == [0.9, 0.2]
    assert panels[3].images[0].get_array().ravel().tolist() == [1, 2]  # found, missed


def test_the_summary_shows_one_frame_masked_answered_and_detected():
    blocks = np.array([[0.8, 0.8], [2.4, 0.8]])
    masked = OccupancyView("a", blocks, np.tile(blocks, (3, 1)), blocks, np.array([0.9, 0.2]), np.ones(2, bool), 1.6)
    figure = summary_figure(masked, view(), "no real data")
    assert "sees 25% of the voxels" in figure.axes[0].get_title()
    assert figure.axes[1].images[0].get_array().ravel().tolist() == [0.9, 0.2]
    assert [text.get_text() for text in figure.axes[2].texts] == ["0.80"]
    assert len({panel.get_xlim() for panel in figure.axes[:3]}) == 1


# --- the page ---------------------------------------------------------------------------------------------------------


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_carries_its_points_and_edges():
    data = data_of(viewer_html(view()))
    points = np.frombuffer(base64.b64decode(data["points"]), "<i2").reshape(-1, 3) * data["step"]
    np.testing.assert_allclose(points, POINTS[:, :3], atol=0.0051)
    lines = np.array(data["lines"]).reshape(-1, 2, 3)
    assert len(lines) == 24 and len(data["inks"]) == len(data["lines"])  # 12 edges of a label and of a detection
    lengths = np.sort(np.linalg.norm(lines[:12, 0] - lines[:12, 1], axis=1))
    np.testing.assert_allclose(lengths, [2] * 8 + [6] * 4, atol=0.01)


@pytest.mark.fault(21)
def test_names_from_data_cannot_become_markup_and_nothing_is_fetched():
    page = viewer_html(view(title='<script>alert("x")</script>', names=["<b>grader</b>"]), mark="</header>")
    assert "<script>alert" not in page and "<b>grader" not in page and "&lt;b&gt;grader" in page
    assert "default-src 'none'" in page and not re.search(r"https?://", page)


def test_many_points_are_thinned_evenly(tmp_path):
    points = np.zeros((MOST_POINTS + 1, 3), np.float32)
    path = write_viewer(tmp_path / "cloud.html", View("big", points))
    shown = len(base64.b64decode(data_of(path.read_text())["points"])) // 6
    assert MOST_POINTS / 2 <= shown <= MOST_POINTS
    assert f"{shown:,} of {len(points):,}" in path.read_text()
