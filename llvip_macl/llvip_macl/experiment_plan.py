"""What is compared: arms, seeds and questions, fixed before anything is trained.

    plan = read_plan(Path("configs/experiments/default.yaml"))
    for piece in plan.pieces(): ...

A piece is one training under one seed: an ordinary run of tools/train.py. Nothing is selected on the test scenes: the
last epoch is judged, and every question stands in the plan.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from shared.config import Schema, load_config

PACKAGE_ROOT = Path(__file__).parents[1]
PLANS = PACKAGE_ROOT / "configs/experiments"
DEFAULT_PLAN, QUICK_PLAN = PLANS / "default.yaml", PLANS / "quick.yaml"
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]{0,30}$")]


class Training(Schema):
    """One way to train: a config of this package and options over it, as KEY=VALUE of --cfg-options."""

    title: str
    config: str
    options: tuple[str, ...] = ()


class Arm(Training):
    """A training that is judged."""

    start: Name | None = None  # the pretraining whose weights it begins with


class Comparison(Schema):
    """arm minus against, and the question that answers."""

    arm: Name
    against: Name
    question: str


class Plan(Schema):
    """A comparison of arms under several seeds."""

    name: Name
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    options: tuple[str, ...] = ()  # of all trainings
    pretrainings: dict[Name, Training] = Field(default_factory=dict)
    arms: dict[Name, Arm]
    comparisons: dict[Name, Comparison]
    draws: Annotated[int, Field(ge=20)] = 1000  # of the bootstrap

    @model_validator(mode="after")
    def _consistent(self):
        problems = [f"arms: {name} starts from {arm.start!r}, which is no pretraining"
                    for name, arm in self.arms.items()
                    if arm.start is not None and arm.start not in self.pretrainings]  # fmt: skip
        problems += [f"comparisons: {name} names {arm!r}, which is no arm" for name, one in self.comparisons.items()
                     for arm in (one.arm, one.against) if arm not in self.arms]  # fmt: skip
        problems += [f"{name} is both a pretraining and an arm" for name in self.arms.keys() & self.pretrainings.keys()]
        problems += [f"config {one.config} does not exist" for one in self.trainings().values()
                     if not (PACKAGE_ROOT / one.config).is_file()]  # fmt: skip
        if len(set(self.seeds)) != len(self.seeds):
            problems.append(f"seeds {list(self.seeds)}: each one once")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def trainings(self) -> dict[str, Training]:
        """Pretrainings that an arm needs, and the arms."""
        used = {arm.start for arm in self.arms.values()}
        return {name: one for name, one in self.pretrainings.items() if name in used} | dict(self.arms)

    def pieces(self) -> list["Piece"]:
        """Every training, seed by seed, pretrainings before those that start from them."""
        return [Piece(name, seed) for seed in self.seeds for name in self.trainings()]

    def options_of(self, piece: "Piece", start: Path | None = None) -> list[str]:
        """KEY=VALUE of a piece, the weights it begins with among them."""
        options = [*self.options, *self.trainings()[piece.name].options, f"randomness.seed={piece.seed}"]
        return [*options, f"load_from={start}"] if start else options

    def config_of(self, name: str) -> Path:
        return PACKAGE_ROOT / self.trainings()[name].config


@dataclass(frozen=True)
class Piece:
    """One training under one seed."""

    name: str
    seed: int

    @property
    def tag(self) -> str:
        return f"{self.name}-seed{self.seed}"


def read_plan(path: Path) -> Plan:
    """The plan of a file. ConfigError: unknown keys, wrong values, arms that do not exist."""
    return load_config(Plan, [path])
