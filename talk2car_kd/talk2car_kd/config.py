"""The configuration: one typed, frozen tree. Every value stands in config/default.yaml; the schema has no defaults of
its own, so a reader finds each number in one place. Order: default.yaml < --config files < --set a.b=c.
(`export` alone has defaults: it decides nothing of a model, and the record of a weight file need not hold it.)"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from shared.config import Anchored, Schema

PACKAGE_ROOT = Path(__file__).resolve().parent.parent  # the folder that holds main.py, config/, data/, results/
DEFAULT = PACKAGE_ROOT / "config" / "default.yaml"
EMBEDDED = PACKAGE_ROOT / "config" / "embedded.yaml"
ABLATION = PACKAGE_ROOT / "config" / "ablate.yaml"

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
HeightWidth = tuple[Count, Count]

WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
LOCAL_DIR = "local-dir:"


def placed(text: str, folder: Path) -> str:
    """A weights file or `local-dir:<folder>`, counted from `folder` when relative; a tag as it is."""
    name = text.removeprefix(LOCAL_DIR)
    if name == text and Path(text).suffix not in WEIGHT_SUFFIXES:
        return text
    return text.removesuffix(name) + str(folder / name)


class Data(Schema):
    coco_root: Path | None  # train2017/ val2017/ annotations/, or images/ + annotations/{instances,captions}.json
    talk2car_root: Path | None  # commands/{train,val,test}_commands.json + images/
    embedded_dir: Path  # where the embedded world is written (and reused)
    cache_dir: Path  # teacher embeddings
    results_dir: Path  # a folder for each run
    allow_missing: bool  # drop commands whose image is missing instead of refusing the root
    mark: str  # text printed on every picture and report, e.g. "overlay frames: not a score"; empty for none
    coco_val_fraction: Fraction  # for a COCO root without an official val split: share of images held out


class World(Schema):
    """Size of the embedded world (talk2car_kd.world.WorldSpec)."""

    seed: int
    train_frames: Count
    val_frames: Count
    test_frames: Count
    commands_per_frame: Count
    coco_train_images: Count
    coco_val_images: Count
    workers: Count


class TeacherTraining(Schema):
    """Only for the embedded world: the small open_clip model that is trained there and then distilled."""

    image_tower: str  # timm model name
    embed_dim: Count
    text_width: Count
    text_layers: Count
    text_heads: Count
    image_size: Count
    epochs: Count
    batch_size: Count
    lr: Positive
    weight_decay: NonNegative


class Teacher(Schema):
    name: str  # open_clip model name
    pretrained: Annotated[
        str | None, Anchored(placed)
    ]  # tag, weights file, or `local-dir:<folder>`; never random weights
    train: TeacherTraining | None  # embedded world only


class Student(Schema):
    backbone: str  # any timm ConvNeXt
    init: Annotated[str, Anchored(placed)]  # timm weight tag, weights file, or the word `random`
    multiscale: bool  # fuse strides 8, 16, 32; otherwise the last map alone (stride 32)
    map_dim: Count  # channels of the fused map
    map_stride: Literal[8, 16, 32]
    drop_path: Fraction


class LossWeights(Schema):
    clip: NonNegative
    sim: NonNegative
    cos: NonNegative | Literal["auto"]  # auto: 4000 / embed_dim (CLIP-KD's 2000 x MSE of unit vectors)
    temperature: Positive

    def resolved(self, embed_dim: int) -> dict[str, float]:
        return {"clip": self.clip, "sim": self.sim, "cos": 4000 / embed_dim if self.cos == "auto" else self.cos}


class Stage1(Schema):
    image_size: Count
    context: Annotated[float, Field(ge=1)]  # square crop of context x the longer side
    min_side_px: NonNegative
    small_area_px: Positive  # mask area below which a region is "small"
    large_area_px: Positive | None  # with a value, regions between the two are "medium"
    captions: Literal["template", "coco", "mixed"]
    views: Count  # crops a region has; epoch e shows view e mod views
    cache_teacher: bool
    augment: Fraction  # strength of the photometric augmentation
    loss: LossWeights
    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]
    min_images: Count  # distinct images a batch mixes at least
    lr: Positive
    weight_decay: NonNegative
    betas: tuple[Fraction, Fraction]
    clip_grad: Positive
    warmup: Fraction
    recall_at: tuple[Count, ...]


class Head(Schema):
    kind: Literal["transformer", "projection"]
    dim: Count
    heads: Count
    ffn: Count
    layers: Count
    text_layers: Count
    dropout: Fraction

    @model_validator(mode="after")
    def _divides(self):
        if self.dim % self.heads or self.dim % 4:
            raise ValueError(f"dim {self.dim} must be divisible by heads {self.heads} and by 4 (2-D sine positions)")
        return self


class Stage2Loss(Schema):
    l1: NonNegative
    giou: NonNegative
    score: NonNegative
    aux: NonNegative  # the score loss of each earlier decoder layer


class Stage2(Schema):
    init: Literal["distilled", "backbone"]  # backbone: skip Stage 1, start from student.init (the control)
    input_hw: HeightWidth
    frame_wh: HeightWidth  # the annotation frame, whatever the files' size
    text_len: Count
    label_fraction: Annotated[float, Field(gt=0, le=1)]  # share of the training commands used
    head: Head
    loss: Stage2Loss
    epochs: Count
    eval_every: Count  # epochs
    frames_per_batch: Count
    accumulate: Count
    lr: Positive
    lr_scale: dict[str, Positive]  # pattern of parameter names -> multiple of lr
    weight_decay: NonNegative
    clip_grad: Positive
    warmup: Fraction
    ema: Fraction
    flip: Fraction
    colour: Fraction

    @model_validator(mode="after")
    def _divisible(self):
        if any(side % 32 for side in self.input_hw):
            raise ValueError(f"input_hw {self.input_hw} must be divisible by 32, the stride of the last map")
        return self


class Eval(Schema):
    iou_op: Literal["gt", "ge"]
    bootstrap_samples: Count
    ablation_seeds: Count
    batch_frames: Count


class Training(Schema):
    seed: int
    device: Literal["auto", "cpu", "cuda"]
    bf16: bool
    workers: Annotated[int, Field(ge=0)]
    loader_timeout_s: Positive
    log_every: Count
    save_every: Count
    keep: Annotated[int, Field(ge=2)]
    wandb: bool


class Export(Schema):
    """What `--stage export` measures the student's image tower against."""

    image_towers: tuple[str, ...] = ("ViT-B-32", "ViT-B-16", "ViT-L-14")  # open_clip model names
    rounds: Count = 10  # the latency is their median


class Config(Schema):
    data: Data
    world: World | None
    teacher: Teacher
    student: Student
    stage1: Stage1
    stage2: Stage2
    eval: Eval
    training: Training
    export: Export = Export()

    @property
    def embedded(self) -> bool:
        return self.data.coco_root is None and self.data.talk2car_root is None

    @model_validator(mode="after")
    def _consistent(self):
        if self.stage1.image_size % 32:
            raise ValueError(f"stage1.image_size {self.stage1.image_size} must be divisible by 32")
        if self.stage1.batch_size < self.stage1.min_images:
            raise ValueError("stage1.batch_size must be at least stage1.min_images")
        return self
