"""The report: everything escaped, nothing fetched, banner in view, numbers set right, curves from a log."""

import base64
import json
import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from shared.errors import DataError, StorageError
from shared.report import Report, curves
from shared.testing.hostile_text import EVIL, Page


def small_figure():
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1])
    return figure


def full_report(text):
    report = Report(text, banner=text, subtitle=text)
    report.highlights({text: text})
    for level in (2, 2, 2, 3):
        report.heading(text, level)
    report.text(text)
    report.code(text)
    report.table([text, "n"], [[text, 1]], caption=text)
    report.figure(small_figure(), caption=text)
    report.gallery([(small_figure(), text), (small_figure(), text)])
    return report


@pytest.mark.fault(21)
def test_text_is_escaped_in_every_kind_of_content():
    page, harmless = Page(full_report(EVIL).html()), Page(full_report("words").html())
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in harmless.elements]
    assert not page.of("script")
    assert {key for _, attributes in page.elements for key in attributes} <= {
        "lang", "charset", "http-equiv", "content", "name", "class", "role", "href", "id", "scope", "src", "alt",
    }  # fmt: skip
    assert "".join(page.texts).count(EVIL) == "".join(harmless.texts).count("words") == 21
    assert all(picture["alt"] == EVIL for picture in page.of("img"))


@pytest.mark.fault(21)
def test_one_file_that_fetches_and_runs_nothing():
    html = full_report("words").html()
    page = Page(html)
    assert all(picture["src"].startswith("data:image/png;base64,") for picture in page.of("img")) and page.of("img")
    assert all(link["href"].startswith("#") for link in page.of("a")) and len(page.of("a")) == 3
    assert not page.of("link") and not re.search(r"url\(|@import|https?:", html)
    policy = next(m["content"] for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_contents_lead_to_their_headings():
    page = Page(full_report("words").html())
    anchors = [heading["id"] for heading in page.of("h2")]
    assert [link["href"] for link in page.of("a")] == [f"#{anchor}" for anchor in anchors] and len(set(anchors)) == 3


def test_banner_is_shown_when_there_is_one():
    html = Report("Title", banner="Embedded data: no score").html()
    assert '<div class="banner" role="note">Embedded data: no score</div>' in html
    assert html.index('class="banner"') < html.index("<h1>")
    assert 'class="banner"' not in Report("Title").html()


def test_pictures_are_embedded_whole(tmp_path):
    path = tmp_path / "picture.png"
    small_figure().savefig(path)
    report = Report("Title")
    report.figure(path, "caption")
    (picture,) = Page(report.html()).of("img")
    assert base64.b64decode(picture["src"].partition(",")[2]) == path.read_bytes()


@pytest.mark.fault(21)
def test_only_png_is_taken(tmp_path):
    svg = tmp_path / "picture.svg"
    svg.write_text("<svg onload='alert(1)'/>")
    with pytest.raises(DataError, match="not a PNG"):
        Report("Title").figure(svg)
    with pytest.raises(DataError, match="cannot read the picture"):
        Report("Title").figure(tmp_path / "absent.png")


def cells_of(rows, headers=("a",)):
    report = Report("Title")
    report.table(headers, rows)
    return re.findall(r'<td class="(\w+)">(.*?)</td>', report.html())


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.5, 0.03333], ["0.500", "0.033"]),
        ([12.345, 1.0], ["12.35", "1.00"]),
        ([123456.7], ["123457"]),
        ([1e-5, 0.5], ["1e-05", "0.5"]),
        ([3375123, 7], ["3,375,123", "7"]),
        ([np.float32(0.25), np.int64(4)], ["0.250", "4"]),
        ([0.5, None], ["0.500", "–"]),
        ([float("nan"), float("inf")], ["nan", "inf"]),
        (["0.53 ± 0.02", "0.4 [0.3, 0.5]"], ["0.53 ± 0.02", "0.4 [0.3, 0.5]"]),
        (["95 ms", "1.5x", "-3.2 %", "<1"], ["95 ms", "1.5x", "-3.2 %", "&lt;1"]),
    ],
)
def test_columns_of_numbers_are_set_right(values, shown):
    assert cells_of([[value] for value in values]) == [("number", text) for text in shown]


@pytest.mark.parametrize("values", [["car", 3], [True, False], [None], ["3 seeds"], ["v2"], ["stop 3 cars"]])
def test_columns_of_words_are_set_left(values):
    assert {side for side, _ in cells_of([[value] for value in values])} == {"words"}


def test_a_short_row_is_an_error_and_an_empty_table_is_not():
    with pytest.raises(ValueError, match="row 2 of the table has 1 cells for 2 headers"):
        cells_of([[1, 2], [3]], headers=("a", "b"))
    assert cells_of([]) == []


def test_paragraphs_are_split_at_blank_lines():
    report = Report("Title")
    report.text("one\nline\n\n  two  \n \nthree")
    assert re.findall(r"<p>(.*?)</p>", report.html(), re.S) == ["one\nline", "two", "three"]


def test_write_is_utf8_and_takes_odd_file_names(tmp_path):
    report = Report("Größe – 寸法")
    report.text("name with an odd byte \udcff")
    report.write(tmp_path / "report.html")
    assert "Größe – 寸法" in (tmp_path / "report.html").read_text(encoding="utf-8")
    with pytest.raises(StorageError):
        report.write(tmp_path / "absent" / "report.html")


def test_heading_levels():
    with pytest.raises(ValueError, match="heading level 1"):
        Report("Title").heading("x", level=1)


# --- curves ---


ODD = r"val $\odd$"  # as a formula it cannot be drawn


@pytest.fixture
def log(tmp_path):
    rows = [{"step": s, "split": "train", "loss": 1 / s, "time": {"rate": 9.0}} for s in (1, 2, 3)]
    rows += [{"step": 2, "split": ODD, "loss": "nan"}, {"step": 3, "split": ODD, "loss": 0.7, "ap_{50}": 0.5}]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_curves_draw_each_key_by_split(log):
    figure = curves(log, ["loss", "ap_{50}", "time/rate"], r"A title $\odd$")
    panels = {panel.get_title(loc="left"): panel for panel in figure.axes}
    lines = {line.get_label().strip(): line for line in panels["loss"].lines}
    np.testing.assert_allclose(lines["train"].get_xydata(), [[1, 1], [2, 0.5], [3, 1 / 3]])
    np.testing.assert_allclose(lines[ODD].get_ydata(), [np.nan, 0.7])
    assert [line.get_ydata().tolist() for line in panels["time/rate"].lines] == [[9.0, 9.0, 9.0]]
    assert panels["ap_{50}"].lines[0].get_color() == lines[ODD].get_color() != lines["train"].get_color()
    report = Report("Title")
    report.figure(figure)  # draws: names with $ must not be read as formulas
    assert len(Page(report.html()).of("img")) == 1


def test_curves_of_one_stage(log):
    (panel,) = curves(log, ["loss"], split_prefix="val").axes
    assert [line.get_label().strip() for line in panel.lines] == [ODD]


def test_curves_name_what_is_there(log):
    with pytest.raises(DataError, match=r"no values of iou; it has ap_\{50\}, loss, time/rate"):
        curves(log, ["loss", "iou"])
