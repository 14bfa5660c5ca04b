"""Pictures: they can be drawn for every kind of item, and carry the mark of embedded data."""

import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from echo_samples import SIDE, Echoes

from batvision_kd.pictures import View, arms_figure, curve_figure, depth_range_m, rows_of


def size_bytes(figure) -> int:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return len(buffer.getvalue())


def test_a_row_per_image_and_two_columns_per_model():
    data, depth = Echoes(), torch.full((1, SIDE, SIDE), 2.0)
    figure = rows_of(
        [View(data[i]["id"], data[i], {"audio": depth, "RGB": depth}) for i in range(2)], mark="embedded $x"
    )
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert len(panels) == 2 * (4 + 2 * 2)
    assert figure.get_suptitle() == "embedded $x" and size_bytes(figure) > 10_000


def test_without_camera_and_without_measured_depth():
    item = Echoes(holes=1.0)[0]
    del item["rgb"]
    figure = rows_of([View("a", item, {"audio": torch.full((1, SIDE, SIDE), 2.0)})])
    assert size_bytes(figure) > 5_000
    with pytest.raises(ValueError, match="no image"):
        rows_of([])


def test_arms_and_curve_can_be_drawn_without_an_interval():
    nan = float("nan")
    assert size_bytes(arms_figure({"a": [1.0, 2.0], "b": [1.5]}, {"a": (0.9, 2.1), "b": (nan, nan)}, "RMSE, m")) > 5_000
    assert size_bytes(curve_figure(["10", "all"], {"a": [1.0, 0.5]}, "RMSE, m")) > 5_000


def extents(figure, artists) -> list:
    """Boxes of artists in pixels, and first the figure's."""
    figure.draw_without_rendering()
    return [figure.bbox, *(artist.get_window_extent() for artist in artists)]


def test_one_range_holds_truth_and_predictions():
    truth = np.full((10, 10), np.nan)
    truth[:5] = 2.0
    assert depth_range_m([truth, np.full((10, 10), 5.0)]) == {"vmin": 2.0, "vmax": 5.0}
    assert depth_range_m([np.full((4, 4), np.nan)]) == {"vmin": 0.0, "vmax": 1.0}
    item = Echoes()[0]
    figure = rows_of([View("a", item, {"far": torch.full((1, SIDE, SIDE), 25.0)})])
    shown = [axes.images[0] for axes in figure.axes if axes.images and axes.get_title() in ("measured depth, m", "far")]
    assert len(shown) == 2 and shown[0].get_clim() == shown[1].get_clim() and shown[0].get_clim()[1] == 25.0


def test_titles_do_not_run_into_each_other_and_nothing_is_cut():
    depth = torch.full((1, SIDE, SIDE), 2.0)
    item = Echoes()[0]
    figure = rows_of([View("a", item, {"audio + KD(depth + features)": depth, "RGB teacher": depth})], mark="embedded")
    frame, *titles = extents(figure, [axes.title for axes in figure.axes if axes.get_title()])
    titles.sort(key=lambda box: box.x0)
    assert len(titles) == 8 and all(one.x1 < other.x0 for one, other in pairwise(titles))
    assert titles[-1].x1 <= frame.x1 and max(box.y1 for box in titles) <= frame.y1
    label = "test RMSE, m (strict); embedded synthetic data: not a BatVision result"
    names = ["audio + KD(depth + features), echo of another image", "audio"]
    arms = arms_figure({name: [1.0] for name in names}, dict.fromkeys(names, (0.9, 1.1)), label)
    frame, below = extents(arms, [arms._supxlabel])
    assert frame.x0 <= below.x0 and below.x1 <= frame.x1 and frame.y0 <= below.y0
