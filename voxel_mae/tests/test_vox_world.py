"""The embedded construction sites: geometry of the caster, laws of the scenes, the folder on disk."""

import json

import numpy as np
import pytest

from shared.embedded_world import is_embedded
from shared.errors import ConfigError, DataError
from voxel_mae.boxes import points_in_boxes
from voxel_mae.world import CLASSES, WorldSpec, ensure_world, write_world
from voxel_mae.world.bodies import BOX, CYLINDER, DRUM, ELLIPSOID, about_y, about_z, beam, block, span
from voxel_mae.world.frames import make_sequence
from voxel_mae.world.machines import MACHINES
from voxel_mae.world.sensor import GROUND, Rays, Scan, _window
from voxel_mae.world.site import Drive
from voxel_mae.world.spec import Sequence
from voxel_mae.world.terrain import Heap, Terrain, ground_ranges, sample_radii
from voxel_mae.world.write import label_lines

SMALL = WorldSpec(seed=3, train_sequences=20, val_sequences=2, unlabelled_sequences=1, frames=2, beams=16, columns=180,
                  reach_m=15.0)  # fmt: skip
RAYS = Rays.regular(32, 360)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return ensure_world(tmp_path_factory.mktemp("worlds"), SMALL, workers=0)


# --- bodies -----------------------------------------------------------------------------------------------------------


