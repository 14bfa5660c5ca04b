"""tools/train.py: MMDetection's training command for pairs.

    python tools/train.py CONFIG [--work-dir DIR] [--amp] [--auto-scale-lr] [--resume [PATH]]
                                 [--cfg-options KEY=VALUE ...] [--launcher none|pytorch|slurm|mpi]

The same command with --resume continues a cut run exactly. Exit codes: 0 done, 1 non-finite numbers or a full disk,
2 something for you to mend, 130 and 143 interrupted (saved).
"""

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence

from shared.errors import ConfigError
from shared.run import Interrupted, World, run_command, world_from_environment

LAUNCHERS = ("none", "pytorch", "slurm", "mpi")


def parser() -> argparse.ArgumentParser:
    """MMDetection's flags."""
    flags = argparse.ArgumentParser(description="Train a detector of visible/infrared pairs")
    flags.add_argument("config", help="config file")
    flags.add_argument("--work-dir", help="folder for logs and checkpoints (default: work_dirs/<config>)")
    flags.add_argument("--amp", action="store_true", help="mixed precision (needs CUDA; float32 without)")
    flags.add_argument("--auto-scale-lr", action="store_true", help="scale the rate by batch size / base_batch_size")
    flags.add_argument(
        "--resume", nargs="?", const="auto", help="continue: the newest checkpoint of the work dir, or a named one"
    )
    add_common(flags)
    return flags


def add_common(flags: argparse.ArgumentParser) -> None:
    """Flags of both commands."""
    flags.add_argument(
        "--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="settings over the config's, e.g. train_cfg.max_epochs=24 param_scheduler[1].milestones='[16,22]'",
    )  # fmt: skip
    flags.add_argument("--launcher", choices=LAUNCHERS, default="none", help="how processes were started")
    flags.add_argument("--local_rank", "--local-rank", type=int, default=0, help="set by older launchers")


def main(argv: Sequence[str] | None = None) -> int:
    """Train; the exit code."""
    arguments = parser().parse_args(argv)
    command = [sys.argv[0], *(sys.argv[1:] if argv is None else argv)]
    return run_command(lambda: train(arguments, command))


def train(arguments: argparse.Namespace, command: list[str]) -> int:
    """The command's body; raises what `run_command` turns into exit codes."""
    from .preparation import Request, prepare

    request = Request(arguments.config, arguments.work_dir, arguments.cfg_options, arguments.launcher,
                      arguments.amp, arguments.auto_scale_lr, arguments.resume)  # fmt: skip
    prepared = prepare(request)
    with processes(prepared.cfg, arguments) as world:
        return _train(prepared, world, command)


def _train(prepared, world: World, command: list[str]) -> int:
    from .work_folder import STAGE, begin, is_finished, open_folder

    cfg = prepared.cfg
    with open_folder(cfg, world, command) as run:
        if cfg.resume and is_finished(run, cfg.train_cfg.max_epochs):
            run.log.info("nothing is left to do: all %d epochs are done. To go on, raise train_cfg.max_epochs "
                         "(--cfg-options train_cfg.max_epochs=%d)", cfg.train_cfg.max_epochs,
                         2 * cfg.train_cfg.max_epochs)  # fmt: skip
            return 0
        if not cfg.resume:
            begin(run, world)
        runner = build_runner(prepared, world)
        runner.attach(run)
        try:
            runner.train()
        except Interrupted:
            run.log.info("continue with: %s%s", " ".join(command), "" if "--resume" in command else " --resume")
            raise
        run.mark_done(STAGE, epochs=runner.max_epochs, iterations=runner.iter)
    return 0


def build_runner(prepared, world: World):
    """The runner, its log having what the rules changed."""
    from .runner import PairedRunner

    runner = PairedRunner.from_cfg(prepared.cfg)
    for message in prepared.messages:
        level = logging.WARNING if message.startswith(("WARNING", "EMBEDDED")) else logging.INFO
        runner.logger.log(level, message.removeprefix("WARNING: "))
    if world.is_main:
        runner.logger.info(f"the whole configuration is in {runner.log_dir}/{runner.timestamp}.log")
    return runner


@contextlib.contextmanager
def processes(cfg, arguments: argparse.Namespace) -> Iterator[World]:
    """This run's processes: torchrun's, Slurm's or MPI's, or this one alone.

    Raises:
        ConfigError: started by torchrun without --launcher pytorch: every process would train a run of its own.
    """
    os.environ.setdefault("LOCAL_RANK", str(arguments.local_rank))
    if arguments.launcher in ("slurm", "mpi"):
        from mmengine.dist import get_dist_info, init_dist

        init_dist(arguments.launcher, **cfg.env_cfg.dist_cfg)
        yield World(*get_dist_info())
        return
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size > 1 and arguments.launcher == "none":
        raise ConfigError(f"WORLD_SIZE is {size}: several processes were started, and --launcher is none. Add "
                          "--launcher pytorch.")  # fmt: skip
    if size == 1:
        cfg.launcher = "none"
    with world_from_environment() as world:
        yield world
