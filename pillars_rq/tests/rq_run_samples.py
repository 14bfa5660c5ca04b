"""A work folder from which train_eval_rq.py can start: a few frames, a tiny base detector, a shrunk contract file."""

from pathlib import Path

import torch
import yaml
from base_samples import write_root

from pillars_rq import rq_command
from pillars_rq.grid import Grid
from pillars_rq.network import PointPillars, Widths
from pillars_rq.weights import save_base

CONTRACT = Path(__file__).parents[1] / "exp" / "split1_ALL.yaml"
GRID = Grid((0.0, -5.12, -3.0, 10.24, 5.12, 1.0), (0.32, 0.32, 4.0), max_points=8)  # 32 x 32
CHANNELS = 8
SHRUNK = {  # grid, schedule and epochs; every other value is the contract's
    "rq_model.latent_shape": [32, 32, CHANNELS],
    "rq_model.code_shape": [32, 32, 1],
    "rq_model.codebook_size": 4,
    "model.n_codebook": 2,
    "progressive_learning.embedding_schedule": [2, 4],
    "progressive_learning.embedding_stage_epochs": 2,
    "progressive_learning.warmup_epochs": 1,
    "training.max_epoch": 2,
    "training.batch_size": 2,
    "training.num_workers": 0,
    "training.ckpt_freq_epoch": 2,
}


def contract() -> dict:
    """The contract file, as YAML 1.2 means it."""
    return yaml.safe_load(CONTRACT.read_text())


def write_work(work: Path, changes: dict | None = None, train: int = 6, val: int = 2) -> Path:
    """datasets/ (the parent of a root), pretrained/epoch_160.pth (ours, tiny) and exp/split1_ALL.yaml."""
    (work / "datasets").mkdir(parents=True)
    write_root(work / "datasets" / "kitti", train, val)
    (work / "pretrained").mkdir()
    torch.manual_seed(0)
    model = PointPillars(GRID, widths=Widths(pillar=CHANNELS, blocks=(8, 8, 8), layers=(1, 0, 0), neck=8))
    save_base(work / "pretrained" / "epoch_160.pth", model, step=0)
    write_config(work, changes)
    return work


def write_config(work: Path, changes: dict | None = None) -> Path:
    settings = contract()
    for key, value in {**SHRUNK, **(changes or {})}.items():
        section, name = key.split(".")
        settings[section][name] = value
    path = work / "exp" / "split1_ALL.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(settings))
    return path


def command(line: str) -> int:
    """A command line of the contract, verbatim, in this process and the current folder."""
    words = line.replace("\\\n", " ").split()
    assert words[:2] == ["python", "train_eval_rq.py"]
    return rq_command.main(words[2:])
