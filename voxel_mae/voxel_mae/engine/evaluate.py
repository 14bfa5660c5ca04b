"""Judging a checkpoint on the held-out split, in any number of processes: the same frames, the same numbers.

    scores = judge_detection(detector, sources.val, ...)      # after fine-tuning: AP per class
    scores = judge_pretraining(detector, sources.val, ...)    # after pretraining: occupancy against its entropy

A folder of an evaluation holds scores.json; after fine-tuning also result.json (detections) and, with --save_to_file,
KITTI's text files in final_result/data.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from shared import run as run_module
from shared.batches import in_order
from shared.errors import DataError
from shared.metrics import RunningMeans
from shared.run import World
from shared.storage import make_folder, write_atomic

from ..config import KITTI_IOU, Experiment
from ..data import LidarDataset
from ..evaluation import BANDS_M, Evaluation, JudgedFrame, as_kitti, recall_at
from ..results import plain_scores, score_table, write_kitti_files, write_results
from .batches import Collate, KeyedFrames

SCORES, RESULT, KITTI_TEXT = "scores.json", "result.json", "final_result/data"
DEFAULT_IOU = 0.7  # of a class without a KITTI name


@dataclass(frozen=True)
class Judging:
    """How frames are read: batch_size of one process, workers, longest wait for a batch."""

    batch_size: int
    workers: int = 0
    timeout_s: float = 120.0


def batches_of(data: LidarDataset, collate: Collate, judging: Judging, world: World):
    """This process's share of a split, in order (collective: every process takes its own)."""
    order = in_order(len(data), judging.batch_size, world.rank, world.size)
    loader = run_module.make_loader(KeyedFrames(data), order, workers=judging.workers, collate=collate,
                                    timeout_s=judging.timeout_s)  # fmt: skip
    return run_module.iterate(loader)


