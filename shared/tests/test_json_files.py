"""JSON that is missing, cut or of another structure is named with its remedy; what JSON cannot say becomes null."""

import json
import math

import numpy as np
import pytest

from shared.errors import DataError
from shared.json_files import damage_named, finite, read_json


def test_a_value_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"name": "Müller"}', encoding="utf-8")
    assert read_json(tmp_path / "a.json", "make it anew.") == {"name": "Müller"}


@pytest.mark.parametrize(
    ("content", "words"), [(None, "is missing"), (b'{"a": ', "is not JSON"), (b"\xff", "not JSON")]
)
def test_what_cannot_be_read_is_named_with_the_remedy(tmp_path, content, words):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"a.json .*{words}.*: make it anew") as caught:
        read_json(path, "make it anew.")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("broken", [{}, {"rows": 3}, {"rows": [[]]}, {"rows": [["x"]]}, []])
def test_another_structure_is_damage(tmp_path, broken):
    read = lambda: [float(row[0]) for row in broken["rows"]]  # noqa: E731
    with pytest.raises(DataError, match=r"a.json is damaged \(\w+Error: .*\): make it anew"):
        damage_named(tmp_path / "a.json", read, "make it anew.")


def test_what_is_not_finite_becomes_null_and_words():
    found = finite({"a": [1.5, math.nan, (np.float64("inf"), -math.inf)], "b": "nan", "c": 3, "d": None})
    assert found == {"a": [1.5, None, ["inf", "-inf"]], "b": "nan", "c": 3, "d": None}
    json.dumps(found, allow_nan=False)
