"""A tiny COCO root in the official layout."""

import json
from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT, IMAGES = 80, 60, 6
CATEGORIES = [{"id": 3, "name": "car"}, {"id": 53, "name": "apple"}]  # ids with gaps


def instances_of(first_id: int) -> dict:
    images, annotations = [], []
    for i in range(IMAGES):
        image_id = first_id + i
        images.append({"id": image_id, "file_name": f"{image_id:06d}.jpg", "width": WIDTH, "height": HEIGHT})
        boxes = [[5.0, 5.0, 20.0, 16.0], [30.5, 10.0, 40.0, 45.0], [1.0, 50.0, 30.0, 5.0], [60.0, 40.0, 12.0, 12.0]]
        for k, box in enumerate(boxes):
            annotations.append(
                {
                    "id": 10 * image_id + k,
                    "image_id": image_id,
                    "category_id": CATEGORIES[k % 2]["id"],
                    "bbox": box,
                    "area": box[2] * box[3] * np.pi / 4,
                    "iscrowd": int(k == 3 and i == 0),
                }
            )
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def captions_of(instances: dict) -> dict:
    rows = []
    for image in instances["images"]:
        for k, text in enumerate(["A car beside an apple.", "the apple on the left of a road", "nothing of note"]):
            rows.append({"id": 100 * image["id"] + k, "image_id": image["id"], "caption": text})
    return {"annotations": rows}


def write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document))


def write_coco_root(root: Path) -> Path:
    (root / "annotations").mkdir(parents=True)
    for split, first_id in (("train", 1), ("val", 501)):
        instances = instances_of(first_id)
        write_json(root / f"annotations/instances_{split}2017.json", instances)
        write_json(root / f"annotations/captions_{split}2017.json", captions_of(instances))
        (root / f"{split}2017").mkdir()
        for image in instances["images"]:
            pixels = np.random.default_rng(image["id"]).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            cv2.imwrite(str(root / f"{split}2017" / image["file_name"]), cv2.GaussianBlur(pixels, (0, 0), 3))
    return root
