"""The embedded world: rays against formulas, labels against points, files against their spec, likeness to reality."""

import json
import math

import numpy as np
import pytest

from pillars_rq.boxes import bev_overlap_m2, points_in_boxes
from pillars_rq.kitti.calibration import boxes_to_lidar, clip_to_image, image_boxes
from pillars_rq.kitti.clouds import in_view
from pillars_rq.kitti.labels import difficulty
from pillars_rq.world import WorldSpec, realism, things, write_world
from pillars_rq.world.__main__ import main
from pillars_rq.world.annotate import IMAGE_HW, make_calibration
from pillars_rq.world.frame import make_frame
from pillars_rq.world.sensor import AZIMUTHS_RAD, ELEVATIONS_RAD, HEIGHT_M, NOTHING, Ground, Scan, ray_directions
from pillars_rq.world.solids import BOX, CYLINDER, ELLIPSOID, Solid, span
from pillars_rq.world.write import frame_place
from shared.embedded_world import is_embedded
from shared.errors import ConfigError, DataError

SPEC = WorldSpec(seed=2)
TINY = WorldSpec(train_frames=3, val_frames=1, test_frames=1)


@pytest.fixture(scope="module")
def frames():
    return [make_frame(SPEC, "train", number) for number in range(6)]


def lidar_boxes(frame):
    found = frame.labels.without_dont_care()
    return found, boxes_to_lidar(found.location, found.dimensions, found.rotation_y, make_calibration())


# --- rays ---


def test_rays_are_the_sensor_s():
    rays = ray_directions()
    assert rays.shape == (64, len(AZIMUTHS_RAD), 3)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=-1), 1)
    assert math.degrees(ELEVATIONS_RAD[0]) == pytest.approx(2) and math.degrees(ELEVATIONS_RAD[-1]) < -24
    assert (np.diff(ELEVATIONS_RAD) < 0).all() and (np.diff(AZIMUTHS_RAD) < 0).all()


@pytest.mark.parametrize("shape", [BOX, ELLIPSOID, CYLINDER])
def test_a_ray_enters_and_leaves_on_the_hull(shape):
    solid = Solid(shape, (8.0, 1.0, -0.5), (1.2, 0.7, 0.9), yaw_rad=0.6)
    rays = ray_directions()[::4, ::4]
    enter, leave = span(solid, rays)
    hit = (enter < leave) & (enter > 0)
    assert 10 < hit.sum() < hit.size / 2
    for way in (enter, leave):
        local = rays[hit] * way[hit][:, None] - solid.centre_m
        cos, sin = math.cos(0.6), math.sin(0.6)
        unit = np.stack([local[:, 0] * cos + local[:, 1] * sin, local[:, 1] * cos - local[:, 0] * sin, local[:, 2]], 1)
        unit = np.abs(unit / solid.half_m)
        flat = np.hypot(unit[:, 0], unit[:, 1])
        level = {BOX: unit.max(1), ELLIPSOID: np.linalg.norm(unit, axis=1), CYLINDER: np.maximum(flat, unit[:, 2])}[
            shape
        ]
        np.testing.assert_allclose(level, 1, atol=1e-9)


@pytest.mark.parametrize("shape", [BOX, ELLIPSOID, CYLINDER])
@pytest.mark.parametrize("place", [(12, 3, -1), (6, -4, -0.5), (2.0, 0.3, -1.2), (40, 20, 2), (1.9, 1.4, 0.4)])
def test_only_the_rays_of_a_body_s_window_are_cast_and_that_is_enough(shape, place):
    solid = Solid(shape, tuple(map(float, place)), (1.0, 0.6, 0.8), yaw_rad=0.7)
    scan = Scan(np.random.default_rng(0))
    scan.cast(0, [solid])
    enter, leave = span(solid, ray_directions())
    everywhere = np.where((enter < leave) & (enter > 0), enter, np.inf)
    assert np.array_equal(scan.range_m, everywhere) and scan.alone[0] == np.isfinite(everywhere).sum() > 0


def test_the_nearer_thing_hides_the_farther():
    near, far = (Solid(BOX, (x, 0.0, -1.0), (0.5, half, 0.7)) for x, half in ((10.0, 0.5), (20.0, 2.0)))
    for order in ((near, far), (far, near)):
        scan = Scan(np.random.default_rng(0))
        for owner, solid in enumerate(order):
            scan.cast(owner, [solid])
        number = order.index(far)
        assert 0 < scan.visible(number) < scan.alone[number]
        assert scan.visible(1 - number) == scan.alone[1 - number]


