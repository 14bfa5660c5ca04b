"""The commands of the embedded world: one answer each, by a checker of its own; figures close to the real ones."""

import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from talk2car_kd.flips import flip_command
from talk2car_kd.world import WorldSpec
from talk2car_kd.world.scene import describe, hidden_share
from talk2car_kd.world.semantics import CUES, RANKS, RELATIONS, Query, anchor_names, answers, is_clear
from talk2car_kd.world.spec import BOX_PERCENTILES, EDGE_SHARE, HELD_OUT, KINDS, colour_table
from talk2car_kd.world.stats import at_edge, box_statistics, side_agreement, word_shares
from talk2car_kd.world.talk2car_like import make_frame

SPEC = WorldSpec(seed=11)
TRAIN_FRAMES, VAL_FRAMES = 320, 160
COLOURS = r"\b(black|white|gr[ae]y|silver|orange|blue|red|yellow|green)\b"


def sample(split: str, count: int):
    """(things as JSON values, row, tag) of every command of the first frames."""
    found = []
    for index in range(count):
        frame, rows, tags = make_frame(SPEC, split, index)
        things = [describe(thing) for thing in frame.things]
        found += [(things, row, tag) for row, tag in zip(rows, tags, strict=True)]
    return found


@pytest.fixture(scope="module")
def train():
    return sample("train", TRAIN_FRAMES)


@pytest.fixture(scope="module")
def val():
    return sample("val", VAL_FRAMES)


# ---- one answer each: the definitions of semantics.py written again, on the JSON values alone


def middle(thing) -> float:
    return (thing["box_xywh"][0] + thing["box_xywh"][2] / 2) / 1600


def gap(a, b) -> float:
    sides = [abs(a[k] - b[k]) - a["halves_m"][i] - b["halves_m"][i] for i, k in enumerate(("x_m", "distance_m"))]
    return float(np.hypot(*(max(0.0, side) for side in sides)))


def holds(relation: str, thing, anchors) -> bool:
    a = anchors[0]
    near_in_x = abs(middle(thing) - middle(a)) * 1600 < (thing["box_xywh"][2] + a["box_xywh"][2]) / 2
    return {
        "next to": lambda: gap(thing, a) < 2.0,
        "left of": lambda: middle(thing) < middle(a),
        "right of": lambda: middle(thing) > middle(a),
        "behind": lambda: thing["distance_m"] > a["distance_m"] and near_in_x,
        "in front of": lambda: thing["distance_m"] < a["distance_m"] and near_in_x,
        "between": lambda: min(map(middle, anchors)) < middle(thing) < max(map(middle, anchors)),
    }[relation]()


def who(things, kind, colour) -> list[int]:
    return [i for i, t in enumerate(things) if t["class"] == kind and (colour is None or t["colour"] == colour)]


def check(query: dict, things) -> list[int]:
    """Every thing that the query fits."""
    anchors = [who(things, anchor["class"], anchor["colour"]) for anchor in query["anchors"]]
    assert all(len(found) == 1 for found in anchors), "an anchor is not unique itself"
    anchors = [found[0] for found in anchors]
    left = [i for i in who(things, query["class"], query["colour"]) if i not in anchors]
    if query["side"]:
        left = [i for i in left if ("left" if middle(things[i]) < 0.5 else "right") == query["side"]]
    if query["relation"]:
        left = [i for i in left if holds(query["relation"], things[i], [things[a] for a in anchors])]
    if query["rank"]:
        what, place = query["rank"]
        area = {i: -things[i]["box_xywh"][2] * things[i]["box_xywh"][3] for i in left}
        keys = {
            "nearest": lambda i: things[i]["distance_m"],
            "farthest": lambda i: -things[i]["distance_m"],
            "leftmost": lambda i: middle(things[i]),
            "rightmost": lambda i: -middle(things[i]),
            "biggest": lambda i: area[i],
        }
        left = sorted(left, key=keys[what])[place - 1 : place]
    return left


def test_every_command_has_exactly_one_answer(train, val):
    for things, row, tag in train + val:
        assert check(tag["query"], things) == [tag["target"]], row["command"]
        assert things[tag["target"]]["box_xywh"] == row["2d_box"]


