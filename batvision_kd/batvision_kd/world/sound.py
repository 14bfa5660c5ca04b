"""From paths to what the two microphones record.

Each path puts a pulse into the impulse response of each ear and band (third-order Lagrange interpolation between
samples); a reverberant tail follows the mirror images; bands are summed in the frequency domain, with the chirp, the
speaker's low end, microphone noise, and the record's level. Band filters have no phase, so they move nothing in time.
"""

# P paths, B octave bands, N samples of the record, K bins of its spectrum

from functools import cache

import numpy as np

from .building import BANDS_HZ, Rig, Room
from .head import SPEAKER_M, ear_delay_m, shadow_gain, shell_gain, speaker_gain
from .paths import AIR_DB_M, Paths, all_paths, direct

RATE = 44_100
SAMPLES = 20_000  # of a BatVision V2 record
FFT = 20_480  # room for the chirp behind the last pulse
SPEED_M_S = 343.0
LEAD_IN = 288  # sample at which the direct sound begins in the real record
DIRECT_SAMPLES = round(float(np.linalg.norm(SPEAKER_M)) * RATE / SPEED_M_S)  # from the speaker to the head
LEAD_IN_JITTER = 24  # samples either way
CHIRP_SAMPLES = 132  # 3 ms
DIRECT_PEAK = 0.6  # of full scale, before the record's own gain
GAIN_DB = 2.0  # either way, both ears alike
NOISE_RMS = (0.0006, 0.003)  # of full scale
LOW_END_HZ = 150.0  # below it the speaker grows weak


def record(room: Room, rig: Rig, rng: np.random.Generator) -> np.ndarray:
    """(2, N) float64 of the left and the right ear, in -1..1 but for rare overloads."""
    start = LEAD_IN - DIRECT_SAMPLES + int(rng.integers(-LEAD_IN_JITTER, LEAD_IN_JITTER + 1))
    response = impulse_response(all_paths(room, rig, rng), rig, start=start)
    response += tail(room, rng, start=start)
    gain = DIRECT_PEAK / _direct_peak() * 10 ** (rng.uniform(-GAIN_DB, GAIN_DB) / 20)
    return gain * played(response) + noise(rng)


def impulse_response(paths: Paths, rig: Rig, *, start: float = 0.0, speed_m_s: float = SPEED_M_S) -> np.ndarray:
    """(2, B, N) pulses at both ears; `start` is the sample of emission."""
    out = paths.gain * speaker_gain(paths.leave @ rig.forward) * shell_gain(paths.arrive @ rig.forward)
    sideways = paths.arrive @ rig.left
    ears = []
    for to_ear in (sideways, -sideways):
        delay = start + (paths.length_m + ear_delay_m(to_ear)) * RATE / speed_m_s
        ears.append(_pulses(delay, out * shadow_gain(to_ear, speed_m_s)))
    return np.stack(ears)


