"""A slower line than the one there is: for planning what a rate costs before a radio is bought."""

from dataclasses import dataclass

from shared.errors import ConfigError


@dataclass
class Link:
    """A line of so many megabits a second that carries one thing after another; None: no limit.

    Raises ConfigError unless the bandwidth is above 0.
    """

    mbit_per_s: float | None = None
    free_at_s: float = 0.0

    def __post_init__(self) -> None:
        if self.mbit_per_s is not None and not self.mbit_per_s > 0:
            raise ConfigError(f"a bandwidth of {self.mbit_per_s} Mbit/s carries nothing; give a number above 0.")

    def arrival_s(self, size_bytes: int, now_s: float) -> float:
        """When something handed over now is through, in the clock of `now_s`; the line is taken until then."""
        if self.mbit_per_s is None:
            return now_s
        self.free_at_s = max(now_s, self.free_at_s) + size_bytes * 8 / (self.mbit_per_s * 1e6)
        return self.free_at_s
