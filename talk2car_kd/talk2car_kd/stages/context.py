"""What every stage is given, and the pieces that more than one stage builds."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from shared import run as run_module
from shared.loop import LoopSettings

from ..config import PACKAGE_ROOT, Config
from ..images import IMAGENET_MEAN, IMAGENET_STD
from ..talk2car import Command, FrameBatchSampler, Talk2CarDataset, collate_grounding
from ..teacher import CommandReader
from ..world import WorldSpec, write_world


@dataclass(frozen=True)
class Context:
    """One pipeline run: its configuration, its folder, its processes and its two data roots."""

    config: Config
    run: run_module.RunFolder
    world: run_module.World
    coco_root: Path
    talk2car_root: Path

    def wrapped(self, model: nn.Module) -> nn.Module:
        """The model for several processes; itself with one."""
        if self.world.size == 1:
            return model
        return DistributedDataParallel(model, find_unused_parameters=True)  # each stage leaves some layers unused

    def settings(self, epochs: int, accumulate: int, clip: float) -> LoopSettings:
        training = self.config.training
        return LoopSettings(epochs, accumulate, clip, training.log_every, training.save_every, training.keep)


def in_package(path: Path) -> Path:
    """A relative path of the configuration counts from the package's folder, wherever the command is started."""
    return path if path.is_absolute() else PACKAGE_ROOT / path


def embedded_folder(config: Config) -> Path:
    """Where the embedded world of this size and seed lies."""
    w = config.world
    frames = f"{w.train_frames}-{w.val_frames}-{w.test_frames}x{w.commands_per_frame}"
    return in_package(config.data.embedded_dir) / f"world-{w.seed}-{frames}-{w.coco_train_images}-{w.coco_val_images}"


def data_roots(config: Config, world, log) -> tuple[Path, Path]:
    """(COCO root, Talk2Car root); writes the embedded world first when no root is configured."""
    if not config.embedded:
        return in_package(config.data.coco_root), in_package(config.data.talk2car_root)
    folder = embedded_folder(config)
    if world.is_main:
        log.info("embedded world: %s", folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_world(folder, world_spec(config), workers=config.world.workers)
    world.barrier()
    return folder / "coco", folder / "talk2car"


def world_spec(config: Config) -> WorldSpec:
    return WorldSpec(**config.world.model_dump(exclude={"workers"}))


def region_loader(ctx: Context, dataset, sampler) -> DataLoader:
    training = ctx.config.training
    return run_module.make_loader(dataset, sampler, workers=training.workers, timeout_s=training.loader_timeout_s)


def grounding_loader(ctx: Context, commands: list[Command], reader: CommandReader, *, train: bool):
    """(loader, its batch sampler): batches of whole frames with all their commands; training draws, flips and colours,
    evaluation walks in order."""
    stage2, training = ctx.config.stage2, ctx.config.training
    dataset = Talk2CarDataset(
        commands,
        input_hw=stage2.input_hw,
        frame_wh=stage2.frame_wh,
        reader=reader,
        train=train,
        flip=stage2.flip,
        colour=stage2.colour,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        seed=training.seed,
    )
    sampler = FrameBatchSampler(
        commands,
        stage2.frames_per_batch if train else ctx.config.eval.batch_frames,
        seed=training.seed,
        rank=ctx.world.rank,
        world_size=ctx.world.size,
        shuffle=train,
        drop_last=train,
    )
    loader = run_module.make_loader(
        dataset, sampler, workers=training.workers, collate=collate_grounding, timeout_s=training.loader_timeout_s
    )
    return loader, sampler
