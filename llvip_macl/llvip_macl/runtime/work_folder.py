"""The work_dir of a run: its record, its lock, and what an earlier run left in it.

    work_dir/run.json  metrics.jsonl  config.yaml  log.txt  run.lock      `shared.folder`
             <timestamp>/<timestamp>.log  epoch_N.pth  ...                MMEngine's names
             earlier/<time>/                                              a run that was begun anew in its place

Without --resume a run begins anew, as in MMEngine. What lay there is moved to `earlier/`, never overwritten or mixed.
"""

import json
import time
from pathlib import Path
from typing import Any

from shared.errors import UserError
from shared.folder import RunFolder
from shared.run import World
from shared.storage import storage_error, write_atomic

from .checkpoints import LAST

STAGE = "train"
CONFIG_HASH = "llvip_macl"  # a config may change on resume: what follows from it is told, not refused
PACKAGES = ("torch", "numpy", "onedl-mmdetection", "onedl-mmcv", "onedl-mmengine", "mmdet", "mmcv", "mmengine")
MOVED = ("epoch_*.pth*", "iter_*.pth*", "best*.pth*", LAST, "metrics.jsonl", "alignment.json", "report.html",
         "tensorboard_logs", "figures")  # fmt: skip


def open_folder(cfg: Any, world: World, command: list[str]) -> RunFolder:
    """The run's folder, locked (collective).

    Raises:
        UserError: another process writes there, or it holds something else.
    """
    path = Path(cfg.work_dir).absolute()
    try:
        run = RunFolder.open(
            path.parent,
            name=path.name,
            config_hash=CONFIG_HASH,
            config_yaml=json.dumps(cfg.to_dict(), indent=1, default=str),
            stages=(STAGE,),
            world=world,
            command=command,
            packages=PACKAGES,
        )
    except UserError as error:
        raise type(error)(str(error).replace("--run NAME", "--work-dir").replace("--run ", "--work-dir ")) from error
    run.record(data="embedded" if cfg.get("embedded_world") else _roots(cfg), seed=cfg.randomness.seed)
    return run


def admit_training(folder: Path) -> None:
    """Record in an empty folder that a training may begin there, whatever a test will have left by then."""
    if not any(folder.iterdir()):
        write_atomic(folder / "run.json", json.dumps({"config_hash": CONFIG_HASH, "stages": {}}) + "\n")


def _roots(cfg: Any) -> list[str]:
    from .embedded import datasets_of

    return sorted({str(dataset["data_root"]) for dataset in datasets_of(cfg)})


def begin(run: RunFolder, world: World) -> None:
    """Move what an earlier run left out of the way (collective)."""
    if world.is_main:
        old = [path for pattern in MOVED for path in run.path.glob(pattern)]
        if old:
            _move(run, old)
        run.record(stages={})
    world.barrier()


def _move(run: RunFolder, old: list[Path]) -> None:
    folder = run.path / "earlier" / time.strftime("%Y%m%d_%H%M%S")
    number = 1
    while folder.exists():
        number += 1
        folder = folder.with_name(f"{folder.name.split('-')[0]}-{number}")
    try:
        folder.mkdir(parents=True)
        for path in old:
            path.rename(folder / path.name)
    except OSError as error:
        raise storage_error(folder, error) from error
    run.log.info("%s holds an earlier run: its files are in %s now (--resume would have continued it)", run.path,
                 folder.relative_to(run.path))  # fmt: skip


def is_finished(run: RunFolder, epochs: int) -> bool:
    """Whether a run of so many epochs was completed here."""
    stage = run.recorded("stages", {}).get(STAGE, {})
    return bool(stage.get("done")) and stage.get("epochs", 0) >= epochs
