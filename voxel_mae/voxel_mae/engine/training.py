"""One stage from settings to its checkpoints; the same command again continues a cut one.

    train_model_phase1(session, sources)      # pretraining
    train_model(session, sources)             # fine-tuning

Both build the network, the optimizer and the loop, and go through the epochs; an epoch ends with a checkpoint when it
is its turn. At the end the newest checkpoints are judged on the held-out split.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from shared import run as run_module
from shared.errors import ConfigError
from shared.loop import Loop, LoopSettings

from ..differential_lr import create_optimizer_with_differential_lr
from ..onecycle import schedule_of
from ..transfer import load_params_from_file
from .batches import Collate, FrameBatch, FrameSampler, KeyedFrames
from .checkpoints import (
    FOLDER,
    LATEST,
    checkpoint_file,
    continue_from,
    epoch_of,
    list_checkpoints,
    remove_old,
    save_checkpoint,
)
from .epochs import AfterStep, TimedSaves, train_one_epoch, train_one_epoch_phase1
from .judging import Judge
from .network import build_network, loss_weights, masking_of
from .precision import Precision
from .session import Session
from .sources import Sources, grid_of

NEVER = 1 << 60  # steps


def train_model_phase1(session: Session, sources: Sources) -> None:
    """Masked pretraining to its last epoch."""
    _fit(session, sources, train_one_epoch_phase1, pretraining_func)


def train_model(session: Session, sources: Sources) -> None:
    """Fine-tuning to its last epoch."""
    _fit(session, sources, train_one_epoch, detection_func)


# --- the step ---------------------------------------------------------------------------------------------------------


def pretraining_func(model: nn.Module, batch: FrameBatch) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """Named unweighted losses and diagnostics of a masked batch; no boxes are read."""
    return model(batch.voxels, keep=batch.keep)


def detection_func(model: nn.Module, batch: FrameBatch) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """Named unweighted losses and diagnostics of a labelled batch; nothing is masked."""
    return model(batch.voxels, boxes=batch.gt_boxes)


def _in_precision(model_func: Callable, precision: Precision) -> Callable:
    def step(model: nn.Module, batch: FrameBatch):
        with precision.autocast():
            terms, diagnostics = model_func(model, batch)
        return precision.scaled(terms), diagnostics

    return step


# --- the epochs -------------------------------------------------------------------------------------------------------


def _fit(s: Session, sources: Sources, train_epoch: Callable, model_func: Callable) -> None:
    experiment, args = s.experiment, s.request.args
    run_module.seed_everything(experiment.SEED)
    precision = Precision.of(s.settings.use_amp, experiment.OPTIMIZATION.AMP_LOSS_SCALE, s.world.device)
    sampler = build_sampler(s, len(sources.train))
    loader = build_dataloader(s, sources, sampler)
    model = build_network(experiment, total_steps=len(sampler) * _epochs(s), world=s.world).to(s.world.device)
    if s.settings.pretrained_model:
        load_params_from_file(model, Path(s.settings.pretrained_model))
    precision.prepare(model)
    loop = build_loop(s, model, sampler)
    if s.settings.ckpt:
        continue_from(loop, Path(s.settings.ckpt))
    loop.resume()
    timed = TimedSaves(args.ckpt_save_time_interval, loop)

    def after_batch() -> None:
        if timed.due():
            loop.save()
            save_checkpoint(loop, LATEST, loop.epoch, card_of(s))

    for _ in loop.epochs():
        train_epoch(loop.model, loader, loop, _in_precision(model_func, precision), after_batch)
        _close(s, loop)


def _close(s: Session, loop: Loop) -> None:
    """The end of an epoch: checkpoint_epoch_N.pth when it is its turn, and latest_model.pth."""
    args, number = s.request.args, loop.epoch + 1
    if number % args.ckpt_save_interval == 0 or number == loop.settings.epochs:
        save_checkpoint(loop, checkpoint_file(number), number, card_of(s))
        remove_old(loop, args.max_ckpt_save_num)
    save_checkpoint(loop, LATEST, number, card_of(s))


def _epochs(s: Session) -> int:
    return 1 if s.settings.merge_all_iters_to_one_epoch else s.experiment.OPTIMIZATION.NUM_EPOCHS


def card_of(s: Session) -> dict[str, Any]:
    """What a checkpoint's manifest says: enough to refuse another grid, other classes or channels (JSON data)."""
    return {"stage": s.experiment.stage, "config": s.settings.model_dump(mode="json"),
            "grid": grid_of(s.experiment.DATA_CONFIG).as_dict()}  # fmt: skip


