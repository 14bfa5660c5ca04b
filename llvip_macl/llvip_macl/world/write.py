"""Writing a world: into a temporary folder beside the goal, renamed when complete.

Besides the files of the layout (see `layouts`) a root holds

world.json   spec, generator version, `scale`
truth.json   a row a pair: {name, split, scene, night, shift_px, present, objects}; of each object its label, box and
             box_infrared (x0 y0 x1 y1, end not included), occlusion, visible_share, `weak` and the contrasts in either
             picture. Loaders never look at it; experiments may, to tell where a detector fails.
"""

import json
from collections.abc import Callable
from functools import partial
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from shared.embedded_world import MARK, Description, in_processes, is_embedded, written_once

from .faults import spoil
from .layouts import JSON_NAME, files_of, frame_lists, label_texts, test_annotations
from .render import Labelled, Pair, make_pair
from .spec import GENERATOR_VERSION, Shot, WorldSpec

TRUTH = "truth.json"
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
BYTES_A_PIXEL, BYTES_A_PAIR = 0.8, 6000  # of both pictures, and of the labels: for the message of a full disk
CHUNK = 4  # pairs a worker takes at a time


def world_folder(parent: Path | str, spec: WorldSpec) -> Path:
    """Where the world of this spec lies below `parent`."""
    (train, test), (rows, columns) = spec.pairs, spec.size_hw
    name = f"{spec.layout}{GENERATOR_VERSION}-{spec.seed}-{train}-{test}-{rows}x{columns}"
    name += f"-shift{spec.misalignment_px}" * bool(spec.misalignment_px) + "-grey" * (spec.ir_channels == 1)
    return Path(parent) / "-".join([name, *spec.faults])


def ensure_world(parent: Path | str, *, workers: int | None = None, **spec: Any) -> Path:
    """The root of this world below `parent`, written on the first call; worlds of several specs lie side by side.

    ensure_world(parent, layout='llvip', pairs=(200, 60), size_hw=(128, 160), seed=0, misalignment_px=0)

    For `workers` and errors see `write_world`, for the other arguments WorldSpec.
    """
    made = WorldSpec(**spec)
    return write_world(world_folder(parent, made), made, workers=workers)


def write_world(
    root: Path | str,
    spec: WorldSpec,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write a world to `root`, or keep the one that is there when it is of the same spec. Returns `root`.

    Args:
        workers: processes besides this one; None one a core, 0 works here. The files do not depend on it.
        progress: called with (pairs done, pairs in all).

    Several processes may ask for the same root at once: one writes, the others wait and use it.

    Raises:
        ConfigError: too few test pairs for the faults asked for.
        DataError: the folder holds something else, or the world of another spec or generator.
        StorageError: the file system refused.
    """
    what = f"embedded synthetic visible/infrared street world of llvip_macl, {spec.layout} layout: no real data"
    bytes_needed = int(sum(spec.pairs) * (BYTES_A_PIXEL * spec.size_hw[0] * spec.size_hw[1] + BYTES_A_PAIR))
    world = Description(what, GENERATOR_VERSION, spec.as_json())
    return written_once(root, world, partial(_build, spec, workers, progress), bytes_needed=bytes_needed)


def annotation_scale(root: Path | str) -> float:
    """Pixels at 512 lines per pixel of a data root: 512 / H of an embedded world, 1 of any other root.

    KAIST's rules (persons of at least 55 lines, borders at 5 and 635) are in pixels of 640 x 512. A small world is
    judged by them after boxes and sizes are multiplied by this factor; its columns are then 640 where W / H is 5 / 4,
    and the border rule is 5 columns within W x scale for other shapes.
    """
    if not is_embedded(root):
        return 1.0
    return float(json.loads((Path(root) / MARK).read_text(encoding="utf-8"))["scale"])


def read_truth(root: Path | str) -> list[dict[str, Any]]:
    """The rows of truth.json of a world, in order of split and name."""
    return json.loads((Path(root) / TRUTH).read_text(encoding="utf-8"))


def _build(
    spec: WorldSpec, workers: int | None, progress: Callable[[int, int], None], building: Path
) -> dict[str, Any]:
    shots = spec.shots("train") + spec.shots("test")
    for folder in {path.parent for shot in shots for path in files_of(building, spec, shot).all()}:
        folder.mkdir(parents=True, exist_ok=True)
    truth = []
    for row in in_processes(partial(_write_pair, building, spec), shots, workers, chunk=CHUNK):
        truth.append(row)
        progress(len(truth), len(shots))
    (building / TRUTH).write_text("[\n" + ",\n".join(json.dumps(row) for row in truth) + "\n]\n", encoding="utf-8")
    if spec.layout == "kaist":
        _write_kaist_lists(building, spec, truth)
    for fault in spec.faults:
        spoil(building, spec, fault)
    return {"scale": spec.scale}


def _write_pair(building: Path, spec: WorldSpec, shot: Shot) -> dict[str, Any]:
    """Write one pair; returns its row of truth.json."""
    if parent_process() is not None:
        cv2.setNumThreads(0)  # a forked process has no part in its parent's pool of threads
    pair, files = make_pair(spec, shot), files_of(building, spec, shot)
    infrared = pair.infrared if spec.ir_channels == 1 else cv2.cvtColor(pair.infrared, cv2.COLOR_GRAY2BGR)
    for path, picture in ((files.visible, pair.visible), (files.infrared, infrared)):
        path.write_bytes(_jpeg(picture))
    for path, text in label_texts(files, spec, shot, pair.objects).items():
        path.write_text(text, encoding="utf-8")
    return _truth(shot, pair)


def _jpeg(picture: np.ndarray) -> bytes:
    """The bytes of a jpg; cv2.imwrite would not say when the disk is full."""
    done, data = cv2.imencode(".jpg", picture, JPEG)
    assert done
    return data.tobytes()


def _truth(shot: Shot, pair: Pair) -> dict[str, Any]:
    return {
        "name": shot.name, "split": shot.split, "scene": shot.scene, "night": shot.night,
        "shift_px": list(pair.shift_px), "present": sorted(set(pair.present)),
        "objects": [_object(one) for one in pair.objects],
    }  # fmt: skip


def _object(one: Labelled) -> dict[str, Any]:
    return {
        "label": one.label, "box": list(one.box), "box_infrared": one.box_infrared and list(one.box_infrared),
        "occlusion": one.occlusion, "visible_share": round(one.visible_share, 3), "weak": one.weak,
        "contrast_visible": round(one.contrast_visible, 1), "contrast_infrared": round(one.contrast_infrared, 1),
    }  # fmt: skip


def _write_kaist_lists(building: Path, spec: WorldSpec, truth: list[dict[str, Any]]) -> None:
    (building / "imageSets").mkdir()
    for name, text in frame_lists(spec).items():
        (building / "imageSets" / name).write_text(text, encoding="utf-8")
    objects = {row["name"]: row["objects"] for row in truth}
    shots = spec.shots("test")
    found = test_annotations(spec, shots, [objects[shot.name] for shot in shots])
    (building / JSON_NAME).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
