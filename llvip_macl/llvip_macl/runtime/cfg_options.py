"""`--cfg-options`: settings from the command line, checked against the config that they change.

    options = parse_options(["param_scheduler[1].milestones=[16,22]", "optim_wrapper.optimizer.lr=5e-4"])
    explicit = apply_options(cfg, options)

Values are read as MMEngine reads them. Two things differ from it. `name[1].key` is understood as `name.1.key`, where
MMEngine would make a new entry called `name[1]` and change nothing. And a key that the config does not know is refused
with the nearest one it knows, unless
    - the table it would stand in names a class (`type=...`) whose constructor takes such an argument,
    - or it is one of OPEN_KEYS, which MMEngine reads although no config has to write them.
"""

import argparse
import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from shared.errors import ConfigError

INDEX = re.compile(r"\[(-?\d+)\]")
SHOWN = 3  # nearest keys in a message

# Keys that may be new: read by MMEngine, or tables whose entries are checked where they are used.
OPEN_KEYS = (
    "load_from",
    "resume",
    "work_dir",
    "launcher",
    "data_root",
    "compile",
    "find_unused_parameters",
    "train_cfg.checkpoint_interval_iters",
    "train_cfg.val_begin",
    "train_cfg.val_interval",
    "sync_bn",
    "load_rules.*",
    "randomness.*",
    "env_cfg.*",
    "model_wrapper_cfg.*",
    "auto_scale_lr.*",
    "optim_wrapper.type",
    "optim_wrapper.loss_scale",
    "optim_wrapper.dtype",
    "optim_wrapper.accumulative_counts",
    "optim_wrapper.clip_grad.*",
    "optim_wrapper.paramwise_cfg.*",
    "macl_head.*",
    "metrics_export.*",
    "embedded.*",
    "model.train_cfg.*",
    "model.test_cfg.*",
    "*.norm_cfg.num_groups",
    "*.norm_cfg.requires_grad",
)

Accepts = Callable[[Any, str], bool]  # (type of a table, key) -> whether its constructor takes the key


def dotted(key: str) -> str:
    """`name[1].key` -> `name.1.key`."""
    return INDEX.sub(r".\1", key)


