"""Detection on single pairs: two image files in, boxes in their pixels out.

    detector = PairInferencer("configs/embedded/stage2.py", "work_dirs/demo/stage2/best.pth")
    found = detector("visible.jpg", "infrared.jpg")
    found.boxes_xyxy_px, found.scores, found.latency_ms

The pair goes through the config's own test pipeline, without its annotations. Both files must be there and of one size:
a missing half is an error, never a detection on the other half alone.
"""

# M detections of a pair

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shared.errors import ConfigError, DataError
from shared.loading import LoadReport, load_into

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
HALF_OF_NAME = re.compile(r"[_-](visible|vis|rgb|lwir|infrared|ir|thermal)$", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class PairDetections:
    """Detections of one pair, best first.

    boxes_xyxy_px: (M,4) float32 in the pixels of the files, scores: (M,) in 0..1, labels: (M,) places in `classes`.
    latency_ms: `read` (files to tensors), `model` (tensors to boxes), `total`.
    """

    visible: Path
    infrared: Path
    size_hw: tuple[int, int]
    boxes_xyxy_px: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    latency_ms: dict[str, float]

    def above(self, score: float) -> "PairDetections":
        """Those of at least this score."""
        kept = self.scores >= score
        changed = {name: getattr(self, name)[kept] for name in ("boxes_xyxy_px", "scores", "labels")}
        return PairDetections(**{**vars(self), **changed})

    def to_json(self) -> dict[str, Any]:
        """JSON data; boxes are x, y, width, height, as in COCO's files."""
        boxes = np.concatenate([self.boxes_xyxy_px[:, :2], self.boxes_xyxy_px[:, 2:] - self.boxes_xyxy_px[:, :2]], 1)
        return {
            "visible": str(self.visible),
            "infrared": str(self.infrared),
            "height": self.size_hw[0],
            "width": self.size_hw[1],
            "latency_ms": {name: round(value, 2) for name, value in self.latency_ms.items()},
            "detections": [
                {"label": self.classes[label], "category_id": int(label), "score": round(float(score), 5),
                 "bbox": [round(float(edge), 2) for edge in box]}
                for box, score, label in zip(boxes, self.scores, self.labels, strict=True)
            ],
        }  # fmt: skip


class PairInferencer:
    """A trained detector, ready for pairs.

    Args:
        config: the config that it was trained with; options: KEY=VALUE over it, as for --cfg-options.
        checkpoint: its weights, verified by the manifest beside them; None for random weights (controls).
        device: "cpu", "cuda:0"...

    Raises:
        ConfigError, CheckpointError: the config is wrong, or the weights are missing, damaged, or do not fit.
    """

    def __init__(
        self, config: str | Path, checkpoint: str | Path | None, *, options: Sequence[str] = (), device: str = "cpu"
    ):
        self.cfg = model_config(str(config), options, checkpoint)  # imports mmdet, without its start-up noise
        from .data.pair_pipeline import PairedPipeline

        self.model = build_model(self.cfg, initialise=checkpoint is None).to(device).eval()
        self.classes: tuple[str, ...] = ("person",)
        self.report: LoadReport | None = None
        if checkpoint is not None:
            self._load(checkpoint)
        self.pipeline = PairedPipeline(_without_annotations(self.cfg))

    def _load(self, checkpoint: str | Path) -> None:
        from .runtime.checkpoints import read_weights

        state, meta = read_weights(checkpoint)
        rules = {key: value for key, value in (self.cfg.get("load_rules") or {}).items() if key.startswith("allow_")}
        self.report = load_into(self.model, state, **rules)
        self.classes = tuple((meta.get("dataset_meta") or {}).get("classes", self.classes))

    @torch.no_grad()
    def __call__(self, visible: str | Path, infrared: str | Path) -> PairDetections:
        """Detections of a pair. Raises DataError for a file that is missing or no image, or for two sizes."""
        from mmengine.dataset import pseudo_collate

        started = time.perf_counter()
        item = self.pipeline(_sample(Path(visible), Path(infrared)))
        data = self.model.data_preprocessor(pseudo_collate([item]), False)
        read = time.perf_counter()
        (sample,) = self.model(**data, mode="predict")
        found = sample.pred_instances.cpu()
        done = time.perf_counter()
        spans = {"read": read - started, "model": done - read, "total": done - started}
        return PairDetections(
            visible=Path(visible),
            infrared=Path(infrared),
            size_hw=tuple(int(side) for side in sample.ori_shape[:2]),
            boxes_xyxy_px=found.bboxes.numpy(),
            scores=found.scores.numpy(),
            labels=found.labels.numpy(),
            classes=self.classes,
            latency_ms={name: 1000 * seconds for name, seconds in spans.items()},
        )


# --- from a config to a model -----------------------------------------------------------------------------------------


def model_config(config: str, options: Sequence[str] = (), checkpoint: str | Path | None = None) -> Any:
    """A config with options and rules applied, for a model without a runner; no data are looked for."""
    from .runtime.cfg_options import apply_options, parse_options
    from .runtime.config_rules import TEST_RULES, Context, apply_rules
    from .runtime.preparation import read_config

    cfg = read_config(config)
    from mmengine.registry import init_default_scope

    init_default_scope("mmdet")  # where names without a scope are looked for
    before = cfg.to_dict()
    explicit = apply_options(cfg, parse_options(list(options)))
    cfg.load_from = None if checkpoint is None else str(checkpoint)
    apply_rules(cfg, Context(explicit, before, torch.cuda.is_available()), TEST_RULES)
    return cfg


def build_model(cfg: Any, *, initialise: bool = True, seed: int = 0) -> Any:
    """The detector of a config with random weights (`initialise`: as training would draw them, from this seed).

    Weights that its backbone would download are left out.
    """
    from mmdet.registry import MODELS
    from mmengine.logging import MMLogger

    cfg.model.backbone.init_cfg = None
    torch.manual_seed(seed)
    model = MODELS.build(cfg.model)
    if initialise:
        logger = MMLogger.get_current_instance()
        level = logger.level
        logger.setLevel("WARNING")  # at INFO a line for every tensor says that it was drawn
        try:
            model.init_weights()
        finally:
            logger.setLevel(level)
    return model


def _without_annotations(cfg: Any) -> list[dict]:
    loader = cfg.get("test_dataloader") or cfg.get("val_dataloader")
    pipeline = ((loader or {}).get("dataset") or {}).get("pipeline")
    if not pipeline:
        raise ConfigError(f"{cfg.filename} has no test_dataloader.dataset.pipeline: inference reads images as it says.")
    return [step for step in pipeline if not str(step["type"]).endswith("LoadAnnotations")]


def _sample(visible: Path, infrared: Path) -> dict[str, Any]:
    """What a data set would hand to the pipeline."""
    for name, path in (("visible", visible), ("infrared", infrared)):
        if not path.is_file():
            raise DataError(f"the {name} half of the pair, {path}, is missing: give both images.")
    return {"img_path": str(visible), "img_ir_path": str(infrared), "img_id": visible.stem, "pair_name": visible.stem,
            "instances": []}  # fmt: skip


# --- which files belong together --------------------------------------------------------------------------------------


def pairs_of(visible: str | Path, infrared: str | Path) -> list[tuple[Path, Path]]:
    """The pair of two files, or all pairs of two folders: files of one name, but for an ending such as _visible, _lwir.

    Raises:
        DataError: one is a file and the other a folder, one is missing, a folder has no image, or a file no partner.
    """
    halves = Path(visible), Path(infrared)
    absent = [str(half) for half in halves if not half.exists()]
    if absent:
        raise DataError(f"{' and '.join(absent)} does not exist: give a visible and an infrared image, or two folders.")
    if not any(half.is_dir() for half in halves):
        return [halves]
    if not all(half.is_dir() for half in halves):
        raise DataError(f"{halves[0]} and {halves[1]}: one is a folder and the other a file; give two of a kind.")
    if halves[0].resolve() == halves[1].resolve():
        raise DataError(f"{halves[0]} is given for both halves: give the folder of each.")
    first, second = (_images_by_name(half) for half in halves)
    lonely = sorted(
        str(part[name]) for part, other in ((first, second), (second, first)) for name in part.keys() - other
    )
    if lonely:
        shown = ", ".join(lonely[:5]) + (f" and {len(lonely) - 5} more" if len(lonely) > 5 else "")
        raise DataError(f"without a partner of the same name: {shown}. Give every image its other half, or remove it.")
    return [(first[name], second[name]) for name in sorted(first)]


def _images_by_name(folder: Path) -> dict[str, Path]:
    paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGES]
    found: dict[str, Path] = {}
    for path in paths:
        name = HALF_OF_NAME.sub("", path.stem)
        if name in found:
            raise DataError(f"{found[name]} and {path} have one name: which of them is meant is unknown; remove one.")
        found[name] = path
    if not found:
        raise DataError(f"{folder} has no image ({', '.join(IMAGES)}).")
    return found
