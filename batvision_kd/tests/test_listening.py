"""Listening: WAV files and raw samples give one prediction per echo; what cannot be an echo is refused."""

import io

import numpy as np
import pytest
import torch
from echo_samples import SIDE, SPECTROGRAM, Echoes, Hears

from batvision_kd import listening
from batvision_kd.audio import write_wav
from batvision_kd.listening import FORMATS, Listener, read_windows
from batvision_kd.spectrogram import SpectrogramSettings
from batvision_kd.sureness import calibrate_on, reliability_on, write_calibration
from shared.errors import DataError

FRAMES = 8000


@pytest.fixture
def listener(monkeypatch) -> Listener:
    """Of a model without weights; `load_model` is tested where it lives."""
    card = {"spectrogram": SpectrogramSettings(size=(SIDE, SIDE)).to_dict(), "max_depth_m": 30.0, "mark": "drawn rooms"}
    monkeypatch.setattr(listening, "load_model", lambda path, **options: (Hears(), card))
    return Listener("any")


def echo(seed: int = 0, frames: int = FRAMES) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (2, frames)).astype(np.float32)


def raw(samples: np.ndarray, name: str) -> bytes:
    dtype, scale = FORMATS[name]
    return np.ascontiguousarray(samples.T * scale).astype(dtype).tobytes()


@pytest.mark.parametrize("name", FORMATS)
def test_every_raw_format_gives_the_same_echoes(name):
    samples = echo()
    stream = io.BytesIO(raw(np.concatenate([samples, samples[:, :3000]], 1), name))
    first, last = list(read_windows(stream, name, FRAMES))
    np.testing.assert_allclose(first, samples, atol=2**-15)
    assert last.shape == (2, 3000)


class Dripping(io.BytesIO):
    """A pipe: gives at most seven bytes at a time."""

    def read(self, size: int = -1) -> bytes:
        return super().read(min(size, 7))


def test_a_slow_pipe_changes_nothing():
    data = raw(echo(frames=700), "s16le")
    a, b = (list(read_windows(stream, "s16le", 300)) for stream in (io.BytesIO(data), Dripping(data)))
    assert len(a) == len(b) == 3 and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_what_is_no_echo_is_refused():
    with pytest.raises(DataError, match=r"3 bytes left over.*mono"):
        list(read_windows(io.BytesIO(b"\0" * 11), "s16le", 100))
    with pytest.raises(DataError, match="stdin is empty"):
        list(read_windows(io.BytesIO(), "s16le", 100))
    with pytest.raises(DataError, match="NaN or infinite"):
        list(read_windows(io.BytesIO(b"\xff" * 16), "f32le", 100))


def test_the_same_echo_by_file_and_by_pipe(listener, tmp_path, capsys):
    write_wav(tmp_path / "a.wav", echo(), 44_100)
    out = tmp_path / "out"
    arguments = ["--checkpoint", "any", "--out", str(out), "--window_frames", str(FRAMES)]
    assert listening.main([*arguments, str(tmp_path / "a.wav")]) == 0
    assert listening.main([*arguments, "-"], stdin=io.BytesIO(raw(echo(), "s16le"))) == 0
    file, pipe = np.load(out / "a_depth.npy"), np.load(out / "stdin_0001_depth.npy")
    assert file.shape == (SIDE, SIDE) and file.dtype == np.float32
    np.testing.assert_allclose(file, pipe, atol=1e-3)
    printed = capsys.readouterr().out
    assert "a.wav: depth" in printed and "predicted in" in printed and "trained on drawn rooms" in printed
    assert (out / "a_depth.png").stat().st_size > 100


def test_ears_are_not_mixed_up(listener):
    loud_right = echo() * np.array([[0.05], [1.0]], dtype=np.float32)
    depth = listener.hear(loud_right, 44_100, "x").depth_m
    assert depth[:, : SIDE // 2].mean() < depth[:, SIDE // 2 :].mean()


def test_another_rate_a_mono_file_and_a_short_one_are_named(listener, tmp_path, capsys):
    write_wav(tmp_path / "slow.wav", echo(), 16_000)
    write_wav(tmp_path / "short.wav", echo(frames=300), 44_100)
    wav = bytearray((tmp_path / "slow.wav").read_bytes())
    wav[22], wav[32] = 1, 2
    (tmp_path / "mono.wav").write_bytes(bytes(wav))
    for name, message in (
        ("slow", "16,000 Hz"),
        ("short", "300 samples"),
        ("mono", "mono"),
        ("none", "cannot be read"),
    ):
        assert listening.main(["--checkpoint", "any", str(tmp_path / f"{name}.wav")]) == 2
        assert message in capsys.readouterr().err


def test_a_silent_file_warns_and_still_gets_an_answer(listener, tmp_path, capsys):
    write_wav(tmp_path / "silent.wav", np.zeros((2, FRAMES), np.float32), 44_100)
    assert listening.main(["--checkpoint", "any", str(tmp_path / "silent.wav")]) == 0
    captured = capsys.readouterr()
    assert "silent" in captured.err and "silent.wav: depth" in captured.out


def test_confidence_is_calibrated_on_validation_and_bound_to_its_weights(listener, tmp_path, monkeypatch):
    """A model that keeps the mirror law and is right is sure; the calibration of other weights is refused."""
    calibration = calibrate_on(Hears(), Echoes(), SPECTROGRAM)
    found = reliability_on(Hears(), Echoes(8), SPECTROGRAM, calibration)
    assert found["all"] == 1 and found["calibration_error"] == pytest.approx(0, abs=1e-6)
    write_calibration(tmp_path / "c.json", calibration, {"weights_sha256": "abc"})
    monkeypatch.setattr(listening, "manifest", lambda path: {"sha256": "abc"})
    heard = Listener("any", "cpu", tmp_path / "c.json").hear(echo(), 44_100, "x")
    assert (
        heard.confidence.shape == (SIDE, SIDE) and heard.confidence.min() == 1 and "mean confidence 1.00" in str(heard)
    )
    assert any(path.name == "x_confidence.npy" for path in listening.save(heard, tmp_path, ""))
    monkeypatch.setattr(listening, "manifest", lambda path: {"sha256": "def"})
    with pytest.raises(DataError, match="other weights"):
        Listener("any", "cpu", tmp_path / "c.json")


def test_nothing_of_the_model_learns(listener):
    torch.set_grad_enabled(True)
    assert isinstance(listener.hear(echo(), 44_100, "x").depth_m, np.ndarray)
