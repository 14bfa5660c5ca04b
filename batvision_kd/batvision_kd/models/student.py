"""The student: two ears, an encoder each, cross attention between them, and the teacher's decoder.

    left, right spectrogram -> encoder -> [attention at chosen levels] -> fused x1 .. x5 -> decoder -> depth in metres

At every level both ears' maps are fused by a 1x1 convolution 2C -> C with batch normalisation and ReLU. The features
that it returns are these fused maps, shaped as the teacher's. Nothing normalises the ears one by one on the way in: the
level between them is a cue.
"""

# B batch, H frequency rows, W time columns of the spectrogram, E channels beyond the two ears.

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.errors import UserError

from .attention import ATTENTIONS, CrossAttention, warn_if_heavy
from .blocks import Decoder, Encoder, check_input, encoder_widths, named_features, shared_weight
from .heads import DepthHead, check_head, output_hw
from .teacher import check_base

EARS = 2


@dataclass(frozen=True)
class StudentSettings:
    """What the student is built from; `asdict` of it rebuilds the model (it stands in a checkpoint's manifest)."""

    base_channels: int = 64
    bilinear: bool = True
    output_size: int | tuple[int, int] | None = 256  # pixels; None: as large as the input
    max_depth: float = 30.0  # metres
    attention_levels: tuple[int, ...] = (4, 5)  # of 1..5, where the ears attend to each other; () for none
    attention: str = "mha"  # or "reference"
    attention_heads: int = 8  # of "mha"
    dense_levels: tuple[int, ...] = (3, 4, 5)  # levels that attend over the whole map; others along time
    shared_encoder: bool = False  # one encoder for both ears instead of one each
    head: str = "log"
    in_channels: int = EARS  # left, right, then channels that join both (interaural phase, GCC-PHAT)

    def __post_init__(self) -> None:
        for name in ("attention_levels", "dense_levels"):
            object.__setattr__(self, name, _levels(name, getattr(self, name)))
        check_base(self.base_channels)
        check_head(self.head, self.max_depth)
        output_hw(self.output_size)
        if self.attention not in ATTENTIONS:
            raise UserError(f"attention {self.attention!r} does not exist; choose from {', '.join(ATTENTIONS)}")
        if self.in_channels < EARS or self.attention_heads < 1:
            raise UserError(
                f"in_channels {self.in_channels}, attention_heads {self.attention_heads}: at least 2 (the ears) and 1"
            )


def _levels(name: str, levels: tuple[int, ...]) -> tuple[int, ...]:
    wrong = [level for level in levels if level not in range(1, 6)]
    if wrong:
        raise UserError(f"{name} {list(levels)}: {wrong[0]!r} is no level; choose from 1 to 5 (x1 to x5)")
    return tuple(sorted(set(levels)))


class Fusion(nn.Module):
    """Both ears' maps (B,C,H,W) -> one (B,C,H,W): a 1x1 convolution of the 2C channels, normalisation, ReLU."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, channels, 1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        weights = self.conv.weight.chunk(EARS, dim=1)  # an ear each: the joined map would be a copy of both
        mixed = F.conv2d(left, weights[0], self.conv.bias).add_(F.conv2d(right, weights[1]))
        return F.relu(self.norm(mixed), inplace=True)


class BinauralAttentionModel(nn.Module):
    """Two spectrograms to metres."""

    def __init__(self, settings: StudentSettings | None = None):
        super().__init__()
        self.settings = s = settings or StudentSettings()
        widths = encoder_widths(s.base_channels, s.bilinear)
        per_ear = 1 + s.in_channels - EARS
        self.encoders = nn.ModuleList(
            Encoder(per_ear, s.base_channels, s.bilinear) for _ in range(1 if s.shared_encoder else EARS)
        )
        self.attention = nn.ModuleDict({f"x{level}": self._attention(level, widths) for level in s.attention_levels})
        self.fusion = nn.ModuleList(Fusion(width) for width in widths)
        self.decoder = Decoder(s.base_channels, s.bilinear)
        self.head = DepthHead(s.base_channels, s.head, s.max_depth)

    def _attention(self, level: int, widths: tuple[int, ...]) -> CrossAttention:
        s = self.settings
        warn_if_heavy(level, s.dense_levels, output_hw(s.output_size) or (256, 256))
        return CrossAttention(widths[level - 1], s.attention, heads=s.attention_heads, dense=level in s.dense_levels)

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Depth, and on request the nine feature maps.

        Args:
            x: (B,2+E,H,W) float, left ear, right ear, then the channels that join both; H and W divisible by 16.
            return_features: also return {"x1": .. "x5", "d4": .. "d1"}: the maps after fusion, shaped as the teacher's.

        Returns: (B,1,output height,output width) float32 metres [, features]. Raises UserError for another shape.
        """
        check_input(x, self.settings.in_channels, "binaural model")
        fused = [self._fuse(number, *ears) for number, ears in enumerate(self._encode(x), 1)]
        decoded = self.decoder(fused)
        depth = self.head(decoded[-1], output_hw(self.settings.output_size) or x.shape[-2:])
        return (depth, named_features(fused, decoded)) if return_features else depth

    def _encode(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(left, right) of each level, before they meet."""
        joint = x[:, EARS:]
        ears = [torch.cat([x[:, ear : ear + 1], joint], dim=1) for ear in range(EARS)]
        if len(self.encoders) == 1:  # both ears in one batch: one pass, and one set of batch statistics
            return [tuple(both.chunk(EARS)) for both in self.encoders[0](torch.cat(ears))]
        left, right = (encoder(ear) for encoder, ear in zip(self.encoders, ears, strict=True))
        return list(zip(left, right, strict=True))

    def _fuse(self, level: int, left: Tensor, right: Tensor) -> Tensor:
        if level in self.settings.attention_levels:
            left, right = self.attention[f"x{level}"](left, right)
        return self.fusion[level - 1](left, right)

    def shared_weight(self, levels: tuple[str, ...] = ()) -> nn.Parameter:
        """The last weight that the depth and all named levels depend on; for encoder levels that of the left ear."""
        return shared_weight(levels, self.encoders[0], self.decoder)

    def arguments(self) -> dict:
        """Keyword arguments of `create_binaural_attention_model` that build this model again; plain values."""
        return asdict(self.settings)


def create_binaural_attention_model(
    base_channels: int = 64,
    bilinear: bool = True,
    output_size: int | tuple[int, int] | None = 256,
    max_depth: float = 30.0,
    attention_levels: tuple[int, ...] = (4, 5),
    **options: object,
) -> BinauralAttentionModel:
    """The student, with random weights.

    Args:
        base_channels: channels of x1; the deeper levels are multiples of it.
        bilinear: upsample by interpolation instead of transposed convolutions.
        output_size: side of a square depth map, (height, width), or None for the input's size.
        max_depth: metres at which the head saturates.
        attention_levels: of 1..5, where the ears attend to each other; () for none.
        options: attention ("mha", "reference"), attention_heads, dense_levels, shared_encoder, head, in_channels
            (StudentSettings says what each means).

    Raises UserError for a value that makes no model; warns when a dense level is very large.
    """
    return BinauralAttentionModel(
        StudentSettings(base_channels, bilinear, output_size, max_depth, tuple(attention_levels), **options)
    )
