"""The samples of a split, ready for a model.

    data = EchoDepthDataset(root, "train", settings=SpectrogramSettings(), rgb=True, augment=True, seed=42)
    sample = data[(epoch, index)]         # or data[index]: epoch 0

    "audio"  (C, H, W) float32, see spectrogram.py      "id"        str
    "rgb"    (3, H, W) float32 in 0..1, if asked for    "location"  str
    "depth"  (1, H, W) float32 metres, 0 where invalid  "room"      str, the location where rooms are not known
    "valid"  (1, H, W) bool

Random numbers follow from (seed, epoch, index) alone: workers, order and the cache change nothing.
"""

# C channels; H, W rows and columns of `size`, which is also the spectrogram's unless its settings say otherwise

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset

from batvision_kd.audio import read_npy_pair, read_wav
from batvision_kd.depth import load_depth_m, resize_masked
from batvision_kd.spectrogram import SpectrogramSettings, echo_input
from shared.batches import as_key
from shared.errors import ConfigError, DataError
from shared.run import sample_rng

from .augment import augment_sample
from .cache import ArrayCache
from .layout import Record, read_records

Key = int | tuple[int, int]  # index, or epoch and index
SHOWN = 5


class EchoDepthDataset(Dataset):
    """A split of a BatVision root, V1 or V2. `narrowed` and `of_records` select others with the same settings."""

    def __init__(
        self,
        root: Path | str,
        split: str,
        *,
        settings: SpectrogramSettings,
        size: tuple[int, int] = (256, 256),
        max_depth_m: float = 30.0,
        rgb: bool = False,
        augment: bool = False,
        augment_colours: bool = False,
        seed: int = 0,
        cache_dir: Path | str | None = None,
        locations: Sequence[str] | None = None,
        blacklist: Collection[str] = (),
    ):
        """split: "train", "val", "test", or "all" (with `locations`, for a hold-out). size: (rows, columns) of picture
        and depth. max_depth_m: the range of the echo's cut; farther depths are clipped to it and stay valid.
        augment, augment_colours: see augment.py; the second counts only with the first.
        cache_dir: keeps prepared arrays there; None keeps nothing.

        Raises:
            ConfigError: a setting that does not fit, an unknown location.
            DataError: a broken table, no record, missing files, or no camera although `rgb`.
        """
        if not max_depth_m > 0 or min(size) < 1:
            raise ConfigError(f"max_depth_m {max_depth_m} and size {tuple(size)} must be positive")
        self.root, self.split, self.settings = Path(root), split, settings
        self.size, self.max_depth_m, self.rgb = (int(size[0]), int(size[1])), float(max_depth_m), rgb
        self.augment, self.augment_colours, self.seed = augment, augment_colours and rgb, seed
        self.cache = ArrayCache(cache_dir) if cache_dir is not None else None
        self.records = read_records(root, split, locations=locations, blacklist=blacklist)
        _check_files(self.records, self.root, rgb)

    def __len__(self) -> int:
        return len(self.records)

    def of_records(self, records: Sequence[Record]) -> "EchoDepthDataset":
        """The same settings for other records of the root (a hold-out's part, a fold)."""
        other = object.__new__(EchoDepthDataset)
        other.__dict__.update(self.__dict__)
        other.records = list(records)
        return other

    def narrowed(self, indices: Sequence[int]) -> "EchoDepthDataset":
        """Only these samples, in this order."""
        return self.of_records([self.records[index] for index in indices])

    def names_of(self, keys: Sequence[Key]) -> str:
        """The samples of some keys, for messages (`shared.loader.iterate`)."""
        return ", ".join(str(self.records[as_key(key)[1]].id) for key in keys)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """Raises DataError when a file of the sample is missing or broken. An all-invalid depth map is no error."""
        epoch, index = as_key(key)
        record = self.records[index]
        sample: dict[str, Any] = {"audio": torch.from_numpy(self._audio(record))}
        if self.rgb:
            sample["rgb"] = torch.from_numpy(self._picture(record)).permute(2, 0, 1).float() / 255
        depth = torch.from_numpy(self._depth(record))[None]
        sample |= {
            "depth": depth,
            "valid": depth > 0,
            "id": record.id,
            "location": record.location,
            "room": record.room,
        }
        if self.augment:
            rng = sample_rng(self.seed, epoch, index)
            sample = augment_sample(sample, self.settings, rng, colours=self.augment_colours)
        return sample

    # Each of these asks the cache, where there is one, and computes otherwise.

    def _audio(self, record: Record) -> np.ndarray:
        asked = [self.settings.to_dict(), self.max_depth_m]
        return self._cached("audio", asked, record.audio, lambda: self.read_echo(record))

    def _depth(self, record: Record) -> np.ndarray:
        return self._cached("depth", [self.size, self.max_depth_m], (record.depth,), lambda: self.read_depth(record))

    def _picture(self, record: Record) -> np.ndarray:
        return self._cached("rgb", [self.size], (record.camera,), lambda: read_picture(record.camera, self.size))

    def _cached(self, kind, asked, sources, make) -> np.ndarray:
        return self.cache.get(kind, asked, sources, make) if self.cache else make()

    def read_echo(self, record: Record) -> np.ndarray:
        """(C, H, W) float32 from the record's audio files."""
        samples, rate = read_npy_pair(*record.audio) if len(record.audio) == 2 else read_wav(record.audio[0])
        return echo_input(samples, rate, self.settings, self.max_depth_m, str(record.audio[0])).numpy()

    def read_depth(self, record: Record) -> np.ndarray:
        """(H, W) float32 metres, at most max_depth_m, 0 where invalid (so depth > 0 is the mask)."""
        depth, valid = load_depth_m(record.depth)
        return resize_masked(np.minimum(depth, self.max_depth_m), valid, self.size)[0]


def read_picture(path: Path | str, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 RGB of `size` (rows, columns), antialiased bilinear. DataError: missing or no whole picture."""
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB").resize((size[1], size[0]), Image.Resampling.BILINEAR))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"{path} is no whole picture ({error}): copy it again.") from None


def _check_files(records: Sequence[Record], root: Path, rgb: bool) -> None:
    """Raise DataError when a camera column or any file is missing, before hours of training meet it."""
    if rgb and (blind := [record.id for record in records if record.camera is None]):
        raise DataError(
            f"{root}: {len(blind)} of {len(records)} records have no picture (BatVision V1 has no camera column): RGB "
            "training and distillation need one. Use batvisionv2, or add a `camera path` column to the tables."
        )
    missing = [path for record in records for path in _needed(record, rgb) if not path.is_file()]
    if missing:
        names = ", ".join(map(str, missing[:SHOWN])) + (", ..." if len(missing) > SHOWN else "")
        raise DataError(f"{len(missing)} files that the tables of {root} name are missing: {names}. "
                        "Copy them again; inspect_data.py lists every problem.")  # fmt: skip


def _needed(record: Record, rgb: bool) -> tuple[Path, ...]:
    return (*record.audio, *((record.camera,) if rgb and record.camera else ()), record.depth)