def test_flat_ground_lies_at_its_height():
    scan = Scan(np.random.default_rng(0))
    scan.cast_ground(Ground(slope=(0.02, 0.0)), 0.3, 0.0)
    met = np.isfinite(scan.range_m)
    points = scan.directions[met] * scan.range_m[met][:, None]
    np.testing.assert_allclose(points[:, 2], -HEIGHT_M + 0.02 * points[:, 0], atol=1e-6)
    assert points[:, 0].max() > 50


def test_uneven_ground_is_met_where_it_is():
    ground = Ground((0.01, -0.01), ((0.015, 8.0, 0.5, 1.0), (0.01, 15.0, 2.0, 0.0)), 0.05, 1.7, 6.0, 0.11)
    scan = Scan(np.random.default_rng(0))
    scan.cast_ground(ground, 0.3, 0.0)
    met = scan.range_m < 35
    points = scan.directions[met] * scan.range_m[met][:, None]
    misses = np.abs(points[:, 2] - ground.height(points[:, 0], points[:, 1]))
    assert np.quantile(misses, 0.95) < 0.01 and met.sum() > 15_000


def test_leaves_stop_some_rays_inside():
    crown = Solid(ELLIPSOID, (10.0, 0.0, 0.0), (2.0, 2.0, 2.0), density_per_m=0.5)
    scan, solid = Scan(np.random.default_rng(0)), Scan(np.random.default_rng(0))
    scan.cast(0, [crown])
    solid.cast(0, [Solid(ELLIPSOID, crown.centre_m, crown.half_m)])
    assert 0.5 < scan.alone[0] / solid.alone[0] < 0.9
    stopped = np.isfinite(scan.range_m)
    deeper = scan.range_m[stopped] - solid.range_m[stopped]
    assert (deeper > 0).all() and 0.5 < deeper.mean() < 2


# --- things and labels ---


@pytest.mark.parametrize("name", things.OBJECTS)
def test_things_fill_their_boxes_and_stay_inside(name):
    for seed in range(5):
        thing = things.OBJECTS[name](np.random.default_rng(seed)).at((15.0, 4.0, -1.7), 0.8)
        hull = np.concatenate([solid.outline() for solid in thing.bodies()])
        grown = thing.box[None] + [0, 0, -0.05, 0.25, 0.25, 0.1, 0]
        assert points_in_boxes(hull, grown).mean() > 0.97
        cos, sin = math.cos(0.8), math.sin(0.8)
        along = (hull[:, 0] - 15) * cos + (hull[:, 1] - 4) * sin
        across = -(hull[:, 0] - 15) * sin + (hull[:, 1] - 4) * cos
        filled = [np.ptp(along), np.ptp(across), np.ptp(hull[:, 2])] / np.array(thing.size_lwh_m)
        assert (filled > 0.75).all() and (filled < 1.2).all() and len(thing.solids) > 4, (name, filled)


def test_labelled_boxes_hold_their_points_and_nobody_else_s_place(frames):
    for frame in frames:
        found, boxes = lidar_boxes(frame)
        grown = boxes + np.array([0, 0, -0.05, 0.2, 0.2, 0.1, 0])
        assert (points_in_boxes(frame.points, grown).sum(0) >= 3).all()
        overlap = bev_overlap_m2(boxes, boxes)
        assert (overlap[~np.eye(len(boxes), dtype=bool)] < 1e-3).all()
        assert (boxes[:, 0] < SPEC.max_range_m).all() and (np.abs(boxes[:, 1]) < SPEC.max_side_m).all()
        assert set(found.name) <= {"Car", "Van", "Truck", "Pedestrian", "Cyclist"}


def test_labels_are_consistent(frames):
    calib = make_calibration()
    for frame in frames:
        found, boxes = lidar_boxes(frame)
        expected = clip_to_image(image_boxes(boxes, calib), IMAGE_HW)
        assert np.abs(found.bbox - expected).max() <= 1.001
        assert np.array_equal(frame.labels.difficulty, difficulty(frame.labels))
        assert ((found.truncated >= 0) & (found.truncated <= 0.9)).all()
        np.testing.assert_allclose(
            np.cos(found.alpha - found.rotation_y + np.arctan2(found.location[:, 0], found.location[:, 2])), 1
        )


def test_all_kinds_of_labels_occur():
    labels = [make_frame(SPEC, "train", number).labels for number in range(6, 16)]
    names = np.concatenate([found.name for found in labels])
    assert {"Car", "Pedestrian", "Cyclist", "Van", "DontCare"} <= set(names)
    real = [found.without_dont_care() for found in labels]
    assert {0, 1, 2} <= set(np.concatenate([found.occluded for found in real]))
    assert {0, 1, 2} <= set(np.concatenate([found.difficulty for found in real]))
    assert (np.concatenate([found.truncated for found in real]) > 0.05).any()


