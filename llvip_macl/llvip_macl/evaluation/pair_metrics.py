"""mmengine metrics for pairs: `KaistMissRate` (log-average miss rate) and `PairCocoMetric` (COCO AP), in METRICS.

    val_evaluator = [dict(type='KaistMissRate', protocol='matlab'), dict(type='PairCocoMetric')]

Both judge against an annotation file (the format of KAIST_annotation.json, or COCO's) or, without one, against the
boxes the data set packs. Miss rates are in percent (`kaist/MR_reasonable_all`), AP in 0..1 as mmdet prints it
(`coco/bbox_mAP`). A value that does not exist (a subset without persons) is left out and named in the log. Under
several processes every image counts once.
"""

# N images, G ground-truth boxes, D detections

import contextlib
import io
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from shared.errors import ConfigError, DataError

from .kaist_files import Detections, Truth, read_truth, time_of, write_result_txt
from .kaist_mr import SUBSETS, MissRate, checked_protocol, describe, evaluate, parse_subset, table
from .samples import Boxes, Judged, corners_to_xywh, each_once, judged

FRAME = re.compile(r"(set\d\d).(V\d\d\d).(?:(?:visible|lwir).)?(I\d{5})")
MAX_DETECTIONS = 100
STATS = {"mAP": 0, "mAP_50": 1, "mAP_75": 2, "mAP_s": 3, "mAP_m": 4, "mAP_l": 5, "AR@100": 8}
NO_BOXES = Boxes(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0, np.int64))


