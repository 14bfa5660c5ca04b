"""The official rule on hand-made and real boxes, and the table behind a score."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from evaluation_samples import FRAME_WH, Echo, Loader, command, config, random_commands

from shared.errors import DataError, NonFiniteError
from shared.metrics import bootstrap_interval
from talk2car_kd import baselines, evaluation

# --- the official rule ---


def test_rule_is_strict_and_cuts_the_truth_to_whole_pixels():
    assert evaluation.official_ious([[0, 0, 20, 10]], [[0, 0, 10.9, 10.9]]).tolist() == [0.5]
    assert evaluation.official_ious([[0, 0, 10.5, 10]], [[0, 0, 10, 10]])[0] == pytest.approx(100 / 105)
    assert evaluation.official_ious([[0, 0, 0, 0]], [[0.4, 0.4, 0.9, 0.9]]).tolist() == [0.0]  # union 0: 1e-7, not NaN
    truth, half = {"a": [0, 0, 10, 10]}, {"a": [0, 0, 20, 10]}
    strict = evaluation.official_scores(half, truth)
    assert strict["ap50"] == 0.0 and strict["average_iou"] == 0.5 and "ap50_ge" not in strict
    loose = evaluation.official_scores(half, truth, iou_op="ge")
    assert loose["ap50_ge"] == 1.0 and loose["ap55_ge"] == 0.0 and "ap50" not in loose


def test_thresholds_and_their_mean():
    truth = {str(k): [0, 0, 100, 100] for k in range(4)}
    predictions = {str(k): [0, 0, 100, 100 - 13 * k] for k in range(4)}  # IoU 1, 0.87, 0.74, 0.61
    scores = evaluation.official_scores(predictions, truth)
    assert [scores[f"ap{t}"] for t in range(50, 100, 5)] == [1, 1, 1, 0.75, 0.75, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert scores["ap50_95"] == pytest.approx(0.65)
    assert scores["average_iou"] == pytest.approx(0.805)


def test_tokens_must_be_the_same():
    truth = {"a": [0, 0, 1, 1], "b": [0, 0, 1, 1]}
    with pytest.raises(DataError, match=r"1 of 2 missing: b; 1 unknown: c"):
        evaluation.official_scores({"a": [0, 0, 1, 1], "c": [0, 0, 1, 1]}, truth)
    test = {f"{i:04}": [0, 0, 1, 1] for i in range(2447)}
    both = {f"{i:04}": [0, 0, 1, 1] for i in range(3610)}
    with pytest.raises(DataError, match=r"3610 tokens .*test \+ val.*2447 tokens .*test.*1163 unknown.*AICrowd"):
        evaluation.official_scores(both, test)
    with pytest.raises(DataError, match="no ground truth"):
        evaluation.official_scores({}, {})


NO_BOXES = [[0, 0, 1], [0, 0, float("nan"), 1], [0, 0, -1, 1], "box", [0, 0, "1", 1], None, [True] * 4]


@pytest.mark.parametrize("box", NO_BOXES)
def test_boxes_must_be_boxes(box, tmp_path):
    with pytest.raises(DataError, match="four finite numbers"):
        evaluation.official_scores({"a": box}, {"a": [0, 0, 1, 1]})
    with pytest.raises(DataError, match="four finite numbers"):
        evaluation.write_predictions(tmp_path / "predictions.json", {"a": box})
    assert list(tmp_path.iterdir()) == []


# --- predictions.json ---


def test_predictions_round_trip(tmp_path):
    predictions = {"tökén": [0.1 + 0.2, 1, 2.5, 3], "b": np.array([1.0, 2.0, 3.0, 4.0])}
    evaluation.write_predictions(tmp_path / "predictions.json", predictions)
    found = evaluation.read_predictions(tmp_path / "predictions.json")
    assert found == {"tökén": [0.1 + 0.2, 1, 2.5, 3], "b": [1, 2, 3, 4]}
    evaluation.write_predictions(tmp_path / "predictions.json", {})
    assert evaluation.read_predictions(tmp_path / "predictions.json") == {}


@pytest.mark.parametrize(
    "content, problem",
    [
        (b"[1, 2]", "holds a list"),
        (b'{"a": [0, 0, 1, 1]', "expected JSON"),
        (b'{"a": [0,0,1,1], "a": [0,0,2,2]}', "given twice: a"),
        (b'{"a": [0, 0, NaN, 1]}', "four finite numbers"),
        (b"\xff\xfe", "expected JSON"),
        (None, "cannot be read"),
    ],
)
def test_bad_prediction_files_are_named(tmp_path, content, problem):
    path = tmp_path / "predictions.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=problem) as error:
        evaluation.read_predictions(path)
    assert str(path) in str(error.value)


# --- from a model to a score ---


def test_a_model_that_knows_scores_one_and_one_that_doubles_the_width_scores_by_hand():
    commands = [command(i, (400.0, 400.0, 200.0, 100.0)) for i in range(5)]
    perfect = evaluation.evaluate_talk2car(Echo(), Loader(commands), config())
    assert perfect["average_iou"] == perfect["ap50"] == perfect["ap95"] == perfect["ap50_95"] == 1.0
    doubled = evaluation.evaluate_talk2car(Echo(3.2), Loader(commands), config("ge"))  # centre x 0.3125
    assert doubled["average_iou"] == 0.5 and doubled["ap50"] == 0.0 and doubled["ap50_ge"] == 1.0


def test_modes_are_put_back_module_by_module():
    model = Echo().train()
    model.frozen.eval()
    evaluation.evaluate_talk2car(model, Loader(random_commands(3)), config(), intervals=False)
    assert model.training and not model.frozen.training


def test_slices_partition_the_commands_and_average_to_the_whole():
    commands = random_commands(60)
    records = evaluation.all_records(Echo(1.5), Loader(commands), FRAME_WH)
    scores = evaluation.score_records(records, config())
    for name in ("by_size", "by_side", "by_class", "by_cue"):
        parts = scores[name].values()
        assert len(parts) > 1 and sum(part["n"] for part in parts) == 60
        for key in ("average_iou", "ap50", "ap50_95"):
            assert sum(part["n"] * part[key] for part in parts) / 60 == pytest.approx(scores[key])
    assert 0 < scores["ap50"] < 1
    assert set(scores["by_side"]) == {"left", "right", "none"}
    assert scores["by_distractor"] == {}  # no tag, no claim
    assert sum(scores["iou_histogram"]["counts"]) == 60
    json.dumps(scores, allow_nan=False)


def test_intervals_hold_the_score_and_resample_scenes():
    records = evaluation.all_records(Echo(1.5), Loader(random_commands(60)), FRAME_WH)
    scores = evaluation.score_records(records, config(samples=200))
    for name in ("average_iou", "ap50", "ap50_95"):
        low, high = scores["intervals"][name]
        assert low < scores[name] < high
    hits = np.array([record.iou > 0.5 for record in records], dtype=float)
    scenes = [record.command.scene_token for record in records]
    assert scores["intervals"]["ap50"] == list(bootstrap_interval(hits, groups=scenes, samples=200))
    assert scores["intervals"]["ap50"] != list(bootstrap_interval(hits, samples=200))
    alone = [record for record in records if record.command.scene_token == "scene0"]
    assert "intervals" not in evaluation.score_records(alone, config())
    assert "intervals" not in evaluation.score_records(records, config(), intervals=False)


def test_sizes_are_shares_of_the_frame():
    area = 1600 * 900
    for share, name in ((0.0061, "small"), (0.0063, "medium"), (0.0227, "medium"), (0.0229, "large")):
        assert evaluation.size_of(command(0, (0.0, 0.0, share * area / 100, 100.0)), FRAME_WH) == name


def test_distractor_tags_are_read():
    commands = [command(i, same_class_distractor=bool(i % 2)) for i in range(4)] + [command(4)]
    scores = evaluation.evaluate_talk2car(Echo(), Loader(commands), config())
    assert {name: part["n"] for name, part in scores["by_distractor"].items()} == {"with": 2, "without": 2}


def test_commands_without_ground_truth_are_predicted_but_not_scored():
    commands = [command(0), command(1, None), command(2)]
    records = evaluation.all_records(Echo(), Loader(commands), FRAME_WH)
    assert len(evaluation.predictions_of(records)) == 3 and records[1].iou is None and records[0].iou == 1.0
    scores = evaluation.score_records(records, config())
    assert (scores["n"], scores["n_unscored"]) == (2, 1)
    with pytest.raises(DataError, match="no ground truth"):
        evaluation.score_records(records[1:2], config())


def test_predictions_stay_inside_the_frame_and_equal_the_file(tmp_path):
    commands = random_commands(20)
    records = evaluation.all_records(Echo(5.0), Loader(commands), FRAME_WH)
    x, y, w, h = np.array([record.predicted_xywh_px for record in records]).T
    assert x.min() >= 0 and y.min() >= 0 and (x + w).max() <= 1600.01 and (y + h).max() <= 900.01
    evaluation.write_predictions(tmp_path / "p.json", evaluation.predictions_of(records))
    from_file = evaluation.official_scores(
        evaluation.read_predictions(tmp_path / "p.json"), evaluation.ground_truth(commands)
    )
    in_memory = evaluation.score_records(records, config())
    assert from_file == {name: in_memory[name] for name in from_file}


def test_predictions_are_kept_to_a_hundredth_of_a_pixel():
    commands = [command(0, (400.126, 300.474, 200.25, 100.5))]
    predicted = evaluation.predict(Echo(), Loader(commands), FRAME_WH)[0].predicted_xywh_px
    assert predicted == pytest.approx(commands[0].box_xywh_px, abs=0.0051)
    assert all(value == round(value, 2) for value in predicted)


def test_maps_are_kept_only_for_the_commands_asked_for():
    records = evaluation.all_records(Echo(), Loader(random_commands(5)), FRAME_WH, maps_for=[1, 4])
    assert [sorted(record.maps) for record in records] == [[], ["score_map"], [], [], ["score_map"]]
    assert records[4].maps["score_map"].shape == (2, 3)


def test_boxes_that_are_not_numbers_stop_the_evaluation():
    with pytest.raises(NonFiniteError, match="token000"):
        evaluation.predict(Echo(float("nan")), Loader(random_commands(2)), FRAME_WH)


@dataclass
class Gathered:
    """A process group whose other ranks are already done."""

    others: list

    def gather(self, mine):
        return [mine, *self.others]


@pytest.mark.parametrize("padding", [[], [0, 5]])
def test_two_processes_count_every_command_once(padding):
    commands = random_commands(23)
    alone = evaluation.evaluate_talk2car(Echo(1.5), Loader(commands), config())
    rank1 = evaluation.predict(Echo(1.5), Loader(commands, list(range(1, 23, 2)) + padding), FRAME_WH)
    loader0 = Loader(commands, list(range(0, 23, 2)), batch_size=5)
    together = evaluation.evaluate_talk2car(Echo(1.5), loader0, config(), world=Gathered([rank1]))
    assert together == alone


def test_commands_nobody_predicted_are_missed():
    commands = random_commands(10)
    with pytest.raises(ValueError, match=r"2 of 10 commands were not predicted, first index 8"):
        evaluation.evaluate_talk2car(Echo(), Loader(commands, list(range(8))), config())


# --- the real files ---


@pytest.fixture(scope="module")
def real_truth(real_samples):
    rows = json.loads((real_samples / "talk2car/commands/val_commands.json").read_text())["commands"]
    return {row["command_token"]: row["2d_box"] for row in rows}


VECTORS = [  # prediction from the truth, hits at 0.5 of 502, mean IoU: counted with the official code
    (lambda b: b, 502, 1.0),
    (lambda b: [b[0], b[1], 2 * b[2], b[3]], 0, 0.5),
    (lambda b: [b[0] + 10, *b[1:]], 491, 0.84077),
    (lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]], 15, 0.09909),
    (lambda b: [640, 458, 147, 120], 3, 0.03502),
    (lambda b: [34, 436, 475, 351], 17, 0.06457),
]


@pytest.mark.real
@pytest.mark.parametrize("change, hits, mean_iou", VECTORS)
def test_official_vectors(real_truth, change, hits, mean_iou):
    scores = evaluation.official_scores({token: change(box) for token, box in real_truth.items()}, real_truth)
    assert scores["n"] == 502
    assert scores["ap50"] == hits / 502
    assert scores["average_iou"] == pytest.approx(mean_iou, abs=5e-6)


@pytest.mark.real
def test_official_vectors_in_detail(real_truth):
    doubled = {token: [x, y, 2 * w, h] for token, (x, y, w, h) in real_truth.items()}
    assert evaluation.official_scores(doubled, real_truth, iou_op="ge")["ap50_ge"] == 1.0
    constant = {token: [640, 458, 147, 120] for token in real_truth}
    assert evaluation.official_scores(constant, real_truth)["ap50_95"] == pytest.approx(0.00179, abs=5e-6)


@pytest.mark.real
def test_official_example_scores_one(real_samples, real_truth):
    predictions = evaluation.read_predictions(real_samples / "talk2car/predictions_example.json")
    scores = evaluation.official_scores(predictions, real_truth)
    assert scores["ap50"] == scores["ap50_95"] == scores["average_iou"] == 1.0
    short = dict(list(predictions.items())[3:])
    with pytest.raises(DataError, match="3 of 502 missing"):
        evaluation.official_scores(short, real_truth)


@pytest.mark.real
def test_train_median_of_the_real_boxes(real_samples):
    rows = json.loads((real_samples / "talk2car/expr/talk2car_expr_train.json").read_text())
    commands = [command(i, tuple(row["obj_box"])) for i, row in enumerate(rows.values())]
    assert baselines.median_box(commands) == [640, 458, 147, 120]
