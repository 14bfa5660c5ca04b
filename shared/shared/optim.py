"""Optimisation: differential learning rates that keep their ratios, and one guarded step.

    groups = lr_groups(model, 1e-4, {"backbone.*": 0.1}, weight_decay=1e-4)
    optimizer = torch.optim.AdamW(groups)
    for step in range(total):
        apply_schedule(optimizer, warmup_cosine(step, total))
        result = optimizer_step(loss, model, optimizer, clip=1.0, world=world, step=step, terms=terms, sample_ids=ids)

A schedule is a pure function of the step and returns a multiplier; every group's rate is its own base rate times that
multiplier. (PyTorch's OneCycleLR and OpenPCDet's OneCycle write one rate into all groups and lose the ratios at the
first step.) `optimizer_step` checks loss and gradients on every rank before any weight moves.
"""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from .errors import ConfigError, NonFiniteError

if TYPE_CHECKING:
    from .run import World

log = logging.getLogger(__name__)
MAX_LISTED = 64  # sample ids in an error message


# --- learning-rate groups ---------------------------------------------------------------------------------------------


def lr_groups(
    model: nn.Module,
    base_lr: float,
    scale: Mapping[str, float],
    *,
    weight_decay: float = 0.0,
    decay_1d: bool = False,
) -> list[dict[str, Any]]:
    """Optimizer groups: each trainable parameter in exactly one, at `base_lr` times the scale of its pattern.

    scale: patterns (shell style, `*` also matches dots) on full parameter names; the first match wins, the rest get
        scale 1 in the group "rest". Frozen parameters are left out.
    decay_1d: whether biases and tensors of at most one dimension decay too (OpenPCDet's habit; by default they do not,
        and such groups carry the suffix " (no decay)").

    Each group has "name", "params", "lr", "base_lr" and "weight_decay". Raises ConfigError when a pattern matches
    nothing (naming the closest names), when earlier patterns leave it nothing, or for a rate that is not above zero.
    """
    _check_rates(base_lr, scale)
    names = [name for name, _ in model.named_parameters()]
    matched = {name: next((p for p in scale if fnmatchcase(name, p)), "rest") for name in names}
    for pattern in scale:
        _check_pattern(pattern, matched)
    groups: dict[str, dict[str, Any]] = {}
    for pattern in (*scale, "rest"):
        for name, parameter in model.named_parameters():
            if matched[name] == pattern and parameter.requires_grad:
                decays = decay_1d or not (parameter.ndim <= 1 or name.rpartition(".")[2] == "bias")
                group = _group(pattern, base_lr * scale.get(pattern, 1.0), weight_decay, decays)
                groups.setdefault(group["name"], group)["params"].append(parameter)
        if pattern != "rest" and not any(g.removesuffix(" (no decay)") == pattern for g in groups):
            log.warning("learning-rate pattern %r matches frozen parameters only and has no effect", pattern)
    if not groups:
        raise ConfigError(f"nothing to train: all {len(names)} parameters are frozen")
    return list(groups.values())


