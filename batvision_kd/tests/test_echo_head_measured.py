"""The sphere that stands for a head, held to a measured head and torso (University of Surrey, MIT licence).

The recording has 37 horizontal directions, clockwise from 270 (left) over 0 (ahead) to 90 (right), at 48 kHz. Its two
channels differ by 1.6 dB ahead, which is the recording's balance and is taken off.
"""

import numpy as np
import pytest

from batvision_kd.world.building import BANDS_HZ
from batvision_kd.world.head import ear_delay_m, shadow_gain
from batvision_kd.world.sound import SPEED_M_S

h5py = pytest.importorskip("h5py", reason="a SOFA file is HDF5")
pytestmark = pytest.mark.real
FFT = 1 << 16
JUDGED_BANDS = slice(2, 6)  # 1 to 8 kHz: below, torso and loudspeaker rule; above, the ear shell's folds


@pytest.fixture(scope="module")
def measured(real_samples):
    """(leftward (37,) sine of the angle, 1 to the left; responses (37, 2, 591); samples per second)."""
    with h5py.File(real_samples / "batvision" / "hrir" / "UniS_Anechoic_BRIR_48k.sofa") as file:
        clockwise = np.deg2rad(file["SourcePosition"][:, 0])
        return -np.sin(clockwise), file["Data.IR"][:], float(file["Data.SamplingRate"][0])


def lead_s(left: np.ndarray, right: np.ndarray, rate: float) -> float:
    """Seconds by which the left ear is earlier: the peak of the ears' correlation, within 1.2 ms."""
    spectrum = np.fft.rfft(right, FFT) * np.conj(np.fft.rfft(left, FFT))
    reach = round(1.2e-3 * rate)
    near = np.roll(np.fft.irfft(spectrum, FFT), reach)[: 2 * reach + 1]
    return (int(near.argmax()) - reach) / rate


def levels_db(responses: np.ndarray, rate: float) -> np.ndarray:
    """(37, bands) level of the left ear minus that of the right, 0 straight ahead."""
    hertz = np.fft.rfftfreq(1024, 1 / rate)
    energy = np.abs(np.fft.rfft(responses, 1024)) ** 2
    bands = [(hertz > band / 2**0.5) & (hertz < band * 2**0.5) for band in BANDS_HZ]
    found = np.stack([energy[..., band].sum(-1) for band in bands], -1)
    difference = 10 * np.log10(found[:, 0] / found[:, 1])
    return difference - difference[len(difference) // 2]


def test_the_recording_is_as_its_sheet_says(measured):
    leftward, responses, rate = measured
    assert responses.shape == (37, 2, 591) and rate == 48_000 and leftward[0] == pytest.approx(1)
    assert round(lead_s(*responses[0], rate) * rate) == 35


def test_the_ears_delay_is_the_heads(measured):
    """Within 0.08 ms (4 samples) everywhere: the measured head is a little larger than the sphere."""
    leftward, responses, rate = measured
    heard = np.array([lead_s(*pair, rate) for pair in responses])
    sphere = (ear_delay_m(-leftward) - ear_delay_m(leftward)) / SPEED_M_S
    np.testing.assert_allclose(sphere, heard, atol=0.08e-3)


def test_the_shadow_is_the_heads_in_side_size_and_rise_with_frequency(measured):
    leftward, responses, rate = measured
    heard = levels_db(responses, rate)[:, JUDGED_BANDS]
    gain = [shadow_gain(side, SPEED_M_S) for side in (leftward, -leftward)]
    sphere = 20 * np.log10(gain[0] / gain[1])[:, JUDGED_BANDS]
    to_a_side = np.abs(leftward) > 0.2
    assert (np.sign(heard[to_a_side]) == np.sign(sphere[to_a_side])).all()
    assert np.corrcoef(heard.ravel(), sphere.ravel())[0, 1] > 0.9
    assert np.abs(heard - sphere).mean() < 3  # dB; a head has a torso and folded ears, a sphere has neither
    assert (np.diff(np.abs(sphere[to_a_side]), axis=1) > 0).all()
