"""Multi-scale pattern reweighting (MSP): each pyramid level is amplified where an attention map says so.

    F' = F * (1 + sigmoid(alpha) * attention(F))             alpha learnable, one of these modules per level

    'conv'   attention = sigmoid(conv1x1_a(F) + conv1x1_b(F)), per channel and place
    'cbam'   attention = sigmoid(conv7x7([mean over channels, max over channels])), per place
             (spatial attention of Woo et al., "CBAM", ECCV 2018)

With alpha = 0.5 the gain lies in 1..1.622; alpha -> -infinity gives the identity.

`channels` is the width of the attention. Equal to the level's own and without `reduction`, conv_a and conv_b are one
1x1 convolution each. Otherwise each goes through channels // reduction inner channels and back (1x1, ReLU, 1x1), so
that any width fits any pyramid.

    B images, C channels of a level
"""

from dataclasses import dataclass
from typing import Any

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from shared.errors import ConfigError

from .settings import settings_from

ATTENTIONS = ("conv", "cbam")
CBAM_KERNEL = 7  # pixels, as in the CBAM paper


@dataclass(frozen=True)
class MspSettings:
    """Keys of `msp_module`. alpha_penalty: weight of the sum of alpha^2 in the loss (1e-4; 0: none)."""

    channels: int = 256
    alpha: float = 0.5
    attention: str = "conv"
    reduction: int | None = None
    alpha_penalty: float = 0.0

    def __post_init__(self) -> None:
        if self.attention not in ATTENTIONS:
            raise ConfigError(f"MSPReweight: attention={self.attention!r}; use one of {', '.join(ATTENTIONS)}.")
        if self.channels < 1 or self.alpha_penalty < 0:
            raise ConfigError("MSPReweight: channels must be > 0 and alpha_penalty >= 0.")
        if self.reduction is not None and (self.reduction < 1 or self.channels % self.reduction):
            raise ConfigError(
                f"MSPReweight: reduction={self.reduction} does not divide channels={self.channels}; use one that does."
            )


@MODELS.register_module()
class MSPReweight(nn.Module):
    """One level's reweighting. `in_channels` (the pyramid's width, set by MSPFPN) defaults to `channels`.

    Raises ConfigError for an unknown key or a value out of range.
    """

    def __init__(self, in_channels: int | None = None, **keys: Any) -> None:
        super().__init__()
        config = settings_from(MspSettings, "MSPReweight", keys, {"alpha_init": "alpha"})
        self.in_channels = config.channels if in_channels is None else in_channels
        self.alpha = nn.Parameter(torch.tensor(float(config.alpha)))
        if config.attention == "cbam":
            self.attend = SpatialAttention()
        else:
            self.attend = ChannelAttention(self.in_channels, config.channels, config.reduction)

    def forward(self, level: Tensor) -> Tensor:
        """level (B,C,H,W) -> the same shape."""
        if level.shape[1] != self.in_channels:
            raise ConfigError(
                f"MSPReweight: the level has {level.shape[1]} channels, the module is made for {self.in_channels}."
            )
        return level * (1 + self.alpha.sigmoid() * self.attend(level))


class ChannelAttention(nn.Module):
    """sigmoid(conv_a(F) + conv_b(F)) with 1x1 convolutions, through another width where one is asked for."""

    def __init__(self, in_channels: int, channels: int, reduction: int | None) -> None:
        super().__init__()
        inner = channels // (reduction or 1)
        self.conv_a, self.conv_b = (_pointwise(in_channels, inner) for _ in range(2))

    def forward(self, level: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,C,H,W) in 0..1."""
        return (self.conv_a(level) + self.conv_b(level)).sigmoid()


def _pointwise(channels: int, inner: int) -> nn.Module:
    if inner == channels:
        return nn.Conv2d(channels, channels, 1)
    return nn.Sequential(nn.Conv2d(channels, inner, 1), nn.ReLU(), nn.Conv2d(inner, channels, 1))


class SpatialAttention(nn.Module):
    """CBAM's spatial attention: where, from the mean and the maximum over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, CBAM_KERNEL, padding=CBAM_KERNEL // 2)

    def forward(self, level: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,1,H,W) in 0..1."""
        return self.conv(torch.cat([level.mean(1, keepdim=True), level.amax(1, keepdim=True)], 1)).sigmoid()
