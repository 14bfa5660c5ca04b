"""Writing a world in OpenPCDet's custom layout: into a temporary folder beside the goal, renamed when complete.

ImageSets/train.txt, val.txt        labelled frames, one id a line; a sequence lies in one split
ImageSets/unlabelled.txt            frames without label files; pretrain.txt: train and unlabelled
ImageSets/train_<percent>_<d>.txt   label budgets: whole sequences, drawn anew for each d; 5 % lies within 20 %
points/<id>.npy                     float32 (P, 3 or 4): x, y, z, intensity
labels/<id>.txt                     x y z dx dy dz heading class
sequences.json                      ours: sequence, sensor pose, kind, tracks of every frame
world.json                          spec, generator version
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from shared.embedded_world import Description, in_processes, written_once
from voxel_mae.data.splits import label_budget

from .frames import WorldFrame, make_sequence
from .spec import BUDGET_DRAWS, BUDGETS_PERCENT, GENERATOR_VERSION, WorldSpec
from .spec import Sequence as Drive

SEQUENCES = "sequences.json"
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
    world = Description("embedded synthetic construction sites of voxel_mae: no real data", GENERATOR_VERSION,
                        spec.as_json())  # fmt: skip
    frames = spec.frames * sum(1 for _ in spec.sequences())
    return written_once(root, world, partial(_build, spec, workers, progress),
                        bytes_needed=frames * spec.beams * spec.columns * POINT_BYTES)  # fmt: skip


def label_lines(frame: WorldFrame) -> str:
    """The text of a label file: x y z dx dy dz heading class, single spaces."""
    rows = zip(frame.boxes, frame.names, strict=True)
    return "".join(" ".join(f"{value:.4f}" for value in box) + f" {name}\n" for box, name in rows)


def budgets(train_ids: Sequence[str]) -> dict[str, list[str]]:
    """{split name: ids} of the label budgets; the smaller ones of a draw lie within the larger ones."""
    return {f"train_{percent}_{draw}": label_budget(train_ids, percent / 100, draw)
            for draw in range(BUDGET_DRAWS) for percent in BUDGETS_PERCENT}  # fmt: skip


def _build(spec: WorldSpec, workers: int | None, progress: Progress, building: Path) -> None:
    for name in ("ImageSets", "points", "labels"):
        (building / name).mkdir()
    drives, about = list(spec.sequences()), {}
    for done, found in enumerate(in_processes(partial(_write_sequence, building, spec), drives, workers), 1):
        about |= found
        progress(done, len(drives))
    _write_splits(building, spec)
    (building / SEQUENCES).write_text(json.dumps(about, indent=1) + "\n")


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
