"""Configuration: YAML files laid over one another, checked against a typed schema, with every error named at once.

    config = load_config(Settings, [Path("config/default.yaml"), Path("mine.yaml")], ["stage1.lr=3e-4"])

Later files win over earlier ones and `--set a.b=c` wins over all. Mappings merge key by key; everything else (lists
too) is replaced. The YAML read here is stricter and plainer than PyYAML's: YAML 1.2 scalars (`1e-4` is a float, `no`
and `on` are strings, only `true` and `false` are booleans), no tags beyond the plain types, no key twice in one
mapping, no aliases that expand without bound. Values are checked strictly: "3" is not an integer and 3.0 is not one.
A relative path in a setting marked `Anchored` counts from the file that holds it, one on the command line from the
current folder.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

import pydantic
import yaml

from .errors import ConfigError

MAX_NODES = 20_000  # of one file with its aliases written out; a real configuration has a few hundred
CORE_TAGS = tuple(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map"))
SCALARS = {  # YAML 1.2 core schema: tag, form, first characters
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+\.?[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
Location = tuple[str, ...]  # of a key: ("stage1", "lr")


class Origin(NamedTuple):
    """Where a setting was written: "file:line" or "--set", and the folder that its relative paths count from."""

    place: str
    folder: Path


class Schema(pydantic.BaseModel):
    """Base of every configuration class: unknown keys refused, values immutable, floats finite, defaults checked."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    def __init_subclass__(cls, **options: Any) -> None:
        """Defaults are checked as if they stood in a file, where a path is a string."""
        super().__init_subclass__(**options)
        for name, default in [*vars(cls).items()]:
            if isinstance(default, Path):
                setattr(cls, name, str(default))


@dataclass(frozen=True)
class Anchored:
    """Marks a text setting that may hold a path: `weights: Annotated[str, Anchored(place)]`.

    place(text, folder) gives the text with a relative path in it made absolute, counted from `folder`.
    """

    place: Callable[[str, Path], str]


S = TypeVar("S", bound=Schema)


def load_config(schema: type[S], files: Sequence[Path], overrides: Sequence[str] = ()) -> S:
    """Merge `files` in order, then the `a.b=c` overrides (c is YAML), and check the whole against `schema`.

    Raises ConfigError for an unreadable file or override, and otherwise one ConfigError that lists every wrong key with
    its value, the file and line (or `--set`) it came from, and the nearest valid name.
    """
    data, origins = _merged(files, overrides)
    _anchor(schema, data, origins)
    try:
        # JSON mode is strict about numbers and booleans, yet takes lists for tuples and strings for paths.
        return schema.model_validate_json(json.dumps(data), strict=True)
    except pydantic.ValidationError as error:
        default = ", ".join(str(file) for file in files) or "no file given"
        raise ConfigError(explain(error, schema, origins, default)) from None


