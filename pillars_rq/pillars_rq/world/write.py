"""Writing a world in KITTI's layout: into a temporary folder beside the goal, renamed when complete.

    training/{velodyne,calib,image_2,label_2}/000000.*   train frames first, then val frames
    testing/{velodyne,calib,image_2}/000000.*            unlabelled
    ImageSets/{train,val,trainval,test}.txt
    world.json                                           spec, generator version, counts

prepare_kitti.py then prepares it like any other KITTI root. velodyne/ holds the sector around the camera's view only
(88 degrees), not the whole turn.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2

from pillars_rq.kitti.labels import lines
from shared.errors import DataError
from shared.storage import storage_error

from .annotate import calibration_text, make_calibration
from .frame import make_frame
from .spec import GENERATOR_VERSION, SPLITS, WorldSpec

MARK = "world.json"
KINDS = ("velodyne", "calib", "image_2", "label_2")


def write_world(
    folder: Path | str, spec: WorldSpec, *, workers: int = 0, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write the world of `spec` to `folder`, or keep the one that is there when it is of the same spec.

    Args:
        folder: must not exist, be empty, or hold the world of this very spec.
        workers: processes besides this one; 0 works here. The files do not depend on it.
        progress: called with (frames done, frames in all).

    Raises:
        DataError: the folder holds something else, or the world of another spec or generator.
        StorageError: the file system refused.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        _require_same(folder, spec)
        return folder
    building = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _write_into(building, spec, workers, progress or (lambda done, total: None))
        building.rename(folder)  # replaces an empty folder
    except OSError as error:
        raise storage_error(folder, error, sum(spec.frames(split) for split in SPLITS) * 700_000) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def frame_place(spec: WorldSpec, split: str, number: int) -> tuple[str, str]:
    """(part, frame id) of a split's frame."""
    if split == "test":
        return "testing", f"{number:06d}"
    return "training", f"{number + (spec.train_frames if split == 'val' else 0):06d}"


def _write_into(building: Path, spec: WorldSpec, workers: int, progress: Callable[[int, int], None]) -> None:
    jobs = [(split, number) for split in SPLITS for number in range(spec.frames(split))]
    for part in ("training", "testing"):
        for kind in KINDS if part == "training" else KINDS[:3]:
            (building / part / kind).mkdir(parents=True)
    _write_lists(building, spec)
    objects: dict[str, int] = {}
    for done, counts in enumerate(_written(partial(_write_frame, building, spec), jobs, workers), 1):
        for name, count in counts.items():
            objects[name] = objects.get(name, 0) + count
        progress(done, len(jobs))
    mark = {"what": "embedded synthetic LiDAR world of pillars_rq: no real data", "generator": GENERATOR_VERSION,
            "spec": spec.as_json(), "objects": dict(sorted(objects.items()))}  # fmt: skip
    (building / MARK).write_text(json.dumps(mark, indent=1) + "\n")


def _written(work: Callable, jobs: list, workers: int) -> Iterator:
    if workers < 1:
        yield from map(work, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        yield from pool.map(work, jobs, chunksize=4)


def _write_lists(building: Path, spec: WorldSpec) -> None:
    (building / "ImageSets").mkdir()
    ids = {split: [frame_place(spec, split, n)[1] for n in range(spec.frames(split))] for split in SPLITS}
    for split, names in {**ids, "trainval": ids["train"] + ids["val"]}.items():
        (building / "ImageSets" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


def _write_frame(building: Path, spec: WorldSpec, job: tuple[str, int]) -> dict[str, int]:
    """Write one frame; its objects by class."""
    cv2.setNumThreads(0)
    frame = make_frame(spec, *job)
    part, frame_id = frame_place(spec, *job)
    folder = building / part
    (folder / "velodyne" / f"{frame_id}.bin").write_bytes(frame.points.astype("<f4").tobytes())
    (folder / "calib" / f"{frame_id}.txt").write_text(calibration_text(make_calibration()))
    (folder / "image_2" / f"{frame_id}.png").write_bytes(_png(frame.picture))
    if part == "testing":
        return {}
    (folder / "label_2" / f"{frame_id}.txt").write_text("".join(line + "\n" for line in lines(frame.labels)))
    return {str(name): int((frame.labels.name == name).sum()) for name in set(frame.labels.name)}


def _png(picture) -> bytes:
    done, data = cv2.imencode(".png", picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3])
    assert done
    return data.tobytes()


def _require_same(folder: Path, spec: WorldSpec) -> None:
    """Raise DataError unless the folder holds the world of this spec."""
    remedy = "choose another folder, or remove this one to have it written again."
    mark = folder / MARK
    try:
        found = json.loads(mark.read_text(encoding="utf-8")) if folder.is_dir() else {}
    except FileNotFoundError:
        raise DataError(f"{folder} is not empty and holds no {MARK}, so it is no embedded world: {remedy}") from None
    except ValueError as error:
        raise DataError(f"{mark} is not JSON ({error}): {remedy}") from error
    if not isinstance(found, dict) or found.get("generator") != GENERATOR_VERSION or "spec" not in found:
        raise DataError(f"{folder} is no embedded world of generator version {GENERATOR_VERSION}: {remedy}")
    wanted = spec.as_json()
    other = [f"{key}: there {found['spec'].get(key)}, asked {value}" for key, value in wanted.items()
             if found["spec"].get(key) != value]  # fmt: skip
    if other:
        raise DataError(f"{folder} holds a world of another spec ({'; '.join(other)}): {remedy}")


def is_embedded(folder: Path) -> bool:
    """Whether a KITTI root is an embedded world: for banners, run.json and the mark on pictures."""
    return (Path(folder) / MARK).is_file()
