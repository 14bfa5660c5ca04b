"""Learning-rate multipliers of the three schedules, as pure functions of the step."""

from collections.abc import Callable

from shared.optim import constant, warmup_cosine

STEP_EPOCHS, STEP_FACTOR = 50, 0.5  # scheduler step: half the rate every 50 epochs


def schedule_of(name: str, epochs: int) -> Callable[[int, int], float]:
    """(step, total steps) -> multiplier: none stays 1, cosine falls to 0, step halves every 50 epochs."""
    if name == "cosine":
        return lambda step, total: warmup_cosine(step, total, warmup=0.0)
    if name == "step":
        return lambda step, total: STEP_FACTOR ** (step * epochs // total // STEP_EPOCHS)
    return lambda step, total: constant(step, total)
