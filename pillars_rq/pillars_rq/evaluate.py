"""Judging what arrives at the tail: average precision, losses, distortion, bytes; frame by frame, so that neither batch
nor number of processes changes a figure.

    judged = judge(detector, val, indices, Stream(codec, 3, 64), workers=4)
    summary(judged, val, detector)     # plain Python: mAP R11 and R40, relMSE, bytes, compression ratios, usage, times
"""

# P pillars, D channels, F frames

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shared import run as run_module
from shared.run import World

from .baselines import SplitFrame, compression_ratios
from .config import bits_per_pillar
from .decode import Detections
from .detection_loss import WEIGHTS, detection_losses
from .detector import FrozenDetector
from .evaluation.conversion import detections_to_kitti
from .evaluation.kitti_ap import Protocol
from .kitti.dataset import KittiDataset
from .kitti.infos import FrameInfo
from .kitti.labels import Annotations
from .rq.codebooks import ABSENT
from .rq.losses import usage
from .rq_data import EvalFrame, eval_loader, in_range
from .senders import Arrived, Sender
from .targets import assign_targets
from .voxelize import batch_pillars, voxelize

BASES = ("dense_fp32_canvas", "sparse_fp16", "raw_cloud", "cloud_6bit_cited")


@dataclass(frozen=True, eq=False)
class FrameResult:
    """One frame. energy and error: sums of squares over its occupied cells (error None where features do not arrive on
    the same cells); losses: sums of the detection terms, not yet divided by `positives`; bases: bytes of the four
    things that compression is measured against; codes (P,n) uint8/int16; ms: milliseconds."""

    index: int
    detections: Detections
    pillars: int
    energy: float
    error: float | None
    bytes: int | None
    position_bytes: int | None
    n: int
    k: int
    losses: Mapping[str, float] | None
    positives: int
    bases: Mapping[str, float]
    codes: np.ndarray | None
    ms: Mapping[str, float] = field(default_factory=dict)


# --- frame by frame ---------------------------------------------------------------------------------------------------


def judge(
    detector: FrozenDetector,
    val: KittiDataset,
    indices: Sequence[int],
    sender: Sender,
    *,
    workers: int = 0,
    timeout_s: float = 120.0,
    world: World | None = None,
) -> list[FrameResult]:
    """Every frame of `indices` through one sender, ordered by index; the processes share them (collective)."""
    world = world or World()
    loader = eval_loader(val, indices[world.rank :: world.size], detector.grid, workers=workers, timeout_s=timeout_s)
    mine = [judge_frame(detector, item, sender) for item in run_module.iterate(loader)]
    return sorted((one for part in world.gather(mine) for one in part), key=lambda one: one.index)


@torch.no_grad()
def judge_frame(detector: FrozenDetector, item: EvalFrame, sender: Sender) -> FrameResult:
    frame = split_frame(detector, item)
    arrived = sender(frame)
    coords = torch.nn.functional.pad(arrived.coords, (1, 0))
    predictions = detector.tail(arrived.features, coords, 1)
    losses, positives = _loss_sums(detector, item, predictions)
    return FrameResult(
        index=item.index,
        detections=detector.detections(predictions)[0],
        pillars=len(frame.features),
        energy=float(np.square(frame.features, dtype=np.float64).sum()),
        error=_error(frame, arrived),
        bytes=arrived.bytes,
        position_bytes=arrived.position_bytes,
        n=arrived.n,
        k=arrived.k,
        losses=losses,
        positives=positives,
        bases=compression_ratios(1, frame, detector.grid),
        codes=None if arrived.codes is None else arrived.codes.numpy().astype(np.int16),
        ms=arrived.ms,
    )


def split_frame(detector: FrozenDetector, item: EvalFrame) -> SplitFrame:
    """A frame on both sides of the split."""
    features = detector.head(batch_pillars([item.pillars])).cpu().numpy()
    return SplitFrame(in_range(item.points, detector.grid), item.pillars.coords.numpy(), features)


def head_of_points(detector: FrozenDetector):
    """points (N,4) -> features (P,D), coords (P,2), for baselines that send the cloud."""

    def head(points: np.ndarray) -> tuple[Tensor, Tensor]:
        pillars = voxelize(points, detector.grid, detector.grid.max_voxels_eval)
        return detector.head(batch_pillars([pillars])).cpu(), pillars.coords

    return head


def _error(frame: SplitFrame, arrived: Arrived) -> float | None:
    if not np.array_equal(frame.coords, arrived.coords.numpy()):
        return None
    return float(np.square(frame.features.astype(np.float64) - arrived.features.cpu().numpy()).sum())


def _loss_sums(detector: FrozenDetector, item: EvalFrame, predictions) -> tuple[dict[str, float] | None, int]:
    """The detection terms times the positives they were divided by: sums that any frames can be added from."""
    if item.frame.boxes is None:
        return None, 0
    boxes = torch.from_numpy(np.asarray(item.frame.boxes, np.float32)).to(detector.device)
    labels = torch.from_numpy(np.asarray(item.frame.labels, np.int64)).to(detector.device)
    targets = assign_targets(detector.anchors, [boxes], [labels], detector.model.classes)
    positives = int(targets.positive.sum())
    terms = detection_losses(predictions, targets)
    return {name: float(term) * max(1, positives) for name, term in terms.items()}, positives


