"""Counting a written world: the figures of the real data set beside those of the world.

Works on any Talk2Car root with tags.json; the real figures are those this world imitates.
"""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np

from shared.errors import DataError

from .spec import BOX_PERCENTILES, COCO_SPLITS, EDGE_SHARE, FRAME_WH, PERCENTILES, SPLITS

SIZES_PX2 = ((0, 32**2), (32**2, 96**2), (96**2, 1e9))  # small, medium, large
WORD_SETS = {  # pattern, share in the real val and test commands
    "left or right": (r"\b(left|right)\b", 0.396),
    "turn left/right": (r"\bturn (left|right)\b", 0.10),
    "colour": (r"\b(black|white|gr[ae]y|silver|orange|blue|red|yellow|green)\b", 0.297),
    "relation": (
        r"\b(behind|in front|next to|beside|between|after|before|near|past|close to|left of|right of)\b",
        0.564,
    ),
    "ordinal": (r"\b(first|second|third|last)\b", 0.043),
    "size or distance": (r"\b(nearest|closest|biggest|largest)\b", 0.017),
    "two sentences": (r"[.!?] \w", 0.15),
    "bright": (r"\bbright\b", None),
}


def box_statistics(boxes_xywh: np.ndarray) -> dict[str, np.ndarray]:
    """Named quantities of boxes (N, 4) in the 1600x900 frame, as BOX_PERCENTILES names them."""
    x, y, w, h = np.asarray(boxes_xywh, float).T
    width, height = FRAME_WH
    centre = {"cx": (x + w / 2) / width, "cy": (y + h / 2) / height}
    return {"w_px": w, "h_px": h, "w_over_h": w / h, **centre, "area_share": w * h / (width * height)}


def at_edge(boxes_xywh: np.ndarray) -> np.ndarray:
    """Whether each box (N, 4) touches the edge of the frame."""
    x, y, w, h = np.asarray(boxes_xywh, float).T
    return (x <= 0) | (y <= 0) | (x + w >= FRAME_WH[0]) | (y + h >= FRAME_WH[1])


def word_shares(texts) -> dict[str, float]:
    """Share of the texts that hold a word of each set."""
    return {
        name: float(np.mean([bool(re.search(pattern, text)) for text in texts]))
        for name, (pattern, _) in WORD_SETS.items()
    }


def side_agreement(texts, centre_x) -> dict[str, float]:
    """How often "left" ("right") alone in a text goes with a box centre in that half."""
    centre_x, found = np.asarray(centre_x), {}
    for side, other in (("left", "right"), ("right", "left")):
        only = np.array([bool(re.search(rf"\b{side}\b", t)) and not re.search(rf"\b{other}\b", t) for t in texts])
        hit = centre_x[only] < 0.5 if side == "left" else centre_x[only] > 0.5
        found[side] = float(hit.mean()) if len(hit) else float("nan")
    return found


def load_split(root: Path, split: str) -> tuple[list[dict], dict[str, dict]]:
    """Rows and tags of a written world's split."""
    base = root / "talk2car" if (root / "talk2car").is_dir() else root
    try:
        rows = json.loads((base / "commands" / f"{split}_commands.json").read_text())["commands"]
        tags = json.loads((base / "tags.json").read_text())
    except FileNotFoundError as error:
        raise DataError(f"{error.filename} is missing: {root} is no embedded world; write one with --out") from None
    return rows, {row["command_token"]: tags[row["command_token"]] for row in rows}


def _line(name: str, value: str) -> str:
    return f"  {name:28}  {value}"


def _percent(values) -> str:
    values = list(values)
    return ", ".join(f"{name} {100 * count / len(values):.1f}" for name, count in Counter(values).most_common())


