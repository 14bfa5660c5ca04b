"""Cells of a rate-accuracy table: one sender's figures and detections on all frames, kept in a file each.

A cell that is there for the same checkpoint, detector, frames and beam is not measured again, so a cut `--mode grid`
continues with the next cell. Detections are kept so that two cells can be compared on the same resampled frames.
"""

# M detections

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shared.errors import DataError
from shared.storage import make_folder, write_atomic

from . import evaluate
from .baselines import Baseline, Int8, PcaScalar, QuantizedCloud, RawFp16
from .checkpoints import Loaded
from .config import RqConfig
from .decode import Detections
from .detector import FrozenDetector
from .kitti.dataset import KittiDataset
from .kitti.labels import Annotations
from .rq_data import Data
from .senders import Compared, Sender, Stream, Whole

PCA_COMPONENTS = (4, 8, 16)
PCA_STEP = 0.5  # of the standard deviation along the first component
PCA_VECTORS = 20_000
DIGITS = 5  # of kept box numbers: 10 micrometres


@dataclass(frozen=True, eq=False)
class Cell:
    """kind: base, rq or baseline. found: evaluate.summary. detections: by frame, in the order of `indices`."""

    name: str
    kind: str
    found: dict[str, Any]
    indices: list[int]
    detections: list[Detections]


def fingerprint(
    detector: FrozenDetector, loaded: Loaded | None, data: Data, indices: Sequence[int], beam: int, name: str
) -> str:
    """Of everything that decides a cell."""
    frames = [(data.val.infos[i].frame_id, data.val.infos[i].num_points) for i in indices]
    parts = [detector.sha256, loaded.sha256 if loaded else None, str(data.root.path.resolve()), frames, beam, name]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def measured(
    folder: Path, kind: str, sender: Sender, key: str, config: RqConfig, detector: FrozenDetector, data: Data,
    indices: Sequence[int],
) -> Cell:  # fmt: skip
    """The cell of a sender, from its file if that is there, else measured and written."""
    path = folder / f"{_file_name(sender.name)}.json"
    kept = read_cell(path, key)
    if kept is not None:
        return kept
    training = config.training
    results = evaluate.judge(detector, data.val, indices, sender, workers=training.num_workers,
                             timeout_s=training.loader_timeout_s)  # fmt: skip
    found = evaluate.summary(results, data.val, detector, data.labelled)
    cell = Cell(sender.name, kind, found, [one.index for one in results], [one.detections for one in results])
    _write_cell(path, cell, key)
    return cell


def read_cell(path: Path, key: str | None = None) -> Cell | None:
    """A kept cell; None when there is none of this fingerprint (None: of any)."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if key is not None and kept["fingerprint"] != key:
            return None
        return Cell(
            kept["name"], kept["kind"], kept["found"], kept["indices"], [_read(one) for one in kept["detections"]]
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no cell of a grid ({error}): remove it, and it is measured again") from error


def _write_cell(path: Path, cell: Cell, key: str) -> None:
    kept = {"fingerprint": key, "name": cell.name, "kind": cell.kind, "found": cell.found, "indices": cell.indices,
            "detections": [_plain(one) for one in cell.detections]}  # fmt: skip
    make_folder(path.parent, path)
    write_atomic(path, json.dumps(kept) + "\n")


def _plain(found: Detections) -> list:
    return [
        found.boxes.astype(float).round(DIGITS).tolist(),
        found.scores.astype(float).tolist(),
        found.labels.tolist(),
    ]


def _read(kept: list) -> Detections:
    boxes, scores, labels = kept
    return Detections(np.array(boxes, np.float32).reshape(-1, 7), np.array(scores, np.float32),
                      np.array(labels, np.int64))  # fmt: skip


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)


def rows_of(cell: Cell, val: KittiDataset, classes: Sequence[str]) -> list[Annotations]:
    """A cell's detections as KITTI's camera rows."""
    pairs = zip(cell.indices, cell.detections, strict=True)
    return [evaluate.camera_rows(found, val.infos[i], classes) for i, found in pairs]


# --- what is measured -------------------------------------------------------------------------------------------------


def rq_senders(config: RqConfig, loaded: Loaded, points: Sequence[tuple[int, int]]) -> list[Sender]:
    return [Stream(loaded.codec, n, k, beam=config.evaluation.beam) for n, k in points]


def baselines_of(detector: FrozenDetector, pool: torch.Tensor) -> list[Baseline]:
    """What residual quantization has to beat; PCA is fitted to training features `pool` (P,D)."""
    grid, features = detector.grid, pool[:: max(1, len(pool) // PCA_VECTORS)].cpu().numpy()
    step = PCA_STEP * float(np.sqrt(np.linalg.eigvalsh(np.cov(features.T.astype(np.float64)))[-1]))
    step = float(f"{step:.2g}") or 1.0
    pca = [PcaScalar(grid, features, count, step) for count in PCA_COMPONENTS if count <= features.shape[1]]
    return [RawFp16(grid), Int8(grid), Int8(grid, squeezed=True), *pca, QuantizedCloud(grid)]


def baseline_senders(detector: FrozenDetector, pool: torch.Tensor) -> list[Sender]:
    head = evaluate.head_of_points(detector)
    return [Compared(one, head) for one in baselines_of(detector, pool)]


def base_sender() -> Sender:
    return Whole()
