"""Prepare a KITTI root for training: crop the clouds to the image, index the splits, cut out the labelled objects.

    python prepare_kitti.py --data_root DIR [--prefix kitti] [--only_present] [--workers N] [--validate]

writes velodyne_reduced/, PREFIX_infos_{train,val,trainval,test}.json, PREFIX_dbinfos_train.json and PREFIX_gt_database/
(JSON in place of pickles). Without calibration or images the clouds stay whole and there will be no 2D AP;
it says so. A split whose frames lie in a folder that is absent (testing) is left out, which it says too.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from pillars_rq.boxes import points_in_boxes
from shared.embedded_world import in_processes
from shared.errors import DataError
from shared.run import run_command
from shared.storage import storage_error

from .calibration import Calibration, boxes_to_lidar, read_calibration
from .clouds import in_view, read_points
from .database import build_database
from .infos import FrameInfo, write_infos
from .labels import DONT_CARE, Annotations, read_labels
from .layout import KittiRoot, find_kitti
from .validate import validate

SPLITS = ("train", "val", "test")


def prepare(
    root: KittiRoot, *, only_present: bool = False, workers: int = 0, say: Callable[[str], None] = print
) -> dict[str, int]:
    """Prepare every split whose folder is there; frames of each split, by name.

    Args:
        only_present: take the frames of the usual split that are there, for a part of KITTI.
        workers: processes besides this one; 0 works here.
        say: told in a line what is done and what is left out.

    Raises:
        DataError: missing or broken files (the first one met; --validate lists all).
        StorageError: the root cannot be written.
    """
    counts, infos = {}, {}
    for split in SPLITS:
        if not any(root.has(root.part(split), kind) for kind in ("velodyne", "velodyne_reduced")):
            say(f"{split}: left out, {root.path / root.part(split)} has no scans")
            continue
        ids = root.frame_ids(split, only_present=only_present)
        say(f"{split}: {len(ids):,} frames{_what_is_missing(root, split)}")
        infos[split] = prepare_frames(root, split, ids, workers)
        write_infos(root.infos(split), split, infos[split])
        counts[split] = len(ids)
    if "train" in infos and "val" in infos:
        both = sorted(infos["train"] + infos["val"], key=lambda info: info.frame_id)
        write_infos(root.infos("trainval"), "trainval", both)
        counts["trainval"] = len(both)
    if "train" in infos:
        objects = build_database(root, infos["train"])
        say("ground-truth database: " + (", ".join(f"{name} {n:,}" for name, n in objects.items()) or "no objects"))
    return counts


def _what_is_missing(root: KittiRoot, split: str) -> str:
    part = root.part(split)
    missing = [kind for kind in ("calib", "image_2") if not root.has(part, kind)]
    labels = "" if split == "test" or root.has(part, "label_2") else "; no label_2: nothing to train or evaluate on"
    if not missing:
        return labels
    return f"; no {' and no '.join(missing)}: clouds stay whole (no frustum crop), no 2D AP and no AOS{labels}"


def prepare_frames(root: KittiRoot, split: str, ids: Sequence[str], workers: int = 0) -> list[FrameInfo]:
    """Crop the clouds and gather what the index says, in the order of the ids."""
    part = root.part(split)
    kinds = frozenset(kind for kind in ("calib", "image_2", "label_2") if root.has(part, kind))
    if split == "test":
        kinds -= {"label_2"}
    return list(in_processes(partial(_prepare_frame, root, part, kinds), ids, workers, chunk=8))


def _prepare_frame(root: KittiRoot, part: str, kinds: frozenset[str], frame_id: str) -> FrameInfo:
    calib = read_calibration(root.file(part, "calib", frame_id)) if "calib" in kinds else None
    image_hw = image_size(root.file(part, "image_2", frame_id)) if "image_2" in kinds else None
    if calib is None or image_hw is None:
        path, image_hw = root.file(part, "velodyne", frame_id), None
        points = read_points(path)
    else:
        path, points = _cropped(root, part, frame_id, calib, image_hw)
    labels = root.file(part, "label_2", frame_id)
    return FrameInfo(
        frame_id=frame_id,
        points_path=path.relative_to(root.path).as_posix(),
        num_points=len(points),
        calib=calib,
        image_hw=image_hw,
        image_path=root.file(part, "image_2", frame_id).relative_to(root.path).as_posix() if image_hw else None,
        annotations=_counted(read_labels(labels), points, calib) if "label_2" in kinds else None,
    )


def _cropped(root: KittiRoot, part: str, frame_id: str, calib, image_hw) -> tuple[Path, np.ndarray]:
    """The cropped cloud, written; a root that has only the cropped one keeps it as it is."""
    whole, reduced = (root.file(part, kind, frame_id) for kind in ("velodyne", "velodyne_reduced"))
    if not whole.exists() and reduced.exists():
        return reduced, read_points(reduced)
    points = read_points(whole)
    points = points[in_view(points, calib, image_hw)]
    write_points(reduced, points)
    return reduced, points


def write_points(path: Path, points: np.ndarray) -> None:
    """Write a .bin file: whole or absent under its name (not forced to disk, the index comes last and is)."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(np.ascontiguousarray(points, "<f4").tobytes())
        temporary.replace(path)
    except OSError as error:
        raise storage_error(path, error, points.size * 4) from error


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels, from the file's header. DataError when it is missing or no image."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing: re-extract data_object_image_2.zip; for data without images remove the folder "
            f"{path.parent} (no frustum crop, no 2D AP)."
        ) from None
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{path} is no image ({error}): re-extract it.") from error


def _counted(labels: Annotations, points: np.ndarray, calib) -> Annotations:
    """The labels with the points inside each box; -1 for DontCare."""
    boxes = boxes_to_lidar(labels.location, labels.dimensions, labels.rotation_y, calib or Calibration.lidar_only())
    real = labels.name != DONT_CARE
    counts = np.full(len(labels), -1)
    counts[real] = points_in_boxes(points, boxes[real]).sum(0)
    return labels.with_columns(num_points=counts)


# --- command line -----------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prepare_kitti.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_root", type=Path, required=True, help="the KITTI root, or its parent")
    parser.add_argument("--prefix", default="kitti", help="begins the names of the written files (default: kitti)")
    parser.add_argument("--only_present", action="store_true", help="take the frames that are there: a part of KITTI")
    parser.add_argument("--workers", type=int, default=0, help="processes (default: this one); changes no file")
    parser.add_argument("--validate", action="store_true", help="write nothing: list every problem of the root")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    return run_command(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    root = find_kitti(args.data_root, args.prefix)
    if args.validate:
        problems = validate(root, only_present=args.only_present)
        if problems:
            raise DataError(f"{root.path}: {len(problems)} problems\n" + "\n".join(problems))
        print(f"{root.path}: no problems")
        return 0
    prepare(root, only_present=args.only_present, workers=args.workers)
    return 0
