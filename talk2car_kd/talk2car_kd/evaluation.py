"""How a grounding model is judged: Talk2Car's own rule, reimplemented, and the table that explains the number.

The story of a score: `predict` runs the model over a loader and keeps one `Record` a command; `all_records` brings the
records of every process together; `score_records` turns them into the official numbers, their 95 % intervals and the
same numbers by object size, side word, distractor, class and cue. `evaluate_talk2car` is the three in one call.

The official rule (talk2car/Talk2Car, eval.py) is one box a command: ground truth cut to whole pixels, predictions as
they are, a hit is IoU > t *strictly*, t = 0.50, 0.55 ... 0.95, and the predicted tokens must be exactly those of the
ground truth. "AP50" is thus an accuracy; `average_iou` is the mean IoU. All scores are fractions in 0..1. With
`iou_op: ge` the looser rule (>=, as TransVG counts) is given beside it under names that end in `_ge`.
"""

# N commands; boxes are [x, y, w, h] in pixels of the annotation frame (1600 x 900).

import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from shared.checkpoint import write_atomic
from shared.errors import DataError, NonFiniteError
from shared.metrics import bootstrap_interval
from talk2car_kd.boxes import to_frame_xywh
from talk2car_kd.flips import side_of
from talk2car_kd.grounding import MODEL_INPUTS
from talk2car_kd.talk2car_annotations import Command

Box = Sequence[float]

THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
MIN_UNION_PX2 = 1e-7  # eval.py's guard against an empty union
SMALL_SHARE, LARGE_SHARE = 0.0062, 0.0228  # tertiles of box area / frame area over Talk2Car's train split
HISTOGRAM_BINS = 20
MAPS = ("score_map", "attention")  # what the model may return to look at
KNOWN_COUNTS = {8349: "train", 1163: "val", 2447: "test", 3610: "test + val (the closed AICrowd server)"}


@dataclass(frozen=True)
class Record:
    """One command with the box predicted for it (pixels of the frame, kept to 0.01 px) and, if asked for, its maps."""

    index: int
    command: Command
    predicted_xywh_px: tuple[float, float, float, float]
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)  # (h, w) each: "score_map" logits, "attention" weights

    @property
    def iou(self) -> float | None:
        """The official IoU, or None for a command without ground truth."""
        if self.command.box_xywh_px is None:
            return None
        return float(official_ious([self.predicted_xywh_px], [self.command.box_xywh_px])[0])


# --- the official rule ---


def official_ious(predicted_xywh_px: Sequence[Box], truth_xywh_px: Sequence[Box]) -> np.ndarray:
    """IoU of row i with row i as eval.py computes it: (N, 4), (N, 4) -> (N,) float64."""
    predicted = np.asarray(predicted_xywh_px, dtype=np.float64).reshape(-1, 4)
    truth = np.trunc(np.asarray(truth_xywh_px, dtype=np.float64).reshape(-1, 4))
    low = np.maximum(predicted[:, :2], truth[:, :2])
    high = np.minimum(predicted[:, :2] + predicted[:, 2:], truth[:, :2] + truth[:, 2:])
    intersection = np.clip(high - low, 0, None).prod(axis=1)
    union = predicted[:, 2:].prod(axis=1) + truth[:, 2:].prod(axis=1) - intersection
    return intersection / np.clip(union, MIN_UNION_PX2, None)


def official_scores(predictions: Mapping[str, Box], ground_truth: Mapping[str, Box], *, iou_op: str = "gt") -> dict:
    """The numbers of Talk2Car's eval.py for boxes by command token.

    Returns `n`, `average_iou`, `ap50` ... `ap95` and their mean `ap50_95`; with `iou_op="ge"` the names of the last two
    kinds end in `_ge`. DataError when the tokens differ, a box is not four finite numbers with w, h >= 0, or nothing
    is there to score.
    """
    _require_equal_tokens(predictions, ground_truth)
    if not ground_truth:
        raise DataError("no ground truth to score against: the command file holds no boxes; predictions can be written")
    tokens = sorted(ground_truth)
    _require_boxes(predictions, "predictions")
    _require_boxes(ground_truth, "ground truth")
    ious = official_ious([predictions[t] for t in tokens], [ground_truth[t] for t in tokens])
    return {"n": len(tokens), "average_iou": float(ious.mean()), **_accuracies(ious, iou_op)}


