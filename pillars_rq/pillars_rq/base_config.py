"""Configuration of a base detector's training. The defaults are the published recipe on KITTI;
exp/base_embedded.yaml lays the small one over them, on an embedded world that is written first (data.dir: null).
Order: defaults < --config files < --set a.b=c. Relative paths count from the folder the command is started in."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from shared.config import Schema
from shared.errors import ConfigError

from .anchors import KITTI_CLASSES, AnchorClass, classes_named
from .decode import KITTI_LIMIT_M, Decoding
from .detection_loss import CODE_WEIGHTS
from .grid import Grid
from .network import Widths
from .world import WorldSpec

PACKAGE_ROOT = Path(__file__).resolve().parent.parent  # the folder that holds train_pointpillars.py, exp/, datasets/

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Layers = Annotated[int, Field(ge=0)]
CodeWeights = tuple[NonNegative, NonNegative, NonNegative, NonNegative, NonNegative, NonNegative, NonNegative]
Range = tuple[float, float, float, float, float, float]


class GridSettings(Schema):
    range_m: Range = Grid.kitti().range_m
    voxel_m: tuple[Positive, Positive, Positive] = Grid.kitti().voxel_m
    max_points: Count = 32
    max_voxels_train: Count = 16_000
    max_voxels_eval: Count = 40_000


class AnchorSettings(Schema):
    size_wlh_m: tuple[Positive, Positive, Positive]
    z_bottom_m: float
    positive_iou: Share
    negative_iou: Share


class WidthSettings(Schema):
    pillar: Count = 64
    blocks: tuple[Count, Count, Count] = (64, 128, 256)
    layers: tuple[Layers, Layers, Layers] = (3, 5, 5)
    neck: Count = 128


class ModelSettings(Schema):
    grid: GridSettings = GridSettings()
    classes: tuple[str, ...] = tuple(one.name for one in KITTI_CLASSES)
    anchors: dict[str, AnchorSettings] = Field(
        default_factory=dict
    )  # of classes beyond KITTI's three, or in place of theirs
    widths: WidthSettings = WidthSettings()
    published_angle_loss: bool = False  # the published weights' own angle term, for continuing their training

    @model_validator(mode="after")
    def _fits(self):
        self.build_grid()
        self.build_classes()
        return self

    def build_grid(self) -> Grid:
        return Grid(**self.grid.model_dump())

    def build_classes(self) -> tuple[AnchorClass, ...]:
        own = {name: AnchorClass(name, **one.model_dump()) for name, one in self.anchors.items()}
        unused = sorted(own.keys() - set(self.classes))
        if unused:
            raise ConfigError(f"anchors of {', '.join(unused)}, which is not among classes {', '.join(self.classes)}")
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ConfigError(f"classes {list(self.classes)}: name at least one, and each once")
        return tuple(own.get(name) or classes_named([name])[0] for name in self.classes)

    def build_widths(self) -> Widths:
        return Widths(**self.widths.model_dump())

    def decoding(self) -> Decoding:
        """KITTI's own limits on KITTI's grid; elsewhere the grid's range, z aside."""
        if self.build_grid() == Grid.kitti():
            return Decoding(limit_m=KITTI_LIMIT_M)
        low, high = self.grid.range_m[:3], self.grid.range_m[3:]
        return Decoding(limit_m=(*low, *high))


class AugmentSettings(Schema):
    """See kitti.augmentation."""

    paste_up_to: dict[str, Annotated[int, Field(ge=0)]] = Field(
        default_factory=lambda: {"Car": 15, "Pedestrian": 10, "Cyclist": 10}
    )
    noise_tries: Count = 100
    noise_std_m: NonNegative = 0.25
    noise_turn_rad: NonNegative = 0.15707963267
    flip_chance: Share = 0.5
    turn_rad: NonNegative = 0.7853981633974483
    scale: tuple[Positive, Positive] = (0.95, 1.05)


class WorldSettings(Schema):
    """The embedded world (world.spec.WorldSpec); workers: processes that write it."""

    seed: Annotated[int, Field(ge=0)] = WorldSpec.seed
    train_frames: Count = WorldSpec.train_frames
    val_frames: Count = WorldSpec.val_frames
    test_frames: Annotated[int, Field(ge=0)] = WorldSpec.test_frames
    workers: Annotated[int, Field(ge=0)] = 2

    def spec(self) -> WorldSpec:
        return WorldSpec(**self.model_dump(exclude={"workers"}))


class DataSettings(Schema):
    # Paths have strings for defaults: a strict schema that reads JSON refuses Path objects; they become Path here too.
    dir: Path | None = "datasets"  # the KITTI root or its parent, prepared (prepare_kitti.py); null: the embedded world
    embedded_dir: Path = "data"  # where embedded worlds are written, and found again
    world: WorldSettings = WorldSettings()
    train_split: Literal["train", "trainval"] = "train"
    val_split: Literal["val"] | None = "val"  # None: no evaluation
    val_frames: Count | None = None  # the first so many; None: all
    augment: AugmentSettings | None = AugmentSettings()
    results_dir: Path = "base_results"
    mark: str = ""  # text beside every figure; the embedded world brings its own


class LossSettings(Schema):
    cls: NonNegative = 1.0
    reg: NonNegative = 2.0
    dir: NonNegative = 0.2


class TrainingSettings(Schema):
    epochs: Count = 160
    batch_size: Count = 6
    lr: Positive = 2.5e-3  # the highest of the one-cycle schedule, which starts at a tenth of it
    betas: tuple[Share, Share] = (0.95, 0.99)
    rise: Annotated[float, Field(ge=0, lt=1)] = 0.4  # share of the steps in which the rate rises
    weight_decay: NonNegative = 0.01
    clip: Positive | None = None
    loss: LossSettings = LossSettings()
    code_weights: CodeWeights = CODE_WEIGHTS  # of x, y, z, w, l, h, theta, within loss.reg
    eval_every: Count = 20  # epochs; the last one is always judged
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    bf16: bool = False
    workers: Annotated[int, Field(ge=0)] = 4
    loader_timeout_s: Positive = 120.0
    log_every: Count = 50
    save_every: Count = 500
    keep: Annotated[int, Field(ge=2)] = 2
    wandb: bool = False


class BaseConfig(Schema):
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
