"""Broken data roots: the reader names file and remedy, and the validator lists every problem at once."""

import json
import re

import numpy as np
import pytest
from custom_root_samples import CLASSES, RANGE_M, XYZI, opened

from shared.errors import DataError
from voxel_mae.data import AugmentSettings, CustomRoot, PasteSettings, find_root
from voxel_mae.data.clouds import read_cloud
from voxel_mae.data.prepare import main as prepare_command
from voxel_mae.data.validate import Expected, validate

EXPECTED = Expected(XYZI, CLASSES, RANGE_M)
CLOUD, LABEL, TRAIN = "points/site0_000.npy", "labels/site0_000.txt", "ImageSets/train.txt"


def save(path, change):
    points = np.load(path)
    np.save(path, change(points))


def put(place, value):
    def change(points):
        points[place] = value
        return points

    return change


def set_word(path, column, value):
    first, *rest = path.read_text().splitlines()
    words = first.split()
    words[column] = value
    path.write_text("\n".join([" ".join(words), *rest]) + "\n")


def edit_infos(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


INFOS = "custom_infos_train.json"


def edit_first(change):
    """Change the first frame of an index."""
    return lambda path: edit_infos(path, lambda content: change(content["frames"][0]))


CORPUS = {
    "no cloud": (CLOUD, lambda p: p.unlink(), r"lacks 1 of the 3 clouds of .*train.txt, the first is site0_000"),
    "cut cloud": (CLOUD, lambda p: p.write_bytes(p.read_bytes()[:900]), r"site0_000.npy is no .npy table"),
    "empty file": (CLOUD, lambda p: p.write_bytes(b""), r"site0_000.npy is no .npy table"),
    "page in its place": (CLOUD, lambda p: p.write_bytes(b"<html>404</html>"), r"site0_000.npy is no .npy table"),
    "objects in it": (CLOUD, lambda p: np.save(p, np.array([{}]), allow_pickle=True), r"is no .npy table"),
    "one axis": (CLOUD, lambda p: np.save(p, np.zeros(12)), r"holds \(12,\), not an N x C table"),
    "columns": (CLOUD, lambda p: save(p, lambda x: x[:, :3]), r"has 3 columns and the configuration names 4"),
    "NaN": (CLOUD, lambda p: save(p, put((7, 2), np.nan)), r"1 of 3,080 points are NaN .* is number 7"),
    "infinite": (CLOUD, lambda p: save(p, put((7, 3), np.inf)), r"NaN or infinite"),
    "map coordinates": (CLOUD, lambda p: save(p, put((3, 0), 412_000)), r"a coordinate of 412,000 m"),
    "none in range": (CLOUD, lambda p: save(p, lambda x: x + 100), r"none of its 3,080 points .* lies in POINT"),
    "two clouds": (CLOUD, lambda p: p.with_suffix(".bin").write_bytes(b""), r"site0_000.npy and site0_000.bin"),
    "label columns": (LABEL, lambda p: p.write_text("1 2 3 4 5 6 roller\n"), r"line 1: 7 columns instead of 8"),
    "label word": (LABEL, lambda p: set_word(p, 2, "far"), r"line 1: could not convert"),
    "label NaN": (LABEL, lambda p: set_word(p, 0, "nan"), r"line 1: a value is not finite"),
    "zero size": (LABEL, lambda p: set_word(p, 4, "0"), r"line 1: sizes .* must be above 0 m"),
    "negative size": (LABEL, lambda p: set_word(p, 3, "-4"), r"line 1: sizes .* must be above 0 m"),
    "unknown class": (LABEL, lambda p: set_word(p, 7, "dozer"), r"site0_000.txt: unknown class 'dozer'"),
    "label in Latin-1": (LABEL, lambda p: p.write_bytes(b"V\xe9lo 0 0\n"), r"is not text"),
    "millimetres": (LABEL, lambda p: set_word(p, 3, "4000"), r"object 1 \(dumptruck\): sizes .* millimetres"),
    "degrees": (LABEL, lambda p: set_word(p, 6, "270"), r"heading 270 rad .*degrees"),
    "label without cloud": ("labels/site9_000.txt", lambda p: p.write_text(""), r"has no cloud in"),
    "no list": (TRAIN, lambda p: p.unlink(), r"train.txt is missing \(ImageSets holds pretrain.txt, val.txt\)"),
    "id twice": (TRAIN, lambda p: p.write_text(p.read_text() + "\nsite0_000\n"), r"site0_000 stands twice"),
    "path for an id": (TRAIN, lambda p: p.write_text("../secret\n"), r"'../secret' is no frame id"),
    "list in Latin-1": (TRAIN, lambda p: p.write_bytes(b"\xe9\n"), r"train.txt is not text"),
    "splits overlap": ("ImageSets/val.txt", lambda p: p.write_text("site0_000\n"), r"share 1 frames, .* site0_000"),
    "sequences overlap": ("ImageSets/train.txt", lambda p: p.write_text("site0_000\n"), r"share 1 sequences, .* site0"),
    "infos cut": (INFOS, lambda p: p.write_text(p.read_text()[:200]), r"infos_train.json is not JSON"),
    "infos of a future": (INFOS, lambda p: edit_infos(p, lambda c: c.update(schema=2)), r"no index of schema 1"),
    "infos damaged": (INFOS, edit_first(lambda f: f.pop("annos")), r"is damaged \(KeyError"),
    "infos lead out": (INFOS, edit_first(lambda f: f["point_cloud"].update(path="../x")), r"leads out"),
    "infos twice": (INFOS,
                    lambda p: edit_infos(p, lambda c: c["frames"].append(c["frames"][0])), r"site0_000 stands twice"),
    "infos lack a frame": (INFOS, lambda p: edit_infos(p, lambda c: c["frames"].pop(0)), r"lacks 1 frames of .*train"),
    "pickle alone": (INFOS, lambda p: p.rename(p.with_suffix(".pkl")), r"is a pickle, which is not read"),
}  # fmt: skip


@pytest.mark.fault(15)
@pytest.mark.parametrize(("where", "damage", "says"), CORPUS.values(), ids=CORPUS)
def test_the_validator_names_every_kind_of_damage(root, where, damage, says):
    if where == "ImageSets/train.txt" and "sequences" in says:
        (root / "ImageSets" / "val.txt").write_text("site0_001\n")
    damage(root / where)
    problems = validate(CustomRoot(root), EXPECTED, ("train", "val"))
    found = [one for one in problems if re.search(says, one)]
    assert found, "\n".join(problems) or "nothing was found"
    assert all(str(root) in one for one in found)
    assert all(": " in one for one in found)  # what: remedy


def test_a_sound_root_has_no_problems(root):
    assert validate(CustomRoot(root), EXPECTED) == []


@pytest.mark.fault(15)
def test_all_problems_are_reported_at_once(root, capsys):
    for where, damage, _ in (CORPUS["NaN"], CORPUS["zero size"], CORPUS["id twice"], CORPUS["infos cut"]):
        damage(root / where)
    (root / "points" / "bare_000.npy").write_bytes(b"")
    limits = [str(value) for value in RANGE_M]
    assert prepare_command([str(root), "--features", *XYZI, "--validate", "--range", *limits]) == 2
    said = capsys.readouterr().err
    for word in ("5 problems", "NaN", "above 0 m", "stands twice", "not JSON", "bare_000.npy"):
        assert word in said


READ_AT_START = ("no cloud", "no list", "id twice", "path for an id", "label columns", "label word", "label NaN",
                 "zero size", "negative size", "unknown class", "label in Latin-1", "list in Latin-1",
                 "two clouds")  # fmt: skip
READ_WITH_THE_FRAME = ("cut cloud", "empty file", "page in its place", "objects in it", "one axis", "columns", "NaN",
                       "infinite", "none in range")  # fmt: skip
READ_WITH_INFOS = ("infos cut", "infos of a future", "infos damaged", "infos lead out", "infos twice", "pickle alone")


@pytest.mark.fault(15)
@pytest.mark.parametrize("name", READ_AT_START)
def test_the_data_set_refuses_at_its_start(root, name):
    where, damage, says = CORPUS[name]
    damage(root / where)
    with pytest.raises(DataError, match=says.replace("site0_000.txt: unknown", "unknown")):
        opened(root)


@pytest.mark.fault(15)
@pytest.mark.parametrize("name", READ_WITH_THE_FRAME)
def test_the_data_set_refuses_the_frame(root, name):
    where, damage, says = CORPUS[name]
    damage(root / where)
    frames = opened(root)
    with pytest.raises(DataError, match=says):
        frames[0]
    assert len(frames[1].points) > 0


@pytest.mark.fault(15)
@pytest.mark.parametrize("name", READ_WITH_INFOS)
def test_the_data_set_refuses_broken_infos(root, name):
    where, damage, says = CORPUS[name]
    damage(root / where)
    with pytest.raises(DataError, match=says):
        opened(root, infos=[root / "custom_infos_train.pkl"])


@pytest.mark.fault(15)
def test_infos_that_lack_a_frame_are_refused_with_its_name(root):
    (root / "ImageSets" / "train.txt").write_text("site0_000\nbare_000\n")
    with pytest.raises(DataError, match=r"1 of the 2 frames of train are not in it, the first is bare_000"):
        opened(root, infos=[root / "custom_infos_train.json"])


@pytest.mark.fault(15)
def test_a_cloud_that_changed_since_it_was_prepared_is_refused(root):
    save(root / CLOUD, lambda points: points[:-1])
    with pytest.raises(DataError, match=r"holds 3,079 points, 3,080 when it was prepared"):
        opened(root, infos=[root / "custom_infos_train.json"])[0]


@pytest.mark.fault(15)
def test_an_empty_list_is_refused(root):
    (root / TRAIN).write_text("\n")
    with pytest.raises(DataError, match="the split train has no frames"):
        opened(root)


def test_an_empty_cloud_is_an_empty_frame(root):
    np.save(root / CLOUD, np.zeros((0, 4), np.float32))
    frame = opened(root, training=True, augment=AugmentSettings())[0]
    assert frame.points.shape == (0, 4)
    assert len(frame.boxes) == 2


@pytest.mark.fault(15)
def test_a_damaged_cut_out_is_named(root):
    (root / "gt_database" / "site0_001_excavator_0.bin").write_bytes(b"1234")
    frames = opened(root, training=True, augment=AugmentSettings(paste=PasteSettings({"excavator": 3})))
    with pytest.raises(DataError, match=r"site0_001_excavator_0.bin is missing or has 4 bytes"):
        frames[0]


@pytest.mark.fault(15)
@pytest.mark.parametrize("damage", [lambda e: e.pop("box3d_lidar"), lambda e: e.update(box3d_lidar=[1, 2]),
                                    lambda e: e.update(path="/etc/passwd")])  # fmt: skip
def test_a_damaged_database_is_named(root, damage):
    path = root / "custom_dbinfos_train.json"
    content = json.loads(path.read_text())
    damage(content["excavator"][0])
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"custom_dbinfos_train.json is damaged"):
        opened(root, training=True, augment=AugmentSettings(paste=PasteSettings({"excavator": 3})))


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.bin", b"\0" * 30, "30 bytes, not a multiple of 16"),
        ("a.pcd", b"<html>404</html>", "is no .pcd file"),
        ("a.pcd", b"FIELDS x y z\nPOINTS 1\nDATA ascii\n1 2 3\n", "has the fields x, y, z, not intensity"),
        ("a.pcd", b"FIELDS x y z intensity\nPOINTS 3\nDATA ascii\n1 2 3 4\n", "holds 1 of the 3 points"),
        ("a.pcd", b"FIELDS x y z intensity\nPOINTS 1\nDATA binary_compressed\n", "pcl_convert_pcd_ascii_binary"),
        ("a.pcd", b"FIELDS x y z intensity\nDATA ascii\n1 2 3 4\n", "damaged .pcd file"),
        ("a.pcd", b"FIELDS x y z intensity\nPOINTS 1\nDATA ascii\n1 2 3\n", "damaged .pcd file"),
        ("a.pcd", b"FIELDS x y z intensity\nCOUNT 1 1 1 3\nPOINTS 1\nDATA ascii\n1 2 3 4\n", "several values"),
        ("a.las", b"", "clouds end in .npy"),
    ],
)
def test_a_broken_cloud_is_named(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(
        b"VERSION 0.7\n" + content if name.endswith("pcd") and b"html" not in content else content
    )
    with pytest.raises(DataError, match=says):
        read_cloud(tmp_path / name, XYZI)


@pytest.mark.fault(15)
def test_a_missing_cloud_is_named(tmp_path):
    with pytest.raises(DataError, match=r"a.npy is missing"):
        read_cloud(tmp_path / "a.npy", XYZI)


# --- KITTI's own files ---


CALIB = "R0_rect: 1 0 0 0 1 0 0 0 1\nTr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0\n"
CAR = "Car 0 0 0 1 2 3 4 1.5 1.6 3.9 1 2 10 0.1\n"


def kitti_root(folder, label=CAR, calib=CALIB):
    for kind in ("velodyne", "label_2", "calib"):
        (folder / "training" / kind).mkdir(parents=True)
    (folder / "ImageSets").mkdir()
    (folder / "ImageSets" / "train.txt").write_text("000000\n")
    np.array([[5, 0, 0, 0.5]], "<f4").tofile(folder / "training" / "velodyne" / "000000.bin")
    (folder / "training" / "label_2" / "000000.txt").write_text(label)
    (folder / "training" / "calib" / "000000.txt").write_text(calib)
    return folder


def test_a_kitti_root_gives_frames_and_ignores_its_other_classes(tmp_path):
    other = CAR.replace("Car", "Van") + CAR.replace("Car", "DontCare").replace("1.5 1.6 3.9", "-1 -1 -1")
    frames = opened(kitti_root(tmp_path, CAR + other), classes=("Pedestrian", "Car"))
    frame = frames[0]
    assert frame.labels.tolist() == [2]
    assert frame.boxes[0].tolist() == pytest.approx([10, -1, -2 + 0.75, 3.9, 1.6, 1.5, -(0.1 + np.pi / 2)], abs=1e-5)


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    ("label", "calib", "says"),
    [
        (CAR.replace(" 10 0.1", ""), CALIB, "line 1: 13 columns instead of KITTI's 15"),
        (CAR.replace("Car", "Lorry"), CALIB, "line 1: unknown class 'Lorry'"),
        (CAR.replace("1.6", "0"), CALIB, "must be above 0 m"),
        (CAR, "R0_rect: 1 0 0\n", "R0_rect has 3 numbers, not 3 x 3"),
        (CAR, CALIB.replace("0 -1", "x -1"), "could not convert"),
    ],
)
def test_broken_kitti_files_are_named(tmp_path, label, calib, says):
    with pytest.raises(DataError, match=says):
        opened(kitti_root(tmp_path, label, calib), classes=("Car",))


@pytest.mark.fault(15)
def test_a_kitti_root_is_validated_too(tmp_path):
    root = find_root(kitti_root(tmp_path, CAR.replace("1.6", "0")))
    problems = validate(root, Expected(XYZI, ("Car",), RANGE_M))
    assert len(problems) == 1
    assert "must be above 0 m" in problems[0]