def ground_truth(commands: Sequence[Command]) -> dict[str, Box]:
    """Boxes by command token, of the commands that have one."""
    return {c.command_token: list(c.box_xywh_px) for c in commands if c.box_xywh_px is not None}


def _hits(ious: np.ndarray, iou_op: str) -> np.ndarray:
    """(N,) IoUs -> (N, 10) bool, a column for each threshold."""
    compare = {"gt": np.greater, "ge": np.greater_equal}[iou_op]
    return compare(ious[:, None], np.array(THRESHOLDS))


def _accuracies(ious: np.ndarray, iou_op: str) -> dict[str, float]:
    ending = "" if iou_op == "gt" else f"_{iou_op}"
    share = _hits(ious, iou_op).mean(axis=0)
    scores = {f"ap{round(100 * t)}{ending}": float(s) for t, s in zip(THRESHOLDS, share, strict=True)}
    return {**scores, f"ap50_95{ending}": float(share.mean())}


def _require_equal_tokens(predictions: Mapping[str, Box], truth: Mapping[str, Box]) -> None:
    missing, extra = sorted(truth.keys() - predictions.keys()), sorted(predictions.keys() - truth.keys())
    if not missing and not extra:
        return
    problems = [f"{len(missing)} of {len(truth)} missing: {_few(missing)}"] if missing else []
    problems += [f"{len(extra)} unknown: {_few(extra)}"] if extra else []
    raise DataError(
        f"predictions hold {_count(predictions)}, the ground truth {_count(truth)}; they must be the same: "
        f"{'; '.join(problems)}. Predict exactly the commands of the file you score against{_split_hint(predictions)}"
    )


def _count(tokens: Mapping) -> str:
    split = KNOWN_COUNTS.get(len(tokens))
    return f"{len(tokens)} tokens" + (f" (the size of {split})" if split else "")


def _split_hint(predictions: Mapping) -> str:
    if len(predictions) != 3610:
        return "."
    return ": test_commands.json has 2447; the 3610 of the closed AICrowd server were test and val together."


def _few(tokens: Sequence[str], limit: int = 3) -> str:
    return ", ".join(tokens[:limit]) + (" ..." if len(tokens) > limit else "")


# --- predictions.json ---


def write_predictions(path: Path, predictions: Mapping[str, Box]) -> None:
    """Write {command_token: [x, y, w, h]} atomically, one command a line. DataError for a box that is not one."""
    _require_boxes(predictions, str(path))
    rows = (f"{json.dumps(token)}: {json.dumps([float(v) for v in box])}" for token, box in predictions.items())
    write_atomic(Path(path), "{\n" + ",\n".join(rows) + "\n}\n")


