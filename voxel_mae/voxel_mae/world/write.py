"""Writing a world in OpenPCDet's custom layout: into a temporary folder beside the goal, renamed when complete.

ImageSets/train.txt, val.txt        labelled frames, one id a line; a sequence lies in one split
ImageSets/unlabelled.txt            frames without label files; pretrain.txt: train and unlabelled
ImageSets/train_<percent>_<d>.txt   label budgets: whole sequences, drawn anew for each d; 5 % lies within 20 %
points/<id>.npy                     float32 (P, 3 or 4): x, y, z, intensity
labels/<id>.txt                     x y z dx dy dz heading class
sequences.json                      ours: sequence, sensor pose, kind, tracks of every frame
world.json                          spec, generator version
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from shared.errors import DataError
from shared.storage import storage_error
from voxel_mae.data.splits import label_budget

from .frames import WorldFrame, make_sequence
from .spec import BUDGET_DRAWS, BUDGETS_PERCENT, GENERATOR_VERSION, WorldSpec
from .spec import Sequence as Drive

MARK, SEQUENCES = "world.json", "sequences.json"
POINT_BYTES = 16  # for the message of a full disk
Progress = Callable[[int, int], None]


def world_folder(parent: Path | str, spec: WorldSpec) -> Path:
    """Where the world of this spec lies below `parent`."""
    return Path(parent) / f"world-{spec.seed}-{spec.fingerprint()}"


def ensure_world(parent: Path | str, spec: WorldSpec, *, workers: int | None = None) -> Path:
    """The root of this world below `parent`, written on the first call; worlds of several specs lie side by side."""
    return write_world(world_folder(parent, spec), spec, workers=workers)


def write_world(
    root: Path | str,
    spec: WorldSpec,
    *,
    workers: int | None = None,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Write a world to `root`, or keep the one that is there when it is of the same spec. Returns `root`.

    workers: processes besides this one; None one a core, 0 works here. The files do not depend on it.
    progress: called with (sequences done, sequences in all).
    Several processes may ask for the same root at once: one writes, the others wait and use it.

    Raises:
        DataError: the folder holds something else, or the world of another spec or generator.
        StorageError: the file system refused.
    """
    root = Path(root)
    if is_embedded(root):  # complete, since it was renamed: nothing to write, so a read-only disk will do
        _require_same(root, spec)
        return root
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with _locked(root):
            if root.exists() and (not root.is_dir() or any(root.iterdir())):
                _require_same(root, spec)
            else:
                _build(root, spec, _cores() if workers is None else workers, progress)
    except OSError as error:
        frames = spec.frames * sum(1 for _ in spec.sequences())
        raise storage_error(root, error, frames * spec.beams * spec.columns * POINT_BYTES) from error
    return root


def is_embedded(root: Path | str) -> bool:
    """Whether a data root is an embedded world: for banners, run.json and the mark on pictures."""
    return (Path(root) / MARK).is_file()


def label_lines(frame: WorldFrame) -> str:
    """The text of a label file: x y z dx dy dz heading class, single spaces."""
    rows = zip(frame.boxes, frame.names, strict=True)
    return "".join(" ".join(f"{value:.4f}" for value in box) + f" {name}\n" for box, name in rows)


def budgets(train_ids: Sequence[str]) -> dict[str, list[str]]:
    """{split name: ids} of the label budgets; the smaller ones of a draw lie within the larger ones."""
    return {f"train_{percent}_{draw}": label_budget(train_ids, percent / 100, draw)
            for draw in range(BUDGET_DRAWS) for percent in BUDGETS_PERCENT}  # fmt: skip


def _cores() -> int:
    return len(os.sched_getaffinity(0))


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """One writer of this root at a time, over processes; the lock ends with its holder, however that ends."""
    with root.with_name(f".{root.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(root: Path, spec: WorldSpec, workers: int, progress: Progress) -> None:
    """Called under the lock: what an earlier writer left half done is nobody's."""
    building = root.with_name(f".{root.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    try:
        for name in ("ImageSets", "points", "labels"):
            (building / name).mkdir(parents=True)
        drives, about = list(spec.sequences()), {}
        for done, found in enumerate(_written(partial(_write_sequence, building, spec), drives, workers), 1):
            about |= found
            progress(done, len(drives))
        _write_splits(building, spec)
        (building / SEQUENCES).write_text(json.dumps(about, indent=1) + "\n")
        mark = {"what": "embedded synthetic construction sites of voxel_mae: no real data",
                "generator": GENERATOR_VERSION, "spec": spec.as_json()}  # fmt: skip
        (building / MARK).write_text(json.dumps(mark, indent=1) + "\n")
        building.rename(root)  # replaces an empty folder
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _written(work: Callable, drives: Sequence[Drive], workers: int) -> Iterator:
    if workers < 2:
        yield from map(work, drives)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        yield from pool.map(work, drives)


def _write_sequence(building: Path, spec: WorldSpec, drive: Drive) -> dict[str, dict]:
    """Write a drive's files; returns what sequences.json says of its frames."""
    about = {}
    for frame in make_sequence(spec, drive):
        points = frame.points if spec.intensity else frame.points[:, :3]
        np.save(building / "points" / f"{frame.frame_id}.npy", np.ascontiguousarray(points))
        if drive.split != "unlabelled":
            (building / "labels" / f"{frame.frame_id}.txt").write_text(label_lines(frame))
        about[frame.frame_id] = {"sequence": drive.name, "pose_m_rad": list(frame.pose), "kind": frame.kind,
                                 "tracks": list(frame.tracks)}  # fmt: skip
    return about


def _write_splits(building: Path, spec: WorldSpec) -> None:
    splits: dict[str, list[str]] = {"train": [], "val": [], "unlabelled": []}
    for drive in spec.sequences():
        splits[drive.split] += [drive.frame_id(index) for index in range(spec.frames)]
    splits["pretrain"] = splits["train"] + splits["unlabelled"]
    for name, ids in (splits | budgets(splits["train"])).items():
        (building / "ImageSets" / f"{name}.txt").write_text("".join(f"{one}\n" for one in ids))


def _require_same(root: Path, spec: WorldSpec) -> None:
    """Raise DataError unless the folder holds the world of this spec."""
    remedy = "choose another folder, or remove this one to have it written again."
    mark = root / MARK
    if not mark.is_file():
        raise DataError(f"{root} is not empty and holds no {MARK}, so it is no embedded world: {remedy}")
    try:
        found = json.loads(mark.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{mark} is not JSON ({error}): {remedy}") from error
    if not isinstance(found, dict) or found.get("generator") != GENERATOR_VERSION or "spec" not in found:
        raise DataError(f"{root} is no embedded world of generator version {GENERATOR_VERSION}: {remedy}")
    other = [f"{key}: there {found['spec'].get(key)}, asked {value}" for key, value in spec.as_json().items()
             if found["spec"].get(key) != value]  # fmt: skip
    if other:
        raise DataError(f"{root} holds a world of another spec ({'; '.join(other)}): {remedy}")
