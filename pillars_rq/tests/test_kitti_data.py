"""KITTI on disk: preparation, index, database, frames; the files are those of a small embedded world."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from pillars_rq.boxes import corners, points_in_boxes
from pillars_rq.kitti import CLASSES, KittiDataset, collate, find_kitti
from pillars_rq.kitti.augmentation import AugmentationSettings
from pillars_rq.kitti.calibration import (
    Calibration,
    boxes_to_camera,
    boxes_to_lidar,
    clip_to_image,
    image_boxes,
    read_calibration,
)
from pillars_rq.kitti.clouds import in_view, read_points
from pillars_rq.kitti.database import GroundTruthDatabase
from pillars_rq.kitti.infos import read_infos
from pillars_rq.kitti.labels import Annotations, difficulty, lines, read_labels
from pillars_rq.kitti.prepare import main, prepare
from pillars_rq.kitti.splits import usual_split
from pillars_rq.world import WorldSpec, write_world
from shared.errors import ConfigError, DataError

SPEC = WorldSpec(seed=1, train_frames=4, val_frames=2, test_frames=1)
RANGE_M = (0.0, -39.68, -3.0, 69.12, 39.68, 1.0)
SETTINGS = AugmentationSettings(RANGE_M)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A prepared root; tests that change it copy it."""
    folder = write_world(tmp_path_factory.mktemp("kitti") / "root", SPEC)
    prepare(find_kitti(folder), say=lambda line: None)
    return folder


@pytest.fixture
def lidar_only(prepared, tmp_path):
    """The same frames without calibration and images, labels rewritten for the plain exchange of axes."""
    folder = tmp_path / "lidar_only"
    for kind in ("velodyne", "label_2"):
        shutil.copytree(prepared / "training" / kind, folder / "training" / kind)
    shutil.copytree(prepared / "ImageSets", folder / "ImageSets")
    for path in (folder / "training" / "label_2").glob("*.txt"):
        found = read_labels(path).without_dont_care()
        calib = read_calibration(prepared / "training" / "calib" / path.name)
        boxes = boxes_to_lidar(found.location, found.dimensions, found.rotation_y, calib)
        location, _, _ = boxes_to_camera(boxes, Calibration.lidar_only())
        blind = found.with_columns(location=location, bbox=np.full((len(found), 4), -1), alpha=np.full(len(found), -10))
        path.write_text("".join(line + "\n" for line in lines(blind)))
    return folder


# --- calibration and labels ---


def test_boxes_go_to_the_camera_and_back(prepared):
    calib = read_calibration(prepared / "training" / "calib" / "000000.txt")
    boxes = np.random.default_rng(0).uniform(-3, 3, (20, 7)) + np.array([30, 0, 0, 5, 5, 5, 0])
    np.testing.assert_allclose(boxes_to_lidar(*boxes_to_camera(boxes, calib), calib), boxes, atol=1e-9)


def test_the_exchange_of_axes_is_a_right_handed_turn():
    matrix = Calibration.lidar_only().lidar_to_camera
    assert np.linalg.det(matrix[:3, :3]) == pytest.approx(1)
    np.testing.assert_allclose(Calibration.lidar_only().to_camera(np.array([[10.0, 2, -1]])), [[-2, 1, 10]])


def test_image_boxes_of_boxes_ahead_are_the_projected_corners(prepared):
    calib = read_calibration(prepared / "training" / "calib" / "000000.txt")
    plain = Calibration({**calib.matrices, "R0_rect": np.eye(4)})
    boxes = np.array([[20.0, 3, -1.6, 1.6, 3.9, 1.5, 0.4]])
    pixels = plain.project(plain.to_camera(corners(boxes)[0]))
    np.testing.assert_allclose(image_boxes(boxes, plain)[0], [*pixels.min(0), *pixels.max(0)])


