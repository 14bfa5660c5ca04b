"""The embedded world on disk: whole or absent, seeded, reusable, complete in both layouts; damage on purpose."""

import hashlib
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np
import pytest

from llvip_macl.data.annotations import read_bbgt, read_paired, read_xml
from llvip_macl.data.layout import frame_name, kaist_pairs, llvip_pairs, read_frame_list
from llvip_macl.evaluation.kaist_files import Detections
from llvip_macl.evaluation.kaist_files import read_truth as read_kaist_truth
from llvip_macl.evaluation.kaist_mr import evaluate
from llvip_macl.world import WorldSpec, annotation_scale, ensure_world, read_truth, world_folder, write_world
from llvip_macl.world.__main__ import main
from llvip_macl.world.faults import spoil
from llvip_macl.world.layouts import files_of
from llvip_macl.world.spec import FAULTS
from shared.embedded_world import is_embedded
from shared.errors import ConfigError, DataError, StorageError

SIZE_HW = (64, 80)
LLVIP = WorldSpec("llvip", (6, 8), SIZE_HW)
KAIST = WorldSpec("kaist", (7, 14), SIZE_HW, misalignment_px=2)


def digests(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(root.rglob("*")) if path.is_file()}  # fmt: skip


@pytest.fixture(scope="module")
def llvip(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("llvip") / "w", LLVIP, workers=0)


@pytest.fixture(scope="module")
def kaist(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("kaist") / "w", KAIST, workers=0)


def test_same_seed_same_bytes_whatever_the_workers(llvip, kaist, tmp_path):
    for root, spec in ((llvip, LLVIP), (kaist, KAIST)):
        assert digests(write_world(tmp_path / f"{spec.layout}2", spec, workers=2)) == digests(root)
    other = write_world(tmp_path / "other", WorldSpec("llvip", (6, 8), SIZE_HW, seed=1), workers=0)
    assert digests(other)["visible/train/010001.jpg"] != digests(llvip)["visible/train/010001.jpg"]


def test_llvip_is_complete(llvip):
    truth = {row["name"]: row for row in read_truth(llvip)}
    for split, count in (("train", 6), ("test", 8)):
        pairs = llvip_pairs(llvip, split)
        assert len(pairs.found) == count and not pairs.problems
        for pair in pairs.found:
            for path in (pair.visible, pair.infrared):
                assert cv2.imread(str(path)).shape == (*SIZE_HW, 3) and path.read_bytes()[:2] == b"\xff\xd8"
            labels = read_xml(llvip / "Annotations" / f"{pair.name}.xml", one_based=True)
            assert labels.size_hw == SIZE_HW and {box.label for box in labels.boxes} <= {"person"}
            # xmin and ymin count from 1, xmax and ymax are the last pixel: taking 1 off all leaves the end 1 short
            assert [[*box.box_px[:2], box.box_px[2] + 1, box.box_px[3] + 1] for box in labels.boxes] == [
                one["box"] for one in truth[pair.name]["objects"]
            ]
    assert len(list((llvip / "Annotations").iterdir())) == 14


def test_llvip_boxes_may_touch_the_border_as_in_the_release(tmp_path):
    root = write_world(tmp_path / "w", WorldSpec("llvip", (20, 1), SIZE_HW), workers=0)
    corners = [[int(box.findtext(tag)) for tag in ("xmin", "ymin", "xmax", "ymax")]
               for path in (root / "Annotations").iterdir()
               for box in ElementTree.parse(path).iter("bndbox")]  # fmt: skip
    low, high = np.array(corners)[:, :2], np.array(corners)[:, 2:]
    assert low.min() >= 1 and (high <= SIZE_HW[::-1]).all() and (high > low).all()
    assert any(x == SIZE_HW[1] for x, _ in high) or any(y == SIZE_HW[0] for _, y in high) or low.min() == 1


