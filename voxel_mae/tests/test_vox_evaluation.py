"""Average precision: laws, a hand-made curve, an oracle with loops, bands, KITTI's neighbours (T31), result files."""

import math

import numpy as np
import pytest

from shared.errors import ConfigError, DataError
from voxel_mae.evaluation import Evaluation, JudgedFrame, as_kitti, average_precision, match, recall_at
from voxel_mae.results import kitti_lines, plain_scores, read_results, score_table, write_kitti_files, write_results

CLASSES = ("dumptruck", "excavator", "grader", "roller")
IOU = dict(zip(CLASSES, (0.7, 0.5, 0.7, 0.7), strict=True))
KITTI = dict(zip(CLASSES, ("Truck", "Cyclist", "Car", "Van"), strict=True))


def boxes_at(xs, y=0.0, size=(4.0, 2.0, 2.0)):
    return np.array([[x, y, 0.0, *size, 0.3] for x in xs]).reshape(-1, 7)


def frame(gt=(), gt_labels=(), boxes=(), scores=(), labels=(), name="f", sensor=(0.0, 0.0)):
    parts = (np.reshape(gt, (-1, 7)), np.array(gt_labels, int), np.reshape(boxes, (-1, 7)), np.array(scores, float))
    return JudgedFrame(name, *parts, np.array(labels, int), sensor)


def random_frames(rng, count=6):
    frames = []
    for k in range(count):
        gt = np.concatenate(
            [rng.uniform(-40, 40, (7, 2)), np.zeros((7, 1)), np.full((7, 3), (5, 3, 2)), np.zeros((7, 1))], 1
        )
        labels = rng.integers(1, 5, 7)
        moved = gt + np.array([0.4, 0.3, 0.1, 0.2, 0.1, 0, 0.05]) * rng.normal(size=(7, 7))
        stray = gt + np.array([20, 0, 0, 0, 0, 0, 0.0])
        boxes, names = np.concatenate([moved, moved[:3], stray[:4]]), np.concatenate([labels, labels[:3], labels[:4]])
        scores = rng.integers(1, 8, len(boxes)) / 8  # ties on purpose
        frames.append(frame(gt, labels, boxes, scores, names, f"{k:06d}"))
    return frames


def flat(result):
    return {
        (recall, metric, name, band): value
        for recall, by_metric in result.items()
        for metric, by_class in by_metric.items()
        for name, by_band in by_class.items()
        for band, value in by_band.items()
    }


# --- laws -------------------------------------------------------------------------------------------------------------


def test_perfect_boxes_score_one_and_none_zero():
    gt, labels = np.concatenate([boxes_at((-30, 3, 15)), boxes_at((-50, 8), y=5)]), [1, 1, 2, 3, 4]
    perfect = Evaluation([frame(gt, labels, gt, [0.9] * 5, labels)], CLASSES, iou=IOU).ap()
    assert all(value == 1 or math.isnan(value) for value in flat(perfect).values())
    assert perfect["R40"]["3d"]["mAP"]["all"] == 1 and perfect["R11"]["bev"]["dumptruck"]["0-10"] == 1
    none = Evaluation([frame(gt, labels)], CLASSES, iou=IOU).ap()
    assert all(value == 0 or math.isnan(value) for value in flat(none).values())
    assert none["R40"]["3d"]["mAP"]["all"] == 0


def test_a_class_without_objects_has_no_ap_and_is_not_in_the_mean():
    gt = boxes_at((3,))
    found = Evaluation([frame(gt, [1], boxes_at((3, 20)), [0.9, 0.8], [1, 2])], CLASSES, iou=IOU)
    result = found.ap()["R40"]["3d"]
    assert math.isnan(result["excavator"]["all"]) and result["mAP"]["all"] == result["dumptruck"]["all"] == 1
    assert found.objects()["dumptruck"] == {"all": 1, "0-10": 1, "10-30": 0, "30-70.4": 0}
    empty = Evaluation([], CLASSES, iou=IOU).ap()
    assert all(math.isnan(value) for value in flat(empty).values())