def describe_groups(groups: Sequence[Mapping[str, Any]]) -> str:
    """A table of the groups for the log: name, tensors, parameters, learning rate, weight decay."""
    rows = [("group", "tensors", "parameters", "lr", "decay")]
    for group in groups:
        count = sum(p.numel() for p in group["params"])
        rate, decay = f"{group['base_lr']:.3g}", f"{group['weight_decay']:.3g}"
        rows.append((group["name"], str(len(group["params"])), f"{count:,}", rate, decay))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join(
        f"{row[0]:<{widths[0]}}  " + "  ".join(f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
    )


def _group(pattern: str, lr: float, weight_decay: float, decays: bool) -> dict[str, Any]:
    name = pattern if decays or weight_decay == 0 else f"{pattern} (no decay)"
    return {"name": name, "params": [], "lr": lr, "base_lr": lr, "weight_decay": weight_decay if decays else 0.0}


def _check_rates(base_lr: float, scale: Mapping[str, float]) -> None:
    if not (0 < base_lr < math.inf):
        raise ConfigError(f"base learning rate {base_lr}: it must be a finite number above 0")
    for pattern, factor in scale.items():
        if not (0 < factor < math.inf):
            raise ConfigError(
                f"learning-rate scale {factor} for {pattern!r}: it must be a finite number above 0; to keep "
                "parameters from training, freeze them (requires_grad_(False)) instead"
            )


def _check_pattern(pattern: str, matched: Mapping[str, str]) -> None:
    if pattern in matched.values():
        return
    taken = sorted({matched[name] for name in matched if fnmatchcase(name, pattern)})
    if taken:
        raise ConfigError(
            f"learning-rate pattern {pattern!r} has no effect: earlier patterns ({', '.join(taken)}) take every "
            "parameter it matches; put it before them"
        )
    closest = difflib.get_close_matches(pattern, _pattern_candidates(matched), n=3, cutoff=0.4)
    top = sorted({name.partition(".")[0] for name in matched})
    hint = f"closest: {', '.join(closest)}" if closest else f"the model has: {', '.join(top)}"
    raise ConfigError(f"learning-rate pattern {pattern!r} matches no parameter; {hint}")


def _pattern_candidates(names: Mapping[str, str]) -> list[str]:
    """The parameter names themselves and `prefix.*` for each module that holds some."""
    parts = [name.split(".") for name in names]
    modules = {".".join(p[:n]) + ".*" for p in parts for n in range(1, len(p))}
    return [*sorted(modules), *names]


# --- schedules --------------------------------------------------------------------------------------------------------


class Multiplier(NamedTuple):
    """A learning-rate factor, with the first moment's decay where the schedule moves it too."""

    lr: float
    beta1: float | None = None


def constant(step: int, total: int, warmup: float = 0.0) -> float:
    """1 throughout, after a linear rise over the first `warmup` share of the `total` steps."""
    return _rise(step, _warmup_steps(step, total, warmup))


def warmup_cosine(step: int, total: int, warmup: float = 0.05, final: float = 0.0) -> float:
    """Linear rise to 1 over the first `warmup` share of the steps, then half a cosine down to `final` at step `total`.

    step: 0 .. total (the last step taken is total - 1, so it still moves the weights). Raises ValueError outside.
    """
    rising = _warmup_steps(step, total, warmup)
    if step < rising:
        return _rise(step, rising)
    return _cosine(1.0, final, (step - rising) / (total - rising))


def one_cycle(
    step: int,
    total: int,
    *,
    rise: float = 0.4,
    start_divisor: float = 10.0,
    final_divisor: float = 1e4,
    momentum: tuple[float, float] = (0.95, 0.85),
) -> Multiplier:
    """OpenPCDet's adam_onecycle (after fastai): cosine up over the first `rise` share, then cosine down.

    The multiplier goes 1/start_divisor -> 1 -> 1/(start_divisor * final_divisor), beta1 the opposite way between the
    two values of `momentum`. step: 0 .. total. Raises ValueError outside.
    """
    _check_step(step, total)
    if not 0 <= rise < 1:
        raise ValueError(f"rise {rise} is a share of all steps: it must be at least 0 and below 1")
    peak = int(total * rise)
    low, (high_beta, low_beta) = 1.0 / start_divisor, momentum
    if step < peak:
        share = step / peak
        return Multiplier(_cosine(low, 1.0, share), _cosine(high_beta, low_beta, share))
    share = (step - peak) / (total - peak)
    return Multiplier(_cosine(1.0, low / final_divisor, share), _cosine(low_beta, high_beta, share))


def apply_schedule(optimizer: torch.optim.Optimizer, multiplier: float | Multiplier) -> None:
    """Set each group's rate to its own base rate times the multiplier (and beta1, or SGD's momentum, when given)."""
    factor, beta1 = multiplier if isinstance(multiplier, Multiplier) else (multiplier, None)
    for group in optimizer.param_groups:
        if "base_lr" not in group:
            raise ValueError("a parameter group has no 'base_lr'; make the groups with lr_groups()")
        group["lr"] = group["base_lr"] * factor
        if beta1 is not None and "betas" in group:
            group["betas"] = (beta1, *group["betas"][1:])
        elif beta1 is not None:
            group["momentum"] = beta1


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _rise(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / steps) if steps else 1.0


def _warmup_steps(step: int, total: int, warmup: float) -> int:
    _check_step(step, total)
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup {warmup} is a share of all steps: it must be at least 0 and below 1")
    return int(total * warmup)


def _check_step(step: int, total: int) -> None:
    if total < 1 or not 0 <= step <= total:
        raise ValueError(f"step {step} of {total}: a schedule is defined for steps 0 .. total, total at least 1")


# --- the step ---------------------------------------------------------------------------------------------------------


class StepResult(NamedTuple):
    """grad_norm: gradient norm before clipping (mean over ranks); stop: whether any rank was asked to stop."""

    grad_norm: float
    stop: bool


def accumulate(loss: Tensor, parts: int) -> Tensor:
    """Backward pass of one of `parts` equal micro-batches: adds the gradient of loss / parts.

    Returns the detached loss; stack those of one step and hand them to `optimizer_step(..., backward=False)`:

        losses = torch.stack([accumulate(criterion(part), len(parts)) for part in parts])
        result = optimizer_step(losses, model, optimizer, ..., backward=False)
    """
    (loss / parts).backward()
    return loss.detach()


def optimizer_step(
    loss: Tensor,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    clip: float | None,
    world: World,
    step: int,
    terms: Mapping[str, Tensor],
    sample_ids: Sequence[str],
    backward: bool = True,
    stop: bool = False,
) -> StepResult:
    """Backward, finite check on all ranks, gradient clipping, optimizer step, gradients cleared.

    loss: scalar; with backward=False the detached losses of the micro-batches already passed through `accumulate`.
    clip: largest gradient norm (None: no clipping). terms, sample_ids: named in the error, not read otherwise.
    stop: this rank was asked to end; the result says whether any rank was, so that all end after the same step.

    The one host read of the step is of the all-reduced (stop, gradient norm, non-finite flag per rank). If any rank's
    loss or gradient is not finite, every rank raises NonFiniteError before its optimizer step: weights, moments and
    buffers of the optimizer stay those of the last good step.
    """
    if clip is not None and not clip > 0:
        raise ValueError(f"clip {clip}: the largest gradient norm must be above 0, or None for no clipping")
    if backward:
        loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients).to(loss.device)
    bad_ranks, mean_norm, stops = _agree(loss, norm, world, stop)
    if bad_ranks:
        message = _non_finite_message(step, bad_ranks, world, loss, norm, terms, model, sample_ids)
        optimizer.zero_grad(set_to_none=True)
        raise NonFiniteError(message)
    if clip is not None:
        nn.utils.clip_grads_with_norm_(parameters, clip, norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepResult(mean_norm, stops)


def _agree(loss: Tensor, norm: Tensor, world: World, stop: bool) -> tuple[list[int], float, bool]:
    """Ranks with a non-finite loss or gradient, the mean gradient norm, and whether any rank wants to stop."""
    bad = ~(torch.isfinite(loss.detach()).all() & torch.isfinite(norm))
    flags = torch.zeros(2 + world.size, dtype=torch.float64, device=loss.device)
    flags[0] = float(stop)
    flags[1] = norm / world.size
    flags[2 + world.rank] = bad
    stops, mean_norm, *bad_by_rank = world.sum(flags).tolist()
    return [rank for rank, flag in enumerate(bad_by_rank) if flag], mean_norm, stops > 0


def _non_finite_message(
    step: int,
    bad_ranks: Sequence[int],
    world: World,
    loss: Tensor,
    norm: Tensor,
    terms: Mapping[str, Tensor],
    model: nn.Module,
    sample_ids: Sequence[str],
) -> str:
    poisoned = [n for n, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    where = f" on rank {', '.join(map(str, bad_ranks))}" if world.size > 1 else ""
    parts = [
        f"step {step}: loss or gradient is not finite{where}; stopped before the optimizer step, weights are unchanged",
        f"loss {_number(loss)}, gradient norm {_number(norm)}"
        + "".join(f", {name} {_number(value)}" for name, value in terms.items()),
    ]
    if poisoned:
        parts.append(f"non-finite gradients in {len(poisoned)} tensors: {', '.join(poisoned[:5])}")
    more = f" and {len(sample_ids) - MAX_LISTED} more" if len(sample_ids) > MAX_LISTED else ""
    samples = ", ".join(map(str, sample_ids[:MAX_LISTED])) + more
    parts.append(f"samples of {'this' if world.rank in bad_ranks else 'this (healthy)'} rank: {samples}")
    parts.append("look at these samples; otherwise lower the learning rate or the clip")
    return "\n  ".join(parts)


def _number(value: Any) -> str:
    if isinstance(value, Tensor):
        value = value.detach().tolist()
    return f"{value:.6g}" if isinstance(value, float) else str(value)
