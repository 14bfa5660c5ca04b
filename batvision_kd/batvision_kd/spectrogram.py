"""What the student hears: the spectrograms of both ears, on one scale.

    settings = SpectrogramSettings()                         # 2 channels of 256 x 256, decibels
    audio = echo_input(samples, rate, settings, 30.0)        # (C, H, W) float32 tensor

Both ears share every number of the normalisation. A scale per ear or per file would erase the interaural level and the
distance to the wall, which are what there is to hear. The transform is the official one (n_fft 512, Hann window of 64,
hop 16, magnitude, centred, reflect padding), by `torch.stft`.

    channels "magnitude"   left, right
             "+ipd"        and cosine and sine of the interaural phase, weighted by magnitude over each output pixel
                           (above 685 Hz the phase is ambiguous)
             "+gcc"        and GCC-PHAT: rows are lags of -32 .. 32 samples (negative: the left ear is first),
                        columns are time
             "+ipd+gcc"    both
"""

# T samples, F frequencies, N frames; C, H, W channels, rows (frequency), columns (time) of the result

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from shared.errors import ConfigError

from .audio import check_rate, crop

NORMALISATIONS = ("db", "mean_std", "raw")
CHANNELS = {"magnitude": 2, "magnitude+ipd": 4, "magnitude+gcc": 3, "magnitude+ipd+gcc": 5}
DB_FLOOR, DB_CEILING = -80.0, 20.0  # fits the real sample: its 1 % point lies at -74 dB, its maximum at +16.8 dB
LEAST_MAGNITUDE = 1e-5  # -100 dB
LAGS = 32  # samples either way; the ears of a head are at most 32 samples apart at 44.1 kHz
TINY = 1e-12


@dataclass(frozen=True)
class SpectrogramSettings:
    """How samples become the student's input; stored with every checkpoint, since another input is another task.

    n_fft, window, hop: samples. size: (rows, columns) of the result, None keeps (257, frames). rate_hz: of the files.
    lead_in: samples left out at the start, or "auto": time begins at the direct sound.
    normalisation: "db" maps -80..20 dB to 0..1; "mean_std" takes `mean` and `std` of the training magnitudes, the same
        for both ears; "raw" keeps magnitudes (the official way).

    Raises ConfigError for values that do not fit.
    """

    n_fft: int = 512
    window: int = 64
    hop: int = 16
    size: tuple[int, int] | None = (256, 256)
    normalisation: str = "db"
    channels: str = "magnitude"
    lead_in: int | str = "auto"
    rate_hz: int = 44_100
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self):
        if self.size is not None:
            object.__setattr__(self, "size", tuple(int(side) for side in self.size))
        for problem in self._problems():
            raise ConfigError(f"spectrogram: {problem}")

    def _problems(self):
        if self.normalisation not in NORMALISATIONS:
            yield f"normalisation is {self.normalisation!r}; choose one of {', '.join(NORMALISATIONS)}"
        if self.channels not in CHANNELS:
            yield f"channels is {self.channels!r}; choose one of {', '.join(CHANNELS)}"
        if not 0 < self.hop <= self.window <= self.n_fft:
            yield f"hop {self.hop}, window {self.window}, n_fft {self.n_fft}: need 0 < hop <= window <= n_fft"
        if self.lead_in != "auto" and (not isinstance(self.lead_in, int) or self.lead_in < 0):
            yield f'lead_in is {self.lead_in!r}; give "auto" or a number of samples'
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            yield f"size is {self.size}; give (rows, columns)"
        if not self.std > 0 or self.rate_hz < 1:
            yield f"std {self.std} and rate_hz {self.rate_hz} must be positive"

    @property
    def channel_count(self) -> int:
        return CHANNELS[self.channels]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and manifests; `from_dict` takes them back."""
        return asdict(self) | {"size": list(self.size) if self.size else None}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SpectrogramSettings":
        """Raises ConfigError for a name that is not known."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"spectrogram: unknown settings {unknown}; known are {sorted(known)}")
        return cls(**values)


def echo_input(
    samples: np.ndarray, rate: int, settings: SpectrogramSettings, max_depth_m: float, where: str = "the recording"
) -> Tensor:
    """From a recording (2, N) to the student's input (C, H, W): rate checked, cut to the range, transformed.

    Raises DataError for another rate than the settings'; `where` names the recording.
    """
    check_rate(rate, settings.rate_hz, where)
    return spectrogram(crop(samples, rate, max_depth_m, settings.lead_in), settings)


