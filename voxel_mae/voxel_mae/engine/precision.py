"""float16 on CUDA (--use_amp), with a constant scale of the gradients and no state to resume.

    precision = Precision.of(use_amp, scale, device)
    precision.prepare(model)                       # once: gradients arrive divided by the scale
    with precision.autocast(): terms = model(...)
    terms = precision.scaled(terms)                # the loss stays as it is, its gradient is multiplied

In between gradients are larger by the scale and so do not vanish in float16. One that overflows is not finite, and the
run stops before the step, as for any other: a smaller OPTIMIZATION.AMP_LOSS_SCALE is the remedy. A constant scale
(instead of torch's GradScaler) skips no step, so a resumed run repeats an uncut one.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shared.errors import ConfigError


@dataclass(frozen=True)
class Precision:
    """half: float16 autocast; scale: of the gradients between loss and parameters."""

    half: bool = False
    scale: float = 1.0

    @classmethod
    def of(cls, use_amp: bool, scale: float, device: torch.device) -> "Precision":
        """ConfigError for --use_amp on CPU: spconv's layers fail under CPU autocast."""
        if use_amp and device.type != "cuda":
            raise ConfigError(
                f"--use_amp on {device.type}: float16 is for CUDA only (sparse layers fail under CPU autocast); leave "
                "it out"
            )
        return cls(True, scale) if use_amp else cls()

    def autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast("cuda", torch.float16) if self.half else contextlib.nullcontext()

    def prepare(self, model: nn.Module) -> None:
        """Divide every gradient by the scale as it arrives at its parameter."""
        if self.scale != 1:
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.register_hook(lambda gradient: gradient / self.scale)

    def scaled(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same values in float32; their gradients are multiplied by the scale."""
        if self.scale == 1:
            return dict(terms)
        return {name: _ScaleGradient.apply(term.float(), self.scale) for name, term in terms.items()}


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return value.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.scale, None
