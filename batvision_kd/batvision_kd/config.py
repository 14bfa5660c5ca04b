"""The configuration: one typed, frozen tree for the three training scripts, and how it is put together.

    settings = resolve("audio", files=[Path("mine.yaml")], overrides=["training.seed=1"])

Order: the defaults below < config/<kind>.yaml < --config files < command-line flags and --set a.b=c. The kinds are
`rgb` (the teacher), `audio` (the student by itself) and `distillation` (the student, taught).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from shared.config import Schema, config_hash, load_config

from .spectrogram import SpectrogramSettings

PACKAGE_ROOT = Path(__file__).resolve().parent.parent  # the folder that holds the train_*.py scripts and config/
KINDS = ("rgb", "audio", "distillation")
Kind = Literal["rgb", "audio", "distillation"]
STRIDE_PX = 16  # four poolings: both inputs' sides are multiples of it
MAX_DEPTH_M = {"batvisionv1": 12.0, "batvisionv2": 30.0}
LEVELS = ("x1", "x2", "x3", "x4", "x5", "d1", "d2", "d3", "d4")

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
HeightWidth = tuple[Count, Count]
Level = Literal[LEVELS]

# What changes neither weights nor numbers, so that a cut run can be continued with another value.
NOT_HASHED = (
    "output_dir", "experiment_name", "data.embedded_dir", "data.cache_dir", "data.embedded.workers", "training.device",
    "training.num_workers", "training.loader_timeout_s", "training.log_every", "training.save_every", "training.keep",
    "training.save_frequency", "training.use_wandb", "training.wandb_project",
)  # fmt: skip


class EmbeddedSettings(Schema):
    """Size of the embedded world, for when data.dir is null. Its test locations are never trained on."""

    train: Count = 64
    val: Count = 16
    test: Count = 16
    seed: Annotated[int, Field(ge=0)] = 0
    image_hw: HeightWidth = (180, 320)
    workers: Annotated[int, Field(ge=0)] = 2  # processes that write it


class AudioSettings(Schema):
    """What the student hears: see spectrogram.SpectrogramSettings."""

    n_fft: Count = 512
    window: Count = 64
    hop: Count = 16
    size: HeightWidth = (256, 256)
    normalisation: Literal["db", "mean_std", "raw"] = "db"
    channels: Literal["magnitude", "magnitude+ipd", "magnitude+gcc", "magnitude+ipd+gcc"] = "magnitude"
    lead_in: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"  # samples before the direct sound
    rate_hz: Count = 44_100
    mean: float | None = None  # of normalisation mean_std; null: measured on the training split
    std: Positive | None = None

    def build(self, mean: float = 0.0, std: float = 1.0) -> SpectrogramSettings:
        """The spectrogram's own settings; mean and std where the configuration gives none."""
        given = {"mean": mean if self.mean is None else self.mean, "std": std if self.std is None else self.std}
        return SpectrogramSettings(**{**self.model_dump(), **given})


class DataSettings(Schema):
    # Paths have strings for defaults: a strict schema that reads JSON refuses Path objects; they become Path here too.
    dataset: Literal["batvisionv1", "batvisionv2"] = "batvisionv2"
    dir: Path | None = None  # the data root; null: the embedded world
    embedded_dir: Path = "data"  # where embedded worlds are written, and found again
    embedded: EmbeddedSettings = EmbeddedSettings()
    split: Literal["official", "holdout"] = "official"
    val_locations: tuple[str, ...] = ()  # split: holdout: whole locations kept for validation,
    test_locations: tuple[str, ...] = ()  # and for testing
    blacklist: tuple[str, ...] = ()  # locations that are not read at all
    train_locations: tuple[str, ...] | None = None  # only these are trained on; null: all
    train_samples: Count | None = None  # a seeded choice of so many training samples; null: all
    image_size: HeightWidth = (256, 256)  # of RGB and depth
    max_depth_m: Positive | None = None  # null: the data set's own, 12 (V1) or 30 (V2)
    spectrogram: AudioSettings = AudioSettings()
    cache_dir: Path | None = None  # spectrograms are kept here; null: computed anew in each epoch
    augment: bool = True  # flips with exchanged ears, gains; training only
    augment_colours: bool = True  # of the pictures that the RGB teacher learns from; a student's teacher sees true ones

    @model_validator(mode="after")
    def _sides(self):
        for name, size in (("image_size", self.image_size), ("spectrogram.size", self.spectrogram.size)):
            if any(side % STRIDE_PX for side in size):
                raise ValueError(f"{name} {list(size)}: both sides must be multiples of {STRIDE_PX}")
        named = [bool(self.val_locations), bool(self.test_locations)]
        if named != [self.split == "holdout"] * 2:
            raise ValueError(
                f"split {self.split} with val_locations {list(self.val_locations)} and test_locations "
                f"{list(self.test_locations)}: holdout needs both, official neither"
            )
        return self

    @property
    def depth_limit_m(self) -> float:
        return self.max_depth_m or MAX_DEPTH_M[self.dataset]


