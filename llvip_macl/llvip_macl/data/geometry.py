"""Mosaic and resizing on pairs, beyond what running mmdet's transforms twice gives."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmdet.registry import TRANSFORMS

from shared.errors import ConfigError

from .pair_transforms import PairedTransform

PARTNERS = 3  # images a mosaic adds


@TRANSFORMS.register_module()
class PairedMosaic(PairedTransform):
    """mmdet's Mosaic (whose arguments it takes): four pairs, laid out alike in visible and infrared.

    The data set reads the three partners through the steps before this one; mmdet's MultiImageMixDataset is neither
    needed nor supported. The canvas is twice `img_scale` (width, height), as in mmdet.
    """

    mixes = True

    def __init__(self, **kwargs: Any):
        if isinstance(kwargs.get("img_scale"), list):  # as --cfg-options gives it
            kwargs["img_scale"] = tuple(kwargs["img_scale"])
        super().__init__([{**kwargs, "type": "mmdet.Mosaic"}])

    @staticmethod
    def partners(samples: int) -> list[int]:
        """Indices of the pairs to mix in, drawn from numpy's global generator."""
        return [int(np.random.randint(samples)) for _ in range(PARTNERS)]  # noqa: NPY002 - the sample's own draws

    def transform(self, results: dict) -> dict:
        results = super().transform(results)
        results.pop("mix_results")
        return results


def resize_config(config: dict) -> dict:
    """The transform that a Resize config asks for.

    `scale=[(640, 640), (672, 672)], random_choice=True` draws one of the scales; `scale=(640, 640)` or [640, 640] is
    mmdet's own.

    Raises:
        ConfigError: several scales without random_choice, or random_choice without several scales.
    """
    config = dict(config)
    random_choice, scale = config.pop("random_choice", False), config.get("scale")
    several = isinstance(scale, list) and all(isinstance(one, list | tuple) for one in scale)
    if random_choice != several:
        raise ConfigError(
            f"Resize(scale={scale}, random_choice={random_choice}): give a list of (width, height) with "
            "random_choice=True, or one (width, height) without."
        )
    if several:
        scales = [tuple(one) for one in config.pop("scale")]
        return {**config, "type": "RandomChoiceResize", "scales": scales, "resize_type": "mmdet.Resize"}
    if isinstance(scale, list):
        config["scale"] = _width_height(scale)
    return {**config, "type": "mmdet.Resize"}


def choice_resize_config(config: dict) -> dict:
    """RandomResize and RandomChoiceResize with mmdet's Resize inside: mmcv's moves arrays, not box objects."""
    return {"resize_type": "mmdet.Resize", **config}


def _width_height(scale: Sequence[int]) -> tuple[int, int]:
    if len(scale) != 2:
        raise ConfigError(f"Resize(scale={scale}): a scale is (width, height).")
    return int(scale[0]), int(scale[1])
