"""Tiny paired data sets for tests: LLVIP and KAIST trees whose images carry a mark at each person."""

import random
from pathlib import Path

import cv2
import numpy as np

HW = (64, 80)
PIPELINE = [
    {"type": "LoadImageFromFile"},
    {"type": "LoadAnnotations", "with_bbox": True},
    {"type": "Resize", "scale": (96, 96), "keep_ratio": True},
    {"type": "RandomFlip", "prob": 0.5},
    {"type": "ColorJitter", "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.02},
    {"type": "RandomCrop", "crop_size": (70, 70), "allow_negative_crop": True},
    {"type": "PackDetInputs"},
]
PLAIN = [PIPELINE[0], PIPELINE[1], PIPELINE[-1]]


def image(seed: int, hw=HW) -> np.ndarray:
    """Noise of low values, so that marks stand out."""
    return np.random.default_rng(seed).integers(0, 60, (*hw, 3), dtype=np.uint8)


def write_image(path: Path, seed: int = 0, hw=HW, pixels: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image(seed, hw) if pixels is None else pixels)
    return path


def voc(boxes, hw=HW, name="person", extra="") -> str:
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox>"
        "</object>"
        for a, b, c, d in boxes
    )
    return f"<annotation>{extra}<size><width>{hw[1]}</width><height>{hw[0]}</height></size>{objects}</annotation>"


def llvip_tree(root: Path, train=4, test=2, boxes=((10, 8, 30, 40),), ending="png") -> Path:
    """A whole LLVIP root; train frames count from 1, test frames from 901."""
    (root / "Annotations").mkdir(parents=True)
    for split, first, count in (("train", 1, train), ("test", 901, test)):
        for number in range(first, first + count):
            write_image(root / "visible" / split / f"{number:06d}.{ending}", seed=number)
            write_image(root / "infrared" / split / f"{number:06d}.{ending}", seed=number + 5000)
            (root / "Annotations" / f"{number:06d}.xml").write_text(voc(boxes))
    return root


KAIST_TRAIN = ("set00/V000/I00001", "set03/V001/I00002")
KAIST_TEST = ("set06/V000/I00019", "set09/V000/I00039")
KAIST_XML = """<annotation><size><width>80</width><height>64</height></size>
<object><name>person</name><bndbox><x>10</x><y>8</y><w>9</w><h>30</h></bndbox><occlusion>1</occlusion></object>
<object><name>people</name><bndbox><x>40</x><y>10</y><w>25</w><h>20</h></bndbox><occlusion>0</occlusion></object>
</annotation>"""
BBGT = "% bbGt version=3\nperson 10 8 9 30 1 0 0 0 0 0 0\npeople 40 10 25 20 0 0 0 0 0 1 0\n"


def kaist_tree(root: Path, flat=False) -> Path:
    """A whole KAIST root with xml and text labels of all frames, paired ones of the training frames."""
    (root / "imageSets").mkdir(parents=True)
    (root / "imageSets" / "train-all-02.txt").write_text("\n".join(KAIST_TRAIN) + "\n")
    (root / "imageSets" / "test-all-20.txt").write_text("\n".join(KAIST_TEST) + "\n")
    for number, frame in enumerate((*KAIST_TRAIN, *KAIST_TEST)):
        group, video, name = frame.split("/")
        for half in ("visible", "lwir"):
            nested = f"{group}/{video}/{half}/{name}.png"
            place = f"{group}_{video}_{name}_{half}.png" if flat else nested
            write_image(root / "images" / place, seed=number + (100 if half == "lwir" else 0))
        for folder, ending, text in (("annotations-xml-new", "xml", KAIST_XML), ("annotations", "txt", BBGT)):
            path = root / folder / (frame.replace("/", "_") if flat else frame)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f"{path.name}.{ending}").write_text(text)
        for half, shift in (("visible", 0), ("lwir", 3)) if frame in KAIST_TRAIN else ():
            path = root / "annotations_paired" / group / video / half / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"% bbGt version=3\nperson {10 + shift} 8 9 30 0 0 0 0 0 0 0\n")
    return root


VISIBLE, INFRARED = 160, 200  # values of marks


def marked_sample(seed: int, hw=HW, per_modality: bool = False, persons: int = 2) -> dict:
    """A loaded sample: person p is a filled rectangle in channel p, brighter (1.25 times) in the infrared half."""
    from mmdet.structures.bbox import HorizontalBoxes

    draw = random.Random(seed)
    halves = {"img": np.zeros((*hw, 3), np.uint8), "img_ir": np.zeros((*hw, 3), np.uint8)}
    boxes = {"img": [], "img_ir": []}
    for person in range(persons):
        x = draw.randrange(4, hw[1] // 2)
        top = 4 + person * hw[0] // persons
        y = draw.randrange(top, max(top + 1, (person + 1) * hw[0] // persons - 12))
        for key, value, shift in (("img", VISIBLE, 0), ("img_ir", INFRARED, 6 if per_modality else 0)):
            box = (x + shift, y, x + shift + 20, y + 10)
            halves[key][box[1] : box[3], box[0] : box[2], person] = value
            boxes[key].append(box)
    sample = {
        **halves,
        "img_path": "visible.png",
        "img_ir_path": "infrared.png",
        "img_id": seed,
        "ori_shape": hw,
        "img_shape": hw,
        "gt_bboxes": HorizontalBoxes(np.array(boxes["img"], np.float32).reshape(-1, 4)),
        "gt_bboxes_labels": np.zeros(persons, np.int64),
        "gt_ignore_flags": np.zeros(persons, bool),
    }
    if per_modality:
        sample["gt_bboxes_ir"] = HorizontalBoxes(np.array(boxes["img_ir"], np.float32).reshape(-1, 4))
    return sample
