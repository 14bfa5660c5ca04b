"""Any pairs, from a COCO file whose images name two files.

{"images": [{"id", "file_name", "file_name_ir", "height", "width"}],
 "annotations": [{"image_id", "category_id", "bbox": [x, y, w, h], "bbox_ir" (optional), "iscrowd" or "ignore"}],
 "categories": [{"id", "name"}]}
"""

import json
from pathlib import Path
from typing import Any

from mmdet.registry import DATASETS

from shared.errors import DataError

from .annotations import Box, LabelledBox, Labels
from .layout import Pair, Pairs, missing_half
from .paired_dataset import PairedDataset


@DATASETS.register_module()
class PairListDataset(PairedDataset):
    """Pairs of a COCO-style list; file names are relative to data_root.

    Args:
        ann_file: the list, relative to data_root or absolute.
        visible_dir, infrared_dir: put before file_name and file_name_ir.
        **kwargs: see PairedDataset. Categories that are no class of `metainfo` are an error.
    """

    def __init__(self, *, ann_file: str, visible_dir: str = "", infrared_dir: str = "", **kwargs: Any):
        self.visible_dir, self.infrared_dir = visible_dir, infrared_dir
        super().__init__(ann_file=ann_file, **kwargs)

    def find_pairs(self) -> Pairs:
        path = Path(self.ann_file)
        images, self._labels = read_pair_list(path)
        self.has_boxes_ir = any(box.box_ir_px for labels in self._labels.values() for box in labels.boxes)
        pairs = Pairs()
        for number, image in images.items():
            visible = self.root / self.visible_dir / image["file_name"]
            infrared = self.root / self.infrared_dir / image["file_name_ir"]
            missing = [half for half in (visible, infrared) if not half.is_file()]
            if not missing:
                pairs.found.append(Pair(image["file_name"], number, visible, infrared))
            elif len(missing) == 2:
                pairs.problems.append(f"{visible} and {infrared} are both missing: look at data_root.")
            else:
                pairs.problems.append(missing_half(infrared if missing[0] == visible else visible, missing[0]))
        return pairs

    def labels_of(self, pair: Pair) -> Labels:
        return self._labels[pair.number]


def read_pair_list(path: Path) -> tuple[dict[int, dict], dict[int, Labels]]:
    """Images and labels by image id.

    Raises:
        DataError: missing, not JSON, an id twice, an image without file_name_ir, a box of an unknown image or category.
    """
    data = _json_of(path)
    images = {image["id"]: image for image in data["images"]}
    if len(images) < len(data["images"]):
        raise DataError(f"{path}: {len(data['images'])} images share {len(images)} ids: give each its own.")
    for image in data["images"]:
        for key in ("file_name", "file_name_ir"):
            if not image.get(key):
                raise DataError(f"{path}: image {image['id']} has no {key!r}: a pair list names both files.")
    names = {category["id"]: category["name"] for category in data["categories"]}
    boxes: dict[int, list[LabelledBox]] = {number: [] for number in images}
    for position, annotation in enumerate(data["annotations"]):
        where = f"annotations[{position}]"
        if annotation.get("image_id") not in boxes or annotation.get("category_id") not in names:
            raise DataError(f"{path}, {where}: its image_id or category_id is not in the file: {annotation}.")
        boxes[annotation["image_id"]].append(_box(where, annotation, names[annotation["category_id"]]))
    _check_all_or_none(path, boxes)
    return images, {number: Labels(path, tuple(boxes[number]), _size(images[number])) for number in images}


def _check_all_or_none(path: Path, boxes: dict[int, list[LabelledBox]]) -> None:
    both = [box.box_ir_px is not None for group in boxes.values() for box in group]
    if any(both) and not all(both):
        raise DataError(f"{path}: {sum(both)} of {len(both)} annotations have bbox_ir: give it to all or to none.")


def _json_of(path: Path) -> dict:
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} is missing: set ann_file to the list of pairs.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no JSON ({error}): fetch it again.") from error
    absent = [key for key in ("images", "annotations", "categories") if not isinstance(data, dict) or key not in data]
    if absent:
        raise DataError(f"{path} has no {', '.join(absent)}: a pair list is a COCO file with file_name_ir.")
    return data


def _box(where: str, annotation: dict, label: str) -> LabelledBox:
    ignore = bool(annotation.get("ignore", annotation.get("iscrowd", 0)))
    box_ir = _corners(annotation["bbox_ir"]) if "bbox_ir" in annotation else None
    return LabelledBox(where, label, _corners(annotation["bbox"]), int(annotation.get("occlusion", 0)), ignore, box_ir)


def _corners(xywh: list[float]) -> Box:
    x, y, w, h = (float(number) for number in xywh)
    return x, y, x + w, y + h


def _size(image: dict) -> tuple[int, int] | None:
    return (image["height"], image["width"]) if "height" in image and "width" in image else None
