"""Floors: what a score is worth nothing below. Printed beside every result of Stage 2.

    median box          the componentwise median of the training boxes, whatever is asked
    best constant       the one training box that hits most other training boxes
    text prior          the median training box of the noun and side the command names; never sees the image
    class oracle        knows every object of the right class and picks one at random (mean of 1 / n_same)
    shuffled text       the same model, each command's text replaced by another frame's: if it does not fall, the model
                        ignores language
    blank images        the same model on grey frames: what the text alone gives it

The first three predict boxes for commands (score them with `evaluation.official_scores`); the last two wrap the loader
that goes to `evaluation.evaluate_talk2car`.
"""

# N training commands, C candidate boxes.

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch

from shared.errors import DataError
from talk2car_kd.evaluation import ground_truth, official_ious, official_scores
from talk2car_kd.flips import side_of
from talk2car_kd.talk2car import padded
from talk2car_kd.talk2car_annotations import Command
from talk2car_kd.teacher import CommandTokens

Box = list[float]  # [x, y, w, h] in pixels of the annotation frame

MAX_CANDIDATES = 1500
MIN_ROWS = 5  # a (noun, side) seen less often says too little: back off to the noun, then to everything

NOUNS: dict[str, tuple[str, ...]] = {  # what people call the classes of nuScenes; the first noun of a command counts
    "car": ("car", "sedan", "suv", "van", "minivan", "jeep", "taxi", "cab", "vehicle", "hatchback", "pickup"),
    "person": ("man", "woman", "person", "pedestrian", "guy", "girl", "boy", "lady", "adult", "people", "men", "women"),
    "worker": ("worker", "workers", "officer", "policeman", "cop"),
    "truck": ("truck", "lorry", "trailer"),
    "bus": ("bus", "buses", "coach"),
    "motorcycle": ("motorcycle", "motorbike", "scooter", "moped"),
    "bicycle": ("bicycle", "bike", "cyclist", "biker"),
    "cone": ("cone", "traffic cone"),
    "barrier": ("barrier", "barricade", "roadblock"),
    "cart": ("cart", "bin", "dumpster", "trashcan"),
}
_NOUN_OF = {word: noun for noun, words in NOUNS.items() for word in words}
_NOUN = re.compile(r"\b(" + "|".join(map(re.escape, _NOUN_OF)) + r")s?\b", re.IGNORECASE)


def median_box(commands: Sequence[Command]) -> Box:
    """Componentwise median of x, y, w, h over the commands with ground truth. DataError without any."""
    return np.median(_truth_array(commands), axis=0).tolist()


def best_constant_box(commands: Sequence[Command], *, candidates: int = MAX_CANDIDATES, seed: int = 0) -> Box:
    """The training box with the most strict hits at IoU 0.5 over all training boxes; ties go to the higher mean IoU.

    All boxes compete when there are at most `candidates`, else a seeded sample of that many. DataError without boxes.
    """
    truth = _truth_array(commands)
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(truth))[:candidates]
    ious = (official_ious(np.broadcast_to(truth[row], truth.shape), truth) for row in rows)
    ranks = [((iou > 0.5).mean(), iou.mean()) for iou in ious]
    return truth[rows[max(range(len(rows)), key=ranks.__getitem__)]].tolist()


def named_object(text: str) -> str | None:
    """The kind of object a command names first (a key of NOUNS), or None."""
    found = _NOUN.search(text)
    return _NOUN_OF[found[1].lower()] if found else None


class TextPrior:
    """Median training box of the (noun, side) a command names, backing off to the noun, the side, then all rows.

    `prior(text) -> [x, y, w, h]`; nothing but the text is used. DataError when no training command has a box.
    """

    def __init__(self, commands: Sequence[Command], *, min_rows: int = MIN_ROWS):
        rows = defaultdict(list)
        for command in commands:
            for key in _back_off(command.text) if command.box_xywh_px is not None else ():
                rows[key].append(command.box_xywh_px)
        self.boxes: dict[tuple, Box] = {
            key: np.median(np.asarray(boxes, dtype=np.float64), axis=0).tolist()
            for key, boxes in rows.items()
            if len(boxes) >= min_rows
        }
        self.boxes[None, None] = median_box(commands)

    def __call__(self, text: str) -> Box:
        return next(self.boxes[key] for key in _back_off(text) if key in self.boxes)


