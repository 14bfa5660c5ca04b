"""KAIST Multispectral Pedestrian: a list of frames, and one of several label sets.

    annotations=   files below data_root (ann_dir)          label set
    'xml'          annotations-xml-new/**.xml               person, people, cyclist, person?
    'bbgt'         annotations/**.txt                       the same as text, x y w h
    'sanitized'    sanitized_annotations/**.txt             training labels of Li et al., x1 y1 x2 y2 from 1
    'paired'       annotations_paired/**/{visible,lwir}/**  training labels of Zhang et al., boxes per modality
    'json'         ann_file itself                          KAIST_annotation.json, the improved test labels

Everything but `person` is a region to ignore. Frames lie nested or flat (see `layout`).
"""

import json
from pathlib import Path
from typing import Any

from mmdet.registry import DATASETS

from shared.errors import ConfigError, DataError

from .annotations import (
    IGNORE_LABEL,
    KAIST_LABELS,
    PERSON,
    LabelledBox,
    Labels,
    read_bbgt,
    read_corners,
    read_paired,
    read_xml,
    text_box_format,
)
from .layout import Folders, Pair, Pairs, frame_name, kaist_label_files, kaist_pairs, read_frame_list
from .paired_dataset import UNSTATED, PairedDataset, warn

FOLDERS = {
    "xml": "annotations-xml-new",
    "bbgt": "annotations",
    "sanitized": "sanitized_annotations",
    "paired": "annotations_paired",
}
VERSIONS = {
    "sanitized": "sanitized training labels (Li et al., BMVC 2018)",
    "paired": "paired training labels (Zhang et al., ICCV 2019)",
}
SIZE_HW = (512, 640)
BOX_FORMATS = ("auto", "xywh", "xyxy")


@DATASETS.register_module()
class KAISTDataset(PairedDataset):
    """The frames of `ann_file` with one label set.

    Args:
        ann_file: imageSets/NAME.txt, or a KAIST_annotation.json (then annotations='json').
        annotations: the label set, see above.
        ann_dir: where its files lie below data_root; None as above.
        image_dir: where the images lie.
        box_format: of text files: 'xywh', 'xyxy', or 'auto': told from all files of the split together.
        size_hw: of the images, to tell box formats apart and boxes outside.
        **kwargs: see PairedDataset. `label_version` has a default where the label set names one.
    """

    def __init__(
        self,
        *,
        ann_file: str,
        annotations: str = "xml",
        ann_dir: str | None = None,
        image_dir: str = "images",
        box_format: str = "auto",
        size_hw: tuple[int, int] = SIZE_HW,
        label_version: str = UNSTATED,
        **kwargs: Any,
    ):
        self.annotations = "json" if ann_file.endswith(".json") else annotations
        if self.annotations not in (*FOLDERS, "json") or box_format not in BOX_FORMATS:
            raise ConfigError(
                f"annotations={annotations!r}, box_format={box_format!r}: there are {', '.join(FOLDERS)} (and json by "
                f"ann_file) and {', '.join(BOX_FORMATS)}."
            )
        self.ann_dir, self.image_dir = ann_dir or FOLDERS.get(self.annotations, ""), image_dir
        self.box_format, self.size_hw = box_format, tuple(size_hw)
        self.has_boxes_ir = self.annotations == "paired"
        self.label_files = Folders((".xml",) if self.annotations == "xml" else (".txt",))
        version = VERSIONS.get(self.annotations, UNSTATED) if label_version == UNSTATED else label_version
        super().__init__(ann_file=ann_file, label_version=version, **kwargs)

    @property
    def known_labels(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self._metainfo["classes"], *KAIST_LABELS, IGNORE_LABEL)))

    def find_pairs(self) -> Pairs:
        if self.annotations == "json":
            numbers, self._labels = read_kaist_json(Path(self.ann_file))
            return kaist_pairs(self.root, list(self._labels), self.image_dir, numbers)
        pairs = kaist_pairs(self.root, read_frame_list(Path(self.ann_file)), self.image_dir)
        if self.annotations in ("bbgt", "sanitized"):
            self._settle_box_format(pairs)
        return pairs

    def _settle_box_format(self, pairs: Pairs) -> None:
        """Text of the sanitized set has corners; whoever unpacked it into `annotations` is found out."""
        if self.box_format != "auto":
            self.settled_format = self.box_format
        elif self.annotations == "sanitized":
            self.settled_format = "xyxy"
        else:
            files = [file for pair in pairs.found for file in self._files(pair) if file.is_file()]
            self.settled_format = text_box_format(files, self.size_hw)
            if self.settled_format == "xyxy":
                warn(f"{self.root / self.ann_dir} holds x1 y1 x2 y2 counted from 1 (the sanitized form), read as such.")

    def _files(self, pair: Pair) -> list[Path]:
        return kaist_label_files(self.root / self.ann_dir, pair.name, self.label_files, self.annotations == "paired")

    def labels_of(self, pair: Pair) -> Labels:
        if self.annotations == "json":
            return self._labels[pair.name]
        files = self._files(pair)
        if self.annotations == "paired":
            return read_paired(*files)
        if self.annotations == "xml":
            return read_xml(files[0])
        return read_corners(files[0]) if self.settled_format == "xyxy" else read_bbgt(files[0])


# ---------------------------------------------------------------- json


def read_kaist_json(path: Path) -> tuple[list[int], dict[str, Labels]]:
    """Image ids and labels by frame, in the file's order: {images: [{id, im_name, height, width}], annotations:
    [{image_id, bbox xywh, category_id, occlusion, ignore}], categories: [{id, name}]}.

    Raises:
        DataError: missing, not JSON, a key missing, a box of an unknown image, an image twice.
    """
    try:
        data = json.loads(path.read_bytes())
        names = {category["id"]: category["name"] for category in data["categories"]}
        boxes: dict[int, list[LabelledBox]] = {image["id"]: [] for image in data["images"]}
        for number, annotation in enumerate(data["annotations"]):
            boxes[annotation["image_id"]].append(_json_box(f"annotations[{number}]", annotation, names))
        labels = {_frame(path, image): _json_labels(path, image, boxes[image["id"]]) for image in data["images"]}
    except FileNotFoundError:
        raise DataError(f"{path} is missing: set ann_file to the annotation file.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no JSON ({error}): fetch it again.") from error
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is no KAIST annotation file: {type(error).__name__} {error}.") from error
    if not len(data["images"]) == len(boxes) == len(labels):
        raise DataError(
            f"{path}: {len(data['images'])} images have {len(boxes)} ids and {len(labels)} names: fetch it."
        )
    return list(boxes), labels


def _json_box(where: str, annotation: dict, names: dict[int, str]) -> LabelledBox:
    x, y, w, h = annotation["bbox"]
    ignore = bool(annotation["ignore"])
    name = names[annotation["category_id"]]
    label = PERSON if name == PERSON else name if name in KAIST_LABELS else IGNORE_LABEL
    return LabelledBox(where, label, (x, y, x + w, y + h), int(annotation.get("occlusion", 0)), ignore)


def _frame(path: Path, image: dict) -> str:
    name = frame_name(image["im_name"])
    if name is None:
        raise DataError(f"{path}: image {image['id']} is {image['im_name']!r}, which names no frame.")
    return name


def _json_labels(path: Path, image: dict, boxes: list[LabelledBox]) -> Labels:
    return Labels(path, tuple(boxes), (image["height"], image["width"]))
