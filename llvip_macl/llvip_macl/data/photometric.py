"""Colour and brightness changes that mmdet lacks; on pairs they touch one half (`modality`, visible by default).

Images are (H, W, 3) uint8 BGR. The changes are table look-ups and weighted sums of 8-bit images: a few milliseconds
for 640x512.
"""

from collections.abc import Callable

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmdet.registry import TRANSFORMS

from shared.errors import ConfigError

from .pair_transforms import check_modality

LEVELS = np.arange(256, dtype=np.float32)


def _table(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """image * factor, clipped."""
    return cv2.LUT(image, _table(LEVELS * factor))


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Distances to the mean grey level times factor, clipped."""
    mean = float(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).mean())
    return cv2.LUT(image, _table(mean + (LEVELS - mean) * factor))


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Distances to each pixel's grey level times factor, clipped; 0 is grey."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return cv2.addWeighted(image, factor, grey, 1 - factor, 0)


def adjust_hue(image: np.ndarray, turn: float) -> np.ndarray:
    """Hue turned by a share of the circle (-0.5 to 0.5), in steps of 1/256."""
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV_FULL)
    hsv[..., 0] += np.uint8(round(turn * 256) % 256)  # wraps around, as the circle does
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR_FULL)


CHANGES: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}


@TRANSFORMS.register_module()
class ColorJitter(BaseTransform):
    """Brightness, contrast, saturation and hue by random amounts in random order, as torchvision's ColorJitter.

    Args:
        brightness, contrast, saturation: factors are drawn from [max(0, 1 - v), 1 + v].
        hue: at most 0.5; the turn is drawn from [-hue, hue].
        modality: on pairs, the half that is changed: 'vis', 'ir', or 'both' with draws of their own.
    """

    def __init__(
        self,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        modality: str = "vis",
    ):
        self.amounts = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        self.modality = check_modality(modality)
        for name, amount in self.amounts.items():
            if amount < 0 or (name == "hue" and amount > 0.5):
                raise ConfigError(f"ColorJitter({name}={amount}): give a number from 0 on (hue: to 0.5).")

    @cache_randomness
    def draw(self) -> list[tuple[str, float]]:
        """(change, factor or turn) in the order they are applied."""
        names = [name for name in CHANGES if self.amounts[name] > 0]
        return [(names[i], self._factor(names[i])) for i in np.random.permutation(len(names))]  # noqa: NPY002

    def _factor(self, name: str) -> float:
        amount = self.amounts[name]
        if name == "hue":
            return float(np.random.uniform(-amount, amount))  # noqa: NPY002
        return float(np.random.uniform(max(0.0, 1 - amount), 1 + amount))  # noqa: NPY002

    def transform(self, results: dict) -> dict:
        for name, factor in self.draw():
            results["img"] = CHANGES[name](results["img"], factor)
        return results

    def __repr__(self) -> str:
        return f"ColorJitter({self.amounts}, modality={self.modality!r})"


@TRANSFORMS.register_module()
class RandomBrightnessContrast(BaseTransform):
    """image * (1 + c) + 255 * b with c, b drawn at random, as Albumentations' transform of this name.

    Args:
        brightness_limit: b is drawn from [-limit, limit].
        contrast_limit: c likewise.
        prob: how often it acts.
        modality: as in ColorJitter.
    """

    def __init__(
        self, brightness_limit: float = 0.2, contrast_limit: float = 0.2, prob: float = 0.5, modality: str = "vis"
    ):
        if not (0 <= brightness_limit <= 1 and 0 <= contrast_limit <= 1 and 0 <= prob <= 1):
            raise ConfigError(
                f"RandomBrightnessContrast(brightness_limit={brightness_limit}, contrast_limit={contrast_limit}, "
                f"prob={prob}): each lies between 0 and 1."
            )
        self.limits = (brightness_limit, contrast_limit)
        self.prob = prob
        self.modality = check_modality(modality)

    @cache_randomness
    def draw(self) -> tuple[float, float] | None:
        """(b, c), or None where it does not act."""
        acts, *amounts = np.random.uniform(0, 1, 3)  # noqa: NPY002
        if acts >= self.prob:
            return None
        return tuple(limit * (2 * amount - 1) for limit, amount in zip(self.limits, amounts, strict=True))

    def transform(self, results: dict) -> dict:
        drawn = self.draw()
        if drawn:
            brightness, contrast = drawn
            results["img"] = cv2.LUT(results["img"], _table(LEVELS * (1 + contrast) + 255 * brightness))
        return results

    def __repr__(self) -> str:
        return f"RandomBrightnessContrast(limits={self.limits}, prob={self.prob}, modality={self.modality!r})"