def _pulses(delay: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """(B, N): pulses of gain (P, B) at fractional samples (P,), each spread over four samples."""
    whole = np.floor(delay).astype(np.int64)
    part = delay - whole
    weights = (-part * (part - 1) * (part - 2) / 6, (part + 1) * (part - 1) * (part - 2) / 2,
               -(part + 1) * part * (part - 2) / 2, (part + 1) * part * (part - 1) / 6)  # fmt: skip
    bands = np.arange(len(BANDS_HZ)) * SAMPLES
    total = np.zeros(len(BANDS_HZ) * SAMPLES)
    for tap, weight in enumerate(weights, -1):
        place = whole + tap
        kept = (place >= 0) & (place < SAMPLES)
        index = place[kept, None] + bands
        total += np.bincount(index.ravel(), (gain[kept] * weight[kept, None]).ravel(), minlength=len(total))
    return total.reshape(len(BANDS_HZ), SAMPLES)


def tail(room: Room, rng: np.random.Generator, *, start: float) -> np.ndarray:
    """(2, B, N) of what comes after the mirror images: noise of energy 4 pi c / V a second, decaying after Eyring.

    It sets in between the third and the fifth mean free path. Speaker and ears count with their means over directions.
    """
    volume, lost = _volume_and_loss(room)
    free_path = 4 * volume / _surface(room)
    seconds = np.maximum(np.arange(SAMPLES) - start, 0) / RATE
    decay = SPEED_M_S * (-np.log(1 - lost) / free_path + AIR_DB_M * np.log(10) / 10)  # (B,) of energy, per second
    onset = np.clip(seconds * SPEED_M_S / free_path / 2 - 1.5, 0, 1)
    level = np.sqrt(4 * np.pi * SPEED_M_S / volume / RATE * _mean_directivity())  # (B,)
    envelope = np.exp(-decay[:, None] / 2 * seconds) * (level[:, None] * np.sqrt(onset))
    return rng.standard_normal((2, 1, SAMPLES)) * envelope


def _surface(room: Room) -> float:
    x, y, z = room.size_m
    return float(2 * (x * y + x * z + y * z))


def _volume_and_loss(room: Room) -> tuple[float, np.ndarray]:
    """Cubic metres of air, and the mean absorption (B,) of all surfaces by area."""
    extents = np.concatenate([room.size_m[None], room.bodies_m[:, 1] - room.bodies_m[:, 0]])
    areas = np.stack([extents[:, 1] * extents[:, 2], extents[:, 0] * extents[:, 2], extents[:, 0] * extents[:, 1]], 1)
    weights = np.repeat(areas.ravel(), 2)
    volume = max(2 * extents[0].prod() - extents.prod(axis=1).sum(), extents[0].prod() / 4)
    return float(volume), (weights[:, None] * room.absorption).sum(axis=0) / weights.sum()


@cache
def _mean_directivity() -> np.ndarray:
    """(B,) mean energy over directions that the speaker sends out and the ear shells let in."""
    cosine = np.linspace(-1, 1, 201)
    return (speaker_gain(cosine) ** 2).mean(axis=0) * (shell_gain(cosine) ** 2).mean(axis=0)


def chirp() -> np.ndarray:
    """(132,) 20 Hz to 20 kHz in 3 ms, linear, under a Hann window."""
    seconds = np.arange(CHIRP_SAMPLES) / RATE
    phase = 2 * np.pi * (20 * seconds + (20_000 - 20) / (2 * CHIRP_SAMPLES / RATE) * seconds**2)
    return np.sin(phase) * np.hanning(CHIRP_SAMPLES)


@cache
def _filters() -> np.ndarray:
    """(B, K) spectra of the bands with chirp and low end; without those two the bands sum to one."""
    hertz = np.fft.rfftfreq(FFT, 1 / RATE)
    octave = np.log2(np.maximum(hertz, 1.0) / BANDS_HZ[0])
    place = np.clip(octave, 0, len(BANDS_HZ) - 1)
    away = np.abs(place - np.arange(len(BANDS_HZ))[:, None])
    bands = np.where(away < 1, np.cos(np.pi / 2 * np.minimum(away, 1)) ** 2, 0)
    return (bands * (np.fft.rfft(chirp(), FFT) * hertz**2 / (hertz**2 + LOW_END_HZ**2))).astype(np.complex64)


def played(response: np.ndarray) -> np.ndarray:
    """(2, N): the chirp through an impulse response (2, B, N)."""
    spectrum = (np.fft.rfft(response.astype(np.float32), FFT) * _filters()).sum(axis=1)
    return np.fft.irfft(spectrum, FFT)[:, :SAMPLES].astype(np.float64)


@cache
def _direct_peak() -> float:
    """Peak of the direct sound alone, for a response in the units of `Paths`."""
    rig = Rig(np.zeros(3), 0.0)
    return float(np.abs(played(impulse_response(direct(rig), rig, start=LEAD_IN))).max())


def noise(rng: np.random.Generator) -> np.ndarray:
    """(2, N) of the room and the microphones: independent in the ears, weaker at high frequencies."""
    hertz = np.fft.rfftfreq(FFT, 1 / RATE)
    shape = 1 / np.sqrt(1 + hertz / 300)
    white = np.fft.rfft(rng.standard_normal((2, FFT)))
    coloured = np.fft.irfft(white * shape, FFT)[:, :SAMPLES]
    return coloured / np.sqrt((shape**2).mean()) * rng.uniform(*NOISE_RMS)
