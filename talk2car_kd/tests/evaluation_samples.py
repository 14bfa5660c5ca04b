"""Hand-made commands, a loader over them, and a model that answers with their boxes."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from talk2car_kd.boxes import to_unit_cxcywh
from talk2car_kd.talk2car_annotations import Command

FRAME_WH = (1600, 900)


def config(iou_op="gt", samples=50):
    return SimpleNamespace(
        eval=SimpleNamespace(iou_op=iou_op, bootstrap_samples=samples), stage2=SimpleNamespace(frame_wh=FRAME_WH)
    )


def command(number, box=(100.0, 400.0, 200.0, 100.0), text="stop behind the red car", frame=None, **tags):
    frame = number if frame is None else frame
    return Command(
        command_token=f"token{number:03}",
        text=text,
        image_path=Path(f"frame{frame}.jpg"),
        sample_token=f"sample{frame}",
        scene_token=f"scene{frame // 2}",
        box_xywh_px=box,
        class_name="vehicle.car" if number % 3 else "human.pedestrian.adult",
        tags=tags,
    )


def random_commands(count, seed=0):
    rng = np.random.default_rng(seed)
    words = ["the car on the left", "a man on the right", "park by the bus", "follow that truck", "go around"]
    boxes = np.concatenate([rng.uniform(0, [1200, 600], (count, 2)), rng.uniform(20, [400, 300], (count, 2))], axis=1)
    return [
        command(i, tuple(box.round().tolist()), words[i % 5], frame=i // 2, cue="side" if i % 2 else "colour")
        for i, box in enumerate(boxes)
    ]


@dataclass
class Dataset:
    commands: list


class Loader:
    """Batches as collate_grounding makes them; the "text" of row i is its own box, so a model can answer."""

    def __init__(self, commands, rows=None, batch_size=4):
        self.dataset = Dataset(commands)
        rows = list(range(len(commands))) if rows is None else rows
        self.batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for rows in self.batches:
            text = torch.stack([features(self.dataset.commands[row]) for row in rows])
            yield {
                "images": torch.ones(1, 3, 8, 8),
                "image_index": torch.zeros(len(rows), dtype=torch.long),
                "text_emb": text,
                "text_mask": torch.ones(text.shape[:2], dtype=torch.bool),
                "token_ids": torch.zeros(text.shape[:2], dtype=torch.long),
                "index": torch.tensor(rows),
            }


def features(command):
    box = command.box_xywh_px or (0.0, 0.0, 1.0, 1.0)
    return to_unit_cxcywh(torch.tensor([box], dtype=torch.float64), FRAME_WH)


class Echo(nn.Module):
    """Answers with the box in its text; wider by `slack` times the centre's x, and blind when the images are blank."""

    def __init__(self, slack=0.0):
        super().__init__()
        self.slack = nn.Parameter(torch.tensor(slack))
        self.frozen = nn.Dropout().eval()

    def forward(self, images, text_emb, text_mask, image_index, token_ids):
        assert not self.training and not torch.is_grad_enabled()
        seen = images[image_index].mean(dim=(1, 2, 3))[:, None]
        cx, cy, w, h = text_emb[:, 0].unbind(-1)
        boxes = torch.stack([cx, cy, w * (1 + self.slack * cx), h], dim=-1)
        return {"boxes_cxcywh": boxes * seen, "score_map": torch.arange(6.0).view(1, 2, 3).expand(len(boxes), 2, 3)}
