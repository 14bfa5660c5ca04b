"""The command behind the three training scripts: flags to settings, settings to a training.

python train_rgb_depth.py --dataset batvisionv2 --base_channels 64 --nb_epochs 200
torchrun --nproc-per-node 4 train_distillation.py --teacher checkpoints/rgb_teacher_for_kd/best_model.pth
"""

import sys
from collections.abc import Sequence

from shared.run import run_command

from .config import Kind
from .flags import parse
from .training import train

PROGRAMS = {
    "rgb": "train_rgb_depth.py",
    "audio": "train_binaural_attention.py",
    "distillation": "train_distillation.py",
}
EXPERIMENTS = "--experiments"  # train_distillation.py: the comparison of the arms


def main(kind: Kind, argv: Sequence[str] | None = None) -> int:
    """Run a training script; returns its exit code (2: a mistake of the user's, 1: non-finite numbers or full disk)."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if kind == "distillation" and EXPERIMENTS in argv:
        from .experiments import main as experiments

        return experiments([word for word in argv if word != EXPERIMENTS])
    return run_command(lambda: execute(kind, argv))


def execute(kind: Kind, argv: Sequence[str]) -> int:
    request = parse(kind, argv, PROGRAMS[kind])
    train(request.settings(), epoch=request.epoch, fresh=request.fresh)
    return 0