class PairMetric(BaseMetric):
    """What both share: collecting, one entry an image, and who is a person.

    Args:
        ann_file: annotations to judge against; None judges against the boxes that the data samples carry.
        collect_device, prefix, collect_dir: as for mmengine's BaseMetric.
    """

    def __init__(
        self,
        ann_file: str | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix, collect_dir)
        self.ann_file = ann_file
        self.truth = None if ann_file is None else read_truth(ann_file)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple((self.dataset_meta or {}).get("classes", ("person",)))

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep predictions and ground truth of a batch."""
        self.results.extend(judged(sample) for sample in data_samples)

    def judged_against(self, results: Sequence[Judged]) -> tuple[list[Judged], Truth]:
        """(every image once, the ground truth whose images stand in the same order as theirs).

        Raises DataError: no image, no ground truth, or an annotation file of other images.
        """
        found = each_once(results)
        if not found:
            raise DataError("there is no image to judge: the validation set is empty")
        if self.truth is None:
            return found, packed_as_truth(found, str((self.dataset_meta or {}).get("label_version", "not stated")))
        by_place = dict(zip(places_of(found, self.truth, str(self.ann_file)), found, strict=True))
        if len(by_place) != len(self.truth.image_ids):
            raise DataError(
                f"{self.ann_file} has {len(self.truth.image_ids)} images, {len(by_place)} of them were predicted: "
                "judge the whole set, or leave ann_file out to judge against the boxes of the data set"
            )
        return [by_place[place] for place in range(len(by_place))], self.truth

    def person(self) -> int:
        """The label of persons. Raises ConfigError for a data set without them."""
        if "person" not in self.classes:
            raise ConfigError(f"this judges the class `person`; the data set has {', '.join(self.classes)}")
        return self.classes.index("person")

    def labels(self, found: Sequence[Judged], truth: Truth) -> np.ndarray:
        """(G,) class of each box of `truth`. An annotation file is read for its persons only (ConfigError)."""
        if self.truth is None:
            return np.concatenate([result.truth.labels for result in found])
        if len(self.classes) > 1:
            raise ConfigError(
                f"{self.ann_file} is judged for persons only, the data set has {', '.join(self.classes)}: leave "
                "ann_file out to judge every class against the boxes of the data set"
            )
        return np.full(len(truth.boxes_xywh_px), self.person())


@METRICS.register_module()
class KaistMissRate(PairMetric):
    """Log-average miss rate in percent, `kaist/MR_<subset>`; see `kaist_mr` for protocols and subsets.

    Args:
        protocol: "matlab" (published tables) or "mlpd_script".
        subsets: names, default the protocol's usual ones; those without a person are left out of the result.
        height_scale: factor from image pixels to KAIST's 512 lines (subsets and borders are given for these);
            None takes 512 / image height, 1 for KAIST itself.
        result_txt: also write the detections of each evaluation here, as `kaist_mr` reads them (images from 1).

    `last` holds the curves of the last evaluation (main process), for pictures.
    Raises ConfigError for an unknown protocol or subset.
    """

    default_prefix = "kaist"

    def __init__(
        self,
        ann_file: str | None = None,
        protocol: str = "matlab",
        subsets: Sequence[str] | None = None,
        height_scale: float | None = None,
        result_txt: str | None = None,
        **collecting: Any,
    ) -> None:
        super().__init__(ann_file, **collecting)
        self.protocol = checked_protocol(protocol)
        self.subsets = tuple(subsets or SUBSETS[protocol])
        for name in self.subsets:
            parse_subset(name)
        self.height_scale = height_scale
        self.result_txt = result_txt
        self.last: dict[str, MissRate] = {}

    def compute_metrics(self, results: list[Judged]) -> dict[str, float]:
        """{"MR_<subset>": percent}, lower is better."""
        person = self.person()
        found, truth = self.judged_against(results)
        if self.truth is None:
            truth = replace(truth, ignore=truth.ignore | (self.labels(found, truth) != person))
        detections = detections_of(found, person)
        if self.result_txt:
            write_result_txt(self.result_txt, truth.image_ids, detections)
        self.last = evaluate(truth, detections, self.subsets, self.protocol, height_scale=self.height_scale)
        source = self.ann_file or "boxes of the data set"
        print_log(f"miss rate, protocol {self.protocol}, {describe(truth, source)}\n{table(self.last)}", "current")
        return {f"MR_{name}": value.percent for name, value in self.last.items() if not math.isnan(value.percent)}


@METRICS.register_module()
class PairCocoMetric(PairMetric):
    """COCO AP by pycocotools, at most 100 detections an image; ignored boxes are crowds.

    `coco/bbox_mAP`, `_mAP_50`, `_mAP_75`, `_mAP_s/m/l`, `_AR@100`, in 0..1; with several classes
    `coco/bbox_mAP_<class>` too. Values without a box behind them are left out.
    """

    default_prefix = "coco"

    def compute_metrics(self, results: list[Judged]) -> dict[str, float]:
        """{"bbox_mAP": 0..1, ...}, higher is better."""
        found, truth = self.judged_against(results)
        labels = self.labels(found, truth)
        stats, precision, text = coco_evaluation(coco_truth(truth, labels, self.classes), coco_results(found))
        print_log(text, "current")
        values = {f"bbox_{name}": float(stats[place]) for name, place in STATS.items()}
        if len(self.classes) > 1:
            values |= {f"bbox_mAP_{name}": _mean(precision[:, :, k]) for k, name in enumerate(self.classes)}
        absent = [name for name, value in values.items() if value < 0]
        if absent:
            print_log(f"no box counts for {', '.join(absent)}: left out", "current")
        return {name: value for name, value in values.items() if value >= 0}


# --- ground truth and detections as arrays ----------------------------------------------------------------------------


def packed_as_truth(found: Sequence[Judged], label_version: str = "not stated") -> Truth:
    """The boxes that N samples carry, image after image. Raises DataError for one that carries none."""
    for result in found:
        if result.truth is None:
            raise DataError(
                f"{result.name} carries no ground truth: give the metric an `ann_file`, or keep LoadAnnotations and "
                "the packing of `instances` in the test pipeline"
            )
    boxes = [result.truth for result in found]
    return Truth(
        image_ids=np.arange(len(found)),
        names=tuple(result.name for result in found),
        sizes_hw=np.array([result.size_hw for result in found], float),
        times=np.array([time_of(result.name) for result in found], np.int8),
        image_index=np.repeat(np.arange(len(found)), [len(part.labels) for part in boxes]),
        boxes_xywh_px=corners_to_xywh(np.concatenate([part.corners_px for part in boxes])),
        occlusions=np.concatenate([part.occlusions for part in boxes]),
        ignore=np.concatenate([part.ignore for part in boxes]),
        version=f"labels {label_version}",
    )


def places_of(found: Sequence[Judged], truth: Truth, source: str) -> list[int]:
    """Which image of an annotation file each sample is: by its frame name (set06/V000/I00019), else by its id."""
    places = {name: place for place, name in enumerate(truth.names) if name}
    places |= {int(number): place for place, number in enumerate(truth.image_ids)}
    answers = []
    for result in found:
        frame = FRAME.search(result.name)
        name = "/".join(frame.groups()) if frame else ""
        place = places.get(name, places.get(result.image_id))
        if place is None:
            raise DataError(f"{result.name} (id {result.image_id}) is not in {source}: judge with its own annotations")
        answers.append(place)
    return answers


def detections_of(found: Sequence[Judged], label: int) -> Detections:
    """The predictions of one class, image after image."""
    masks = [result.labels == label for result in found]
    corners = np.concatenate([result.corners_px[mask] for result, mask in zip(found, masks, strict=True)])
    scores = np.concatenate([result.scores[mask] for result, mask in zip(found, masks, strict=True)])
    index = np.repeat(np.arange(len(found)), [int(mask.sum()) for mask in masks])
    return Detections(index, corners_to_xywh(corners), scores)


# --- pycocotools ------------------------------------------------------------------------------------------------------


def coco_truth(truth: Truth, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """COCO's dictionary; ids of images are places, of categories the labels, of boxes 1, 2, ... (0 is "none" there)."""
    boxes = truth.boxes_xywh_px
    annotations = [
        {"id": i + 1, "image_id": int(truth.image_index[i]), "category_id": int(labels[i]), "bbox": boxes[i].tolist(),
         "area": float(boxes[i, 2] * boxes[i, 3]), "iscrowd": int(truth.ignore[i])}
        for i in range(len(boxes))
    ]  # fmt: skip
    images = [{"id": i, "height": int(h), "width": int(w)} for i, (h, w) in enumerate(truth.sizes_hw)]
    categories = [{"id": i, "name": name} for i, name in enumerate(classes)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def coco_results(found: Sequence[Judged]) -> np.ndarray:
    """(D,7) image, x, y, w, h, score, category: what pycocotools reads as an array."""
    place = np.repeat(np.arange(len(found)), [len(result.scores) for result in found])
    boxes = corners_to_xywh(np.concatenate([result.corners_px for result in found]))
    scores, labels = (np.concatenate([getattr(r, name) for r in found]) for name in ("scores", "labels"))
    return np.column_stack([place, boxes, scores, labels])


def coco_evaluation(truth: dict[str, Any], results: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """(the 12 stats of pycocotools, its precision array, what it printed). No detection gives 0, not an error."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(results) if len(results) else _empty(coco), "bbox")
        judge.params.maxDets = [1, 10, MAX_DETECTIONS]
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    table_text = printed.getvalue()
    start = max(table_text.find(" Average Precision"), 0)
    return judge.stats, judge.eval["precision"][:, :, :, 0, 2], table_text[start:]


def _empty(coco: Any) -> Any:
    """Results without a detection; pycocotools' own loader refuses an empty list."""
    empty = type(coco)()
    empty.dataset = {**coco.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _mean(precision: np.ndarray) -> float:
    """Mean over the entries that exist, -1 without any (pycocotools' habit)."""
    existing = precision[precision > -1]
    return float(existing.mean()) if len(existing) else -1.0
