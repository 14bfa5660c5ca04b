"""OpenPCDet's command lines, flag for flag, and the few of our own.

A flag that is not given leaves the configuration as it is. Flags that have no meaning here are accepted and named in a
warning. `--bf16` is there to be refused with its reason.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.errors import ConfigError
from shared.folder import SAFE_NAME

from .config import PACKAGE_ROOT, Experiment
from .pcdet_yaml import find_config, in_package, load_experiment, output_group

PROGRAMS = ("train_rmae_cmae_phase1.py", "train.py", "test.py")
IGNORED = ("use_tqdm_to_record", "wo_gpu_stat", "fix_random_seed", "tcp_port", "local_rank")
IGNORED_WHY = {
    "use_tqdm_to_record": "progress is logged in lines",
    "wo_gpu_stat": "no GPU statistics are recorded",
    "fix_random_seed": "every run is seeded here (SEED)",
    "tcp_port": "torchrun chooses the port",
    "local_rank": "torchrun's LOCAL_RANK counts",
}
BF16 = (
    "--bf16: sparse convolutions have no bfloat16 kernels (spconv casts to float16 or fails): train in float32, or "
    "with --use_amp (float16) on CUDA"
)


@dataclass(frozen=True)
class Request:
    """A parsed command line with its configuration."""

    args: argparse.Namespace
    config_file: Path
    experiment: Experiment

    @property
    def output(self) -> Path:
        """output/<folders below cfgs>/<stem>, which holds a folder for each --extra_tag."""
        return in_output(self.args.output_dir) / output_group(self.config_file)

    @property
    def ignored(self) -> list[str]:
        """Flags that were given and have no effect, each with the reason."""
        return [f"--{name} ({IGNORED_WHY[name]})" for name in IGNORED if getattr(self.args, name, None)]


def in_output(path: Path) -> Path:
    """--output_dir counts from the package's folder."""
    return path if path.is_absolute() else PACKAGE_ROOT / path


def parse_config(program: str, argv: Sequence[str] | None = None) -> Request:
    """The command line of one of PROGRAMS and the configuration that it names.

    Raises ConfigError: no such file, wrong settings, or flags that contradict each other.
    """
    parser = test_parser() if program == "test.py" else train_parser(program)
    args = parser.parse_args(argv)
    if args.bf16:
        raise ConfigError(BF16)
    for flag in ("extra_tag", "eval_tag"):
        _refuse_paths(flag, getattr(args, flag, "default"))
    config_file = find_config(args.cfg_file)
    sets = [*args.set_cfgs]
    if getattr(args, "epochs", None) is not None:
        sets += ["OPTIMIZATION.NUM_EPOCHS", str(args.epochs)]
    if args.seed is not None:
        sets += ["SEED", str(args.seed)]
    return Request(args, config_file, load_experiment(config_file, sets))


def _refuse_paths(flag: str, name: str) -> None:
    if not SAFE_NAME.fullmatch(name):
        raise ConfigError(
            f"--{flag} {name!r} is not a usable name: letters, digits, '.', '_' and '-', one path component"
        )


