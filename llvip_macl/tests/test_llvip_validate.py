"""A root with every kind of damage: all of it is told at once, each with its path and what to do."""

import subprocess
import sys

import numpy as np
import pytest
from llvip_pair_samples import kaist_tree, llvip_tree, voc, write_image

from llvip_macl.data.validate import main, validate


def drop(path):
    return lambda root: (root / path).unlink()


def put(path, content):
    return lambda root: (root / path).write_bytes(content if isinstance(content, bytes) else content.encode())


def halve(path):
    return lambda root: (root / path).write_bytes((root / path).read_bytes()[: (root / path).stat().st_size * 6 // 10])


def label(number, *boxes, **kwargs):
    return put(f"Annotations/{number:06d}.xml", voc(boxes, **kwargs))


def draw(path, **kwargs):
    return lambda root: write_image(root / path, **kwargs)


def make_16_bit(root):
    (root / "infrared/train/000017.jpg").unlink()
    draw("infrared/train/000017.png", pixels=np.arange(5120, dtype=np.uint16).reshape(64, 80))(root)


def copy_to_test(root):
    for half in ("visible", "infrared"):
        (root / half / "test/000019.jpg").write_bytes((root / half / "train/000019.jpg").read_bytes())


LLVIP = {  # case -> (what is done to the root, what the line must say)
    "infrared half missing": (drop("infrared/train/000001.jpg"), "infrared/train/000001.jpg is missing"),
    "visible half missing": (drop("visible/train/000002.jpg"), "visible/train/000002.jpg is missing"),
    "labels missing": (drop("Annotations/000003.xml"), "000003.xml is missing"),
    "empty image": (put("visible/train/000004.jpg", ""), "visible/train/000004.jpg is empty"),
    "truncated image": (halve("infrared/train/000005.jpg"), "infrared/train/000005.jpg is no whole image"),
    "web page": (put("visible/train/000006.jpg", "<!DOCTYPE html>"), "000006.jpg is no image but an HTML page"),
    "git-LFS pointer": (put("visible/train/000020.jpg", "version https://git-lfs"), "but a git-LFS pointer"),
    "sizes differ": (draw("infrared/train/000007.jpg", hw=(32, 40)), "000007.jpg is 40x32"),
    "labels of another size": (label(8, (1, 1, 9, 9), hw=(128, 160)), "000008.xml is for 160x128"),
    "broken xml": (halve("Annotations/000009.xml"), "000009.xml, line 1"),
    "not UTF-8": (put("Annotations/000010.xml", b"<annotation>\xff\xfe</annotation>"), "000010.xml, line 1"),
    "box outside": (label(11, (70, 5, 99, 20)), "000011.xml, object 1: its box [70, 5, 99, 20] reaches 19 px over"),
    "x1 > x2": (label(12, (30, 5, 10, 20)), "000012.xml, object 1: its box [30, 5, 10, 20] ends before it begins"),
    "NaN": (label(13, ("nan", 5, 10, 20), (1, 2, 3e9, 20)), "its box [nan, 5, 10, 20] holds a number that is no pixel"),
    "absurd value": (lambda root: None, "000013.xml, object 2: its box [1, 2, 3e+09, 20] holds a number"),
    "fractions for pixels": (
        label(14, (0.1, 0.2, 0.5, 0.6)),
        "000014.xml, object 1: its box [0.1, 0.2, 0.5, 0.6] is w",
    ),
    "unknown class": (label(15, (1, 2, 9, 9), name="horse"), "000015.xml, object 1: unknown label 'horse'"),
    "two files of one name": (draw("visible/train/000016.png", seed=3), "visible/train/000016.jpg and"),
    "16-bit infrared": (make_16_bit, "infrared/train/000017.png is of Pillow mode I;16"),
    "blank image": (draw("infrared/train/000018.jpg", pixels=np.zeros((64, 80), np.uint8)), "000018.jpg is blank"),
    "overlap of splits": (copy_to_test, "train and test share 1 frames, the first is 000019"),
    "labels without images": (put("Annotations/777777.xml", voc([])), "777777.xml belongs to no whole pair"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return llvip_tree(tmp_path_factory.mktemp("sound"), train=20, ending="jpg")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    root = llvip_tree(tmp_path_factory.mktemp("damaged"), train=20, ending="jpg")
    for damage, _ in LLVIP.values():
        damage(root)
    return validate(root, "llvip")


def test_a_sound_root_has_no_problem(sound, tmp_path):
    assert validate(sound, "llvip") == []
    assert validate(kaist_tree(tmp_path / "kaist"), "kaist") == []
    assert validate(kaist_tree(tmp_path / "flat", flat=True), "kaist") == []


@pytest.mark.fault(15)
@pytest.mark.parametrize("case", LLVIP)
def test_each_damage_is_among_the_problems_of_one_run(damaged, case):
    said = LLVIP[case][1]
    (line,) = [problem for problem in damaged if said in problem][:1] or [None]
    assert line, "\n".join(damaged)
    assert ":" in line or ";" in line  # what is wrong, then what to do


def test_nothing_else_is_told(damaged):
    """The labels of the two frames with a missing half are all that is more."""
    assert len(damaged) == len(LLVIP) + 2, "\n".join(damaged)


KAIST = {
    "infrared half missing": (drop("images/set00/V000/lwir/I00001.png"), "lwir/I00001.png is missing"),
    "half of the paired labels missing": (
        drop("annotations_paired/set03/V001/lwir/I00002.txt"),
        "annotations_paired/set03/V001/lwir/I00002.txt is missing",
    ),
    "xml missing": (drop("annotations-xml-new/set03/V001/I00002.xml"), "I00002.xml is missing"),
    "a line without a frame": (put("imageSets/odd.txt", "set06\n"), "odd.txt, line 1: 'set06' names no frame"),
    "a frame twice": (put("imageSets/val.txt", "set06/V000/I00019\nset06/V000/I00019\n"), "val.txt, line 2"),
    "overlap": (put("imageSets/train-b.txt", "set09/V000/I00039\n"), "share 1 frames, the first is set09/V000/I00039"),
    "unknown class": (
        put("annotations/set06/V000/I00019.txt", "horse 10 8 9 30 0 0 0 0 0 0 0\n"),
        "annotations/set06/V000/I00019.txt, line 1: unknown label 'horse'",
    ),
    "occlusion 9": (
        put("annotations/set09/V000/I00039.txt", "person 10 8 9 30 9 0 0 0 0 0 0\n"),
        "I00039.txt, line 1: occlusion 9",
    ),
    "no number": (
        put("annotations/set03/V001/I00002.txt", "person ten 8 9 30\n"),
        "annotations/set03/V001/I00002.txt, line 1: 'ten' is no number",
    ),
}


@pytest.fixture(scope="module")
def damaged_kaist(tmp_path_factory):
    root = kaist_tree(tmp_path_factory.mktemp("damaged_kaist"))
    for damage, _ in KAIST.values():
        damage(root)
    return validate(root, "kaist")


@pytest.mark.fault(15)
@pytest.mark.parametrize("case", KAIST)
def test_each_damage_of_a_kaist_root_is_told(damaged_kaist, case):
    assert [line for line in damaged_kaist if KAIST[case][1] in line], "\n".join(damaged_kaist)


@pytest.mark.fault(15)
def test_roots_that_are_none_are_told(tmp_path):
    assert "is missing or no folder" in validate(tmp_path / "nowhere", "llvip")[0]
    assert len(validate(tmp_path, "llvip")) == 2  # a line a split
    assert len(validate(tmp_path, "kaist")) == 2  # no lists, no labels


@pytest.mark.fault(15)
def test_the_command_lists_problems_and_ends_with_2(sound, tmp_path, capsys):
    assert main([str(sound), "--layout", "llvip"]) == 0
    assert "sound" in capsys.readouterr().out
    root = llvip_tree(tmp_path / "r", train=2)
    (root / "infrared/train/000001.png").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "llvip_macl.data.validate", str(root), "--layout", "llvip"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "000001.png is missing" in done.stdout and not done.stderr