def in_frame_order(mine: Sequence[Any], world: World) -> list[Any]:
    """Process r has the frames r, r + size, ...: all of them, back in their order."""
    parts = world.gather(list(mine))
    total = sum(map(len, parts))
    return [parts[index % world.size][index // world.size] for index in range(total)]


# --- detection --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def detect(
    model: nn.Module, data: LidarDataset, collate: Collate, judging: Judging, world: World
) -> tuple[list[JudgedFrame], float]:
    """Every frame's truth and answer (collective), and the seconds that this process's network took a frame."""
    model.eval()
    frames, seconds = [], 0.0
    for batch in batches_of(data, collate, judging, world):
        batch = batch.to(world.device)
        started = time.perf_counter()
        found = [one.cpu() for one in model(batch.voxels)]
        seconds += time.perf_counter() - started
        sensors = batch.voxels.sensor_xy.cpu().numpy()
        for frame_id, truth, answer, sensor in zip(batch.frame_ids, batch.gt_boxes, found, sensors, strict=True):
            frames.append(_judged(frame_id, truth.cpu().numpy(), answer, sensor))
    return in_frame_order(frames, world), seconds / max(1, len(frames))


def _judged(frame_id: str, truth: np.ndarray, answer: Any, sensor: np.ndarray) -> JudgedFrame:
    """truth: (M,8) padded rows."""
    truth = truth[truth[:, 7] > 0].astype(np.float64)
    boxes, scores = (part.numpy().astype(np.float64) for part in (answer.boxes, answer.scores))
    labels, place = truth[:, 7].astype(np.int64), (float(sensor[0]), float(sensor[1]))
    return JudgedFrame(frame_id, truth[:, :7], labels, boxes, scores, answer.labels.numpy(), place)


def judge_detection(frames: Sequence[JudgedFrame], experiment: Experiment) -> dict[str, Any]:
    """AP at R40 and R11, 3D and bird's-eye, by class and range; objects; recall at RECALL_THRESH_LIST. JSON data."""
    settings, classes = experiment.MODEL.POST_PROCESSING, experiment.CLASS_NAMES
    mapping = experiment.DATA_CONFIG.MAP_CLASS_TO_KITTI
    neighbours, iou = None, least_overlaps(experiment)
    judged = list(frames)
    if settings.KITTI_MAPPING:
        iou = {mapping[name]: value for name, value in iou.items()}
        judged, classes, neighbours = as_kitti(judged, classes, mapping)
    found = Evaluation(judged, classes, iou=iou, bands_m=BANDS_M, neighbours=neighbours)
    return {
        "ap": plain_scores(found.ap()),
        "objects": found.objects(),
        "iou": iou,
        "kitti_mapping": settings.KITTI_MAPPING,
        "recall": plain_scores(recall_at(frames, settings.RECALL_THRESH_LIST)),
        "frames": len(frames),
    }


def least_overlaps(experiment: Experiment) -> dict[str, float]:
    """IoU at which a detection counts, by class: EVAL_IOU, else KITTI's by MAP_CLASS_TO_KITTI, else 0.7."""
    given, mapping = experiment.MODEL.POST_PROCESSING.EVAL_IOU, experiment.DATA_CONFIG.MAP_CLASS_TO_KITTI or {}
    if given is not None:
        return dict(given)
    return {name: KITTI_IOU.get(mapping.get(name, ""), DEFAULT_IOU) for name in experiment.CLASS_NAMES}


def headline(scores: Mapping[str, Any]) -> dict[str, float]:
    """The few numbers that stand in the log: mAP in percent; classes without objects are left out."""
    ap = scores["ap"]
    found = {f"{metric}_{recall}/{name}": ap[recall][metric][name]["all"]
             for recall in ("R40", "R11") for metric in ap[recall] for name in ap[recall][metric]}  # fmt: skip
    return {name: 100 * value for name, value in found.items() if value is not None}


def table(scores: Mapping[str, Any]) -> str:
    return score_table(scores["ap"], scores["objects"])


# --- pretraining ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def judge_pretraining(
    model: nn.Module, data: LidarDataset, collate: Collate, judging: Judging, world: World
) -> dict[str, Any]:
    """Means over the frames of each frame's raw terms and diagnostics (collective); masks follow from the frame alone.

    One frame at a time: contrast, average precision and means over sites see all frames of a batch, and a frame's
    numbers shall not depend on its neighbours, nor a score on batch size or processes. Frames without a voxel in range
    have none and are not counted. occupancy is reported beside the entropy of the constant predictor.
    """
    model.eval()
    means, judged = RunningMeans(), 0
    for frame in batches_of(data, collate, replace(judging, batch_size=1), world):
        frame = frame.to(world.device)
        if not len(frame.voxels):
            continue
        terms, diagnostics = model(frame.voxels, keep=frame.keep)
        means.update({**terms, **diagnostics, **frame.facts()}, 1)
        judged += 1
    found, frames = means.compute(world), sum(world.gather(judged))
    if not frames:
        raise DataError(f"none of the {len(data)} frames of {data.split} has a point in range: check DATA_PATH")
    return {"means": found, "frames": frames}


# --- files ------------------------------------------------------------------------------------------------------------


def write_scores(folder: Path, scores: Mapping[str, Any], mark: str) -> None:
    """scores.json in `folder`, made when missing."""
    make_folder(folder)
    write_atomic(folder / SCORES, json.dumps({"mark": mark, **scores}, indent=1, allow_nan=False) + "\n")


def write_detections(folder: Path, frames: Sequence[JudgedFrame], experiment: Experiment, *, kitti: bool) -> None:
    """result.json, and with `kitti` a text file a frame."""
    make_folder(folder)
    write_results(folder / RESULT, frames, experiment.CLASS_NAMES)
    if kitti:
        names = experiment.DATA_CONFIG.MAP_CLASS_TO_KITTI
        write_kitti_files(folder / KITTI_TEXT, frames, experiment.CLASS_NAMES, names)
