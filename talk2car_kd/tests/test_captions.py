"""Captions of regions: size words at their limits, articles by sound, templates, mentions."""

import numpy as np
import pytest

from talk2car_kd.captions import TEMPLATES, article, caption_mentions, mentioning_once, region_caption, size_word


@pytest.mark.parametrize(
    ("area", "large", "word"),
    [
        (1023.9, None, "small"),
        (1024, None, "large"),
        (1024, 9216, "medium"),
        (9215, 9216, "medium"),
        (9216, 9216, "large"),
    ],
)
def test_size_word_at_the_limits(area, large, word):
    assert size_word(area, 1024, large) == word


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        *(("car", "a"), ("apple", "an"), ("umbrella", "an"), ("oven", "an"), ("unicycle", "a"), ("Elephant", "an")),
        *(("uninflated ball", "an"), ("hour", "an"), ("horse", "a"), ("one", "a")),
    ],
)
def test_article_follows_the_sound(word, expected):
    assert article(word) == expected


def test_caption_names_size_and_category():
    assert region_caption("car", "small") == "a small car"
    assert region_caption("apple", None) == "an apple"
    assert region_caption("scissors", "large") == "a large pair of scissors"
    assert region_caption("oven", None, template=1) == "a photo of an oven"


def test_templates_are_distinct_and_all_drawn():
    rng = np.random.default_rng(0)
    drawn = {region_caption("dog", "small", rng) for _ in range(100)}
    assert drawn == {region_caption("dog", "small", i) for i in range(len(TEMPLATES))}
    assert len(drawn) == len(TEMPLATES)
    assert all("a small dog" in caption for caption in drawn)


@pytest.mark.parametrize(
    ("caption", "name", "expected"),
    [
        ("Two cars on a road", "car", True),
        ("A carpet on the floor", "car", False),
        ("A woman holds a phone", "person", True),
        ("A woman holds a phone", "cell phone", True),
        ("a hot  dog with mustard", "hot dog", True),
        ("a dog that is hot", "hot dog", False),
        ("three BUSES", "bus", True),
        ("people in a park", "truck", False),
    ],
)
def test_mentions_are_whole_words(caption, name, expected):
    assert caption_mentions(caption, name) is expected


def test_one_mention_is_wanted():
    captions = ["A  cat\nsleeps. ", "A room", "A grey cat beside a white cat"]
    assert mentioning_once(captions, "cat") == ["A cat sleeps."]