def rays(*directions):
    directions = np.array(directions, float)
    return (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("shape, near", [(BOX, 4.0), (CYLINDER, 4.0), (DRUM, 4.0), (ELLIPSOID, 4.0)])
def test_a_ray_along_x_enters_and_leaves_every_shape_at_its_faces(shape, near):
    enter, leave = span(block((4, 6), (-1, 1), (-1, 1), shape), rays([1, 0, 0], [0, 1, 0], [-1, 0, 0]))
    assert enter[0] == pytest.approx(near) and leave[0] == pytest.approx(6.0)
    assert not (enter[1] < leave[1] and leave[1] > 0)
    assert leave[2] < 0 or enter[2] >= leave[2]  # behind the sensor


def test_a_drum_is_round_seen_from_the_side_and_a_cylinder_from_above():
    corner = rays([5, 0.0, 0.9])  # meets the box's upper edge region
    drum, cylinder, box = (block((4, 6), (-1, 1), (-1, 1), shape) for shape in (DRUM, CYLINDER, BOX))
    enter = {shape.shape: span(shape, corner)[0][0] for shape in (drum, cylinder, box)}
    assert enter[BOX] == pytest.approx(enter[CYLINDER], rel=1e-4) and enter[DRUM] > enter[BOX] + 0.1


def test_a_turned_body_meets_the_turned_ray():
    body = block((4, 7), (-0.5, 0.5), (-1, 2))
    ray, angle = rays([6, 0.2, 0.1]), 0.7
    turned = ray @ about_z(angle).T.astype(np.float32)
    np.testing.assert_allclose(span(body.placed((0, 0, 0), angle), turned)[0], span(body, ray)[0], rtol=1e-4)


def test_a_beam_ends_where_it_is_told():
    boom = beam((1.0, 0.5), (3.0, 2.5), 0.0, 0.2, 0.2)
    ends = boom.turn @ np.array([[-1, 1], [0, 0], [0, 0]]) * boom.half_m[0] + boom.centre_m[:, None]
    np.testing.assert_allclose(ends[[0, 2]].T, [[1.0, 0.5], [3.0, 2.5]], atol=1e-9)
    np.testing.assert_allclose(about_y(np.pi / 2) @ [1, 0, 0], [0, 0, 1], atol=1e-12)


@pytest.mark.parametrize("x, y", [(8, 0), (-8, 0.2), (0, 9), (-9, -0.1), (1.0, 0.5)])
def test_the_window_of_a_body_holds_every_ray_that_meets_it(x, y):
    """Also round the back, where columns start again, and under the sensor."""
    body = block((-1, 1), (-1.5, 1.5), (-2, -0.5)).placed((x, y, 0), 0.4)
    enter, leave = span(body, RAYS.directions)
    hit = (enter < leave) & (enter > 0)
    rows, columns = _window(body, RAYS)
    inside = np.zeros_like(hit)
    inside[rows, columns] = True
    assert hit.any() and not (hit & ~inside).any()


# --- terrain ----------------------------------------------------------------------------------------------------------


def test_flat_ground_is_met_at_height_over_tangent():
    radii, tangents = sample_radii(), np.tan(np.radians([-30.0, -10.0, -2.0, 0.5]))
    ranges, rise = ground_ranges(np.full((5, len(radii)), -2.0, np.float32), radii, tangents)
    np.testing.assert_allclose(ranges[:3], np.repeat(-2 / tangents[:3, None], 5, 1), rtol=2e-3)
    assert np.isinf(ranges[3]).all() and np.abs(rise).max() < 1e-6


def test_a_heap_hides_what_lies_behind_it():
    terrain = Terrain(heaps=(Heap(10.0, 0.0, 3.0, 4.0),))
    radii = sample_radii()
    heights = np.stack([terrain.height(radii, 0 * radii), terrain.height(0 * radii, radii)]) - 2.0
    ranges, rise = ground_ranges(heights, radii, np.tan(np.radians([-5.0])))
    assert 7 < ranges[0, 0] < 10 and ranges[0, 1] == pytest.approx(2 / np.tan(np.radians(5)), rel=0.01)
    assert rise[0, 0] > 0.3


def test_what_stands_before_the_ground_owns_the_ray_and_what_stands_behind_does_not():
    scan = Scan(RAYS, np.random.default_rng(0))
    scan.cast_ground(Terrain(), (0.0, 0.0, 0.0), 2.0, 0.0)
    ground = scan.range_m.copy()
    scan.cast(0, [block((5, 6), (-2, 2), (-2, 0))])
    scan.cast(1, [block((9, 10), (-1, 1), (-2, -1))])  # hidden behind the first
    assert (scan.owner == 0).sum() > 50 and not (scan.owner == 1).any()
    assert (scan.range_m <= ground).all() and (scan.owner[scan.range_m == ground] <= GROUND).all()


# --- machines, drives, sequences --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_a_machine_fills_the_box_that_will_be_its_label(name):
    for seed in range(6):
        machine = MACHINES[name](np.random.default_rng(seed))
        half = np.array(machine.size_lwh_m) / 2
        corners = np.concatenate([body.corners() for body in machine.bodies]) - [0, 0, half[2]]
        assert (corners >= -half - 0.11).all() and (corners <= half + 0.11).all()
        assert (corners.max(0) > 0.85 * half).all() and (corners.min(0) < -0.85 * half).all()


def test_the_drive_turns_and_keeps_its_step():
    drive = Drive(2.0, 0.1, 2.0)
    poses = np.array([drive.pose(index) for index in range(5)])
    np.testing.assert_allclose(np.hypot(*np.diff(poses[:, :2], axis=0).T), 2.0)
    np.testing.assert_allclose(np.diff(poses[:, 2]), 0.1)


def test_most_points_near_a_machine_lie_in_its_box_whatever_its_heading():
    """Boxes and points follow the same motion: a wrong sign of a heading or a pose would empty the boxes."""
    inside, around = 0, 0
    for number in range(3):
        for frame in make_sequence(SMALL, Sequence("val", number)):
            above = np.array([0, 0, 0.35, 0, 0, -0.7, 0])  # without the lowest 0.7 m, where the ground may be
            close, wide = (np.array([0, 0, 0, more, more, 0, 0]) for more in (0.3, 1.5))
            inside += points_in_boxes(frame.points, frame.boxes + above + close).sum()
            around += points_in_boxes(frame.points, frame.boxes + above + wide).sum()
    assert inside > 100 and inside / around > 0.9


def test_a_sequence_follows_from_its_own_numbers_alone():
    one, same = (make_sequence(SMALL, Sequence("train", 1))[1] for _ in range(2))
    other = make_sequence(SMALL, Sequence("train", 2))[1]
    np.testing.assert_array_equal(one.points, same.points)
    assert one.points.shape != other.points.shape or not np.array_equal(one.points, other.points)


def test_static_machines_move_against_the_drive_only():
    """Seen from the site's frame, a machine without motion stays where it is."""
    spec = WorldSpec(seed=1, frames=3, beams=16, columns=180, reach_m=15.0, odd_frames=False)
    moved = []
    for number in range(6):
        places = {}
        for frame in make_sequence(spec, Sequence("train", number)):
            x0, y0, yaw = frame.pose
            xy = frame.boxes[:, :2] @ about_z(yaw)[:2, :2].T + [x0, y0]
            for track, place, heading in zip(frame.tracks, xy, frame.boxes[:, 6] + yaw, strict=True):
                places.setdefault(track, []).append((*place, np.sin(heading)))
        moved += [np.ptp(np.array(seen), axis=0) for seen in places.values() if len(seen) == 3]
    moved = np.array(moved)
    assert len(moved) > 5 and (moved[:, 2] < 1e-6).all()
    steps = np.hypot(moved[:, 0], moved[:, 1])
    assert (steps < 1e-6).any() and (steps > 0.3).any() and (steps < 2.5).all()


# --- the folder -------------------------------------------------------------------------------------------------------


def read(root, name):
    return (root / "ImageSets" / f"{name}.txt").read_text().split()


def test_the_layout_is_openpcdets_and_complete(root):
    train, val, unlabelled = (read(root, name) for name in ("train", "val", "unlabelled"))
    assert (len(train), len(val), len(unlabelled)) == (40, 4, 2)
    assert read(root, "pretrain") == train + unlabelled
    for one in train + val + unlabelled:
        points = np.load(root / "points" / f"{one}.npy")
        assert points.dtype == np.float32 and points.ndim == 2 and points.shape[1] == 3 and np.isfinite(points).all()
        assert (root / "labels" / f"{one}.txt").is_file() == (one not in unlabelled)
    lines = [line for one in train for line in (root / "labels" / f"{one}.txt").read_text().splitlines()]
    assert {line.split(" ")[7] for line in lines} == set(CLASSES) and all(len(line.split(" ")) == 8 for line in lines)


def test_no_sequence_lies_in_two_splits_and_budgets_are_nested_sequences(root):
    of = lambda name: {one.rpartition("_")[0] for one in read(root, name)}  # noqa: E731
    assert not (of("train") & of("val")) and not (of("train") & of("unlabelled"))
    for draw in range(5):
        small, large = read(root, f"train_5_{draw}"), read(root, f"train_20_{draw}")
        assert set(small) < set(large) < set(read(root, "train")) and (len(small), len(large)) == (2, 8)
        assert len(of(f"train_20_{draw}")) == 4  # whole sequences
    assert len({tuple(read(root, f"train_20_{draw}")) for draw in range(5)}) > 1


def test_odd_frames_are_there_and_one_of_them_is_empty(root):
    about = json.loads((root / "sequences.json").read_text())
    kinds = {
        kind: [one for one, frame in about.items() if frame["kind"] == kind] for kind in ("full", "cropped", "empty")
    }
    assert all(kinds.values()) and len(kinds["empty"]) == 1
    assert len(np.load(root / "points" / f"{kinds['empty'][0]}.npy")) == 0
    assert (root / "labels" / f"{kinds['empty'][0]}.txt").read_text() == ""
    points = np.load(root / "points" / f"{kinds['cropped'][0]}.npy")
    azimuth = np.sort(np.arctan2(points[:, 1], points[:, 0]))
    gaps = np.diff(np.append(azimuth, azimuth[0] + 2 * np.pi))
    assert 2 * np.pi - gaps.max() < np.pi / 2 + 0.01


def test_some_boxes_hold_few_points_and_some_machines_many():
    spec = WorldSpec(seed=5, frames=2, beams=32, columns=360, reach_m=60.0, odd_frames=False)
    frames = [frame for number in range(5) for frame in make_sequence(spec, Sequence("val", number))]
    counts = np.concatenate([points_in_boxes(frame.points, frame.boxes).sum(0) for frame in frames])
    assert counts.min() <= 5 < 100 < counts.max()


def test_labels_read_back_within_their_digits():
    frame = make_sequence(SMALL, Sequence("val", 0))[0]
    rows = [line.split(" ") for line in label_lines(frame).splitlines()]
    np.testing.assert_allclose(np.array([row[:7] for row in rows], float), frame.boxes, atol=5.1e-5)
    assert tuple(row[7] for row in rows) == frame.names


def test_the_files_do_not_depend_on_the_number_of_workers(tmp_path):
    spec = WorldSpec(train_sequences=2, val_sequences=1, unlabelled_sequences=0, frames=1, beams=8, columns=90)
    alone, shared_out = (write_world(tmp_path / str(count), spec, workers=count) for count in (0, 2))
    paths = sorted(alone.rglob("*.*"))
    assert is_embedded(shared_out) and len(paths) == 22
    for path in paths:
        assert path.read_bytes() == (shared_out / path.relative_to(alone)).read_bytes(), path


def test_a_finished_world_is_kept_and_another_spec_or_folder_is_refused(root, tmp_path):
    before = (root / "world.json").stat().st_mtime_ns
    assert write_world(root, SMALL) == root and (root / "world.json").stat().st_mtime_ns == before
    with pytest.raises(DataError, match="seed: there 3, asked 4"):
        write_world(root, WorldSpec(**{**SMALL.as_json(), "seed": 4}))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds no world\.json"):
        write_world(tmp_path / "own", SMALL)
    assert (tmp_path / "own" / "notes.txt").read_text() == "mine"


def test_what_an_interrupted_writer_left_is_written_anew(tmp_path):
    spec = WorldSpec(train_sequences=1, val_sequences=1, unlabelled_sequences=0, frames=1, beams=8, columns=90,
                     odd_frames=False)  # fmt: skip
    (tmp_path / ".world.building" / "points").mkdir(parents=True)
    (tmp_path / ".world.building" / "points" / "half.npy").write_bytes(b"cut")
    folder = write_world(tmp_path / "world", spec, workers=0)
    assert sorted(path.name for path in (folder / "points").iterdir()) == ["train000_00.npy", "val000_00.npy"]
    assert not (tmp_path / ".world.building").exists()


WRONG = [({"frames": 0}, "frames"), ({"beams": 4}, "beams"), ({"reach_m": 90.0}, "reach"), ({"seed": -1}, "seed"),
         ({"machines": float("nan")}, "machines")]  # fmt: skip


@pytest.mark.parametrize("values, word", WRONG)
def test_a_wrong_spec_names_the_field(values, word):
    with pytest.raises(ConfigError, match=word):
        WorldSpec(**values)
