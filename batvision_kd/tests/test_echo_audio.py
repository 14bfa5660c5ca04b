"""WAV and .npy reading, the cut to a range, the onset, and the spectrogram of both ears."""

import struct

import numpy as np
import pytest
import torch

from batvision_kd.audio import crop, crop_length, onset, read_npy_pair, read_wav, write_wav
from batvision_kd.spectrogram import CHANNELS, SpectrogramSettings, apply_gain, echo_input, spectrogram, swap_ears
from shared.errors import ConfigError, DataError

RATE = 44_100


def wav_bytes(
    payload: bytes, code: int, bits: int, channels: int = 2, rate: int = RATE, extensible: bool = False
) -> bytes:
    block = channels * bits // 8
    head = struct.pack("<HHIIHH", 0xFFFE if extensible else code, channels, rate, rate * block, block, bits)
    if extensible:
        head += struct.pack("<HHIH14s", 22, bits, 3, code, b"\x00" * 14)
    listed = b"LIST" + struct.pack("<I", 3) + b"abc\x00"  # an odd chunk before the samples, padded
    body = b"fmt " + struct.pack("<I", len(head)) + head + listed + b"data" + struct.pack("<I", len(payload)) + payload
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def encoded(samples: np.ndarray, kind: str) -> bytes:
    """One signal, representable in 16 bits, in four codings."""
    flat = samples.T.ravel()
    if kind == "float":
        return wav_bytes(flat.astype("<f4").tobytes(), 3, 32)
    bits = int(kind)
    whole = np.round(flat * 2 ** (bits - 1)).astype("<i8")
    raw = whole.view(np.uint8).reshape(-1, 8)[:, : bits // 8].tobytes()
    return wav_bytes(raw, 1, bits, extensible=bits == 24)


@pytest.fixture
def signal() -> np.ndarray:
    return np.random.default_rng(0).integers(-(2**15), 2**15, (2, 900)) / 2**15


@pytest.mark.parametrize("kind", ["16", "24", "32", "float"])
def test_one_signal_reads_the_same_in_every_coding(tmp_path, signal, kind):
    (tmp_path / "a.wav").write_bytes(encoded(signal, kind))
    samples, rate = read_wav(tmp_path / "a.wav")
    assert rate == RATE and samples.dtype == np.float32
    np.testing.assert_array_equal(samples, signal.astype(np.float32))


def test_written_wav_reads_back(tmp_path, signal):
    write_wav(tmp_path / "a.wav", signal, 48_000)
    samples, rate = read_wav(tmp_path / "a.wav")
    assert rate == 48_000
    np.testing.assert_array_equal(samples, signal.astype(np.float32))


def test_loud_samples_are_clipped_not_wrapped(tmp_path):
    write_wav(tmp_path / "a.wav", np.array([[1.5, -1.5], [0, 1.0]]), RATE)
    samples = read_wav(tmp_path / "a.wav")[0]
    assert samples[0, 0] > 0.999 and samples[0, 1] == -1 and samples[1, 1] > 0.999


BROKEN = {
    "mono": (lambda: wav_bytes(b"\x01\x00" * 50, 1, 16, channels=1), "mono"),
    "six channels": (lambda: wav_bytes(b"\x01\x00" * 60, 1, 16, channels=6), "6 channels"),
    "cut short": (lambda: wav_bytes(b"\x01\x00" * 100, 1, 16)[:-50], "cut short"),
    "half a frame": (lambda: wav_bytes(b"\x01\x00" * 101, 1, 16), "multiple"),
    "no samples": (lambda: wav_bytes(b"", 1, 16), "multiple"),
    "8 bits": (lambda: wav_bytes(b"\x01" * 100, 1, 8), "PCM 16"),
    "a web page": (lambda: b"<html>not found</html>", "no WAV"),
    "empty": (lambda: b"", "no WAV"),
    "NaN": (lambda: wav_bytes(np.full(100, np.nan, "<f4").tobytes(), 3, 32), "NaN"),
}


@pytest.mark.fault(15)
@pytest.mark.parametrize("name", BROKEN)
def test_broken_wav_is_refused_with_its_path(tmp_path, name):
    make, message = BROKEN[name]
    (tmp_path / "a.wav").write_bytes(make())
    with pytest.raises(DataError, match=message) as caught:
        read_wav(tmp_path / "a.wav")
    assert "a.wav" in str(caught.value)


@pytest.mark.fault(15)
def test_missing_wav_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_wav(tmp_path / "none.wav")


def test_silence_is_a_warning_that_names_the_file(tmp_path):
    write_wav(tmp_path / "quiet.wav", np.zeros((2, 100)), RATE)
    with pytest.warns(UserWarning, match=r"quiet\.wav is silent"):
        read_wav(tmp_path / "quiet.wav")


def test_npy_pair_takes_the_shorter_ear_and_scales_integers(tmp_path):
    np.save(tmp_path / "l.npy", np.full(50, 0.5))
    np.save(tmp_path / "r.npy", np.full((40, 1), 2**14, np.int16))
    samples, rate = read_npy_pair(tmp_path / "l.npy", tmp_path / "r.npy")
    assert rate == RATE
    np.testing.assert_array_equal(samples, np.full((2, 40), 0.5, np.float32))


def test_crop_is_the_official_length_and_fills_up_with_zeros():
    assert crop_length(30.0, RATE) == 7782
    assert crop_length(12.0, RATE) == 3112
    samples = np.ones((2, 8000), np.float32)
    assert crop(samples, RATE, 30.0, 0).shape == (2, 7782)
    late = crop(samples, RATE, 30.0, 1000)
    assert late.shape == (2, 7782) and late[:, :7000].all() and not late[:, 7000:].any()


def test_onset_finds_a_late_direct_sound_in_either_ear():
    samples = np.zeros((2, 6000), np.float32)
    samples[:, :] = 1e-3
    samples[1, 980] = 0.8
    assert onset(samples) == 980
    assert onset(np.zeros((2, 100), np.float32)) == 0


def test_automatic_lead_in_makes_the_input_independent_of_the_recording_start():
    rng = np.random.default_rng(1)
    sound = rng.normal(0, 0.1, (2, 9000)).astype(np.float32)
    settings = SpectrogramSettings(size=None)
    early, late = (np.pad(sound, ((0, 0), (shift, 0))) for shift in (100, 1300))
    assert torch.equal(echo_input(early, RATE, settings, 20.0), echo_input(late, RATE, settings, 20.0))
    fixed = SpectrogramSettings(size=None, lead_in=0)
    assert not torch.equal(echo_input(early, RATE, fixed, 20.0), echo_input(late, RATE, fixed, 20.0))


def test_another_rate_is_named():
    with pytest.raises(DataError, match=r"48,000 Hz.*44,100 Hz"):
        echo_input(np.zeros((2, 9000), np.float32), 48_000, SpectrogramSettings(), 30.0, "x.wav")


# --- the spectrogram --------------------------------------------------------------------------------------------------


@pytest.fixture
def echo() -> np.ndarray:
    decay = np.exp(-np.arange(3112) / 900)
    return (np.random.default_rng(2).normal(0, 0.2, (2, 3112)) * decay).astype(np.float32)


def test_frames_and_values_are_those_of_a_transform_written_out(echo):
    """Frame n, bin k: |sum_t x[t] w[t] exp(-2 pi i k t / 512)|, the window of 64 in the middle of 512 samples."""
    found = spectrogram(echo, SpectrogramSettings(size=None, normalisation="raw")).numpy()
    assert found.shape == (2, 257, 3112 // 16 + 1)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(64) / 64)
    padded = np.pad(echo, ((0, 0), (256, 256)), mode="reflect")
    for frame in (0, 7, 100, 194):
        piece = padded[:, frame * 16 : frame * 16 + 512].copy()
        piece[:, :224], piece[:, 288:] = 0, 0
        piece[:, 224:288] *= window
        np.testing.assert_allclose(found[:, :, frame], np.abs(np.fft.rfft(piece)), atol=2e-5)


def test_official_frames():
    settings = SpectrogramSettings(size=None)
    assert spectrogram(np.zeros((2, 7782), np.float32), settings).shape == (2, 257, 487)
    assert spectrogram(np.zeros((2, 4410), np.float32), settings).shape == (2, 257, 276)


def test_interaural_level_survives(echo):
    """The right ear at half the amplitude is 6.02 dB lower wherever nothing is clipped, resized or not."""
    halved = np.stack([echo[0], echo[0] / 2])
    for size in (None, (64, 64)):
        left, right = spectrogram(halved, SpectrogramSettings(size=size))
        free = (right > 0) & (left < 1)
        assert free.float().mean() > 0.9
        off_db = (100 * (left - right)[free] - 6.0206).abs()
        assert off_db.quantile(0.995) < 2e-3  # a resized pixel may average a clipped bin
        assert size or off_db.max() < 2e-3


def test_decibels_are_clipped_to_their_range(echo):
    audio = spectrogram(echo * 1e4, SpectrogramSettings())
    assert audio.max() == pytest.approx(1) and spectrogram(echo * 0, SpectrogramSettings()).abs().max() == 0


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("size", [None, (48, 80)])
def test_swapped_input_is_the_input_of_swapped_ears(echo, channels, size):
    settings = SpectrogramSettings(channels=channels, size=size)
    audio = spectrogram(echo, settings)
    assert audio.shape[0] == settings.channel_count == CHANNELS[channels] and audio.isfinite().all()
    torch.testing.assert_close(swap_ears(audio, settings), spectrogram(echo[::-1].copy(), settings), atol=2e-5, rtol=0)
    assert torch.equal(swap_ears(swap_ears(audio, settings), settings), audio)
    assert not torch.allclose(swap_ears(audio, settings), audio)


def test_gcc_peaks_at_the_interaural_delay():
    left = np.random.default_rng(3).normal(0, 0.2, 4000).astype(np.float32)
    echo = np.stack([left, np.roll(left, 12)])  # the right ear 12 samples later
    audio = spectrogram(echo, SpectrogramSettings(channels="magnitude+gcc", size=(65, 100)))
    lags = audio[2].mean(dim=1)
    assert int(lags.argmax()) - 32 == -12


def test_interaural_phase_of_equal_ears_is_zero(echo):
    same = np.stack([echo[0], echo[0]])
    audio = spectrogram(same, SpectrogramSettings(channels="magnitude+ipd"))
    torch.testing.assert_close(audio[2], torch.ones(256, 256), atol=1e-3, rtol=0)
    assert audio[3].abs().max() < 1e-3


@pytest.mark.parametrize("normalisation", ["raw", "mean_std", "db"])
def test_gain_is_that_of_a_louder_recording(echo, normalisation):
    settings = SpectrogramSettings(normalisation=normalisation, mean=0.3, std=0.7, channels="magnitude+ipd")
    louder = spectrogram(echo * 10 ** (2.5 / 20), settings)
    gained = apply_gain(spectrogram(echo, settings), settings, 2.5)
    free = (louder > 0.05) & (louder < 0.999) if normalisation == "db" else torch.ones_like(louder, dtype=torch.bool)
    torch.testing.assert_close(gained[free], louder[free], atol=1e-3, rtol=1e-4)


def test_settings_survive_a_manifest_and_refuse_nonsense():
    settings = SpectrogramSettings(size=(64, 32), channels="magnitude+gcc", lead_in=288)
    assert SpectrogramSettings.from_dict(settings.to_dict()) == settings
    assert SpectrogramSettings.from_dict(SpectrogramSettings(size=None).to_dict()).size is None
    wrong = ({"normalisation": "minmax"}, {"channels": "phase"}, {"hop": 0}, {"lead_in": "x"}, {"size": (0, 3)},
             {"std": 0.0}, {"lead_in": -1})  # fmt: skip
    for values in wrong:
        with pytest.raises(ConfigError, match="spectrogram"):
            SpectrogramSettings(**values)
    with pytest.raises(ConfigError, match="unknown"):
        SpectrogramSettings.from_dict({"winlen": 3})
