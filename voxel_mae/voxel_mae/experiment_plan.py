"""What is compared: pretrainings, label budgets, arms, seeds, and the questions, fixed before anything is trained.

    plan = read_plan(Path("experiments/default.yaml"))
    for piece in plan.pieces(): ...

A piece is one training under one seed: a pretraining (unlabelled frames), or a fine-tuning of an arm on a label budget.
Each is an ordinary run of tools/train_rmae_cmae_phase1.py or tools/train.py with the arguments given here. Nothing is
selected on the validation split: the last epoch is judged, and every question stands in the plan.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from shared.config import Schema, load_config, merged
from shared.errors import ConfigError

from .config import CLASSES, PACKAGE_ROOT
from .world.spec import BUDGET_DRAWS, WorldSpec

PLANS = PACKAGE_ROOT / "experiments"
DEFAULT_PLAN, QUICK_PLAN = PLANS / "default.yaml", PLANS / "quick.yaml"
PRETRAIN, TRAIN = "train_rmae_cmae_phase1.py", "train.py"
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]{0,30}$")]
Count = Annotated[int, Field(ge=1)]
Iou = Annotated[float, Field(gt=0, le=1)]


class Pretraining(Schema):
    """One way to pretrain: settings over the plan's pretraining file."""

    title: str
    cfg_file: str | None = None  # null: the plan's
    settings: dict[str, Any] = Field(default_factory=dict)


class Budget(Schema):
    """How many labels: the split of the train frames that may be read with them."""

    percent: Annotated[float, Field(gt=0, le=100)]
    split: str  # "{draw}" becomes the seed's draw of sequences
    epochs: Count

    def described(self) -> str:
        return f"{self.percent:g} %, {self.epochs} epochs"


class Arm(Schema):
    """One way to come to a detector."""

    title: str
    pretraining: Name | None  # null: from random weights
    settings: dict[str, Any] = Field(default_factory=dict)  # over the plan's fine-tuning file
    budgets: tuple[Name, ...] | None = None  # null: all


class Comparison(Schema):
    """arm minus against, and the question it answers."""

    arm: Name
    against: Name
    budget: Name
    against_budget: Name | None = None  # null: the same
    question: str

    @property
    def sides(self) -> tuple[tuple[Name, Name], tuple[Name, Name]]:
        """(arm, budget) of either side, the arm's first."""
        return (self.arm, self.budget), (self.against, self.against_budget or self.budget)