# --- over frames ------------------------------------------------------------------------------------------------------


def kitti_rows(results: Sequence[FrameResult], val: KittiDataset, classes: Sequence[str]) -> list[Annotations]:
    """Detections as KITTI's camera rows, in the order of the results."""
    return [camera_rows(one.detections, val.infos[one.index], classes) for one in results]


def camera_rows(found: Detections, info: FrameInfo, classes: Sequence[str]) -> Annotations:
    """One frame's detections as KITTI's camera rows."""
    return detections_to_kitti(found.boxes, found.scores, found.labels, info.calib, info.image_hw, classes)


def protocol(
    results: Sequence[FrameResult], val: KittiDataset, classes: Sequence[str], *, everything: bool = True
) -> Protocol:
    """KITTI's evaluation of the results; everything=False: 3D at moderate difficulty alone."""
    narrowed = val.frames_of([one.index for one in results])
    image = all(info.image_hw is not None and info.calib is not None for info in narrowed.infos)
    some = {} if everything else {"metrics": ("3d",), "difficulties": ("moderate",)}
    return Protocol(narrowed.annotations(), kitti_rows(results, val, classes), classes, image=image, **some)


def moderate_map(ap: Mapping[str, Any], recall: str = "R40") -> float:
    """mAP 3D moderate, the figure everything is chosen by."""
    return ap[recall]["3d"]["overall"]["moderate"]


def relative_error(results: Sequence[FrameResult]) -> float | None:
    """relMSE over all occupied cells of the frames; None where features did not arrive on their cells."""
    if any(one.error is None for one in results):
        return None
    energy = sum(one.energy for one in results)
    return sum(one.error for one in results) / energy if energy else 0.0


def detection_loss(results: Sequence[FrameResult]) -> float | None:
    """The published weights' sum of cls, reg and dir over all frames; None without labels."""
    if any(one.losses is None for one in results):
        return None
    positives = max(1, sum(one.positives for one in results))
    return sum(WEIGHTS[name] * sum(one.losses[name] for one in results) / positives for name in WEIGHTS)


def summary(results: Sequence[FrameResult], val: KittiDataset, detector: FrozenDetector, labelled: bool) -> dict:
    """Everything about one sender, JSON data; what may differ between equal runs stands under "time"."""
    found: dict[str, Any] = {"frames": len(results), "rel_mse": relative_error(results),
                             "detection_loss": detection_loss(results)}  # fmt: skip
    if labelled:
        ap = protocol(results, val, detector.class_names).ap()
        found |= {"map_3d_moderate_r40": moderate_map(ap), "map_3d_moderate_r11": moderate_map(ap, "R11"), "ap": ap}
    if all(one.bytes is not None for one in results):
        found |= rate(results)
    if all(one.codes is not None for one in results):
        found["usage"] = usage_of(results)
    names = sorted({name for one in results for name in one.ms})
    found["time"] = {f"{name}_ms_median": float(np.median([one.ms[name] for one in results])) for name in names}
    return found


def rate(results: Sequence[FrameResult]) -> dict[str, Any]:
    """Bytes of the frames (1 KB = 1,000 bytes), bits a pillar, and how many times smaller than the four bases."""
    sizes = np.array([one.bytes for one in results], np.float64)
    pillars = max(1, sum(one.pillars for one in results))
    found: dict[str, Any] = {
        "bytes": {"mean": float(sizes.mean()), "p50": float(np.percentile(sizes, 50)),
                  "p95": float(np.percentile(sizes, 95))},
        "bits_per_pillar": float(8 * sizes.sum() / pillars),
        "ratios": {name: sum(one.bases[name] for one in results) / float(sizes.sum()) for name in BASES},
    }  # fmt: skip
    if all(one.position_bytes is not None for one in results):
        positions = sum(one.position_bytes for one in results)
        found["position_bytes_mean"] = positions / len(results)
        found["code_bits_per_pillar"] = float(8 * (sizes.sum() - positions) / pillars)
        points = sorted({(one.n, one.k) for one in results})
        found["points"] = [[n, k, sum((one.n, one.k) == (n, k) for one in results)] for n, k in points]
        if len(points) == 1:
            found["fixed_bits_per_pillar"] = bits_per_pillar(*points[0])
    return found


def usage_of(results: Sequence[FrameResult]) -> list[dict[str, float]]:
    """Of each book: the share of its rows in use, and the perplexity of its codes."""
    n, k = max(one.n for one in results), max(one.k for one in results)
    found = []
    for book in range(n):
        codes = np.concatenate([one.codes[:, book] for one in results if one.n > book])
        used, perplexity = usage(torch.from_numpy(codes[codes != ABSENT].astype(np.int64)), k)
        found.append({"used": used, "perplexity": perplexity})
    return found


def finite(value: float | None) -> float | None:
    """None for NaN and infinities, which JSON does not know."""
    return value if value is None or math.isfinite(value) else None
