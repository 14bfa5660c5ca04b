"""How a distillation weight changes during training: by a schedule, and by the balance of gradients.

    weight = lambda_0 x anneal(epoch, epochs)          from 1 to 0.1, after a short warm-up
    weight = GradientBalance(rho).weight               rho x |gradient of the task| / |gradient of the term|

Both are separable from the third rule, the teacher's confidence (losses.response). Weights carry no gradient.
"""

import math

import torch
from torch import Tensor, nn

from shared.errors import UserError

ANNEALS = ("none", "cosine", "linear")
FLOOR = 0.1  # share of the weight that is left at the end
WARMUP = 0.05  # share of the training


def anneal(step: float, total: float, kind: str = "cosine", warmup: float = WARMUP) -> float:
    """Factor of a weight at `step` (0 .. total - 1; epochs, or steps, or shares of an epoch).

    Rises linearly to 1 over the first `warmup` of the training, then falls to 0.1 at the last step:
    cosine 0.1 + 0.45 (1 + cos(pi s)), linear 1 - 0.9 s, with s from 0 to 1 after the warm-up. "none" is always 1.
    Raises UserError for another kind.
    """
    if kind not in ANNEALS:
        raise UserError(f"anneal {kind!r} does not exist; choose from {', '.join(ANNEALS)}")
    if kind == "none":
        return 1.0
    rising = warmup * total
    if step + 1 < rising:
        return (step + 1) / rising
    start = max(0.0, rising - 1)  # where the factor is 1
    s = min(1.0, max(0.0, step - start) / max(total - 1 - start, 1e-9))
    return 1 - (1 - FLOOR) * s if kind == "linear" else FLOOR + (1 - FLOOR) / 2 * (1 + math.cos(math.pi * s))


def gradient_norm(term: Tensor, weight: nn.Parameter) -> Tensor:
    """Norm of d term / d weight, a scalar without graph; the graph of `term` is kept for the backward pass.

    0 when the term does not depend on the weight at all.
    """
    if not term.requires_grad:
        return torch.zeros((), device=weight.device)
    (gradient,) = torch.autograd.grad(term, weight, retain_graph=True, allow_unused=True)
    return torch.zeros((), device=weight.device) if gradient is None else gradient.float().norm()


class GradientBalance:
    """weight = rho x mean |gradient of the task| / mean |gradient of the term|, clamped; means decay by 0.99.

    Larger gradients of the task raise the weight, larger ones of the term lower it, so the term's pull stays at `rho`
    times the task's. Before the first update, and while the term has no gradient, the weight is `rho`. Means are kept
    as tensors: nothing waits for the device.
    """

    decay = 0.99
    limits = (0.01, 100.0)

    def __init__(self, rho: float):
        if not rho > 0:
            raise UserError(f"rho {rho}: it must be above 0; a term that should not pull has lambda 0")
        self.rho = rho
        self.task = torch.zeros(())
        self.term = torch.zeros(())

    def update(self, task_norm: Tensor, term_norm: Tensor, world=None) -> Tensor:
        """Take in the norms of a step (`gradient_norm`), averaged over the processes of `world`; returns the weight."""
        norms = torch.stack([task_norm.detach(), term_norm.detach()]).double()
        if world is not None and world.size > 1:
            norms = world.sum(norms) / world.size
        kept = torch.stack([self.task, self.term]).to(norms)
        self.task, self.term = kept.lerp(norms, 1 - self.decay).unbind()
        return self.weight

    @property
    def weight(self) -> Tensor:
        """The present weight, a scalar tensor without graph."""
        pulls = self.term > 0
        ratio = (self.rho * self.task / torch.where(pulls, self.term, 1.0)).clamp(*self.limits)
        return torch.where(pulls, ratio, self.rho).float()

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors for a checkpoint."""
        return {"task": self.task.clone(), "term": self.term.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a saved state; the next updates and weights are those of an unbroken run."""
        self.task, self.term = (state[name].clone() for name in ("task", "term"))
