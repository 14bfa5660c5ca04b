"""The official rule on hand-made and real boxes, the table behind a score, floors and controls."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from shared.errors import DataError, NonFiniteError
from shared.metrics import bootstrap_interval
from talk2car_kd import baselines, evaluation
from talk2car_kd.boxes import to_unit_cxcywh
from talk2car_kd.talk2car_annotations import Command
from talk2car_kd.teacher import CommandTokens

FRAME_WH = (1600, 900)


def config(iou_op="gt", samples=50):
    return SimpleNamespace(
        eval=SimpleNamespace(iou_op=iou_op, bootstrap_samples=samples), stage2=SimpleNamespace(frame_wh=FRAME_WH)
    )


def command(number, box=(100.0, 400.0, 200.0, 100.0), text="stop behind the red car", frame=None, **tags):
    frame = number if frame is None else frame
    return Command(
        command_token=f"token{number:03}",
        text=text,
        image_path=Path(f"frame{frame}.jpg"),
        sample_token=f"sample{frame}",
        scene_token=f"scene{frame // 2}",
        box_xywh_px=box,
        class_name="vehicle.car" if number % 3 else "human.pedestrian.adult",
        tags=tags,
    )


def random_commands(count, seed=0):
    rng = np.random.default_rng(seed)
    words = ["the car on the left", "a man on the right", "park by the bus", "follow that truck", "go around"]
    boxes = np.concatenate([rng.uniform(0, [1200, 600], (count, 2)), rng.uniform(20, [400, 300], (count, 2))], axis=1)
    return [
        command(i, tuple(box.round().tolist()), words[i % 5], frame=i // 2, cue="side" if i % 2 else "colour")
        for i, box in enumerate(boxes)
    ]


@dataclass
class Dataset:
    commands: list


class Loader:
    """Batches as collate_grounding makes them; the "text" of row i is its own box, so a model can answer."""

    def __init__(self, commands, rows=None, batch_size=4):
        self.dataset = Dataset(commands)
        rows = list(range(len(commands))) if rows is None else rows
        self.batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for rows in self.batches:
            text = torch.stack([features(self.dataset.commands[row]) for row in rows])
            yield {
                "images": torch.ones(1, 3, 8, 8),
                "image_index": torch.zeros(len(rows), dtype=torch.long),
                "text_emb": text,
                "text_mask": torch.ones(text.shape[:2], dtype=torch.bool),
                "token_ids": torch.zeros(text.shape[:2], dtype=torch.long),
                "index": torch.tensor(rows),
            }


def features(command):
    box = command.box_xywh_px or (0.0, 0.0, 1.0, 1.0)
    return to_unit_cxcywh(torch.tensor([box], dtype=torch.float64), FRAME_WH)


class Echo(nn.Module):
    """Answers with the box in its text; wider by `slack` times the centre's x, and blind when the images are blank."""

    def __init__(self, slack=0.0):
        super().__init__()
        self.slack = nn.Parameter(torch.tensor(slack))
        self.frozen = nn.Dropout().eval()

    def forward(self, images, text_emb, text_mask, image_index, token_ids):
        assert not self.training and not torch.is_grad_enabled()
        seen = images[image_index].mean(dim=(1, 2, 3))[:, None]
        cx, cy, w, h = text_emb[:, 0].unbind(-1)
        boxes = torch.stack([cx, cy, w * (1 + self.slack * cx), h], dim=-1)
        return {"boxes_cxcywh": boxes * seen, "score_map": torch.arange(6.0).view(1, 2, 3).expand(len(boxes), 2, 3)}


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


# --- floors and controls ---


def test_constant_boxes():
    commands = [command(i, (float(10 * i), 400.0, 200.0, 100.0)) for i in range(9)] + [command(9, None)]
    assert baselines.median_box(commands) == [40, 400, 200, 100]
    assert baselines.best_constant_box(commands) == [40, 400, 200, 100]  # it hits all nine, nearest to all of them
    far = [command(20 + i, (float(300 * i), 0.0, 20.0, 20.0)) for i in range(5)]
    assert baselines.best_constant_box(commands + far) == [40, 400, 200, 100]  # where the median moves
    with pytest.raises(DataError, match="train split"):
        baselines.median_box([command(0, None)])


@pytest.mark.parametrize(
    "text, noun",
    [
        ("stop behind the bus next to the car", "bus"),
        ("follow those cars", "car"),
        ("Pick up that WOMAN", "person"),
        ("park by the traffic cones", "cone"),
        ("careful, carpet ahead", None),
        ("", None),
    ],
)
def test_named_object(text, noun):
    assert baselines.named_object(text) == noun


