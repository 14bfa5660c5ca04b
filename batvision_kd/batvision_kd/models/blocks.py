"""The parts both networks are built of: double convolutions, an encoder of five levels, a decoder of four.

    x1 (b)  x2 (2b)  x3 (4b)  x4 (8b)  x5 (8b, or 16b without bilinear upsampling), each half as large as the one before
    d4 (4b) d3 (2b)  d2 (b)   d1 (b)   as large as x4 .. x1 (8b, 4b, 2b, b without bilinear upsampling)

The U-Net is that of Ronneberger et al. (arXiv 1505.04597) with padded convolutions, batch normalisation and, by
default, bilinear upsampling instead of transposed convolutions. Teacher and student use the same widths, so the maps of
one level have one shape in both; that does not mean that they are aligned (RGB_DEPTH_README, "Cautions").
"""

# B batch, C channels, H, W height and width, b base channels.

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shared.errors import UserError

STRIDE = 16  # of x5: what height and width of an input must be divisible by
ENCODER_LEVELS = ("x1", "x2", "x3", "x4", "x5")
DECODER_LEVELS = ("d4", "d3", "d2", "d1")  # in the order they are computed
LEVELS = ENCODER_LEVELS + DECODER_LEVELS


class DoubleConv(nn.Sequential):
    """Twice: 3x3 convolution without bias, batch normalisation, ReLU; (B,inputs,H,W) -> (B,outputs,H,W)."""

    def __init__(self, inputs: int, middle: int, outputs: int):
        super().__init__(*_conv_bn_relu(inputs, middle), *_conv_bn_relu(middle, outputs))

    @property
    def last_weight(self) -> nn.Parameter:
        """The weight of the second convolution."""
        return self[3].weight


def _conv_bn_relu(inputs: int, outputs: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


class Encoder(nn.Module):
    """Five double convolutions with 2x2 max-pooling between them."""

    def __init__(self, in_channels: int, base_channels: int, bilinear: bool):
        super().__init__()
        widths = encoder_widths(base_channels, bilinear)
        inputs = (in_channels, *widths[:-1])
        self.stages = nn.ModuleList(DoubleConv(i, o, o) for i, o in zip(inputs, widths, strict=True))
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B,in_channels,H,W) -> [x1, x2, x3, x4, x5]."""
        maps = []
        for number, stage in enumerate(self.stages):
            x = stage(self.pool(x) if number else x)
            maps.append(x)
        return maps


class Up(nn.Module):
    """Twice as large, joined with the encoder's map of that size, then a double convolution."""

    def __init__(self, inputs: int, outputs: int, bilinear: bool):
        super().__init__()
        if bilinear:
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.conv = DoubleConv(inputs, inputs // 2, outputs)
        else:
            self.up = nn.ConvTranspose2d(inputs, inputs // 2, 2, stride=2)
            self.conv = DoubleConv(inputs, outputs, outputs)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        return self.conv(torch.cat([skip, self.up(deep)], dim=1))


class Decoder(nn.Module):
    """From x5 back to the size of x1, taking in x4 .. x1 on the way."""

    def __init__(self, base_channels: int, bilinear: bool):
        super().__init__()
        inputs = [16 * base_channels, 8 * base_channels, 4 * base_channels, 2 * base_channels]
        outputs = decoder_widths(base_channels, bilinear)
        self.ups = nn.ModuleList(Up(i, o, bilinear) for i, o in zip(inputs, outputs, strict=True))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """[x1 .. x5] -> [d4, d3, d2, d1]."""
        decoded, deep = [], maps[-1]
        for up, skip in zip(self.ups, reversed(maps[:-1]), strict=True):
            deep = up(deep, skip)
            decoded.append(deep)
        return decoded


def encoder_widths(base_channels: int, bilinear: bool) -> tuple[int, ...]:
    """Channels of x1 .. x5."""
    b = base_channels
    return (b, 2 * b, 4 * b, 8 * b, 8 * b if bilinear else 16 * b)


def decoder_widths(base_channels: int, bilinear: bool) -> tuple[int, ...]:
    """Channels of d4 .. d1."""
    b = base_channels
    return (4 * b, 2 * b, b, b) if bilinear else (8 * b, 4 * b, 2 * b, b)


def feature_channels(base_channels: int, bilinear: bool = True) -> dict[str, int]:
    """Channels of every map of `return_features=True`, by level name; the same for teacher and student."""
    widths = (*encoder_widths(base_channels, bilinear), *decoder_widths(base_channels, bilinear))
    return dict(zip(LEVELS, widths, strict=True))


def named_features(maps: Sequence[Tensor], decoded: Sequence[Tensor]) -> dict[str, Tensor]:
    """{"x1": .., "x5": .., "d4": .., "d1": ..}."""
    return dict(zip(LEVELS, (*maps, *decoded), strict=True))


def shared_weight(levels: Sequence[str], encoder: Encoder, decoder: Decoder) -> nn.Parameter:
    """The last convolution that both the depth and every named feature map depend on.

    Without levels it is the one before the head; with decoder levels alone the deepest of them; with encoder levels the
    shallowest of those. It is where gradients of different losses can be compared (losses.adaptive). UserError for a
    name that is no level.
    """
    unknown = sorted(set(levels) - set(LEVELS))
    if unknown:
        raise UserError(f"feature level {unknown[0]!r} does not exist; choose from {', '.join(LEVELS)}")
    first = min((LEVELS.index(level) for level in levels), default=len(LEVELS) - 1)
    if first < len(ENCODER_LEVELS):
        return encoder.stages[first].last_weight
    return decoder.ups[first - len(ENCODER_LEVELS)].conv.last_weight


def check_input(x: Tensor, channels: int, model: str) -> None:
    """Raise UserError unless x is (B,channels,H,W) with H and W divisible by 16."""
    if x.ndim != 4 or x.shape[1] != channels:
        raise UserError(f"{model}: the input has shape {tuple(x.shape)}; it must be (B,{channels},H,W)")
    height, width = x.shape[-2:]
    if height % STRIDE or width % STRIDE or not height * width:
        fitting = " x ".join(str(max(STRIDE, side // STRIDE * STRIDE)) for side in (height, width))
        raise UserError(
            f"{model}: the input is {height} x {width} (height x width); both must be divisible by {STRIDE}: "
            f"resize it, to {fitting} for example"
        )
