"""DHNScheduleHook: how many hard negatives are drawn, and how fast their encoder follows, over the epochs."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS

from shared.errors import ConfigError


@HOOKS.register_module()
class DHNScheduleHook(Hook):
    """Sets `top_k` and `momentum` of the model's DHNSampler at the start of every epoch.

    Args:
        milestones: epochs, counted from 0, at which the next value holds; rising.
        top_k, momentum: one value more than milestones: before the first one, from it on, ...

    It keeps no state: the values follow from the epoch, so a resumed run has the right ones.

    Raises:
        ConfigError: lengths that do not fit, milestones that do not rise, or (in training) a model without DHN.
    """

    def __init__(
        self,
        milestones: Sequence[int] = (3, 8, 16),
        top_k: Sequence[int] = (64, 96, 128, 128),
        momentum: Sequence[float] = (0.995, 0.99, 0.99, 0.99),
    ) -> None:
        self.milestones, self.top_k, self.momentum = list(milestones), list(top_k), list(momentum)
        wanted = len(self.milestones) + 1
        if {len(self.top_k), len(self.momentum)} != {wanted}:
            raise ConfigError(
                f"DHNScheduleHook: {len(self.milestones)} milestones need {wanted} values of top_k (there are "
                f"{len(self.top_k)}) and of momentum ({len(self.momentum)})."
            )
        if any(a >= b for a, b in zip(self.milestones, self.milestones[1:], strict=False)):
            raise ConfigError(f"DHNScheduleHook: the milestones {self.milestones} do not rise.")

    def values_at(self, epoch: int) -> dict[str, Any]:
        """{"top_k", "momentum"} of an epoch, counted from 0."""
        place = bisect_right(self.milestones, epoch)
        return {"top_k": self.top_k[place], "momentum": self.momentum[place]}

    def before_train_epoch(self, runner: Any) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        samplers = [module for module in model.modules() if hasattr(module, "set_schedule")]
        if not samplers:
            raise ConfigError("DHNScheduleHook: the model has no DHNSampler (model.roi_head.dhn is None): "
                              "set model.roi_head.dhn=dict(type='DHNSampler'), or remove the hook.")  # fmt: skip
        values = self.values_at(runner.epoch)
        for sampler in samplers:
            sampler.set_schedule(**values)
        if runner.epoch in (0, *self.milestones):
            runner.logger.info(f"DHN from epoch {runner.epoch + 1} on: {values['top_k']} hard negatives, "
                               f"momentum {values['momentum']}")  # fmt: skip
