"""KITTI's protocol: equal to the loop over pairs, the ceilings of few objects, the rules one by one."""

# n objects of a frame

import math
from pathlib import Path

import numpy as np
import pytest

from pillars_rq.boxes import limit_period
from pillars_rq.evaluation import Protocol, detections_to_kitti, kitti_ap
from pillars_rq.evaluation.kitti_ap import thresholds
from pillars_rq.kitti.calibration import Calibration, boxes_to_lidar, read_calibration
from pillars_rq.kitti.labels import Annotations, read_labels
from pillars_rq.kitti.results import read_result_files, write_result_files
from shared.errors import ConfigError, DataError
from shared.testing.benchmarks import load

CLASSES = ("Pedestrian", "Cyclist", "Car")
LEVELS = ("easy", "moderate", "hard")


@pytest.fixture(scope="module")
def benchmark():
    return load(Path(__file__).parents[1] / "benchmarks", "evaluator")


def cars(n: int, *, score: float = 0.9, name: str = "Car", x: float = 0.0, shift_m: float = 0.0, **columns):
    """n cars behind each other, 50 px and more high in the image, 8 m apart."""
    z = 10 + 8.0 * np.arange(n)
    given = {
        "name": [name] * n,
        "truncated": np.zeros(n),
        "occluded": np.zeros(n),
        "alpha": np.zeros(n),
        "bbox": np.stack([100 * np.arange(n), np.full(n, 100), 100 * np.arange(n) + 90, np.full(n, 160)], 1),
        "dimensions": np.tile([3.9, 1.5, 1.6], (n, 1)),
        "location": np.stack([np.full(n, x), np.full(n, 1.6), z + shift_m], 1),
        "rotation_y": np.zeros(n),
        "score": np.full(n, score),
    }
    return Annotations(**{**given, **columns})


def moderate(ap, metric="3d", name="Car", recall="R40"):
    return ap[recall][metric][name]["moderate"]


# --- the oracle ---


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_loop_over_pairs(benchmark, seed):
    gts, dets = benchmark.made_up(25, seed)
    fast, slow = kitti_ap(gts, dets, CLASSES), benchmark.looped_ap(gts, dets, CLASSES)
    assert benchmark.largest_difference(fast, slow) < 1e-9
    reached = [values["hard"] for metric in ("2d", "bev", "3d") for values in fast["R40"][metric].values()]
    assert 1 < min(reached) < max(reached) < 95, "frames on which everything or nothing is right test nothing"
    assert any(moderate(fast, "2d", name) != moderate(fast, "aos", name) for name in CLASSES)


def test_weights_are_repetitions(benchmark):
    gts, dets = benchmark.made_up(12, 5)
    weights = np.array([0, 2, 1, 3, 1, 0, 1, 1, 2, 1, 0, 1])
    repeated = np.repeat(np.arange(12), weights)
    again = kitti_ap([gts[i] for i in repeated], [dets[i] for i in repeated], CLASSES)
    assert benchmark.largest_difference(kitti_ap(gts, dets, CLASSES, weights=weights), again) < 1e-9


def test_order_of_frames_does_not_matter(benchmark):
    gts, dets = benchmark.made_up(12, 6)
    assert kitti_ap(gts[::-1], dets[::-1], CLASSES) == kitti_ap(gts, dets, CLASSES)


def test_the_benchmark_runs(benchmark, capsys):
    assert benchmark.main(["--quick"]) == 0
    assert "vectorised" in capsys.readouterr().out


# --- ceilings ---


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 20, 40, 41])
def test_a_perfect_detector_meets_the_ceiling(n):
    labels = cars(n)
    ap = kitti_ap([labels], [labels.with_columns(score=np.linspace(0.9, 0.5, n))], ("Car",))
    for metric in ("2d", "bev", "3d", "aos"):
        for level in LEVELS:
            assert ap["R11"][metric]["Car"][level] == pytest.approx(100 * math.ceil(n / 4) / 11)
            assert ap["R40"][metric]["Car"][level] == pytest.approx(100 * (n - 1) / 40)


def test_a_perfect_detector_on_many_objects_gets_all():
    frames = [cars(3) for _ in range(60)]
    ap = kitti_ap(frames, frames, ("Car",))
    assert moderate(ap) == pytest.approx(100) and moderate(ap, recall="R11") == pytest.approx(100)
    assert ap["R40"]["3d"]["overall"] == ap["R40"]["3d"]["Car"]


# --- nothing there ---


def test_frames_without_detections_or_objects():
    frames, found = [cars(2)] * 30 + [Annotations.empty()] * 5, [cars(2)] * 15 + [Annotations.empty()] * 20
    half = moderate(kitti_ap(frames, found, ("Car",)))
    assert 45 <= half <= 52.5
    nothing = [Annotations.empty()] * 35
    assert moderate(kitti_ap(frames, nothing, ("Car",))) == 0
    assert moderate(kitti_ap(nothing, found, ("Car",))) == 0
    assert moderate(kitti_ap([], [], ("Car",))) == 0