def test_points_look_like_a_sensor_s(frames):
    for frame in frames:
        points = frame.points
        assert points.dtype == np.float32 and np.isfinite(points).all()
        assert (points[:, 3] >= 0).all() and (points[:, 3] <= 0.99).all()
        shown = in_view(points, make_calibration(), IMAGE_HW).sum()
        assert 12_000 < shown < 24_000
        rows = np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1]))
        assert np.abs(rows[:, None] - ELEVATIONS_RAD).min(1).max() < 1e-4


def test_a_scan_loses_and_blurs():
    scan = Scan(np.random.default_rng(0))
    scan.cast(0, [Solid(BOX, (20.0, 0, 0), (0.5, 4, 4), reflectance=0.4)])
    points, owners = scan.returns()
    met = scan.owner == 0
    assert 0.9 < len(points) / met.sum() < 0.99 and (owners == 0).all()
    assert 0.01 < np.std(points[:, 0] - 19.5) < 0.05 and NOTHING not in owners


# --- files ---


def test_equal_specs_give_equal_bytes_and_seeds_differ(tmp_path):
    one, again = (write_world(tmp_path / name, TINY, workers=workers) for name, workers in (("a", 0), ("b", 2)))
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file()) and len(files) == 24
    assert all((one / path).read_bytes() == (again / path).read_bytes() for path in files)
    other = make_frame(WorldSpec(seed=1), "train", 0)
    assert not np.array_equal(other.points, make_frame(TINY, "train", 0).points)
    assert not np.array_equal(make_frame(TINY, "val", 0).points, make_frame(TINY, "train", 0).points)


def test_a_world_is_kept_and_another_refused(tmp_path):
    folder = write_world(tmp_path / "w", TINY)
    stamp = (folder / "training/velodyne/000000.bin").stat().st_mtime_ns
    assert write_world(folder, TINY) == folder and is_embedded(folder) and not is_embedded(tmp_path)
    assert (folder / "training/velodyne/000000.bin").stat().st_mtime_ns == stamp
    with pytest.raises(DataError, match=r"another spec \(seed: there 0, asked 5"):
        write_world(folder, WorldSpec(seed=5, train_frames=3, val_frames=1, test_frames=1))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("")
    with pytest.raises(DataError, match="no embedded world"):
        write_world(tmp_path / "foreign", TINY)
    assert json.loads((folder / "world.json").read_text())["what"].startswith("embedded synthetic")


def test_frames_are_numbered_train_then_val():
    places = [frame_place(TINY, split, number) for split, number in (("train", 2), ("val", 0), ("test", 0))]
    assert places == [("training", "000002"), ("training", "000003"), ("testing", "000000")]


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"train_frames": 0}, {"max_range_m": 200}, {"cars": math.nan}])
def test_wrong_specs_are_refused(wrong):
    with pytest.raises(ConfigError, match="world: "):
        WorldSpec(**wrong)


def test_the_command_line(tmp_path, capsys):
    arguments = ["--train-frames", "1", "--val-frames", "1", "--test-frames", "0"]
    assert main([str(tmp_path / "w"), *arguments]) == 0
    assert "no real data" in capsys.readouterr().out
    assert main([str(tmp_path / "w"), "--seed", "4", *arguments]) == 2
    assert "another spec" in capsys.readouterr().err
    assert main([str(tmp_path / "x"), "--train-frames", "0"]) == 2


# --- likeness ---


def test_without_real_frames_the_comparison_says_so(tmp_path, capsys):
    assert realism.main(["--real", str(tmp_path)]) == 2
    assert "holds no real frames" in capsys.readouterr().err


def test_the_comparison_notices_a_difference(frames):
    from pillars_rq.grid import Grid

    world = realism.measure_world(SPEC, 12, Grid.kitti())
    same = realism.ratios(world, world)
    assert realism.outside({name: ratio for name, ratio in same.items() if not name.startswith("points of an")}) == []
    sparse = [realism.Measured(m.points // 2, m.occupied // 2, m.reflectance, m.name, m.range_m, m.count // 2, m.sizes)
              for m in world]  # fmt: skip
    assert {"points", "occupied cells", "points of an object: Car"} <= set(
        realism.outside(realism.ratios(world, sparse))
    )


@pytest.mark.real
def test_the_world_is_as_like_real_frames_as_stated(real_samples, capsys):
    assert realism.main(["--real", str(real_samples), "--frames", "40"]) == 0, capsys.readouterr().out
