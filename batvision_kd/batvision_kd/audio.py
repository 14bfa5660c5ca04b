"""Reading echoes: WAV files and pairs of .npy files as samples in -1..1, the cut to a range, and where time begins.

    samples, rate = read_wav(path)                                # (2, N) float32, left ear first
    echo = crop(samples, rate, max_depth_m=30.0, lead_in="auto")  # (2, 7782) at 44.1 kHz

A WAV file may hold PCM of 16, 24 or 32 bits or 32-bit float: all are divided by their own full scale, so one signal in
any of them gives the same samples. Nothing is resampled: a file of another rate is an error, because a spectrogram of
another rate shows other ranges.
"""

# N samples in a file

import struct
import warnings
from pathlib import Path

import numpy as np

from shared.errors import DataError
from shared.npy_files import read_npy

SOUND_M_S = 340.0  # of the official preprocessing, which turns a range into a number of samples
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE  # format codes of the RIFF header
ONSET_SHARE = 0.1  # of the file's peak: where the direct sound counts as begun
PRE_ROLL = 32  # samples kept before the onset, so that the direct sound is whole
SILENT_PEAK = 1e-4  # of full scale; 16-bit noise of three steps lies below
V1_RATE = 44_100  # of BatVision V1's .npy files, which do not say it


def read_wav(path: Path | str) -> tuple[np.ndarray, int]:
    """Samples (2, N) float32 in -1..1 (left, right) and the rate in Hz of a stereo WAV file.

    PCM 16/24/32 bits or IEEE float 32/64, with a plain or an extensible header.
    Raises DataError: missing, no WAV, cut short, another coding, not two channels. Warns of a silent file.
    """
    path = Path(path)
    format_chunk, data = _chunks(path)
    code, channels, rate, _, block, bits = struct.unpack("<HHIIHH", format_chunk[:16])
    if code == EXTENSIBLE and len(format_chunk) >= 26:
        code = struct.unpack("<H", format_chunk[24:26])[0]
    if channels != 2:
        kind = "mono" if channels == 1 else f"{channels} channels"
        raise DataError(f"{path} is {kind}: an echo needs two ears; give the stereo recording (left, right).")
    if len(data) % block or not data:
        raise DataError(
            f"{path}: {len(data):,} bytes of samples, not a positive multiple of {block}: copied short? copy it again."
        )
    samples = np.ascontiguousarray(_decode(data, code, bits, path).reshape(-1, 2).T)
    return _checked(samples, str(path)), rate


