"""Log-average miss rate of pedestrian detections, as KAIST's evaluators count it: `python -m` this file.

    python -m llvip_macl.evaluation.kaist_mr KAIST_annotation.json RESULT.txt [RESULT2.json ...]
        [--protocol matlab|mlpd_script|both] [--subset near --subset occ_heavy] [--json OUT.json] [--picture OUT.png]

Two protocols are in use, and a paper's number is of one of them:

- `matlab` (the KAISTdevkit wrapper; the published tables): every image of the subset counts, references are
  10^(-2:0.25:0), and where the curve has no point at or below a reference the recall there is 0.
- `mlpd_script` (the widely copied Python script): images without any detection lose their persons but still count in
  false positives per image, references are rounded to four digits, and a missing point takes the LAST recall.

A ground-truth box is ignored if flagged, if its height or occlusion is outside the subset, or if it is within 5 px of
the border. Heights and borders are of 512 lines (KAIST's 640x512): images of another size are judged after scaling by
512 / height, which leaves overlaps as they are. Matching is greedy by falling score in each image: a detection takes
the free person of highest IoU >= 0.5 (ties: the later in the file); only if none, an ignored box that covers half of
the detection absorbs it, any number of times. numpy and the standard library only.
"""

# N images, G ground-truth boxes, D detections, R rules, P (detection, box) pairs of one image, C candidates of one

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.errors import ConfigError, UserError

from .kaist_files import DAY, NIGHT, Detections, Truth, read_detections, read_truth

LINES = 512  # image height that heights and borders are given for
BORDER_PX = 5
MIN_OVERLAP = 0.5
MAX_DETECTIONS = 1000  # of one image
SMALLEST_MISS = 1e-10
PROTOCOLS = ("matlab", "mlpd_script")
REFERENCES_FPPI = {
    "matlab": 10.0 ** np.arange(-2, 0.25, 0.25),
    "mlpd_script": np.array([0.0100, 0.0178, 0.0316, 0.0562, 0.1000, 0.1778, 0.3162, 0.5623, 1.0]),
}
TIMES = {"all": None, "day": DAY, "night": NIGHT}
MATLAB_SUBSETS = (
    "reasonable_all", "reasonable_day", "reasonable_night", "near", "medium", "far", "occ_none", "occ_partial",
    "occ_heavy",
)  # fmt: skip
SUBSETS = {"matlab": MATLAB_SUBSETS, "mlpd_script": MATLAB_SUBSETS[:3]}


@dataclass(frozen=True)
class Rule:
    """Which persons count: heights in pixels of 512 lines, both ends included; occlusion labels 0, 1, 2."""

    min_height_px: float
    max_height_px: float
    occlusions: tuple[int, ...]


RULES = {
    "reasonable": Rule(55, math.inf, (0, 1)),
    "near": Rule(115, math.inf, (0,)),
    "medium": Rule(45, 115, (0,)),
    "far": Rule(1, 45, (0,)),
    "occ_none": Rule(1, math.inf, (0,)),
    "occ_partial": Rule(1, math.inf, (1,)),
    "occ_heavy": Rule(1, math.inf, (2,)),
    "small": Rule(50, 75, (0, 1)),
    "heavy": Rule(50, math.inf, (2,)),
    "all": Rule(20, math.inf, (0, 1, 2)),
}


@dataclass(frozen=True, eq=False)
class MissRate:
    """One subset's result. percent is nan where the subset has no person; fppi and recall are the curve's points."""

    percent: float
    images: int
    persons: int
    fppi: np.ndarray
    recall: np.ndarray


@dataclass(frozen=True, eq=False)
class Matching:
    """Detections by image and falling score, and what became of each under R rules; shared by both protocols.

    matched, dropped: (R,D) bool (neither: a false positive); persons: (R,G) bool, the boxes that count.
    """

    rules: tuple[str, ...]
    image_index: np.ndarray
    scores: np.ndarray
    matched: np.ndarray
    dropped: np.ndarray
    persons: np.ndarray


# --- subsets ----------------------------------------------------------------------------------------------------------


def parse_subset(name: str) -> tuple[str, str]:
    """("near", "day") of "near_day"; a name without a time means all. Raises ConfigError with the names there are."""
    rule, _, time = name.rpartition("_")
    if time not in TIMES or not rule:
        rule, time = name, "all"
    if rule not in RULES:
        raise ConfigError(f"no subset {name!r}; there are {', '.join(RULES)}, each alone or with _day or _night")
    return rule, time


