"""Photometric augmentation, the only module that knows albumentations.

Geometry (crops, flips) belongs to the data sets, which must keep boxes, sides and words in step; here only pixel values
change, and mildly in colour: commands say "the red car", so the hue moves by 2 % at most and nothing turns grey.

albumentations keeps a random state of its own that ignores every seed and repeats itself across loader workers; each
call is therefore seeded from the caller's generator. Its argument errors are mere warnings ("Argument(s) ... are not
valid"), which would leave a very strong default in force; they are errors here. It asks the network for updates when
imported unless told not to.
"""

import os
import warnings

import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations

MAX_HUE = 0.02  # of the colour circle, either way
SEEDS = 2**31


class Augment:
    """A composed transform whose randomness is the caller's: same pixels and generator state, same result."""

    def __init__(self, transform: albumentations.Compose):
        self.transform = transform

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(H, W, 3) uint8 RGB -> the same shape and dtype; one number is drawn from `rng`."""
        self.transform.set_random_seed(int(rng.integers(SEEDS)))
        return self.transform(image=image)["image"]


def get_augmented_transform(image_size: int, strength: float = 0.5, colour: float = 0.2) -> Augment:
    """Light and colour, blur, noise, JPEG artefacts and small dropped patches.

    Args:
        image_size: side (px) of the crops it will see; blur grows with it.
        strength: 0..1, of blur, noise, artefacts and patches; 0 leaves them out.
        colour: 0..1; 0.2 lets contrast and saturation vary from 0.8 to 1.2 and shifts brightness by up to 10 % of the
            full scale; 0 leaves them alone.
    Raises:
        ValueError: a value out of range, or an argument that albumentations does not know.
    """
    if image_size < 1 or not 0 <= strength <= 1 or not 0 <= colour <= 1:
        raise ValueError(f"image_size {image_size} must be positive, strength {strength} and colour {colour} in 0..1")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=r".*not valid for transform.*")
        try:
            steps = _colours(colour) + _artefacts(image_size, strength)
            return Augment(albumentations.Compose(steps, seed=0))
        except UserWarning as error:
            raise ValueError(f"albumentations {albumentations.__version__}: {error}") from error


def _colours(colour: float) -> list:
    if colour == 0:
        return []
    light = {"brightness_limit": (-colour / 2, colour / 2), "contrast_limit": (-colour, colour)}
    hue = min(MAX_HUE, colour / 10)
    tint = {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1 - colour, 1 + colour), "hue": (-hue, hue)}
    return [albumentations.RandomBrightnessContrast(**light, p=0.8), albumentations.ColorJitter(**tint, p=0.4)]


def _artefacts(image_size: int, strength: float) -> list:
    if strength == 0:
        return []
    share = 0.4 * strength  # of the crops that get each artefact
    sigma_px = 0.1 + strength * image_size / 150
    hole = (0.03, 0.03 + 0.17 * strength)  # of the side
    return [
        albumentations.GaussianBlur(blur_limit=0, sigma_limit=(0.1, sigma_px), p=share),
        # One noise plane for all channels: a third of the time, and no colour of its own.
        albumentations.GaussNoise(std_range=(0.0, 0.06 * strength), per_channel=False, p=share),
        albumentations.ImageCompression(quality_range=(round(100 - 60 * strength), 100), p=share),
        albumentations.CoarseDropout(
            num_holes_range=(1, 2), hole_height_range=hole, hole_width_range=hole, fill="random_uniform", p=share
        ),
    ]
