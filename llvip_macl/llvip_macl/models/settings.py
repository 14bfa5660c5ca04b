"""Keys of a component's config, checked: an unknown key is an error that names the nearest, an alias is understood."""

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from shared.errors import ConfigError

S = TypeVar("S")


def settings_from(schema: type[S], owner: str, keys: Mapping[str, Any], aliases: Mapping[str, str]) -> S:
    """A frozen dataclass of settings from the keys that a config gave.

    Args:
        schema: the dataclass; its fields are the known keys, its __post_init__ checks their values.
        owner: the config's `type`, for messages.
        aliases: other spellings that older configs use, to the names of today.

    Raises:
        ConfigError: an unknown key (the nearest known one is named), or one setting under two spellings.
    """
    known = [field.name for field in fields(schema)]
    given: dict[str, Any] = {}
    for key, value in keys.items():
        name = aliases.get(key, key)
        if name not in known:
            raise ConfigError(f"{owner} has no key `{key}`{_nearest(key, [*known, *aliases])}.")
        if name in given:
            raise ConfigError(f"{owner}: `{name}` is set twice, once under an older spelling; keep `{name}`.")
        given[name] = value
    return schema(**given)


def _nearest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean `{close[0]}`?" if close else f"; it knows {', '.join(sorted(known))}"
