"""Augmentation of a whole sample at once, so that ears, picture and depth stay one scene.

A mirrored room is a room: flipping picture, depth and mask left to right AND exchanging the ears gives another true
sample. A gain is the same for both ears. Time is never shifted: a shift is another range.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from batvision_kd.spectrogram import SpectrogramSettings, apply_gain, swap_ears

FLIP_SHARE = 0.5
GAIN_DB = 3.0  # either way
PICTURES = ("rgb", "depth", "valid")


def flip_sample(sample: Mapping[str, Any], settings: SpectrogramSettings) -> dict[str, Any]:
    """The mirrored scene: rgb, depth, valid (..., H, W) flipped along W and the ears of audio (..., C, H, W) exchanged.

    Twice gives the sample again. Works on a batch as on one sample, with or without "rgb".
    """
    flipped = {name: sample[name].flip(-1) for name in PICTURES if name in sample}
    return {**sample, **flipped, "audio": swap_ears(sample["audio"], settings)}


def augment_sample(
    sample: Mapping[str, Any], settings: SpectrogramSettings, rng: np.random.Generator
) -> dict[str, Any]:
    """Flipped half of the time, and louder or softer by up to 3 dB in both ears; two numbers are drawn from `rng`."""
    flip, gain_db = rng.random() < FLIP_SHARE, float(rng.uniform(-GAIN_DB, GAIN_DB))
    flipped = flip_sample(sample, settings) if flip else dict(sample)
    return {**flipped, "audio": apply_gain(flipped["audio"], settings, gain_db)}
