"""Validation while training: score an epoch, count patience, log, and write the files of the contract.

The score is mAP 3D moderate (R40) where there are labels, else the negative loss; ties go to fewer bits.
"""

# R new rows

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from shared.loop import Loop

from . import evaluate
from .checkpoints import Origin, finished_codec, save_rq
from .config import RqConfig, bits_per_pillar
from .progressive import GLOBAL_BEST, GlobalBest, Stage, Watch, best_file, epoch_file, stages_of
from .rq.codebooks import ResidualQuantizer
from .rq.ema import EmaWarmup
from .senders import Books
from .session import Session


class StageState(nn.Module):
    """What a stage has besides its rows: moving averages, hits since the rows were last restarted, the best epoch's
    rows, patience, and the run's best score so far."""

    def __init__(self, quantizer: ResidualQuantizer, stage: Stage, decay: float, best: GlobalBest):
        super().__init__()
        self.averages = nn.ModuleDict({str(book): EmaWarmup(quantizer, book, decay) for book in stage.books})
        for book in stage.books:
            rows = quantizer.fresh[str(book)].detach()
            self.register_buffer(f"hits_{book}", torch.zeros(quantizer.size(book), dtype=torch.int64).to(rows.device))
            self.register_buffer(f"best_{book}", rows.clone())
        self.watch, self.best = Watch(), best

    def hits(self, book: int) -> Tensor:
        return getattr(self, f"hits_{book}")

    def keep_best(self, quantizer: ResidualQuantizer) -> None:
        for name in self.averages:
            getattr(self, f"best_{name}").copy_(quantizer.fresh[name].detach())

    @torch.no_grad()
    def restore_best(self, quantizer: ResidualQuantizer) -> None:
        for name in self.averages:
            quantizer.fresh[name].copy_(getattr(self, f"best_{name}"))

    def get_extra_state(self) -> dict[str, Any]:
        return {"watch": asdict(self.watch), "best": asdict(self.best)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.watch, self.best = Watch(**state["watch"]), GlobalBest(**state["best"])


def judge_epoch(session: Session, stage: Stage, quantizer, state: StageState, loop: Loop, means: dict) -> list:
    """Score the epoch on the subset, log it, and write the files it deserves."""
    epoch, training = loop.epoch + 1, session.config.training
    results = judge(session, stage, quantizer, session.subset)
    score, values = scored(session, results, stage)
    improved = state.watch.update(score, warm=loop.epoch >= stage.warmup, patience=training.patience,
                                  lr_factor=training.lr_factor)  # fmt: skip
    if improved:
        state.keep_best(quantizer)
    first = state.best.update(score, bits_per_pillar(stage.n, stage.size), stage.n, stage.size)
    log_epoch(session, stage, state, loop, means, values)
    names = [best_file(stage)] if improved else []
    names += [epoch_file(stage, epoch)] if epoch % training.ckpt_freq_epoch == 0 else []
    names = names if session.config.logging.save_stage_weights else []
    save(session, stage, quantizer, [*names, *([GLOBAL_BEST] if first else [])], epoch, score, values)
    return results


def judge(session: Session, stage: Stage, quantizer, indices: Sequence[int]) -> list:
    training = session.config.training
    return evaluate.judge(session.detector, session.data.val, indices, Books(quantizer, stage.n, stage.size),
                          workers=training.num_workers, timeout_s=training.loader_timeout_s,
                          world=session.world)  # fmt: skip


def scored(session: Session, results: list, stage: Stage) -> tuple[float, dict[str, float]]:
    """(the score that decides, all values for the log)."""
    values = {"rel_mse": evaluate.relative_error(results)}
    weights = session.config.loss_weights
    if session.data.labelled:
        ap = evaluate.protocol(results, session.data.val, session.detector.class_names, everything=False).ap()
        values["map"] = evaluate.moderate_map(ap)
        values["map_r11"] = evaluate.moderate_map(ap, "R11")
    detection = evaluate.detection_loss(results) or 0.0
    count = sum(one.pillars for one in results) * session.detector.channels
    distortion = sum(one.error for one in results) / max(1, count)
    values["loss"] = weights.det_weight * detection + (weights.vq_weight + weights.codebook_weight) * distortion
    values |= {f"codebook_{book}_{name}": value
               for book, part in enumerate(evaluate.usage_of(results)) for name, value in part.items()}  # fmt: skip
    return values.get("map", -values["loss"]), values


def log_epoch(session: Session, stage: Stage, state: StageState, loop: Loop, means: dict, values: dict) -> None:
    """The contract's content: losses, mAP, place in the schedule, learning rate, best values."""
    step = epochs_before(session.config, stage) + loop.epoch + 1
    place = {"codebook_idx": stage.codebook, "stage_idx": max(0, stage.step), "embed_size": stage.size,
             "epoch": loop.epoch + 1}  # fmt: skip
    rate = loop.optimizer.param_groups[0]["lr"]
    session.run.metrics.log(step, {**means, **place, "lr": rate}, split="train")
    best = {"stage_best": state.watch.best, "global_best": state.best.value}
    session.run.metrics.log(step, {**values, **place, **best}, split="val")
    shown = f"mAP {values['map']:.2f}" if "map" in values else f"loss {values['loss']:.4f}"
    mark = f"; {session.data.mark}" if session.data.mark else ""
    session.run.log.info("%s epoch %d/%d: %dx%d %s, relMSE %.4f, best %.4g%s", stage.name, loop.epoch + 1,
                         stage.epochs, stage.n, stage.size, shown, values["rel_mse"], state.watch.best,
                         mark)  # fmt: skip


def epochs_before(config: RqConfig, stage: Stage) -> int:
    return sum(one.epochs for one in stages_of(config)[: stage.number])


def save(session: Session, stage: Stage, quantizer, names: Sequence[str], epoch: int, score: float, values) -> None:
    """Write the books as they are under each of these names (main process)."""
    if not names or not session.world.is_main:
        return
    step = epochs_before(session.config, stage) + epoch
    origin = Origin(stage.name, epoch, stage.n, stage.size, score, session.metric, session.detector.base_sha256, step)
    codec = finished_codec(quantizer, session.pool, session.detector.grid)
    for name in names:
        save_rq(session.file(name), codec, origin, mark=session.data.mark, scores=values)
