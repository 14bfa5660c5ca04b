"""Every problem of a KITTI root at once, each with its path and its remedy, before anything is prepared or trained."""

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

from shared.errors import DataError

from .calibration import read_calibration
from .clouds import read_points
from .labels import DONT_CARE, read_labels
from .layout import KittiRoot

FARTHEST_M = 500.0  # no LiDAR of this kind sees so far: other units
LARGEST_M = 50.0  # no labelled object is so long
EDGE_PX = 2.0  # by which labels may lie outside the image


def validate(root: KittiRoot, *, only_present: bool = False) -> list[str]:
    """All problems of the root's frames and split lists, one line each; empty when there is none."""
    problems = list(_split_problems(root, only_present))
    for part in ("training", "testing"):
        for frame_id in sorted(root.available(part)):
            problems += _frame_problems(root, part, frame_id)
        problems += _orphans(root, part)
    return problems


def _problem(work: Callable[[], object]) -> Iterator[str]:
    try:
        work()
    except DataError as error:
        yield str(error)


def _split_problems(root: KittiRoot, only_present: bool) -> Iterator[str]:
    lists: dict[str, list[str]] = {}
    for split in ("train", "val", "test"):
        if any(root.has(root.part(split), kind) for kind in ("velodyne", "velodyne_reduced")):
            try:
                lists[split] = root.frame_ids(split, only_present=only_present)
            except DataError as error:
                yield str(error)
    shared = sorted(set(lists.get("train", ())) & set(lists.get("val", ())))
    if shared:
        yield (
            f"{root.path / 'ImageSets'}: train.txt and val.txt share {len(shared)} frames, the first is {shared[0]}: "
            "keep each in one of them."
        )


def _orphans(root: KittiRoot, part: str) -> Iterator[str]:
    scans = root.available(part)
    for kind in ("calib", "image_2", "label_2"):
        for path in sorted((root.path / part / kind).glob("*.*")):
            if path.stem not in scans:
                yield f"{path} has no scan {part}/velodyne/{path.stem}.bin: re-extract the scan, or remove the file."


def _frame_problems(root: KittiRoot, part: str, frame_id: str) -> Iterator[str]:
    for kind in ("velodyne", "velodyne_reduced"):
        if root.file(part, kind, frame_id).exists():
            yield from _problem(lambda kind=kind: _check_points(root, part, kind, frame_id))
    if root.has(part, "calib"):
        yield from _problem(lambda: read_calibration(root.file(part, "calib", frame_id)))
    image_hw: list[tuple[int, int]] = []
    if root.has(part, "image_2"):
        yield from _problem(lambda: image_hw.append(_whole_image(root, part, frame_id)))
    if part == "training" and root.has(part, "label_2"):
        yield from _label_problems(root, frame_id, image_hw[0] if image_hw else None)


def _check_points(root: KittiRoot, part: str, kind: str, frame_id: str) -> None:
    path = root.file(part, kind, frame_id)
    points = read_points(path)
    farthest = float(np.abs(points[:, :3]).max())
    if farthest > FARTHEST_M:
        raise DataError(f"{path}: a coordinate of {farthest:,.0f} m; KITTI's are metres (millimetres?): convert it.")


def _whole_image(root: KittiRoot, part: str, frame_id: str) -> tuple[int, int]:
    path = root.file(part, "image_2", frame_id)
    try:
        with Image.open(path) as image:
            image.load()
            return image.height, image.width
    except FileNotFoundError:
        raise DataError(f"{path} is missing: re-extract data_object_image_2.zip.") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"{path} is no whole image ({error}): re-extract it.") from error


def _label_problems(root: KittiRoot, frame_id: str, image_hw: tuple[int, int] | None) -> Iterator[str]:
    path = root.file("training", "label_2", frame_id)
    try:
        found = read_labels(path)
    except DataError as error:
        yield str(error)
        return
    for row in range(len(found)):
        where = f"{path}, object {row + 1} ({found.name[row]})"
        x1, y1, x2, y2 = found.bbox[row]
        if x1 > x2 or y1 > y2:
            yield f"{where}: its 2D box {found.bbox[row].tolist()} ends before it begins: correct the line."
        elif image_hw is not None and _outside(found.bbox[row], image_hw):
            size = f"{image_hw[1]}x{image_hw[0]}"
            yield f"{where}: its 2D box {found.bbox[row].tolist()} leaves the {size} image: correct the line."
        sizes = found.dimensions[row]
        if found.name[row] != DONT_CARE and sizes.max() > LARGEST_M:
            yield f"{where}: sizes l, h, w = {sizes.tolist()} m (millimetres or centimetres?): convert them to metres."


def _outside(box: np.ndarray, image_hw: tuple[int, int]) -> bool:
    height, width = image_hw
    return bool((box[:2] < -EDGE_PX).any() or box[2] > width + EDGE_PX or box[3] > height + EDGE_PX)
