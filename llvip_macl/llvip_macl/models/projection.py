"""The projection g of MACL: a small MLP from a pooled RoI feature to the embedding space, with a safe normalisation.

    Linear(in, hidden 0) - norm - ReLU - Dropout - Linear - ReLU ... Linear(last hidden, out)

BatchNorm cannot take its statistics from one row, which is what a batch with one person gives; here such a call uses
the running statistics. GroupNorm with groups of one channel maps everything to its bias (and of two to +-1), so one is
refused and less than four draws a warning. LayerNorm, the default, has neither problem.
"""

import warnings
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from shared.errors import ConfigError

NORMS = ("LN", "GN", "BN", None)
SMALL_GROUP = 4  # channels; below it GroupNorm leaves little of its input
DEFAULT_GROUP = 8  # channels of a group when `norm_groups` is not given


class RowBatchNorm(nn.BatchNorm1d):
    """BatchNorm1d that uses its running statistics for a call with fewer than two rows, and for that call only."""

    def forward(self, rows: Tensor) -> Tensor:
        """rows (K,C) -> (K,C)."""
        if not self.training or len(rows) > 1:
            return super().forward(rows)
        return F.batch_norm(rows, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


def projection(
    in_dim: int,
    hidden_dims: Sequence[int],
    out_dim: int,
    *,
    norm_type: str | None = "LN",
    norm_groups: int | None = None,
    dropout: float = 0.0,
) -> nn.Sequential:
    """The MLP above: (K, in_dim) -> (K, out_dim), not normalised. Without hidden_dims it is one linear layer.

    Raises:
        ConfigError: an unknown norm, or groups that do not divide the width or hold one channel each.
    """
    layers: list[nn.Module] = []
    width = in_dim
    for index, hidden in enumerate(hidden_dims):
        layers.append(nn.Linear(width, hidden))
        if index == 0:
            layers += [*norm_layers(norm_type, hidden, norm_groups), nn.ReLU()]
            layers += [nn.Dropout(dropout)] if dropout > 0 else []
        else:
            layers.append(nn.ReLU())
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, out_dim))


def norm_layers(norm_type: str | None, width: int, norm_groups: int | None) -> list[nn.Module]:
    """The normalisation of `width` channels, as a list of no or one layer."""
    if norm_type is None:
        return []
    if norm_type == "LN":
        return [nn.LayerNorm(width)]
    if norm_type == "BN":
        return [RowBatchNorm(width)]
    if norm_type == "GN":
        return [nn.GroupNorm(_groups(width, norm_groups), width)]
    raise ConfigError(f"MACLHead: norm_type is {norm_type!r}; use one of {', '.join(map(str, NORMS))}.")


def _groups(width: int, norm_groups: int | None) -> int:
    groups = max(width // DEFAULT_GROUP, 1) if norm_groups is None else norm_groups
    if groups < 1 or width % groups:
        raise ConfigError(f"MACLHead: norm_groups={groups} does not divide the {width} channels of the first layer.")
    size = width // groups
    if size == 1:
        raise ConfigError(
            f"MACLHead: norm_groups={groups} over {width} channels makes groups of one channel, which GroupNorm maps "
            f"to its bias whatever the input. Use norm_groups={max(width // DEFAULT_GROUP, 1)} or norm_type='LN'."
        )
    if size < SMALL_GROUP:
        warnings.warn(
            f"MACLHead: norm_groups={groups} over {width} channels makes groups of {size}, which keeps little of the "
            f"input; norm_groups={max(width // DEFAULT_GROUP, 1)} or norm_type='LN' is safer.",
            stacklevel=4,
        )
    return groups
