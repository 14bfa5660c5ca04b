"""Augmentation of a whole sample at once, so that ears, picture and depth stay one scene.

A mirrored room is a room: flipping picture, depth and mask left to right AND exchanging the ears gives another true
sample. A gain is the same for both ears. Time is never shifted: a shift is another range.

Colours are changed where a model learns from the picture: with a few buildings it would else learn which of them
has which colours. Ears and depth know nothing of it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from batvision_kd.spectrogram import SpectrogramSettings, apply_gain, swap_ears

FLIP_SHARE = 0.5
GAIN_DB = 3.0  # either way
CHANNEL_GAIN = 0.2  # each channel's, either way; of a logarithm, as the next two
BRIGHTNESS = 0.3
CONTRAST = 0.2
HUE_RAD = 0.6  # either way
SATURATION = (0.4, 1.3)
GREY = torch.full((3, 3), 1 / 3)
PICTURES = ("rgb", "depth", "valid")


def flip_sample(sample: Mapping[str, Any], settings: SpectrogramSettings) -> dict[str, Any]:
    """The mirrored scene: rgb, depth, valid (..., H, W) flipped along W and the ears of audio (..., C, H, W) exchanged.

    Twice gives the sample again. Works on a batch as on one sample, with or without "rgb".
    """
    flipped = {name: sample[name].flip(-1) for name in PICTURES if name in sample}
    return {**sample, **flipped, "audio": swap_ears(sample["audio"], settings)}


def augment_sample(
    sample: Mapping[str, Any], settings: SpectrogramSettings, rng: np.random.Generator, *, colours: bool = False
) -> dict[str, Any]:
    """Flipped half of the time, louder or softer by up to 3 dB in both ears; with `colours` the "rgb" is recoloured.

    Flip and gain are the first two numbers drawn from `rng`, so they do not depend on `colours`.
    """
    flip, gain_db = rng.random() < FLIP_SHARE, float(rng.uniform(-GAIN_DB, GAIN_DB))
    flipped = flip_sample(sample, settings) if flip else dict(sample)
    changed = {**flipped, "audio": apply_gain(flipped["audio"], settings, gain_db)}
    return {**changed, "rgb": recoloured(changed["rgb"], rng)} if colours else changed


def recoloured(rgb: Tensor, rng: np.random.Generator) -> Tensor:
    """(3,H,W) float32 of 0..1 with another hue, saturation, contrast, brightness and balance of the channels.

    What is where does not change: equal pixels stay equal, and the order of grey levels of a grey picture stays.
    """
    gains = np.exp(rng.uniform(-BRIGHTNESS, BRIGHTNESS) + rng.uniform(-CHANNEL_GAIN, CHANNEL_GAIN, 3))
    mixed = hue_matrix(float(rng.uniform(-HUE_RAD, HUE_RAD)), float(rng.uniform(*SATURATION)))
    contrast = float(np.exp(rng.uniform(-CONTRAST, CONTRAST)))
    turned = torch.einsum("ij,jhw->ihw", torch.from_numpy(gains).float()[:, None] * mixed, rgb)
    mean = turned.mean()
    return (mean + contrast * (turned - mean)).clamp(0, 1)


def hue_matrix(angle: float, saturation: float) -> Tensor:
    """(3, 3): turns colours about the grey axis by `angle` (radians) and scales their distance from it; greys stay."""
    rotation = torch.matrix_exp(angle / 3**0.5 * torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]))
    return GREY + saturation * (rotation - GREY)
