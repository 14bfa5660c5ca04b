"""Stage 1: the student learns the teacher's embedding space on COCO regions -> distilled_weights.pth."""

import hashlib

import torch
from torch import nn

from shared import run as run_module
from shared.errors import ConfigError
from shared.loop import Loop
from shared.optim import lr_groups, warmup_cosine

from ..augment import get_augmented_transform
from ..coco import COCORegionTextDataset, ImageGroupedBatchSampler
from ..images import IMAGENET_MEAN, IMAGENET_STD
from ..losses import DistillationLosses
from ..retrieval import describe_recall, evaluate_regions, flat_recall
from ..student import build_student, parameter_count
from ..teacher import Teacher
from ..teacher_cache import OnlineTargets, cached_targets
from ..training import train_epoch
from ..weights import DISTILLED, save_weights
from .context import Context, in_package, region_loader
from .regions import RegionSplit, load_split
from .teacher import teacher_of

STAGE = "stage1"


def distil(ctx: Context) -> None:
    config, stage1 = ctx.config, ctx.config.stage1
    run_module.seed_everything(config.training.seed)
    teacher = teacher_of(ctx)
    train, val = load_split(ctx, "train"), load_split(ctx, "val")
    student = build_student(config.student, teacher.embed_dim).to(ctx.world.device)
    criterion = DistillationLosses(stage1.loss.resolved(teacher.embed_dim), stage1.loss.temperature).to(
        ctx.world.device
    )
    loader, sampler = _training_data(ctx, train, teacher)
    loop = _loop(ctx, student, criterion, sampler)
    ctx.run.log.info("student %s: %.2f M parameters; teacher %s: %s", config.student.backbone,
                     parameter_count(student) / 1e6, teacher.name, teacher.sha256[:12])  # fmt: skip
    loop.resume()
    targets = _targets(ctx, teacher, train)
    text_emb = teacher.encode_texts(loader.dataset.texts)
    gallery = _evaluation_data(ctx, val)
    for _ in loop.epochs():
        train_epoch(loop.model, loader, targets, text_emb, teacher.scale, criterion, loop, bf16=config.training.bf16)
        recall = _evaluate(ctx, student, gallery, val, teacher)
        ctx.run.metrics.log(loop.steps_done, flat_recall(recall), split=f"{STAGE}/val")
    ctx.run.log.info("region recall, text -> image\n%s", describe_recall(recall))
    if ctx.world.is_main:
        save_weights(ctx.run.file(DISTILLED), student, config.student, teacher, step=loop.steps_done,
                     config=config.model_dump(mode="json"), recall=recall)  # fmt: skip
    ctx.run.log.info("wrote %s", ctx.run.path / DISTILLED)


def _loop(ctx: Context, student: nn.Module, criterion: DistillationLosses, sampler) -> Loop:
    stage1 = ctx.config.stage1
    trained = nn.ModuleDict({"student": student, "criterion": criterion})
    groups = lr_groups(trained, stage1.lr, {}, weight_decay=stage1.weight_decay)  # the 0-d logit scale never decays
    return Loop(
        stage=STAGE,
        run=ctx.run,
        world=ctx.world,
        model=ctx.wrapped(student),
        optimizer=torch.optim.AdamW(groups, betas=stage1.betas, fused=True),
        schedule=lambda step, total: warmup_cosine(step, total, stage1.warmup),
        weights=criterion.weights,
        sampler=sampler,
        settings=ctx.settings(stage1.epochs, 1, stage1.clip_grad),
        criterion=criterion,
    )


def _dataset(ctx: Context, split: RegionSplit, *, train: bool, teacher: Teacher | None = None) -> COCORegionTextDataset:
    """Crops of a split for the student; with a `teacher`, for it too."""
    stage1 = ctx.config.stage1
    return COCORegionTextDataset(
        split.regions,
        image_size=stage1.image_size,
        augment=get_augmented_transform(stage1.image_size, stage1.augment) if train else None,
        context=stage1.context,
        views=stage1.views,
        caption_source=stage1.captions if train else "template",
        image_captions=split.captions if train else None,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        teacher_image_size=teacher and teacher.image_size,
        teacher_mean=teacher and teacher.mean,
        teacher_std=teacher and teacher.std,
        seed=ctx.config.training.seed,
        train=train,
    )


def _training_data(ctx: Context, split: RegionSplit, teacher: Teacher):
    stage1 = ctx.config.stage1
    if stage1.batch_size % ctx.world.size:
        raise ConfigError(
            f"stage1.batch_size {stage1.batch_size} is of all processes and does not divide by {ctx.world.size}: the "
            f"contrast needs equal shares; take {max(stage1.batch_size // ctx.world.size, 1) * ctx.world.size}"
        )
    dataset = _dataset(ctx, split, train=True, teacher=None if stage1.cache_teacher else teacher)
    sampler = ImageGroupedBatchSampler(
        split.regions,
        stage1.batch_size,
        min_images=stage1.min_images,
        seed=ctx.config.training.seed,
        rank=ctx.world.rank,
        world_size=ctx.world.size,
    )
    return region_loader(ctx, dataset, sampler), sampler


def _walk(ctx: Context, split: RegionSplit, *, train: bool, teacher: Teacher | None = None):
    """A loader that shows every region of a split once an epoch, this rank its share."""
    dataset = _dataset(ctx, split, train=train, teacher=teacher)
    sampler = ImageGroupedBatchSampler(
        split.regions,
        ctx.config.stage1.batch_size,
        min_images=1,
        seed=0,
        rank=ctx.world.rank,
        world_size=ctx.world.size,
        shuffle=False,
        drop_last=False,
    )
    return region_loader(ctx, dataset, sampler), sampler


def _targets(ctx: Context, teacher: Teacher, split: RegionSplit):
    """The teacher's image embeddings for training crops: the disk cache, or its forward pass at every step."""
    stage1 = ctx.config.stage1
    if not stage1.cache_teacher:
        return OnlineTargets(teacher)
    loader, sampler = _walk(ctx, split, train=True, teacher=teacher)
    return cached_targets(
        teacher,
        loader,
        sampler,
        fingerprint=crop_fingerprint(loader.dataset),
        views=stage1.views,
        folder=in_package(ctx.config.data.cache_dir),
        world=ctx.world,
        log=ctx.run.log,
    )


def crop_fingerprint(dataset: COCORegionTextDataset) -> str:
    """sha256 of what decides every crop: regions, context, views, seed, and captions (a side word bars a flip)."""
    digest = hashlib.sha256(repr((dataset.context, dataset.views, dataset.seed, dataset.texts)).encode())
    digest.update(
        dataset.text_ids.numpy().tobytes() if hasattr(dataset.text_ids, "numpy") else dataset.text_ids.tobytes()
    )
    for region in dataset.regions:
        digest.update(repr((region.image_path.name, region.annotation_id, region.box_xywh_px)).encode())
    return digest.hexdigest()


def _evaluation_data(ctx: Context, split: RegionSplit):
    return _walk(ctx, split, train=False)[0]


def _evaluate(ctx: Context, student: nn.Module, loader, split: RegionSplit, teacher: Teacher) -> dict:
    return evaluate_regions(student, loader, split.regions, teacher.encode_texts, ks=ctx.config.stage1.recall_at,
                            device=ctx.world.device, world=ctx.world)  # fmt: skip
