"""What a world is made of: the layout, how many pairs, their size, and the seed everything follows from.

Names follow the data sets: LLVIP's `SSFFFF` (scene, frame) and KAIST's `setSS/VVVV/IFFFFF`. A scene is one street seen
by one camera; no scene serves two splits, and a scene is day or night for good.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from shared.errors import ConfigError

GENERATOR_VERSION = 1  # raise it with every change of the files a spec produces
LAYOUTS = ("llvip", "kaist")
SPLITS = ("train", "test")
FAULTS = ("missing_partner", "broken_xml", "other_size", "box_outside", "unknown_label")
LINES = 512  # the height at which heights of persons and KAIST's rules are stated
MAX_SHIFT_PX = 8
LLVIP_SCENES = {"train": range(1, 17), "test": range(19, 27)}
KAIST_SETS = {"train": (0, 3, 1, 4, 2, 5), "test": (6, 9, 7, 10, 8, 11)}  # day and night in turn
KAIST_VIDEOS = 2  # of a set; each is a scene
KAIST_STEP = 20  # frames between two of a list, as in test-all-20


@dataclass(frozen=True)
class Shot:
    """One pair's place: `scene` counts within the layout (LLVIP: 1-26, KAIST: 10 x set + video), `frame` from 0."""

    layout: str
    split: str
    scene: int
    frame: int

    @property
    def night(self) -> bool:
        """LLVIP: three scenes of four. KAIST: sets 03-05 and 09-11."""
        return self.scene % 4 != 0 if self.layout == "llvip" else self.scene // 10 % 6 >= 3

    @property
    def name(self) -> str:
        """`010001` or `set00/V000/I00019`."""
        if self.layout == "llvip":
            return f"{self.scene:02d}{self.frame + 1:04d}"
        number, video = divmod(self.scene, 10)
        return f"set{number:02d}/V{video:03d}/I{(self.frame + 1) * KAIST_STEP - 1:05d}"


@dataclass(frozen=True)
class WorldSpec:
    """Size and seed of one world; equal specs give byte-equal folders, whatever the number of workers.

    layout: 'llvip' or 'kaist'. pairs: of train and test, spread evenly over the scenes. size_hw: rows and columns.
    misalignment_px: pixels of the written image, 0-8, by which infrared is shifted against visible in every pair.
    ir_channels: 3 equal ones, as LLVIP has them, or 1. faults: of FAULTS, each damages one pair of the test split.

    Raises ConfigError for values out of bounds.
    """

    layout: str = "llvip"
    pairs: tuple[int, int] = (200, 60)
    size_hw: tuple[int, int] = (128, 160)
    seed: int = 0
    misalignment_px: int = 0
    ir_channels: int = 3
    faults: tuple[str, ...] = ()

    def __post_init__(self):
        for name in ("pairs", "size_hw", "faults"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        rules = (
            ("layout", self.layout in LAYOUTS, f"one of {', '.join(LAYOUTS)}"),
            ("pairs", len(self.pairs) == 2 and min(self.pairs) >= 1, "two counts (train, test) of at least 1"),
            ("size_hw", len(self.size_hw) == 2 and min(self.size_hw) >= 48, "rows and columns of at least 48"),
            ("seed", self.seed >= 0, "at least 0"),
            ("misalignment_px", 0 <= self.misalignment_px <= MAX_SHIFT_PX, f"0 to {MAX_SHIFT_PX}"),
            ("ir_channels", self.ir_channels in (1, 3), "1 or 3"),
            ("faults", set(self.faults) <= set(FAULTS), f"of {', '.join(FAULTS)}"),
        )
        for name, fine, remedy in rules:
            if not fine:
                raise ConfigError(f"embedded world: {name} is {getattr(self, name)!r}; it must be {remedy}")

    @property
    def scale(self) -> float:
        """Pixels at 512 lines per pixel of this world: heights and borders of KAIST's protocol are stated there."""
        return LINES / self.size_hw[0]

    def shots(self, split: str | None = None) -> list[Shot]:
        """All pairs of one or both splits, by name. More pairs keep the ones that were there."""
        splits = SPLITS if split is None else (split,)
        return sorted((shot for one in splits for shot in self._spread(one)), key=lambda shot: shot.name)

    def _spread(self, split: str) -> Iterator[Shot]:
        if self.layout == "llvip":
            scenes = list(LLVIP_SCENES[split])
        else:
            scenes = [10 * number + video for video in range(KAIST_VIDEOS) for number in KAIST_SETS[split]]
        for i in range(self.pairs[SPLITS.index(split)]):
            yield Shot(self.layout, split, scenes[i % len(scenes)], i // len(scenes))

    def aligned(self) -> "WorldSpec":
        """The same world without misalignment."""
        return replace(self, misalignment_px=0)

    def as_json(self) -> dict:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
