"""The student image encoders: a ConvNeXt whose feature map survives, and a projection into the teacher's space.

One model serves both stages. Stage 1 calls it (`forward`: one vector an image); Stage 2 calls `feature_map` on whole
frames. The projection is linear and follows the pooling, so a cell of the map lives, up to that linear layer, in the
space that distillation shaped.

    B batch, C channels, H W input pixels, h w cells, D teacher's embedding dimension
"""

from pathlib import Path

import timm
import torch.nn.functional as F
from torch import Tensor, nn

from shared.checkpoint import load_into, load_weights
from shared.errors import CheckpointError, ConfigError

STRIDES = (8, 16, 32)  # ConvNeXt "stages 2, 3, 4", counted from one; timm's indices 1, 2, 3


def build_backbone(name: str, init: str, drop_path: float = 0.0) -> nn.Module:
    """timm ConvNeXt without classifier and pooling.

    `init`: `random` (must be written, never a fallback), a weights file, or a timm tag such as `in12k_ft_in1k`.
    Raises ConfigError for an unknown model, CheckpointError for weights that are missing or do not fit.
    """
    if name.split(".")[0] not in timm.list_models("*convnext*"):
        raise ConfigError(f"student.backbone: {name!r} is not a timm ConvNeXt; see timm.list_models('*convnext*')")
    options = {"num_classes": 0, "global_pool": "", "drop_path_rate": drop_path}
    if init == "random":
        return timm.create_model(name, pretrained=False, **options)
    if Path(init).suffix in (".pth", ".pt", ".safetensors"):
        backbone = timm.create_model(name, pretrained=False, **options)
        load_into(backbone, load_weights(Path(init)), allow_unexpected=["head.fc.*"], source=init)
        return backbone
    try:
        return timm.create_model(f"{name}.{init}", pretrained=True, **options)
    except Exception as error:  # timm and the hub raise many kinds; all mean the same to the user
        raise CheckpointError(
            f"student.init: could not get timm weights {name}.{init} ({type(error).__name__}: {error}); "
            "connect to the network once, name a weights file, or write `student.init: random`"
        ) from error


class DistilledConvNeXtTiny(nn.Module):
    """ConvNeXt with its last map kept: the plain, single-scale student.

    Pooling order: mean over `forward_features`, then the backbone's `head.norm`, which equals timm's plain model
    exactly (norm before the mean would not).
    """

    def __init__(self, embed_dim: int, backbone: str = "convnext_tiny", init: str = "random", drop_path: float = 0.0):
        super().__init__()
        self.backbone = build_backbone(backbone, init, drop_path)
        self.map_dim = self.backbone.num_features
        self.map_stride = STRIDES[-1]
        self.projection = nn.Linear(self.map_dim, embed_dim)

    def feature_map(self, images: Tensor) -> Tensor:
        """(B,3,H,W) float -> (B,C,H/32,W/32)."""
        return self.backbone.forward_features(images)

    def pooled(self, images: Tensor) -> Tensor:
        """(B,3,H,W) -> (B,C), equal to timm's pooled feature."""
        return self.backbone.head.norm(self.feature_map(images).mean((2, 3), keepdim=True)).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Stage 1: (B,3,H,W) -> (B,D), not normalised."""
        return self.projection(self.pooled(images))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a (B,C,H,W) map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class DistilledConvNeXtTinyMultiScale(nn.Module):
    """Strides 8, 16 and 32 extracted, normalised, and fused into one map, for objects of many sizes.

    Each level gets its own LayerNorm (timm's intermediates are not normalised) and a 1x1 lateral; levels are resized
    to `map_stride` and summed (Lin et al., Feature Pyramid Networks, arXiv 1612.03144, with one output level), then
    smoothed by a depthwise 3x3. Stage 1 pools the fused map, so the fusion is distilled too.
    """

    def __init__(
        self,
        embed_dim: int,
        backbone: str = "convnext_tiny",
        init: str = "random",
        drop_path: float = 0.0,
        map_dim: int = 256,
        map_stride: int = 16,
    ):
        super().__init__()
        self.backbone = build_backbone(backbone, init, drop_path)
        channels = [info["num_chs"] for info in self.backbone.feature_info[1:4]]
        self.map_dim, self.map_stride = map_dim, map_stride
        self.norms = nn.ModuleList(ChannelNorm(c) for c in channels)
        self.laterals = nn.ModuleList(nn.Conv2d(c, map_dim, 1) for c in channels)
        self.smooth = nn.Sequential(
            nn.Conv2d(map_dim, map_dim, 3, padding=1, groups=map_dim), nn.GELU(), nn.Conv2d(map_dim, map_dim, 1)
        )
        self.norm = ChannelNorm(map_dim)
        self.projection = nn.Linear(map_dim, embed_dim)

    def feature_map(self, images: Tensor) -> Tensor:
        """(B,3,H,W) float, H and W divisible by 32 -> (B,map_dim,H/map_stride,W/map_stride), normalised per cell."""
        levels = self.backbone.forward_intermediates(images, indices=[1, 2, 3], intermediates_only=True)
        size = [side // self.map_stride for side in images.shape[-2:]]
        fused = sum(
            resize(lateral(norm(level)), size)
            for level, norm, lateral in zip(levels, self.norms, self.laterals, strict=True)
        )
        return self.norm(fused + self.smooth(fused))

    def pooled(self, images: Tensor) -> Tensor:
        """(B,3,H,W) -> (B,map_dim), the mean of the fused map."""
        return self.feature_map(images).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Stage 1: (B,3,H,W) -> (B,D), not normalised."""
        return self.projection(self.pooled(images))


def resize(x: Tensor, size: list[int]) -> Tensor:
    """To (h, w): bilinear when growing, area mean when shrinking."""
    if list(x.shape[-2:]) == size:
        return x
    if x.shape[-2] > size[0]:
        return F.adaptive_avg_pool2d(x, size)
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def build_student(config, embed_dim: int) -> nn.Module:
    """The student that `config` (config.Student) describes; weights as `config.init` says."""
    if not config.multiscale:
        return DistilledConvNeXtTiny(embed_dim, config.backbone, config.init, config.drop_path)
    return DistilledConvNeXtTinyMultiScale(
        embed_dim, config.backbone, config.init, config.drop_path, config.map_dim, config.map_stride
    )


def parameter_count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def empty_like_student(config, embed_dim: int) -> nn.Module:
    """The same architecture without fetching weights: for loading a checkpoint into."""
    return build_student(config.model_copy(update={"init": "random"}), embed_dim)
