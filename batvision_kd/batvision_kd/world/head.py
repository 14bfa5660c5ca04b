"""Directions: how a speaker emits and how two ears on a head receive, by octave band.

A sphere stands for the head (Woodworth's delay; the one-pole shadow of Brown and Duda 1998). Ears are on its sides. A
speaker beams forward more the higher the frequency, and ear shells take some of what comes from behind; both are rough
stand-ins by a cosine law, not measurements.
"""

# P directions, B octave bands

import numpy as np

from .building import BANDS_HZ

HEAD_RADIUS_M = 0.0875
SPEAKER_M = np.array([0.10, 0.0, -0.15])  # forward, left, up from between the ears: 0.18 m away
BEAMING = np.array([0.1, 0.2, 0.4, 0.6, 0.75, 0.85, 0.9])  # (B,) 0 emits evenly, 1 as a cardioid
SHELL = np.array([0.0, 0.0, 0.05, 0.1, 0.25, 0.4, 0.4])  # (B,) amplitude lost of what comes from straight behind


def speaker_gain(cosine: np.ndarray) -> np.ndarray:
    """(P, B) amplitude emitted at the angle of this cosine (P,) to the view; 1 straight ahead."""
    return 1 - BEAMING * (1 - cosine[:, None]) / 2


def shell_gain(cosine: np.ndarray) -> np.ndarray:
    """(P, B) amplitude received from the angle of this cosine (P,) to the view; 1 straight ahead."""
    return 1 - SHELL * (1 - cosine[:, None]) / 2


def ear_delay_m(to_ear: np.ndarray) -> np.ndarray:
    """Path (P,) to an ear relative to the head's middle, in metres; to_ear: cosine between direction and ear axis.

    -a cos(theta) on the lit side, a (theta - pi/2) around the sphere in the shadow: the ears differ by
    a (theta + sin theta), 0.656 ms at 90 degrees.
    """
    shadow = np.arccos(np.clip(to_ear, -1, 1)) - np.pi / 2
    return HEAD_RADIUS_M * np.where(to_ear > 0, -to_ear, shadow)


def shadow_gain(to_ear: np.ndarray, speed_m_s: float) -> np.ndarray:
    """(P, B) amplitude at an ear, 1 at low frequencies: H = (1 + j alpha w/2w0) / (1 + j w/2w0), w0 = c / a,
    alpha = 1.05 + 0.95 cos(1.2 theta)."""
    alpha = 1.05 + 0.95 * np.cos(1.2 * np.arccos(np.clip(to_ear, -1, 1)))
    ratio = 2 * np.pi * BANDS_HZ * HEAD_RADIUS_M / (2 * speed_m_s)  # (B,)
    return np.sqrt((1 + (alpha[:, None] * ratio) ** 2) / (1 + ratio**2))
