"""The learning rate of a resumed run is the config's, not the checkpoint's.

MMEngine restores its schedulers' `end` and `milestones` from the checkpoint, so that a config changed for a longer run
changes nothing. Here schedulers are built anew from the config and *replayed* to the position: the same floating-point
operations in the same order as in a run that was never cut, hence the same rate bit by bit when nothing was changed,
and the changed config's rate otherwise.
"""

from collections.abc import Mapping, Sequence
from typing import Any

TABLES = ("params",)  # of a parameter group: not settings


def settings_of(optimizer: Any) -> list[dict[str, Any]]:
    """The parameter groups' settings (lr, initial_lr, weight_decay, ...) without their parameters."""
    return [{key: value for key, value in group.items() if key not in TABLES} for group in optimizer.param_groups]


def apply_settings(optimizer: Any, settings: Sequence[Mapping[str, Any]]) -> None:
    """Put settings that `settings_of` returned back over what a checkpoint restored."""
    for group, wanted in zip(optimizer.param_groups, settings, strict=True):
        group.update(wanted)


def replay(schedulers: Sequence[Any], optimizer: Any, *, epochs: int, iterations: int, epoch_length: int) -> None:
    """Step freshly built schedulers to a position, in the order in which training steps them.

    epochs, iterations: done so far; epoch_length: iterations of an epoch. The optimizer's groups are at the rates that
    building the schedulers left.
    """
    optimizer._global_step = 0  # the schedulers warn when they are stepped before the optimizer was
    for iteration in range(1, iterations + 1):
        for scheduler in schedulers:
            if not scheduler.by_epoch:
                scheduler.step()
        if iteration % epoch_length == 0 and iteration // epoch_length <= epochs:
            for scheduler in schedulers:
                if scheduler.by_epoch:
                    scheduler.step()


def differences(old: Sequence[Mapping], new: Sequence[Mapping]) -> list[str]:
    """`lr: 0.002 -> 0.02` for every setting of the first group that the config changed since the checkpoint."""
    if not old or not new:
        return []
    return [f"{key}: {old[0][key]} -> {new[0][key]}" for key in new[0] if key in old[0] and old[0][key] != new[0][key]]


def warmup_warning(schedulers: Sequence[Any], iterations: int) -> str | None:
    """What to say when a warm-up by iterations is not over when the run is; None when it is."""
    ends = [one.end for one in schedulers if not one.by_epoch and type(one).__name__.startswith(("Linear", "Constant"))]
    if not ends or max(ends) <= iterations:
        return None
    return (
        f"the warm-up takes {max(ends)} iterations and the whole run has {iterations}: the learning rate never reaches "
        "its value. Shorten it (param_scheduler.0.end), or train longer."
    )
