"""The folder of a run: who may write in it, what it records, and how the same command finds it again.

    results/20260131-120000-1a2b3c4d/
        config.yaml  run.json  log.txt  metrics.jsonl  run.lock  + checkpoints, figures, report

`RunFolder.open` makes or finds it: by name, or as the newest run of the same configuration with a requested stage still
open. Only the main process writes; the lock on `run.lock` ends with the process that holds it, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .console import attach_handlers
from .errors import UserError
from .machine import code_version, hardware, versions
from .storage import make_folder, storage_error, sweep, write_atomic

if TYPE_CHECKING:
    from .run import World

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
OWN_FILES = {"run.lock", "config.yaml", "log.txt", "run.json"}  # what a run killed at its very start may have left
SHOWN_DIFFERENCES = 5


class RunFolder:
    """An open run. A context manager; `close` gives up the lock."""

    def __init__(self, path: Path, world: World, record: dict[str, Any], lock: _Lock | None):
        self.path, self.log = path, logging.getLogger("shared.run")
        self._world, self._record, self._lock = world, record, lock
        self._wandb: dict[str, Any] | None = None
        self._metrics: Any = None
        self._handlers = attach_handlers(path / "log.txt", world)

    @classmethod
    def open(
        cls,
        root: Path | str,
        *,
        name: str | None,
        config_hash: str,
        config_yaml: str,
        stages: Sequence[str],
        world: World,
        command: str | Sequence[str],
        wandb: bool = False,
        wandb_project: str | None = None,
        wandb_name: str | None = None,
        packages: Sequence[str] = ("torch", "numpy"),
    ) -> RunFolder:
        """Find or make the run's folder below `root` (collective under several processes).

        Args:
            name: the run's name, one path component; None resumes the newest run with this `config_hash` and one of
                `stages` not done, else begins a new one named `<UTC time>-<hash>`.
            packages: distributions whose versions run.json records.
            wandb: log to Weights & Biases too, by default under the names of `root` and of the run.

        Raises:
            UserError: another process writes there, or the named run has another configuration; on every process.
        """
        outcome, lock = None, None
        if world.is_main:
            try:
                outcome, lock = _claim(Path(root), name, config_hash, config_yaml, stages)
            except UserError as error:
                outcome = error
        outcome = world.broadcast(outcome)
        if isinstance(outcome, UserError):
            raise outcome
        path, record = outcome
        run = cls(path, world, record, lock)
        if wandb:
            names = {"project": wandb_project or path.parent.name or "runs", "name": wandb_name or path.name}
            run._wandb = {**names, "config": yaml.safe_load(config_yaml)}
        run._begin(config_hash, config_yaml, stages, command, packages)
        return run

    def _begin(
        self, config_hash: str, config_yaml: str, stages: Sequence[str], command: str | Sequence[str], packages: Any
    ) -> None:
        resumed = bool(self._record)
        start = {"utc": _now(), "command": command, "code": code_version(), "processes": self._world.size}
        config = yaml.safe_load(config_yaml)
        self.record(
            name=self.path.name,
            created_utc=self._record.get("created_utc", start["utc"]),
            config_hash=config_hash,
            config=config,
            seed=config.get("seed") if isinstance(config, dict) else None,
            command=command,
            code=start["code"],
            starts=[*self._record.get("starts", []), start],
            versions=versions(packages),
            hardware=hardware(),
            stages=self._record.get("stages", {}),
        )
        if self._world.is_main:
            write_atomic(self.path / "config.yaml", config_yaml)
        todo = ", ".join(stage for stage in stages if not self.is_done(stage)) or "nothing"
        self.log.info("%s run %s (to do: %s)", "resuming" if resumed else "new", self.path, todo)

    @property
    def metrics(self) -> Any:
        """The run's MetricsLog; on processes other than the main one a stand-in that writes nothing."""
        if self._metrics is None:
            self._metrics = self._open_metrics() if self._world.is_main else NoMetrics()
        return self._metrics

    def _open_metrics(self) -> Any:
        from .metrics_log import MetricsLog  # late: it may import TensorBoard, which is slow
        from .wandb_run import start_wandb

        return MetricsLog(self.path, start_wandb(self.path, **self._wandb) if self._wandb else None)

    def record(self, **fields: Any) -> None:
        """Merge fields into run.json."""
        self._record.update(fields)
        if self._world.is_main:
            write_atomic(self.path / "run.json", json.dumps(self._record, indent=1) + "\n")

    def recorded(self, field: str, default: Any = None) -> Any:
        """A field of run.json."""
        return self._record.get(field, default)

    def is_done(self, stage: str) -> bool:
        return _is_done(self._record, stage)

    def mark_done(self, stage: str, **info: Any) -> None:
        """Record that a stage is complete, with what is worth knowing about it (JSON data)."""
        stages = {**self._record["stages"], stage: {"done": True, "finished_utc": _now(), **info}}
        self.record(stages=stages)

    def file(self, name: str | Path) -> Path:
        """A path inside the run's folder, its parent folder made.

        Raises:
            UserError: the name leads out of the folder.
        """
        path = self.path / name
        if "\0" in str(name) or not path.resolve().is_relative_to(self.path.resolve()):
            raise UserError(f"{name!r} leads out of the run's folder {self.path}; use a plain file name.")
        make_folder(path.parent, path)
        return path

    def close(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
        for handler in self._handlers:
            logging.getLogger().removeHandler(handler)
            handler.close()
        self._handlers = []
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class NoMetrics:
    """Stands for MetricsLog where nothing is to be written."""

    def log(self, step: int, values: Mapping, *, split: str, time: Mapping | None = None) -> None: ...

    def rewind(self, split_prefix: str | None, step: int = -1) -> None: ...

    def truncate(self, position: int) -> None: ...

    def position(self) -> int:
        return 0

    def close(self) -> None: ...


# ---------------------------------------------------------------- finding and claiming


def _claim(
    root: Path, name: str | None, config_hash: str, config_yaml: str, stages: Sequence[str]
) -> tuple[tuple[Path, dict[str, Any]], _Lock]:
    """The folder, locked, with what its run.json records ({} for a new run)."""
    if name is not None and not SAFE_NAME.fullmatch(name):
        raise UserError(f"--run {name!r} is not a usable name: letters, digits, '.', '_' and '-', one path component.")
    try:
        root.mkdir(parents=True, exist_ok=True)
        if name is not None:
            path = root / name
            path.mkdir(exist_ok=True)
        else:
            path = _unfinished(root, config_hash, stages) or _new_folder(root, config_hash)
    except OSError as error:
        raise storage_error(root / (name or "run"), error) from error
    lock = _Lock(path)
    try:
        record = _read_record(path)
        _check_same_config(path, record, config_hash, config_yaml)
        sweep(path)
    except BaseException:
        lock.release()
        raise
    return (path, record), lock


def _unfinished(root: Path, config_hash: str, stages: Sequence[str]) -> Path | None:
    """The newest run of this configuration with one of the stages not done."""
    found = []
    for source in root.glob("*/run.json"):
        try:
            record = _read_record(source.parent)
        except UserError as error:
            logging.getLogger(__name__).warning("%s", error)
            continue
        if record.get("config_hash") == config_hash and not all(_is_done(record, stage) for stage in stages):
            found.append((record.get("created_utc", ""), source.parent))
    return max(found)[1] if found else None


def _is_done(record: Mapping, stage: str) -> bool:
    return bool(record.get("stages", {}).get(stage, {}).get("done"))


def _new_folder(root: Path, config_hash: str) -> Path:
    """Named by second; runs begun in the same one are numbered."""
    stamp = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{config_hash[:8]}"
    number = 1
    while True:
        path = root / (stamp if number == 1 else f"{stamp}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
        number += 1


def _read_record(path: Path) -> dict[str, Any]:
    source = path / "run.json"
    try:
        record = json.loads(source.read_bytes())
    except FileNotFoundError:
        foreign = [item.name for item in path.iterdir() if item.name not in OWN_FILES and not item.name.startswith(".")]
        if foreign:
            raise UserError(
                f"{path} exists and is not a run's folder (it holds {foreign[0]} and no run.json): choose another name."
            ) from None
        return {}
    except ValueError as error:
        raise UserError(f"{source} is not JSON ({error}): restore it, or choose another --run NAME.") from error
    if not isinstance(record, dict) or not isinstance(record.get("stages"), dict):
        raise UserError(f"{source} is not a run's record: restore it, or choose another --run NAME.")
    return record


def _check_same_config(path: Path, record: Mapping, config_hash: str, config_yaml: str) -> None:
    if not record or record.get("config_hash") == config_hash:
        return
    differences = _differences(record.get("config"), yaml.safe_load(config_yaml))
    shown = "; ".join(differences[:SHOWN_DIFFERENCES])
    more = f"; and {len(differences) - SHOWN_DIFFERENCES} more" if len(differences) > SHOWN_DIFFERENCES else ""
    raise UserError(
        f"{path} was begun with another configuration (hash {record.get('config_hash')}, now {config_hash}): "
        f"{shown}{more}. Give the same settings to resume it, or another --run NAME."
    )


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    """`key: old -> new` of every setting that differs."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{where or 'config'}: {old!r} -> {new!r}"]
    keys = [*old, *(key for key in new if key not in old)]
    nested = [_differences(old.get(key), new.get(key), f"{where}.{key}" if where else str(key)) for key in keys]
    return [line for lines in nested for line in lines]


class _Lock:
    """An exclusive flock: gone when its process is, by kill -9 too. Children of a fork give up their copy at once."""

    held: set[_Lock] = set()  # noqa: RUF012 - shared on purpose

    def __init__(self, folder: Path):
        path = folder / "run.lock"
        try:
            self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._descriptor, 100).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            raise UserError(
                f"{folder} is being written by another process ({holder}): wait for it or stop it, "
                "or give --run NAME for a second run beside it."
            ) from None
        except OSError as error:
            raise storage_error(path, error) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
        _Lock.held.add(self)

    def release(self) -> None:
        _Lock.held.discard(self)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _release_in_child() -> None:
    for lock in list(_Lock.held):
        lock.release()


os.register_at_fork(after_in_child=_release_in_child)


def _now() -> str:
    return datetime.now(UTC).isoformat()
