"""A run's folder in OpenPCDet's layout, and what a training has in hand.

output/<folders below cfgs>/<stem>/<extra_tag>/
    ckpt/checkpoint_epoch_N.pth  ckpt/latest_model.pth        engine.checkpoints
    tensorboard/  train_<time>.log  <stem>.yaml  eval/         as OpenPCDet has them
    run.json  config.yaml  metrics.jsonl  log.txt  <stage>/    shared.run, shared.loop: the exact state
"""

import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from shared import checkpoint
from shared.config import Schema, config_hash, to_yaml
from shared.errors import UserError
from shared.run import RunFolder, World
from shared.storage import storage_error, write_atomic

from ..config import Experiment
from ..flags import Request, existing
from ..pcdet_yaml import read_settings
from ..unused_keys import unread_by_masking, without_effect

PACKAGES = ("torch", "numpy", "spconv-cu120")
# What changes neither weights nor numbers, so that a cut run can be continued with another value.
NOT_HASHED = ("pretrained_model", "ckpt", "experiment.DATA_CONFIG.EMBEDDED_DIR")


class RunSettings(Schema):
    """Everything that decides a run: what its folder remembers, and another command is compared with."""

    config_file: str
    experiment: Experiment
    batch_size: int | None  # total over processes; null: BATCH_SIZE_PER_GPU each
    pretrained_model: str | None
    pretrained_sha256: str | None
    ckpt: str | None
    ckpt_sha256: str | None
    use_amp: bool
    sync_bn: bool
    merge_all_iters_to_one_epoch: bool

    @classmethod
    def of(cls, request: Request) -> "RunSettings":
        """ConfigError when --pretrained_model or --ckpt is not there."""
        args = request.args
        weights = args.pretrained_model and existing(args.pretrained_model, "--pretrained_model")
        begin = args.ckpt and existing(args.ckpt, "--ckpt")
        return cls(
            config_file=request.config_file.name,
            experiment=request.experiment,
            batch_size=args.batch_size,
            pretrained_model=weights and str(weights),
            pretrained_sha256=weights and checkpoint.sha256_of(weights),
            ckpt=begin and str(begin),
            ckpt_sha256=begin and checkpoint.sha256_of(begin),
            use_amp=args.use_amp,
            sync_bn=args.sync_bn,
            merge_all_iters_to_one_epoch=args.merge_all_iters_to_one_epoch,
        )


@dataclass(frozen=True)
class Session:
    """What a training run has in hand."""

    request: Request
    settings: RunSettings
    run: RunFolder
    world: World

    @property
    def experiment(self) -> Experiment:
        return self.settings.experiment

    @property
    def batch_size(self) -> int:
        """Frames of one step over all processes."""
        return self.settings.batch_size or self.experiment.OPTIMIZATION.BATCH_SIZE_PER_GPU * self.world.size


def open_run(request: Request, world: World) -> tuple[RunSettings, RunFolder]:
    """The run's folder, locked (collective). UserError: taken by another process, or begun with other settings."""
    settings = RunSettings.of(request)
    try:
        run = RunFolder.open(
            request.output,
            name=request.args.extra_tag,
            config_hash=config_hash(settings, NOT_HASHED),
            config_yaml=to_yaml(settings),
            stages=(settings.experiment.stage,),
            world=world,
            command=sys.argv,
            packages=PACKAGES,
        )
    except UserError as error:
        advice = str(error).replace("--run NAME", "--extra_tag NAME").replace("--run ", "--extra_tag ")
        raise type(error)(advice) from error
    logging.getLogger("voxel_mae").setLevel(logging.INFO)  # the run's handlers write it; the weights' report is one
    if world.is_main:
        _leave_familiar_files(request, run)
    _warn(request, run)
    return settings, run


def _leave_familiar_files(request: Request, run: RunFolder) -> None:
    """The configuration as it was given, and train_<time>.log, which leads to log.txt."""
    if request.config_file.name != "config.yaml":
        write_atomic(run.file(request.config_file.name), request.config_file.read_bytes())
    if not any(run.path.glob("train_*.log")):
        link = run.path / f"train_{time.strftime('%Y%m%d-%H%M%S')}.log"
        try:
            link.symlink_to("log.txt")
        except OSError as error:
            raise storage_error(link, error) from error


def _warn(request: Request, run: RunFolder) -> None:
    """One warning each for keys that have no effect, for keys of another masking, and for flags without effect."""
    given = read_settings(request.config_file, request.args.set_cfgs).data
    if keys := without_effect(Experiment, given):
        run.log.warning("these settings have no effect here: %s", ", ".join(keys))
    if keys := unread_by_masking(request.experiment, given):
        masking = request.experiment.MODEL.BACKBONE_3D.masking
        run.log.warning("the masking is %s, which does not read %s", masking, ", ".join(keys))
    if request.ignored:
        run.log.warning("these flags have no effect here: %s", ", ".join(request.ignored))


def tag_folder(request: Request) -> Path:
    """output/.../<extra_tag>, whether it is there or not."""
    return request.output / request.args.extra_tag