def test_the_order_of_frames_and_detections_changes_nothing():
    rng = np.random.default_rng(0)
    frames = random_frames(rng)
    plain = flat(Evaluation(frames, CLASSES, iou=IOU).ap())
    shuffled = [frames[k] for k in rng.permutation(len(frames))]
    assert flat(Evaluation(shuffled, CLASSES, iou=IOU).ap()) == pytest.approx(plain, nan_ok=True)
    assert 0.2 < plain["R40", "3d", "mAP", "all"] < 0.95


def test_weights_count_frames_as_copies_do():
    frames = random_frames(np.random.default_rng(1), 4)
    weights = [2, 0, 1, 3]
    copies = [one for one, times in zip(frames, weights, strict=True) for _ in range(times)]
    weighted = flat(Evaluation(frames, CLASSES, iou=IOU).ap(np.array(weights)))
    assert weighted == pytest.approx(flat(Evaluation(copies, CLASSES, iou=IOU).ap()), nan_ok=True)


def test_a_stricter_overlap_never_scores_more():
    frames = random_frames(np.random.default_rng(2))
    values = [
        Evaluation(frames, CLASSES, iou=dict.fromkeys(CLASSES, iou)).ap()["R40"]["3d"]["mAP"]["all"]
        for iou in (0.3, 0.6, 0.9)
    ]
    assert values[0] > values[1] > values[2]


def test_bev_is_never_below_3d():
    result = Evaluation(random_frames(np.random.default_rng(3)), CLASSES, iou=IOU).ap()["R40"]
    assert result["bev"]["mAP"]["all"] >= result["3d"]["mAP"]["all"]
    gt = boxes_at((10,))
    raised = gt + np.array([0, 0, 5, 0, 0, 0, 0])
    high = Evaluation([frame(gt, [1], raised, [0.5], [1])], CLASSES, iou=IOU).ap()["R40"]
    assert high["bev"]["dumptruck"]["all"] == 1 and high["3d"]["dumptruck"]["all"] == 0


# --- the curve --------------------------------------------------------------------------------------------------------


def test_a_curve_by_hand():
    """4 objects; hit, false, hit, hit: precision 1 up to recall 1/4, then .75 up to 3/4, then never."""
    true, false = np.array([1, 1, 2, 3]), np.array([0, 1, 1, 1])
    assert average_precision(true, false, 4, np.arange(1, 41) / 40) == pytest.approx((10 * 1 + 20 * 0.75) / 40)
    assert average_precision(true, false, 4, np.arange(11) / 10) == pytest.approx((3 * 1 + 5 * 0.75) / 11)
    assert math.isnan(average_precision(true, false, 0, np.ones(1)))


def test_the_same_curve_through_boxes():
    gt = boxes_at((5, 10, 15, 20))
    boxes, scores = boxes_at((5, 40, 10, 15)), [0.9, 0.8, 0.7, 0.6]
    result = Evaluation([frame(gt, [1] * 4, boxes, scores, [1] * 4)], CLASSES, iou=IOU).ap()
    assert result["R40"]["3d"]["dumptruck"]["all"] == pytest.approx(0.625)
    assert result["R11"]["3d"]["dumptruck"]["all"] == pytest.approx(6.75 / 11)


def test_equal_scores_count_together():
    gt = boxes_at((5,))
    for boxes in (boxes_at((5, 40)), boxes_at((40, 5))):  # the hit first, or last
        found = Evaluation([frame(gt, [1], boxes, [0.5, 0.5], [1, 1])], CLASSES, iou=IOU).ap()
        assert found["R40"]["3d"]["dumptruck"]["all"] == 0.5


def test_an_object_is_found_once():
    gt = boxes_at((5, 30))
    double = boxes_at((5, 5.1))
    result = Evaluation([frame(gt, [1, 1], double, [0.9, 0.8], [1, 1])], CLASSES, iou=IOU).ap()
    assert result["R40"]["3d"]["dumptruck"]["all"] == 0.5  # half of the objects, at full precision


