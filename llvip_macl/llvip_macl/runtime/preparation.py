"""From a command line to a config that a runner can be built of.

    prepared = prepare(Request(config=..., work_dir=..., options=[...], amp=True))

The same steps serve training and testing: read the file, merge the checked options, apply the rules, find the data.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from shared.errors import ConfigError

from .building import sentence
from .cfg_options import apply_options, parse_options
from .config_rules import RULES, TEST_RULES, Context, apply_rules
from .console import quiet_imports
from .embedded import find_data

TENSORBOARD = "tensorboard_logs"


@dataclass(frozen=True)
class Request:
    """What a command line asked for."""

    config: str
    work_dir: str | None = None
    options: Sequence[str] = ()  # KEY=VALUE
    launcher: str = "none"
    amp: bool = False
    scale_lr: bool = False
    resume: str | None = None  # 'auto', a path, or None
    load_from: str | None = None
    testing: bool = False


@dataclass(frozen=True)
class Prepared:
    """A config ready to build from, and what was changed on the way."""

    cfg: Any
    messages: tuple[str, ...]


def prepare(request: Request) -> Prepared:
    """Everything before the runner.

    Raises:
        ConfigError, DataError, UserError: with what, where, value and remedy.
    """
    cfg = read_config(request.config)
    before = cfg.to_dict()
    explicit = apply_options(cfg, parse_options(list(request.options)))
    _set_by_flags(cfg, request)
    context = Context(explicit, before, torch.cuda.is_available(), request.amp, request.scale_lr)
    messages = apply_rules(cfg, context, TEST_RULES if request.testing else RULES)
    messages += find_data(cfg, project_of(request.config))
    _set_tensorboard(cfg, request)
    return Prepared(cfg, tuple(messages))


def read_config(path: str) -> Any:
    """An MMEngine Config with this package's modules registered. ConfigError when there is no such file."""
    if not Path(path).is_file():
        near = difflib.get_close_matches(Path(path).name, [one.name for one in Path(path).parent.glob("*.py")])
        hint = f" Its folder has {', '.join(near)}." if near else ""
        raise ConfigError(f"the config {path} does not exist.{hint}")
    with quiet_imports():
        from mmengine.config import Config

        from .. import register  # noqa: F401 - a config without custom_imports works too

        try:
            return Config.fromfile(path)
        except Exception as error:  # a config is Python: its code may raise anything
            raise ConfigError(f"the config {path} cannot be read: {sentence(error)}") from error


def project_of(config: str) -> Path:
    """The folder that `configs/` lies in; the working folder for a config elsewhere."""
    folders = Path(config).resolve().parents
    return next((folder.parent for folder in folders if folder.name == "configs"), Path.cwd())


def _set_by_flags(cfg: Any, request: Request) -> None:
    if request.work_dir is not None:
        cfg.work_dir = request.work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs") / Path(request.config).stem)
    cfg.launcher = request.launcher
    if request.load_from is not None:
        cfg.load_from = request.load_from
    resume = request.resume or ("auto" if cfg.get("resume") else None)
    cfg.resume = resume is not None
    cfg.resume_path = resume if resume not in (None, "auto") else None
    if cfg.resume_path is not None and not Path(cfg.resume_path).is_file():
        raise ConfigError(f"--resume {cfg.resume_path} is not a file; bare --resume continues the newest checkpoint "
                          f"of {cfg.work_dir}.")  # fmt: skip


def _set_tensorboard(cfg: Any, request: Request) -> None:
    """TensorBoard's events of a training go to work_dir/tensorboard_logs, those of a test nowhere."""
    visualizer = cfg.setdefault("visualizer", {"type": "DetLocalVisualizer", "name": "visualizer"})
    stock = ("TensorboardVisBackend", "ResumableTensorboard")
    backends = [one for one in visualizer.get("vis_backends") or () if one.get("type") not in stock]
    if not request.testing:
        folder = str(Path(cfg.work_dir).absolute() / TENSORBOARD)
        backends.append({"type": "ResumableTensorboard", "save_dir": folder})
    visualizer["vis_backends"] = backends or [{"type": "LocalVisBackend"}]
