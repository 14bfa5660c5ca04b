"""Data roots: layouts, clouds, labels, and the frames that a data set gives."""

import shutil

import numpy as np
import pytest
from custom_root_samples import BOXES, XYZI, opened, ring_cloud

from shared.errors import ConfigError, DataError
from voxel_mae.data import AugmentSettings, CustomRoot, PasteSettings, find_root
from voxel_mae.data.clouds import read_cloud
from voxel_mae.data.labels import read_labels
from voxel_mae.data.layout import KittiRoot, NuscenesRoot

# --- frames ---


def test_a_frame_is_what_lies_on_disk(root):
    frame = opened(root)[0]
    cloud = np.load(root / "points" / "site0_000.npy")
    assert frame.frame_id == "site0_000"
    np.testing.assert_array_equal(frame.points, cloud)
    np.testing.assert_allclose(frame.boxes, [box for _, box in BOXES["site0_000"]], rtol=1e-6)
    assert frame.labels.tolist() == [1, 4]
    assert (frame.points.dtype, frame.boxes.dtype, frame.labels.dtype) == (np.float32, np.float32, np.int64)
    assert frame.sensor_xy.tolist() == [0, 0]


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("with_infos", [False, True])
def test_a_frame_has_the_points_and_labels_of_its_id(root, with_infos, labels):
    """Trap T28: the list's order decides, and the infos may have another."""
    (root / "ImageSets" / "train.txt").write_text("site1_000\nsite0_001\nsite0_000\n")
    frames = opened(root, infos=[root / "custom_infos_train.pkl"] if with_infos else [], labels=labels)
    assert frames.frame_ids == ["site1_000", "site0_001", "site0_000"]
    for frame in (frames[i] for i in range(3)):
        np.testing.assert_array_equal(frame.points, np.load(root / "points" / f"{frame.frame_id}.npy"))
        if not labels:
            assert frame.boxes is None
            continue
        np.testing.assert_allclose(
            frame.boxes.reshape(-1, 7), np.reshape([b for _, b in BOXES[frame.frame_id]], (-1, 7))
        )


def test_a_part_of_the_prepared_frames_needs_no_other_infos(root):
    (root / "ImageSets" / "train_5.txt").write_text("site0_001\n")
    assert opened(root, "train_5", infos=[root / "custom_infos_train.json"]).frame_ids == ["site0_001"]


def test_frames_without_labels_are_for_pretraining(root):
    """Trap T26."""
    frames = opened(root, "pretrain", labels=False, training=True, augment=AugmentSettings.pretraining())
    bare = frames[3]
    assert (bare.frame_id, bare.boxes, bare.labels) == ("bare_000", None, None)
    assert len(bare.points) > 2000
    with pytest.raises(DataError, match=r"1 of the 4 frames of pretrain have no labels, the first is bare_000"):
        opened(root, "pretrain")


def test_a_frame_without_boxes_stays_itself_in_training(root):
    """Trap T26: OpenPCDet would draw another in its place."""
    frame = opened(root, training=True, augment=AugmentSettings())[(4, 2)]
    assert (frame.frame_id, frame.boxes.shape, frame.labels.shape) == ("site1_000", (0, 7), (0,))


@pytest.mark.parametrize("epoch", [0, 3])
def test_points_are_the_same_with_and_without_labels(root, epoch):
    """Trap T13's part of the data: a pretraining input does not depend on boxes."""
    settings = AugmentSettings()
    with_labels = opened(root, training=True, augment=settings)
    without = opened(root, training=True, augment=settings, labels=False)
    np.testing.assert_array_equal(with_labels[(epoch, 0)].points, without[(epoch, 0)].points)


def test_pasting_changes_no_other_draw(root):
    """Flip, turn, scale and move are the same whether objects are pasted or not: the sensor's place shows them."""
    settings = {"training": True, "sensor_xy": (3.0, 1.0)}
    pasting = opened(root, augment=AugmentSettings(paste=PasteSettings({"roller": 2})), **settings)
    plain = opened(root, augment=AugmentSettings(), **settings)
    assert (len(pasting[(1, 2)].boxes), len(plain[(1, 2)].boxes)) == (1, 0)
    for epoch in range(4):
        np.testing.assert_array_equal(pasting[(epoch, 2)].sensor_xy, plain[(epoch, 2)].sensor_xy)


def test_no_label_file_is_opened_without_labels(root):
    shutil.rmtree(root / "labels")
    assert opened(root, labels=False)[0].boxes is None


def test_only_the_named_features_are_given(root):
    frame = opened(root, point_features=("x", "y", "z"), source_features=XYZI)[0]
    np.testing.assert_array_equal(frame.points, np.load(root / "points" / "site0_000.npy")[:, :3])


def test_points_and_boxes_outside_the_range_are_left_out(root):
    narrow = (-7.0, -7.0, -3.0, 7.0, 7.0, 5.0)
    frame = opened(root, range_m=narrow)[0]
    assert np.abs(frame.points[:, :2]).max() <= 7
    assert frame.labels.tolist() == [1, 4]
    assert opened(root, range_m=(0.0, -7.0, -3.0, 7.0, 7.0, 5.0))[0].labels.tolist() == [1]
    kept = opened(root, range_m=(0.0, -7.0, -3.0, 7.0, 7.0, 5.0), remove_outside_boxes=False)[0]
    assert kept.labels.tolist() == [1, 4]


