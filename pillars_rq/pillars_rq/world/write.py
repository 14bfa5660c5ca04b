"""Writing a world in KITTI's layout: into a temporary folder beside the goal, renamed when complete.

    training/{velodyne,calib,image_2,label_2}/000000.*   train frames first, then val frames
    testing/{velodyne,calib,image_2}/000000.*            unlabelled
    ImageSets/{train,val,trainval,test}.txt
    world.json                                           spec, generator version, counts

prepare_kitti.py then prepares it like any other KITTI root. velodyne/ holds the sector around the camera's view only
(88 degrees), not the whole turn.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2

from pillars_rq.kitti.labels import lines
from shared.embedded_world import Description, in_processes, written_once

from .annotate import calibration_text, make_calibration
from .frame import make_frame
from .spec import GENERATOR_VERSION, SPLITS, WorldSpec

FRAME_BYTES = 700_000  # about, for the message of a full disk
KINDS = ("velodyne", "calib", "image_2", "label_2")


def write_world(
    folder: Path | str, spec: WorldSpec, *, workers: int = 0, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write the world of `spec` to `folder`, or keep the one that is there when it is of the same spec. Several
    processes may ask for one folder at once.

    Args:
        folder: must not exist, be empty, or hold the world of this very spec.
        workers: processes besides this one; 0 works here. The files do not depend on it.
        progress: called with (frames done, frames in all).

    Raises:
        DataError: the folder holds something else, or the world of another spec or generator.
        StorageError: the file system refused.
    """
    world = Description("embedded synthetic LiDAR world of pillars_rq: no real data", GENERATOR_VERSION, spec.as_json())
    frames = sum(spec.frames(split) for split in SPLITS)
    return written_once(folder, world, partial(_write_into, spec, workers, progress or (lambda done, total: None)),
                        bytes_needed=frames * FRAME_BYTES)  # fmt: skip


def frame_place(spec: WorldSpec, split: str, number: int) -> tuple[str, str]:
    """(part, frame id) of a split's frame."""
    if split == "test":
        return "testing", f"{number:06d}"
    return "training", f"{number + (spec.train_frames if split == 'val' else 0):06d}"


def _write_into(spec: WorldSpec, workers: int, progress: Callable[[int, int], None], building: Path) -> dict:
    """Draw all frames; the number of objects by class, for world.json."""
    jobs = [(split, number) for split in SPLITS for number in range(spec.frames(split))]
    for part in ("training", "testing"):
        for kind in KINDS if part == "training" else KINDS[:3]:
            (building / part / kind).mkdir(parents=True)
    _write_lists(building, spec)
    objects: dict[str, int] = {}
    for done, counts in enumerate(in_processes(partial(_write_frame, building, spec), jobs, workers, chunk=4), 1):
        for name, count in counts.items():
            objects[name] = objects.get(name, 0) + count
        progress(done, len(jobs))
    return {"objects": dict(sorted(objects.items()))}


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