def train_parser(program: str) -> argparse.ArgumentParser:
    parser = _common(program, "Train from a configuration in OpenPCDet's form. The same command continues a cut run.")
    add = parser.add_argument
    add("--epochs", type=int, help="OPTIMIZATION.NUM_EPOCHS")
    add("--sync_bn", action="store_true", help="batch norm over all processes (CUDA)")
    add("--fix_random_seed", action="store_true", help="accepted; every run is seeded (SEED, default 666)")
    add("--ckpt_save_interval", type=int, default=1, metavar="EPOCHS", help="between two checkpoints (default: 1)")
    add("--max_ckpt_save_num", type=int, default=30, metavar="N", help="checkpoints kept (default: 30)")
    add("--merge_all_iters_to_one_epoch", action="store_true", help="all epochs as one long one")
    add("--max_waiting_mins", type=int, default=0, help="accepted; the final evaluation waits for nothing (default: 0)")
    add("--start_epoch", type=int, default=0, help="do not evaluate checkpoints before this epoch (default: 0)")
    add("--num_epochs_to_eval", type=int, default=0, help="last checkpoints that the final evaluation judges; "
        "0: the last one (default: 0)")  # fmt: skip
    add("--use_tqdm_to_record", action="store_true", help="accepted; progress is logged in lines")
    add("--logger_iter_interval", type=int, default=50, metavar="STEPS", help="between two log lines (default: 50)")
    add("--ckpt_save_time_interval", type=int, default=300, metavar="SECONDS",
        help="between two saves of latest_model.pth and of the exact state inside an epoch (default: 300)")  # fmt: skip
    add("--wo_gpu_stat", action="store_true", help="accepted; none are recorded")
    add("--use_amp", action="store_true", help="float16 autocast, on CUDA only")
    add("--save_every", type=int, default=None, metavar="STEPS", help="ours: steps between two saves of the exact "
        "state inside an epoch, beside those by time")  # fmt: skip
    add("--keep", type=int, default=2, help="ours: exact states kept (default: 2)")
    return parser


def test_parser() -> argparse.ArgumentParser:
    parser = _common("test.py", "Judge a checkpoint, or all checkpoints of a run.")
    add = parser.add_argument
    add("--max_waiting_mins", type=int, default=30, help="with --eval_all: how long to wait for new checkpoints")
    add("--start_epoch", type=int, default=0, help="with --eval_all: skip checkpoints before this epoch (default: 0)")
    add("--eval_tag", default="default", help="folder below the split's (default: default)")
    add("--eval_all", action="store_true", help="judge every checkpoint of --ckpt_dir that was not judged yet")
    add("--ckpt_dir", type=Path, help="with --eval_all (default: the run's ckpt/)")
    add("--infer_time", action="store_true", help="measure the time of each batch; written into result.json")
    return parser


def _common(program: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description=description, allow_abbrev=False)
    add = parser.add_argument
    add("--cfg_file", required=True, metavar="FILE", help="cfgs/..., tools/cfgs/... or any path")
    add("--batch_size", type=int, help="frames of one step over all processes (default: BATCH_SIZE_PER_GPU each)")
    add("--workers", type=int, default=4, help="processes that load data (default: 4)")
    add("--extra_tag", default="default", help="folder of this run (default: default)")
    add("--ckpt", type=Path, help="checkpoint to continue from, or to judge")
    add("--pretrained_model", type=Path, help="weights to begin with, matched by name and shape, with a report")
    add("--launcher", choices=("none", "pytorch", "slurm"), default="none", help="pytorch: torchrun; slurm: srun")
    add("--tcp_port", type=int, help="accepted; torchrun chooses")
    add("--local_rank", "--local-rank", type=int, help="accepted; torchrun's LOCAL_RANK counts")
    add("--set", dest="set_cfgs", nargs="+", action="extend", default=[], metavar=("KEY", "VALUE"),
        help="settings, KEY VALUE pairs: --set OPTIMIZATION.LR 0.002")  # fmt: skip
    add("--save_to_file", action="store_true", help="detections as KITTI text, beside result.json")
    add("--bf16", action="store_true", help="refused: sparse layers have no bfloat16 kernels")
    add("--seed", type=int, help="ours: SEED")
    add("--device", default="auto", help="ours: auto, cpu, cuda or cuda:N (default: auto)")
    add("--output_dir", type=Path, default=Path("output"), help="ours: root of all output (default: output)")
    add("--loader_timeout_s", type=float, default=120.0, help="ours: longest wait for one batch (default: 120)")
    add("--validate", action="store_true", help="ours: list every problem of the data root, and stop")
    return parser


def existing(path: Path, flag: str) -> Path:
    """A file that a flag names; output/... counts from the package's folder. ConfigError when it is not there."""
    found = in_package(path)
    if not found.is_file():
        raise ConfigError(f"{flag} {path}: there is no such file (looked for {found}); check the path")
    return found
