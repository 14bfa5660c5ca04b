"""What metrics keep of a data sample: plain arrays, which travel between processes and need no model.

Evaluators hand samples over as dicts. Predictions are in the pixels of the stored image (`rescale=True`). Ground truth
is taken from the annotations the data set packed (`instances`: stored pixels, with occlusion labels) and else from
`gt_instances` and `ignored_instances`, in stored pixels too, as mmdet's test pipelines leave them (boxes are loaded
after Resize).
"""

# M predictions, K ground-truth boxes of one image

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared.errors import DataError, NonFiniteError


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of one image: corners_px (K,4) x1 y1 x2 y2 in stored pixels, labels, ignore (bool), occlusions: (K,)."""

    corners_px: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray
    occlusions: np.ndarray


@dataclass(frozen=True, eq=False)
class Judged:
    """One image: predictions corners_px (M,4), labels (M,), scores (M,), and its ground truth, None when not packed."""

    image_id: Any
    name: str
    size_hw: tuple[int, int]
    corners_px: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    truth: Boxes | None


def judged(sample: Mapping[str, Any]) -> Judged:
    """What to keep of one evaluated sample. Raises DataError without predictions, NonFiniteError for NaN in them."""
    name = str(sample.get("img_path", sample["img_id"]))
    if "pred_instances" not in sample:
        raise DataError(f"{name}: the model gave no predictions for it; metrics need `pred_instances`")
    found = sample["pred_instances"]
    corners, scores = _array(found["bboxes"]).reshape(-1, 4), _array(found["scores"])
    if not (np.isfinite(scores).all() and np.isfinite(corners).all()):
        raise NonFiniteError(f"{name}: a predicted box or score is not finite; the weights are damaged, or diverged")
    size = tuple(int(side) for side in sample["ori_shape"][:2])
    labels = _array(found["labels"]).astype(np.int64)
    return Judged(sample["img_id"], name, size, corners, labels, scores, packed_truth(sample))


def packed_truth(sample: Mapping[str, Any]) -> Boxes | None:
    """The ground truth a sample carries, in stored pixels; None when it carries none."""
    if sample.get("instances") is not None:
        return _from_instances(sample["instances"])
    if "gt_instances" not in sample:
        return None
    parts = [_from_packed(sample["gt_instances"], ignore=False)]
    if sample.get("ignored_instances"):
        parts.append(_from_packed(sample["ignored_instances"], ignore=True))
    return Boxes(*(np.concatenate(column) for column in zip(*(vars(part).values() for part in parts), strict=True)))


def _from_instances(instances: Sequence[Mapping[str, Any]]) -> Boxes:
    return Boxes(
        np.array([entry["bbox"] for entry in instances], float).reshape(-1, 4),
        np.array([entry["bbox_label"] for entry in instances], np.int64),
        np.array([bool(entry.get("ignore_flag", 0)) for entry in instances], bool),
        np.array([entry.get("occlusion", 0) for entry in instances], np.int64),
    )


def _from_packed(packed: Mapping[str, Any], *, ignore: bool) -> Boxes:
    corners = _array(packed["bboxes"]).reshape(-1, 4)
    count = len(corners)
    occlusions = _array(packed["occlusions"]) if "occlusions" in packed else np.zeros(count)
    labels = _array(packed["labels"])
    return Boxes(corners, labels.astype(np.int64), np.full(count, ignore), occlusions.astype(np.int64))


def _array(values: Any) -> np.ndarray:
    """Float64 array of a tensor, an array or mmdet's boxes."""
    tensor = getattr(values, "tensor", values)
    return np.asarray(tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else tensor, dtype=np.float64)


def each_once(results: Iterable[Judged]) -> list[Judged]:
    """Every image once, the first time it came: several processes pad their shares with repeated images."""
    return list({repr(result.image_id): result for result in reversed(list(results))}.values())[::-1]


def corners_to_xywh(corners: np.ndarray) -> np.ndarray:
    """(K,4) x1 y1 x2 y2 -> x y w h."""
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