def test_kaist_is_complete(kaist):
    truth = {row["name"]: row for row in read_truth(kaist)}
    for name, count in (("train-all-02", 7), ("test-all-20", 14)):
        frames = read_frame_list(kaist / "imageSets" / f"{name}.txt")
        pairs = kaist_pairs(kaist, frames)
        assert len(pairs.found) == count and not pairs.problems
        for frame in frames:
            xml = read_xml(kaist / "annotations-xml-new" / f"{frame}.xml")
            text = read_bbgt(kaist / "annotations" / f"{frame}.txt")
            for labels in (xml, text):
                got = [(box.label, list(box.box_px), box.occlusion) for box in labels.boxes]
                assert got == [(one["label"], one["box"], one["occlusion"]) for one in truth[frame]["objects"]]
    files = [path for shot in KAIST.shots() for path in files_of(kaist, KAIST, shot).all()]
    assert all(path.is_file() for path in files) and len(files) == 21 * 6


def test_kaist_lists_part_day_from_night(kaist):
    for split in ("train-{}-02.txt", "test-{}-20.txt"):
        everything, day, night = ((kaist / "imageSets" / split.format(part)).read_text().split()
                                  for part in ("all", "day", "night"))  # fmt: skip
        assert everything == day + night and day and night
        assert {name[:5] for name in day} <= {"set00", "set01", "set02", "set06", "set07", "set08"}


def test_paired_boxes_differ_by_the_shift(kaist):
    truth, compared = {row["name"]: row for row in read_truth(kaist)}, 0
    for shot in KAIST.shots():
        paired = read_paired(*files_of(kaist, KAIST, shot).paired)
        dx, dy = truth[shot.name]["shift_px"]
        assert len(paired.boxes) == len([one for one in truth[shot.name]["objects"] if one["box_infrared"]])
        for box in paired.boxes:
            x0, y0, x1, y1 = box.box_px
            if x0 > 2 and y0 > 2 and x1 < SIZE_HW[1] - 2 and y1 < SIZE_HW[0] - 2:
                assert box.box_ir_px == (x0 + dx, y0 + dy, x1 + dx, y1 + dy)
                compared += 1
    assert compared > 10


def test_kaist_json_judges_detections(kaist):
    """Its ids follow the list; the labelled boxes themselves have a miss rate of 0, none at all one of 100."""
    data = json.loads((kaist / "KAIST_annotation.json").read_text())
    assert [image["im_name"] for image in data["images"]] == (kaist / "imageSets/test-all-20.txt").read_text().split()
    assert [image["id"] for image in data["images"]] == list(range(14))
    assert [one["id"] for one in data["annotations"]] == list(range(len(data["annotations"])))
    rows = {row["name"]: row for row in read_truth(kaist)}
    flags = [int(one["label"] != "person") for image in data["images"] for one in rows[image["im_name"]]["objects"]]
    assert [one["ignore"] for one in data["annotations"]] == flags
    truth = read_kaist_truth(kaist / "KAIST_annotation.json")
    perfect = Detections(truth.image_index, truth.boxes_xywh_px, np.linspace(1, 0.5, len(truth.image_index)))
    found = evaluate(truth, perfect, ["reasonable_all", "reasonable_day", "reasonable_night"])
    assert all(rate.persons > 0 and rate.percent < 1e-6 for rate in found.values())
    halves = [found[f"reasonable_{time}"].persons for time in ("day", "night")]
    assert sum(halves) == found["reasonable_all"].persons


def test_grey_infrared_has_one_channel_and_the_same_picture(tmp_path, llvip):
    grey = write_world(tmp_path / "w", WorldSpec("llvip", (6, 8), SIZE_HW, ir_channels=1), workers=0)
    path = "infrared/train/010001.jpg"
    one, three = (cv2.imread(str(root / path), cv2.IMREAD_UNCHANGED) for root in (grey, llvip))
    assert one.shape == SIZE_HW and three.shape == (*SIZE_HW, 3)
    assert np.abs(one.astype(int)[..., None] - three).max() <= 6  # of compression
    assert np.abs(three[..., 0].astype(int) - three[..., 2]).max() <= 3