def test_each_detection_takes_the_object_it_overlaps_most():
    iou = np.array([[0.6, 0.8], [0.75, 0.9], [0.2, 0.95]])
    assert match(iou, np.ones(2, bool), 0.7).tolist() == [1, 0, -1]
    assert match(iou, np.ones(2, bool), 0.85).tolist() == [-1, 1, -1]
    assert match(np.zeros((2, 0)), np.ones(0, bool), 0.5).tolist() == [-1, -1]


# --- bands ------------------------------------------------------------------------------------------------------------


def test_bands_judge_their_own_objects():
    gt = boxes_at((5, 20, 50))
    result = Evaluation([frame(gt, [1] * 3, boxes_at((5, 50, 22)), [0.9, 0.8, 0.7], [1] * 3)], CLASSES, iou=IOU).ap()
    by_band = result["R40"]["3d"]["dumptruck"]
    assert (by_band["0-10"], by_band["10-30"], by_band["30-70.4"]) == (1, 0, 1)


def test_a_false_alarm_counts_in_its_own_band_only():
    gt = boxes_at((5, 20))
    boxes, scores = boxes_at((5, 20, 60, 25)), [0.5, 0.5, 0.9, 0.9]
    by_band = Evaluation([frame(gt, [1] * 2, boxes, scores, [1] * 4)], CLASSES, iou=IOU).ap()["R40"]["3d"]["dumptruck"]
    assert by_band["0-10"] == 1 and by_band["10-30"] == 0.5 and by_band["all"] == 0.5


def test_a_hit_across_a_band_border_is_no_false_alarm():
    gt, boxes = boxes_at((9.9,)), boxes_at((10.05,))
    by_band = Evaluation([frame(gt, [1], boxes, [0.9], [1])], CLASSES, iou=IOU).ap()["R40"]["3d"]["dumptruck"]
    assert by_band["0-10"] == 1 and math.isnan(by_band["10-30"])


def test_bands_are_measured_from_the_sensor():
    gt = boxes_at((105,))
    found = Evaluation([frame(gt, [1], sensor=(100.0, 0.0))], CLASSES, iou=IOU)
    assert found.objects()["dumptruck"]["0-10"] == 1


# --- KITTI's mapping (trap T31) ---------------------------------------------------------------------------------------


def rollers_taken_for_graders():
    gt, labels = boxes_at((5, 20, 30)), [3, 4, 4]  # a grader and two rollers
    return [frame(gt, labels, boxes_at((5, 20, 30)), [0.5, 0.9, 0.9], [3, 3, 3])]


def test_grader_ap_is_the_same_with_and_without_rollers():
    frames = rollers_taken_for_graders()
    alone = [frame(frames[0].gt_boxes[:1], [3], frames[0].boxes, frames[0].scores, frames[0].labels)]
    with_rollers = Evaluation(frames, CLASSES, iou=IOU).ap()["R40"]["3d"]["grader"]
    assert with_rollers == pytest.approx(Evaluation(alone, CLASSES, iou=IOU).ap()["R40"]["3d"]["grader"], nan_ok=True)
    assert with_rollers["all"] == pytest.approx(1 / 3)


def test_kitti_s_mapping_lets_a_roller_pass_for_a_grader():
    frames, names, aside = as_kitti(rollers_taken_for_graders(), CLASSES, KITTI)
    assert names == ("Truck", "Cyclist", "Car", "Van") and aside["Car"] == ("Van",)
    iou = {KITTI[name]: value for name, value in IOU.items()}
    result = Evaluation(frames, names, iou=iou, neighbours=aside).ap()["R40"]["3d"]
    assert result["Car"]["all"] == 1 and result["Van"]["all"] == 0
    merged, names, _ = as_kitti(frames, names, dict.fromkeys(names, "Car"))
    assert names == ("Car",) and set(merged[0].gt_labels) == {1}
    with pytest.raises(ConfigError, match="roller"):
        as_kitti(frames, CLASSES, dict.fromkeys(CLASSES[:3], "Car"))


# --- recall, checks ---------------------------------------------------------------------------------------------------


