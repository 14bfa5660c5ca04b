"""What a listening model has to beat: constant maps, and the same model with its hearing taken away.

    maps = constant_maps(train)                                   # {"mean", "median", "log_mean"}: (1,H,W) metres
    shuffled = heard_wrongly(test, "shuffled", seed=0)            # the echo of another image
    swapped = heard_wrongly(test, "swapped")                      # ears exchanged

A constant map knows the split's typical depth and nothing of the room. `shuffled`, `silence`, `swapped` and `one_ear`
leave the model as it is: if its error does not rise, it did not use what was taken away.
"""

# N images, H x W pixels

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .spectrogram import SpectrogramSettings, spectrogram, swap_ears

CONSTANTS = ("mean", "median", "log_mean")
AUDIO_CONTROLS = ("shuffled", "swapped", "silence", "one_ear")
MOST_MAPS = 2000  # of the training split, evenly spread, from which constant maps are made (256 KiB each at 256 px)
BAND_ROWS = 32  # rows whose medians are taken at once


def constant_maps(train: Dataset) -> dict[str, Tensor]:
    """Per pixel the mean, the median and the geometric mean of the valid training depths: (1,H,W) float32 metres each.

    A pixel that no map measures takes the value over all pixels. Raises ValueError when nothing is valid at all.
    """
    chosen = np.unique(np.linspace(0, len(train) - 1, min(len(train), MOST_MAPS)).round().astype(int))
    items = [train[int(index)] for index in chosen]
    maps = torch.stack([torch.where(item["valid"], item["depth"], torch.nan) for item in items]).float()
    if maps.isnan().all():
        raise ValueError(f"none of {len(items)} training maps has a valid pixel: there is no constant to predict")
    found = {"mean": maps.nanmean(0), "median": _median(maps), "log_mean": maps.log().nanmean(0).exp()}
    whole = {"mean": maps.nanmean(), "median": maps.nanmedian(), "log_mean": maps.log().nanmean().exp()}
    return {name: torch.where(values.isnan(), whole[name], values) for name, values in found.items()}


def _median(maps: Tensor) -> Tensor:
    """(1,H,W) lower median over the first axis without NaN."""
    bands = [maps[..., row : row + BAND_ROWS, :].nanmedian(0).values for row in range(0, maps.shape[-2], BAND_ROWS)]
    return torch.cat(bands, dim=-2)


def constant_predictor(constant: Tensor) -> Callable[[Mapping[str, Any]], Tensor]:
    """Predicts `constant` (1,H,W) for every image of a batch."""
    return lambda batch: constant.to(batch["depth"].device).expand_as(batch["depth"])


def derangement(count: int, seed: int) -> np.ndarray:
    """A random order (count,) in which no number keeps its place: one cycle through all (Sattolo's algorithm).

    Raises ValueError for fewer than two.
    """
    if count < 2:
        raise ValueError(f"{count} images cannot be shuffled so that each hears another one's echo; two are needed")
    rng, order = np.random.default_rng(seed), np.arange(count)
    for last in range(count - 1, 0, -1):
        other = int(rng.integers(last))
        order[[last, other]] = order[[other, last]]
    return order


def silent_input(like: Tensor, settings: SpectrogramSettings) -> Tensor:
    """The student's input (C,H,W) for a recording without any sound."""
    samples = torch.zeros(2, 2 * settings.n_fft + like.shape[-1] * settings.hop)
    return spectrogram(samples, settings).to(like)


def one_ear_input(audio: Tensor, settings: SpectrogramSettings) -> Tensor:
    """The input (C,H,W) with the left ear's magnitudes in both ears: level and delay between the ears are gone.

    Channels that join both ears become those of identical ears: phase difference 0, lag 0.
    """
    ears = audio[:1].expand(2, -1, -1)
    if audio.shape[0] == 2:
        return ears.clone()
    return torch.cat([ears, _identical_ears(audio, settings)])


def _identical_ears(audio: Tensor, settings: SpectrogramSettings) -> Tensor:
    """The joint channels (C-2,H,W) of one noise heard by both ears."""
    noise = torch.randn(settings.n_fft * 2 + audio.shape[-1] * settings.hop, generator=torch.Generator().manual_seed(0))
    return spectrogram(noise.expand(2, -1), settings)[2:].to(audio)


class _HeardWrongly(Dataset):
    """Items of `data` with `change(index, item)` for their audio."""

    def __init__(self, data: Dataset, change: Callable[[int, dict[str, Any]], Tensor]):
        self.data, self.change = data, change

    def __len__(self) -> int:
        return len(self.data)

    def names_of(self, keys: Sequence) -> str:
        return self.data.names_of(keys)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        index = key[1] if isinstance(key, tuple) else key
        item = self.data[key]
        return {**item, "audio": self.change(index, item)}


def heard_wrongly(data: Dataset, control: str, settings: SpectrogramSettings, seed: int = 0) -> Dataset:
    """The data set with its audio under a control; everything else is the same. control: one of AUDIO_CONTROLS.

    `shuffled` gives image i the echo of another image, the same one for the same seed. Raises ValueError for an unknown
    control.
    """
    if control not in AUDIO_CONTROLS:
        raise ValueError(f"control {control!r} is unknown; choose from {', '.join(AUDIO_CONTROLS)}")
    if control == "shuffled":
        order = derangement(len(data), seed)
        return _HeardWrongly(data, lambda index, item: data[int(order[index])]["audio"])
    changes: dict[str, Callable[[int, dict[str, Any]], Tensor]] = {
        "swapped": lambda index, item: swap_ears(item["audio"], settings),
        "silence": lambda index, item: silent_input(item["audio"], settings),
        "one_ear": lambda index, item: one_ear_input(item["audio"], settings),
    }
    return _HeardWrongly(data, changes[control])


def best_constant(errors: Mapping[str, float]) -> str:
    """The constant with the lowest validation error, the first of CONSTANTS when equal."""
    return min(_known(errors), key=lambda name: errors[name])


def _known(errors: Mapping[str, float]) -> Sequence[str]:
    missing = [name for name in CONSTANTS if name not in errors]
    if missing:
        raise ValueError(
            f"no validation error of the constant {missing[0]}; all of {', '.join(CONSTANTS)} are compared"
        )
    return CONSTANTS
