"""OpenPCDet's configuration files: where they lie, what they inherit, and every mistake in them in one message.

    experiment = load_experiment(find_config("cfgs/custom_models/x.yaml"), ["OPTIMIZATION.LR", "0.002"])

`_BASE_CONFIG_: path` in a section lays the section over that file's content. `--set KEY VALUE ...` needs an existing
key. A relative path of a configuration counts from the package's folder, wherever the command is started, so that
`cfgs/x.yaml`, `tools/cfgs/x.yaml` and an absolute path name one file and one output folder.
"""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pydantic
import yaml

from shared import config as strict
from shared.errors import ConfigError

from .config import PACKAGE_ROOT, Experiment
from .config_checks import problems

BASE = "_BASE_CONFIG_"
CONFIGS = "cfgs"  # the folder whose inner path becomes the output's
TOOLS = "tools"  # OpenPCDet's folder of scripts: paths given from there count too


class Loaded(NamedTuple):
    """data: the merged settings, plain; origins: where each came from; duplicates: a line for each key given twice."""

    data: dict[str, Any]
    origins: dict[strict.Location, strict.Origin]
    duplicates: list[str]


# --- paths ------------------------------------------------------------------------------------------------------------


def in_package(path: Path | str) -> Path:
    """Where a relative path leads: from the package's folder; where nothing is there but in the current one, from it.

    A leading `tools/` is dropped when the path leads nowhere with it.
    """
    path = Path(path)
    if path.is_absolute():
        return path
    bare = Path(*path.parts[1:]) if path.parts[:1] == (TOOLS,) else path
    candidates = (PACKAGE_ROOT / path, PACKAGE_ROOT / bare, Path.cwd() / path)
    return next((one for one in candidates if one.exists()), PACKAGE_ROOT / bare)


def find_config(name: Path | str) -> Path:
    """The file that --cfg_file names; ConfigError when there is none, with the nearest that there is."""
    path = in_package(name)
    if not path.is_file():
        known = {one.name: one for one in sorted((PACKAGE_ROOT / CONFIGS).rglob("*.yaml"))}
        close = difflib.get_close_matches(Path(name).name, known, n=1)
        hint = f"; did you mean {known[close[0]].relative_to(PACKAGE_ROOT)}?" if close else ""
        raise ConfigError(f"--cfg_file {name}: there is no such file (looked for {path}){hint}")
    return path.resolve()


def output_group(config: Path) -> Path:
    """<folders below cfgs>/<stem>: a configuration's place in the output, however its path was written."""
    parts = config.resolve().parent.parts
    inner = parts[len(parts) - parts[::-1].index(CONFIGS) :] if CONFIGS in parts else ()
    return Path(*inner, config.stem)


# --- the whole --------------------------------------------------------------------------------------------------------


def load_experiment(config: Path, sets: Sequence[str] = ()) -> Experiment:
    """The settings of a file, its bases below it and `--set` pairs (KEY VALUE KEY VALUE ...) above.

    Raises ConfigError: one that lists every unknown key, wrong type, key given twice and contradiction.
    """
    loaded = read_settings(config, sets)
    lines = [*loaded.duplicates, *_schema_lines(loaded, config), *problems(loaded.data)]
    if lines:
        title = "1 setting is wrong" if len(lines) == 1 else f"{len(lines)} settings are wrong"
        raise ConfigError("\n  ".join([f"{config}: {title}:", *lines]))
    return Experiment.model_validate_json(json.dumps(loaded.data), strict=True)


def read_settings(config: Path, sets: Sequence[str] = ()) -> Loaded:
    """The merged settings, unchecked but for their form."""
    loaded = _read(config, ())
    _apply_sets(loaded, sets)
    return loaded


def _schema_lines(loaded: Loaded, config: Path) -> list[str]:
    try:
        Experiment.model_validate_json(json.dumps(loaded.data), strict=True)
    except pydantic.ValidationError as error:
        return strict.explain(error, Experiment, loaded.origins, str(config)).split("\n  ")[1:]
    return []


# --- files ------------------------------------------------------------------------------------------------------------


def _read(file: Path, inside: tuple[Path, ...]) -> Loaded:
    """A file over its bases. inside: the files being read, to refuse a circle."""
    if file in inside:
        raise ConfigError(f"{file}: {BASE} leads in a circle ({' -> '.join(str(one) for one in (*inside, file))})")
    own = _parse(file)
    _expand(own.data, (), own, (*inside, file))
    return own


def _expand(section: dict[str, Any], path: strict.Location, whole: Loaded, inside: tuple[Path, ...]) -> None:
    """Lay every section that names a base over that base, in place."""
    for name, value in list(section.items()):
        if isinstance(value, dict):
            _expand(value, (*path, name), whole, inside)
    if BASE not in section:
        return
    base = _read(_base_file(section.pop(BASE), path, whole, inside[-1]), inside)
    whole.duplicates.extend(base.duplicates)
    merged, own = base.data, dict(section)
    _lay(own, merged)
    section.clear()
    section.update(merged)
    for place, origin in base.origins.items():
        whole.origins.setdefault((*path, *place), origin)


