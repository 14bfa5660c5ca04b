"""Training the books, stage by stage, between the two frozen halves of a detector.

    for stage in stages:                        # book 1: 16 -> 32 -> .. -> 256, then book 2 behind it, ..
        grow the book by new rows, drawn from residuals of occupied cells
        for epoch in warm-up:    move the new rows by averages (no tail)
        for epoch in the rest:   move the new rows by gradient, through the tail
            (unused new rows start again from the data before every epoch but the first)
        finish: the new rows join the frozen ones

Validation follows every epoch. A cut run continues inside a stage, on CPU bit for bit: `shared.loop` saves the rows,
the averages, the optimizer and what patience has counted together.
"""

# P pillars, D channels, K rows, R new rows

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared import checkpoint
from shared import run as run_module
from shared.batches import ShuffledBatches
from shared.loop import Loop, LoopSettings
from shared.optim import lr_groups

from . import bottleneck
from .batches import Collate, DetectionBatch
from .bottleneck import generator_of
from .checkpoints import check_frozen, frozen_rows
from .judging import StageState, epochs_before, judge, judge_epoch, save, scored
from .progressive import FINAL, GlobalBest, Stage, final_file, schedule_of, stages_of
from .rq.codebooks import ResidualQuantizer, quantizer_from, quantizer_state
from .rq.lloyd import lloyd
from .rq.restart import reset_moments, restart_dead
from .sensitivity import first_convolution, tail_metric
from .session import Session, counted_of

PROGRESS = "progress"  # folder in the run's: the books between two stages


# --- the epochs -------------------------------------------------------------------------------------------------------


def warmup_epoch(session: Session, stage: Stage, quantizer: ResidualQuantizer, state: StageState, loader, loop) -> dict:
    """One pass of moving averages; the tail is not run, and the optimizer's steps move nothing."""
    for batch in loop.batches(loader):
        features, bottled, counted = _bottled(session, stage, quantizer, batch, loop.epoch, alone=True)
        terms = bottleneck.distortion_terms(bottled, features, counted)
        for book in stage.books:
            hits = state.averages[str(book)].step(quantizer, bottled.residuals[book][counted], session.world.sum)
            state.hits(book).add_(hits)
        terms = bottleneck.without_gradient(terms, list(quantizer.fresh.values()))
        _step(session, loop, batch, terms, len(counted), None)
    return loop.close_epoch()


def gradient_epoch(
    session: Session, stage: Stage, quantizer: ResidualQuantizer, state: StageState, loader, loop
) -> dict:
    """One pass of codebook and detection losses; both reach the new rows through the lookup."""
    for batch in loop.batches(loader):
        features, bottled, counted = _bottled(session, stage, quantizer, batch, loop.epoch)
        terms, positives = bottleneck.distortion_terms(bottled, features, counted), None
        if session.config.loss_weights.det_weight > 0:
            term, positives = bottleneck.detection_term(session.detector, batch, bottled.quantized)
            terms["det"] = term
        for book in stage.books:
            hits = torch.bincount(bottled.codes[book], minlength=quantizer.size(book))
            state.hits(book).add_(session.world.sum(hits))
        _step(session, loop, batch, terms, len(counted), positives)
    return loop.close_epoch()


def _bottled(session: Session, stage: Stage, quantizer, batch: DetectionBatch, epoch: int, alone: bool = False):
    sizes = bottleneck.sizes_behind(quantizer, stage, batch, session.config.training.seed, epoch)
    features = session.detector.head(batch.pillars)
    counted = counted_of(session.config, session.detector, batch).to(features.device)
    bottled = bottleneck.bottle(quantizer, stage, features, sizes, counted, batch.pillars.coords, alone)
    return features, bottled, counted


def _step(session: Session, loop: Loop, batch: DetectionBatch, terms, pillars: int, positives) -> None:
    frames = len(batch.frame_ids)
    terms = bottleneck.over_processes(session.world, terms, frames, pillars, positives)
    loop.step(terms, ids=batch.frame_ids, count=frames)


