"""OpenPCDet's adam_onecycle as a pure function of the step: a multiplier, so that every group keeps its ratio.

OpenPCDet's (fastai's) own object writes one rate into all groups and so ends differential learning rates at the first
step; here each group's rate is its ratio times LR times this multiplier, at every step and after a resume.
"""

from collections.abc import Callable

import torch

from shared.optim import Multiplier, one_cycle

from .config import Optimization

BETA2 = 0.99
FINAL_DIVISOR = 1e4  # the last rate is LR / DIV_FACTOR / this


def schedule_of(settings: Optimization) -> Callable[[int, int], Multiplier]:
    """(step, total steps) -> factor on every group's rate, and beta1."""

    def schedule(step: int, total: int) -> Multiplier:
        return one_cycle(step, total, rise=settings.PCT_START, start_divisor=settings.DIV_FACTOR,
                         final_divisor=FINAL_DIVISOR, momentum=settings.MOMS)  # fmt: skip

    return schedule


def adam(groups: list[dict], settings: Optimization) -> torch.optim.AdamW:
    """Adam with decoupled decay (p *= 1 - decay x rate), on groups of `differential_lr`."""
    return torch.optim.AdamW(groups, lr=settings.LR, betas=(settings.MOMS[0], BETA2), foreach=True)
