"""What a world is made of: how many frames, how many objects, how far, and the seed everything follows from."""

from dataclasses import asdict, dataclass, fields

from shared.errors import ConfigError

GENERATOR_VERSION = 1  # raise it with every change of the files a spec produces
SPLITS = ("train", "val", "test")
FARTHEST_M = 70.0  # of the published grid


@dataclass(frozen=True)
class WorldSpec:
    """Size and seed of one world; equal specs give byte-equal folders, whatever the number of workers.

    seed: every frame draws from (seed, split, number) alone.
    train_frames, val_frames: labelled frames, each a place of its own. test_frames: unlabelled ones, in testing/.
    cars, pedestrians, cyclists: mean number of each in the field of view of a frame.
    max_range_m: labelled objects stand nearer than this; farther ones become DontCare regions.
    max_side_m: and not farther to a side than this (a grid may be narrower than the field of view).

    Raises ConfigError for values out of bounds.
    """

    seed: int = 0
    train_frames: int = 250
    val_frames: int = 60
    test_frames: int = 4
    cars: float = 5.0
    pedestrians: float = 3.0
    cyclists: float = 2.5
    max_range_m: float = 40.0
    max_side_m: float = 19.0

    def __post_init__(self):
        for field in fields(self):
            value, least = getattr(self, field.name), 1 if field.name in ("train_frames", "val_frames") else 0
            if not value >= least:
                raise ConfigError(f"world: {field.name} is {value}; it must be at least {least}")
        if not 10 <= self.max_range_m <= FARTHEST_M or not self.max_side_m >= 5:
            raise ConfigError(
                f"world: max_range_m {self.max_range_m} must lie in 10..{FARTHEST_M:.0f}, max_side_m {self.max_side_m} "
                "be at least 5"
            )

    def frames(self, split: str) -> int:
        return {"train": self.train_frames, "val": self.val_frames, "test": self.test_frames}[split]

    def as_json(self) -> dict:
        return asdict(self)