def test_text_prior_uses_the_words_and_backs_off():
    left = [command(i, (100.0, 400.0, 100.0, 100.0), "the car on the left") for i in range(6)]
    right = [command(i, (1400.0, 400.0, 100.0, 100.0), "the car on the right") for i in range(6)]
    bus = [command(i, (700.0, 300.0, 300.0, 300.0), "the bus") for i in range(6)]
    truck = [command(30, (0.0, 0.0, 9.0, 9.0), "the truck")]
    prior = baselines.TextPrior(left + right + bus)
    assert prior("park near the left car")[0] == 100
    assert prior("a car on the right")[0] == 1400
    assert prior("the bus on the right") == [700, 300, 300, 300]  # never seen with a side: the noun decides
    assert prior("the zebra on the left")[0] == 100  # unknown noun: the side decides
    assert baselines.TextPrior(left + right + bus + truck)("the truck") != [0, 0, 9, 9]  # one row says too little
    assert prior("stop here") == baselines.median_box(left + right + bus)


def test_floors_are_official_scores_and_the_oracle_needs_its_tag():
    train, test = random_commands(40, seed=1), random_commands(20, seed=2)
    rows = baselines.floors(train, test)
    assert set(rows) == {"median box", "best constant box", "text prior"}
    assert all(row["n"] == 20 and 0 <= row["ap50"] <= 1 for row in rows.values())
    assert baselines.class_oracle_ap50([command(0, n_same_class=1), command(1, n_same_class=4)]) == 0.625
    assert baselines.class_oracle_ap50([command(0, n_same_class=1), command(1)]) is None


@pytest.mark.parametrize("count", [4, 23, 60])
def test_shuffled_text_is_a_permutation_across_frames(count):
    commands = [command(i, text=f"text {i}", frame=i // 2) for i in range(count)]
    texts = baselines.shuffled_texts(commands, seed=3)
    assert sorted(texts) == sorted(c.text for c in commands)
    source = {c.text: c.sample_token for c in commands}
    assert all(source[text] != c.sample_token for text, c in zip(texts, commands, strict=True))
    assert baselines.shuffled_texts(commands, seed=3) == texts
    with pytest.raises(DataError, match="one frame"):
        baselines.shuffled_texts([command(i, frame=0) for i in range(3)])


def test_shuffled_text_prefers_other_sentences():
    commands = [command(i, text="left" if i < 10 else "right") for i in range(20)]
    texts = baselines.shuffled_texts(commands)
    assert sum(text == c.text for text, c in zip(texts, commands, strict=True)) < 10


def test_controls_take_the_text_or_the_image_away():
    commands = [command(i, box, text=str(i)) for i, box in enumerate(c.box_xywh_px for c in random_commands(24))]
    by_text = {c.text: CommandTokens(torch.ones(1, dtype=torch.long), features(c)) for c in commands}
    loader = Loader(commands)
    shuffled = baselines.with_shuffled_text(loader, by_text.__getitem__)
    assert evaluation.evaluate_talk2car(Echo(), loader, config())["ap50"] == 1.0
    assert evaluation.evaluate_talk2car(Echo(), shuffled, config())["ap50"] < 0.3
    blind = baselines.with_blank_images(loader)
    assert evaluation.evaluate_talk2car(Echo(), blind, config())["average_iou"] == 0.0
    assert len(blind) == len(loader) and loader.__iter__().__next__()["images"].mean() == 1


def test_shuffled_text_pads_and_masks():
    commands = [command(i, text=str(i)) for i in range(4)]

    def reader(text):
        return CommandTokens(torch.full((int(text) + 1,), 7), torch.ones(int(text) + 1, 2))

    loader = baselines.with_shuffled_text(Loader(commands), reader)
    batch = next(iter(loader))
    lengths = [int(text) + 1 for text in baselines.shuffled_texts(commands)]
    assert batch["text_emb"].shape == (4, 4, 2)
    assert batch["text_mask"].sum(dim=1).tolist() == lengths
    assert torch.equal(batch["text_emb"][..., 0] > 0, batch["text_mask"])
    assert torch.equal(batch["token_ids"] == 7, batch["text_mask"])


# --- the real files ---


@pytest.fixture(scope="module")
def real_truth(real_samples):
    rows = json.loads((real_samples / "talk2car/commands/val_commands.json").read_text())["commands"]
    return {row["command_token"]: row["2d_box"] for row in rows}


VECTORS = [  # prediction from the truth, hits at 0.5 of 502, mean IoU: facts counted with the official code
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