def _base_file(name: Any, path: strict.Location, whole: Loaded, file: Path) -> Path:
    found = in_package(str(name))
    if not found.is_file():
        found = file.parent / str(name)
    if not found.is_file():
        place = whole.origins.get((*path, BASE))
        raise ConfigError(f"{'.'.join((*path, BASE))} = {name} ({place.place if place else file}): no such file below "
                          f"{PACKAGE_ROOT} or beside the configuration")  # fmt: skip
    return found.resolve()


def _lay(top: Mapping[str, Any], base: dict[str, Any]) -> None:
    """Mappings merge key by key; everything else, lists too, is replaced."""
    for name, value in top.items():
        if isinstance(value, dict) and isinstance(base.get(name), dict):
            _lay(value, base[name])
        else:
            base[name] = value


def _parse(file: Path) -> Loaded:
    """shared.config's strict YAML, but with the keys that stand twice in a list instead of the first one raised."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text ({error.reason}); save it as UTF-8") from None
    duplicates: list[str] = []
    try:
        node = strict.StrictLoader(text).get_single_node()
        if node is not None:
            strict.expanded_size(node, {})  # refuses aliases without end
            duplicates = [f"{name} ({file}:{line}): stands twice (first on line {first})"
                          for name, line, first in _without_duplicates(node, ())]  # fmt: skip
        data, lines = strict.parse_text(yaml.serialize(node) if duplicates else text, str(file))
    except (yaml.YAMLError, RecursionError) as error:
        strict.parse_text(text, str(file))  # refuses it with the line and the remedy
        raise ConfigError(f"{file}: not readable as YAML: {error}") from None
    data = data or {}
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: the top level is a {type(data).__name__}; it must be `KEY: value` lines")
    if duplicates and node is not None:
        lines = dict(strict.line_numbers(node, ()))
    return Loaded(data, {path: strict.Origin(f"{file}:{line}", file.parent) for path, line in lines.items()},
                  duplicates)  # fmt: skip


def _without_duplicates(node: yaml.Node, path: tuple[str, ...]) -> Iterator[tuple[str, int, int]]:
    """(key, its line, the first one's) of what stands twice; the node keeps the union, the later value winning."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _without_duplicates(item, path)
    if not isinstance(node, yaml.MappingNode):
        return
    kept: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    for key, value in node.value:
        name = str(key.value)
        if name in kept:
            yield ".".join((*path, name)), key.start_mark.line + 1, kept[name][0].start_mark.line + 1
            value = _union(kept[name][1], value)
        kept[name] = (key, value)
    node.value = list(kept.values())
    for name, (_, value) in kept.items():
        yield from _without_duplicates(value, (*path, name))


def _union(first: yaml.Node, second: yaml.Node) -> yaml.Node:
    """Two sections of one name as one, so that what is wrong in either is told."""
    if not (isinstance(first, yaml.MappingNode) and isinstance(second, yaml.MappingNode)):
        return second
    known = {key.value for key, _ in second.value}
    second.value = [*(pair for pair in first.value if pair[0].value not in known), *second.value]
    return second


# --- --set ------------------------------------------------------------------------------------------------------------


def _apply_sets(loaded: Loaded, sets: Sequence[str]) -> None:
    """OpenPCDet's --set KEY VALUE pairs (KEY=VALUE does too), values as YAML."""
    for key, text in _pairs(sets):
        value, _ = strict.parse_text(text, f"--set {key}")
        section, path = loaded.data, tuple(key.split("."))
        for depth, part in enumerate(path[:-1]):
            section = section.setdefault(part, {}) if isinstance(section, dict) else None
            if not isinstance(section, dict):
                raise ConfigError(f"--set {key}: {'.'.join(path[: depth + 1])} is no section")
        if isinstance(section.get(path[-1]), dict) and isinstance(value, dict):
            _lay(value, section[path[-1]])
        else:
            section[path[-1]] = value
        loaded.origins[path] = strict.Origin("--set", Path.cwd())


def _pairs(sets: Sequence[str]) -> Iterator[tuple[str, str]]:
    words = list(sets)
    while words:
        word = words.pop(0)
        if "=" in word:
            key, _, value = word.partition("=")
        elif words:
            key, value = word, words.pop(0)
        else:
            raise ConfigError(f"--set {word}: it needs a value: --set KEY VALUE [KEY VALUE ...]")
        if not all(key.split(".")):
            raise ConfigError(f"--set {key!r} is no key; write it as OPTIMIZATION.LR 0.002")
        yield key, value