def read_predictions(path: Path) -> dict[str, list[float]]:
    """Read a predictions.json. DataError names what is wrong with it: no file, no JSON, a token twice, a bad box."""
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_refuse_duplicates)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give the file that --stage test wrote") from error
    except ValueError as error:  # JSON, encoding or duplicate token
        raise DataError(f"{path}: {error}; expected JSON {{command_token: [x, y, w, h]}}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds a {type(found).__name__}, expected a dict {{command_token: [x, y, w, h]}}")
    _require_boxes(found, str(path))
    return found


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> dict:
    seen = dict(pairs)
    if len(seen) < len(pairs):
        twice = sorted(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise ValueError(f"tokens given twice: {_few(twice)}")
    return seen


def _require_boxes(boxes: Mapping[str, Box], where: str) -> None:
    bad = [token for token, box in boxes.items() if not _is_box(box)]
    if bad:
        raise DataError(
            f"{where}: {len(bad)} of {len(boxes)} boxes are not four finite numbers [x, y, w, h] with w, h >= 0, "
            f"first {bad[0]}: {boxes[bad[0]]!r}. Boxes are corner and size in pixels of the 1600x900 frame."
        )


def _is_box(box: object) -> bool:
    if not isinstance(box, (list, tuple, np.ndarray)) or len(box) != 4:
        return False
    numbers = all(isinstance(v, (int, float, np.number)) and not isinstance(v, bool) for v in box)
    return numbers and all(math.isfinite(v) for v in box) and box[2] >= 0 and box[3] >= 0


# --- from a model to records ---


def predict(
    model: nn.Module,
    loader,
    frame_wh: tuple[int, int],
    device: torch.device | str | None = None,
    *,
    maps_for: Collection[int] = (),
) -> list[Record]:
    """Run the model over a loader of `collate_grounding` batches (indices into `loader.dataset.commands`).

    The model is in eval mode meanwhile, every submodule's mode is put back afterwards. `maps_for` names the dataset
    indices whose score map and attention are kept for pictures. `device` defaults to the model's.
    NonFiniteError names the commands whose box is NaN or infinite.
    """
    device = device or next(model.parameters()).device
    records = []
    with evaluating(model) as model:
        for batch in loader:
            records += _records_of(model, batch, loader.dataset.commands, frame_wh, device, set(maps_for))
    return records


def all_records(model: nn.Module, loader, frame_wh: tuple[int, int], *, world=None, **options) -> list[Record]:
    """`predict` on every process of `world`, brought together: each command once, in the order of the data set.

    ValueError when a command was not predicted by any process (a loader that drops its last batch).
    """
    records = predict(model, loader, frame_wh, **options)
    if world is not None:
        records = [record for part in world.gather(records) for record in part]
    by_index = {record.index: record for record in records}  # a sampler may pad the ranks with repeats
    missing = set(range(len(loader.dataset.commands))) - by_index.keys()
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(loader.dataset.commands)} commands were not predicted, first index {min(missing)}:"
            " the evaluation loader must visit every command (drop_last=False, every rank its share)"
        )
    return [by_index[index] for index in sorted(by_index)]


def predictions_of(records: Sequence[Record]) -> dict[str, list[float]]:
    """{command_token: [x, y, w, h]}, what `write_predictions` takes."""
    return {record.command.command_token: list(record.predicted_xywh_px) for record in records}


def _records_of(model, batch, commands, frame_wh, device, maps_for) -> list[Record]:
    output = model(*(batch[key].to(device) for key in MODEL_INPUTS))
    boxes = to_frame_xywh(output["boxes_cxcywh"].double().cpu().numpy(), frame_wh).round(2)
    indices = [int(index) for index in batch["index"]]
    bad = [commands[i].command_token for i, box in zip(indices, boxes, strict=True) if not np.isfinite(box).all()]
    if bad:
        raise NonFiniteError(f"the model predicted NaN or infinite boxes for {len(bad)} commands: {_few(bad)}")
    return [
        Record(i, commands[i], tuple(box.tolist()), _maps(output, row) if i in maps_for else {})
        for row, (i, box) in enumerate(zip(indices, boxes, strict=True))
    ]


