"""tools/test.py: one checkpoint, or every checkpoint of a run as it appears.

eval/epoch_N/<split>/<eval_tag>/                          one (--ckpt, else the newest checkpoint_epoch_N.pth)
eval/eval_all_default/<eval_tag>/epoch_N/<split>/         --eval_all, with the list of what was judged
"""

import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from shared.errors import CheckpointError
from shared.run import World, check
from shared.storage import make_folder

from ..flags import Request, existing
from ..pcdet_yaml import in_package
from .checkpoints import FOLDER, epoch_of, list_checkpoints
from .judging import Judge
from .session import tag_folder
from .sources import Sources

POLL_S = 5.0  # between two looks for a new checkpoint


def test(request: Request, sources: Sources, world: World) -> int:
    """Judge what the command names. CheckpointError when there is no checkpoint."""
    split, args = request.experiment.DATA_CONFIG.DATA_SPLIT.test, request.args
    judge = Judge(args, request.experiment, world, console(world))
    if args.eval_all:
        folder = tag_folder(request) / "eval/eval_all_default" / args.eval_tag
        for path in unjudged(request, folder, split, world):
            judge.checkpoint(sources, path, folder / f"epoch_{epoch_of(path)}" / split)
            if world.is_main:
                with judged_list(folder, split).open("a", encoding="utf-8") as file:
                    file.write(f"{epoch_of(path)}\n")
        return 0
    path = _named_or_newest(request)
    number = epoch_of(path)
    folder = tag_folder(request) / "eval" / f"epoch_{'no_number' if number is None else number}" / split / args.eval_tag
    judge.checkpoint(sources, path, folder)
    return 0


def console(world: World) -> logging.Logger:
    """A log on the console; only the main process speaks."""
    log = logging.getLogger("voxel_mae.test")
    log.setLevel(logging.INFO if world.is_main else logging.WARNING)
    log.handlers = [logging.StreamHandler(sys.stdout)]
    return log


def _named_or_newest(request: Request) -> Path:
    if request.args.ckpt:
        return existing(request.args.ckpt, "--ckpt")
    folder = tag_folder(request) / FOLDER
    found = list_checkpoints(folder)
    if not found:
        raise CheckpointError(f"{folder} holds no checkpoint_epoch_*.pth: train first, or give --ckpt FILE")
    return found[-1]


def judged_list(folder: Path, split: str) -> Path:
    return folder / f"eval_list_{split}.txt"


def unjudged(request: Request, folder: Path, split: str, world: World) -> Iterator[Path]:
    """Checkpoints not in the list yet, oldest first; waits --max_waiting_mins for the next one."""
    args = request.args
    source = in_package(args.ckpt_dir) if args.ckpt_dir else tag_folder(request) / FOLDER
    if not source.is_dir():
        raise CheckpointError(f"--ckpt_dir {source} is not a folder: train first, or correct the path")
    if world.is_main:
        make_folder(folder)
    began = time.monotonic()
    while True:
        path = world.broadcast(_next(source, judged_list(folder, split), args.start_epoch) if world.is_main else None)
        if path is not None:
            yield path
            began = time.monotonic()
        elif world.any(time.monotonic() - began >= 60 * args.max_waiting_mins):
            return
        else:
            check()
            time.sleep(POLL_S)


def _next(source: Path, judged: Path, start_epoch: int) -> Path | None:
    done = set(judged.read_text(encoding="utf-8").split()) if judged.is_file() else set()
    waiting = (path for path in list_checkpoints(source)
               if str(epoch_of(path)) not in done and epoch_of(path) >= start_epoch)  # fmt: skip
    return next(waiting, None)
