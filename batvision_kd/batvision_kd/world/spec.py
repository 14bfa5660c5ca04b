"""What a world is made of: how many samples, in which buildings and rooms, and the seed everything follows from."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from shared.errors import ConfigError

GENERATOR_VERSION = 2  # raise it with every change of the files a spec produces
SPLITS = ("train", "val", "test")
BUILDINGS = {"train": range(0, 16), "val": range(16, 19), "test": range(19, 24)}  # no building serves two splits
ROOMS = 20  # of a building; a sample a room until all are seen
VIEWS = 4  # of a room at most, where a building has more than 4 x 20 samples there are more rooms


@dataclass(frozen=True)
class Shot:
    """One sample's place: building and room by number, `view` of that room, `index` within the building."""

    split: str
    building: int
    index: int
    room: int
    view: int

    @property
    def location(self) -> str:
        return f"Building_{self.building:02d}"


@dataclass(frozen=True)
class WorldSpec:
    """Size and seed of one world; equal specs give byte-equal folders, whatever the number of workers.

    train, val, test: samples, spread evenly over 16, 3 and 5 buildings. size_hw: rows and columns of picture and depth.
    Raises ConfigError for values out of bounds.
    """

    train: int = 64
    val: int = 16
    test: int = 16
    seed: int = 0
    size_hw: tuple[int, int] = (180, 320)

    def __post_init__(self):
        object.__setattr__(self, "size_hw", tuple(int(side) for side in self.size_hw))
        for split in SPLITS:
            if getattr(self, split) < 1:
                raise ConfigError(f"world: {split} is {getattr(self, split)}; it must be at least 1")
        if len(self.size_hw) != 2 or min(self.size_hw) < 16 or self.seed < 0:
            raise ConfigError(f"world: size_hw {self.size_hw} needs sides of at least 16, seed {self.seed} at least 0")

    def shots(self) -> Iterator[Shot]:
        """All samples, by split, building and index."""
        for split in SPLITS:
            for building in BUILDINGS[split]:
                count = len(range(building - BUILDINGS[split].start, getattr(self, split), len(BUILDINGS[split])))
                rooms = max(ROOMS, -(-count // VIEWS))
                yield from (Shot(split, building, i, i % rooms, i // rooms) for i in range(count))

    def as_json(self) -> dict:
        return asdict(self) | {"size_hw": list(self.size_hw)}
