"""Configuration of train_eval_rq.py: the contract's YAML, typed, with every default in this file and nowhere else.

The keys, values and file of the contract (exp/split1_ALL.yaml) are the user's and load as they stand; keys below a line
"ours" are additions, all optional. Order: defaults < --config files < --set a.b=c < flags. Relative paths count from
the folder the command is started in. How contradictions of the contract are settled is said at the key they concern.
"""

import json
import math
from argparse import Namespace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from shared.config import Schema, load_config
from shared.errors import ConfigError

from .base_config import AugmentSettings, Count, GridSettings, NonNegative, Positive, WorldSettings
from .grid import Grid

NonNegativeInt = Annotated[int, Field(ge=0)]
Mode = Literal["train", "eval", "grid"]
# What changes neither the weights nor the numbers of a training run: a cut run continues with another value.
NOT_HASHED = (
    "dataset.world.workers", "hardware",
    "evaluation.enabled", "evaluation.use_num_codebook", "evaluation.use_num_embedding",
    "evaluation.rq_ckpt", "evaluation.target_kb", "evaluation.beam", "evaluation.grid_cells",
    "evaluation.baseline_frames",
    "logging.use_wandb", "logging.wandb_project", "logging.wandb_name", "logging.saved_path", "training.mode",
    "training.num_workers", "training.loader_timeout_s", "training.keep",
)  # fmt: skip


class DatasetSettings(Schema):
    name: Literal["KITTI"] = "KITTI"
    dir: Path | None = None  # the KITTI root or its parent; null: the embedded world
    num_classes: Count = 3
    # ours
    embedded_dir: Path = "data"  # where embedded worlds are written, and found again
    world: WorldSettings = WorldSettings()
    train_split: Literal["train", "trainval"] = "train"
    val_frames: Count | None = None  # the first so many; null: all
    augment: AugmentSettings | None = None  # of the training frames; null: as they are


class ModelSettings(Schema):
    pre_trained_model: str | None = None  # a leftover nobody could explain: accepted, warned of, ignored
    n_codebook: Annotated[int, Field(ge=1, le=255)] = 5
    pretrained_weight: Path = "pretrained/epoch_160.pth"
    # ours
    grid: GridSettings | None = None  # null: the one that base.pth records, KITTI's for the published file

    def build_grid(self) -> Grid | None:
        return self.grid and Grid(**self.grid.model_dump())


class ProgressiveSettings(Schema):
    enabled: bool = True  # false: legacy, all books trained jointly
    embedding_schedule: tuple[Count, ...] = (16, 32, 64, 128, 256)
    embedding_stage_epochs: Count = 20  # rules over training.max_epoch
    warmup_epochs: NonNegativeInt = 2
    # ours
    split_max_epoch: bool = False  # the other reading: training.max_epoch epochs spread evenly over all stages
    continue_from: Literal["last", "best"] = "last"  # rows of which epoch the next stage builds on

    @model_validator(mode="after")
    def _rises(self):
        if not self.embedding_schedule or list(self.embedding_schedule) != sorted(set(self.embedding_schedule)):
            raise ConfigError(f"embedding_schedule {list(self.embedding_schedule)}: sizes that grow, as [16, 32, 64]")
        if self.warmup_epochs > self.embedding_stage_epochs:
            raise ConfigError(
                f"warmup_epochs {self.warmup_epochs} is more than the {self.embedding_stage_epochs} epochs of a stage"
            )
        return self


class TrainingSettings(Schema):
    mode: Mode = "train"
    batch_size: Count = 6  # over all processes
    num_workers: NonNegativeInt = 4
    max_epoch: Count = 100  # of legacy mode
    init_lr: Positive = 0.001
    ckpt_freq_epoch: Count = 20  # epochs count from 1 within a stage
    patience: Count = 5  # epochs without a better score before the rate falls; counted after the warm-up
    early_stopping_patience: Count = 5  # ... before the stage ends
    # ours
    seed: NonNegativeInt = 0
    lr_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5  # what the rate falls by
    lr_decay: Literal["none", "cosine"] = "none"  # of a stage's gradient epochs; times what the plateau leaves
    object_repeats: Count = 1  # how often a pillar in a labelled box counts where rows are drawn, averaged, compared
    clip: Positive | None = None
    lloyd_passes: NonNegativeInt = 0  # of k-means over the pool, by which drawn rows start a stage
    pool_frames: Count = 32  # training frames whose vectors new rows, restarts and code tables are drawn from
    restart_threshold: NonNegative = 0.01  # a row with fewer hits than this share of an average row's starts again
    save_every: Count = 500  # steps
    keep: Annotated[int, Field(ge=2)] = 2
    loader_timeout_s: Positive = 120.0


class RqModelSettings(Schema):
    latent_shape: tuple[Count, Count, Count] | None = None  # H, W, D: must be the network's
    code_shape: tuple[Count, Count, Count] | None = None  # H, W, 1 ("codes a cell of each book") or n_codebook
    codebook_size: Count = 64  # of legacy mode
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    # ours
    # In which the nearest row is looked for: the plain distance, or that behind the tail's first convolution, pillar by
    # pillar ("tail") or for all pillars of a frame together ("joint", rq.together).
    metric: Literal["plain", "tail", "joint"] = "plain"


class LossWeights(Schema):
    vq_weight: NonNegative = 0.25  # the commitment term: logged, and without gradient since the encoder is frozen
    codebook_weight: NonNegative = 0.1
    det_weight: NonNegative = 0.8  # 0: the tail is not run in training


