"""An experiment's folders: opening them, going back to an epoch, beginning anew, keeping epochs and the best model.

    logs/<experiment>/            run.json, config.yaml, metrics.jsonl, log.txt, and the newest states inside an epoch
    checkpoints/<experiment>/     epoch_%04d.pth (to go back to), best_model.pth (to use)
    results/<experiment>/         report.html and figures

An epoch's file holds the moment at its end, before it is validated: who goes back to it validates it again.
"""

import contextlib
import fcntl
import shutil
import sys
from pathlib import Path

from shared import checkpoint
from shared.config import to_yaml
from shared.errors import CheckpointError, UserError
from shared.loop import Loop
from shared.run import RunFolder, World
from shared.storage import make_folder

from ..checkpoints import epoch_file
from ..config import Settings

FOLDERS = ("checkpoints", "logs", "results")


def open_run(settings: Settings, world: World) -> RunFolder:
    """logs/<experiment>, locked (collective). UserError: taken by another process, or begun with other settings."""
    try:
        return RunFolder.open(
            settings.output_dir / "logs",
            name=settings.name,
            config_hash=settings.hash,
            config_yaml=to_yaml(settings),
            stages=(settings.kind,),
            world=world,
            command=sys.argv,
            wandb=settings.training.use_wandb,
            wandb_project=settings.training.wandb_project,
        )
    except UserError as error:
        advice = str(error).replace("--run NAME", "--experiment_name NAME")
        raise type(error)(advice.replace("--run ", "--experiment_name ")) from error


def folder_of(settings: Settings, what: str) -> Path:
    """checkpoints/ or results/ of the experiment, made when missing. StorageError when it cannot be."""
    return make_folder(settings.folder(what))


def begin_anew(settings: Settings, world: World) -> None:
    """--fresh: delete the experiment's three folders. UserError when a process is writing there (collective)."""
    outcome = None
    if world.is_main:
        try:
            _delete(settings)
        except UserError as error:
            outcome = error
    outcome = world.broadcast(outcome)
    if outcome is not None:
        raise outcome


def _delete(settings: Settings) -> None:
    logs = settings.folder("logs")
    if not (logs / "run.json").is_file():
        return  # no experiment of ours: opening it says what is wrong with it, or makes it
    with (logs / "run.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--fresh: {logs} is being written by another process: wait for it or stop it") from None
        for what in FOLDERS:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(settings.folder(what))


def keep_epoch(loop: Loop, settings: Settings, card: dict) -> None:
    """Write checkpoints/<experiment>/epoch_%04d.pth for the epoch that has just ended (collective)."""
    state = loop.state()
    if loop.world.is_main:
        path = folder_of(settings, "checkpoints") / epoch_file(loop.epoch + 1)
        checkpoint.save(path, state, step=loop.steps_done, config=settings.model_dump(mode="json"), pointers=(),
                        extra={**card, "epoch": loop.epoch + 1})  # fmt: skip
    loop.world.barrier()


def go_back(settings: Settings, run: RunFolder, world: World, epoch: int) -> None:
    """Make the state of that epoch the newest one, so that the run continues from there, and drop what came after it.

    The settings are those of then (the run's folder refuses others). CheckpointError: no such epoch, or a damaged file.
    """
    if world.is_main:
        path = settings.folder("checkpoints") / epoch_file(epoch)
        if not path.is_file():
            files = [one for one in path.parent.glob("epoch_*.pth") if one.is_file()]
            kept = sorted(int(one.stem.removeprefix("epoch_")) for one in files)
            raise CheckpointError(f"--checkpoints {epoch}: {path} is not there; this experiment has kept the epochs "
                                  f"{', '.join(map(str, kept)) or 'none'}: give one of them")  # fmt: skip
        state = checkpoint.load(path)
        if "position" not in state:
            raise CheckpointError(f"{path} holds no state of a training: restore it with its manifest from a copy")
        step = state["position"]["step"]
        newest = run.file(Path(settings.kind) / f"step-{step:07d}.pt")
        checkpoint.save(newest, state, step=step, extra={"world_size": len(state["rng"])})
        for other in newest.parent.glob("step-*.pt"):
            if other.name > newest.name:
                other.unlink()
                other.with_name(f"{other.name}.json").unlink(missing_ok=True)
        run.log.info("%s: going back to the end of epoch %d", settings.name, epoch)
    run.record(stages={})
    world.barrier()