def spectrogram(samples: np.ndarray | Tensor, settings: SpectrogramSettings) -> Tensor:
    """(C, H, W) float32 of samples (2, T), the left ear first. T must exceed n_fft / 2 (reflect padding)."""
    bins = _stft(torch.as_tensor(samples, dtype=torch.float32), settings)
    parts = [_resized(_normalised(bins.abs(), settings), settings.size)]
    if "+ipd" in settings.channels:
        parts.append(_interaural_phase(bins, settings.size))
    if "+gcc" in settings.channels:
        parts.append(_resized(_gcc_phat(bins, settings.n_fft), settings.size or bins.shape[1:]))
    return torch.cat(parts)


def _stft(samples: Tensor, settings: SpectrogramSettings) -> Tensor:
    """(2, F, N) complex."""
    window = torch.hann_window(settings.window)
    return torch.stft(samples, settings.n_fft, settings.hop, settings.window, window, center=True, pad_mode="reflect",
                      return_complex=True)  # fmt: skip


def _normalised(magnitude: Tensor, settings: SpectrogramSettings) -> Tensor:
    if settings.normalisation == "raw":
        return magnitude
    if settings.normalisation == "mean_std":
        return (magnitude - settings.mean) / settings.std
    decibels = 20 * magnitude.clamp(min=LEAST_MAGNITUDE).log10()
    return (decibels.clamp(DB_FLOOR, DB_CEILING) - DB_FLOOR) / (DB_CEILING - DB_FLOOR)


def _resized(maps: Tensor, size: tuple[int, int] | None) -> Tensor:
    """(C, F, N) -> (C, H, W), antialiased bilinear."""
    if size is None or tuple(maps.shape[1:]) == tuple(size):
        return maps
    return interpolate(maps[None], tuple(size), mode="bilinear", antialias=True)[0]


def _interaural_phase(bins: Tensor, size: tuple[int, int] | None) -> Tensor:
    """(2, H, W): cosine and sine of the left-minus-right phase, averaged with the product of magnitudes as weight."""
    cross = bins[0] * bins[1].conj()
    parts = _resized(torch.stack([cross.real, cross.imag, cross.abs()]), size)
    return parts[:2] / (parts[2:] + TINY)


def _gcc_phat(bins: Tensor, n_fft: int) -> Tensor:
    """(1, 2 LAGS + 1, N): cross-correlation of the ears with all magnitudes set to one, per frame."""
    cross = bins[0] * bins[1].conj()
    correlation = torch.fft.irfft(cross / (cross.abs() + TINY), n=n_fft, dim=0)
    return torch.cat([correlation[-LAGS:], correlation[: LAGS + 1]])[None]


# --- what augmentation does to a finished input -----------------------------------------------------------------------


def swap_ears(audio: Tensor, settings: SpectrogramSettings) -> Tensor:
    """The input (..., C, H, W) that the same recording would give with left and right exchanged."""
    swapped = [audio[..., 1:2, :, :], audio[..., 0:1, :, :]]
    if "+ipd" in settings.channels:
        swapped += [audio[..., 2:3, :, :], -audio[..., 3:4, :, :]]
    if "+gcc" in settings.channels:
        swapped.append(audio[..., -1:, :, :].flip(-2))
    return torch.cat(swapped, dim=-3)


def apply_gain(audio: Tensor, settings: SpectrogramSettings, gain_db: float) -> Tensor:
    """The input (..., C, H, W) of a recording louder by `gain_db` in both ears.

    Exact for "raw" and "mean_std"; for "db" exact where neither the input nor the result is clipped.
    """
    ears, others = audio[..., :2, :, :], audio[..., 2:, :, :]
    if settings.normalisation == "db":
        ears = (ears + gain_db / (DB_CEILING - DB_FLOOR)).clamp(0, 1)
    else:
        shift = settings.mean if settings.normalisation == "mean_std" else 0.0
        scale = settings.std if settings.normalisation == "mean_std" else 1.0
        ears = ((ears * scale + shift) * 10 ** (gain_db / 20) - shift) / scale
    return torch.cat([ears, others], dim=-3)