class ModelSettings(Schema):
    base_channels: Count = 64
    bilinear: bool = True
    head: Literal["log", "sigmoid", "softplus"] = "log"
    attention: Literal["mha", "reference"] = "mha"  # student only, as the next two
    attention_levels: tuple[Annotated[int, Field(ge=1, le=5)], ...] = (4, 5)
    shared_encoder: bool = False


class LossSettings(Schema):
    """The task loss on the pixels with measured depth, and the smoothness of the prediction."""

    criterion: Literal["L1", "SIlog", "Combined"] = "L1"
    lambda_l1: NonNegative = 1.0  # of L1
    l1_weight: NonNegative = 0.237  # of Combined: l1_weight L1 + silog_weight SIlog
    silog_weight: NonNegative = 0.637
    silog_lambda: Annotated[float, Field(ge=0, le=1)] = 0.869
    lambda_smooth: NonNegative = 0.1


class AdaptiveSettings(Schema):
    """Three separable rules."""

    anneal: Literal["none", "cosine", "linear"] = "none"  # the weights fall to a tenth over the training
    confidence: bool = True  # of the teacher, pixel by pixel, weighs the response
    balance: bool = False  # weight = rho x gradient of the task / gradient of the term
    rho_kd: Positive = 0.5
    rho_feat: Positive = 0.1


class DistillationSettings(Schema):
    teacher: Path | None = None  # null: <output_dir>/checkpoints/rgb_teacher_for_kd/best_model.pth
    lambda_kd: NonNegative = 0.5
    lambda_feat: NonNegative = 0.1
    response: Literal["log_huber", "l1", "mse"] = "log_huber"
    region: Literal["valid", "invalid", "all"] = "all"  # where the student listens to the teacher's depth
    features: dict[Literal["mse_raw", "cosine", "stats", "cka"], tuple[Level, ...]] = Field(
        default_factory=lambda: {"cosine": ("d1", "d2", "d3", "d4"), "stats": ("x3", "x4", "x5")}
    )
    adaptive: AdaptiveSettings = AdaptiveSettings()
    crossfit_folds: Annotated[int, Field(ge=2)] | None = None  # each sample's teacher never saw its location
    crossfit_epochs: Count | None = None  # of those teachers; null: as many as the student's
    shuffle_teacher: bool = False  # control: the depth of another sample teaches (knowledge, or mere regularisation?)


class TrainingSettings(Schema):
    nb_epochs: Count = 200
    batch_size: Count = 64  # samples of one optimizer step, over all processes
    micro_batch: Literal["auto"] | Count = "auto"  # samples of one pass; batch norm and masked means are per pass
    optimizer: Literal["Adam", "AdamW", "SGD"] = "AdamW"
    learning_rate: Positive = 1e-4
    weight_decay: NonNegative = 0.01
    scheduler: Literal["none", "cosine", "step"] = "cosine"
    clip: Positive | None = None  # largest gradient norm
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None  # decay of the moving average that is judged and kept
    bf16: bool = False
    seed: Annotated[int, Field(ge=0)] = 42
    device: str = "auto"
    num_workers: Annotated[int, Field(ge=0)] = 4
    loader_timeout_s: Positive = 120.0
    save_frequency: Count = 2  # epochs between two epoch_%04d.pth
    save_every: Count = 200  # steps between two saves inside an epoch
    keep: Annotated[int, Field(ge=2)] = 2  # of those
    log_every: Count = 10
    use_wandb: bool = False
    wandb_project: str = "batvision-rgb-depth"


class Settings(Schema):
    kind: Kind
    experiment_name: str | None = None
    output_dir: Path = "."  # checkpoints/, logs/ and results/ stand here; relative to the current folder
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    loss: LossSettings = LossSettings()
    distillation: DistillationSettings = DistillationSettings()
    training: TrainingSettings = TrainingSettings()

    @property
    def name(self) -> str:
        """The experiment's name; without one it says data set, batch size, learning rate and optimizer."""
        stem = {"rgb": "rgb_depth", "audio": "binaural_attention", "distillation": "distillation"}[self.kind]
        training = self.training
        return self.experiment_name or (
            f"{stem}_{self.data.dataset}_BS{training.batch_size}_Lr{training.learning_rate}_{training.optimizer}"
        )

    def folder(self, what: Literal["checkpoints", "logs", "results"]) -> Path:
        return self.output_dir / what / self.name

    @property
    def hash(self) -> str:
        return config_hash(self, NOT_HASHED)


def kind_file(kind: Kind) -> Path:
    """What this kind of training has for defaults beside the schema's."""
    return PACKAGE_ROOT / "config" / f"{kind}.yaml"


def resolve(kind: Kind, files: Sequence[Path] = (), overrides: Sequence[str] = ()) -> Settings:
    """The settings of a kind of training, `files` and then the a.b=c `overrides` laid over its defaults.

    Raises ConfigError that lists every wrong setting.
    """
    return load_config(Settings, [kind_file(kind), *files], [*overrides, f"kind={kind}"])
