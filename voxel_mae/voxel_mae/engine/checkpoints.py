"""OpenPCDet's checkpoints: ckpt/checkpoint_epoch_N.pth and ckpt/latest_model.pth.

Each holds OpenPCDet's keys (epoch, it, model_state, optimizer_state, version) and everything that an exact resume
needs, and has a manifest beside it. `model_state` is the state of the whole detector; pretraining's has the teacher and
the queues in it. What the same command continues from lies in <run>/<stage>/, saved by `shared.loop`.
"""

import re
from pathlib import Path
from typing import Any

from shared import checkpoint
from shared.errors import CheckpointError
from shared.loop import Loop
from shared.run import RunFolder
from shared.storage import storage_error

FOLDER, LATEST = "ckpt", "latest_model.pth"
NAME = re.compile(r"checkpoint_epoch_(\d+)\.pth")
VERSION = "voxel_mae-1"  # of what stands in the files


def checkpoint_file(epoch: int) -> str:
    """Name of the state after so many epochs."""
    return f"checkpoint_epoch_{epoch}.pth"


def epoch_of(path: Path) -> int | None:
    """The number in a checkpoint's name, None for other files."""
    found = NAME.fullmatch(path.name)
    return int(found[1]) if found else None


def list_checkpoints(folder: Path) -> list[Path]:
    """checkpoint_epoch_*.pth of a folder by their number, oldest first."""
    found = [path for path in folder.glob("checkpoint_epoch_*.pth") if epoch_of(path) is not None]
    return sorted(found, key=epoch_of)


def folder_of(run: RunFolder) -> Path:
    """ckpt/ of a run, made when missing. StorageError when it cannot be, or the run's folder is gone."""
    folder = run.path / FOLDER
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error
    return folder


def state_of(loop: Loop, epoch: int) -> dict[str, Any]:
    """What a checkpoint holds after `epoch` epochs (collective). The doubled names share their tensors on disk."""
    state = loop.state()
    return {
        **state,
        "epoch": epoch,
        "it": loop.steps_done,
        "model_state": state["model"],
        "optimizer_state": state["optimizer"],
        "version": VERSION,
    }


def save_checkpoint(loop: Loop, name: str, epoch: int, card: dict[str, Any]) -> None:
    """Write ckpt/<name> (collective). card: JSON data for its manifest."""
    state = state_of(loop, epoch)
    if loop.world.is_main:
        path = folder_of(loop.run) / name
        checkpoint.save(path, state, step=loop.steps_done, pointers=(), extra={**card, "epoch": epoch})
    loop.world.barrier()


def remove_old(loop: Loop, keep: int) -> None:
    """All but the newest `keep` of checkpoint_epoch_*.pth; a removal that fails only warns."""
    if loop.world.is_main:
        for path in list_checkpoints(folder_of(loop.run))[:-keep]:
            try:
                path.unlink()
                path.with_name(f"{path.name}.json").unlink(missing_ok=True)
            except OSError as error:
                loop.run.log.warning("%s could not be removed (%s); continuing", path, error)
    loop.world.barrier()


def read_model_state(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(model_state, card) of a checkpoint of this package, verified against its manifest.

    Raises CheckpointError: missing, damaged, or without model_state.
    """
    state = checkpoint.load(path)
    if "model_state" not in state:
        raise CheckpointError(f"{path} has no model_state: it is not one of checkpoint_epoch_*.pth; give one of those.")
    return state["model_state"], checkpoint.manifest(path).get("extra") or {}


def continue_from(loop: Loop, path: Path) -> None:
    """--ckpt: make that state this run's newest one before `resume`, unless the run already has states of its own.

    Raises CheckpointError: missing, damaged, or not one of ours (weights alone belong to --pretrained_model).
    """
    if loop.world.is_main and not any(loop.folder.glob("step-*.pt")):
        state = checkpoint.load(path)
        if "position" not in state:
            raise CheckpointError(f"--ckpt {path} holds no training state to continue from; for its weights alone use "
                                  "--pretrained_model")  # fmt: skip
        step = state["position"]["step"]
        target = loop.run.file(Path(loop.stage) / f"step-{step:07d}.pt")
        checkpoint.save(target, {**state, "metrics_bytes": loop.run.metrics.position()}, step=step)
        loop.run.log.info("%s: continuing from %s", loop.stage, path)
    loop.world.barrier()
