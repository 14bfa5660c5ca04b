"""Floors without a model and controls with half the input gone."""

import pytest
import torch
from evaluation_samples import Echo, Loader, command, config, features, random_commands

from shared.errors import DataError
from talk2car_kd import baselines, evaluation
from talk2car_kd.teacher import CommandTokens


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
