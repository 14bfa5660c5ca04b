"""The one real BatVision V2 triple: the loader's numbers, and what each resize rule costs a perfect prediction."""

# The expected numbers were measured on the published sample, which is never copied here.

import shutil

import numpy as np
import pytest
import torch

from batvision_kd.audio import crop, onset, read_wav
from batvision_kd.data.dataset import EchoDepthDataset
from batvision_kd.data.inspect import inspect_root
from batvision_kd.data.layout import V2_COLUMNS
from batvision_kd.depth import load_depth_m, resize_masked, resize_plain
from batvision_kd.metrics import image_metrics
from batvision_kd.spectrogram import SpectrogramSettings, spectrogram

pytestmark = pytest.mark.real
SIZE = (256, 256)


@pytest.fixture
def triple(real_samples):
    return real_samples / "batvision" / "bv2_sample"


@pytest.fixture
def root(triple, tmp_path):
    """The triple as a data root of one location."""
    row = ["47", "0", "0", "0"]
    for kind, end in (("audio", "wav"), ("camera", "jpeg"), ("depth", "npy")):
        (tmp_path / "Attic" / kind).mkdir(parents=True)
        shutil.copy(triple / f"{kind}_47.{end}", tmp_path / "Attic" / kind)
        row += [f"Attic/{kind}/", f"{kind}_47.{end}"] + (["0"] if kind != "depth" else [])
    for split in ("train", "val", "test"):
        lines = [",".join(V2_COLUMNS)] + ([",".join(row)] if split == "train" else [])
        (tmp_path / "Attic" / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_sound(triple):
    samples, rate = read_wav(triple / "audio_47.wav")
    assert samples.shape == (2, 20_000) and rate == 44_100
    assert np.abs(samples).max() == pytest.approx(0.7543, abs=1e-4)
    assert np.sqrt((samples**2).mean()) == pytest.approx(0.0314, abs=1e-4)
    assert abs(onset(samples) - 288) < 40  # within a metre's tenth of where it was seen by eye


def test_official_crop_and_magnitudes(triple):
    samples, rate = read_wav(triple / "audio_47.wav")
    echo = crop(samples, rate, 30.0, 0)
    assert echo.shape == (2, 7782)
    magnitude = spectrogram(echo, SpectrogramSettings(size=None, normalisation="raw", lead_in=0))
    assert magnitude.shape == (2, 257, 487)
    assert magnitude.max() == pytest.approx(6.918, abs=2e-3)
    assert magnitude.median() == pytest.approx(0.0098, abs=1e-4)


def test_loader_shapes_and_valid_share(root):
    data = EchoDepthDataset(root, "train", settings=SpectrogramSettings(), size=SIZE, rgb=True)
    sample = data[0]
    assert sample["audio"].shape == (2, *SIZE) and sample["rgb"].shape == (3, *SIZE)
    assert sample["depth"].shape == sample["valid"].shape == (1, *SIZE)
    assert sample["valid"].float().mean() == pytest.approx(0.7845, abs=2e-4)
    assert sample["id"] == "Attic/47" and sample["location"] == sample["room"] == "Attic"
    assert sample["audio"].min() >= 0 and sample["audio"].max() <= 1 and sample["rgb"].max() <= 1
    mirrored = EchoDepthDataset(root, "train", settings=SpectrogramSettings(), size=(144, 256))[0]
    assert mirrored["depth"].shape == (1, 144, 256)


def test_inspection_finds_nothing_wrong(root):
    findings = inspect_root(root)
    assert findings.problems == [] and findings.warnings == []


ORACLE = {
    # rule, nearest counted depth in metres: ABS_REL, RMSE, delta1, LOG10
    ("bilinear_antialias", 0.0): (4.119, 0.246, 0.893, 0.083),
    ("bilinear_antialias", 0.1): (0.188, 0.179, 0.920, 0.036),
    ("bilinear_antialias", 0.5): (0.019, 0.086, 0.975, 0.007),
    ("bilinear", 0.0): (0.075, 0.105, 0.984, 0.009),
    ("nearest", 0.0): (0.012, 0.103, 0.986, 0.005),
    ("nearest-exact", 0.0): (0.005, 0.094, 0.995, 0.002),
    ("masked", 0.0): (0.0, 0.0, 1.0, 0.0),
}


@pytest.mark.parametrize(("rule", "nearest_m"), ORACLE)
def test_oracle_table(triple, rule, nearest_m):
    """A perfect prediction (mask-aware depth, holes filled with the median) against each rule's target."""
    depth, valid = load_depth_m(triple / "depth_47.npy")
    perfect, measured = resize_masked(depth, valid, SIZE)
    if rule == "masked":
        target = perfect
    else:
        target = resize_plain(np.minimum(depth, 30.0), SIZE, rule)
    predicted = np.where(measured, perfect, 1.029)
    counted = (target > 0) & (target >= nearest_m)
    maps = (
        torch.from_numpy(np.asarray(each)).double()[None, None] for each in (predicted, np.where(counted, target, 0))
    )
    scores = image_metrics(*maps, torch.from_numpy(counted)[None, None], "official", 30.0)
    found = [float(scores[name]) for name in ("abs_rel", "rmse", "delta1", "log10")]
    expected = ORACLE[rule, nearest_m]
    assert found[0] == pytest.approx(expected[0], abs=0.01 if expected[0] > 1 else 0.001)
    np.testing.assert_allclose(found[1:], expected[1:], atol=0.001)


def test_a_loud_left_ear_stays_loud(triple):
    """Mean level difference of the ears over the cut record, in dB: -0.8 (left minus right)."""
    samples, rate = read_wav(triple / "audio_47.wav")
    magnitude = spectrogram(crop(samples, rate, 30.0, 0), SpectrogramSettings(size=None, normalisation="raw"))
    level = 20 * torch.log10(magnitude.clamp(min=1e-5))
    assert (level[0] - level[1]).mean() == pytest.approx(-0.8, abs=0.1)
