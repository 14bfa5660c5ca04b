"""The root of an embedded world: written once, whole or not at all, and used again.

    written_once(root, spec, build, bytes_needed=...)        `build` draws the files into the folder it is given

A world is drawn into a folder beside its goal and renamed when complete, so a goal that holds `world.json` is whole.
Several processes may ask for one root at once: one draws under a lock that ends with its holder, the others wait and
use it. What a killed writer left half done is swept by the next.
"""

import contextlib
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from .errors import DataError
from .storage import storage_error

MARK = "world.json"
REMEDY = "choose another folder, or remove this one to have it written again."


@dataclass(frozen=True)
class Description:
    """What stands in world.json: what the world is, its generator's version, the settings it was drawn from."""

    what: str
    generator: int
    spec: Mapping[str, Any]  # plain JSON data


def is_embedded(root: Path | str) -> bool:
    """Whether a data root is an embedded world: for banners, run.json and the mark on pictures."""
    return (Path(root) / MARK).is_file()


def lies_in_embedded(path: Path | str) -> bool:
    """Whether a file or folder belongs to an embedded world: its own folder, or one above it, is the root of one."""
    return any(is_embedded(folder) for folder in (Path(path), *Path(path).parents))


def spec_of(root: Path | str) -> dict[str, Any]:
    """The settings a world was drawn from. DataError when the root is no embedded world."""
    return _read_mark(Path(root))["spec"]


def written_once(
    root: Path | str, world: Description, build: Callable[[Path], Mapping[str, Any] | None], *, bytes_needed: int
) -> Path:
    """The world at `root`, drawn unless it is there. Returns `root`.

    build(folder): draws the files into an empty folder; what it returns is added to world.json.
    bytes_needed: about; for the message of a full disk.

    Raises:
        DataError: the root holds something else, or a world of another spec or generator.
        StorageError: the file system refused.
    """
    root = Path(root)
    if is_embedded(root):  # nothing to write, so a read-only disk will do
        _require_same(root, world)
        return root
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with alone(root):
            if root.exists() and (not root.is_dir() or any(root.iterdir())):
                _require_same(root, world)
            else:
                _draw(root, world, build)
    except OSError as error:
        raise storage_error(root, error, bytes_needed) from error
    return root


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """One process at a time inside the block, for whatever is made at `path`; the lock ends with its holder, however
    that ends. Not reentrant."""
    with path.with_name(f".{path.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def in_processes(work: Callable, jobs: Iterable, workers: int | None, *, chunk: int = 1) -> Iterator:
    """work(job) of every job, in their order, in `workers` forked processes; None: one a core, below 2: in this one."""
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    if workers < 2:
        yield from map(work, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("fork"), initializer=_one_thread) as pool:
        yield from pool.map(work, jobs, chunksize=chunk)


def _one_thread() -> None:
    """OpenMP's threads are not in a fork: torch, where the caller has it, would wait for them for ever."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def _draw(root: Path, world: Description, build: Callable[[Path], Mapping[str, Any] | None]) -> None:
    """Called under the lock: what an earlier writer left half done is nobody's."""
    building = root.with_name(f".{root.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    try:
        building.mkdir()
        more = build(building) or {}
        mark = {"what": world.what, "generator": world.generator, "spec": dict(world.spec), **more}
        (building / MARK).write_text(json.dumps(mark, indent=1) + "\n")
        building.rename(root)  # replaces an empty folder
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _require_same(root: Path, world: Description) -> None:
    """DataError unless the folder holds the world that is described."""
    found = _read_mark(root)
    if found.get("generator") != world.generator:
        raise DataError(f"{root} is no embedded world of generator version {world.generator}: {REMEDY}")
    other = [f"{key}: there {found['spec'].get(key)}, asked {value}" for key, value in world.spec.items()
             if found["spec"].get(key) != value]  # fmt: skip
    if other:
        raise DataError(f"{root} holds a world of another spec ({'; '.join(other)}): {REMEDY}")


def _read_mark(root: Path) -> dict[str, Any]:
    mark = root / MARK
    if not mark.is_file():
        raise DataError(f"{root} is not empty and holds no {MARK}, so it is no embedded world: {REMEDY}")
    try:
        found = json.loads(mark.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{mark} is not JSON ({error}): {REMEDY}") from error
    if not isinstance(found, dict) or not isinstance(found.get("spec"), dict):
        raise DataError(f"{mark} names no `spec`, so {root} is no embedded world: {REMEDY}")
    return found