def parse_options(items: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE strings -> dotted key -> value, read as MMEngine reads them ("[1,2]", "(a,b)", "1e-4", "None").

    Raises:
        ConfigError: an item without "=", or a value with unbalanced brackets.
    """
    from mmengine.config import DictAction  # late: MMEngine takes seconds to import

    for item in items:
        if "=" not in item or item.startswith("="):
            raise ConfigError(f"--cfg-options {item!r} is not KEY=VALUE: write the key, '=', and the value together.")
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    try:
        read = parser.parse_args(["--cfg-options", *items]).cfg_options if items else {}
    except AssertionError as error:
        raise ConfigError(f"--cfg-options: {error}; close every bracket, and quote the value for the shell.") from error
    return {dotted(key): value for key, value in read.items()}


def apply_options(cfg: Any, options: Mapping[str, Any], accepts: Accepts | None = None) -> frozenset[str]:
    """Merge checked options into an MMEngine Config; returns their dotted keys, those that were set explicitly.

    Types come first, so that `optimizer.betas` may stand beside the `optimizer.type` that takes it.

    Raises:
        ConfigError: a key that the config does not know, an index outside a list, a table below a plain value.
    """
    accepts = accepts or constructor_accepts
    for key in sorted(options, key=lambda key: not key.endswith(".type")):
        check_key(cfg.to_dict(), key, accepts)
        _make_way(cfg, key.split(".")[:-1])
        cfg.merge_from_dict({key: options[key]})
    return frozenset(options)


def _make_way(cfg: Any, tables: Sequence[str]) -> None:
    """An empty table where the config has None on the way to a key: MMEngine would not merge into that."""
    node = cfg
    for name in tables:
        place = int(name) if isinstance(node, list | tuple) else name
        if isinstance(place, str) and name not in node:
            return
        if node[place] is None:
            node[place] = {}
        node = node[place]


def check_key(tree: Mapping[str, Any], key: str, accepts: Accepts) -> None:
    """ConfigError unless a dotted key names an entry of the config, or one that may be added (see the header)."""
    node: Any = tree
    parts = key.split(".")
    for depth, part in enumerate(parts):
        where = ".".join(parts[:depth])
        if isinstance(node, Mapping):
            if part not in node:
                _check_new(tree, node, part, key, accepts)
                return
            node = node[part]
        elif isinstance(node, list | tuple):
            node = _element(node, part, key, where)
        elif node is None or _open(key):
            return
        else:
            raise ConfigError(f"--cfg-options {key}: {where} is {node!r}, which has no entries; set {where} itself.")


def _element(node: Sequence, part: str, key: str, where: str) -> Any:
    if not part.isdigit() or int(part) >= len(node):
        raise ConfigError(
            f"--cfg-options {key}: {where} is a list of {len(node)}; {part!r} is none of its places "
            f"(write {where}.0 to {where}.{len(node) - 1}, or {where}[0] ...)."
        )
    return node[int(part)]


def _check_new(tree: Mapping, table: Mapping, name: str, key: str, accepts: Accepts) -> None:
    if _open(key) or (table.get("type") is not None and accepts(table["type"], name)):
        return
    near = nearest(key, keys_of(tree))
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ConfigError(
        f"--cfg-options {key}: the config has no such key, and setting it would change nothing.{hint} "
        "Settings that no config has yet belong into the config file."
    )


def _open(key: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in OPEN_KEYS)


def keys_of(tree: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key of nested tables and lists, tables before their entries."""
    entries: Iterable[tuple[Any, Any]] = ()
    if isinstance(tree, Mapping):
        entries = tree.items()
    elif isinstance(tree, list | tuple) and any(isinstance(item, Mapping) for item in tree):
        entries = enumerate(tree)
    for name, value in entries:
        key = f"{prefix}{name}"
        yield key
        yield from keys_of(value, f"{key}.")


def nearest(key: str, known: Iterable[str]) -> list[str]:
    """The known keys most like `key`: those that end with it, then those spelt alike, then those with its last part."""
    known = list(known)
    ending = [name for name in known if name.endswith(f".{key}")]
    alike = difflib.get_close_matches(key, known, n=SHOWN, cutoff=0.7)
    last = key.rpartition(".")[2]
    tails = difflib.get_close_matches(last, sorted({name.rpartition(".")[2] for name in known}), n=1, cutoff=0.7)
    same_tail = [name for name in known if name.rpartition(".")[2] in tails]
    same_tail = difflib.get_close_matches(key, same_tail, n=SHOWN, cutoff=0.0)
    return list(dict.fromkeys([*ending, *alike, *same_tail]))[:SHOWN]


# --- what a class takes -----------------------------------------------------------------------------------------------


def constructor_accepts(type_name: Any, key: str) -> bool:
    """Whether the registered class of that name (or the class itself) takes an argument `key`."""
    found = registered(type_name) if isinstance(type_name, str) else type_name
    return found is not None and key in arguments_of(found)


def registered(type_name: str) -> Any:
    """The class of that name in any of mmdet's registries or their parents; None when there is none."""
    from mmdet import registry as registries
    from mmengine.registry import Registry

    for registry in vars(registries).values():
        if isinstance(registry, Registry) and (found := registry.get(type_name)) is not None:
            return found
    return None


def arguments_of(found: Any) -> set[str]:
    """Names of a constructor's arguments; where it takes **kwargs, those of the classes it inherits from too."""
    names: set[str] = set()
    for owner in getattr(found, "__mro__", (found,)):
        call = owner.__dict__.get("__init__") if isinstance(owner, type) else owner
        if call is None or owner is object:
            continue
        parameters = inspect.signature(call).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names - {"self"}