def _chunks(path: Path) -> tuple[bytes, bytes]:
    """The format and the data chunk of a RIFF file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): copy it again, or correct the table.") from None
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise DataError(
            f"{path} is no WAV file (it begins with {content[:12]!r}, {len(content):,} bytes): copy it again."
        )
    found, place = {}, 12
    while place + 8 <= len(content):
        name, size = content[place : place + 4], struct.unpack("<I", content[place + 4 : place + 8])[0]
        if place + 8 + size > len(content) and name in (b"fmt ", b"data"):
            there = len(content) - place - 8
            raise DataError(f"{path} is cut short: {there:,} of {size:,} bytes of {name.decode()!r}; copy it again.")
        found.setdefault(name, content[place + 8 : place + 8 + size])
        place += 8 + size + size % 2
    if len(found.get(b"fmt ", b"")) < 16 or b"data" not in found:
        raise DataError(f"{path} is a WAV file without its format or its samples: copy it again.")
    return found[b"fmt "], found[b"data"]


def _decode(data: bytes, code: int, bits: int, path: Path) -> np.ndarray:
    """Interleaved samples, float32, full scale 1."""
    if code == PCM and bits == 16:
        return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(2**15)
    if code == PCM and bits == 24:
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return (padded.view("<i4")[:, 0] / 2.0**31).astype(np.float32)
    if code == PCM and bits == 32:
        return (np.frombuffer(data, "<i4") / 2.0**31).astype(np.float32)
    if code == FLOAT and bits in (32, 64):
        return np.frombuffer(data, f"<f{bits // 8}").astype(np.float32)
    raise DataError(f"{path}: format {code} with {bits} bits is not read; save it as PCM 16/24/32 or as 32-bit float.")


def _checked(samples: np.ndarray, where: str) -> np.ndarray:
    if not np.isfinite(samples).all():
        raise DataError(f"{where}: {int((~np.isfinite(samples)).sum())} samples are NaN or infinite: record it again.")
    peak = float(np.abs(samples).max())
    if peak < SILENT_PEAK:
        warnings.warn(f"{where} is silent (peak {peak:.1e} of full scale): no echo can be heard in it", stacklevel=3)
    return samples


def read_npy_pair(left: Path | str, right: Path | str) -> tuple[np.ndarray, int]:
    """BatVision V1's two mono .npy files as samples (2, N) float32 in -1..1 and 44,100 Hz; the shorter one decides N.

    Integers are divided by their full scale. Raises DataError: missing, broken, not one-dimensional.
    """
    ears = [_read_ear(Path(path)) for path in (left, right)]
    length = min(map(len, ears))
    return _checked(np.stack([ear[:length] for ear in ears]), f"{left} with {Path(right).name}"), V1_RATE


def _read_ear(path: Path) -> np.ndarray:
    samples = read_npy(path, "cannot be read as a .npy array", "copy it again.").squeeze()
    if samples.ndim != 1 or samples.size < 2:
        raise DataError(f"{path} has shape {samples.shape}: one ear's samples (N,) are needed.")
    scale = np.iinfo(samples.dtype).max + 1 if samples.dtype.kind == "i" else 1
    return (samples / scale).astype(np.float32)


def write_wav(path: Path | str, samples: np.ndarray, rate: int) -> None:
    """Write samples (2, N) in -1..1 as 16-bit PCM; what lies outside is clipped."""
    data = (np.clip(samples, -1, 1 - 2.0**-15) * 2**15).round().astype("<i2").T.tobytes()
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, PCM, 2, rate, rate * 4, 4,
                         16, b"data", len(data))  # fmt: skip
    Path(path).write_bytes(header + data)


def check_rate(rate: int, expected: int, where: str) -> None:
    """Raise DataError unless a file has the rate (Hz) that the spectrogram is made for."""
    if rate != expected:
        raise DataError(
            f"{where} has {rate:,} Hz, the spectrogram is made for {expected:,} Hz: at another rate every range would "
            "be wrong. Resample the file, or set the rate of the settings and train anew."
        )


def crop_length(max_depth_m: float, rate: int) -> int:
    """Samples in which sound travels to `max_depth_m` and back, by the official formula: 7,782 for 30 m at 44.1 kHz."""
    return int(2 * max_depth_m / SOUND_M_S * rate)


def onset(samples: np.ndarray) -> int:
    """First sample at which either ear reaches a tenth of the file's peak: the direct sound; 0 in a silent file."""
    level = np.abs(samples).max(axis=0)
    peak = level.max()
    return int((level >= ONSET_SHARE * peak).argmax()) if peak >= SILENT_PEAK else 0


def lead_in_samples(samples: np.ndarray, lead_in: int | str) -> int:
    """How many samples to leave out at the start: a number, or "auto" for `PRE_ROLL` samples before the onset."""
    return max(onset(samples) - PRE_ROLL, 0) if lead_in == "auto" else int(lead_in)


def crop(samples: np.ndarray, rate: int, max_depth_m: float, lead_in: int | str) -> np.ndarray:
    """(2, crop_length) from `lead_in` on; a recording that ends before is filled up with zeros."""
    start, length = lead_in_samples(samples, lead_in), crop_length(max_depth_m, rate)
    piece = samples[:, start : start + length]
    return np.pad(piece, ((0, 0), (0, length - piece.shape[1])))