def test_training_shuffles_points_and_evaluation_does_not(root):
    still, moved = opened(root)[0].points, opened(root, training=True)[0].points
    assert not np.array_equal(still, moved)
    np.testing.assert_array_equal(np.sort(still, 0), np.sort(moved, 0))


def test_augmentation_is_for_training_alone(root):
    np.testing.assert_array_equal(opened(root, augment=AugmentSettings())[0].points, opened(root)[0].points)


def test_draws_follow_from_seed_epoch_and_index(root):
    settings = {"training": True, "augment": AugmentSettings()}
    frames = opened(root, **settings)
    first = frames[(2, 1)].points
    assert np.array_equal(opened(root, **settings)[(2, 1)].points, first)
    assert not np.array_equal(frames[(3, 1)].points, first)
    assert not np.array_equal(opened(root, seed=1, **settings)[(2, 1)].points, first)
    assert np.array_equal(frames[0].points, frames[(0, 0)].points)


def test_truth_is_the_frame_s_without_its_points(root):
    frames = opened(root)
    boxes, labels = frames.truth(0)
    np.testing.assert_array_equal(boxes, frames[0].boxes)
    assert labels.tolist() == [1, 4]
    assert frames.names_of([0, (3, 2)]) == "site0_000, site1_000"


def test_ignored_classes_are_left_out_and_others_are_a_mistake(root):
    kept = opened(root, classes=("dumptruck", "excavator"), ignored_classes=("roller",))[0]
    assert kept.labels.tolist() == [1]
    with pytest.raises(DataError, match="frame site0_000: unknown class 'roller'; CLASS_NAMES are dumptruck"):
        opened(root, classes=("dumptruck", "excavator"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"classes": ()}, "at least one class"),
        ({"classes": ("roller", "roller")}, "each once"),
        ({"point_features": ("y", "x", "z")}, "begins with x, y, z"),
        ({"point_features": (*XYZI, "ring"), "source_features": XYZI}, "'ring' is not among the columns"),
        ({"training": True, "augment": AugmentSettings(paste=PasteSettings({"dozer": 5}))}, "names 'dozer'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(root, changes, says):
    """Trap T24's part of the data is the last."""
    with pytest.raises(ConfigError, match=says):
        opened(root, **changes)


# --- other layouts ---


def test_layouts_are_told_apart(root, tmp_path):
    (tmp_path / "kitti" / "training" / "velodyne").mkdir(parents=True)
    (tmp_path / "nuscenes" / "samples" / "LIDAR_TOP").mkdir(parents=True)
    assert type(find_root(root)) is CustomRoot
    assert type(find_root(tmp_path / "kitti")) is KittiRoot
    assert type(find_root(tmp_path / "nuscenes")) is NuscenesRoot
    with pytest.raises(DataError, match="is no data root: looked for points, training/velodyne"):
        find_root(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        find_root(tmp_path / "nowhere")


def test_every_cloud_is_a_split_of_its_own(root):
    assert opened(root, "all", labels=False).frame_ids == [
        "bare_000",
        "site0_000",
        "site0_001",
        "site1_000",
        "site2_000",
    ]


@pytest.mark.parametrize("kind", ["npy", "bin", "pcd ascii", "pcd binary"])
def test_a_cloud_reads_the_same_from_every_format(tmp_path, kind):
    points = ring_cloud(50)
    path = tmp_path / f"a.{kind.split()[0]}"
    header = "# .PCD v0.7\nVERSION 0.7\nFIELDS intensity x y z\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\n"
    header += f"POINTS {len(points)}\n"
    table = points[:, [3, 0, 1, 2]]
    if kind == "npy":
        np.save(path, points.astype(np.float64))
    elif kind == "bin":
        points.tofile(path)
    elif kind == "pcd ascii":
        rows = "\n".join(" ".join(map(repr, row)) for row in table.astype(float).tolist())
        path.write_text(f"{header}DATA ascii\n{rows}\n")
    else:
        path.write_bytes(f"{header}DATA binary\n".encode() + table.tobytes())
    np.testing.assert_array_equal(read_cloud(path, XYZI), points)


def test_places_without_a_return_are_left_out(tmp_path):
    points = ring_cloud(10)
    points[3] = 0
    points[4, :3] = 0
    np.save(tmp_path / "a.npy", points)
    assert len(read_cloud(tmp_path / "a.npy", XYZI)) == 8
    body = b"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nPOINTS 2\nDATA ascii\n1 2 3\nnan nan nan\n"
    (tmp_path / "a.pcd").write_bytes(body)
    assert read_cloud(tmp_path / "a.pcd", ("x", "y", "z")).tolist() == [[1, 2, 3]]


def test_labels_may_be_separated_by_any_white_space(tmp_path):
    """Trap T27."""
    path = tmp_path / "a.txt"
    path.write_text("1  2 3\t4 5 6   0.5  roller \r\n\n")
    labels = read_labels(path)
    assert labels.names.tolist() == ["roller"]
    assert labels.boxes.tolist() == [[1, 2, 3, 4, 5, 6, 0.5]]
    path.write_text("")
    assert len(read_labels(path)) == 0
