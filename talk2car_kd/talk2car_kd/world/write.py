"""Writing a world to disk: into a temporary folder beside the goal, in several processes, renamed when complete.

    coco/{train2017,val2017}/*.jpg      coco/annotations/{instances,captions}_{train,val}2017.json
    talk2car/images/*.jpg               talk2car/commands/{train,val,test}_commands.json
    talk2car/tags.json                  what decides each command (for scores by cue)
    talk2car/objects.json               every thing in every frame (for checking that the answers are unique)
    world.json                          spec, generator version, content fingerprint, counts

Every picture has its own random numbers, so the number of processes does not change a byte.
"""

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import cv2

from shared.errors import DataError, StorageError

from . import coco_like, talk2car_like
from .spec import COCO_SPLITS, GENERATOR_VERSION, SPLITS, WorldSpec

MARK = "world.json"
PICTURE_FOLDERS = ("coco/train2017", "coco/val2017", "talk2car/images")


def write_world(
    folder: Path, spec: WorldSpec, *, progress: Callable[[int, int], None] | None = None, workers: int = 1
) -> Path:
    """Write the world of `spec` to `folder`, or reuse the one that is there when it is complete and of the same spec.

    Args:
        folder: Goal; must not exist, be empty, or hold the world of this very spec.
        spec: Size and seed.
        progress: Called with (pictures done, pictures in all) now and then.
        workers: Processes that draw; 1 draws in this one. The files do not depend on it.

    Returns:
        `folder`.

    Raises:
        DataError: `folder` holds something else (another spec, an older generator, foreign or damaged files).
        StorageError: the disk is full or the place cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        _require_same(folder, spec)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    building = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        _write_into(building, spec, progress, workers)
        _put_in_place(building, folder, spec)
    except OSError as error:
        free, needed = shutil.disk_usage(folder.parent).free, _bytes_needed(spec)
        raise StorageError(
            f"cannot write the embedded world to {folder}: {error.strerror or error}; "
            f"it needs about {needed >> 20} MiB, {free >> 20} MiB are free"
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def _put_in_place(building: Path, folder: Path, spec: WorldSpec) -> None:
    try:
        building.rename(folder)  # replaces an empty folder
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        _require_same(folder, spec)  # another process was faster


def _bytes_needed(spec: WorldSpec) -> int:
    """A rough upper bound: a byte for every four pixels, and the rows."""
    frames = sum(spec.frames(split) for split in SPLITS)
    pictures = spec.coco_train_images + spec.coco_val_images
    pixels = frames * spec.stored_wh[0] * spec.stored_wh[1] + pictures * spec.coco_stored_wh[0] * spec.coco_stored_wh[1]
    return pixels * 2 // 5 + frames * 6000 + pictures * 12000


def _require_same(folder: Path, spec: WorldSpec) -> None:
    """Raise DataError unless the folder holds the complete world of this spec."""
    remedy = "choose another folder, or remove this one to have it written again"
    mark = folder / MARK if folder.is_dir() else folder
    try:
        found = json.loads(mark.read_text()) if folder.is_dir() else None
    except FileNotFoundError:
        raise DataError(
            f"{folder} is not empty and holds no {MARK}, so it is not an embedded world: {remedy}"
        ) from None
    except ValueError as error:
        raise DataError(f"{mark} is not JSON ({error}): the world is damaged; {remedy}") from None
    if not isinstance(found, dict) or "spec" not in found or "documents" not in found:
        raise DataError(f"{folder} is not an embedded world: {remedy}")
    if found.get("generator") != GENERATOR_VERSION:
        versions = f"generator version {found.get('generator')}, this is version {GENERATOR_VERSION}"
        raise DataError(f"{folder} was written by {versions}: {remedy}")
    wanted = spec.as_json()
    if found["spec"] != wanted:
        differing = [
            f"{key}: there {found['spec'].get(key)}, asked {value}"
            for key, value in wanted.items()
            if found["spec"].get(key) != value
        ]
        raise DataError(f"{folder} holds a world of another spec ({'; '.join(differing)}): {remedy}")
    for name, size in found["documents"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise DataError(f"{path} is missing or not {size} bytes: the world is damaged; {remedy}")
    for name, count in found["images"].items():
        have = len(list((folder / name).glob("*.jpg")))
        if have != count:
            raise DataError(f"{folder / name} holds {have} images instead of {count}: the world is damaged; {remedy}")


def _sweep(folder: Path) -> None:
    """Remove what killed runs left beside the goal."""
    for left in folder.parent.glob(f".{folder.name}.*.tmp"):
        owner = left.name.rsplit(".", 2)[1]
        if not (owner.isdigit() and Path(f"/proc/{owner}").exists()):
            shutil.rmtree(left, ignore_errors=True)


def _jobs(spec: WorldSpec) -> list[tuple[str, str, int]]:
    """(part, split, index) of every picture."""
    counts = {"train2017": spec.coco_train_images, "val2017": spec.coco_val_images}
    jobs = [("coco", split, index) for split, count in counts.items() for index in range(count)]
    return jobs + [("talk2car", split, index) for split in SPLITS for index in range(spec.frames(split))]


def _draw(building: Path, spec: WorldSpec, job: tuple[str, str, int]) -> dict:
    part, split, index = job
    if part == "coco":
        return coco_like.write_view(building / "coco" / split, spec, split, index)
    return talk2car_like.write_frame(building / "talk2car" / "images", spec, split, index)


def _write_into(building: Path, spec: WorldSpec, progress, workers: int) -> None:
    for name in (*PICTURE_FOLDERS, "coco/annotations", "talk2car/commands"):
        (building / name).mkdir(parents=True)
    jobs = _jobs(spec)
    documents = _documents(spec, jobs, _draw_all(building, spec, jobs, progress, workers))
    for name, document in documents.items():
        (building / name).write_text(json.dumps(document, separators=(",", ":")))
    mark = {
        "what": "embedded synthetic world of talk2car_kd: no photographs, no real data",
        "generator": GENERATOR_VERSION,
        "spec": spec.as_json(),
        "fingerprint": fingerprint(building),
        "documents": {name: (building / name).stat().st_size for name in documents},
        "images": {name: len(list((building / name).glob("*.jpg"))) for name in PICTURE_FOLDERS},
        "commands": {split: len(documents[f"talk2car/commands/{split}_commands.json"]["commands"]) for split in SPLITS},
    }
    (building / MARK).write_text(json.dumps(mark, indent=1))


def fingerprint(folder: Path) -> str:
    """sha256 over the names and contents of all documents and pictures of a world (world.json excepted)."""
    digest = hashlib.sha256()
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MARK)
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in files):
        digest.update(name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _documents(spec: WorldSpec, jobs, drawn: list[dict]) -> dict[str, dict]:
    by_split: dict[str, list[dict]] = {}
    for (_, split, _), result in zip(jobs, drawn, strict=True):
        by_split.setdefault(split, []).append(result)
    made, tags, objects = {}, {}, {}
    for split in COCO_SPLITS:
        for name, document in coco_like.documents(by_split[split], spec).items():
            made[f"coco/annotations/{name}_{split}.json"] = document
    for split in SPLITS:
        rows = [row for result in by_split[split] for row in result["rows"]]
        scenes = list(dict.fromkeys(row["scene_token"] for row in rows))
        made[f"talk2car/commands/{split}_commands.json"] = {"commands": rows, "scene_tokens": scenes}
        for result in by_split[split]:
            tags.update(result["tags"])
            objects.update(result["things"])
    return {**made, "talk2car/tags.json": tags, "talk2car/objects.json": objects}


def _draw_all(building: Path, spec: WorldSpec, jobs, progress, workers: int) -> list[dict]:
    """What every job returned, in the order of the jobs."""
    report = progress or (lambda done, total: None)
    if workers <= 1:
        return _draw_here(building, spec, jobs, report)
    return _draw_in_processes(building, spec, jobs, report, workers)


def _draw_here(building, spec, jobs, report) -> list[dict]:
    results = []
    for number, job in enumerate(jobs):
        results.append(_draw(building, spec, job))
        if number % 50 == 49 or number == len(jobs) - 1:
            report(number + 1, len(jobs))
    return results


def _draw_share(building: Path, spec: WorldSpec, jobs, number: int, workers: int, state) -> None:
    """A drawing process: every `workers`-th job. Its results go to a file; `state` is (pictures done, errno).

    It waits for nobody, so that it ends by itself when its parent is killed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)
    results = []
    try:
        for job in jobs[number::workers]:
            results.append(_draw(building, spec, job))
            with state.get_lock():
                state[0] += 1
        (building / f"part-{number}.json").write_text(json.dumps(results))
    except OSError as error:
        state[1] = error.errno or errno.EIO
        raise SystemExit(1) from None


