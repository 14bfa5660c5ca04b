"""JSON files that a person may have lost, cut or edited: every mistake names the file and the remedy.

found = read_json(path, "run prepare again.")
rows = damage_named(path, lambda: [Row(**row) for row in found["rows"]], "run prepare again.")
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .errors import DataError

T = TypeVar("T")


def read_json(path: Path, remedy: str) -> Any:
    """A JSON file's value; DataError with the remedy when it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} is missing: {remedy}") from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}): {remedy}") from error


def damage_named(path: Path, read: Callable[[], T], remedy: str) -> T:
    """What `read` makes of a file's content; its mistakes as a DataError that names the file."""
    try:
        return read()
    except (LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise DataError(f"{path} is damaged ({type(error).__name__}: {error}): {remedy}") from error


def finite(value: Any) -> Any:
    """The same without NaN and infinities, which JSON has not: null, and words."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