def class_oracle_ap50(commands: Sequence[Command]) -> float | None:
    """Expected AP50 of picking, exactly, a random object of the right class: mean of 1 / tags["n_same_class"].

    The count includes the object asked for. None when any command lacks the tag: real Talk2Car files do not say.
    """
    counts = [command.tags.get("n_same_class") for command in commands]
    if not counts or not all(counts):
        return None
    return float(np.mean([1 / count for count in counts]))


def floors(train: Sequence[Command], test: Sequence[Command]) -> dict[str, dict]:
    """The floors that need no model, scored on `test`: {name: official_scores}, class oracle with its `ap50` only."""
    prior = TextPrior(train)
    predictors: dict[str, Callable[[str], Box]] = {
        "median box": _constant(median_box(train)),
        "best constant box": _constant(best_constant_box(train)),
        "text prior": prior,
    }
    truth = ground_truth(test)
    scored = [command for command in test if command.command_token in truth]
    rows = {
        name: official_scores({c.command_token: predictor(c.text) for c in scored}, truth)
        for name, predictor in predictors.items()
    }
    oracle = class_oracle_ap50(scored)
    return rows if oracle is None else {**rows, "class oracle": {"n": len(scored), "ap50": oracle}}


# --- controls: the same model, half of its input taken away ---


class ChangedLoader:
    """A loader whose batches pass through `change`; `dataset` and length are the inner loader's."""

    def __init__(self, loader, change: Callable[[Mapping], dict]):
        self.loader, self.change, self.dataset = loader, change, loader.dataset

    def __iter__(self) -> Iterator[dict]:
        return map(self.change, self.loader)

    def __len__(self) -> int:
        return len(self.loader)


def with_blank_images(loader) -> ChangedLoader:
    """The loader with every frame zero after normalisation, that is, evenly grey."""
    return ChangedLoader(loader, lambda batch: {**batch, "images": torch.zeros_like(batch["images"])})


def with_shuffled_text(loader, reader: Callable[[str], CommandTokens], *, seed: int = 0) -> ChangedLoader:
    """The loader with every command's text replaced by that of a command of another frame.

    `reader` is what the data set was built with. The exchange is drawn over the whole data set,
    so it does not depend on batches or on the number of processes. DataError when it is not possible.
    """
    texts = shuffled_texts(loader.dataset.commands, seed=seed)

    def change(batch: Mapping) -> dict:
        return {**batch, **padded([reader(texts[int(index)]) for index in batch["index"]])}

    return ChangedLoader(loader, change)


def shuffled_texts(commands: Sequence[Command], *, seed: int = 0, tries: int = 32) -> list[str]:
    """A permutation of the commands' texts in which nobody keeps a text of the own frame.

    Frames are put in random order and the texts moved on by at least the longest frame; of several such moves the one
    that leaves fewest commands with an equal string is taken. DataError when one frame holds most commands.
    """
    counts = Counter(command.sample_token for command in commands)
    longest = max(counts.values(), default=0)
    if len(commands) < 2 * longest or not commands:
        raise DataError(
            f"cannot shuffle the text of {len(commands)} commands: one frame holds {longest} of them, so some would"
            " keep a text of their own frame. Evaluate on more frames."
        )
    rng = np.random.default_rng(seed)
    place = {frame: number for number, frame in enumerate(rng.permutation(sorted(counts)))}
    order = sorted(range(len(commands)), key=lambda row: place[commands[row].sample_token])
    text = np.array([commands[row].text for row in order], dtype=object)
    moves = rng.permutation(np.arange(longest, len(commands) - longest + 1))[:tries]
    moved = np.roll(text, min(moves, key=lambda move: int((np.roll(text, move) == text).sum())))
    return [other for _, other in sorted(zip(order, moved.tolist(), strict=True), key=lambda pair: pair[0])]


def _back_off(text: str) -> list[tuple[str | None, str | None]]:
    noun, side = named_object(text), side_of(text)
    return list(dict.fromkeys([(noun, side), (noun, None), (None, side), (None, None)]))


def _constant(box: Box) -> Callable[[str], Box]:
    return lambda text: box


def _truth_array(commands: Sequence[Command]) -> np.ndarray:
    boxes = [command.box_xywh_px for command in commands if command.box_xywh_px is not None]
    if not boxes:
        raise DataError(f"none of {len(commands)} training commands has a box: floors need the train split")
    return np.asarray(boxes, dtype=np.float64)
