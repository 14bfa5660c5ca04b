"""Fusion of two feature pyramids, level by level, after the neck.

    add         (v + r) / 2
    concat1x1   conv1x1([v, r]), starting as (v + r) / 2
    gate        g v + (1 - g) r with g = sigmoid(conv1x1([v, r])) per channel and place, starting at 1/2

All three start as the mean: a pair of equal pyramids comes out unchanged, so a detector whose weights came from a
single-stream one begins where that one stood. (A plain sum would double every feature that its heads see.)

    B images, C channels of a level
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from shared.errors import ConfigError


class AddFusion(nn.Module):
    """The mean of both pyramids; no parameters."""

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()

    def forward(self, vis: tuple[Tensor, ...], ir: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Two pyramids of equal shapes (B,C,H_i,W_i) -> one."""
        return tuple((v + r) / 2 for v, r in zip(vis, ir, strict=True))


class ConcatFusion(nn.Module):
    """A 1x1 convolution of the concatenated channels, one per level."""

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_halves(channels) for _ in range(levels))

    def forward(self, vis: tuple[Tensor, ...], ir: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Two pyramids of equal shapes (B,C,H_i,W_i) -> one."""
        return tuple(conv(torch.cat([v, r], 1)) for conv, v, r in zip(self.convs, vis, ir, strict=True))


class GateFusion(nn.Module):
    """A convex combination whose weight is computed from both, one convolution per level."""

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_undecided(channels) for _ in range(levels))

    def forward(self, vis: tuple[Tensor, ...], ir: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Two pyramids of equal shapes (B,C,H_i,W_i) -> one."""
        return tuple(self._mix(conv, v, r) for conv, v, r in zip(self.convs, vis, ir, strict=True))

    @staticmethod
    def _mix(conv: nn.Module, vis: Tensor, ir: Tensor) -> Tensor:
        return torch.lerp(ir, vis, conv(torch.cat([vis, ir], 1)).sigmoid().to(vis.dtype))


def _halves(channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(2 * channels, channels, 1)
    half = 0.5 * torch.eye(channels)
    with torch.no_grad():
        conv.weight.copy_(torch.cat([half, half], 1)[:, :, None, None])
        conv.bias.zero_()
    return conv


def _undecided(channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(2 * channels, channels, 1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


FUSIONS: dict[str, Callable[[int, int], nn.Module]] = {
    "add": AddFusion,
    "concat1x1": ConcatFusion,
    "gate": GateFusion,
}


def build_fusion(config: dict, channels: int, levels: int) -> nn.Module:
    """The module of `fusion = dict(type='add' | 'concat1x1' | 'gate')` for pyramids of `levels` levels.

    Raises:
        ConfigError: another type, or any other key.
    """
    kind = config.get("type")
    others = sorted(set(config) - {"type"})
    if kind not in FUSIONS or others:
        problem = f"type={kind!r}" if kind not in FUSIONS else f"unknown keys {', '.join(others)}"
        raise ConfigError(f"fusion: {problem}; use dict(type=...) with one of {', '.join(FUSIONS)} and nothing else.")
    return FUSIONS[kind](channels, levels)