def persons_of(rule: Rule, truth: Truth, height_scale: float | None = None) -> np.ndarray:
    """(G,) bool: the boxes that count under a rule; all others are ignored.

    height_scale: factor to the pixels of 512 lines; None takes 512 / image height, image by image.
    """
    size = truth.sizes_hw[truth.image_index]
    scale = LINES / size[:, 0] if height_scale is None else np.full(len(size), height_scale)
    x, y, w, h = truth.boxes_xywh_px.T * scale
    height, width = size.T * scale
    inside = (x >= BORDER_PX) & (y >= BORDER_PX) & (x + w <= width - BORDER_PX) & (y + h <= height - BORDER_PX)
    tall = (h >= rule.min_height_px) & (h <= rule.max_height_px)
    return ~truth.ignore & inside & tall & np.isin(truth.occlusions, rule.occlusions)


def images_of(time: str, truth: Truth) -> np.ndarray:
    """(N,) bool: the images of "all", "day" or "night"."""
    wanted = TIMES[time]
    return np.ones(len(truth.image_ids), bool) if wanted is None else truth.times == wanted


# --- matching ---------------------------------------------------------------------------------------------------------


def match(
    truth: Truth, detections: Detections, rules: Sequence[str] = tuple(RULES), height_scale: float | None = None
) -> Matching:
    """What becomes of every detection under each of the rules. Detections beyond 1,000 of an image are left out."""
    ordered = _by_image_and_score(detections)
    boxes = len(truth.boxes_xywh_px)
    persons = np.stack([persons_of(RULES[name], truth, height_scale) for name in rules])
    detection, box, iou, covered = _overlaps(truth, ordered)
    shape = (len(rules), len(ordered.scores))
    best_first = np.lexsort((-box, -iou, detection))
    best_first = best_first[iou[best_first] >= MIN_OVERLAP]
    matched = _greedy(detection[best_first], box[best_first], ordered.image_index, persons, np.zeros(shape, bool))
    near = covered >= MIN_OVERLAP
    rows, table = _table(detection[near], box[near], boxes)
    absorbed = np.zeros(shape, bool)
    absorbed[:, rows] = _with_nothing(~persons)[:, table].any(-1)
    return Matching(tuple(rules), ordered.image_index, ordered.scores, matched, absorbed & ~matched, persons)


def _by_image_and_score(detections: Detections) -> Detections:
    order = np.lexsort((-detections.scores, detections.image_index))
    image = detections.image_index[order]
    rank = np.arange(len(image)) - np.searchsorted(image, image)
    order = order[rank < MAX_DETECTIONS]
    return Detections(detections.image_index[order], detections.boxes_xywh_px[order], detections.scores[order])


def _overlaps(truth: Truth, detections: Detections) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All P pairs of one image: (detection, box, IoU, share of the detection that the box covers)."""
    by_image = np.argsort(truth.image_index, kind="stable")
    sorted_images = truth.image_index[by_image]
    first = np.searchsorted(sorted_images, detections.image_index)
    count = np.searchsorted(sorted_images, detections.image_index, side="right") - first
    detection = np.repeat(np.arange(len(count)), count)
    ends = np.cumsum(count)
    box = by_image[np.arange(len(detection)) + np.repeat(first - ends + count, count)]
    return detection, box, *_iou(detections.boxes_xywh_px[detection], truth.boxes_xywh_px[box])


def _iou(boxes: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(P,) IoU, and intersection over the area of `boxes`; 0 for boxes without area. Both (P,4) xywh."""
    low = np.maximum(boxes[:, :2], others[:, :2])
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], others[:, :2] + others[:, 2:])
    common = np.clip(high - low, 0, None).prod(1)
    area, other = boxes[:, 2:].prod(1), others[:, 2:].prod(1)
    tiny = np.finfo(float).tiny
    return common / np.maximum(area + other - common, tiny), common / np.maximum(area, tiny)


