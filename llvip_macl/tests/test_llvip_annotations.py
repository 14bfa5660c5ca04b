"""Annotation files of every kind, and what is said of those that cannot be read."""

import re
import subprocess
import sys

import numpy as np
import pytest
from llvip_pair_samples import BBGT, KAIST_XML, voc

from llvip_macl.data.annotations import (
    KAIST_LABELS,
    LabelledBox,
    Labels,
    label_problems,
    read_bbgt,
    read_corners,
    read_paired,
    read_xml,
    text_box_format,
)
from llvip_macl.data.layout import Folders, frame_name, kaist_label_files, kaist_pairs, llvip_pairs, read_frame_list
from shared.errors import DataError


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_voc_boxes_are_taken_as_the_official_converter_takes_them(tmp_path):
    path = put(tmp_path / "a.xml", voc([(1, 1, 80, 64), (3, 4, 5, 6)], extra="<folder>x</folder> // stray text "))
    labels = read_xml(path)
    assert labels.size_hw == (64, 80)
    assert [box.box_px for box in labels.boxes] == [(1, 1, 80, 64), (3, 4, 5, 6)]
    assert [box.box_px for box in read_xml(path, one_based=True).boxes] == [(0, 0, 79, 63), (2, 3, 4, 5)]


def test_kaist_xml_is_told_apart_by_its_tags(tmp_path):
    labels = read_xml(put(tmp_path / "a.xml", KAIST_XML))
    assert labels.boxes == (
        LabelledBox("object 1", "person", (10, 8, 19, 38), occlusion=1),
        LabelledBox("object 2", "people", (40, 10, 65, 30)),
    )


def test_bbgt_and_xml_of_one_frame_say_the_same(tmp_path):
    xml, text = read_xml(put(tmp_path / "a.xml", KAIST_XML)), read_bbgt(put(tmp_path / "a.txt", BBGT))
    assert [(b.label, b.box_px, b.occlusion) for b in xml.boxes] == [
        (b.label, b.box_px, b.occlusion) for b in text.boxes
    ]
    assert [box.ignore for box in text.boxes] == [False, True]  # the 11th column


def test_difficult_objects_are_ignored(tmp_path):
    text = voc([(1, 2, 30, 40)]).replace("</name>", "</name><difficult>1</difficult>")
    assert read_xml(put(tmp_path / "a.xml", text)).boxes[0].ignore


def test_sanitized_rows_are_corners_counted_from_one(tmp_path):
    labels = read_corners(put(tmp_path / "a.txt", "person 11 21 31 81\nignore 1 1 5 9\n"))
    assert [box.box_px for box in labels.boxes] == [(10, 20, 30, 80), (0, 0, 4, 8)]
    assert [box.ignore for box in labels.boxes] == [False, True]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["person 100 100 300 300", "person 282 209 52 111"], "xywh"),  # 52 < 282: no corner
        (["person 100 100 300 300", "person 500 100 600 300"], "xyxy"),  # 500 + 600 is beyond 640
        (["person 100 100 300 300", "ignore 10 10 50 50"], "xyxy"),
        (["person 10 10 30 30 1 12 10 20 30 0 0"], "xywh"),  # a visible part stands in bbGt rows only
    ],
)
def test_all_rows_together_tell_the_box_format(tmp_path, rows, expected):
    files = [put(tmp_path / f"{i}.txt", f"% bbGt version=3\n{row}\n") for i, row in enumerate(rows)]
    assert text_box_format(files, (512, 640)) == expected


def test_an_undecided_or_contradictory_box_format_is_asked_for(tmp_path):
    undecided = put(tmp_path / "a.txt", "person 100 100 200 200\n")
    with pytest.raises(DataError, match=r"no row decides it.*box_format='xywh' or 'xyxy'"):
        text_box_format([undecided], (512, 640))
    both = put(tmp_path / "b.txt", "person 300 100 20 200\nperson 500 100 600 300\n")
    with pytest.raises(DataError, match=r"xywh by .*line 1; xyxy by .*line 2"):
        text_box_format([both], (512, 640))


def test_paired_rows_belong_together_by_position(tmp_path):
    visible, infrared = put(tmp_path / "v.txt", "person 10 20 9 30\n"), put(tmp_path / "r.txt", "person 14 21 9 30\n")
    box = read_paired(visible, infrared).boxes[0]
    assert (box.box_px, box.box_ir_px) == ((10, 20, 19, 50), (14, 21, 23, 51))
    with pytest.raises(DataError, match=r"v\.txt has 1 boxes and .*more\.txt has 2"):
        read_paired(visible, put(tmp_path / "more.txt", "person 1 2 3 4\nperson 1 2 3 4\n"))
    with pytest.raises(DataError, match=r"'person'.*'cyclist'"):
        read_paired(visible, put(tmp_path / "other.txt", "cyclist 14 21 9 30\n"))


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("<annotation><object></annotation>", r"line 1, column \d+: no valid XML"),
        ("<html></html>", "outermost element is <html>"),
        (b"<annotation>\xff\xfe</annotation>", "no valid XML"),
        ("<annotation><object><name>person</name></object></annotation>", "object 1 has no <bndbox>"),
        (voc([(1, 2, "x", 4)]), "object 1, <xmax>: 'x' is no number"),
        (voc([(1, 2, 3, 4)]).replace("<ymax>4</ymax>", ""), "<ymax> is missing in <bndbox>"),
    ],
)
def test_a_broken_xml_is_named_with_place_and_remedy(tmp_path, text, said):
    path = put(tmp_path / "frame.xml", text)
    with pytest.raises(DataError, match=said) as error:
        read_xml(path)
    assert "frame.xml" in str(error.value)


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    ("text", "said"),
    [("person 1 2\n", "line 1 has 3 columns"), ("person a 2 3 4\n", "'a' is no number"), (b"\xff", "UTF-8")],
)
def test_a_broken_text_is_named_with_its_line(tmp_path, text, said):
    with pytest.raises(DataError, match=said):
        read_bbgt(put(tmp_path / "frame.txt", text))