def _maps(output: Mapping, row: int) -> dict[str, np.ndarray]:
    return {name: output[name][row].float().cpu().numpy() for name in MAPS if output.get(name) is not None}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Eval mode without gradients; afterwards every submodule is back in its own mode (frozen ones stay in eval).

    Yields the bare model: the forward of DistributedDataParallel waits for ranks that may have fewer batches.
    """
    model = model.module if isinstance(model, DistributedDataParallel) else model
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        for module, training in modes:
            module.training = training


# --- from records to a score ---


def evaluate_talk2car(model: nn.Module, loader, config, *, world=None, device=None, intervals: bool = True) -> dict:
    """Score a model on a loader of commands with ground truth; the same dict on every process of `world`.

    `config` is the resolved configuration (`eval.iou_op`, `eval.bootstrap_samples`, `stage2.frame_wh` are used). The
    keys are those of `score_records`. For the single predictions call `all_records` and `score_records` instead.
    """
    records = all_records(model, loader, config.stage2.frame_wh, world=world, device=device)
    return score_records(records, config, intervals=intervals)


def score_records(records: Sequence[Record], config, *, intervals: bool = True) -> dict:
    """The official scores over the records that have ground truth, and what lies behind them.

    Keys: `n` (scored), `n_unscored` (no ground truth), `average_iou`, `ap50` ... `ap95`, `ap50_95` (and the same with
    `_ge` when `eval.iou_op` is ge), `intervals` {name: [low, high]} at 95 % over scenes (left out with
    `intervals=False`), `iou_histogram` {edges, counts}, and `by_size`, `by_side`, `by_distractor`, `by_class`,
    `by_cue`: {label: {n, average_iou, ap50, ap50_95, intervals}}. Commands whose label is unknown (no tags) are left
    out of that table. DataError when no record has ground truth.
    """
    scored = [record for record in records if record.command.box_xywh_px is not None]
    commands = [record.command for record in scored]
    scores = official_scores(predictions_of(scored), ground_truth(commands))
    ious = official_ious([r.predicted_xywh_px for r in scored], [c.box_xywh_px for c in commands])
    if config.eval.iou_op == "ge":
        scores |= _accuracies(ious, "ge")
    samples = config.eval.bootstrap_samples if intervals else 0
    labels = {name: [label(c, config.stage2.frame_wh) for c in commands] for name, label in SLICES.items()}
    return {
        **scores,
        "n_unscored": len(records) - len(scored),
        **_intervals(ious, commands, samples),
        **{name: _slice(ious, commands, values, samples) for name, values in labels.items()},
        "iou_histogram": _histogram(ious),
    }


def size_of(command: Command, frame_wh: tuple[int, int]) -> str:
    """small, medium or large by the box's share of the frame: tertiles of Talk2Car's train split (0.62 %, 2.28 %)."""
    _, _, w, h = command.box_xywh_px
    share = w * h / (frame_wh[0] * frame_wh[1])
    return "small" if share < SMALL_SHARE else "large" if share >= LARGE_SHARE else "medium"


def _distractor(command: Command) -> str | None:
    return {True: "with", False: "without"}.get(command.tags.get("same_class_distractor"))


SLICES: dict[str, Callable[[Command, tuple[int, int]], str | None]] = {
    "by_size": size_of,
    "by_side": lambda command, _: side_of(command.text) or "none",
    "by_distractor": lambda command, _: _distractor(command),
    "by_class": lambda command, _: command.class_name,
    "by_cue": lambda command, _: command.tags.get("cue"),
}


def _slice(ious: np.ndarray, commands: Sequence[Command], labels: Sequence[str | None], samples: int) -> dict:
    rows = {label: [i for i, other in enumerate(labels) if other == label] for label in sorted(set(labels) - {None})}
    return {label: _summary(ious[keep], [commands[i] for i in keep], samples) for label, keep in rows.items()}


def _summary(ious: np.ndarray, commands: Sequence[Command], samples: int) -> dict:
    accuracy = _accuracies(ious, "gt")
    means = {"average_iou": float(ious.mean()), "ap50": accuracy["ap50"], "ap50_95": accuracy["ap50_95"]}
    return {"n": len(ious), **means, **_intervals(ious, commands, samples)}


def _intervals(ious: np.ndarray, commands: Sequence[Command], samples: int) -> dict:
    """{"intervals": {name: [low, high]}}; nothing when not asked for or when one scene leaves nothing to resample."""
    scenes = [command.scene_token for command in commands]
    if not samples or len(set(scenes)) < 2:
        return {}
    hits = _hits(ious, "gt")
    columns = {"average_iou": ious, "ap50": hits[:, 0].astype(float), "ap50_95": hits.mean(axis=1)}
    bounds = {name: bootstrap_interval(values, groups=scenes, samples=samples) for name, values in columns.items()}
    return {"intervals": {name: [float(low), float(high)] for name, (low, high) in bounds.items()}}


def _histogram(ious: np.ndarray) -> dict[str, list]:
    counts, edges = np.histogram(ious, bins=HISTOGRAM_BINS, range=(0, 1))
    return {"edges": edges.round(4).tolist(), "counts": counts.tolist()}