def merged(files: Sequence[Path], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The files and overrides laid over one another, unchecked: for choosing which files to load.

    Raises ConfigError for an unreadable file or override.
    """
    return _merged(files, overrides)[0]


def _merged(files: Sequence[Path], overrides: Sequence[str]) -> tuple[dict[str, Any], dict[Location, Origin]]:
    data: dict[str, Any] = {}
    origins: dict[Location, Origin] = {}
    for file in files:
        _merge(data, *_read_file(Path(file)), origins)
    for text in overrides:
        _merge(data, *_read_override(text), origins)
    return data, origins


def to_yaml(config: Schema) -> str:
    """The resolved configuration as YAML text; `load_config` reads it back to an equal object."""
    return yaml.dump(
        config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False
    )


def config_hash(config: Schema, exclude: Collection[str] = ()) -> str:
    """Eight hex digits of the sha256 of the configuration as canonical JSON, without the dotted keys of `exclude`.

    Raises KeyError when an excluded key does not exist (below a section that is None it is ignored).
    """
    data = config.model_dump(mode="json")
    for key in exclude:
        _drop(data, key)
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _drop(data: dict[str, Any], key: str) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        if parent not in data:
            raise KeyError(f"cannot exclude {key!r}: there is no such setting")
        data = data[parent]
        if data is None:
            return
    if last not in data:
        raise KeyError(f"cannot exclude {key!r}: there is no such setting")
    del data[last]


# --- strict YAML ------------------------------------------------------------------------------------------------------


class StrictLoader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 scalars, without tags beyond the plain types, refusing duplicate keys."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's way: looked up on the class
    yaml_constructors = {tag: yaml.SafeLoader.yaml_constructors[tag] for tag in CORE_TAGS}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: dict[str, yaml.Mark] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int):
                raise _Refused(f"the key {key!r} is not a name", key_node.start_mark)
            name = str(key)
            if name in seen:
                first = seen[name].line + 1
                raise _Refused(f"the key {name!r} stands twice (first on line {first})", key_node.start_mark)
            seen[name] = key_node.start_mark
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that also quotes strings that the loader above, or a YAML 1.1 reader, would take for another type."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Refused(yaml.MarkedYAMLError):
    def __init__(self, problem: str, mark: yaml.Mark | None) -> None:
        super().__init__(problem=problem, problem_mark=mark)


def _add_scalars() -> None:
    for name, (form, first) in SCALARS.items():
        for kind in (StrictLoader, _Dumper):
            kind.add_implicit_resolver(f"tag:yaml.org,2002:{name}", re.compile(f"^(?:{form})$"), first)
    StrictLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)
    StrictLoader.add_constructor(None, _refuse_tag)


def _construct_int(loader: StrictLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 16) if text.startswith("0x") else int(text)  # `010` is ten, not YAML 1.1's eight


def _refuse_tag(loader: StrictLoader, node: yaml.Node) -> None:
    tag = node.tag.replace("tag:yaml.org,2002:", "!!")
    raise _Refused(f"the tag {tag} is refused: a configuration holds plain values only", node.start_mark)


_add_scalars()


def parse_text(text: str, where: str) -> tuple[Any, dict[Location, int]]:
    """The value of a YAML text, and the line of each key path in it."""
    try:
        loader = StrictLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        expanded_size(node, {})
        value = loader.construct_document(node)
        fresh = json.loads(json.dumps(value))  # aliases share no object, keys are text
        return fresh, dict(line_numbers(node, ()))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}:{mark.line + 1}" if mark else where
        raise ConfigError(f"{place}: {_reason(error)}") from None
    except (yaml.YAMLError, ValueError, KeyError) as error:
        raise ConfigError(f"{where}: not readable as YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply; a configuration has a handful of levels") from None


def _reason(error: yaml.MarkedYAMLError) -> str:
    if isinstance(error, _Refused):
        return str(error.problem)
    if "'\\t'" in str(error.problem):
        return "a tab stands where YAML wants spaces; use spaces"
    return f"not readable as YAML: {error.problem}"


def expanded_size(node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """Number of nodes with all aliases written out; refuses more than MAX_NODES, and an alias inside its own anchor."""
    if id(node) in sizes:
        known = sizes[id(node)]
        if known is None:
            raise _Refused("an alias contains itself", node.start_mark)
        return known
    sizes[id(node)] = None
    children = node.value if isinstance(node, yaml.CollectionNode) else []
    if isinstance(node, yaml.MappingNode):
        children = [child for pair in children for child in pair]
    size = 1 + sum(expanded_size(child, sizes) for child in children)
    if size > MAX_NODES:
        raise _Refused(f"more than {MAX_NODES:,} values once its aliases are written out: refused", node.start_mark)
    sizes[id(node)] = size
    return size


def line_numbers(node: yaml.Node, path: Location) -> Iterator[tuple[Location, int]]:
    """(key path below `path`, its line) of every key of a parsed YAML node."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*path, key.value), key.start_mark.line + 1
            yield from line_numbers(value, (*path, key.value))


# --- reading and merging ----------------------------------------------------------------------------------------------


def _read_file(file: Path) -> tuple[dict[str, Any], dict[Location, Origin]]:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{file} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    except OSError as error:
        close = difflib.get_close_matches(file.name, [other.name for other in file.parent.glob(f"*{file.suffix}")], n=1)
        remedy = f"did you mean {file.with_name(close[0])}?" if close else "check the path"
        raise ConfigError(f"cannot read the configuration {file}: {error.strerror}; {remedy}") from None
    value, lines = parse_text(text, str(file))
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f"{file}: the top level is a {type(value).__name__}; it must be `key: value` lines")
    return value or {}, {path: Origin(f"{file}:{line}", file.parent) for path, line in lines.items()}


