"""Left and right: the mirror of a mirror is the command itself, adverbs stay, substrings are never touched."""

import itertools
import json
import re

import pytest

from talk2car_kd.flips import flip_command, side_of

MIRRORED = [
    ("park on the left", "park on the right"),
    ("Turn LEFT at the Right-hand corner", "Turn RIGHT at the Left-hand corner"),
    ("the leftmost of the bright cars", "the rightmost of the bright cars"),
    ("swerve leftwards", "swerve rightwards"),
    ("the red car on the right behind the bus", "the red car on the left behind the bus"),
    ("turn right after the van", "turn left after the van"),
    ("the car on the right next to us", "the car on the left next to us"),
    ("pull over to your right before the cone", "pull over to your left before the cone"),
    ("the van in that left lane", "the van in that right lane"),
    ("follow the white car", "follow the white car"),
    ("take the leftover, it is alright and brightly lit", "take the leftover, it is alright and brightly lit"),
]
REFUSED = [
    "stop right behind the truck",
    "follow the car that is right in front of us",
    "stop right here",
    "go there right now",
    "park right next to the cone",
    "the man has left the road",
    "is everything all right",
    "park at the only spot left",
    "the LeFt car",
    "turn left, then stop right behind the bus",
]


@pytest.mark.parametrize(("text", "mirror"), MIRRORED)
def test_sides_change_places_and_back(text, mirror):
    assert flip_command(text) == mirror
    assert flip_command(mirror) == text


@pytest.mark.parametrize("text", REFUSED)
def test_unsure_commands_are_not_flipped(text):
    assert flip_command(text) is None


def test_judged_alike_in_the_mirror():
    """If a command is flipped at all, its mirror image is too, and gives the command back."""
    befores = ["the", "our", "go", "has", "that", "all", "spot", "just", "turn", "far", ""]
    afters = ["", "lane", "behind it", "here", "of the car", "turn", ", now", "-hand side"]
    words = ["left", "right", "Right", "LEFT", "leftmost"]
    flipped = {text: flip_command(text) for text in map(" ".join, itertools.product(befores, words, afters))}
    assert all(other is None or (other != text and flip_command(other) == text) for text, other in flipped.items())
    assert 0.5 < sum(other is not None for other in flipped.values()) / len(flipped) < 0.9


@pytest.mark.parametrize(
    ("text", "side"),
    [
        ("park on the left", "left"),
        ("turn left at the car", None),
        ("turn left behind the bus on the right", "right"),
        ("take a right after the van", None),
        ("make the next left turn", None),
        ("stop right behind the car on the left", "left"),
        ("let the left car pass, then the right one", "both"),
        ("the brightest car", None),
        ("in the right-hand lane", "right"),
        ("he left the road", None),
    ],
)
def test_side_of(text, side):
    assert side_of(text) == side


@pytest.mark.real
def test_real_commands(real_samples):
    """The 502 real val commands: two flips are the identity, no "bleft", and side words tell the side in about 85 %."""
    rows = json.loads((real_samples / "talk2car/commands/val_commands.json").read_text())["commands"]
    texts = [row["command"] for row in rows]
    flipped = [flip_command(text) for text in texts]
    assert len(texts) == 502
    assert sum(text is None for text in flipped) <= 12  # adverbs and the verb
    for text, other in zip(texts, flipped, strict=True):
        assert other is None or flip_command(other) == text
        assert (other == text) == (re.search(r"\b(left|right)", text) is None) or other is None
        assert other is None or ("bleft" not in other and other.count("bright") == text.count("bright"))
    centres = {"left": [], "right": []}
    for row in rows:
        if side_of(row["command"]) in centres:
            centres[side_of(row["command"])].append((row["2d_box"][0] + row["2d_box"][2] / 2) / 1600)
    assert sum(x < 0.5 for x in centres["left"]) / len(centres["left"]) > 0.8
    assert sum(x > 0.5 for x in centres["right"]) / len(centres["right"]) > 0.8