# --- the rules ---


def many(labels, found, **options):
    return kitti_ap([labels] * 50, [found] * 50, CLASSES, **options)


def joined(*parts: Annotations) -> Annotations:
    return Annotations(**{key: np.concatenate([getattr(part, key) for part in parts]) for key in parts[0].as_json()})


def test_overlap_must_be_above_the_threshold():
    at_half = cars(1, name="Pedestrian", dimensions=[[4, 1.5, 2]])
    doubled = at_half.with_columns(dimensions=np.array([[8, 1.5, 2]]))  # IoU exactly 1/2
    assert moderate(many(at_half, doubled), "bev", "Pedestrian") == 0
    slightly = at_half.with_columns(dimensions=np.array([[7.99, 1.5, 2]]))
    assert moderate(many(at_half, slightly), "bev", "Pedestrian") == pytest.approx(100)


def test_a_second_detection_of_an_object_is_false():
    assert moderate(many(cars(1), joined(cars(1), cars(1, score=0.8)))) == pytest.approx(100)
    better = joined(cars(1, score=0.9, shift_m=0.2), cars(1, score=0.95, x=20, shift_m=50))
    assert moderate(many(cars(1), better)) == pytest.approx(50)


def test_the_higher_score_finds_the_threshold_and_the_higher_overlap_matches():
    alike = {"bbox": cars(1).bbox + np.array([0, 0, 4, 0])}
    found = joined(cars(1, score=0.9, shift_m=0.3, **alike, alpha=[math.pi]), cars(1, score=0.9))
    ap = many(cars(1), found)
    assert moderate(ap, "aos") == pytest.approx(moderate(ap, "2d")) == pytest.approx(50)


def test_neighbouring_classes_and_harder_objects_are_neither_hit_nor_miss():
    both = joined(cars(1), cars(1, name="Van", x=10))
    assert moderate(many(both, joined(cars(1), cars(1, x=10)))) == pytest.approx(100)
    assert moderate(many(both, cars(1))) == pytest.approx(100)
    hidden = joined(cars(1), cars(1, x=10, occluded=[2]))
    for found in (cars(1), joined(cars(1), cars(1, x=10))):
        ap = many(hidden, found)
        assert moderate(ap) == pytest.approx(100)
    assert many(hidden, cars(1))["R40"]["3d"]["Car"]["hard"] < 60


def test_small_detections_are_ignored_whatever_their_class():
    small = cars(1, x=30, bbox=[[0, 0, 20, 24]], name="Cyclist")
    assert moderate(many(cars(1), joined(cars(1), small))) == pytest.approx(100)
    taken = cars(1, name="Cyclist", bbox=[[0, 100, 90, 124]], score=0.99)
    assert moderate(many(cars(1), taken)) == 0  # not a hit either


def test_dont_care_forgives_in_the_image_only():
    region = cars(1, name="DontCare", bbox=[[500, 0, 700, 200]], x=-1000)
    stray = cars(1, x=30, bbox=[[520, 50, 600, 150]], score=0.95)
    ap = many(joined(cars(1), region), joined(cars(1), stray))
    assert moderate(ap, "2d") == pytest.approx(100) and moderate(ap, "3d") == pytest.approx(50)
    mostly_outside = stray.with_columns(bbox=np.array([[640.0, 50, 740, 150]]))  # share 0.6 of 0.7 needed
    assert moderate(many(joined(cars(1), region), joined(cars(1), mostly_outside)), "2d") == pytest.approx(50)


def test_orientation_weights_true_positives():
    turned_away = cars(1).with_columns(alpha=np.array([math.pi / 2]))
    assert moderate(many(cars(1), turned_away), "aos") == pytest.approx(50)
    assert moderate(many(cars(1), turned_away), "2d") == pytest.approx(100)


def test_without_a_camera_there_is_no_2d_and_no_height():
    blind = {"bbox": [[-1, -1, -1, -1]], "alpha": [-10]}
    ap = many(cars(1, **blind), cars(1, **blind), image=False)
    assert set(ap["R40"]) == {"bev", "3d"} and moderate(ap) == pytest.approx(100)


def test_thresholds_are_those_nearest_to_equal_steps_of_recall():
    assert len(thresholds(np.linspace(0, 1, 400), 400)) == 41
    assert thresholds(np.array([0.2, 0.9, 0.5]), 3).tolist() == [0.9, 0.5, 0.2]
    assert thresholds(np.array([]), 0).tolist() == []


