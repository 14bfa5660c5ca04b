"""`MSPFPN`: mmdet's FPN with a reweighting (msp.py) of every level it puts out.

    neck = dict(type='MSPFPN', in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=5,
                msp_module=dict(type='MSPReweight', channels=256))

Without `msp_module` it is mmdet's FPN, with the same parameter names, so stock weights load into either.
"""

from typing import Any

import torch
from mmdet.models.necks import FPN
from mmdet.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class MSPFPN(FPN):
    """FPN, then one `msp_module` per output level.

    Args: those of mmdet's FPN, and msp_module (dict or None), built once for each of the `num_outs` levels.
    """

    def __init__(self, *args: Any, msp_module: dict | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.alpha_penalty = (msp_module or {}).get("alpha_penalty", 0.0)
        self.msp = None
        if msp_module is not None:
            levels = [MODELS.build({**msp_module, "in_channels": self.out_channels}) for _ in range(self.num_outs)]
            self.msp = nn.ModuleList(levels)

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Backbone levels [(B,C_i,H_i,W_i)] -> pyramid of `num_outs` levels (B,out_channels,h_i,w_i)."""
        levels = super().forward(inputs)
        if self.msp is None:
            return levels
        return tuple(msp(level) for msp, level in zip(self.msp, levels, strict=True))

    def penalty(self) -> Tensor | None:
        """Sum of alpha^2 over the levels, unweighted, or None unless `alpha_penalty` asks for it."""
        if self.msp is None or self.alpha_penalty == 0:
            return None
        return torch.stack([msp.alpha.square() for msp in self.msp]).sum()
