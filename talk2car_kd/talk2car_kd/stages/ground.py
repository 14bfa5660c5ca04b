"""Stage 2: encoder + head learn to ground Talk2Car commands -> talk2car_best.pth, talk2car_last.pth."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from shared import run as run_module
from shared.ema import Ema
from shared.loop import Loop
from shared.optim import lr_groups, warmup_cosine

from ..embedded_teacher import is_complete
from ..evaluation import all_records, predictions_of, score_records, write_predictions
from ..flips import flip_command
from ..grounding import Talk2CarModel, build_head
from ..losses import Talk2CarLoss
from ..student import build_student, parameter_count
from ..talk2car import Command, find_talk2car, load_commands
from ..teacher import CommandReader, Teacher
from ..training import fine_tune_epoch
from ..weights import BEST, DISTILLED, LAST, load_distilled, newest, save_weights
from .context import Context, grounding_loader, in_package
from .teacher import FOLDER, teacher_of

STAGE = "stage2"
LAST_PREDICTIONS = "predictions_val_last.json"  # of the last weights, for comparisons that select nothing on val
LOGGED = ("ap50", "ap50_95", "average_iou")


def fine_tune(ctx: Context, checkpoint: Path | None = None) -> None:
    """Train from Stage 1's encoder: the one named, else this run's, else the newest of all runs."""
    config, stage2 = ctx.config, ctx.config.stage2
    run_module.seed_everything(config.training.seed)
    source = _source(ctx, checkpoint)
    teacher = teacher_of(ctx, source)
    encoder = _encoder(ctx, teacher, source)
    train, val = commands_of(ctx, "train"), commands_of(ctx, "val")
    train = label_subset(train, stage2.label_fraction, config.training.seed)
    reader = command_reader(teacher, train + val, stage2.text_len)
    loader, sampler = grounding_loader(ctx, train, reader, train=True)
    val_loader, _ = grounding_loader(ctx, val, reader, train=False)
    vocabulary = reader.vocabulary(loader.dataset.texts)
    head = build_head(stage2.head, encoder.map_dim, teacher.text_width, vocabulary)
    model = Talk2CarModel(encoder, head).to(ctx.world.device)
    ctx.run.log.info("%d training commands in %d batches; model %.2f M parameters", len(train), len(sampler),
                     parameter_count(model) / 1e6)  # fmt: skip
    loop = _loop(ctx, model, sampler)
    loop.resume()
    for epoch in loop.epochs():
        fine_tune_epoch(loop.model, loader, Talk2CarLoss(), loop, bf16=config.training.bf16)
        if (epoch + 1) % stage2.eval_every and epoch + 1 < stage2.epochs:
            continue
        with loop.ema.applied(model):
            _judge(ctx, model, val_loader, teacher, loop)


def _judge(ctx: Context, model: nn.Module, val_loader, teacher: Teacher, loop: Loop) -> None:
    """Score the moving average on val; keep it as last and, when it is the best so far, as best."""
    config = ctx.config
    records = all_records(model, val_loader, config.stage2.frame_wh, world=ctx.world, device=ctx.world.device)
    scores = score_records(records, config, intervals=False)
    ctx.run.log.info("stage2 epoch %d: val AP50 %.4f, mean IoU %.4f %s", loop.epoch + 1, scores["ap50"],
                     scores["average_iou"], config.data.mark)  # fmt: skip
    ctx.run.metrics.log(loop.steps_done, {key: scores[key] for key in LOGGED}, split=f"{STAGE}/val")
    if loop.best is None or scores["ap50"] > loop.best:
        loop.best = scores["ap50"]
        _save(ctx, BEST, model, teacher, loop, scores)
    _save(ctx, LAST, model, teacher, loop, scores)
    if ctx.world.is_main:
        write_predictions(ctx.run.file(LAST_PREDICTIONS), predictions_of(records))


def _save(ctx: Context, name: str, model: nn.Module, teacher: Teacher, loop: Loop, scores: dict) -> None:
    if ctx.world.is_main:
        config = ctx.config
        save_weights(
            ctx.run.file(name),
            model,
            config.student,
            teacher,
            step=loop.steps_done,
            config=config.model_dump(mode="json"),
            head=config.stage2.head.model_dump(mode="json"),
            input_hw=list(config.stage2.input_hw),
            text_len=config.stage2.text_len,
            epoch=loop.epoch + 1,
            val_ap50=scores["ap50"],
        )


def _source(ctx: Context, checkpoint: Path | None) -> Path | None:
    """Stage 1's weights: the file named, else this run's, else the newest of all runs; a resumed run keeps its own.

    None when nothing of Stage 1 is used: neither its weights nor, in the embedded world, its teacher.
    """
    own = ctx.run.path / DISTILLED
    recorded = Path(ctx.run.recorded("distilled", ""))
    if checkpoint is None and not own.exists() and not recorded.is_file():
        if ctx.config.stage2.init == "backbone" and (
            ctx.config.teacher.train is None or is_complete(own.parent / FOLDER)
        ):
            return None
        checkpoint = newest(in_package(ctx.config.data.results_dir), DISTILLED)
    source = checkpoint or (own if own.exists() else recorded)
    ctx.run.record(distilled=str(source.resolve()))
    return source


def _encoder(ctx: Context, teacher: Teacher, source: Path | None) -> nn.Module:
    if ctx.config.stage2.init == "backbone":
        ctx.run.log.info("stage2.init: backbone; Stage 1's weights are not used")
        return build_student(ctx.config.student, teacher.embed_dim)
    ctx.run.log.info("encoder from %s", source)
    return load_distilled(source, ctx.config.student, teacher)


def _loop(ctx: Context, model: nn.Module, sampler) -> Loop:
    stage2 = ctx.config.stage2
    groups = lr_groups(model, stage2.lr, stage2.lr_scale, weight_decay=stage2.weight_decay)
    return Loop(
        stage=STAGE,
        run=ctx.run,
        world=ctx.world,
        model=ctx.wrapped(model),
        optimizer=torch.optim.AdamW(groups, fused=True),
        schedule=lambda step, total: warmup_cosine(step, total, stage2.warmup),
        weights=stage2.loss.model_dump(),
        sampler=sampler,
        settings=ctx.settings(stage2.epochs, stage2.accumulate, stage2.clip_grad),
        ema=Ema(model, stage2.ema),
    )


def commands_of(ctx: Context, split: str) -> list[Command]:
    layout = find_talk2car(ctx.talk2car_root)
    return load_commands(
        layout, split, frame_wh=ctx.config.stage2.frame_wh, allow_missing=ctx.config.data.allow_missing
    )


def label_subset(commands: list[Command], fraction: float, seed: int) -> list[Command]:
    """A seeded share of the frames with all their commands; nested: a smaller share is part of a larger one."""
    if fraction == 1:
        return commands
    frames = sorted({command.sample_token for command in commands})
    order = np.random.default_rng(seed).permutation(len(frames))
    kept = {frames[i] for i in order[: max(1, round(fraction * len(frames)))]}
    return [command for command in commands if command.sample_token in kept]


def command_reader(teacher: Teacher, commands: list[Command], length: int) -> CommandReader:
    """Reads all these commands and their mirror images."""
    texts = {command.text for command in commands}
    flipped = {flip_command(text) for text in texts} - {None}
    return CommandReader(teacher, sorted(texts | flipped), length)
