"""COCO 2017 on disk: where the files lie, what may be wrong with them, and the regions they hold.

Two layouts are accepted:

    official    train2017/ val2017/ (or images/train2017/ ...) and annotations/{instances,captions}_{train,val}2017.json
    single      images/ and annotations/instances.json (captions.json): one set, divided by image with a seed

`load_regions` refuses annotations with any structural fault; `validate_coco` lists the same faults for every split, and
opens the images too. Not faults, since COCO itself has them: crowd annotations (skipped), boxes of zero width or height
(dropped by the size limit), boxes that overshoot the image by a rounding (clipped).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.errors import DataError
from talk2car_kd.captions import size_word
from talk2car_kd.records import (
    box_problem,
    clip_box,
    header_problem,
    is_number,
    missing_files,
    missing_message,
    name_problem,
    read_json,
    refuse,
    repeated,
)

SPLITS = ("train", "val")
EXPECTED = """expected layout:
  ROOT/train2017/*.jpg  ROOT/val2017/*.jpg  ROOT/annotations/{instances,captions}_{train,val}2017.json
  or ROOT/images/*.jpg  ROOT/annotations/{instances,captions}.json
to get COCO 2017: python data/download.py --dest ROOT"""
DOWNLOAD = "python data/download.py --dest ROOT fetches what is missing"


@dataclass(frozen=True)
class CocoSplit:
    """The files of one split."""

    images: Path
    instances: Path
    captions: Path | None  # None: there are none; only caption sources other than `template` need them


@dataclass(frozen=True)
class CocoLayout:
    """A COCO root. `official` is False for a single set, whose `train` and `val` are then the same files."""

    root: Path
    train: CocoSplit
    val: CocoSplit
    official: bool

    def files(self, split: str) -> CocoSplit:
        if split not in SPLITS:
            raise ValueError(f"COCO has the splits {', '.join(SPLITS)}, not {split!r}")
        return self.train if split == "train" else self.val


@dataclass(frozen=True, slots=True)
class Region:
    """One annotated object. `mask_area_px` is the mask's area where the annotation has one, else box width x height."""

    image_id: int
    annotation_id: int
    image_path: Path
    box_xywh_px: tuple[float, float, float, float]  # in the image file's own pixels, inside the image
    mask_area_px: float
    category: str
    size: str  # "small", "large", or "medium" where that is asked for


def find_coco(root: Path) -> CocoLayout:
    """The layout of a COCO root. DataError naming every missing piece, what was looked for, and how to get it."""
    layout, missing = _discover(Path(root))
    if missing:
        raise DataError("\n".join([f"{root}: not a complete COCO root", *missing, EXPECTED]))
    return layout


def validate_coco(root: Path) -> list[str]:
    """Every structural fault under a COCO root, each with path and remedy; empty for a sound one.

    Reads all annotation files, and of every image the header and the end (no pixel is decoded).
    """
    layout, problems = _discover(Path(root))
    if not layout.train.instances.parent.is_dir():
        return [*problems, EXPECTED]
    for split in SPLITS if layout.official else ("train",):
        problems += _validate_split(layout.files(split))
    return problems + (_overlaps(layout) if layout.official else [])


def load_regions(
    layout: CocoLayout,
    split: str,
    *,
    min_side_px: float = 8,
    small_area_px: float = 1024,
    large_area_px: float | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
) -> list[Region]:
    """The usable objects of a split, image by image in order of image id.

    Crowd annotations are skipped, and boxes whose shorter side (inside the image) is below `min_side_px`.

    Args:
        small_area_px, large_area_px: limits of the size words, see `captions.size_word`.
        val_fraction, seed: of a single set, which share of the *images* is the val split.
    Raises:
        DataError: faults in the annotations, or images that are missing; all of them are listed. Or no object is left.
    """
    files = layout.files(split)
    document = read_json(files.instances)
    refuse(instance_faults(document, files.instances))
    images = {image["id"]: image for image in document["images"]}
    names = {category["id"]: category["name"] for category in document["categories"]}
    if not layout.official:
        held_out = held_out_images(images, val_fraction, seed)
        images = {key: image for key, image in images.items() if (key in held_out) == (split == "val")}
    refuse(_missing_images(files, images))
    paths = {key: files.images / image["file_name"] for key, image in images.items()}
    regions = []
    for row in document["annotations"]:
        if row["image_id"] not in images or row.get("iscrowd", 0):
            continue
        image = images[row["image_id"]]
        box = clip_box(row["bbox"], (image["width"], image["height"]))
        if min(box[2:]) < min_side_px:
            continue
        area = float(row.get("area", box[2] * box[3]))
        size = size_word(area, small_area_px, large_area_px)
        name = names[row["category_id"]]
        regions.append(Region(image["id"], row["id"], paths[image["id"]], box, area, name, size))
    if not regions:
        raise DataError(
            f"{files.instances}: no object of the {split} split has a shorter side of {min_side_px:g} px or more; "
            "correct the boxes or lower stage1.min_side_px"
        )
    return sorted(regions, key=lambda region: region.image_id)


def load_image_captions(layout: CocoLayout, split: str) -> dict[int, list[str]]:
    """COCO's captions by image id (about five an image). DataError if the file is missing or faulty."""
    files = layout.files(split)
    if files.captions is None:
        raise DataError(
            f"{layout.root}: no captions for the {split} split, which stage1.captions: coco and mixed need; set "
            f"stage1.captions=template, or {DOWNLOAD}"
        )
    document = read_json(files.captions)
    refuse(caption_faults(document, files.captions))
    captions: dict[int, list[str]] = {}
    for row in document["annotations"]:
        captions.setdefault(row["image_id"], []).append(row["caption"])
    return captions


def held_out_images(image_ids: Sequence[int] | Mapping[int, object], fraction: float, seed: int) -> set[int]:
    """The ids of a single set's val split: `fraction` of the images, at least one, never all; set by seed and ids."""
    ids = sorted(image_ids)
    if len(ids) < 2:
        raise DataError(f"{len(ids)} images cannot be divided into train and val; add images")
    count = min(max(1, math.ceil(fraction * len(ids))), len(ids) - 1)
    return {ids[i] for i in np.random.default_rng(seed).permutation(len(ids))[:count]}


# Discovery ------------------------------------------------------------------------------------------------------------


def _discover(root: Path) -> tuple[CocoLayout, list[str]]:
    """The layout that the root has or comes nearest to, and the pieces it lacks."""
    annotations = root / "annotations"
    single = CocoSplit(root / "images", annotations / "instances.json", _if_file(annotations / "captions.json"))
    if single.instances.exists():
        layout = CocoLayout(root, single, single, official=False)
    else:
        layout = CocoLayout(root, _official(root, "train"), _official(root, "val"), official=True)
    if not root.is_dir():
        return layout, [f"{root}: no such folder; correct data.coco_root, or {DOWNLOAD}"]
    wanted = dict.fromkeys(
        path for split in SPLITS for path in (layout.files(split).images, layout.files(split).instances)
    )
    return layout, [f"{path}: missing; {DOWNLOAD}" for path in wanted if not path.exists()]


def _official(root: Path, split: str) -> CocoSplit:
    folders = [root / f"{split}2017", root / "images" / f"{split}2017"]
    images = next((folder for folder in folders if folder.is_dir()), folders[0])
    annotations = root / "annotations"
    captions = _if_file(annotations / f"captions_{split}2017.json")
    return CocoSplit(images, annotations / f"instances_{split}2017.json", captions)


def _if_file(path: Path) -> Path | None:
    return path if path.is_file() else None


# Faults ---------------------------------------------------------------------------------------------------------------


def _validate_split(files: CocoSplit) -> list[str]:
    try:
        document = read_json(files.instances) if files.instances.exists() else None
    except DataError as error:
        return [str(error), *_validate_captions(files, None)]
    if document is None:  # already listed as missing
        return _validate_captions(files, None)
    faults = instance_faults(document, files.instances)
    rows = _rows(document, "images")
    ids = {row.get("id") for row in rows}
    return [*faults, *_image_faults(files, rows), *_validate_captions(files, ids)]


def _validate_captions(files: CocoSplit, image_ids: set | None) -> list[str]:
    if files.captions is None:
        return [f"{files.instances}: no captions file beside it; {DOWNLOAD}"]
    try:
        document = read_json(files.captions)
    except DataError as error:
        return [str(error)]
    faults = caption_faults(document, files.captions)
    if image_ids is None or faults:
        return faults
    strangers = {row["image_id"] for row in document["annotations"]} - image_ids
    if strangers:
        listed = ", ".join(map(str, sorted(strangers, key=str)[:5]))
        faults.append(
            f"{files.captions}: captions for {len(strangers)} images unknown to {files.instances.name} ({listed}); "
            "take both files from the same release"
        )
    return faults


def instance_faults(document: object, path: Path) -> list[str]:
    """Everything structurally wrong with the parsed content of an instances file."""
    faults = _table_faults(document, path, ("images", "annotations", "categories"))
    if faults:
        return faults
    images, categories, annotations = (document[key] for key in ("images", "categories", "annotations"))
    faults += _id_faults(images, "image", path) + _id_faults(categories, "category", path)
    faults += _id_faults(annotations, "annotation", path)
    faults += [f"{path}: image {row.get('id')}: {what}" for row in images for what in _image_row_faults(row)]
    for row in categories:
        if not isinstance(row.get("name"), str) or not row["name"].strip():
            faults.append(f"{path}: category {row.get('id')}: has no name; take the file from the release again")
    sizes = {_key(row.get("id")): (row.get("width"), row.get("height")) for row in images}
    known = {_key(row.get("id")) for row in categories}
    for row in annotations:
        faults += [f"{path}: annotation {row.get('id')}: {what}" for what in _annotation_faults(row, sizes, known)]
    return faults


def _table_faults(document: object, path: Path, keys: Sequence[str]) -> list[str]:
    """Faults of the outer shape: a mapping of lists of mappings."""
    remedy = "take the file from the COCO release again"
    if not isinstance(document, dict):
        return [f"{path}: holds a {type(document).__name__}, not a mapping with {', '.join(keys)}; {remedy}"]
    faults = []
    for key in keys:
        rows = document.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            faults.append(f"{path}: '{key}' is {'missing' if rows is None else 'not a list of records'}; {remedy}")
        elif not rows:
            faults.append(f"{path}: '{key}' is empty; {remedy}")
    return faults


def _id_faults(rows: Sequence[dict], kind: str, path: Path) -> list[str]:
    ids = [row.get("id") for row in rows]
    bad = [value for value in ids if not isinstance(value, int) or isinstance(value, bool)]
    faults = [f"{path}: {kind} id {value!r} is not a whole number; correct the record" for value in bad]
    twice = repeated(value for value in ids if isinstance(value, int))
    return faults + [f"{path}: {kind} id {value} occurs more than once; remove the duplicate" for value in twice]


def _image_row_faults(row: dict) -> list[str]:
    faults = [name_problem(row.get("file_name"))]
    for side in ("width", "height"):
        if not is_number(row.get(side)) or row[side] < 1:
            faults.append(f"{side} {row.get(side)!r} is not a number of pixels; take it from the image file")
    return [fault for fault in faults if fault]


def _annotation_faults(row: dict, sizes: Mapping, known: set) -> list[str]:
    faults = []
    if row.get("iscrowd", 0) not in (0, 1):
        faults.append(f"iscrowd {row['iscrowd']!r} is neither 0 nor 1; correct the record")
    if _key(row.get("category_id")) not in known:
        faults.append(f"unknown category_id {row.get('category_id')!r}; add the category or correct the record")
    area = row.get("area", 0)
    if not is_number(area) or area < 0:
        faults.append(f"area {area!r} is not a number of pixels >= 0; correct the record")
    size = sizes.get(_key(row.get("image_id")))
    if size is None:
        faults.append(f"unknown image_id {row.get('image_id')!r}; add the image's record or remove the annotation")
    elif all(map(is_number, size)):
        faults.append(box_problem(row.get("bbox"), size, may_be_flat=True))
    return [fault for fault in faults if fault]


def caption_faults(document: object, path: Path) -> list[str]:
    """Everything structurally wrong with the parsed content of a captions file."""
    faults = _table_faults(document, path, ("annotations",))
    if faults:
        return faults
    faults = _id_faults(document["annotations"], "caption", path)
    for row in document["annotations"]:
        if not isinstance(row.get("caption"), str) or not row["caption"].strip():
            faults.append(f"{path}: caption {row.get('id')}: is empty; remove the record")
        if not isinstance(row.get("image_id"), int):
            faults.append(
                f"{path}: caption {row.get('id')}: image_id {row.get('image_id')!r} is no id; correct the record"
            )
    return faults


def _missing_images(files: CocoSplit, images: Mapping[int, dict]) -> list[str]:
    names = [image["file_name"] for image in images.values()]
    missing = missing_files(files.images, names)
    return [missing_message(files.images, missing, len(names), DOWNLOAD)] if missing else []


def _image_faults(files: CocoSplit, rows: Sequence[dict]) -> list[str]:
    """Missing, damaged or exchanged image files."""
    rows = [row for row in rows if name_problem(row.get("file_name")) is None]
    missing = set(missing_files(files.images, [row["file_name"] for row in rows]))
    faults = [f"{files.images / name}: missing; {DOWNLOAD}" for name in sorted(missing)]
    for name in repeated(row["file_name"] for row in rows):
        faults.append(f"{files.instances}: {name} is the file of more than one image; remove the duplicate record")
    for row in rows:
        if row["file_name"] in missing:
            continue
        size, fault = header_problem(files.images / row["file_name"])
        if fault:
            faults.append(fault)
        elif size != (row.get("width"), row.get("height")):
            faults.append(
                f"{files.images / row['file_name']}: is {size[0]}x{size[1]}, its record says "
                f"{row.get('width')}x{row.get('height')}; put the original image back"
            )
    return faults


def _overlaps(layout: CocoLayout) -> list[str]:
    """Images that are in both official splits, by file name."""
    names = []
    for split in SPLITS:
        try:
            rows = _rows(read_json(layout.files(split).instances), "images")
        except DataError:
            return []  # listed already
        names.append({row["file_name"] for row in rows if isinstance(row.get("file_name"), str)})
    both = sorted(names[0] & names[1])
    listed = ", ".join(both[:5])
    return [f"{layout.root}: {len(both)} images are in train and val ({listed}); remove them from one"] if both else []


def _rows(document: object, key: str) -> list[dict]:
    """The records of a table that may be malformed."""
    rows = document.get(key) if isinstance(document, dict) else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _key(value: object) -> object:
    """An id as a dictionary key: lists and mappings are no ids and match nothing."""
    return value if isinstance(value, int | str) else None