def test_a_box_that_reaches_behind_the_camera_is_cut_and_one_behind_is_gone(prepared):
    calib = read_calibration(prepared / "training" / "calib" / "000000.txt")
    beside = [0.5, 2.5, -1.7, 1.6, 4.0, 1.5, -np.pi / 2]
    x1, _, x2, y2 = clip_to_image(image_boxes(np.array([beside]), calib), (375, 1242))[0]
    assert x1 == 0 and 0 < x2 < 620 and y2 == 375
    assert np.isnan(image_boxes(np.array([[-20.0, 0, -1, 1.6, 4, 1.5, 0]]), calib)).all()
    assert image_boxes(np.zeros((0, 7)), calib).shape == (0, 4)
    assert image_boxes(np.zeros((0, 7)), calib).shape == (0, 4)  # a frame without detections


def test_label_lines_round_trip(prepared, tmp_path):
    path = prepared / "training" / "label_2" / "000000.txt"
    found = read_labels(path)
    (tmp_path / "again.txt").write_text("".join(line + "\n" for line in lines(found)))
    assert (tmp_path / "again.txt").read_text() == path.read_text()
    words = path.read_text().split()
    assert found.dimensions[0].tolist() == [float(words[i]) for i in (10, 8, 9)], "l, h, w of h, w, l"


@pytest.mark.parametrize(
    "height, occluded, truncated, level",
    [(41, 0, 0.0, 0), (40, 0, 0.0, 1), (41, 1, 0.0, 1), (41, 0, 0.16, 1), (26, 2, 0.5, 2), (25, 0, 0.0, -1),
     (99, 3, 0.0, -1), (99, 0, 0.51, -1), (41, 0, 0.15, 0)],
)  # fmt: skip
def test_difficulty(height, occluded, truncated, level):
    one = Annotations(
        ["Car"], [truncated], [occluded], [0], [[0, 0, 50, height]], [[4, 1.5, 1.6]], [[0, 1, 9]], [0], [0]
    )
    assert difficulty(one).tolist() == [level]
    assert difficulty(one.with_columns(name=np.array(["DontCare"]))).tolist() == [-1]


# --- preparation ---


def test_prepared_files(prepared):
    root = find_kitti(prepared)
    assert [len(read_infos(root, split)) for split in ("train", "val", "trainval", "test")] == [4, 2, 6, 1]
    assert not list(prepared.rglob("*.pkl"))
    info = read_infos(root, "train")[0]
    assert info.points_path == "training/velodyne_reduced/000000.bin" and info.image_hw == (375, 1242)
    whole = read_points(prepared / "training" / "velodyne" / "000000.bin")
    reduced = read_points(prepared / info.points_path)
    assert len(reduced) == info.num_points < len(whole)
    pixels = info.calib.project(info.calib.to_camera(reduced[:, :3]))
    assert (pixels > 0).all() and (pixels < (1242, 375)).all()


def test_the_index_counts_the_points_of_each_box(prepared):
    info = read_infos(find_kitti(prepared), "train")[0]
    found = info.annotations
    real = found.name != "DontCare"
    boxes = boxes_to_lidar(found.location, found.dimensions, found.rotation_y, info.calib)[real]
    counts = points_in_boxes(read_points(prepared / info.points_path), boxes).sum(0)
    assert found.num_points[real].tolist() == counts.tolist() and (found.num_points[~real] == -1).all()
    assert counts.max() > 50


def test_the_database_holds_points_relative_to_their_boxes(prepared):
    entries = json.loads((prepared / "kitti_dbinfos_train.json").read_text())
    assert sum(len(found) for found in entries.values()) == len(list((prepared / "kitti_gt_database").glob("*.bin")))
    entry = entries["Car"][0]
    points = read_points(prepared / entry["path"])
    at_origin = np.array([[0, 0, 0, *entry["box3d_lidar"][3:]]])
    grown = at_origin + np.array([0, 0, -0.01, 0.02, 0.02, 0.02, 0])
    assert len(points) == entry["num_points_in_gt"] and points_in_boxes(points, grown).all()