def begin_epoch(session: Session, stage: Stage, quantizer: ResidualQuantizer, state: StageState, loop: Loop) -> None:
    """Restart rows that nothing was nearest to in the last epoch; with the warm-up the optimizer's memory ends too."""
    if loop.epoch == stage.warmup:
        loop.optimizer.state.clear()
    for book in stage.books if loop.epoch else ():
        generator = generator_of(session.config.training.seed, stage.number, loop.epoch, f"restart {book}")
        residuals = _pool_residuals(session, stage, quantizer, book, generator)
        rows = restart_dead(quantizer, book, state.hits(book), residuals, generator,
                            session.config.training.restart_threshold)  # fmt: skip
        state.averages[str(book)].reset(quantizer, rows)
        reset_moments(loop.optimizer, quantizer.fresh[str(book)], rows)
        state.hits(book).zero_()
        if len(rows):
            session.run.log.info("%s epoch %d: %d new rows of codebook %d were unused and start again", stage.name,
                                 loop.epoch + 1, len(rows), book)  # fmt: skip


# --- a stage ----------------------------------------------------------------------------------------------------------


def train_stage(session: Session, stage: Stage, quantizer: ResidualQuantizer, best: GlobalBest) -> dict[str, Any]:
    """Train one stage to its end; `best` (updated) is the run's. Returns its row of the table, JSON data."""
    frozen = frozen_rows(quantizer)
    grow(session, stage, quantizer)
    state = StageState(quantizer, stage, session.config.rq_model.decay, best)
    loop, loader = _loop(session, stage, quantizer, state)
    loop.resume()
    results = None
    for epoch in loop.epochs():
        if loop.batch == 0:  # not where a save at the epoch's end is continued
            begin_epoch(session, stage, quantizer, state, loop)
        train_epoch = warmup_epoch if epoch < stage.warmup else gradient_epoch
        means = train_epoch(session, stage, quantizer, state, loader, loop)
        results = judge_epoch(session, stage, quantizer, state, loop, means)
        if state.watch.waited >= session.config.training.early_stopping_patience:
            session.run.log.info("%s ends after epoch %d: %d epochs without a better score", stage.name, epoch + 1,
                                 state.watch.waited)  # fmt: skip
            break
    check_frozen(quantizer, frozen)
    session.detector.check()
    if session.config.progressive_learning.continue_from == "best":
        state.restore_best(quantizer)
        results = None
    quantizer.finish()
    vars(best).update(vars(state.best))
    return close_stage(session, stage, quantizer, state, loop, results)


def grow(session: Session, stage: Stage, quantizer: ResidualQuantizer) -> None:
    """New rows for the stage's books, drawn from the pool's residuals (and moved to their means, by
    training.lloyd_passes), the same on every process."""
    for book in stage.books:
        generator = generator_of(session.config.training.seed, stage.number, f"grow {book}")
        residuals = _pool_residuals(session, stage, quantizer, book, generator)
        rows = quantizer.grow(book, stage.size, residuals, generator)
        lloyd(quantizer, book, residuals, generator, session.config.training.lloyd_passes)
        with torch.no_grad():
            rows.copy_(session.world.broadcast(rows.detach().cpu()))


def _pool_residuals(session: Session, stage: Stage, quantizer, book: int, generator: torch.Generator) -> Tensor:
    pool = session.pool
    if book == 0:
        return pool.features[pool.counted]
    sizes = stage.size if stage.legacy else quantizer.draw_sizes(len(pool), generator).to(pool.features.device)
    scene = quantizer.scene(pool.features, pool.coords)
    return quantizer.residual(pool.features, book, sizes, scene)[pool.counted]


def _loop(session: Session, stage: Stage, quantizer: ResidualQuantizer, state: StageState):
    """The stage's Loop and its loader of training frames."""
    config, training, world = session.config, session.config.training, session.world
    # A seed for each stage, so that its epochs are not the earlier stage's again.
    seed = training.seed * 1000 + stage.number
    sampler = ShuffledBatches(len(session.data.train), training.batch_size, seed=seed, rank=world.rank,
                           world_size=world.size)  # fmt: skip
    grid = session.detector.grid
    loader = run_module.make_loader(session.data.train, sampler, workers=training.num_workers,
                                    collate=Collate(grid, grid.max_voxels_train),
                                    timeout_s=training.loader_timeout_s)  # fmt: skip
    if world.size > 1:
        for rows in quantizer.fresh.values():
            rows.register_hook(lambda gradient: world.sum(gradient) / world.size)
    loss = config.loss_weights
    loop = Loop(
        stage=stage.name,
        run=session.run,
        world=world,
        model=quantizer,
        optimizer=torch.optim.Adam(lr_groups(quantizer, training.init_lr, {})),  # no decay: it would move frozen rows
        schedule=lambda step, total: state.watch.factor * rate_factor(training.lr_decay, stage, step / total),
        weights={"vq": loss.vq_weight, "codebook": loss.codebook_weight, "det": loss.det_weight},
        sampler=sampler,
        settings=LoopSettings(stage.epochs, 1, training.clip, config.logging.log_freq, training.save_every,
                              training.keep),
        criterion=state,
    )  # fmt: skip
    return loop, loader