@pytest.mark.fault(15)
def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.xml is missing"):
        read_xml(tmp_path / "none.xml")
    with pytest.raises(DataError, match="is a folder"):
        read_bbgt(tmp_path)


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    ("box", "said"),
    [
        (LabelledBox("object 1", "dog", (1, 2, 30, 40)), "unknown label 'dog'"),
        (LabelledBox("object 1", "person", (30, 2, 10, 40)), "ends before it begins"),
        (LabelledBox("object 1", "person", (1, 2, 30, 2)), "ends before it begins"),
        (LabelledBox("object 1", "person", (np.nan, 2, 30, 40)), "no pixel position"),
        (LabelledBox("object 1", "person", (1, 2, np.inf, 40)), "no pixel position"),
        (LabelledBox("object 1", "person", (1, 2, 3e9, 40)), "no pixel position"),
        (LabelledBox("object 1", "person", (90, 2, 100, 40)), "outside the 80x64 image"),
        (LabelledBox("object 1", "person", (-5, 2, 30, 40)), "5 px over the border"),
        (LabelledBox("object 1", "person", (0.1, 0.2, 0.5, 0.6)), "fractions"),
        (LabelledBox("object 1", "person", (1, 2, 30, 40), occlusion=7), "occlusion 7"),
        (LabelledBox("object 1", "person", (1, 2, 30, 40), box_ir_px=(3, 2, 1, 4)), "infrared box .* ends before"),
    ],
)
def test_boxes_that_make_no_sense_are_told(tmp_path, box, said):
    labels = Labels(tmp_path / "a.xml", (box,))
    (problem,) = label_problems(labels, ("person",), (64, 80), slack_px=2)
    assert re.search(said, problem), problem


def test_a_sound_box_has_no_problem_and_all_problems_are_told(tmp_path):
    sound = LabelledBox("object 1", "person?", (1, 1, 80, 64))
    assert not list(label_problems(Labels(tmp_path, (sound,)), KAIST_LABELS, (64, 80), slack_px=2))
    bad = LabelledBox("object 2", "dog", (9, 9, 1, 1))
    assert len(list(label_problems(Labels(tmp_path, (bad, sound, bad)), KAIST_LABELS, None))) == 4


# ---------------------------------------------------------------- layout


@pytest.mark.parametrize(
    "text", ["set06/V000/I00019", "set06_V000_I00019", "set06/V000/lwir/I00019.jpg", "x/set06_V000_visible_I00019.png"]
)
def test_all_spellings_of_a_frame_are_one(text):
    assert frame_name(text) == "set06/V000/I00019"


@pytest.mark.fault(15)
def test_frame_lists_name_bad_and_doubled_lines(tmp_path):
    path = put(tmp_path / "list.txt", "set06/V000/I00019\n\nset06_V000_I00039\n")
    assert read_frame_list(path) == ["set06/V000/I00019", "set06/V000/I00039"]
    for text, said in (
        ("set06/V000\n", "line 1"),
        ("set06/V000/I00019\nset06_V000_I00019\n", "line 2"),
        ("\n", "empty"),
    ):
        with pytest.raises(DataError, match=said):
            read_frame_list(put(path, text))


def test_pairs_follow_names_and_the_list(tmp_path):
    for name in (
        "visible/train/010002.jpg",
        "visible/train/010001.jpg",
        "infrared/train/010001.png",
        "infrared/train/9.jpg",
    ):
        put(tmp_path / name, "x")
    pairs = llvip_pairs(tmp_path, "train")
    assert [(pair.name, pair.number) for pair in pairs.found] == [("010001", 10001)]
    assert len(pairs.problems) == 2
    assert "010002.jpg" in pairs.problems[0] and "infrared/train/010002.jpg is missing" in pairs.problems[0]
    put(tmp_path / "images/set06/V000/visible/I00019.png", "x")
    put(tmp_path / "images/set06_V000_I00039_visible.png", "x")
    put(tmp_path / "images/set06_V000_I00039_lwir.png", "x")
    pairs = kaist_pairs(tmp_path, ["set06/V000/I00019", "set06/V000/I00039", "set07/V000/I00000"])
    assert [(pair.name, pair.number) for pair in pairs.found] == [("set06/V000/I00039", 1)]
    assert "lwir/I00019.png is missing" in pairs.problems[0] and "both missing" in pairs.problems[1]


def test_a_missing_label_file_is_asked_for_where_it_should_lie(tmp_path):
    (path,) = kaist_label_files(tmp_path, "set06/V000/I00019", Folders((".xml",)), paired=False)
    assert path == tmp_path / "set06/V000/I00019.xml"
    put(tmp_path / "set06_V000_I00019.xml", "x")
    (path,) = kaist_label_files(tmp_path, "set06/V000/I00019", Folders((".xml",)), paired=False)
    assert path.name == "set06_V000_I00019.xml"


def test_reading_annotations_needs_neither_torch_nor_mmdet():
    code = "import sys; import llvip_macl.data.validate; print({'torch', 'mmdet', 'mmcv'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