def _draw_in_processes(building, spec, jobs, report, workers: int) -> list[dict]:
    context = multiprocessing.get_context("fork")
    state = context.Array("i", 2)
    processes = [
        context.Process(target=_draw_share, args=(building, spec, jobs, number, workers, state), daemon=True)
        for number in range(workers)
    ]
    try:
        for process in processes:
            process.start()
        _await(processes, state, len(jobs), report)
        return _collect(building, len(jobs), workers)
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()


def _collect(building: Path, jobs: int, workers: int) -> list[dict]:
    results: list[dict] = [{}] * jobs
    for number in range(workers):
        part = building / f"part-{number}.json"
        results[number::workers] = json.loads(part.read_text())
        part.unlink()
    return results


def _await(processes, state, total: int, report) -> None:
    """Wait for the drawing processes; OSError or RuntimeError when one of them failed."""
    while True:
        running = [process for process in processes if process.is_alive()]
        failed = [process for process in processes if process.exitcode not in (None, 0)]
        if failed and state[1]:
            raise OSError(state[1], os.strerror(state[1]))
        if failed:
            code = failed[0].exitcode
            raise RuntimeError(f"a drawing process ended with code {code} after {state[0]} of {total} pictures")
        report(state[0], total)
        if not running:
            return
        time.sleep(0.1)
