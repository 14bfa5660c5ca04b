"""Curves of miss rate against false positives per image."""

import math

import numpy as np
import pytest

from llvip_macl.evaluation.fppi import curves_figure, save_curves, steps
from llvip_macl.evaluation.kaist_mr import MissRate


def found(percent: float, fppi=(0.01, 0.1, 1.0), recall=(0.2, 0.5, 0.9)) -> MissRate:
    return MissRate(percent, 10, 5, np.array(fppi), np.array(recall))


def test_a_curve_starts_where_everyone_is_missed_and_keeps_every_point():
    fppi, miss = steps(found(10, (0.0, 0.5), (0.4, 0.9)))
    assert miss.tolist() == pytest.approx([1, 0.6, 0.1])
    assert (fppi > 0).all() and fppi[-1] == 0.5 and (np.diff(fppi) >= 0).all()


def test_a_curve_without_points_is_the_line_of_all_missed():
    fppi, miss = steps(found(100, (), ()))
    assert len(fppi) == 1 and miss.tolist() == [1]


def test_the_legend_orders_detectors_from_best_to_worst_and_reads_names_literally():
    figure = curves_figure({"worst": found(50), "no one": found(math.nan), "$best$": found(7.576)}, "reasonable_all")
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["7.58 %  $best$", "50.00 %  worst", "no person  no one"]
    assert not any(text.get_parse_math() for text in figure.axes[0].get_legend().get_texts())
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"


def test_the_drawn_line_holds_the_curve():
    line = curves_figure({"one": found(10)}).axes[0].lines[0]
    np.testing.assert_allclose(line.get_ydata(), [1, 0.8, 0.5, 0.1])
    np.testing.assert_allclose(line.get_xdata()[1:], [0.01, 0.1, 1.0])


def test_embedded_data_are_marked_and_no_curve_is_an_error():
    assert curves_figure({"one": found(10)}, mark="Embedded data").get_suptitle() == "Embedded data"
    with pytest.raises(ValueError, match="no curve"):
        curves_figure({})


def test_a_picture_is_written_into_a_new_folder(tmp_path):
    path = save_curves(tmp_path / "figures" / "fppi.png", {f"detector {i}": found(10 + i) for i in range(14)})
    assert path.read_bytes().startswith(b"\x89PNG")