def test_the_database_offers_only_objects_worth_pasting(prepared):
    database = GroundTruthDatabase(find_kitti(prepared), CLASSES)
    for name, least in (("Car", 5), ("Pedestrian", 10), ("Cyclist", 10)):
        assert all(e["difficulty"] != -1 and e["num_points_in_gt"] >= least for e in database.entries[name])
    drawn = database.draw("Car", 3, np.random.default_rng(0))
    assert all(points_in_boxes(cloud, drawn.boxes[i : i + 1]).mean() > 0.9 for i, cloud in enumerate(drawn.clouds))
    assert len(np.unique(drawn.boxes, axis=0)) == 3 and set(drawn.labels) == {2}
    assert len(database.draw("Car", 10_000, np.random.default_rng(0)).boxes) == len(database.entries["Car"])
    assert len(database.draw("Car", 0, np.random.default_rng(0)).boxes) == 0


def test_workers_change_nothing(prepared, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(prepared, again, ignore=shutil.ignore_patterns("*.json", "velodyne_reduced", "kitti_gt_database"))
    assert main(["--data_root", str(again), "--workers", "2"]) == 0
    for name in ("kitti_infos_train.json", "kitti_dbinfos_train.json", "training/velodyne_reduced/000002.bin"):
        assert (again / name).read_bytes() == (prepared / name).read_bytes(), name


def test_the_root_may_be_named_by_its_parent(prepared):
    assert find_kitti(prepared.parent).path == prepared


def test_lidar_only_data_stay_whole_and_keep_their_boxes(lidar_only, prepared, capsys):
    (lidar_only / "ImageSets" / "test.txt").unlink()
    assert main(["--data_root", str(lidar_only)]) == 0
    said = capsys.readouterr().out
    assert "no calib and no image_2: clouds stay whole (no frustum crop), no 2D AP" in said and "test: left out" in said
    frame, like = (KittiDataset(root, "train", train=True)[0] for root in (lidar_only, prepared))
    assert frame.calib is None and frame.image_hw is None and len(frame.points) > len(like.points)
    np.testing.assert_allclose(frame.boxes, like.boxes, atol=0.02)  # the files hold centimetres
    assert (frame.annotations.difficulty >= 0).any()


# --- frames ---


def test_a_frame(prepared):
    frames = KittiDataset(prepared, "train", train=True)
    frame = frames[0]
    assert frames.names_of([(3, 0), 1]) == f"{frame.frame_id}, {frames[1].frame_id}"
    assert frame.points.dtype == np.float32 and frame.points.shape[1] == 4 and frame.boxes.dtype == np.float32
    assert len(frame.boxes) == len(frame.labels) == len(frame.names) and "DontCare" not in frame.names
    for name, label in zip(frame.names, frame.labels, strict=True):
        assert label == (CLASSES.index(name) if name in CLASSES else -1)
    assert collate([frame]) == [frame]


def test_other_classes_keep_label_minus_one(prepared):
    only_cars = [KittiDataset(prepared, "train", ("Car",), train=True)[i] for i in range(4)]
    labels = np.concatenate([frame.labels for frame in only_cars])
    names = np.concatenate([frame.names for frame in only_cars])
    assert set(labels) == {-1, 0} and ((labels == 0) == (names == "Car")).all()


def test_the_unlabelled_test_split(prepared):
    frame = KittiDataset(prepared, "test", train=False)[0]
    assert frame.boxes is None and frame.labels is None and frame.annotations is None and frame.calib.projects
    with pytest.raises(DataError, match="cannot train"):
        KittiDataset(prepared, "test", train=True)
    with pytest.raises(DataError, match="nothing can be evaluated"):
        KittiDataset(prepared, "test", train=False).annotations()


def test_what_is_done_to_a_frame_reaches_no_other(prepared):
    dataset = KittiDataset(prepared, "val", train=False)
    before = dataset[0].annotations.as_json()
    assert "DontCare" in {name for found in dataset.annotations() for name in found.name} | {"DontCare"}
    spoiled = dataset[0]
    spoiled.annotations.bbox[:] = 0
    spoiled.boxes[:] = 0
    dataset.annotations()[0].name[:] = "Van"
    assert dataset[0].annotations.as_json() == before


def test_samples_follow_from_seed_epoch_and_index(prepared):
    def dataset(seed: int) -> KittiDataset:
        return KittiDataset(prepared, "train", train=True, augment=SETTINGS, seed=seed)

    one, again = dataset(0), dataset(0)
    again[(0, 1)], again[(5, 0)]
    assert np.array_equal(one[(3, 2)].points, again[(3, 2)].points)
    for other in (again[(4, 2)], dataset(1)[(3, 2)]):
        assert not np.array_equal(one[(3, 2)].points, other.points)
    assert np.array_equal(one[2].points, one[(0, 2)].points)


def test_only_pasting_opens_the_database(prepared, tmp_path):
    folder = tmp_path / "root"
    shutil.copytree(prepared, folder, ignore=shutil.ignore_patterns("kitti_gt_database", "kitti_dbinfos*"))
    assert len(KittiDataset(folder, "val", train=False)[0].points)
    assert len(
        KittiDataset(folder, "train", train=True, augment=AugmentationSettings(RANGE_M, paste_up_to={}))[0].points
    )
    with pytest.raises(DataError, match=r"kitti_dbinfos_train\.json is missing: run prepare_kitti\.py"):
        KittiDataset(folder, "train", train=True, augment=SETTINGS)


def test_some_frames_of_a_split(prepared):
    dataset = KittiDataset(prepared, "train", train=True)
    narrowed = dataset.frames_of([3, 1])
    assert [narrowed[0].frame_id, narrowed[1].frame_id] == ["000003", "000001"]
    assert len(narrowed) == 2 and len(dataset) == 4


@pytest.mark.parametrize("classes", [("Car", "Bike"), (), ("Car", "Car"), ("DontCare",)])
def test_wrong_classes_are_refused(prepared, classes):
    with pytest.raises(ConfigError, match="classes"):
        KittiDataset(prepared, "train", classes, train=True)


# --- the usual split, and real frames ---


def test_the_usual_split_has_its_sizes():
    train, val, both = (usual_split(name) for name in ("train", "val", "trainval"))
    assert (len(train), len(val), len(both), len(usual_split("test"))) == (3712, 3769, 7481, 7518)
    assert sorted(train + val) == both
    assert {"000000", "000003"} <= set(train) and {"000001", "000005", "000006", "000008", "000134"} <= set(val)


@pytest.mark.real
def test_the_usual_split_is_the_published_one(real_samples):
    for split in ("train", "val", "trainval", "test"):
        assert usual_split(split) == (real_samples / "pointpillars" / f"imagesets_{split}.txt").read_text().split()


@pytest.mark.real
@pytest.mark.parametrize("frame", ["000000", "000001"])
def test_the_frustum_crop_gives_the_published_clouds(real_samples, frame):
    folder = real_samples / "kitti" / "training"
    calib = read_calibration(folder / "calib" / f"{frame}.txt")
    with Image.open(folder / "image_2" / f"{frame}.png") as image:
        image_hw = image.height, image.width
    whole = read_points(folder / "velodyne" / f"{frame}.bin")
    expected = read_points(folder / "velodyne_reduced" / f"{frame}.bin")
    assert np.array_equal(whole[in_view(whole, calib, image_hw)], expected)
    if frame == "000000":  # the image is smaller than most: the usual size keeps too much
        assert in_view(whole, calib, (375, 1242)).sum() == 20_799


@pytest.mark.real
def test_real_frames_prepare_and_read(real_samples, tmp_path):
    shutil.copytree(real_samples / "kitti", tmp_path / "kitti", ignore=shutil.ignore_patterns("000006*", "*.md"))
    for path in (tmp_path / "kitti").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (tmp_path / "kitti").chmod(0o755)
    counts = prepare(find_kitti(tmp_path), only_present=True, say=lambda line: None)
    assert counts == {"train": 2, "val": 4, "trainval": 6, "test": 1}
    frames = {frame.frame_id: frame for frame in KittiDataset(tmp_path, "val", train=False)}
    frame = frames["000134"]
    assert len(frame.points) == 19_097 and frame.image_hw == (370, 1224)
    assert sorted(frame.names) == ["Car"] * 3 + ["Cyclist"] * 5 + ["Pedestrian"] * 7
    inside = points_in_boxes(frame.points, frame.boxes).sum(0)
    assert inside[1:6].tolist() == pytest.approx([160, 80, 91, 36, 31], abs=4)  # counted in camera boxes at the source
    assert len(frames["000001"].points) == 18_630
