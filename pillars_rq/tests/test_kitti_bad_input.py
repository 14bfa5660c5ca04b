"""Broken KITTI files: every reader names file and remedy, and --validate lists all of them at once."""

import shutil

import numpy as np
import pytest

from pillars_rq.kitti import KittiDataset, find_kitti
from pillars_rq.kitti.prepare import main, prepare
from pillars_rq.kitti.validate import validate
from pillars_rq.world import WorldSpec, write_world
from shared.errors import DataError


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = write_world(
        tmp_path_factory.mktemp("bad") / "root", WorldSpec(train_frames=3, val_frames=1, test_frames=1)
    )
    prepare(find_kitti(folder), say=lambda line: None)
    return folder


@pytest.fixture
def root(world, tmp_path):
    return shutil.copytree(world, tmp_path / "root")


def edit(path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def set_word(path, column: int, value: str) -> None:
    """Change a word of a label file's first line."""
    first, *rest = path.read_text().splitlines()
    words = first.split()
    words[column] = value
    path.write_text("\n".join([" ".join(words), *rest]) + "\n")


def overwrite(path, values: dict[tuple[int, int], float]) -> None:
    points = np.fromfile(path, "<f4").reshape(-1, 4)
    for place, value in values.items():
        points[place] = value
    points.tofile(path)


T = "training"
CORPUS = {
    "cut scan": (f"{T}/velodyne/000000.bin", lambda p: p.write_bytes(p.read_bytes()[:1603]), "not a multiple of 16"),
    "empty scan": (f"{T}/velodyne/000000.bin", lambda p: p.write_bytes(b""), "is empty"),
    "NaN": (f"{T}/velodyne/000000.bin", lambda p: overwrite(p, {(7, 2): np.nan}), "the first is number 7"),
    "millimetres": (f"{T}/velodyne/000000.bin", lambda p: overwrite(p, {(3, 0): 41000.0}), "millimetres"),
    "no scan": (f"{T}/velodyne/000000.bin", lambda p: (p.unlink(), _drop_reduced(p)), "lacks 1 of the 3 scans"),
    "no calib": (f"{T}/calib/000001.txt", lambda p: p.unlink(), "is missing"),
    "calib without P2": (f"{T}/calib/000001.txt", lambda p: edit(p, "P2:", "Q2:"), "lacks P2"),
    "calib cut": (f"{T}/calib/000001.txt", lambda p: edit(p, "R0_rect: ", "R0_rect: 1.0 "), "not the 9 of a 3x3"),
    "calib word": (f"{T}/calib/000001.txt", lambda p: edit(p, "R0_rect: ", "R0_rect: x "), "not a number"),
    "no image": (f"{T}/image_2/000002.png", lambda p: p.unlink(), "is missing"),
    "broken image": (f"{T}/image_2/000002.png", lambda p: p.write_bytes(b"<html>404</html>"), "is no whole image"),
    "cut image": (f"{T}/image_2/000002.png", lambda p: p.write_bytes(p.read_bytes()[:900]), "is no whole image"),
    "no label": (f"{T}/label_2/000001.txt", lambda p: p.unlink(), "is missing"),
    "label columns": (f"{T}/label_2/000001.txt", lambda p: p.write_text("Car 0 0 0 1 2 3 4\n"), "8 columns"),
    "label class": (f"{T}/label_2/000001.txt", lambda p: set_word(p, 0, "Automobile"), "unknown class 'Automobile'"),
    "label number": (f"{T}/label_2/000001.txt", lambda p: set_word(p, 11, "nan"), "is not finite"),
    "label word": (f"{T}/label_2/000001.txt", lambda p: set_word(p, 11, "far"), "could not convert"),
    "label without box": (f"{T}/label_2/000001.txt", lambda p: set_word(p, 8, "-1"), "must be above 0 m"),
    "label in Latin-1": (f"{T}/label_2/000001.txt", lambda p: p.write_bytes(b"V\xe9lo 0 0\n"), "is not text"),
    "2D box reversed": (f"{T}/label_2/000001.txt", lambda p: (set_word(p, 4, "9"), set_word(p, 6, "8")), "ends before"),
    "2D box outside": (f"{T}/label_2/000001.txt", lambda p: set_word(p, 6, "1900"), "leaves the 1242x375 image"),
    "size in millimetres": (f"{T}/label_2/000001.txt", lambda p: set_word(p, 10, "3900"), "millimetres or centimetres"),
    "id twice": ("ImageSets/train.txt", lambda p: p.write_text(p.read_text() + "000000\n"), "000000 stands twice"),
    "odd id": ("ImageSets/train.txt", lambda p: p.write_text("frame7\n"), "'frame7' is not a frame id"),
    "unknown id": ("ImageSets/train.txt", lambda p: p.write_text(p.read_text() + "000777\n"), "000777.bin"),
    "splits overlap": ("ImageSets/val.txt", lambda p: p.write_text("000000\n"), "share 1 frames"),
    "label without scan": (f"{T}/label_2/000009.txt", lambda p: p.write_text(""), "has no scan"),
}  # fmt: skip


def _drop_reduced(path):
    (path.parent.with_name("velodyne_reduced") / path.name).unlink()


def test_a_good_root_has_no_problems(root, capsys):
    assert validate(find_kitti(root)) == []
    assert main(["--data_root", str(root), "--validate"]) == 0
    assert "no problems" in capsys.readouterr().out


@pytest.mark.fault(15)
@pytest.mark.parametrize("name", CORPUS)
def test_the_validator_finds_it_and_names_the_file(root, name, capsys):
    path, spoil, said = CORPUS[name]
    spoil(root / path)
    problems = validate(find_kitti(root))
    assert any(said in problem and root.name in problem for problem in problems), problems
    assert main(["--data_root", str(root), "--validate"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.fault(15)
def test_all_are_reported_at_once(root):
    chosen = ("cut scan", "calib without P2", "broken image", "label class", "splits overlap")
    for name in chosen:
        path, spoil, _ = CORPUS[name]
        spoil(root / path)
    problems = validate(find_kitti(root))
    for name in chosen:
        assert any(CORPUS[name][2] in problem for problem in problems), name


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    "name", ["cut scan", "NaN", "no calib", "no image", "label class", "label without box", "id twice"]
)
def test_preparation_stops_with_the_same_words(root, name, capsys):
    path, spoil, said = CORPUS[name]
    spoil(root / path)
    assert main(["--data_root", str(root)]) == 2
    assert said in capsys.readouterr().err


# --- prepared files ---


@pytest.mark.fault(15)
def test_an_unprepared_root_says_what_to_run(root):
    (root / "kitti_infos_train.json").rename(root / "kitti_infos_train.pkl")
    with pytest.raises(
        DataError, match=r"run prepare_kitti\.py --data_root .*pickle of another code base and is not read"
    ):
        KittiDataset(root, "train", train=True)


@pytest.mark.fault(15)
@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 99, "frames": {}}', '{"schema": 1, "frames": {"000000": {}}}'])
def test_a_damaged_index_is_named(root, text):
    (root / "kitti_infos_train.json").write_text(text)
    with pytest.raises(DataError, match=r"kitti_infos_train\.json .*prepare_kitti\.py"):
        KittiDataset(root, "train", train=True)


@pytest.mark.fault(15)
def test_a_cloud_that_changed_since_preparation_is_refused(root):
    path = root / "training/velodyne_reduced/000000.bin"
    path.write_bytes(path.read_bytes()[:-16])
    with pytest.raises(DataError, match="when it was prepared: run prepare_kitti"):
        KittiDataset(root, "train", train=True)[0]


@pytest.mark.fault(15)
@pytest.mark.parametrize("make", [lambda p: None, lambda p: (p / "a").mkdir(parents=True)])
def test_a_folder_that_is_no_kitti(tmp_path, make):
    make(tmp_path / "x")
    with pytest.raises(DataError, match="KITTI root"):
        find_kitti(tmp_path / "x")


@pytest.mark.fault(15)
def test_two_roots_are_ambiguous(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "training" / "velodyne").mkdir(parents=True)
    with pytest.raises(DataError, match=r"several KITTI roots \(a, b\)"):
        find_kitti(tmp_path)


@pytest.mark.fault(15)
def test_a_part_of_kitti_must_be_asked_for(root, capsys):
    shutil.rmtree(root / "ImageSets")
    assert main(["--data_root", str(root)]) == 2
    assert "--only_present" in capsys.readouterr().err
    assert main(["--data_root", str(root), "--only_present"]) == 0
