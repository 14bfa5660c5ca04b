"""The command-line flags of the three training scripts, and the settings that each of them names.

A flag that is not given leaves the configuration as it is: the defaults in the help are those of config/<kind>.yaml and
of the schema. So a flag always wins over --config, and a default never does.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import ConfigError

from .config import Kind, Settings, resolve

DESCRIPTION = {
    "rgb": "Train the RGB depth teacher.",
    "audio": "Train the binaural attention student on audio alone.",
    "distillation": "Train the binaural attention student with a frozen RGB teacher.",
}
EXPERIMENTS_HINT = "With --experiments: the comparison of RGB, audio and the distillations (--experiments --help)."


@dataclass(frozen=True)
class Flag:
    """--name sets the setting `key`. options: for argparse."""

    name: str
    key: str
    help: str
    options: dict[str, Any]


def _number(text: str) -> Any:
    return text if text == "auto" else int(text)


COMMON = (
    Flag("dataset", "data.dataset", "layout of the data root", {"choices": ("batvisionv1", "batvisionv2")}),
    Flag("data_dir", "data.dir", "the data root; without it the embedded world is written and used", {"type": Path}),
    Flag("output_dir", "output_dir", "checkpoints/, logs/ and results/ stand here", {"type": Path}),
    Flag("batch_size", "training.batch_size", "samples of one optimizer step", {"type": int}),
    Flag("micro_batch", "training.micro_batch", "samples of one pass: a number, or auto to split what does not fit "
         "into memory; batch norm sees one pass", {"type": _number}),
    Flag("num_workers", "training.num_workers", "processes that load data", {"type": int}),
    Flag("image_size", "data.image_size", "height and width of RGB and depth, multiples of 16",
         {"type": int, "nargs": 2, "metavar": ("H", "W")}),
    Flag("base_channels", "model.base_channels", "width of the network", {"type": int}),
    Flag("bilinear", "model.bilinear", "upsample bilinearly, or with transposed convolutions",
         {"action": argparse.BooleanOptionalAction}),
    Flag("lambda_l1", "loss.lambda_l1", "weight of the L1 loss", {"type": float}),
    Flag("lambda_smooth", "loss.lambda_smooth", "weight of the smoothness of the prediction", {"type": float}),
    Flag("learning_rate", "training.learning_rate", "learning rate", {"type": float}),
    Flag("nb_epochs", "training.nb_epochs", "epochs", {"type": int}),
    Flag("optimizer", "training.optimizer", "SGD has momentum 0.9", {"choices": ("Adam", "AdamW", "SGD")}),
    Flag("weight_decay", "training.weight_decay", "weight decay", {"type": float}),
    Flag("scheduler", "training.scheduler", "step: half the rate every 50 epochs",
         {"choices": ("none", "cosine", "step")}),
    Flag("save_frequency", "training.save_frequency", "epochs between two epoch_*.pth", {"type": int}),
    Flag("use_wandb", "training.use_wandb", "log to Weights & Biases too", {"action": "store_true"}),
    Flag("wandb_project", "training.wandb_project", "its project", {"type": str}),
    Flag("experiment_name", "experiment_name", "folder below checkpoints/, logs/ and results/", {"type": str}),
    Flag("device", "training.device", "auto, cpu, cuda or cuda:N", {"type": str}),
    Flag("bf16", "training.bf16", "bfloat16 autocast", {"action": "store_true"}),
    Flag("ema", "training.ema", "decay of a moving average of the weights, which is then judged and kept",
         {"type": float}),
    Flag("seed", "training.seed", "seed", {"type": int}),
)  # fmt: skip
STUDENT = (
    Flag("attention_levels", "model.attention_levels", "levels with cross attention between the ears",
         {"type": int, "nargs": "+"}),
    Flag("attention", "model.attention", "kind of cross attention", {"choices": ("mha", "reference")}),
    Flag("criterion", "loss.criterion", "task loss", {"choices": ("L1", "SIlog", "Combined")}),
    Flag("silog_lambda", "loss.silog_lambda", "0 keeps the scale error, 1 ignores it", {"type": float}),
    Flag("l1_weight", "loss.l1_weight", "weight of L1 in Combined", {"type": float}),
    Flag("silog_weight", "loss.silog_weight", "weight of SIlog in Combined", {"type": float}),
)  # fmt: skip
TEACHING = (
    Flag("teacher", "distillation.teacher", "best_model.pth of train_rgb_depth.py", {"type": Path}),
    Flag("lambda_kd", "distillation.lambda_kd", "weight of the teacher's depth", {"type": float}),
    Flag("lambda_feat", "distillation.lambda_feat", "weight of the teacher's features", {"type": float}),
    Flag("kd_loss", "distillation.response", "how depths are compared", {"choices": ("log_huber", "l1", "mse")}),
    Flag("kd_region", "distillation.region", "where the teacher's depth counts",
         {"choices": ("valid", "invalid", "all")}),
    Flag("adaptive", "distillation.adaptive.anneal", "how the teacher's weights fall over the training",
         {"choices": ("none", "cosine", "linear")}),
    Flag("crossfit_folds", "distillation.crossfit_folds", "train so many teachers by location, each sample's teacher "
         "never saw its location", {"type": int}),
)  # fmt: skip
FLAGS = {"rgb": COMMON, "audio": COMMON + STUDENT, "distillation": COMMON + STUDENT + TEACHING}


@dataclass(frozen=True)
class Request:
    """A parsed command line."""

    kind: Kind
    given: dict[str, Any]  # setting -> value, of the flags that stood there
    files: tuple[Path, ...]
    sets: tuple[str, ...]
    epoch: int | None  # --checkpoints
    fresh: bool

    def settings(self) -> Settings:
        """The settings; with --checkpoints those that the experiment was begun with, under what is given now.

        Raises ConfigError.
        """
        now = resolve(self.kind, self.files, self.overrides())
        if self.epoch is None:
            return now
        begun = now.folder("logs") / "config.yaml"
        if not begun.is_file():
            raise ConfigError(f"--checkpoints {self.epoch}: there is no experiment {now.name} ({begun} is missing); "
                              "name the one to resume: --experiment_name NAME")  # fmt: skip
        return resolve(self.kind, [begun, *self.files], self.overrides())

    def overrides(self) -> list[str]:
        flags = [f"{key}={json.dumps(_plain(value))}" for key, value in self.given.items()]
        return [*flags, *self.sets]


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def make_parser(kind: Kind, prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=f"{DESCRIPTION[kind]} The same command continues a cut run. Without --data_dir a small world is "
        "written and used.",
        epilog=EXPERIMENTS_HINT if kind == "distillation" else None,
        allow_abbrev=False,
    )
    defaults = resolve(kind)
    for flag in FLAGS[kind]:
        default = defaults
        for part in flag.key.split("."):
            default = getattr(default, part)
        parser.add_argument(f"--{flag.name}", dest=flag.key, default=argparse.SUPPRESS,
                            help=f"{flag.help} (default: {_shown(default)})", **flag.options)  # fmt: skip
    parser.add_argument("--embedded_samples", type=int, metavar="N", help="size of the embedded world: N samples to "
                        "train on, a quarter of it for validation and for testing (default: 64, 16, 16)")  # fmt: skip
    parser.add_argument("--checkpoints", type=int, metavar="EPOCH", help="go back to epoch_<EPOCH>.pth of the "
                        "experiment and continue from there (default: where it was cut)")  # fmt: skip
    parser.add_argument("--fresh", action="store_true", help="delete the experiment of that name and begin it anew")
    parser.add_argument("--config", action="append", type=Path, default=[], metavar="FILE", help="YAML laid over the "
                        f"defaults of config/{kind}.yaml; repeatable, later wins, flags win over it")  # fmt: skip
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="any other setting")
    return parser


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        return " ".join(map(str, default))
    return "none" if default is None else str(default)


def parse(kind: Kind, argv: Sequence[str] | None, prog: str) -> Request:
    """The command line; a wrong flag ends with usage and exit code 2, as argparse does."""
    values = vars(make_parser(kind, prog).parse_args(argv))
    own = {name: values.pop(name) for name in ("embedded_samples", "checkpoints", "fresh", "config", "set")}
    if own["embedded_samples"] is not None:
        values.update(_embedded(own["embedded_samples"]))
    if own["fresh"] and own["checkpoints"] is not None:
        raise ConfigError("--fresh begins anew and --checkpoints continues from an epoch: give one of them")
    return Request(kind, values, tuple(own["config"]), tuple(own["set"]), own["checkpoints"], own["fresh"])


def _embedded(samples: int) -> dict[str, int]:
    quarter = max(1, samples // 4)
    return {"data.embedded.train": samples, "data.embedded.val": quarter, "data.embedded.test": quarter}
