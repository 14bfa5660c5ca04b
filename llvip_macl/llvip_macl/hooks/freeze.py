"""FreezeBackboneHook: parts of the model that training does not touch, batch norm statistics included."""

import difflib
import logging
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import nn

from shared.errors import ConfigError


@HOOKS.register_module()
class FreezeBackboneHook(Hook):
    """Freezes whole modules by their names in the model.

    `model.train()` comes after `before_train_epoch` and would switch batch norm back to batch statistics, so the
    modules are put into eval mode before every iteration. Their weights and buffers stay bit for bit as they are.

    Args:
        modules: names as `model.named_modules()` has them, `*` and `?` allowed for parts of a name. `backbone` is the
            module of that name with all inside it; one that is merely called `old_backbone` is another.
        until_epoch: number of epochs after which they are trained again; None keeps them frozen.

    Raises:
        ConfigError: a name that no module has (with the nearest ones), when training starts.
    """

    priority = "VERY_HIGH"

    def __init__(self, modules: Sequence[str] = ("backbone", "backbone_ir"), until_epoch: int | None = None) -> None:
        self.names = [modules] if isinstance(modules, str) else list(modules)
        self.until_epoch = until_epoch
        self.modules: list[nn.Module] = []
        self._released: list[nn.Parameter] = []  # what is trained again after until_epoch

    def before_train(self, runner: Any) -> None:
        """Find the modules and freeze them."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self.modules = matching(model, self.names)
        parameters = [p for module in self.modules for p in module.parameters()]
        self._released = [p for p in parameters if p.requires_grad]
        self._freeze(runner.epoch)
        count = sum(p.numel() for p in parameters)
        runner.logger.log(logging.INFO, f"frozen: {', '.join(self.names)} ({count:,} values)")

    def before_train_epoch(self, runner: Any) -> None:
        self._freeze(runner.epoch)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """`model.train()` undid it."""
        if self._is_frozen(runner.epoch):
            for module in self.modules:
                module.eval()

    def _is_frozen(self, epoch: int) -> bool:
        return self.until_epoch is None or epoch < self.until_epoch

    def _freeze(self, epoch: int) -> None:
        frozen = self._is_frozen(epoch)
        for parameter in self._released:
            parameter.requires_grad_(not frozen)
            if frozen:
                parameter.grad = None


def matching(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """The modules of these names (patterns). ConfigError for a name that matches none."""
    known = {name: module for name, module in model.named_modules() if name}
    found = []
    for wanted in names:
        modules = [module for name, module in known.items() if fnmatchcase(name, wanted)]
        if not modules:
            near = difflib.get_close_matches(wanted, known, n=3) or [name for name in known if "." not in name]
            raise ConfigError(f"FreezeBackboneHook: the model has no module {wanted!r}; it has {', '.join(near)}.")
        found += modules
    return found