def test_answers_agrees_with_the_checker_on_any_query():
    """Unclear queries included: every relation and rank between all named things of some frames."""
    compared = 0
    for index in range(25):
        things = make_frame(SPEC, "train", index)[0].things
        values, names = [describe(thing) for thing in things], list(anchor_names(things).values())
        asked = [Query(t.kind, None, side, rank=(what, 1)) for t in things for side in ("left", None) for what in RANKS]
        asked += [Query(t.kind, relation=r, anchors=(name,)) for t in things for r in RELATIONS[:-1] for name in names]
        asked += [Query(t.kind, relation="between", anchors=pair) for t in things for pair in pairwise(names)]
        for query in asked:
            assert answers(query, things) == check(query.as_json(), values), query
            compared += 1
    assert compared > 2000


def test_the_cue_is_what_decides(train, val):
    """Class alone decides only where the tag says so; colour likewise; other cues come on top where both fail."""
    for things, row, tag in train + val:
        query, (kind, colour) = tag["query"], (tag["class"], tag["colour"])
        plain = {"class": kind, "colour": None, "side": None, "relation": None, "anchors": [], "rank": None}
        assert (tag["cue"] == "class") == (check(plain, things) == [tag["target"]]), row["command"]
        assert tag["n_same_class"] == len(who(things, kind, None))
        assert tag["same_class_distractor"] == (tag["n_same_class"] > 1)
        if tag["cue"] == "colour":
            assert check({**plain, "colour": colour}, things) == [tag["target"]]
        elif query["colour"]:
            assert len(check({**plain, "colour": colour}, things)) > 1


def test_the_words_say_what_the_query_means(train):
    for _, row, tag in train:
        query, text = tag["query"], row["command"]
        if query["colour"]:
            spoken = {"gray": "gr[ae]y|silver"}.get(query["colour"], query["colour"])
            assert re.search(rf"\b({spoken})\b", text), text
        if query["side"]:
            assert re.search(rf"\b{query['side']}\b", text), text
        if query["relation"]:
            word = {"next to": "next to|beside|close to", "left of": "left of", "right of": "right of"}
            assert re.search(word.get(query["relation"], query["relation"]), text), text
        if not query["colour"] and tag["cue"] != "class" and not any(a["colour"] for a in query["anchors"]):
            assert not re.search(COLOURS, text), text


def test_a_thing_on_the_border_is_not_called_left_or_right():
    """is_clear refuses what answers would still decide."""
    thing = make_frame(SPEC, "train", 0)[0].things[0]
    near = [replace(thing, box_xywh=(x, 400, 100, 100)) for x in (740, 1000)]
    query = Query(thing.kind, side="left")
    assert answers(query, near) == [0] and not is_clear(query, near, 0)


# ---- figures


def test_box_medians_are_within_a_fifth_of_the_real_ones(train):
    boxes = np.array([row["2d_box"] for _, row, _ in train])
    for name, values in box_statistics(boxes).items():
        assert np.median(values) == pytest.approx(BOX_PERCENTILES[name][2], rel=0.2), name
    low, high = np.quantile(box_statistics(boxes)["h_px"], (0.05, 0.95))
    assert low < 60 and high > 300  # tiny and huge ones occur
    assert at_edge(boxes).mean() == pytest.approx(EDGE_SHARE, abs=0.05)


def test_classes_and_colours_have_their_shares(train):
    tags = [tag for _, _, tag in train]
    shares = {kind: count / len(tags) for kind, count in Counter(tag["class"] for tag in tags).items()}
    total = sum(kind.share for kind in KINDS.values())
    for name, kind in KINDS.items():
        assert shares[name] == pytest.approx(kind.share / total, abs=0.05), name
    colours = {colour: count / len(tags) for colour, count in Counter(tag["colour"] for tag in tags).items()}
    real = {"black": 0.34, "white": 0.34, "gray": 0.13, "orange": 0.05, "blue": 0.05, "red": 0.04, "yellow": 0.03}
    for colour, share in {**real, "green": 0.02}.items():
        assert colours[colour] == pytest.approx(share, abs=0.05), colour