def _box_lines(boxes) -> list[str]:
    lines = [_line("percentiles 5/25/50/75/95", "world" + " " * 39 + "real train")]
    for name, value in box_statistics(boxes).items():
        ours = "  ".join(f"{v:7.4g}" for v in np.quantile(value, PERCENTILES))
        lines.append(_line(name, ours + "  " + " ".join("-" if v is None else f"{v:g}" for v in BOX_PERCENTILES[name])))
    return [*lines, _line("touch the edge", f"{at_edge(boxes).mean():.3f} (real {EDGE_SHARE})")]


def _word_lines(texts, centre_x) -> list[str]:
    agree, lengths = side_agreement(texts, centre_x), [len(text.split()) for text in texts]
    lines = [
        _line(name, f"{share:.3f}" + (f" (real {real})" if (real := WORD_SETS[name][1]) is not None else ""))
        for name, share in word_shares(texts).items()
    ]
    lines.append(
        _line("left / right agree with box", f"{agree['left']:.3f} / {agree['right']:.3f} (real 0.853 / 0.814)")
    )
    return [*lines, _line("words", f"mean {np.mean(lengths):.1f}, {min(lengths)} to {max(lengths)} (real mean 11.0)")]


def _tag_lines(tags) -> list[str]:
    lines = [_line(f"{key}, %", _percent([tag[key] for tag in tags])) for key in ("cue", "class", "colour", "side")]
    decided = [tag["side"] for tag in tags if tag["cue"] == "side"]
    lines.append(_line("side where it decides, %", _percent(decided)))
    lines += [
        _line(key, f"{np.mean([t[key] for t in tags]):.3f}") for key in ("same_class_distractor", "compositional")
    ]
    return [*lines, _line("class oracle, mean 1/n", f"{np.mean([1 / tag['n_same_class'] for tag in tags]):.3f}")]


def _split_lines(root: Path, split: str) -> list[str]:
    rows, tags = load_split(root, split)
    boxes, texts = np.array([row["2d_box"] for row in rows]), [row["command"] for row in rows]
    frames, scenes = ({row[key] for row in rows} for key in ("sample_token", "scene_token"))
    head = f"{split}: {len(rows)} commands, {len(frames)} frames, {len(scenes)} scenes"
    word_lines = _word_lines(texts, box_statistics(boxes)["cx"])
    return [head, *_box_lines(boxes), *word_lines, *_tag_lines(list(tags.values()))]


def _coco_lines(root: Path, split: str) -> list[str]:
    instances, captions = (
        json.loads((root / "coco" / "annotations" / f"{name}_{split}.json").read_text())
        for name in ("instances", "captions")
    )
    names = {category["id"]: category["name"] for category in instances["categories"]}
    usable = [row for row in instances["annotations"] if not row["iscrowd"]]
    texts = [row["caption"] for row in captions["annotations"]]
    areas, boxes = np.array([row["area"] for row in usable]), np.array([row["bbox"] for row in usable])
    sides = boxes[:, 2:].min(axis=1)
    sizes = [100 * float(np.mean((areas >= low) & (areas < high))) for low, high in SIZES_PX2]
    crowds, under = len(instances["annotations"]) - len(usable), [float(np.mean(sides < side)) for side in (8, 16)]
    return [
        f"{split}: {len(instances['images'])} images, {len(usable)} annotations, {crowds} crowd rows",
        _line("small/medium/large, %", "/".join(f"{size:.1f}" for size in sizes) + " (real 41/34/24)"),
        _line("mask area / box area", f"{np.mean(areas / boxes[:, 2:].prod(axis=1)):.3f}"),
        _line("short side, px", f"min {sides.min():.1f}, under 8: {under[0]:.3f}, under 16: {under[1]:.3f}"),
        _line("categories, %", _percent([names[row["category_id"]] for row in usable])),
        _line("captions", f"{len(texts)}, of them distinct {len(set(texts))}"),
    ]


def table(root: Path) -> str:
    """The statistics of a written world as text; DataError when the folder holds none."""
    lines = [line for split in SPLITS for line in _split_lines(root, split)]
    return "\n".join([*lines, *(line for split in COCO_SPLITS for line in _coco_lines(root, split))])
