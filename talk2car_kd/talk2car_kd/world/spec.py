"""What a world is made of: its size, its classes, its colours, and the figures it imitates.

The figures are those counted on the real Talk2Car files: shares of the classes, of the colours in the Talk2Car-Expr
annotations, and the percentiles of the boxes in the 1600x900 frame.
"""

from dataclasses import asdict, dataclass, fields

from shared.errors import ConfigError

GENERATOR_VERSION = 2  # raise it with every change of the files a spec produces
FRAME_WH = (1600, 900)  # the annotation frame, whatever the size of the stored file

SPLITS = ("train", "val", "test")
COCO_SPLITS = ("train2017", "val2017")


@dataclass(frozen=True)
class WorldSpec:
    """Size and seed of one world; equal specs give byte-equal folders, whatever the number of workers.

    Attributes:
        seed: The one seed everything follows from.
        stored_wh: Width and height of the stored frames (the boxes stay in the 1600x900 frame).
        train_frames, val_frames, test_frames: Frames of each split; a split has its own scenes.
        commands_per_frame: Mean number of commands a frame.
        frames_per_scene: Frames that share a street, a time of day and a scene token.
        coco_train_images, coco_val_images: Images of the COCO-like part.
        coco_stored_wh: Width and height of the COCO-like images (their annotations are in these pixels).
    """

    seed: int = 0
    stored_wh: tuple[int, int] = (400, 225)
    train_frames: int = 1600
    val_frames: int = 250
    test_frames: int = 120
    commands_per_frame: float = 4.0
    frames_per_scene: int = 4
    coco_train_images: int = 800
    coco_val_images: int = 120
    coco_stored_wh: tuple[int, int] = (320, 240)

    def __post_init__(self):
        for name in ("stored_wh", "coco_stored_wh"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in (f.name for f in fields(self) if f.name != "seed"):
            values = getattr(self, name)
            if any(v < 1 for v in (values if isinstance(values, tuple | list) else (values,))):
                raise ConfigError(f"world: {name} is {values}; it must be at least 1")
        if self.seed < 0:
            raise ConfigError(f"world: seed is {self.seed}; it must not be negative")

    def frames(self, split: str) -> int:
        """Number of Talk2Car-like frames of a split."""
        return {"train": self.train_frames, "val": self.val_frames, "test": self.test_frames}[split]

    def as_json(self) -> dict:
        """The spec as plain JSON values (tuples as lists)."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Kind:
    """A class of the world: its official name, its share of the referred objects, its size, its words."""

    obj_name: str
    share: float
    size_m: tuple[float, float, float]  # width across, height, length along its heading
    nouns: tuple[str, ...]
    companions: float  # chance that a referred object has another one of its class in view


KINDS: dict[str, Kind] = {
    "car": Kind("vehicle.car", 0.46, (1.84, 1.52, 4.5), ("car", "car", "car", "{style}"), 0.70),
    "adult": Kind(
        "human.pedestrian.adult", 0.22, (0.62, 1.74, 0.40), ("person", "pedestrian", "{man}", "{man}", "{man}"), 0.68
    ),
    "truck": Kind("vehicle.truck", 0.12, (2.35, 3.0, 7.2), ("truck", "truck", "truck", "lorry"), 0.60),
    "bus": Kind("vehicle.bus.rigid", 0.04, (2.6, 3.15, 10.5), ("bus", "bus", "coach"), 0.5),
    "trafficcone": Kind("movable_object.trafficcone", 0.03, (0.48, 0.86, 0.48), ("traffic cone", "cone"), 0.8),
    "bicycle": Kind("vehicle.bicycle", 0.024, (0.6, 1.25, 1.75), ("bicycle", "bike"), 0.6),
    "motorcycle": Kind("vehicle.motorcycle", 0.024, (0.8, 1.55, 2.1), ("motorcycle", "motorbike"), 0.6),
    "barrier": Kind("movable_object.barrier", 0.02, (1.9, 1.05, 0.45), ("barrier", "road barrier"), 0.7),
}

# Colour words of Talk2Car-Expr (black 34, white 34, gray 13, orange 5, blue 5, red 4, yellow 3, green 2 %). Cones and
# barriers bring most of the orange, so the paints below hold less of it.
PAINTS: dict[str, tuple[float, tuple[int, int, int]]] = {
    "black": (0.335, (26, 27, 31)),
    "white": (0.335, (240, 241, 240)),
    "gray": (0.130, (126, 129, 134)),
    "orange": (0.020, (240, 122, 22)),
    "blue": (0.056, (30, 84, 204)),
    "red": (0.056, (206, 26, 32)),
    "yellow": (0.036, (246, 204, 24)),
    "green": (0.032, (28, 140, 66)),
}
BARRIER_PAINTS = {"orange": 0.5, "red": 0.2, "yellow": 0.15, "white": 0.15}

# (colour, class) pairs that never occur in the train split, for the compositional test.
HELD_OUT = frozenset(
    {
        ("red", "truck"),
        ("blue", "bus"),
        ("yellow", "car"),
        ("green", "adult"),
        ("blue", "motorcycle"),
        ("red", "barrier"),
    }
)
HELD_OUT_SHARE = 0.10  # of the referred objects planned for val and test

# Percentiles 5, 25, 50, 75, 95 of the referred boxes of the real train split, in the 1600x900 frame.
PERCENTILES = (0.05, 0.25, 0.50, 0.75, 0.95)
BOX_PERCENTILES = {
    "w_px": (32, 75, 147, 269, 505),
    "h_px": (43, 76, 120, 198, 450),
    "w_over_h": (0.43, 0.65, 1.16, 1.69, 2.79),
    "cx": (0.07, 0.22, 0.44, 0.66, 0.89),
    "cy": (0.503, 0.547, 0.573, 0.609, 0.701),
    "area_share": (0.0011, None, 0.0119, None, 0.147),
}
EDGE_SHARE = 0.157  # of the boxes touch the edge of the frame


def colour_table(kind: str, split: str | None) -> tuple[list[str], list[float]]:
    """Colours a class can have in a split (None: anywhere) with their shares, which sum to 1."""
    if kind == "trafficcone":
        return ["orange"], [1.0]
    shares = BARRIER_PAINTS if kind == "barrier" else {name: share for name, (share, _) in PAINTS.items()}
    names = [name for name in shares if split != "train" or (name, kind) not in HELD_OUT]
    total = sum(shares[name] for name in names)
    return names, [shares[name] / total for name in names]
