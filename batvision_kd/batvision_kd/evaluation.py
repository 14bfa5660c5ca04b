"""Judging a model on a split: a table with one row per image, from which every mean and interval follows.

    table = score(predictor(model, "audio"), test, max_depth_m=30.0)
    table.means("strict")["rmse"], table.interval("strict", "rmse")

Tables are kept as JSON beside their checkpoints, so that comparisons of models need no model. Images keep their order
whatever the batch size, and nothing is fitted or chosen here.
"""

# N images, S seeds

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from shared.errors import DataError
from shared.run import iterate, make_loader
from shared.storage import write_atomic

from .intervals import Scenes, interval
from .metrics import BANDS_M, METRICS, PROTOCOLS, band_metrics, image_metrics

Predictor = Callable[[Mapping[str, Any]], Tensor]
Columns = dict[str, np.ndarray]  # metric -> (N,), with `pixels` and `counted`
BANDED = "strict"  # the protocol whose range bands are kept


@dataclass(frozen=True, eq=False)
class ImageTable:
    """Scores of N images. protocols: {protocol: columns}; bands: {range band: columns} of the protocol BANDED."""

    ids: tuple[str, ...]
    scenes: Scenes
    protocols: dict[str, Columns]
    bands: dict[str, Columns]

    def counted(self, protocol: str) -> np.ndarray:
        """(N,) bool: which images count. DataError when the table has no such protocol."""
        return self._columns(protocol)["counted"].astype(bool)

    def values(self, protocol: str, metric: str) -> np.ndarray:
        """(N,) of one metric; 0 where the image does not count."""
        return self._columns(protocol)[metric]

    def means(self, protocol: str) -> dict[str, float]:
        """Every metric's mean over the images that count, `pooled_rmse`, and how many `counted` and were `skipped`."""
        return column_means(self._columns(protocol))

    def interval(self, protocol: str, metric: str) -> tuple[float, float]:
        """95 % interval of that mean, see `intervals`."""
        return interval(self.values(protocol, metric)[None], self.counted(protocol), self.scenes)

    def _columns(self, protocol: str) -> Columns:
        if protocol not in self.protocols:
            raise DataError(
                f"these scores are of the protocols {', '.join(self.protocols)}, not {protocol}: evaluate again"
            )
        return self.protocols[protocol]

    def to_json(self) -> dict[str, Any]:
        return {"ids": self.ids, "rooms": self.scenes.rooms, "locations": self.scenes.locations,
                "protocols": {name: _plain(columns) for name, columns in self.protocols.items()},
                "bands": {name: _plain(columns) for name, columns in self.bands.items()}}  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ImageTable":
        scenes = Scenes(tuple(data["rooms"]), tuple(data["locations"]))
        protocols, bands = ({name: _arrays(c) for name, c in data[part].items()} for part in ("protocols", "bands"))
        return cls(tuple(data["ids"]), scenes, protocols, bands)


def column_means(columns: Columns) -> dict[str, float]:
    """Means over the images that count; only `counted` and `skipped` when none does."""
    counted = columns["counted"].astype(bool)
    found: dict[str, float] = {"counted": int(counted.sum()), "skipped": int((~counted).sum())}
    if counted.any():
        found |= {name: float(columns[name][counted].mean()) for name in METRICS}
        if pixels := columns["pixels"].sum():
            found["pooled_rmse"] = math.sqrt((columns["rmse"] ** 2 * columns["pixels"]).sum() / pixels)
    return found


def _plain(columns: Columns) -> dict[str, list]:
    """JSON knows no infinities: they become words. Twelve digits are kept."""
    return {name: [_word(value) for value in values.tolist()] for name, values in columns.items()}


def _word(value: float | bool) -> float | bool | str:
    if isinstance(value, bool):
        return value
    return float(f"{value:.12g}") if math.isfinite(value) else str(value)


def _arrays(columns: Mapping[str, Sequence]) -> Columns:
    return {name: np.array(values, dtype=bool if name == "counted" else np.float64) for name, values in columns.items()}


def write_table(path: Path, table: ImageTable, **about: Any) -> None:
    """Keep a table; about: what else to record beside it (JSON data)."""
    write_atomic(path, json.dumps({"about": about, **table.to_json()}) + "\n")


def read_table(path: Path) -> tuple[ImageTable, dict[str, Any]]:
    """A kept table and what was recorded with it. DataError: missing or broken."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        return ImageTable.from_json(data), data["about"]
    except OSError as error:
        raise DataError(f"cannot read the scores {path} ({error.strerror}): evaluate again") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} holds no scores ({error!r}): remove it and run the same command again") from None


# --- predicting -------------------------------------------------------------------------------------------------------


def predictor(model: nn.Module, source: str, device: torch.device | str = "cpu") -> Predictor:
    """Predicts from the item `source` ("audio" or "rgb") by a model in eval mode: (B,1,H,W) metres on the CPU."""
    model.eval().to(device)

    @torch.no_grad()
    def predict(batch: Mapping[str, Any]) -> Tensor:
        return model(batch[source].to(device)).float().cpu()

    return predict


def batches(data: Dataset, batch_size: int, workers: int = 0) -> Iterable[dict[str, Any]]:
    """The items of `data` in order, in batches; the last one is as long as what is left."""
    keys = [list(range(start, min(start + batch_size, len(data)))) for start in range(0, len(data), batch_size)]
    return iterate(make_loader(data, keys, workers=workers))


def score(
    predict: Predictor,
    data: Dataset,
    *,
    max_depth_m: float,
    protocols: Sequence[str] = tuple(PROTOCOLS),
    batch_size: int = 16,
    workers: int = 0,
) -> ImageTable:
    """One row per image of `data`, under every protocol asked for, and by range band under BANDED.

    Raises ValueError for predictions that are not finite, DataError for a data set without images.
    """
    ids: list[str] = []
    rooms: list[str] = []
    locations: list[str] = []
    parts: dict[str, list[dict[str, Tensor]]] = {name: [] for name in (*protocols, *BANDS_M)}
    for batch in batches(data, batch_size, workers):
        given = (predict(batch), batch["depth"], batch["valid"])
        for name in protocols:
            parts[name].append(image_metrics(*given, name, max_depth_m))
        for name, scores in band_metrics(*given, BANDED, max_depth_m).items():
            parts[name].append(scores)
        ids += batch["id"]
        rooms += batch["room"]
        locations += batch["location"]
    if not ids:
        raise DataError("there is no image to judge: the split is empty")
    columns = {name: _joined(found) for name, found in parts.items()}
    scenes = Scenes(tuple(rooms), tuple(locations))
    return ImageTable(tuple(ids), scenes, {n: columns[n] for n in protocols}, {n: columns[n] for n in BANDS_M})


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> Columns:
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}


def stacked(tables: Sequence[ImageTable], protocol: str, metric: str) -> np.ndarray:
    """(S,N) of one metric over tables of the same images. DataError when their images differ."""
    for table in tables[1:]:
        if table.ids != tables[0].ids:
            raise DataError("these scores are not of the same images in the same order: evaluate all on one split")
    return np.stack([table.values(protocol, metric) for table in tables])