class Plan(Schema):
    """A comparison. Settings are dotted keys of the configuration files and their values, as for --set."""

    name: Name
    over: str | None = None  # the file, counted from this one, that the plan is laid over
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    world: dict[str, Any] = Field(default_factory=dict)  # fields of world.WorldSpec
    data_path: str | None = None  # a data root instead of the embedded world
    pretrain_cfg: str
    finetune_cfg: str
    pretrain_epochs: Count
    pretrain_split: str = "pretrain"
    batch_size: Count
    workers: Annotated[int, Field(ge=0)] = 2
    device: str = "cpu"
    settings: dict[str, Any] = Field(default_factory=dict)  # of all trainings
    pretrainings: dict[Name, Pretraining]
    budgets: dict[Name, Budget]
    arms: dict[Name, Arm]
    comparisons: dict[Name, Comparison]
    iou: dict[str, Iou] = Field(default_factory=lambda: dict.fromkeys(CLASSES, 0.5))
    metric: Literal["3d", "bev"] = "3d"
    draws: Annotated[int, Field(ge=20)] = 1000  # of the bootstrap

    @model_validator(mode="after")
    def _consistent(self):
        problems = [f"arms: {name} starts from pretraining {arm.pretraining!r}, which is not there"
                    for name, arm in self.arms.items()
                    if arm.pretraining is not None and arm.pretraining not in self.pretrainings]  # fmt: skip
        problems += [f"arms: {name} names budget {one!r}, which is not there" for name, arm in self.arms.items()
                     for one in arm.budgets or () if one not in self.budgets]  # fmt: skip
        trained = {(arm, budget) for arm in self.arms for budget in self.budgets_of(arm)}
        problems += [f"comparisons: {name} needs {arm} trained on {budget}" for name, one in self.comparisons.items()
                     for arm, budget in one.sides if (arm, budget) not in trained]  # fmt: skip
        if len(set(self.seeds)) != len(self.seeds):
            problems.append(f"seeds {list(self.seeds)}: each one once")
        if set(self.iou) != set(CLASSES):
            problems.append(f"iou: one value for each of {', '.join(CLASSES)}, given {', '.join(self.iou)}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def budgets_of(self, arm: str) -> tuple[str, ...]:
        return self.arms[arm].budgets or tuple(self.budgets)

    def titles(self, one: Comparison) -> tuple[str, str]:
        """Of both sides of a comparison; with their labels where each has its own."""
        (arm, labels), (against, others) = (
            (self.arms[name].title, self.budgets[budget].described()) for name, budget in one.sides
        )
        return (f"{arm} ({labels})", f"{against} ({others})") if one.against_budget else (arm, against)

    @property
    def needed_pretrainings(self) -> tuple[str, ...]:
        """Those an arm starts from, in the plan's order."""
        used = {arm.pretraining for arm in self.arms.values()}
        return tuple(name for name in self.pretrainings if name in used)

    def pieces(self) -> list["Piece"]:
        """Every training, seed by seed, pretrainings before those that start from them."""
        found = []
        for seed in self.seeds:
            found += [Piece(name, None, seed) for name in self.needed_pretrainings]
            found += [Piece(arm, budget, seed) for arm in self.arms for budget in self.budgets_of(arm)]
        return found


@dataclass(frozen=True)
class Piece:
    """One training; budget None: `name` is a pretraining, else an arm."""

    name: str
    budget: str | None
    seed: int

    @property
    def program(self) -> str:
        return PRETRAIN if self.budget is None else TRAIN

    @property
    def tag(self) -> str:
        """Its folder's name; a finished one is found again by it."""
        return "-".join(part for part in ("pre" if self.budget is None else self.budget, self.name, f"seed{self.seed}"))


def arguments(plan: Plan, piece: Piece, output_dir: Path, weights: Path | None = None) -> list[str]:
    """The command line of a piece, after the program's name. weights: the pretrained checkpoint it starts from."""
    start = ["--cfg_file", cfg_file(plan, piece), "--extra_tag", f"{plan.name}-{piece.tag}", "--seed", str(piece.seed)]
    start += ["--batch_size", str(plan.batch_size), "--epochs", str(epochs(plan, piece)), "--workers",
              str(plan.workers), "--device", plan.device, "--output_dir", str(output_dir)]  # fmt: skip
    if weights is not None:
        start += ["--pretrained_model", str(weights)]
    keep = ["--ckpt_save_interval", str(epochs(plan, piece)), "--max_ckpt_save_num", "1"]
    pairs = [part for key, value in settings_of(plan, piece).items() for part in (key, as_text(value))]
    return [*start, *keep, "--set", *pairs]


def cfg_file(plan: Plan, piece: Piece) -> str:
    if piece.budget is not None:
        return plan.finetune_cfg
    return plan.pretrainings[piece.name].cfg_file or plan.pretrain_cfg


def epochs(plan: Plan, piece: Piece) -> int:
    return plan.pretrain_epochs if piece.budget is None else plan.budgets[piece.budget].epochs


def settings_of(plan: Plan, piece: Piece) -> dict[str, Any]:
    """Dotted key -> value: data, then what all share, then the piece's own."""
    data = {"DATA_CONFIG.DATA_PATH": plan.data_path} if plan.data_path else {"DATA_CONFIG.EMBEDDED_WORLD": plan.world}
    if piece.budget is None:
        own: Mapping[str, Any] = plan.pretrainings[piece.name].settings
        split = plan.pretrain_split
    else:
        own = plan.arms[piece.name].settings
        split = plan.budgets[piece.budget].split.format(draw=piece.seed % BUDGET_DRAWS)
    return {**data, "DATA_CONFIG.DATA_SPLIT.train": split, **plan.settings, **own}


def as_text(value: Any) -> str:
    """A value as --set takes it (YAML): mappings and lists in braces and brackets."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {as_text(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(as_text, value)) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def read_plan(path: Path) -> Plan:
    """A plan from YAML, laid over the file it names. ConfigError that lists every wrong entry, the world's included."""
    plan = load_config(Plan, _layers(path))
    try:
        WorldSpec(**plan.world)
    except TypeError as error:
        raise ConfigError(f"{path}: world: {error}") from None
    return plan


def _layers(path: Path) -> list[Path]:
    """The files that a plan consists of, the lowest first."""
    layers = [path]
    while isinstance(over := merged(layers[:1]).get("over"), str):
        layers.insert(0, layers[0].parent / over)
        if layers[0].resolve() in {layer.resolve() for layer in layers[1:]}:
            raise ConfigError(f"{path}: over: {layers[0]} is laid over itself")
    return layers
