"""One training from settings to a finished experiment; the same settings again continue a cut one.

    trained = train(settings)
    trained.best, trained.best_val["rmse"]

`python train_*.py` and torchrun take this path. An epoch ends with its state kept, its validation, and best_model.pth
when it is the best so far by RMSE under the strict protocol.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from shared import checkpoint
from shared import run as run_module
from shared.ema import Ema
from shared.errors import DataError
from shared.loop import Loop, LoopSettings
from shared.optim import lr_groups

from ..checkpoints import BEST, build_model, card, model_weights, save_best
from ..config import Settings
from ..data_source import BANNER, Sources, open_data
from .batches import BatchSampler
from .epochs import depth_epoch, distillation_epoch
from .micro_batch import Cost, estimate, fitting, free_memory, measure
from .objective import Distillation, Task, distillation_of, ignored_settings
from .run_report import write_report
from .saving import begin_anew, folder_of, go_back, keep_epoch, open_run
from .schedule import schedule_of
from .teaching import Teacher, open_teacher
from .validation import SELECTION, validate

MOMENTUM = 0.9  # of SGD


@dataclass(frozen=True)
class TrainedRun:
    """A finished experiment. best: best_model.pth; folder: logs/<experiment>; best_val: its validation scores."""

    best: Path
    folder: Path
    results: Path
    best_val: dict[str, float]


@dataclass(frozen=True)
class Session:
    """What a training run has in hand."""

    settings: Settings
    run: run_module.RunFolder
    world: run_module.World
    sources: Sources
    teacher: Teacher | None

    @property
    def source(self) -> str:
        """The item that the model takes."""
        return "rgb" if self.settings.kind == "rgb" else "audio"

    def card(self, model: nn.Module, **more: Any) -> dict[str, Any]:
        sources = self.sources
        return card(model, self.settings, sources.spectrogram.to_dict(), mark=sources.mark,
                    data_fingerprint=sources.fingerprint, **more)  # fmt: skip


def train(settings: Settings, *, epoch: int | None = None, fresh: bool = False) -> TrainedRun:
    """Train, or continue, the experiment of these settings to its end; a finished one is only reported.

    Args:
        epoch: go back to the end of this epoch of it first. fresh: delete it first.

    Raises:
        UserError: settings, data or checkpoints that do not fit, or an experiment of that name with other settings.
        NonFiniteError: a loss or gradient that is not finite; the state of the step before is kept.
    """
    with run_module.world_from_environment(settings.training.device) as world:
        sources = open_data(settings)
        if sources.embedded and world.is_main:
            run_module.announce(BANNER)
        if fresh:
            begin_anew(settings, world)
        return train_in(settings, world, sources, epoch)


def train_in(settings: Settings, world: run_module.World, sources: Sources, epoch: int | None = None) -> TrainedRun:
    """The same with processes and data that are there already."""
    with open_run(settings, world) as run:
        _record_data(run, sources, settings)
        if run.is_done(settings.kind) and epoch is None:
            run.log.info("%s is finished: %s. --fresh trains it anew, another --experiment_name beside it.",
                         settings.name, settings.folder("checkpoints") / BEST)  # fmt: skip
            return _finished(settings, run)
        if epoch is not None:
            go_back(settings, run, world, epoch)
        teacher = open_teacher(settings, world, sources, run, train_in) if settings.kind == "distillation" else None
        session = Session(settings, run, world, sources, teacher)
        _fit(session)
        trained = _finished(settings, run)
        if world.is_main:
            write_report(session.settings, sources, run.path, trained)
        run.mark_done(settings.kind, best=BEST, val=trained.best_val)
        run.log.info("wrote %s (validation RMSE %.3f m) and %s", trained.best, trained.best_val[SELECTION],
                     trained.results / "report.html")  # fmt: skip
        return trained


def _record_data(run: run_module.RunFolder, sources: Sources, settings: Settings) -> None:
    """DataError when the experiment was begun with other samples."""
    before = run.recorded("data_fingerprint")
    if before not in (None, sources.fingerprint):
        raise DataError(f"{run.path} was begun with the samples {before} and {sources.root} now gives "
                        f"{sources.fingerprint}: restore the data, or take another --experiment_name")  # fmt: skip
    run.record(seed=settings.training.seed, data="embedded" if sources.embedded else str(sources.root),
               data_fingerprint=sources.fingerprint, mark=sources.mark)  # fmt: skip


def _finished(settings: Settings, run: run_module.RunFolder) -> TrainedRun:
    best = settings.folder("checkpoints") / BEST
    scores = checkpoint.manifest(best)["extra"]["val"]
    return TrainedRun(best, run.path, folder_of(settings, "results"), scores)


# --- one run ----------------------------------------------------------------------------------------------------------


def _fit(s: Session) -> None:
    settings, training = s.settings, s.settings.training
    run_module.seed_everything(training.seed)
    student = build_model(settings, s.sources.spectrogram.channel_count).to(s.world.device)
    micro_batch = choose_micro_batch(s, student)
    task = Task(settings.loss, edges=settings.kind == "rgb", world=s.world)
    method = distillation_of(settings, task, student, s.teacher) if s.teacher else None
    trained = method.model if method else student
    sampler = BatchSampler(len(s.sources.train), training.batch_size, micro_batch, seed=training.seed,
                           rank=s.world.rank, world_size=s.world.size)  # fmt: skip
    loop = _loop(s, trained, sampler, task, method)
    loop.resume()
    loader = _loader(s, sampler)
    for line in ignored_settings(settings):
        s.run.log.warning("%s", line)
    for _ in loop.epochs():
        if method:
            distillation_epoch(loop.model, loader, method, loop, bf16=training.bf16)
        else:
            depth_epoch(loop.model, loader, s.source, task, loop, bf16=training.bf16)
        _close(s, loop, student)


def _close(s: Session, loop: Loop, student: nn.Module) -> None:
    """The end of an epoch: keep its state when it is its turn, judge it, and keep the best."""
    number, training = loop.epoch + 1, s.settings.training
    if number % training.save_frequency == 0 or number == training.nb_epochs:
        keep_epoch(loop, s.settings, s.card(student))
    loop.close_epoch()
    with _judged(loop):
        scores = _validate(s, student)
    s.run.log.info("epoch %d: validation RMSE %.3f m, ABS_REL %.3f, delta1 %.3f", number, scores["rmse"],
                   scores["abs_rel"], scores["delta1"])  # fmt: skip
    s.run.metrics.log(loop.steps_done, scores, split=f"{s.settings.kind}/val")
    if loop.best is None or scores[SELECTION] < loop.best:
        loop.best = scores[SELECTION]
        if s.world.is_main:
            weights = model_weights(loop.ema.shadow if loop.ema else loop.bare.state_dict())
            save_best(folder_of(s.settings, "checkpoints") / BEST, weights, s.settings,
                      s.card(student, epoch=number, val=scores), step=loop.steps_done)  # fmt: skip
    s.world.barrier()


@contextlib.contextmanager
def _judged(loop: Loop) -> Iterator[None]:
    """With a moving average the model holds it inside the block."""
    if loop.ema is None:
        yield
    else:
        with loop.ema.applied(loop.bare):
            yield


def _validate(s: Session, model: nn.Module) -> dict[str, float]:
    training = s.settings.training
    return validate(model, s.sources.val, s.source, max_depth_m=s.settings.data.depth_limit_m,
                    batch_size=_eval_batch(s), world=s.world, workers=training.num_workers,
                    timeout_s=training.loader_timeout_s)  # fmt: skip


def _eval_batch(s: Session) -> int:
    return min(s.settings.training.batch_size, s.run.recorded("micro_batch"))


def _loader(s: Session, sampler: BatchSampler) -> DataLoader:
    training = s.settings.training
    data = s.teacher.prepared(s.sources.train) if s.teacher else s.sources.train
    return run_module.make_loader(data, sampler, workers=training.num_workers, timeout_s=training.loader_timeout_s,
                                  pin_memory=s.world.device.type == "cuda")  # fmt: skip


def _loop(s: Session, model: nn.Module, sampler: BatchSampler, task: Task, method: Distillation | None) -> Loop:
    training = s.settings.training
    groups = lr_groups(model, training.learning_rate, {}, weight_decay=training.weight_decay)
    return Loop(
        stage=s.settings.kind,
        run=s.run,
        world=s.world,
        model=DistributedDataParallel(model) if s.world.size > 1 else model,
        optimizer=_optimizer(training.optimizer, groups),
        schedule=schedule_of(training.scheduler, training.nb_epochs),
        weights={**task.weights, **(method.base_weights if method else {})},
        sampler=sampler,
        settings=LoopSettings(training.nb_epochs, sampler.passes, training.clip, training.log_every,
                              training.save_every, training.keep),
        ema=Ema(model, training.ema) if training.ema else None,
        criterion=method,
    )  # fmt: skip


def _optimizer(name: str, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if name == "SGD":
        return torch.optim.SGD(groups, momentum=MOMENTUM)
    return {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}[name](groups, fused=True)


# --- what fits --------------------------------------------------------------------------------------------------------


def choose_micro_batch(s: Session, model: nn.Module) -> int:
    """Samples of one pass: as configured, as this experiment began, or as fits into memory (collective, recorded).

    Without a GPU it also says how long the training will take.
    """
    training, world = s.settings.training, s.world
    share = training.batch_size // world.size
    recorded, cost = s.run.recorded("micro_batch"), None
    if recorded is None or world.device.type == "cpu":
        cost = measure(model, s.sources.train[0][s.source][None].to(world.device))
    if world.device.type == "cpu":
        s.run.log.info("%s", estimate(cost, -(-len(s.sources.train) // world.size), training.nb_epochs))
    chosen = recorded or _asked(training.micro_batch, share, model, cost, world)
    chosen = world.broadcast(chosen)
    s.run.record(micro_batch=chosen)
    if chosen < share:
        s.run.log.info("batches of %d are split (memory, or --micro_batch): %d passes of at most %d samples; batch "
                       "norm and masked means are of one pass", share, -(-share // chosen), chosen)  # fmt: skip
    return chosen


def _asked(asked: int | str, share: int, model: nn.Module, cost: Cost, world: run_module.World) -> int:
    if asked != "auto":
        return min(asked, max(share, 1))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return fitting(max(share, 1), cost, parameters, free_memory(world.device))
