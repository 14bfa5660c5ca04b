"""DetectionsToJson: the detections of an evaluation as a COCO list, beside whatever metrics judge them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric

from shared.storage import write_atomic

from ..evaluation.samples import Judged, corners_to_xywh, each_once, judged


@METRICS.register_module()
class DetectionsToJson(BaseMetric):
    """Writes [{"image_id", "image", "category_id", "bbox": [x, y, w, h] in stored pixels, "score"}, ...]; no numbers.

    Raises StorageError when the file cannot be written.
    """

    default_prefix = "detections"

    def __init__(self, path: str, **collecting: Any) -> None:
        super().__init__(**collecting)
        self.path = path

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the predictions of a batch."""
        self.results.extend(judged(sample) for sample in data_samples)

    def compute_metrics(self, results: list[Judged]) -> dict[str, float]:
        """Write the file, every image once; {}."""
        lines = [json.dumps(entry) for image in each_once(results) for entry in entries(image)]
        write_atomic(Path(self.path), "[\n" + ",\n".join(lines) + "\n]\n")
        return {}


def entries(image: Judged) -> list[dict[str, Any]]:
    """The detections of one image, best first."""
    boxes = corners_to_xywh(image.corners_px)
    order = sorted(range(len(boxes)), key=lambda place: -image.scores[place])
    return [
        {
            "image_id": image.image_id,
            "image": image.name,
            "category_id": int(image.labels[place]),
            "bbox": [round(float(value), 3) for value in boxes[place]],
            "score": float(image.scores[place]),
        }
        for place in order
    ]