def build_sampler(s: Session, frames: int) -> FrameSampler:
    rounds = s.experiment.OPTIMIZATION.NUM_EPOCHS if s.settings.merge_all_iters_to_one_epoch else 1
    return FrameSampler(frames, s.batch_size, seed=s.experiment.SEED, rank=s.world.rank, world_size=s.world.size,
                        rounds=rounds)  # fmt: skip


def build_dataloader(s: Session, sources: Sources, sampler: FrameSampler):
    """Training batches: voxels, in pretraining masks, in fine-tuning boxes."""
    grid, args = grid_of(s.experiment.DATA_CONFIG), s.request.args
    collate = Collate(grid, grid.max_voxels_train, masking_of(s.experiment.MODEL.BACKBONE_3D), s.experiment.SEED,
                      labels=not s.experiment.pretraining)  # fmt: skip
    frames = KeyedFrames(sources.train)
    return run_module.make_loader(frames, sampler, workers=args.workers, collate=collate,
                                  timeout_s=args.loader_timeout_s)  # fmt: skip


def build_loop(s: Session, model: nn.Module, sampler: FrameSampler) -> Loop:
    optimization, args = s.experiment.OPTIMIZATION, s.request.args
    model = with_sync_bn(model, s.world) if s.settings.sync_bn else model
    optimizer = create_optimizer_with_differential_lr(model, optimization)
    # A term of weight 0, or an empty batch, leaves parameters unused.
    wrapped = DistributedDataParallel(model, find_unused_parameters=True) if s.world.size > 1 else model
    return Loop(
        stage=s.experiment.stage,
        run=s.run,
        world=s.world,
        model=wrapped,
        optimizer=optimizer,
        schedule=schedule_of(optimization),
        weights=loss_weights(s.experiment),
        sampler=sampler,
        settings=LoopSettings(_epochs(s), 1, optimization.GRAD_NORM_CLIP, args.logger_iter_interval,
                              args.save_every or NEVER, args.keep),
        ema=AfterStep() if s.experiment.pretraining else None,
    )  # fmt: skip


def with_sync_bn(model: nn.Module, world: run_module.World) -> nn.Module:
    """Batch norms over all processes. ConfigError on CPU, where torch has none."""
    if world.device.type != "cuda":
        raise ConfigError("--sync_bn on cpu: torch synchronises batch norm on CUDA only; leave it out")
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


# --- the evaluation ---------------------------------------------------------------------------------------------------


def evaluate_last(s: Session, sources: Sources) -> dict[str, Any]:
    """Judge the last checkpoints (--num_epochs_to_eval, at least one) into eval/eval_with_train (collective); returns
    the last one's scores. Each is logged at its own epoch."""
    args, split = s.request.args, s.experiment.DATA_CONFIG.DATA_SPLIT.test
    kept = [path for path in list_checkpoints(s.run.path / FOLDER) if epoch_of(path) >= args.start_epoch]
    judge, scores = Judge(args, s.experiment, s.world, s.run.log), {}
    for path in kept[-max(1, args.num_epochs_to_eval) :]:
        epoch = epoch_of(path)
        folder = s.run.path / "eval/eval_with_train" / f"epoch_{epoch}" / split
        s.run.log.info("judging epoch %d", epoch)
        scores, numbers = judge.checkpoint(sources, path, folder)
        s.run.metrics.log(epoch, numbers, split=f"{s.experiment.stage}/val")
    return scores
