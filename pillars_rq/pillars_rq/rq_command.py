"""The command train_eval_rq.py: train, evaluate at one (n, k), or at all of them.

    python train_eval_rq.py --config exp/split1_ALL.yaml [--gpu N] [--no_wandb]
    python train_eval_rq.py --config exp/split1_ALL.yaml --mode eval --eval_num_codebooks 3 --eval_num_embeddings 64 \
        --rq_ckpt progressive_rq_logs/checkpoints/final.pth
    python train_eval_rq.py --config exp/split1_ALL.yaml --mode grid --rq_ckpt ...

Training writes into logging.saved_path (legacy mode: beside it, with "-legacy"), evaluations beside it ("-eval",
"-grid"). The same command continues a cut run.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from shared import run as run_module
from shared.config import config_hash, to_yaml
from shared.errors import ConfigError, DataError

from .checkpoints import Loaded, check_belongs, check_point, load_rq
from .config import NOT_HASHED, RqConfig, check_network, resolve, warnings_of
from .detector import FrozenDetector, open_detector
from .embedded import BANNER
from .kitti.validate import validate
from .progressive import FINAL, describe, stages_of
from .rq_data import Data, open_data, open_root
from .rq_training import train_all
from .session import CHECKPOINTS, open_session

MODES = ("train", "eval", "grid")
DISTRIBUTIONS = ("torch", "numpy", "numba")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train_eval_rq.py",
        description="Train residual codebooks between the halves of a PointPillars detector, or evaluate them. The "
        "same command continues a cut run.",
    )
    parser.add_argument("--config", action="append", type=Path, default=[], metavar="FILE",
                        help="YAML over the defaults; repeatable, later wins")  # fmt: skip
    parser.add_argument("--gpu", type=int, help="hardware.gpu; -1 is the CPU")
    parser.add_argument("--no_wandb", action="store_true", help="logging.use_wandb: false")
    parser.add_argument("--mode", choices=MODES, help="training.mode; beats evaluation.enabled")
    parser.add_argument("--eval_num_codebooks", type=int, metavar="N", help="evaluation.use_num_codebook")
    parser.add_argument("--eval_num_embeddings", type=int, metavar="K", help="evaluation.use_num_embedding")
    parser.add_argument("--rq_ckpt", type=Path, metavar="FILE", help="evaluation.rq_ckpt")
    parser.add_argument("--target-kb", type=float, metavar="KB",
                        help="eval: each frame's best (n, k) within so many kB instead of one for all")  # fmt: skip
    parser.add_argument("--run", metavar="NAME", help="folder beside logging.saved_path to use instead of it")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", dest="overrides",
                        help="one setting; wins over all files")  # fmt: skip
    parser.add_argument("--validate", action="store_true", help="list every problem of the data root, and stop")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return run_module.run_command(lambda: execute(args))


def execute(args: argparse.Namespace) -> int:
    config = resolve(args)
    if args.validate:
        return validate_data(config)
    for warning in warnings_of(config):
        _say(f"warning: {warning}")
    mode = config.training.mode
    if mode == "train":
        return train(config, args.run)
    with run_module.world_from_environment(device_name(config)) as world:
        if world.size > 1:
            raise ConfigError(
                f"--mode {mode} runs in one process: start it without torchrun (training may use several)"
            )
        detector, loaded, data = open_evaluation(config, world)
        from .grid_report import evaluate_grid, evaluate_point  # matplotlib is slow to import

        evaluation = evaluate_point if mode == "eval" else evaluate_grid
        evaluation(config, detector, loaded, data, output_folder(config, args.run, f"-{mode}"))
    return 0


def train(config: RqConfig, name: str | None) -> int:
    stages = stages_of(config)
    _say(describe(stages))
    folder = output_folder(config, name, "" if config.progressive_learning.enabled else "-legacy")
    with run_module.world_from_environment(device_name(config)) as world:
        detector, data = open_parts(config, world)
        with run_module.RunFolder.open(
            folder.parent,
            name=folder.name,
            config_hash=config_hash(config, NOT_HASHED),
            config_yaml=to_yaml(config),
            stages=[stage.name for stage in stages],
            world=world,
            command=sys.argv,
            packages=DISTRIBUTIONS,
            wandb=config.logging.use_wandb,
            wandb_project=config.logging.wandb_project,
            wandb_name=config.logging.wandb_name,
        ) as run:
            if run.is_done(FINAL):
                run.log.info("%s is done: %s", run.path, run.path / CHECKPOINTS / FINAL)
                return 0
            session = open_session(config, run, world, detector, data)
            table = train_all(session)
            if world.is_main:
                from .grid_report import write_training_report  # matplotlib is slow to import

                write_training_report(session, table)
            run.mark_done(FINAL)
            run.log.info("wrote %s", run.path / CHECKPOINTS / FINAL)
    return 0


# --- parts ------------------------------------------------------------------------------------------------------------


def open_parts(config: RqConfig, world: run_module.World) -> tuple[FrozenDetector, Data]:
    """The frozen detector and the frames. UserError for whatever is missing or does not fit."""
    detector = open_detector(config.model.pretrained_weight, config.model.build_grid(), world.device)
    check_network(config, detector.grid, detector.channels, len(detector.class_names))
    root = open_root(config.dataset, world)
    data = open_data(config.dataset, root, detector.grid, detector.class_names, config.training.seed)
    if data.mark and world.is_main:
        run_module.announce(BANNER)
    return detector, data


def open_evaluation(config: RqConfig, world: run_module.World) -> tuple[FrozenDetector, Loaded, Data]:
    """Detector, checkpoint and frames of an evaluation, and whether they belong together."""
    settings, mode = config.evaluation, config.training.mode
    if settings.rq_ckpt is None:
        raise ConfigError(
            f"--mode {mode} needs a checkpoint: --rq_ckpt FILE (or evaluation.rq_ckpt), such as "
            f"{config.logging.saved_path / CHECKPOINTS / FINAL}"
        )
    loaded = load_rq(settings.rq_ckpt)
    if mode == "eval" and settings.target_kb is None:
        check_point(loaded, settings.use_num_codebook, settings.use_num_embedding)
    detector, data = open_parts(config, world)
    for warning in check_belongs(loaded, detector.grid, detector.channels, detector.base_sha256):
        _say(f"warning: {warning}")
    return detector, loaded, data


def device_name(config: RqConfig) -> str:
    """The device hardware.gpu means: that GPU, else GPU 0, else the CPU, with a warning; under torchrun each process
    takes the GPU of its rank."""
    wanted, found = config.hardware.gpu, torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted < 0:
        return "cpu"
    if wanted < found:
        return f"cuda:{wanted}"
    instead = "cuda:0" if found else "cpu"
    _say(f"warning: hardware.gpu {wanted} is not there ({found} GPUs found): using {instead}")
    return instead


def output_folder(config: RqConfig, name: str | None, suffix: str) -> Path:
    """logging.saved_path, or the folder NAME beside it, with a suffix for what is not progressive training."""
    saved = config.logging.saved_path
    folder = saved.with_name(f"{name or saved.name}{suffix}")
    return folder if folder.is_absolute() else Path.cwd() / folder


def validate_data(config: RqConfig) -> int:
    """Print every problem of the data root; 2 when there is one."""
    if config.dataset.dir is None:
        print("dataset.dir is null: the embedded world needs no validation")
        return 0
    root = open_root(config.dataset)
    problems = validate(root)
    if problems:
        raise DataError(f"{root.path}: {len(problems)} problems\n" + "\n".join(problems))
    print(f"{root.path}: no problems")
    return 0


def _say(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr if text.startswith("warning") else sys.stdout, flush=True)