class EvaluationSettings(Schema):
    enabled: bool = False  # true: --mode eval; a --mode given wins
    use_num_codebook: Count = 1
    use_num_embedding: Count = 16
    rq_ckpt: Path | None = None
    # ours
    target_kb: Positive | None = None  # instead of the two numbers: the best within so many kB, frame by frame
    beam: Count = 1
    subset_objects: Count = 41  # objects of each class in the frames judged after every epoch (ceiling)
    grid_cells: tuple[tuple[Count, Count], ...] | None = None  # [n, k] of --mode grid; null: all the checkpoint holds
    baseline_frames: NonNegativeInt | None = None  # frames that baselines are measured on; null: all, 0: none


class LoggingSettings(Schema):
    use_wandb: bool = True
    wandb_project: str = "pointpillars-rq-progressive"
    wandb_name: str | None = None
    log_freq: Count = 8  # steps
    saved_path: Path = "progressive_rq_logs"
    save_stage_weights: bool = True  # false: no codebook_*.pth, only global_best.pth and final.pth


class HardwareSettings(Schema):
    gpu: Annotated[int, Field(ge=-1)] = 1  # absent: GPU 0 or the CPU, with a warning; -1: the CPU


class RqConfig(Schema):
    dataset: DatasetSettings = DatasetSettings()
    model: ModelSettings = ModelSettings()
    progressive_learning: ProgressiveSettings = ProgressiveSettings()
    training: TrainingSettings = TrainingSettings()
    rq_model: RqModelSettings = RqModelSettings()
    loss_weights: LossWeights = LossWeights()
    evaluation: EvaluationSettings = EvaluationSettings()
    logging: LoggingSettings = LoggingSettings()
    hardware: HardwareSettings = HardwareSettings()

    @model_validator(mode="after")
    def _shapes_agree(self):
        latent, code = self.rq_model.latent_shape, self.rq_model.code_shape
        if code is not None and code[2] not in (1, self.model.n_codebook):
            raise ConfigError(
                f"rq_model.code_shape ends in {code[2]}: write 1 (codes a cell of each codebook) or model.n_codebook, "
                f"which rules, {self.model.n_codebook}"
            )
        if code is not None and latent is not None and code[:2] != latent[:2]:
            raise ConfigError(f"rq_model.code_shape {list(code)} and latent_shape {list(latent)} differ in H, W")
        return self


# --- from the command line --------------------------------------------------------------------------------------------


def resolve(args: Namespace) -> RqConfig:
    """The configuration that a parsed command line means; training.mode is the mode to run.

    --mode beats evaluation.enabled, which beats training.mode. ConfigError lists every wrong setting.
    """
    flags = {
        "hardware.gpu": args.gpu,
        "logging.use_wandb": False if args.no_wandb else None,
        "evaluation.use_num_codebook": args.eval_num_codebooks,
        "evaluation.use_num_embedding": args.eval_num_embeddings,
        "evaluation.rq_ckpt": args.rq_ckpt and str(args.rq_ckpt),
        "evaluation.target_kb": args.target_kb,
        "training.mode": args.mode,
    }
    given = [f"{key}={json.dumps(value)}" for key, value in flags.items() if value is not None]
    config = load_config(RqConfig, args.config, [*args.overrides, *given])
    if args.mode is None and config.evaluation.enabled:
        return load_config(RqConfig, args.config, [*args.overrides, *given, "training.mode=eval"])
    return config


def warnings_of(config: RqConfig) -> list[str]:
    """What the user set and what has another effect than it seems, each said once at the start."""
    found = []
    progressive, training = config.progressive_learning, config.training
    if config.model.pre_trained_model is not None:
        found.append(f"model.pre_trained_model {config.model.pre_trained_model!r} means nothing here and is ignored")
    stages = config.model.n_codebook * len(progressive.embedding_schedule)
    planned = stages * progressive.embedding_stage_epochs
    set_by_user = training.model_fields_set
    unread = progressive.enabled and not progressive.split_max_epoch and planned != training.max_epoch
    if unread and "max_epoch" in set_by_user:
        found.append(
            f"training.max_epoch {training.max_epoch} is of legacy mode: {stages} stages of "
            f"{progressive.embedding_stage_epochs} epochs are {planned} (embedding_stage_epochs rules; "
            "progressive_learning.split_max_epoch=true spreads max_epoch over the stages instead)"
        )
    if training.patience >= training.early_stopping_patience and set_by_user & {"patience", "early_stopping_patience"}:
        found.append(
            f"training.patience {training.patience} is not below early_stopping_patience "
            f"{training.early_stopping_patience}: a stage ends before its rate could fall"
        )
    return found


def check_network(config: RqConfig, grid: Grid, channels: int, classes: int) -> None:
    """ConfigError unless the shapes of the configuration are the network's."""
    latent, code = config.rq_model.latent_shape, config.rq_model.code_shape
    network = (grid.height, grid.width, channels)
    if latent is not None and latent != network:
        raise ConfigError(
            f"rq_model.latent_shape {list(latent)}: the network's canvas is {list(network)} (H, W, D): correct it, or "
            "name the weights of that grid in model.pretrained_weight"
        )
    if code is not None and code[:2] != network[:2]:
        raise ConfigError(f"rq_model.code_shape {list(code)}: the grid has {grid.height} x {grid.width} cells (H, W)")
    if config.dataset.num_classes != classes:
        raise ConfigError(f"dataset.num_classes {config.dataset.num_classes}: the detector has {classes} classes")


def bits_per_pillar(n: int, k: int) -> int:
    """Of fixed-length codes: n codes of ceil(log2 k) bits."""
    return n * max(1, math.ceil(math.log2(k)))


def dump(config: RqConfig) -> dict[str, Any]:
    """Plain Python for manifests."""
    return config.model_dump(mode="json")
