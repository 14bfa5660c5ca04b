"""The teacher: a U-Net from one RGB picture to depth in metres (17,262,977 parameters at 64 base channels)."""

# B batch, H, W height and width of the picture.

from dataclasses import asdict, dataclass

from torch import Tensor, nn

from shared.errors import UserError

from .blocks import Decoder, Encoder, check_input, named_features, shared_weight
from .heads import DepthHead, check_head, output_hw


@dataclass(frozen=True)
class TeacherSettings:
    """What the teacher is built from; `asdict` of it rebuilds the model (it stands in a checkpoint's manifest)."""

    base_channels: int = 64
    bilinear: bool = True
    output_size: int | tuple[int, int] | None = 256  # pixels; None: as large as the input
    max_depth: float = 30.0  # metres
    head: str = "log"

    def __post_init__(self) -> None:
        check_base(self.base_channels)
        check_head(self.head, self.max_depth)
        output_hw(self.output_size)


def check_base(base_channels: int) -> None:
    if not isinstance(base_channels, int) or base_channels < 1:
        raise UserError(f"base_channels {base_channels!r}: it must be a whole number, at least 1")


class RGBDepthModel(nn.Module):
    """RGB in 0..1 to metres."""

    in_channels = 3

    def __init__(self, settings: TeacherSettings | None = None):
        super().__init__()
        self.settings = settings or TeacherSettings()
        base, bilinear = self.settings.base_channels, self.settings.bilinear
        self.encoder = Encoder(self.in_channels, base, bilinear)
        self.decoder = Decoder(base, bilinear)
        self.head = DepthHead(base, self.settings.head, self.settings.max_depth)

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Depth, and on request the nine feature maps.

        Args:
            x: (B,3,H,W) float in 0..1; H and W divisible by 16.
            return_features: also return {"x1": .. "x5", "d4": .. "d1"} (blocks).

        Returns: (B,1,output height,output width) float32 metres [, features]. Raises UserError for another shape.
        """
        check_input(x, self.in_channels, "RGB depth model")
        maps = self.encoder(x)
        decoded = self.decoder(maps)
        depth = self.head(decoded[-1], output_hw(self.settings.output_size) or x.shape[-2:])
        return (depth, named_features(maps, decoded)) if return_features else depth

    def shared_weight(self, levels: tuple[str, ...] = ()) -> nn.Parameter:
        """The last weight that the depth and all named levels depend on (blocks.shared_weight)."""
        return shared_weight(levels, self.encoder, self.decoder)

    def arguments(self) -> dict:
        """Keyword arguments of `create_rgb_depth_model` that build this model again; plain values."""
        return asdict(self.settings)


def create_rgb_depth_model(
    base_channels: int = 64,
    bilinear: bool = True,
    output_size: int | tuple[int, int] | None = 256,
    max_depth: float = 30.0,
    **options: object,
) -> RGBDepthModel:
    """The teacher, with random weights.

    Args:
        base_channels: channels of x1; the deeper levels are multiples of it.
        bilinear: upsample by interpolation instead of transposed convolutions.
        output_size: side of a square depth map, (height, width), or None for the input's size.
        max_depth: metres at which the head saturates.
        options: head ("log", "sigmoid", "softplus": models.heads).

    Raises UserError for a value that makes no model.
    """
    return RGBDepthModel(TeacherSettings(base_channels, bilinear, output_size, max_depth, **options))
