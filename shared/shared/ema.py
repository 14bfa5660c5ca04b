"""A moving average of a model's weights.

ema = Ema(model, 0.999)
ema.update(model)                      # after every optimizer step
with ema.applied(model): validate(model)
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .errors import CheckpointError


class Ema:
    """Exponential moving average of a model's weights and buffers (what its state_dict holds).

    Floating-point tensors are averaged, in float32 at least; integer ones are copied. The decay warms up as
    min(decay, (1 + n) / (10 + n)) after n updates, so early averages are not held back by the random start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay {decay}: it must be at least 0 and below 1")
        self.decay = decay
        self.updates = 0
        self.shadow = {name: _at_least_float32(value).clone() for name, value in _tensors(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model's present values; raises ValueError when its tensors are not those of construction."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages, values = [], []
        for name, value in self._matching(model).items():
            if value.is_floating_point():
                averages.append(self.shadow[name])
                values.append(value.to(self.shadow[name].dtype))
            else:
                self.shadow[name].copy_(value)
        torch._foreach_lerp_(averages, values, 1 - decay)  # as torch.optim.swa_utils does: one call for all tensors
        self.updates += 1

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Overwrite the model's weights and buffers with the averages."""
        for name, value in self._matching(model).items():
            value.copy_(self.shadow[name])

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Within the block the model holds the averages; afterwards its own values again, bit for bit."""
        own = {name: value.clone() for name, value in self._matching(model).items()}
        self.copy_to(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in _tensors(model).items():
                    value.copy_(own[name])

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain Python, for a checkpoint (the tensors are not copied)."""
        return {"decay": self.decay, "updates": self.updates, "shadow": dict(self.shadow)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`; raises CheckpointError when its tensors do not fit this model's."""
        for name in sorted(self.shadow.keys() ^ state["shadow"].keys()):
            raise CheckpointError(
                f"moving average: {name!r} is in only one of checkpoint and model; use the same model"
            )
        for name, value in state["shadow"].items():
            own = self.shadow[name]
            if own.shape != value.shape:
                raise CheckpointError(f"moving average of {name!r}: shape {tuple(value.shape)}, not {tuple(own.shape)}")
            own.copy_(value)
        self.decay, self.updates = float(state["decay"]), int(state["updates"])

    def _matching(self, model: nn.Module) -> dict[str, Tensor]:
        tensors = _tensors(model)
        if tensors.keys() != self.shadow.keys():
            odd = sorted(tensors.keys() ^ self.shadow.keys())
            raise ValueError(f"the model's tensors are not those averaged so far; first difference: {odd[0]}")
        return tensors


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _at_least_float32(value: Tensor) -> Tensor:
    low = value.is_floating_point() and torch.finfo(value.dtype).bits < 32
    return value.float() if low else value
