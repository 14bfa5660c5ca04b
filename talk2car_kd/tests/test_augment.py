"""Photometric augmentation: seeded by the caller alone, pixels only, mild in colour, no argument ignored."""

import random
import warnings

import cv2
import numpy as np
import pytest

from talk2car_kd import augment
from talk2car_kd.augment import Augment, get_augmented_transform

SIZE = 64


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    blocks = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return cv2.resize(blocks, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)


def test_same_generator_same_pixels(image):
    transform = get_augmented_transform(SIZE, strength=1.0)
    first = [transform(image, np.random.default_rng(seed)) for seed in range(20)]
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002 - global state must not matter
    second = [transform(image, np.random.default_rng(seed)) for seed in reversed(range(20))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert len({a.tobytes() for a in first}) > 15  # and other seeds, other pixels
    assert all(a.shape == image.shape and a.dtype == np.uint8 for a in first)


def test_one_draw_whatever_happens(image):
    rng = np.random.default_rng(1)
    get_augmented_transform(SIZE)(image, rng)
    reference = np.random.default_rng(1)
    reference.integers(augment.SEEDS)
    assert rng.integers(2**31) == reference.integers(2**31)


def test_no_geometry(image):
    """Averaged over many draws the picture stays where it is: it correlates with itself, not with its mirror."""
    transform = get_augmented_transform(SIZE, strength=1.0)
    mean = np.mean([transform(image, np.random.default_rng(seed)) for seed in range(60)], axis=0)
    correlate = lambda a, b: np.corrcoef(a.ravel(), b.ravel())[0, 1]  # noqa: E731
    assert correlate(mean, image.astype(float)) > 0.98
    assert correlate(mean, image[:, ::-1].astype(float)) < 0.5


def test_hue_stays_within_two_percent():
    red = np.full((SIZE, SIZE, 3), (200, 40, 40), np.uint8)
    transform = get_augmented_transform(SIZE, strength=0, colour=0.2)
    hues = []
    for seed in range(60):
        hue = cv2.cvtColor(transform(red, np.random.default_rng(seed)), cv2.COLOR_RGB2HSV)[0, 0, 0].astype(int)
        hues.append(min(hue, 180 - hue) / 180)  # 8-bit hues come in 180 steps
    assert 0 < max(hues) <= augment.MAX_HUE + 1 / 180


def test_zero_strength_and_colour_is_the_identity(image):
    assert np.array_equal(get_augmented_transform(SIZE, strength=0, colour=0)(image, np.random.default_rng(0)), image)


def test_unknown_arguments_are_errors(monkeypatch):
    """albumentations only warns and then uses a very strong default."""
    library = augment.albumentations
    monkeypatch.setattr(augment, "_artefacts", lambda size, strength: [library.GaussNoise(var_limit=(1, 2))])
    with pytest.raises(ValueError, match="var_limit"):
        get_augmented_transform(SIZE)


def test_own_arguments_are_known():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(get_augmented_transform(224, strength=1.0, colour=1.0), Augment)


@pytest.mark.parametrize("values", [{"strength": 1.5}, {"colour": -0.1}, {"image_size": 0}])
def test_values_out_of_range(values):
    with pytest.raises(ValueError, match="must be"):
        get_augmented_transform(**{"image_size": SIZE, **values})
