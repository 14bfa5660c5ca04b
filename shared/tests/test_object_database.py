"""What is cut out comes back in place; empty boxes are left out; objects are drawn without replacement."""

import json

import numpy as np
import pytest

from shared.errors import StorageError
from shared.object_database import cut_out, drawn, write_database

POINTS = np.array([[10, 5, 1, 7], [11, 5, 1, 8], [-4, 2, 0, 9]], np.float32)
BOXES = np.array([[10.5, 5, 1, 2, 1, 1, 0], [50, 50, 0, 1, 1, 1, 0], [-4, 2, 0.5, 1, 1, 2, 0.3]])
INSIDE = np.array([[True, False, False], [True, False, False], [False, False, True]])


@pytest.fixture
def index(tmp_path):
    """The index of a frame with two objects and a box without points."""
    found = cut_out(tmp_path, tmp_path / "objects" / "7", POINTS, BOXES, INSIDE, ["car", "car", "van"],
                    lambda number: {"gt_idx": number})  # fmt: skip
    assert write_database(tmp_path / "objects", tmp_path / "index.json", found) == {"car": 1, "van": 1}
    return json.loads((tmp_path / "index.json").read_text())


def test_entries_say_what_lies_where(index):
    assert index["car"] == [{"name": "car", "path": "objects/7_car_0.bin", "gt_idx": 0,
                             "box3d_lidar": BOXES[0].tolist(), "num_points_in_gt": 2}]  # fmt: skip
    assert [entry["path"] for entry in index["van"]] == ["objects/7_van_2.bin"]


def test_objects_come_back_in_place(index, tmp_path):
    stored = lambda entry: np.fromfile(tmp_path / entry["path"], "<f4").reshape(-1, 4)  # noqa: E731
    assert stored(index["car"][0])[:, 0].tolist() == [-0.5, 0.5]  # from the box's own point
    boxes, (cloud,) = drawn(index["car"], 3, np.random.default_rng(0), stored)
    np.testing.assert_array_equal(boxes, BOXES[:1])
    np.testing.assert_array_equal(cloud, POINTS[:2])


def test_objects_are_drawn_without_replacement(index):
    entries = [{**index["car"][0], "box3d_lidar": [float(number)] * 7} for number in range(5)]
    boxes, clouds = drawn(entries, 9, np.random.default_rng(0), lambda _: np.zeros((2, 4), np.float32))
    assert len(set(boxes[:, 0])) == len(clouds) == 5
    assert len(drawn(entries, 2, np.random.default_rng(0), lambda _: np.zeros((2, 4)))[0]) == 2
    assert drawn([], 4, np.random.default_rng(0), lambda _: None)[0].shape == (0, 7)


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write_database(tmp_path / "file", tmp_path / "index.json", [])
