"""What is compared: the arms, the seeds, and what is fixed before the test split is looked at.

    plan = read_plan(Path("config/experiments.yaml"))
    for piece in plan.pieces(): settings = plan.settings_of(piece, output_dir)

An arm is a training as the ordinary scripts run it: `settings` hold what all arms share, an arm's own come on top. A
piece is one arm under one seed; its experiment name says which, so a finished one is found again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from shared.config import Schema, load_config

from .checkpoints import BEST
from .config import PACKAGE_ROOT, Count, Kind, Settings, resolve
from .controls import AUDIO_CONTROLS

DEFAULT_PLAN = PACKAGE_ROOT / "config" / "experiments.yaml"
QUICK_PLAN = PACKAGE_ROOT / "config" / "experiments_quick.yaml"
DEPTH_ARM, FULL_ARM = "kd_depth", "kd_full"  # the arms of gain1 and gain2
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]{0,30}$")]


class Arm(Schema):
    """One training: its kind, and its settings over the shared ones."""

    kind: Kind
    title: str
    settings: dict[str, Any] = Field(default_factory=dict)


class Plan(Schema):
    """A comparison. `chosen`, `metric` and `protocol` are what the claim is about, and are fixed before the test."""

    name: Name
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    settings: dict[str, Any]
    arms: dict[Name, Arm]
    chosen: Name | None  # the distillation arm of the claim; null: say which one validation prefers, and stop
    metric: Literal["rmse", "mae", "abs_rel", "log10"] = "rmse"
    protocol: Literal["strict", "min05", "official"] = "strict"
    controls: tuple[Literal[AUDIO_CONTROLS], ...] = AUDIO_CONTROLS
    curve_samples: tuple[Count, ...] = ()  # further sizes of the training set, tried when the interval includes 0
    batch_size: Count = 16  # of evaluations

    @model_validator(mode="after")
    def _roles(self):
        for kind in ("rgb", "audio"):
            if (found := sum(arm.kind == kind for arm in self.arms.values())) != 1:
                raise ValueError(f"arms: {found} of kind {kind}; the comparison needs exactly one")
        if not self.taught:
            raise ValueError("arms: none of kind distillation; there is nothing to compare with audio alone")
        if self.chosen is not None and self.chosen not in self.taught:
            raise ValueError(f"chosen {self.chosen!r} is no distillation arm; choose from {', '.join(self.taught)}")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)}: each one once")
        return self

    @property
    def teacher(self) -> str:
        return self._of_kind("rgb")[0]

    @property
    def baseline(self) -> str:
        return self._of_kind("audio")[0]

    @property
    def taught(self) -> tuple[str, ...]:
        return self._of_kind("distillation")

    def _of_kind(self, kind: str) -> tuple[str, ...]:
        return tuple(name for name, arm in self.arms.items() if arm.kind == kind)

    def pieces(self) -> list["Piece"]:
        """Every training of the comparison, seed by seed, teachers before those they teach."""
        return [Piece(arm, seed) for seed in self.seeds for arm in (self.teacher, self.baseline, *self.taught)]

    def curve_pieces(self) -> list["Piece"]:
        """The trainings of the data-size curve: teacher, audio alone and the chosen arm on fewer samples."""
        arms = (self.teacher, self.baseline, *((self.chosen,) if self.chosen else ()))
        return [Piece(arm, seed, size) for size in self.curve_samples for seed in self.seeds for arm in arms]

    def settings_of(self, piece: "Piece", output_dir: Path) -> Settings:
        """The settings of a piece. ConfigError that lists every wrong one.

        A smaller training set gets as many more epochs, so that every size takes about the same number of steps; a
        student is taught by the teacher of its own seed and size.
        """
        arm = self.arms[piece.arm]
        given = _laid_over(self.settings, arm.settings)
        overrides = [f"{section}={json.dumps(value)}" for section, value in given.items()]
        own = {
            "training.seed": piece.seed,
            "experiment_name": piece.experiment(self.name),
            "output_dir": str(output_dir),
        }
        if arm.kind == "distillation":
            teacher = Piece(self.teacher, piece.seed, piece.samples)
            own["distillation.teacher"] = str(output_dir / "checkpoints" / teacher.experiment(self.name) / BEST)
        overrides += [f"{key}={json.dumps(value)}" for key, value in own.items()]
        whole = resolve(arm.kind, overrides=overrides)
        return whole if piece.samples is None else resolve(arm.kind, overrides=[*overrides, *_smaller(whole, piece)])


def _smaller(whole: Settings, piece: "Piece") -> list[str]:
    full = whole.data.train_samples or (whole.data.embedded.train if whole.data.dir is None else piece.samples)
    epochs = max(1, round(whole.training.nb_epochs * full / piece.samples))
    return [f"data.train_samples={piece.samples}", f"training.nb_epochs={epochs}"]


def _laid_over(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key, everything else is replaced."""
    both = dict(base)
    for key, value in top.items():
        old = both.get(key)
        both[key] = _laid_over(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return both


@dataclass(frozen=True)
class Piece:
    """One training. samples: size of the training set where it is not the whole."""

    arm: str
    seed: int
    samples: int | None = None

    @property
    def name(self) -> str:
        size = f"-n{self.samples}" if self.samples is not None else ""
        return f"{self.arm}{size}-seed{self.seed}"

    def experiment(self, plan: str) -> str:
        """Its experiment name, which is its folder below checkpoints/, logs/ and results/."""
        return f"{plan}-{self.name}"


def read_plan(path: Path) -> Plan:
    """A plan from YAML. ConfigError that lists every wrong entry, those of the arms' settings included."""
    plan = load_config(Plan, [path])
    for piece in plan.pieces()[: len(plan.arms)]:
        plan.settings_of(piece, Path())
    return plan