def _read_override(text: str) -> tuple[dict[str, Any], dict[Location, Origin]]:
    key, equals, value = text.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        raise ConfigError(f"--set {text}: write it as a.b=value, for example --set stage1.epochs=3")
    data, _ = parse_text(value, f"--set {text}")
    for part in reversed(path):
        data = {part: data}
    return data, {path[: n + 1]: Origin("--set", Path.cwd()) for n in range(len(path))}


def _merge(
    base: dict, top: Mapping, origin: Mapping[Location, Origin], origins: dict[Location, Origin], path: Location = ()
) -> None:
    """Lay `top` over `base` in place; `origins` learns where each key's present value came from."""
    for name, value in top.items():
        here = (*path, name)
        if isinstance(value, dict) and isinstance(base.get(name), dict):
            _merge(base[name], value, origin, origins, here)
            continue
        base[name] = value
        origins.update({known: where for known, where in origin.items() if known[: len(here)] == here})


def _anchor(schema: type[Schema], section: dict, origins: Mapping[Location, Origin], path: Location = ()) -> None:
    """Apply the `Anchored` marks of a schema to the settings, in place."""
    for name, field in schema.model_fields.items():
        here, value = (*path, name), section.get(name)
        if isinstance(value, dict):
            for model in _models_in(field.annotation):
                _anchor(model, value, origins, here)
        if isinstance(value, str):
            for mark in (mark for mark in field.metadata if isinstance(mark, Anchored)):
                section[name] = mark.place(value, _origin(origins, here).folder.absolute())


def _origin(origins: Mapping[Location, Origin], location: Location) -> Origin | None:
    """Of a setting, else of the nearest section around it."""
    return next((origins[location[:n]] for n in range(len(location), 0, -1) if location[:n] in origins), None)


# --- errors -----------------------------------------------------------------------------------------------------------


def explain(
    error: pydantic.ValidationError, schema: type[Schema], origins: Mapping[Location, Origin], default: str
) -> str:
    """One line for each wrong setting: key, value, where it was set, the nearest valid name."""
    lines = [_explain_one(item, schema, origins, default) for item in error.errors(include_url=False)]
    title = "1 setting is wrong" if len(lines) == 1 else f"{len(lines)} settings are wrong"
    return "\n  ".join([f"{title}:", *lines])


def _explain_one(
    item: Mapping[str, Any], schema: type[Schema], origins: Mapping[Location, Origin], default: str
) -> str:
    location = tuple(str(part) for part in item["loc"])
    origin = _origin(origins, location)
    where = origin.place if origin else default
    name = ".".join(location) or "the whole"
    if item["type"] == "missing":
        return f"{name} ({where}): is missing"
    if item["type"] == "extra_forbidden":
        return f"{name} = {_shown(item['input'])} ({where}): no such setting; {_nearest(schema, location)}"
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
    message = message.replace("should be an object", "should be a mapping of settings")
    remedy = "; write true or false" if item["type"] == "bool_type" else ""
    value = "" if not location else f" = {_shown(item['input'])}"
    return f"{name}{value} ({where}): {message}{remedy}"


def _shown(value: Any, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _nearest(schema: type[Schema], location: Sequence[str]) -> str:
    """The closest valid setting: among the key's siblings first, then anywhere in the schema by its last name."""
    prefix, last = list(location[:-1]), location[-1]
    siblings = [name for model in _models_at(schema, prefix) for name in model.model_fields]
    close = [".".join([*prefix, name]) for name in difflib.get_close_matches(last, siblings, n=1)]
    if not close:
        paths = list(_paths(schema))
        names = difflib.get_close_matches(last, {path.rpartition(".")[2] for path in paths}, n=1)
        close = [path for path in paths if path.rpartition(".")[2] in names]
    if close:
        return f"did you mean {' or '.join(close[:3])}?"
    return f"valid here: {', '.join(siblings) or 'nothing'}"


def _models_in(annotation: Any) -> list[type[Schema]]:
    if isinstance(annotation, type) and issubclass(annotation, Schema):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _models_at(schema: type[Schema], location: Sequence[str]) -> list[type[Schema]]:
    models = [schema]
    for part in location:  # a list index or mapping key names no field and stays at the same models
        models = [
            m for o in models if part in o.model_fields for m in _models_in(o.model_fields[part].annotation)
        ] or models
    return models


def _paths(schema: type[Schema], prefix: str = "") -> Iterator[str]:
    for name, field in schema.model_fields.items():
        yield prefix + name
        for model in _models_in(field.annotation):
            yield from _paths(model, f"{prefix}{name}.")
