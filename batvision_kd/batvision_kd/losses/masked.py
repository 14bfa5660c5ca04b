"""Means over some of the pixels, which stay finite when there are none and are those of the whole batch.

With several processes the pixels of a batch lie on all of them, in unequal numbers. A mean divides by those of all,
and its gradient is `world.size` times this process's share of the whole gradient: DistributedDataParallel averages over
the processes, and what comes out is the gradient of one process with the joined batch.
"""

# B batch, H, W height and width; a mask is (B,1,H,W) bool or weights in 0..1.

import torch
from torch import Tensor

from shared.run import World

ALONE = World()  # one process: no communication, the plain mean


def masked_mean(values: Tensor, mask: Tensor, world: World = ALONE) -> Tensor:
    """Sum of `values` where `mask` holds, over the number of such pixels; 0, with its graph, when there is none.

    Values outside the mask are replaced, not multiplied by 0, so that what is not finite there stays out. Collective
    with several processes, which all get the same value.
    """
    total, count = torch.where(mask, values, 0.0).sum(), mask.sum()
    if world.size == 1:
        return total / count.clamp_min(1)
    everywhere, count = world.sum(torch.stack([total.detach().double(), count.double()])).unbind()
    joined = everywhere.to(total.dtype) + world.size * (total - total.detach())  # the latter: 0, with the gradient
    return joined / count.to(total.dtype).clamp_min(1)


def any_pixel(mask: Tensor, world: World = ALONE) -> Tensor:
    """Whether the mask holds anywhere in the batch, a scalar bool (collective)."""
    return world.sum(mask.any().to(torch.int32)) > 0


def largest(values: Tensor, world: World = ALONE) -> Tensor:
    """The largest of `values` (at least 0) in the batch, a scalar without graph (collective)."""
    found = values.detach().max()
    if world.size == 1:
        return found
    places = found.new_zeros(world.size)
    places[world.rank] = found
    return world.sum(places).max()


def log_ratio(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """d = ln prediction - ln target where `mask` holds, 0 elsewhere; both must be positive there."""
    return safe_log(prediction, mask) - safe_log(target, mask)


def safe_log(depth: Tensor, mask: Tensor) -> Tensor:
    """ln depth where `mask` holds, ln 1 = 0 elsewhere: no infinity enters the graph."""
    return torch.where(mask, depth, 1.0).log()
