"""`MACLHead`: embeds paired RoI features and compares them across the two modalities (maths in macl_loss.py).

    macl_head = dict(type='MACLHead', tau=0.07, norm_type='LN', multi_positive='average')

One projection g serves both modalities. Everything from the pooled feature on is float32 outside autocast: exp(1/0.07)
is 1.6e6, which float16 does not hold. The temperature is learnt as log_tau and kept in 0.01..1.

    K paired RoIs, C channels of a RoI feature, D embedding dimension
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor, nn

from shared.errors import ConfigError

from .domain import DOMAIN_TERMS
from .finite import raise_if_not_finite
from .macl_loss import MULTI_POSITIVE, Negatives, queue_contrast, symmetric_contrast
from .projection import projection
from .settings import settings_from

TAU_RANGE = (0.01, 1.0)
ALIASES = {"temperature": "tau", "domain_loss_weight": "domain_weight"}
UNSET = "unset"  # norm_type that use_bn decides


@dataclass(frozen=True)
class MaclSettings:
    """Keys of `macl_head`; `temperature` is understood as tau.

    use_bn, norm_type: norm_type ("LN", "GN", "BN" or None) wins; unset, it is "BN" with use_bn, else "LN".
    norm_groups: of "GN"; unset, groups of 8 channels. dropout: after the first hidden layer.
    multi_positive: what other RoIs of the same person are, "average" (positives) or "mask" (left out).
    roi_source: rows from "positive" sampled RoIs or from "gt" boxes. max_rows_per_image: evenly thinned above it.
    enable_domain_loss, domain_weight, mmd_kernels, domain_type: the term of domain.py between the modalities.
    """

    in_dim: int = 256
    proj_dim: int = 128
    tau: float = 0.07
    learnable_tau: bool = True
    use_bn: bool = False
    norm_type: str | None = UNSET
    norm_groups: int | None = None
    hidden_dims: tuple[int, ...] = (128, 64)
    dropout: float = 0.0
    multi_positive: str = "average"
    roi_source: str = "positive"
    max_rows_per_image: int | None = 64
    enable_domain_loss: bool = False
    domain_weight: float = 0.1
    domain_type: str = "mmd"
    mmd_kernels: tuple[float, ...] = (1.0, 2.0, 4.0)

    def __post_init__(self) -> None:
        low, high = TAU_RANGE
        _require(low <= self.tau <= high, f"tau={self.tau} is outside {low}..{high}")
        _require(0 <= self.dropout < 1, f"dropout={self.dropout} is not a share in 0..1")
        _require(min((self.in_dim, self.proj_dim, *self.hidden_dims)) > 0, "a layer has no channels")
        _require(self.max_rows_per_image is None or self.max_rows_per_image > 0, "max_rows_per_image must be > 0")
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            _require(value in choices, f"{name}={value!r}; use one of {', '.join(choices)}")
        if self.use_bn and self.norm_type not in (UNSET, "BN"):
            warnings.warn(f"MACLHead: use_bn=True is ignored, norm_type={self.norm_type!r} wins.", stacklevel=4)

    @property
    def norm(self) -> str | None:
        """The normalisation that is built."""
        if self.norm_type == UNSET:
            return "BN" if self.use_bn else "LN"
        return self.norm_type


CHOICES = {
    "multi_positive": MULTI_POSITIVE,
    "roi_source": ("positive", "gt"),
    "domain_type": DOMAIN_TERMS,
}


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ConfigError(f"MACLHead: {problem}.")


@MODELS.register_module()
class MACLHead(nn.Module):
    """The projection, the temperature and the loss; its keys are those of `MaclSettings`.

    Raises ConfigError for an unknown key or a value out of range.
    """

    def __init__(self, **keys: Any) -> None:
        super().__init__()
        self.settings = config = settings_from(MaclSettings, "MACLHead", keys, ALIASES)
        self.proj = projection(
            config.in_dim,
            config.hidden_dims,
            config.proj_dim,
            norm_type=config.norm,
            norm_groups=config.norm_groups,
            dropout=config.dropout,
        )
        self.log_tau = nn.Parameter(torch.tensor(math.log(config.tau)), requires_grad=config.learnable_tau)

    @property
    def tau(self) -> Tensor:
        """The temperature, in 0.01..1."""
        return self.log_tau.clamp(*map(math.log, TAU_RANGE)).exp()

    def embed(self, features: Tensor) -> Tensor:
        """features (K,C) of either modality -> (K,D) unit rows, float32."""
        if features.ndim != 2 or features.shape[1] != self.settings.in_dim:
            raise ConfigError(
                f"MACLHead: features are {tuple(features.shape)}, in_dim is {self.settings.in_dim}; set "
                f"macl_head.in_dim to the channels of the neck (model.neck.out_channels)."
            )
        with torch.autocast(features.device.type, enabled=False):
            return F.normalize(self.proj(features.float()), dim=1)

    def embed_pair(self, vis_features: Tensor, ir_features: Tensor) -> tuple[Tensor, Tensor]:
        """(K,C) twice -> (K,D) twice, in one pass: a BatchNorm in g sees both modalities, as it will in evaluation."""
        both = self.embed(torch.cat([vis_features, ir_features]))
        return both[: len(vis_features)], both[len(vis_features) :]

    def forward(
        self,
        vis: Tensor,
        ir: Tensor,
        groups: Tensor,
        vis_negatives: Negatives | None = None,
        ir_negatives: Negatives | None = None,
        *,
        separate: bool = False,
        check: bool = True,
    ) -> dict[str, Tensor]:
        """Unweighted terms of embedded pairs: vis, ir (K,D) unit rows from `embed_pair`, groups (K,) integers.

        Negatives are further columns of the loss or, with `separate`, a term "dhn" of their own. A detector that looks
        at all its losses together sets check=False, so that its message names every bad one.

        Returns scalars: macl (and dhn), with gradient; accuracy (top-1 retrieval), chance (ln of the columns), rows
        (K). The keys are the same for every K, so that ranks agree; with K = 0 all are 0.

        Raises:
            NonFiniteError: with `check`, a loss is not finite (on every rank), naming it.
        """
        self._project_tau()
        negatives = {} if separate else {"vis_negatives": vis_negatives, "ir_negatives": ir_negatives}
        contrast = symmetric_contrast(
            vis, ir, groups, self.tau, multi_positive=self.settings.multi_positive, **negatives
        )
        losses = {"macl": contrast.loss}
        if separate:
            losses["dhn"] = queue_contrast(vis, ir, self.tau, vis_negatives, ir_negatives)
        if check:
            raise_if_not_finite({f"loss_{name}": value for name, value in losses.items()})
        rows = contrast.columns.new_tensor(float(len(vis)))
        return {**losses, "accuracy": contrast.accuracy, "chance": contrast.chance, "rows": rows}

    @torch.no_grad()
    def _project_tau(self) -> None:
        """Back into its range after an optimizer step; a clamp alone would leave it outside without a gradient."""
        self.log_tau.clamp_(*map(math.log, TAU_RANGE))