@pytest.mark.parametrize("layout", ["llvip", "kaist"])
def test_each_fault_damages_one_file_of_a_pair_of_its_own(layout, tmp_path):
    spec = WorldSpec(layout, (1, 10), (48, 60))
    root, hurt = write_world(tmp_path / "w", spec, workers=0), {}
    for fault in FAULTS:
        good = digests(root)
        hurt[fault] = spoil(root, spec, fault)
        bad = digests(root)
        changed = {name for name, value in good.items() if bad.get(name) != value}
        assert changed == {hurt[fault].relative_to(root).as_posix()}
    assert len({frame_name(str(path)) or path.stem for path in hurt.values()}) == len(FAULTS)
    assert not hurt["missing_partner"].exists()
    assert cv2.imread(str(hurt["other_size"])).shape[:2] == (24, 30)
    with pytest.raises(DataError, match="no valid XML"):
        read_xml(hurt["broken_xml"])
    assert read_xml(hurt["unknown_label"]).boxes[0].label == "horse"
    assert read_xml(hurt["box_outside"]).boxes[0].box_px[0] == 120


def test_faults_of_a_spec_are_done_when_it_is_written(tmp_path):
    spec = WorldSpec("llvip", (1, 8), (48, 60), faults=("missing_partner",))
    pairs = llvip_pairs(write_world(tmp_path / "w", spec, workers=0), "test")
    assert len(pairs.found) == 7 and "has no partner" in pairs.problems[0]


def test_a_fault_without_a_victim_is_said(tmp_path):
    with pytest.raises(ConfigError, match=r"needs 5 test pairs with a labelled object.*more test pairs"):
        write_world(tmp_path / "w", WorldSpec("llvip", (1, 2), (48, 60), faults=("unknown_label",)), workers=0)
    assert not (tmp_path / "w").exists()


def test_a_complete_world_is_used_again_and_another_is_refused(llvip, monkeypatch):
    monkeypatch.setattr("llvip_macl.world.write._build", lambda *a: pytest.fail("it is drawn again"))
    assert write_world(llvip, LLVIP) == llvip
    with pytest.raises(DataError, match="seed: there 0, asked 5"):
        write_world(llvip, WorldSpec("llvip", (6, 8), SIZE_HW, seed=5))
    mark = json.loads((llvip / "world.json").read_text())
    assert mark["spec"]["size_hw"] == [64, 80] and "no real data" in mark["what"] and is_embedded(llvip)


def test_worlds_of_several_specs_lie_side_by_side(tmp_path):
    specs = [LLVIP, KAIST, KAIST.aligned(), WorldSpec("llvip", (6, 8), SIZE_HW, ir_channels=1),
             WorldSpec("llvip", (6, 8), SIZE_HW, faults=("broken_xml",)),
             WorldSpec("llvip", (6, 8), (64, 96))]  # fmt: skip
    assert len({world_folder(tmp_path, spec) for spec in specs}) == len(specs)
    root = ensure_world(tmp_path, layout="kaist", pairs=(1, 1), size_hw=(48, 60), workers=0)
    assert root == ensure_world(tmp_path, layout="kaist", pairs=(1, 1), size_hw=(48, 60)) and root.parent == tmp_path


def test_the_scale_to_512_lines_is_in_the_root(llvip, tmp_path):
    assert annotation_scale(llvip) == 8.0 and annotation_scale(tmp_path) == 1.0


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(DataError, match="not empty"):
        write_world(tmp_path / "mine", LLVIP)
    (tmp_path / "file").write_text("x")
    with pytest.raises((DataError, StorageError)):
        write_world(tmp_path / "file" / "below", LLVIP)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_the_command_writes_a_world_and_a_sheet(tmp_path, capsys):
    small = ["--train", "2", "--test", "2", "--size", "48", "60", "--workers", "0"]
    sheet = tmp_path / "pictures" / "sheet.png"
    assert main([str(tmp_path / "w"), "--layout", "kaist", "--misalignment", "2", *small, "--sheet", str(sheet)]) == 0
    assert "embedded world (no real data)" in capsys.readouterr().out
    assert cv2.imread(str(sheet)).shape == (512, 1920, 3)
    assert (tmp_path / "w" / "annotations_paired").is_dir()
    assert main([str(tmp_path / "w"), "--layout", "llvip", *small]) == 2
    assert "another spec" in capsys.readouterr().err
