"""What a world is made of: how many sequences and frames, which sensor, and the seed everything follows from."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields

from shared.errors import ConfigError

GENERATOR_VERSION = 1  # raise it with every change of the files a spec produces
CLASSES = ("dumptruck", "excavator", "grader", "roller")  # label ids 1..4
SPLITS = ("train", "val", "unlabelled")  # a sequence belongs to one of them
BUDGETS_PERCENT = (5, 20)  # of the train sequences; files ImageSets/train_<percent>_<draw>.txt
BUDGET_DRAWS = 5  # different draws of sequences for each budget
LEAST = {"train_sequences": 1, "val_sequences": 1, "frames": 1, "beams": 8, "columns": 90, "reach_m": 12.0}


@dataclass(frozen=True)
class Sequence:
    """One drive over one site; `number` counts within its split."""

    split: str
    number: int

    @property
    def name(self) -> str:
        return f"{self.split}{self.number:03d}"

    def frame_id(self, index: int) -> str:
        return f"{self.name}_{index:02d}"


@dataclass(frozen=True)
class WorldSpec:
    """Size and seed of one world; equal specs give equal folders, whatever the number of workers.

    seed: every sequence draws from (seed, split, number) alone.
    train_sequences, val_sequences: labelled drives, each over a site of its own. unlabelled_sequences: without labels.
    frames: of a sequence. beams, columns: of the sensor (+2 deg down to -25 deg, once round).
    machines: mean number on a site. reach_m: machines stand nearer than this to the drive.
    intensity: a fourth value in every point, 0..1.
    odd_frames: machine-free sites, cropped frames, and one frame without any point in train.

    Raises ConfigError for values out of bounds.
    """

    seed: int = 0
    train_sequences: int = 40
    val_sequences: int = 16
    unlabelled_sequences: int = 4
    frames: int = 5
    beams: int = 64
    columns: int = 1800
    machines: float = 5.0
    reach_m: float = 45.0
    intensity: bool = False
    odd_frames: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), LEAST.get(field.name, 0)
            if not value >= least:
                raise ConfigError(f"world: {field.name} is {value}; it must be at least {least}")
        if self.beams > 128 or self.columns > 4000 or self.reach_m > 70 or self.machines > 20:
            raise ConfigError(
                f"world: beams {self.beams}, columns {self.columns}, reach_m {self.reach_m}, machines {self.machines}; "
                "at most 128, 4000, 70 and 20"
            )

    def sequences(self) -> Iterator[Sequence]:
        """All drives, split by split."""
        for split in SPLITS:
            yield from (Sequence(split, number) for number in range(getattr(self, f"{split}_sequences")))

    def as_json(self) -> dict:
        return asdict(self)

    def fingerprint(self) -> str:
        """Eight hex digits that follow from the spec and the generator's version."""
        text = json.dumps([GENERATOR_VERSION, self.as_json()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]
