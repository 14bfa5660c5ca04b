"""Which data a run reads: the root that is configured, or the embedded world, which is written first and never silent.

    sources = open_data(settings)
    sources.train, sources.val, sources.test         # EchoDepthDataset

A root that is named and missing or broken is an error; the embedded world stands in only where none is named.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from shared.embedded_world import is_embedded
from shared.errors import DataError

from .config import Settings
from .data.dataset import EchoDepthDataset
from .data.splits import hold_out
from .spectrogram import SpectrogramSettings
from .world import ensure_world

SPLITS = ("train", "val", "test")
MARK = "embedded synthetic data: not a BatVision result"
BANNER = """
  +----------------------------------------------------------------------------+
  |  EMBEDDED DATA: rooms and echoes from this package's own generator, no     |
  |  recordings. Numbers of this run are not BatVision results.                |
  |  For your own data name its root with --data_dir.                          |
  +----------------------------------------------------------------------------+
"""
NORMALISATION_SAMPLES = 200  # training recordings from which mean and deviation are measured


@dataclass(frozen=True)
class Sources:
    """The three splits of one root. fingerprint: of the samples' names and places, in order."""

    train: EchoDepthDataset
    val: EchoDepthDataset
    test: EchoDepthDataset
    embedded: bool
    root: Path
    fingerprint: str

    @property
    def mark(self) -> str:
        """What stands beside every figure; empty for real data."""
        return MARK if self.embedded else ""

    @property
    def spectrogram(self) -> SpectrogramSettings:
        return self.train.settings


def open_data(settings: Settings) -> Sources:
    """The splits that the settings name; without a root the embedded world, written first where it is not there.

    Several processes may call it at once. Raises DataError (root, tables, files) or ConfigError (locations).
    """
    root = _root(settings)
    train, val, test = _splits(settings, root)
    sources = Sources(train, val, test, is_embedded(root), root, fingerprint([train, val, test]))
    _check_apart(sources)
    return _normalised(settings, sources)


def _root(settings: Settings) -> Path:
    data = settings.data
    if data.dir is not None:
        if not data.dir.is_dir():
            raise DataError(f"--data_dir {data.dir} is not a folder; correct the path (or leave it out for the "
                            "embedded world)")  # fmt: skip
        return data.dir
    if data.dataset != "batvisionv2":
        raise DataError(
            f"the embedded world has the layout of batvisionv2, not {data.dataset}: name a root, --data_dir"
        )
    size = data.embedded
    return ensure_world(data.embedded_dir, train=size.train, val=size.val, test=size.test, seed=size.seed,
                        size_hw=size.image_hw, workers=size.workers)  # fmt: skip


def _splits(settings: Settings, root: Path) -> tuple[EchoDepthDataset, EchoDepthDataset, EchoDepthDataset]:
    data = settings.data
    if data.split == "official":
        train, val, test = (_dataset(settings, root, split) for split in SPLITS)
    else:
        every = _dataset(settings, root, "all")
        train, val, test = map(every.of_records, hold_out(every.records, data.val_locations, data.test_locations))
    for judged in (val, test):
        judged.augment = False
    return _chosen(settings, train), val, test


def _dataset(settings: Settings, root: Path, split: str) -> EchoDepthDataset:
    data = settings.data
    return EchoDepthDataset(
        root,
        split,
        settings=data.spectrogram.build(),
        size=data.image_size,
        max_depth_m=data.depth_limit_m,
        rgb=settings.kind != "audio",
        augment=data.augment,
        augment_colours=data.augment_colours and settings.kind == "rgb",
        seed=settings.training.seed,
        cache_dir=data.cache_dir,
        blacklist=data.blacklist,
    )


def _chosen(settings: Settings, train: EchoDepthDataset) -> EchoDepthDataset:
    """The training samples of the locations, and as many, as the settings ask for."""
    places, count = settings.data.train_locations, settings.data.train_samples
    indices = [n for n, record in enumerate(train.records) if places is None or record.location in places]
    if count is not None and count < len(indices):
        drawn = np.random.default_rng(settings.training.seed).permutation(len(indices))[:count]
        indices = [indices[n] for n in sorted(drawn)]
    if not indices:
        known = sorted({record.location for record in train.records})
        raise DataError(f"data.train_locations {list(places or ())} leaves no training sample; there are {known}")
    return train.narrowed(indices)


def fingerprint(datasets: Sequence[EchoDepthDataset]) -> str:
    """12 hex digits of the splits' samples by name, place and order: another selection has another one."""
    names = [[[record.id, record.location] for record in dataset.records] for dataset in datasets]
    return hashlib.sha256(repr(names).encode()).hexdigest()[:12]


def _check_apart(sources: Sources) -> None:
    ids = {split: {record.id for record in getattr(sources, split).records} for split in SPLITS}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        if shared := ids[one] & ids[other]:
            raise DataError(f"{sources.root}: {len(shared)} samples are in both {one} and {other}, the first is "
                            f"{min(shared)}: mend the tables")  # fmt: skip


def _normalised(settings: Settings, sources: Sources) -> Sources:
    """With normalisation mean_std: the training split's own, of both ears together, unless it is configured."""
    asked = settings.data.spectrogram
    if asked.normalisation != "mean_std" or None not in (asked.mean, asked.std):
        return sources
    built = asked.build(*magnitude_statistics(sources.train))
    return replace(sources, **{split: _with(getattr(sources, split), built) for split in SPLITS})


def _with(dataset: EchoDepthDataset, spectrogram: SpectrogramSettings) -> EchoDepthDataset:
    other = dataset.of_records(dataset.records)
    other.settings = spectrogram
    return other


def magnitude_statistics(train: EchoDepthDataset) -> tuple[float, float]:
    """Mean and standard deviation of the magnitudes of the first training recordings, both ears together."""
    raw = _with(train, replace(train.settings, normalisation="raw", channels="magnitude"))
    magnitudes = torch.stack(
        [torch.from_numpy(raw.read_echo(record)) for record in raw.records[:NORMALISATION_SAMPLES]]
    )
    return float(magnitudes.mean()), float(magnitudes.std())
