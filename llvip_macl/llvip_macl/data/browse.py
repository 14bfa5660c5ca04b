"""Pictures of what the network gets: both halves of a pair after the pipeline, side by side, with their boxes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope

from shared.embedded_world import is_embedded
from shared.errors import ConfigError, DataError, StorageError

from ..runtime.cfg_options import apply_options, parse_options
from ..runtime.config_rules import Context, apply_rules, refuse_mmdet2, spread_data_variables
from ..runtime.embedded import find_data
from ..runtime.preparation import read_config
from . import kaist, llvip, pair_list  # noqa: F401 - they register their data sets
from .randomness import SampleKey

GREEN, YELLOW, WHITE, BLACK = (80, 220, 80), (60, 210, 250), (255, 255, 255), (0, 0, 0)  # BGR
EMBEDDED = "EMBEDDED SYNTHETIC DATA"
CAPTION_PX = 18  # height of a line of text
SPLITS = ("train", "val", "test")
PROJECT = Path(__file__).parents[2]  # the embedded world is drawn below it


def browse_config(
    config: str, options: Sequence[str], split: str, output_dir: str, number: int | None, epoch: int
) -> None:
    """The command `browse_dataset`: see tools/analysis_tools.

    Raises:
        ConfigError: the config cannot be read, or has no data set for this split.
        DataError: the data set is wrong.
    """
    cfg = read_config(config)
    explicit = apply_options(cfg, parse_options(options))
    apply_rules(cfg, Context(explicit), (refuse_mmdet2, spread_data_variables))
    for message in find_data(cfg, PROJECT):
        print(message)
    seed = cfg.get("randomness", {}).get("seed") or 0
    paths = browse(build_dataset(cfg, split), output_dir, number=number, seed=seed, epoch=epoch)
    print(f"{len(paths)} pictures in {output_dir}")


def build_dataset(cfg: Config, split: str = "train") -> Any:
    """The data set of a config's loader.

    Raises:
        ConfigError: the config has no such loader.
    """
    if split not in SPLITS or not cfg.get(f"{split}_dataloader"):
        raise ConfigError(f"the config has no {split}_dataloader: choose one of {', '.join(SPLITS)} that it has.")
    init_default_scope("mmdet")
    return DATASETS.build(cfg[f"{split}_dataloader"].dataset)


def browse(dataset: Any, folder: Path | str, *, number: int | None = None, seed: int = 0, epoch: int = 0) -> list[Path]:
    """Write a picture a sample, drawn as in this epoch of a run with this seed. Returns their paths.

    Args:
        number: of samples, from the first; None all.

    Raises:
        StorageError: the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} cannot be made ({error}): choose another --output-dir.") from error
    count = len(dataset) if number is None else min(number, len(dataset))
    return [_write(folder, dataset, dataset[SampleKey(index, seed, epoch)]) for index in range(count)]


def _write(folder: Path, dataset: Any, item: dict) -> Path:
    name = str(item["data_samples"].metainfo.get("pair_name", item["data_samples"].img_id))
    safe = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)
    path = folder / f"{safe}.png"
    picture = draw_pair(item, embedded=is_embedded(getattr(dataset, "root", "")))
    if not cv2.imwrite(str(path), picture):
        raise StorageError(f"{path} cannot be written: choose another --output-dir.")
    return path


def draw_pair(item: dict, *, embedded: bool = False) -> np.ndarray:
    """(H + lines of text, 2 W, 3) uint8 BGR: visible left, infrared right; persons green, regions to ignore yellow.

    Args:
        item: a packed sample: inputs, inputs_ir (3, H, W), data_samples.
    """
    sample = item["data_samples"]
    halves = [("visible", item.get("inputs"), "bboxes"), ("infrared", item.get("inputs_ir"), "bboxes_ir")]
    if any(image is None for _, image, _ in halves):
        raise DataError(f"{sample.metainfo.get('img_path')} comes with one half only: browse a paired data set.")
    picture = np.hstack([_half(image.numpy(), sample, key, name) for name, image, key in halves])
    return np.vstack([picture, _line(EMBEDDED, picture.shape[1])]) if embedded else picture


def _half(image: np.ndarray, sample: DetDataSample, key: str, caption: str) -> np.ndarray:
    canvas = np.ascontiguousarray(image.transpose(1, 2, 0))
    for instances, colour in ((sample.get("ignored_instances"), YELLOW), (sample.get("gt_instances"), GREEN)):
        for x1, y1, x2, y2 in _boxes(instances, key):
            cv2.rectangle(canvas, (round(x1), round(y1)), (round(x2) - 1, round(y2) - 1), colour, 1)
    return np.vstack([_line(caption, canvas.shape[1]), canvas])


def _line(text: str, width: int) -> np.ndarray:
    line = np.full((CAPTION_PX, width, 3), BLACK, np.uint8)
    return cv2.putText(line, text, (3, CAPTION_PX - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.4, WHITE, 1, cv2.LINE_AA)


def _boxes(instances: Any, key: str) -> list[list[float]]:
    """Boxes of the half; where labels are not per modality, the shared ones."""
    if instances is None or "bboxes" not in instances:
        return []
    boxes = instances.get(key, instances.bboxes)
    return getattr(boxes, "tensor", boxes).tolist()
