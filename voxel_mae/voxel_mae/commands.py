"""The commands behind tools/: train_rmae_cmae_phase1.py, train.py and test.py.

    python tools/train_rmae_cmae_phase1.py --cfg_file cfgs/custom_models/<pretraining>.yaml --extra_tag NAME
    bash scripts/dist_train.sh 1 --cfg_file cfgs/custom_models/<finetune>.yaml --pretrained_model output/...

    parse_config() -> open_sources() -> open_run() -> build_network() -> train_model_phase1() or train_model()
    -> evaluation of the last checkpoint

`train_rmae_cmae_phase1.py` pretrains and `train.py` trains a detector; each refuses the other's configuration.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence

from shared.errors import ConfigError
from shared.run import World, run_command, world_from_environment

from .data.validate import Expected, validate
from .engine.session import Session, open_run
from .engine.sources import Sources, open_sources
from .engine.testing import test
from .engine.training import evaluate_last, train_model, train_model_phase1
from .flags import Request, parse_config

PRETRAIN, TRAIN, TEST = "train_rmae_cmae_phase1.py", "train.py", "test.py"
SLURM_PORT = 29_500
__all__ = ["main", "parse_config", "train", "train_model", "train_model_phase1"]


def main(program: str, argv: Sequence[str] | None = None) -> int:
    """Run an entry script; returns its exit code (2: a mistake of the user's, 1: non-finite numbers or full disk)."""
    argv = sys.argv[1:] if argv is None else list(argv)
    return run_command(lambda: execute(program, argv))


def execute(program: str, argv: Sequence[str]) -> int:
    request = parse_config(program, argv)
    _launch(request)
    with world_from_environment(request.args.device) as world:
        sources = open_sources(request.experiment, world)
        if request.args.validate:
            return validate_root(sources)
        if program == TEST:
            return test(request, sources, world)
        _check_program(program, request)
        train(request, sources, world)
    return 0


def train(request: Request, sources: Sources, world: World) -> dict:
    """Train, or continue, to the end, and judge the last checkpoints; a finished run is only reported. Its scores."""
    settings, run = open_run(request, world)
    with run:
        stage = settings.experiment.stage
        run.log.info("%s: %s", sources.root.path, sources.described())
        _record_data(run, sources, settings.experiment.SEED)
        if run.is_done(stage):
            run.log.info("%s is finished. Another --extra_tag trains beside it.", run.path)
            return run.recorded("stages")[stage].get("scores", {})
        session = Session(request, settings, run, world)
        (train_model_phase1 if settings.experiment.pretraining else train_model)(session, sources)
        scores = evaluate_last(session, sources)
        run.mark_done(stage, scores=scores)
        run.log.info("finished %s", run.path)
        return scores


def _record_data(run, sources: Sources, seed: int) -> None:
    """ConfigError when the run was begun with other frames."""
    before, now = run.recorded("data_fingerprint"), sources.fingerprint
    if before not in (None, now):
        raise ConfigError(f"{run.path} was begun with the frames {before}, and {sources.root.path} now gives {now}: "
                          "restore the data, or take another --extra_tag")  # fmt: skip
    run.record(seed=seed, data="embedded" if sources.embedded else str(sources.root.path), data_fingerprint=now,
               mark=sources.mark)  # fmt: skip


def _check_program(program: str, request: Request) -> None:
    if request.experiment.pretraining != (program == PRETRAIN):
        other = PRETRAIN if request.experiment.pretraining else TRAIN
        raise ConfigError(
            f"{request.config_file}: MODEL.BACKBONE_3D.PRETRAINING is {request.experiment.pretraining}; this is work "
            f"for tools/{other}"
        )
    if request.experiment.pretraining and request.args.pretrained_model:
        raise ConfigError(
            "--pretrained_model begins a fine-tuning; pretraining continues from its own state with --ckpt"
        )


def validate_root(sources: Sources) -> int:
    """List every problem of the data root; 0 when there is none, else 2."""
    data = sources.experiment.DATA_CONFIG
    expected = Expected(data.POINT_FEATURE_ENCODING.src_feature_list, sources.experiment.CLASS_NAMES,
                        data.POINT_CLOUD_RANGE)  # fmt: skip
    problems = validate(sources.root, expected, list(dict.fromkeys((data.DATA_SPLIT.train, data.DATA_SPLIT.test))))
    print("\n".join(problems) or f"{sources.root.path}: no problem found")
    return 2 if problems else 0


# --- launchers --------------------------------------------------------------------------------------------------------


def _launch(request: Request) -> None:
    """--launcher: torchrun and srun say in the environment which process this is; srun's words are put into torch's."""
    launcher = request.args.launcher
    if launcher == "slurm" and "SLURM_PROCID" in os.environ:
        os.environ.update(slurm_environment(os.environ))
    elif launcher == "slurm" or (launcher == "pytorch" and "WORLD_SIZE" not in os.environ):
        script = "slurm_train.sh (srun)" if launcher == "slurm" else "dist_train.sh (torchrun)"
        raise ConfigError(f"--launcher {launcher}: this process was not started by it; use scripts/{script}")


def slurm_environment(given: Mapping[str, str]) -> dict[str, str]:
    """torchrun's variables from srun's. The first node of the list leads; MASTER_ADDR and MASTER_PORT win when set."""
    first, bracket, numbers = given.get("SLURM_NODELIST", "127.0.0.1").split(",")[0].partition("[")
    leader = first + re.split(r"[-\]]", numbers)[0] if bracket else first
    return {
        "RANK": given["SLURM_PROCID"],
        "WORLD_SIZE": given.get("SLURM_NTASKS", "1"),
        "LOCAL_RANK": given.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": given.get("MASTER_ADDR", leader),
        "MASTER_PORT": given.get("MASTER_PORT", str(SLURM_PORT)),
    }