def test_recall_at():
    gt = boxes_at((5, 20))
    frames = [frame(gt, [1, 2], boxes_at((5.5, 20)), [0.1, 0.1], [2, 2]), frame(boxes=gt, scores=[1, 1], labels=[1, 1])]
    assert recall_at(frames, (0.3, 0.9)) == {"recall@0.3": 1.0, "recall@0.9": 0.5}
    assert math.isnan(recall_at(frames[1:], (0.3,))["recall@0.3"])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"gt": boxes_at((1,)), "gt_labels": []}, "1 objects with 0 labels"),
        ({"boxes": boxes_at((np.nan,)), "scores": [0.5], "labels": [1]}, "NaN"),
        ({"boxes": boxes_at((1,)), "scores": [0.5], "labels": [5]}, "labels 5..5"),
        ({"gt": boxes_at((1,)), "gt_labels": [0]}, "labels 0..0"),
    ],
)
def test_broken_frames_are_named(broken, message):
    with pytest.raises(DataError, match=message) as error:
        Evaluation([frame(**broken, name="site_07")], CLASSES, iou=IOU)
    assert "site_07" in str(error.value)


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match="roller"):
        Evaluation([], CLASSES, iou=dict.fromkeys(CLASSES[:3], 0.5))
    with pytest.raises(ConfigError, match=r"\(0, 1\]"):
        Evaluation([], ("roller",), iou={"roller": 1.5})
    with pytest.raises(ConfigError, match="aos"):
        Evaluation([], ("roller",), iou=IOU, metrics=("aos",))
    with pytest.raises(ValueError, match="weights"):
        Evaluation([], CLASSES, iou=IOU).ap(np.ones(2))


# --- files ------------------------------------------------------------------------------------------------------------


def test_results_round_trip(tmp_path):
    frames = [*random_frames(np.random.default_rng(4), 2), frame(name="empty")]
    classes, found = read_results(write_results(tmp_path / "result.json", frames, CLASSES))
    assert classes == CLASSES and list(found) == [one.frame_id for one in frames]
    for one in frames:
        read = found[one.frame_id]
        np.testing.assert_allclose(read["boxes"], one.boxes, atol=1e-4)
        np.testing.assert_allclose(read["scores"], one.scores)
        np.testing.assert_array_equal(read["labels"], one.labels)


@pytest.mark.parametrize("text", ["{", "[]", '{"classes": ["a"], "frames": [{"frame_id": "1"}]}', "<html>"])
def test_broken_result_files_are_named(tmp_path, text):
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"result\.json"):
        read_results(path)
    with pytest.raises(DataError, match="missing"):
        read_results(tmp_path / "other.json")


def test_kitti_lines_by_hand(tmp_path):
    one = frame(boxes=[[10, 5, 1, 4, 2, 1.5, 0.0]], scores=[0.75], labels=[3], name="000007")
    expected = "-1 -1 -10 -1 -1 -1 -1 1.5000 2.0000 4.0000 -5.0000 -0.2500 10.0000 -1.5708 0.7500"
    assert kitti_lines(one, CLASSES) == [f"grader {expected}"]
    assert write_kitti_files(tmp_path / "data", [one, frame(name="none")], CLASSES, KITTI) == 2
    assert (tmp_path / "data" / "000007.txt").read_text() == f"Car {expected}\n"
    assert (tmp_path / "data" / "none.txt").read_text() == ""
    with pytest.raises(DataError, match="no file name"):
        write_kitti_files(tmp_path, [frame(name="../x")], CLASSES)


def test_scores_as_json_and_as_a_table():
    found = Evaluation([frame(boxes_at((5,)), [1], boxes_at((5,)), [0.9], [1])], CLASSES, iou=IOU)
    plain = plain_scores(found.ap())
    assert plain["R40"]["3d"]["roller"]["all"] is None and plain["R40"]["3d"]["dumptruck"]["all"] == 1.0
    table = score_table(plain, found.objects())
    row = next(line for line in table.splitlines() if "dumptruck" in line).split()
    assert row[:4] == ["dumptruck", "1", "100.00", "100.00"] and row[4] == "-"
