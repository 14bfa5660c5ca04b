"""Stage `teacher`, embedded world only: train a small open_clip model there, and freeze it."""

from pathlib import Path

import torch

from shared import run as run_module
from shared.errors import CheckpointError
from shared.loop import Loop
from shared.optim import lr_groups, warmup_cosine

from .. import embedded_teacher
from ..coco import COCORegionTextDataset, ImageGroupedBatchSampler
from ..images import IMAGENET_MEAN, IMAGENET_STD
from ..teacher import Teacher, load_teacher
from ..training import teacher_epoch
from .context import Context, region_loader
from .regions import load_split

STAGE = FOLDER = "teacher"


def train_teacher(ctx: Context) -> None:
    """Write `<run>/teacher/`, the folder that load_teacher reads. One process: the model is tiny."""
    if ctx.world.size > 1:
        raise CheckpointError(
            "the embedded teacher trains on one process: run `--stage teacher` without torchrun first"
        )
    recipe = ctx.config.teacher.train
    run_module.seed_everything(ctx.config.training.seed)
    model = embedded_teacher.new_model(recipe)
    loader, sampler, dataset = _data(ctx, recipe)
    tokens = _tokenize(dataset.texts)
    groups = lr_groups(model, recipe.lr, {}, weight_decay=recipe.weight_decay)
    loop = Loop(
        stage=STAGE,
        run=ctx.run,
        world=ctx.world,
        model=model,
        optimizer=torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True),
        schedule=warmup_cosine,
        weights={"clip": 1.0},
        sampler=sampler,
        settings=ctx.settings(recipe.epochs, 1, 1.0),
    )
    loop.resume()
    for _ in loop.epochs():
        teacher_epoch(model, loader, tokens, loop)
    embedded_teacher.save_folder(model, recipe, ctx.run.path / FOLDER)


def _tokenize(texts: list[str]) -> torch.Tensor:
    from open_clip import SimpleTokenizer

    return SimpleTokenizer()(texts)


def _data(ctx: Context, recipe):
    stage1 = ctx.config.stage1
    split = load_split(ctx, "train")
    dataset = COCORegionTextDataset(
        split.regions,
        image_size=recipe.image_size,
        context=stage1.context,
        views=recipe.epochs,
        caption_source=stage1.captions,
        image_captions=split.captions,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        seed=ctx.config.training.seed,
        train=True,
    )
    sampler = ImageGroupedBatchSampler(
        split.regions, recipe.batch_size, min_images=stage1.min_images, seed=ctx.config.training.seed
    )
    return region_loader(ctx, dataset, sampler), sampler, dataset


def teacher_of(ctx: Context, weights: Path | None = None) -> Teacher:
    """The pretrained teacher configured, or in the embedded world the one of the run's folder.

    A run that has trained none adopts the one of the run that its `weights` come from. Whoever loads these weights
    compares the teacher's sha256 with the one that they record.
    """
    config = ctx.config.teacher
    if config.train is None:
        return load_teacher(config, ctx.world.device)
    folder = ctx.run.path / FOLDER
    if weights is not None and ctx.world.is_main and not embedded_teacher.is_complete(folder):
        _adopt(ctx, weights.parent / FOLDER)
    ctx.world.barrier()
    if not embedded_teacher.is_complete(folder):
        raise CheckpointError(f"{folder} holds no teacher: run `python main.py --stage teacher` or `--stage all` first")
    return load_teacher(config.model_copy(update={"pretrained": f"local-dir:{folder}"}), ctx.world.device)


def _adopt(ctx: Context, source: Path) -> None:
    if embedded_teacher.is_complete(source):
        embedded_teacher.copy_folder(source, ctx.run.path / FOLDER)
        ctx.run.log.info("teacher of %s adopted", source.parent.name)
