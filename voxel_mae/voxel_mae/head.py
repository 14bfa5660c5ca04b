"""The VoxelNeXt head: heat and box of a class at every active site of the bird's-eye map (A13).

Each branch of a head is num_conv - 1 times (submanifold convolution, BN, ReLU) and a pointwise layer with bias:

    hm C_head    center 2    center_z 1    dim 3 (log metres)    rot 2 (cos, sin)

The heat starts at bias -2.19 (a probability of .1), the other convolutions Kaiming-normal with zero bias. Parameter
names are OpenPCDet's (`heads_list.0.hm.0.0.weight`), and a kernel of 1 is a Linear layer.
Source: VoxelNeXt, arXiv 2303.11301.
"""

# S active sites, C classes of a head, F input features

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from shared.errors import ConfigError

from .sparse import Chain, Norm, Pointwise, SparseTensor, SubM2d, subm2d

HEAT_BIAS = -2.19  # the logit of .1
OUTPUTS = {"center": 2, "center_z": 1, "dim": 3, "rot": 2}


@dataclass(frozen=True)
class HeadSettings:
    """DENSE_HEAD's network. groups: of each head its labels (from 1); together each label once.

    depths: convolutions of each branch, the pointwise one included. bias: of the convolutions before a norm.

    Raises ConfigError when the groups are not a partition of 1..K, a branch is missing or unknown, or the kernel even.
    """

    groups: tuple[tuple[int, ...], ...]
    inputs: int = 128
    kernel: int = 3
    bias: bool = True
    depths: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(("hm", *OUTPUTS), 2))

    def __post_init__(self) -> None:
        labels = sorted(label for group in self.groups for label in group)
        if not labels or labels != list(range(1, len(labels) + 1)):
            raise ConfigError(
                f"DENSE_HEAD.CLASS_NAMES_EACH_HEAD names the classes {[list(g) for g in self.groups]} (from 1): every "
                "class must stand in exactly one head."
            )
        if set(self.depths) != {"hm", *OUTPUTS} or min(self.depths.values()) < 1:
            raise ConfigError(
                f"DENSE_HEAD.SEPARATE_HEAD_CFG has the branches {dict(self.depths)}: hm, {', '.join(OUTPUTS)} are "
                "needed, with at least one convolution each."
            )
        if self.kernel % 2 == 0:
            raise ConfigError(f"DENSE_HEAD.KERNEL_SIZE_HEAD is {self.kernel}: give an odd number.")


class Branch(nn.Sequential):
    """One quantity of one head: `Chain`s with a norm and ReLU, then the pointwise layer; a tensor to features (S,n)."""

    def __init__(self, settings: HeadSettings, outputs: int, depth: int, key: str):
        width, kernel = settings.inputs, settings.kernel
        stages = [
            Chain(subm2d(width, width, kernel, bias=settings.bias, key=key), norm(width), nn.ReLU())
            for _ in range(depth - 1)
        ]
        super().__init__(*stages, Pointwise(width, outputs))
        for layer in self.modules():
            if isinstance(layer, Pointwise | SubM2d):
                initialise(layer)

    def forward(self, x: SparseTensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x.features


def norm(channels: int) -> Norm:
    """The heads' batch norm: torch's own eps and momentum, which OpenPCDet leaves there (the backbone's differ)."""
    layer = Norm(channels)
    layer.eps, layer.momentum = 1e-5, 0.1
    return layer


def initialise(layer: nn.Module) -> None:
    """Kaiming-normal over the fan-in, zero bias. The weight is (out, ..., in), the kernel between them."""
    fan_in = layer.weight[0].numel()
    nn.init.normal_(layer.weight, std=(2 / fan_in) ** 0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class SeparateHead(nn.Module):
    """All branches of one group of classes: a bird's-eye tensor -> {"hm": (S,C), "center": (S,2), ...}."""

    def __init__(self, settings: HeadSettings, classes: int):
        super().__init__()
        for name, outputs in {"hm": classes, **OUTPUTS}.items():
            self.add_module(name, Branch(settings, outputs, settings.depths[name], key="head"))
        nn.init.constant_(self.hm[-1].bias, HEAT_BIAS)

    def forward(self, bev: SparseTensor) -> dict[str, Tensor]:
        return {name: branch(bev) for name, branch in self.named_children()}


class VoxelNeXtHead(nn.Module):
    """One SeparateHead a group, over the sites and features of the fused bird's-eye tensor."""

    def __init__(self, settings: HeadSettings):
        super().__init__()
        self.settings = settings
        self.heads_list = nn.ModuleList(SeparateHead(settings, len(group)) for group in settings.groups)

    def forward(self, bev: SparseTensor) -> list[dict[str, Tensor]]:
        """A 2D tensor (sites b, y, x) with `inputs` features -> of each head its branches, float rows of the sites.

        Raises ValueError for a tensor that is not 2D (a level of the backbone, before the fusion) or of another width.
        """
        if len(bev.spatial_shape) != 2:
            raise ValueError(
                f"the head reads the fused bird's-eye tensor (b, y, x), not one of shape {tuple(bev.spatial_shape)}"
            )
        if bev.features.shape[1] != self.settings.inputs:
            raise ValueError(
                f"the bird's-eye tensor carries {bev.features.shape[1]} features, DENSE_HEAD.INPUT_FEATURES is "
                f"{self.settings.inputs}: set it to the backbone's FEATURE_DIM."
            )
        return [head(bev) for head in self.heads_list]


HEADS = {"VoxelNeXtHead": VoxelNeXtHead}  # DENSE_HEAD.NAME of the configs


def label_groups(names_each_head: Sequence[Sequence[str]], classes: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """CLASS_NAMES_EACH_HEAD as labels from 1. ConfigError for a name that CLASS_NAMES lacks."""
    unknown = [name for group in names_each_head for name in group if name not in classes]
    if unknown:
        raise ConfigError(
            f"DENSE_HEAD.CLASS_NAMES_EACH_HEAD names {', '.join(unknown)}, CLASS_NAMES holds {', '.join(classes)}."
        )
    return tuple(tuple(list(classes).index(name) + 1 for name in group) for group in names_each_head)
