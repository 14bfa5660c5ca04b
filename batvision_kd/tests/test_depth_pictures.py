"""Pictures: they can be drawn for every kind of item, and carry the mark of embedded data."""

import io

import pytest
import torch
from echo_samples import SIDE, Echoes

from batvision_kd.pictures import View, arms_figure, curve_figure, rows_of


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
    assert size_bytes(curve_figure([10, 100], {"a": [1.0, 0.5]}, "RMSE, m")) > 5_000
