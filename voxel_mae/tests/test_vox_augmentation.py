"""Augmentation: points stay in their boxes, OpenPCDet's flips, pasting without overlap, nothing given is changed."""

import math

import numpy as np
import pytest
from custom_root_samples import BOXES, CLASSES, XYZI, filled, ring_cloud, write_root

from shared.errors import ConfigError
from voxel_mae.boxes import bev_overlap_m2, limit_heading, points_in_boxes
from voxel_mae.data import AugmentSettings, CustomRoot, PasteSettings
from voxel_mae.data.augmentation import Sample, augment, flip, free_of_overlap, move, paste_objects, scale, turn
from voxel_mae.data.database import GroundTruthDatabase
from voxel_mae.data.prepare import prepare

BOX = np.array([[6.0, 2.0, 0.5, 4.0, 1.5, 2.0, 0.3]])


def sample_of(boxes=BOX, sensor=(1.0, -2.0)):
    clouds = [filled(box, 50) for box in boxes]
    return Sample(
        np.concatenate([ring_cloud(500), *clouds]), boxes.copy(), np.ones(len(boxes), np.int64), np.array(sensor)
    )


STEPS = {
    "flip x": lambda s: flip(s, "x"),
    "flip y": lambda s: flip(s, "y"),
    "turn": lambda s: turn(s, 0.7),
    "scale": lambda s: scale(s, 1.05),
    "move": lambda s: move(s, np.array([1.0, -2.0, 0.5])),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_points_stay_in_their_boxes_and_the_rest_outside(step):
    before = sample_of()
    after = step(before)
    np.testing.assert_array_equal(
        points_in_boxes(before.points, before.boxes), points_in_boxes(after.points, after.boxes)
    )
    assert not np.array_equal(before.points, after.points)


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_what_is_given_stays_as_it_is_and_the_sensor_moves_along(step):
    before, same = sample_of(), sample_of()
    before.points[0, :2] = same.points[0, :2] = before.sensor_xy
    after = step(before)
    np.testing.assert_array_equal(before.points, same.points)
    np.testing.assert_array_equal(before.boxes, same.boxes)
    np.testing.assert_allclose(after.points[0, :2], after.sensor_xy, atol=1e-6)
    np.testing.assert_array_equal(after.points[:, 3], before.points[:, 3])


def test_flips_are_openpcdet_s():
    """OpenPCDet: "flip x" negates y and heading; "y" negates x and gives -(heading + pi)."""
    along_x, along_y = flip(sample_of(), "x").boxes[0], flip(sample_of(), "y").boxes[0]
    assert along_x.tolist() == pytest.approx([6, -2, 0.5, 4, 1.5, 2, -0.3])
    assert along_y[:6].tolist() == pytest.approx([-6, 2, 0.5, 4, 1.5, 2])
    assert limit_heading(along_y[6]) == pytest.approx(limit_heading(-(0.3 + math.pi)))


def test_a_turn_is_counter_clockwise():
    turned = turn(sample_of(np.array([[5.0, 0, 0, 4, 2, 2, 0.0]])), math.pi / 2).boxes[0]
    assert turned.tolist() == pytest.approx([0, 5, 0, 4, 2, 2, math.pi / 2])


def test_steps_undo_themselves():
    before = sample_of()
    for there, back in ((lambda s: flip(s, "x"),) * 2, (lambda s: flip(s, "y"),) * 2,
                        (lambda s: turn(s, 0.7), lambda s: turn(s, -0.7)),
                        (lambda s: scale(s, 1.25), lambda s: scale(s, 0.8))):  # fmt: skip
        after = back(there(before))
        np.testing.assert_allclose(after.points, before.points, atol=1e-5)
        np.testing.assert_allclose(limit_heading(after.boxes[:, 6]), before.boxes[:, 6], atol=1e-12)
        np.testing.assert_allclose(after.boxes[:, :6], before.boxes[:, :6], atol=1e-12)


def draws(settings, count=200):
    return [augment(sample_of(), settings, None, CLASSES, np.random.default_rng(i)) for i in range(count)]


def test_the_note_s_pretraining_neither_turns_nor_flips_y():
    found = draws(AugmentSettings.pretraining())
    factors = np.array([one.boxes[0, 3] / 4 for one in found])
    assert 0.98 <= factors.min() < 0.985 < 1.015 < factors.max() <= 1.02
    assert {round(float(one.boxes[0, 6]), 6) for one in found} == {0.3, -0.3}


def test_every_setting_acts():
    base = AugmentSettings(flip_axes=(), turn_rad=(0, 0), scale=(1, 1))
    still = augment(sample_of(), base, None, CLASSES, np.random.default_rng(0))
    np.testing.assert_array_equal(still.points, sample_of().points)
    for change in ({"flip_axes": ("x",)}, {"flip_axes": ("y",)}, {"turn_rad": (-1, 1)}, {"scale": (0.9, 1.1)},
                   {"move_std_m": (1.0, 0, 0)}):  # fmt: skip
        settings = AugmentSettings(**{"flip_axes": (), "turn_rad": (0, 0), "scale": (1, 1)} | change)
        moved = [not np.array_equal(one.points, sample_of().points) for one in draws(settings, 20)]
        assert any(moved), change


# --- pasting ---


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    root = CustomRoot(write_root(tmp_path_factory.mktemp("paste") / "root"))
    prepare(root, XYZI, ("train",), say=lambda line: None)
    return GroundTruthDatabase(root, CLASSES, XYZI)


def pasted(database, sample, **changes):
    settings = PasteSettings(**{"up_to": dict.fromkeys(CLASSES, 5)} | changes)
    return paste_objects(sample, settings, database, CLASSES, np.random.default_rng(0))


def test_pasted_objects_bring_their_points_and_overlap_nothing(database):
    before = Sample(ring_cloud(2000), np.zeros((0, 7)), np.zeros(0, np.int64), np.zeros(2))
    after = pasted(database, before)
    assert sorted(after.labels.tolist()) == [1, 2, 4]
    overlap = bev_overlap_m2(after.boxes, after.boxes)
    assert np.allclose(overlap, np.diag(np.diag(overlap)))
    counts = points_in_boxes(after.points, after.boxes).sum(0)
    stored = [database.entries[CLASSES[label - 1]][0]["num_points_in_gt"] for label in after.labels]
    assert counts.tolist() == stored  # the scene's own points in a box gave way


def test_what_would_overlap_is_not_pasted(database):
    standing = np.array([BOXES["site0_000"][0][1]])
    after = pasted(database, Sample(ring_cloud(500), standing, np.array([3]), np.zeros(2)))
    assert sorted(after.labels.tolist()) == [2, 3, 4]


def test_own_objects_count_when_the_whole_scene_is_limited(database):
    far = np.array([[15.0, 15, 0, 2, 2, 2, 0]])
    scene = Sample(ring_cloud(500), far, np.array([1]), np.zeros(2))
    limited = {"up_to": {"dumptruck": 1}, "limit_whole_scene": True}
    assert pasted(database, scene, **limited).labels.tolist() == [1]
    assert pasted(database, scene, up_to={"dumptruck": 1}).labels.tolist() == [1, 1]


def test_a_wider_box_clears_more_of_the_scene(database):
    before = Sample(ring_cloud(3000), np.zeros((0, 7)), np.zeros(0, np.int64), np.zeros(2))
    assert len(pasted(database, before, extra_width_m=(4, 4, 4)).points) < len(pasted(database, before).points)


def test_the_first_of_two_that_overlap_is_kept():
    drawn = np.array([[0.0, 0, 0, 2, 2, 2, 0], [1, 0, 0, 2, 2, 2, 0], [2.0, 0, 0, 2, 2, 2, 0], [9, 9, 0, 2, 2, 2, 0]])
    assert free_of_overlap(drawn, np.zeros((0, 7))) == [0, 2, 3]  # the third only touches the first
    assert free_of_overlap(drawn, drawn[3:]) == [0, 2]
    assert free_of_overlap(np.zeros((0, 7)), drawn) == []


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: AugmentSettings(flip_axes=("z",)), "the axes are x and y"),
        (lambda: AugmentSettings(scale=(0, 1)), "both above 0"),
        (lambda: AugmentSettings(turn_rad=(1, -1)), "least and greatest"),
        (lambda: PasteSettings({"roller": -1}).check(CLASSES), "at least 0"),
        (lambda: PasteSettings({}, min_points={"dozer": 5}).check(CLASSES), "filter_by_min_points names 'dozer'"),
    ],
)
def test_settings_that_are_none_are_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()