def test_words_have_their_shares(train):
    texts = [row["command"] for _, row, _ in train]
    shares = word_shares(texts)
    assert shares["left or right"] == pytest.approx(0.40, abs=0.08)
    assert shares["turn left/right"] == pytest.approx(0.10, abs=0.04)
    assert 0.25 < shares["colour"] < 0.46
    assert shares["relation"] == pytest.approx(0.56, abs=0.08)
    assert 0.02 < shares["ordinal"] < 0.12 and 0.01 < shares["size or distance"] < 0.08
    assert shares["two sentences"] == pytest.approx(0.15, abs=0.05)
    assert 0.005 < shares["bright"] < 0.08
    assert any(re.search(r"\bright (behind|there)\b", text) for text in texts)
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) >= 4 and max(lengths) <= 20 and np.mean(lengths) == pytest.approx(11, abs=1)
    assert len(set(texts)) / len(texts) > 0.95 and texts == [text.lower() for text in texts]


def test_side_words_agree_with_the_box_as_often_as_in_the_real_data(train, val):
    rows = [row for _, row, _ in train + val]
    agree = side_agreement([r["command"] for r in rows], [(r["2d_box"][0] + r["2d_box"][2] / 2) / 1600 for r in rows])
    assert agree["left"] == pytest.approx(0.853, abs=0.07) and agree["right"] == pytest.approx(0.814, abs=0.07)
    by_class = [(row["command"], tag["side"]) for _, row, tag in train + val if tag["cue"] == "class"]
    turned = [(word, side) for text, side in by_class for word in re.findall(r"\bturn (left|right)\b", text)]
    assert 0.2 < np.mean([word == side for word, side in turned]) < 0.8  # our own turn tells little


def test_left_and_right_are_answers_equally_often(train, val):
    sides = [tag["side"] for _, _, tag in train + val if tag["cue"] == "side"]
    assert np.mean([side == "left" for side in sides]) == pytest.approx(0.5, abs=0.07)


def test_cues_and_distractors(train):
    tags = [tag for _, _, tag in train]
    shares = {cue: np.mean([tag["cue"] == cue for tag in tags]) for cue in CUES}
    bounds = {"class": 0.20, "colour": 0.25, "side": 0.25, "relation": 0.15, "order": 0.07, "size": 0.05}
    for cue, share in bounds.items():
        assert shares[cue] == pytest.approx(share, abs=0.06), cue
    assert np.mean([tag["same_class_distractor"] for tag in tags]) >= 0.71
    assert np.mean([1 / tag["n_same_class"] for tag in tags]) < 0.65  # knowing the class alone is not enough


def test_held_out_pairs_never_occur_in_train_and_do_in_val(train, val):
    seen = {(thing["colour"], thing["class"]) for things, _, _ in train for thing in things}
    assert not seen & HELD_OUT
    assert all((colour, kind) not in HELD_OUT for kind in KINDS for colour in colour_table(kind, "train")[0])
    asked = [tag["compositional"] for _, _, tag in val]
    assert 0.03 < np.mean(asked) < 0.25
    assert all(((tag["colour"], tag["class"]) in HELD_OUT) == tag["compositional"] for _, _, tag in val)
    # both halves of every held-out pair are known from train
    for colour, kind in HELD_OUT:
        assert any(c == colour for c, _ in seen) and any(k == kind for _, k in seen)


def test_referred_things_are_mostly_visible():
    for index in range(60):
        frame, _, tags = make_frame(SPEC, "train", index)
        for tag in tags:
            assert hidden_share(frame.things[tag["target"]], frame.things) <= 0.4
            assert frame.things[tag["target"]].inside_share >= 0.4


def test_most_commands_can_be_mirrored_and_mirror_back(train):
    texts = [row["command"] for _, row, _ in train]
    mirrored = [(text, flip_command(text)) for text in texts]
    assert np.mean([other is not None for _, other in mirrored]) > 0.9
    assert all(flip_command(other) == text for text, other in mirrored if other is not None)