def _table(detection: np.ndarray, box: np.ndarray, nothing: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs ordered by detection, as (rows (M,), their boxes (M,C) in the given order, filled with `nothing`)."""
    rows, first, count = np.unique(detection, return_index=True, return_counts=True)
    table = np.full((len(rows), count.max(initial=0)), nothing)
    row = np.repeat(np.arange(len(rows)), count)
    table[row, np.arange(len(box)) - np.repeat(first, count)] = box
    return rows, table


def _with_nothing(flags: np.ndarray) -> np.ndarray:
    """(R,G) flags with one more column, False: the box that a table is filled with."""
    return np.pad(flags, ((0, 0), (0, 1)))


def _greedy(
    detection: np.ndarray, box: np.ndarray, image: np.ndarray, persons: np.ndarray, matched: np.ndarray
) -> np.ndarray:
    """Mark in `matched` (R,D) the detections that get a person; candidate pairs come ordered, best box first.

    Images do not touch each other, so the k-th detections of all images are served together, under all rules at once.
    """
    rows, table = _table(detection, box, persons.shape[1])
    free = _with_nothing(persons)
    for turn in _turns(image[rows]):
        choice = free[:, table[turn]]  # (R, n, C)
        rule, place = np.nonzero(choice.any(-1))
        taken = table[turn[place], choice.argmax(-1)[rule, place]]
        free[rule, taken] = False
        matched[rule, rows[turn[place]]] = True
    return matched


def _turns(image: np.ndarray) -> Iterator[np.ndarray]:
    """Positions of the first entry of every image, then of the second, ...; `image` does not fall."""
    turn = np.arange(len(image)) - np.searchsorted(image, image)
    order = np.argsort(turn, kind="stable")
    return iter(np.split(order, np.cumsum(np.bincount(turn))[:-1]) if len(image) else ())


# --- curves and means -------------------------------------------------------------------------------------------------


def evaluate(
    truth: Truth,
    detections: Detections,
    subsets: Sequence[str] | None = None,
    protocol: str = "matlab",
    *,
    height_scale: float | None = None,
) -> dict[str, MissRate]:
    """The miss rate of every subset (default: the protocol's usual ones) by its name."""
    names = SUBSETS[checked_protocol(protocol)] if subsets is None else tuple(subsets)
    rules = tuple(dict.fromkeys(parse_subset(name)[0] for name in names))
    matching = match(truth, detections, rules, height_scale)
    return {name: miss_rate(truth, matching, *parse_subset(name), protocol) for name in names}


def checked_protocol(protocol: str) -> str:
    """The protocol's name as it is; ConfigError for one there is not."""
    if protocol not in PROTOCOLS:
        raise ConfigError(f"no protocol {protocol!r}; there are {' and '.join(PROTOCOLS)}")
    return protocol


def miss_rate(truth: Truth, matching: Matching, rule: str, time: str, protocol: str) -> MissRate:
    """One subset's curve and its log-average miss rate, from a matching under the rule."""
    row, images = matching.rules.index(rule), images_of(time, truth)
    counted = images[truth.image_index] & matching.persons[row]
    if protocol == "mlpd_script":
        counted &= np.isin(truth.image_index, matching.image_index)
    persons = int(counted.sum())
    kept = images[matching.image_index] & ~matching.dropped[row]
    hits = matching.matched[row, kept][np.argsort(-matching.scores[kept], kind="stable")]
    fppi = np.cumsum(~hits) / max(1, images.sum())
    recall = np.cumsum(hits) / max(1, persons)
    percent = 100 * log_average(fppi, recall, protocol) if persons else math.nan
    return MissRate(percent, int(images.sum()), persons, fppi, recall)


def recall_at(fppi: np.ndarray, recall: np.ndarray, protocol: str) -> np.ndarray:
    """(9,) recall at the protocol's references: of the last point with as few false positives per image."""
    if not len(recall):
        return np.zeros(len(REFERENCES_FPPI[protocol]))
    place = np.searchsorted(fppi, REFERENCES_FPPI[protocol], side="right") - 1
    absent = 0.0 if protocol == "matlab" else recall[-1]
    return np.where(place >= 0, recall[place], absent)


def log_average(fppi: np.ndarray, recall: np.ndarray, protocol: str) -> float:
    """exp(mean(log(max(1e-10, 1 - recall)))) over the nine references: a miss rate in 0..1."""
    misses = np.maximum(SMALLEST_MISS, 1 - recall_at(fppi, recall, protocol))
    return float(np.exp(np.log(misses).mean()))


# --- the command ------------------------------------------------------------------------------------------------------


def describe(truth: Truth, path: Path | str) -> str:
    """Which annotations a number is of."""
    words = f"{Path(path).name}: {truth.version}; {len(truth.image_ids)} images, {int((~truth.ignore).sum())} persons, "
    words += f"{int(truth.ignore.sum())} boxes to ignore"
    scales = np.unique(LINES / truth.sizes_hw[:, 0])
    if (scales != 1).any():
        words += f"; heights and borders scaled to {LINES} lines by {', '.join(f'{scale:g}' for scale in scales)}"
    return words


def table(results: Mapping[str, MissRate]) -> str:
    """Lines for people: subset, miss rate, images, persons that count."""
    lines = [f"{'subset':<18}{'MR %':>8}{'images':>9}{'persons':>9}"]
    for name, found in results.items():
        percent = f"{found.percent:.3f}" if found.persons else "-"
        lines.append(f"{name:<18}{percent:>8}{found.images:>9}{found.persons:>9}")
    return "\n".join(lines)


def judge(arguments: argparse.Namespace, truth: Truth) -> dict[str, dict[str, dict[str, MissRate]]]:
    """Read, judge and print every file: {file: {protocol: {subset: result}}}."""
    print(f"annotations  {describe(truth, arguments.truth)}")
    protocols = PROTOCOLS if arguments.protocol == "both" else (arguments.protocol,)
    results: dict[str, dict[str, dict[str, MissRate]]] = {}
    for path in arguments.results:
        detections = read_detections(path, truth)
        print(f"\nresults      {path}: {len(detections.scores)} detections in {detections.images} images")
        names = {protocol: arguments.subset or SUBSETS[protocol] for protocol in protocols}
        rules = tuple(dict.fromkeys(parse_subset(name)[0] for found in names.values() for name in found))
        matching = match(truth, detections, rules, arguments.height_scale)
        for protocol in protocols:
            found = {n: miss_rate(truth, matching, *parse_subset(n), protocol) for n in names[protocol]}
            results.setdefault(str(path), {})[protocol] = found
            print(f"protocol     {protocol}\n{table(found)}")
    return results


def as_json(results: Mapping[str, Mapping[str, Mapping[str, MissRate]]]) -> str:
    """{file: {protocol: {subset: {miss_rate_percent, images, persons}}}}; null where a subset has no person."""

    def plain(found: MissRate) -> dict[str, float | int | None]:
        percent = None if math.isnan(found.percent) else found.percent
        return {"miss_rate_percent": percent, "images": found.images, "persons": found.persons}

    nested = {file: {protocol: {name: plain(found) for name, found in subsets.items()}
                     for protocol, subsets in protocols.items()} for file, protocols in results.items()}  # fmt: skip
    return json.dumps(nested, indent=2) + "\n"


def save(
    arguments: argparse.Namespace, results: Mapping[str, Mapping[str, Mapping[str, MissRate]]], truth: Truth
) -> None:
    """Write the JSON and the picture that were asked for; a picture of embedded data says so."""
    if arguments.json:
        from shared.storage import write_atomic  # imports torch: only where something is written

        write_atomic(arguments.json, as_json(results))
    if arguments.picture:
        from .fppi import save_curves

        curves = {file: next(iter(next(iter(found.values())).values())) for file, found in results.items()}
        protocol, subsets = next(iter(next(iter(results.values())).items()))
        mark = truth.version if "embedded" in truth.version else ""
        save_curves(arguments.picture, curves, f"{next(iter(subsets))}, {protocol}", mark)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m llvip_macl.evaluation.kaist_mr",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("truth", type=Path, help="ground truth, in the format of KAIST_annotation.json")
    made.add_argument("results", type=Path, nargs="+", help="result files: txt (images from 1) or COCO list (.json)")
    made.add_argument("--protocol", choices=(*PROTOCOLS, "both"), default="matlab", help="default: matlab")
    made.add_argument("--subset", action="append", metavar="NAME", help="instead of the usual subsets; repeatable")
    made.add_argument("--height-scale", type=float, help="factor to 512 lines (default: 512 / image height)")
    made.add_argument("--json", type=Path, help="also write the values here")
    made.add_argument("--picture", type=Path, help="also draw the curves of the first subset")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 for a mistake in a file or an argument."""
    arguments = parser().parse_args(argv)
    try:
        for name in arguments.subset or ():
            parse_subset(name)
        truth = read_truth(arguments.truth)
        save(arguments, judge(arguments, truth), truth)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
