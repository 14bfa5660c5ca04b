"""The plan of a run: which book grows to which size, for how long, and what the files are called.

    codebook 0: 16 -> 32 -> 64 -> 128 -> 256, then codebook 1 behind it, ... : 5 x 5 = 25 stages

A stage trains the rows that its size adds to its book, and nothing else. It is judged at n = the books so far, with all
of them at its size. Legacy mode is one stage that trains all books at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .config import RqConfig

LEGACY = "legacy"


@dataclass(frozen=True)
class Stage:
    """number: place in the run, from 0. codebook, step: the numbers in file names, from 0. size: rows of the book at
    the end. books: the ones it trains. epochs: with the warm-up; epochs count from 1 in file names."""

    number: int
    codebook: int
    step: int
    size: int
    books: tuple[int, ...]
    epochs: int
    warmup: int

    @property
    def legacy(self) -> bool:
        return len(self.books) > 1 or self.step < 0

    @property
    def name(self) -> str:
        """Of its files, its folder for resuming, and its lines in metrics.jsonl."""
        return LEGACY if self.legacy else f"codebook_{self.codebook}_stage_{self.step}"

    @property
    def n(self) -> int:
        """Books it is judged with."""
        return max(self.books) + 1


def stages_of(config: RqConfig) -> list[Stage]:
    """The stages of a run, in order."""
    progressive, books = config.progressive_learning, config.model.n_codebook
    if not progressive.enabled:
        warmup = min(progressive.warmup_epochs, config.training.max_epoch)
        return [Stage(0, books - 1, -1, config.rq_model.codebook_size, tuple(range(books)),
                      config.training.max_epoch, warmup)]  # fmt: skip
    schedule = progressive.embedding_schedule
    epochs = _epochs(config, books * len(schedule))
    return [
        Stage(
            number=(number := book * len(schedule) + step),
            codebook=book,
            step=step,
            size=size,
            books=(book,),
            epochs=epochs[number],
            warmup=min(progressive.warmup_epochs, epochs[number]),
        )
        for book in range(books)
        for step, size in enumerate(schedule)
    ]


def schedule_of(config: RqConfig) -> tuple[int, ...]:
    """Sizes that the books of a run go through."""
    progressive = config.progressive_learning
    return progressive.embedding_schedule if progressive.enabled else (config.rq_model.codebook_size,)


def _epochs(config: RqConfig, stages: int) -> list[int]:
    """Epochs of each stage: embedding_stage_epochs, or max_epoch spread evenly (the first stages take the rest)."""
    if not config.progressive_learning.split_max_epoch:
        return [config.progressive_learning.embedding_stage_epochs] * stages
    each, more = divmod(config.training.max_epoch, stages)
    return [max(1, each + (number < more)) for number in range(stages)]


def describe(stages: Sequence[Stage]) -> str:
    """The plan, as it is printed."""
    first, total = stages[0], sum(stage.epochs for stage in stages)
    if first.legacy:
        return f"legacy: {first.n} codebooks of {first.size} rows trained jointly for {total} epochs"
    sizes = " -> ".join(str(stage.size) for stage in stages if stage.codebook == 0)
    books = stages[-1].codebook + 1
    lengths = sorted({stage.epochs for stage in stages})
    each = f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]}-{lengths[-1]}"
    return (
        f"{books} codebook(s), each {sizes}: {len(stages)} stages of {each} epochs ({first.warmup} of warm-up), "
        f"{total} epochs at most"
    )


# --- names of the contract --------------------------------------------------------------------------------------------

GLOBAL_BEST, FINAL = "global_best.pth", "final.pth"


def epoch_file(stage: Stage, epoch: int) -> str:
    """epoch: from 1."""
    return f"{stage.name}_epoch_{epoch}.pth"


def best_file(stage: Stage) -> str:
    return f"{stage.name}_best.pth"


def final_file(stage: Stage) -> str:
    return f"{stage.name}_final.pth"


# --- patience ---------------------------------------------------------------------------------------------------------


@dataclass
class Watch:
    """Scores of a stage's epochs so far. factor: of the learning rate. waited, stale: epochs since the best one, and
    since the best one or the last fall of the rate; both count after the warm-up only."""

    best: float | None = None
    factor: float = 1.0
    waited: int = 0
    stale: int = 0

    def update(self, value: float, *, warm: bool, patience: int, lr_factor: float) -> bool:
        """Take in an epoch's score (higher is better); whether it is the best so far."""
        improved = self.best is None or value > self.best
        if improved:
            self.best, self.waited, self.stale = value, 0, 0
        elif warm:
            self.waited, self.stale = self.waited + 1, self.stale + 1
            if self.stale >= patience:
                self.factor, self.stale = self.factor * lr_factor, 0
        return improved


@dataclass
class GlobalBest:
    """The best score of the run and its fixed-length bits a pillar; ties go to fewer bits."""

    value: float | None = None
    bits: int = 0
    n: int = 0
    k: int = 0

    def update(self, value: float, bits: int, n: int, k: int) -> bool:
        """Whether (value, bits) beats what is there, which it then replaces."""
        if self.value is not None and (value, -bits) <= (self.value, -self.bits):
            return False
        self.value, self.bits, self.n, self.k = value, bits, n, k
        return True
