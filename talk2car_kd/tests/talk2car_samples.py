"""A tiny Talk2Car root in the official layout, its frames stored at 160x90, and a data set over it."""

import json
from pathlib import Path

import cv2
import numpy as np
import torch

from talk2car_kd.talk2car import (
    Talk2CarDataset,
)
from talk2car_kd.teacher import CommandTokens

STORED_WH = (160, 90)  # a tenth of the annotation frame, on purpose
INPUT_HW = (64, 96)
BOX = [100, 400, 300, 200]
TEXTS = ["park on the left", "follow the red car", "stop right behind the bus"]  # mirrored, itself, never


def row_of(split: str, frame: int, k: int) -> dict:
    return {
        "scene_token": f"scene-{split}-{frame // 2}",
        "sample_token": f"sample-{split}-{frame}",
        "translation": [1.0, 2.0, 3.0],
        "size": [2.0, 4.0, 1.5],
        "rotation": ["0.1", "0.2", "0.3", "0.9"],
        "command": TEXTS[(frame + k) % 2] if frame < 4 else TEXTS[2 * k],
        "obj_name": "vehicle.car",
        "box_token": f"box-{split}-{frame}-{k}",
        "command_token": f"token-{split}-{frame}-{k}",
        "2d_box": [BOX[0] + 10 * k, *BOX[1:]],
        "t2c_img": f"img_{split}_{frame}_{k}.png",
    }


def rows_of(split: str) -> list[dict]:
    return [row_of(split, frame, k) for frame in range(6) for k in range(2)]


def frame_of(row: dict) -> np.ndarray:
    """A dark frame with a bright box where the annotation says, in the file's own scale."""
    pixels = np.full((STORED_WH[1], STORED_WH[0], 3), 30, np.uint8)
    x, y, w, h = (value // 10 for value in BOX)
    pixels[y : y + h, x : x + w] = (40, 40, 220)
    return pixels


def write_rows(path: Path, rows: object) -> None:
    path.write_text(json.dumps({"commands": rows, "scene_tokens": []} if isinstance(rows, list) else rows))


def write_talk2car_root(root: Path) -> Path:
    (root / "commands").mkdir(parents=True)
    (root / "images").mkdir()
    for split in ("train", "val", "test"):
        rows = rows_of(split)
        for row in rows:
            cv2.imwrite(str(root / "images" / row["t2c_img"]), frame_of(row))
            if split == "test":
                del row["2d_box"]
        write_rows(root / f"commands/{split}_commands.json", rows)
    return root


def read_words(text: str) -> CommandTokens:
    words = text.split()
    return CommandTokens(torch.tensor([len(word) for word in words]), torch.full((len(words), 8), float(len(text))))


def dataset_of(commands, **options) -> Talk2CarDataset:
    return Talk2CarDataset(commands, **{"input_hw": INPUT_HW, "reader": read_words, **options})