def test_labels_are_not_changed():
    labels = joined(cars(2), cars(1, name="DontCare"))
    before = labels.as_json()
    kitti_ap([labels], [cars(2)], CLASSES)
    assert labels.as_json() == before


@pytest.mark.parametrize(
    "arguments, named",
    [
        (([cars(1)], [], ("Car",)), "1 labelled frames and 0"),
        (([cars(1)], [cars(1, score=math.nan)], ("Car",)), "not finite"),
        (([], [], ()), "at least one"),
    ],
)
def test_wrong_input_is_refused(arguments, named):
    with pytest.raises((DataError, ConfigError), match=named):
        kitti_ap(*arguments)


def test_unknown_metrics_are_refused():
    with pytest.raises(ConfigError, match="no metric '4d'"):
        Protocol([], [], ("Car",), metrics=("4d",))


# --- conversion and files ---


def test_conversion_round_trips_through_lidar_boxes():
    boxes = np.array([[20.0, 3, -1.6, 1.6, 3.9, 1.5, 0.4], [15, -4, -1.7, 0.6, 0.8, 1.7, 4.0]])
    calib = Calibration.lidar_only()
    rows = detections_to_kitti(boxes, [0.9, 0.4], [2, 0], None, None, CLASSES)
    assert rows.name.tolist() == ["Car", "Pedestrian"] and rows.alpha.tolist() == [-10, -10]
    back = boxes_to_lidar(rows.location, rows.dimensions, rows.rotation_y, calib)
    boxes[:, 6] = limit_period(boxes[:, 6], 0.5, 2 * np.pi)
    np.testing.assert_allclose(back, boxes, atol=1e-12)


def test_no_detections_convert_and_write(tmp_path):
    rows = detections_to_kitti(np.zeros((0, 7)), [], [], None, None, CLASSES)
    assert len(rows) == 0
    assert write_result_files(tmp_path / "out", {"000001": rows}) == 1
    assert (tmp_path / "out" / "000001.txt").read_text() == ""
    assert len(read_result_files(tmp_path / "out", ["000001"])[0]) == 0


def test_result_files_hold_h_w_l(tmp_path):
    found = cars(1, score=0.123456)
    write_result_files(tmp_path, {"000007": found})
    words = (tmp_path / "000007.txt").read_text().split()
    assert len(words) == 16 and words[8:11] == ["1.50", "1.60", "3.90"] and words[15] == "0.123456"
    assert read_result_files(tmp_path, ["000007"])[0].dimensions.tolist() == [[3.9, 1.5, 1.6]]


def test_a_missing_result_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"lacks 1 of 1 result files, the first is 000009\.txt"):
        read_result_files(tmp_path, ["000009"])


def test_wrong_labels_are_refused():
    with pytest.raises(ValueError, match=r"labels 3\.\.3 for 3 classes"):
        detections_to_kitti(np.ones((1, 7)), [1], [3], None, None, CLASSES)


# --- real frames ---


@pytest.fixture(scope="module")
def frame_134(real_samples):
    """Labels and golden detections (epoch_160) of 000134."""
    folder = real_samples / "kitti" / "training"
    calib = read_calibration(folder / "calib" / "000134.txt")
    golden = np.loadtxt(real_samples / "pointpillars" / "golden_pytorch_origin.txt")
    labels = read_labels(folder / "label_2" / "000134.txt")
    return labels, detections_to_kitti(golden[:, :7], golden[:, 7], golden[:, 8], calib, (370, 1224), CLASSES)


@pytest.mark.real
def test_the_single_frame_figures_of_000134(frame_134):
    labels, found = frame_134
    assert len(found) == 18, "all golden boxes project into the image"
    ap = kitti_ap([labels], [found], CLASSES)["R11"]
    expected = {
        ("3d", "Pedestrian"): (9.0909, 9.0909, 9.0909),
        ("3d", "Cyclist"): (3.0303, 9.0909, 9.0909),
        ("3d", "Car"): (0, 0, 0),
        ("2d", "Pedestrian"): (9.0909, 18.1818, 18.1818),
    }
    for (metric, name), values in expected.items():
        assert list(ap[metric][name].values()) == pytest.approx(values, abs=1e-4), (metric, name)


@pytest.mark.real
def test_real_labels_against_themselves_meet_the_ceiling(frame_134):
    labels, _ = frame_134
    perfect = labels.without_dont_care()
    ap = kitti_ap([labels], [perfect.with_columns(score=np.ones(len(perfect)))], CLASSES)
    counted = int(((labels.name == "Pedestrian") & (labels.difficulty >= 0) & (labels.difficulty <= 1)).sum())
    assert ap["R11"]["3d"]["Pedestrian"]["moderate"] == pytest.approx(100 * math.ceil(counted / 4) / 11)
    assert ap["R40"]["3d"]["Pedestrian"]["moderate"] == pytest.approx(100 * (counted - 1) / 40)