def rate_factor(decay: str, stage: Stage, done: float) -> float:
    """What the rate is multiplied by when a share `done` of a stage's steps is done: 1, or over the gradient epochs a
    half cosine from 1 to 0."""
    begin = stage.warmup / stage.epochs
    if decay == "none" or done <= begin:
        return 1.0
    return (1 + math.cos(math.pi * (done - begin) / (1 - begin))) / 2


def close_stage(
    session: Session, stage: Stage, quantizer: ResidualQuantizer, state: StageState, loop: Loop, results: list | None
) -> dict[str, Any]:
    """Judge the finished books on all validation frames and write `_final.pth`."""
    if results is None or len(session.subset) < len(session.data.val):
        results = judge(session, stage, quantizer, range(len(session.data.val)))
    score, values = scored(session, results, stage)
    epoch = loop.epoch + 1
    if session.config.logging.save_stage_weights:
        save(session, stage, quantizer, [final_file(stage)], epoch, score, values)
    step = epochs_before(session.config, stage) + epoch
    session.run.metrics.log(step, {**values, "embed_size": stage.size}, split="val/whole")
    return {"stage": stage.name, "n": stage.n, "k": stage.size, "epochs": epoch, "stage_best": state.watch.best,
            "score": score, **values}  # fmt: skip


# --- the whole run ----------------------------------------------------------------------------------------------------


def train_all(session: Session) -> list[dict[str, Any]]:
    """Every stage that is not done yet, then final.pth; the table of all stages."""
    stages = stages_of(session.config)
    quantizer, best, table = restore(session)
    for row in table:  # a kill may have come between the books and this note
        _note_done(session, row)
    for stage in stages[len(table) :]:
        session.run.log.info("stage %d of %d: codebook %d grows to %d rows", stage.number + 1, len(stages),
                             stage.codebook, stage.size)  # fmt: skip
        table.append(train_stage(session, stage, quantizer, best))
        keep_progress(session, quantizer, best, table)
        _note_done(session, table[-1])
    save(session, stages[-1], quantizer, [FINAL], table[-1]["epochs"], table[-1]["score"], table[-1])
    return table


def _note_done(session: Session, row: dict[str, Any]) -> None:
    if not session.run.is_done(row["stage"]):
        session.run.mark_done(row["stage"], **{key: row[key] for key in ("n", "k", "epochs", "score")})


def restore(session: Session) -> tuple[ResidualQuantizer, GlobalBest, list[dict]]:
    """The books as the last finished stage left them, or empty ones."""
    folder = session.run.path / PROGRESS
    found = checkpoint.load_latest(folder) if folder.is_dir() else None
    if found is None:
        config, detector = session.config, session.detector
        seen = tail_metric(detector.model).cpu() if config.rq_model.metric != "plain" else None
        first = first_convolution(detector.model) if config.rq_model.metric == "joint" else (None, None)
        quantizer = ResidualQuantizer(config.model.n_codebook, schedule_of(config), detector.channels, seen, *first)
        return quantizer.to(session.world.device), GlobalBest(), []
    path, state = found
    quantizer = quantizer_from(state["quantizer"], str(path)).to(session.world.device)
    return quantizer, GlobalBest(**state["best"]), state["table"]


def keep_progress(session: Session, quantizer: ResidualQuantizer, best: GlobalBest, table: list[dict]) -> None:
    if session.world.is_main:
        state = {"quantizer": quantizer_state(quantizer), "best": asdict(best), "table": table}
        path = session.run.file(Path(PROGRESS) / f"stages-{len(table):03d}.pt")
        checkpoint.save(path, state, step=len(table))
        checkpoint.prune(path.parent, keep=2)
    session.world.barrier()
