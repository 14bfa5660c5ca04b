"""Where the data comes from: the roots that the config names, or the embedded world where it names none.

A root that is named and not there is an error. The world is drawn once into `<project>/data/embedded`, and a run on it
says so: a banner, `cfg.embedded_world`, `"data": "embedded"` in run.json, a mark on pictures and reports.
"""

from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from shared.errors import ConfigError, DataError

LAYOUTS = {"LLVIPDataset": "llvip", "KAISTDataset": "kaist"}
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
DEFAULTS = {"pairs": (300, 60), "size_hw": (128, 160), "seed": 0, "misalignment_px": 0, "parent": None}
LABEL_VERSION = "embedded world (drawn)"

Table = MutableMapping[str, Any]


def datasets_of(cfg: Mapping) -> Iterator[Table]:
    """Every data set of the loaders that has a root, inside wrappers (`dataset`, `datasets`) too."""
    for name in LOADERS:
        yield from _inside((cfg.get(name) or {}).get("dataset"))


def _inside(node: Any) -> Iterator[Table]:
    if isinstance(node, list | tuple):
        for item in node:
            yield from _inside(item)
    elif isinstance(node, Mapping):
        if "data_root" in node:
            yield node
        yield from _inside(node.get("dataset"))
        yield from _inside(node.get("datasets"))


def spread_root(cfg: Table) -> None:
    """`data_root` at the top of the config reaches the data sets that name none."""
    root = cfg.get("data_root")
    for dataset in datasets_of(cfg):
        if dataset.get("data_root") is None and root is not None:
            dataset["data_root"] = root


def find_data(cfg: Table, project: Path) -> list[str]:
    """Give every data set its root; the messages, of which the first is a banner when the world is embedded.

    Raises:
        DataError: a root that is named and not there.
        ConfigError: no root, and the data set has no embedded world (or `embedded` is None).
    """
    spread_root(cfg)
    for dataset in datasets_of(cfg):
        root = dataset.get("data_root")
        if root is not None and not Path(root).expanduser().is_dir():
            raise DataError(f"data_root {root} (of {dataset.get('type')}) is not a folder: correct the path, or leave "
                            "data_root=None for the embedded world.")  # fmt: skip
    rootless = [dataset for dataset in datasets_of(cfg) if dataset.get("data_root") is None]
    cfg["embedded_world"] = bool(rootless)
    if not rootless:
        return []
    roots = {kind: _draw(cfg, kind, project) for kind in dict.fromkeys(one.get("type") for one in rootless)}
    for dataset in rootless:
        dataset["data_root"] = str(roots[dataset["type"]])
        dataset["label_version"] = LABEL_VERSION  # whatever the config says of the real labels
    where = ", ".join(str(root) for root in roots.values())
    return [f"EMBEDDED WORLD: no data_root is set, so this run uses drawn street scenes in {where}. Its numbers say "
            "nothing about LLVIP or KAIST."]  # fmt: skip


def _draw(cfg: Mapping, kind: str, project: Path) -> Path:
    from ..world import ensure_world  # late: OpenCV

    settings = cfg.get("embedded", {})
    if settings is None or kind not in LAYOUTS:
        raise ConfigError(f"data_root is not set, and there is no embedded world for {kind} here: set data_root "
                          "(--cfg-options data_root=PATH, or each dataset's data_root in the config).")  # fmt: skip
    unknown = set(settings) - set(DEFAULTS)
    if unknown:
        raise ConfigError(f"embedded.{min(unknown)} is unknown; there are {', '.join(DEFAULTS)}.")
    chosen = {**DEFAULTS, **settings}
    parent = Path(chosen.pop("parent") or project / "data" / "embedded")
    pairs, size_hw = tuple(chosen.pop("pairs")), tuple(chosen.pop("size_hw"))
    return ensure_world(parent, layout=LAYOUTS[kind], pairs=pairs, size_hw=size_hw, **chosen)
