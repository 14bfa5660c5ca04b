"""Transforms on pairs: one draw moves both images and their boxes, brightness and colour touch one image.

A sample dict holds `img` (H, W, 3) uint8 BGR visible, `img_ir` likewise infrared, `gt_bboxes` for the visible image
and, where the labels have boxes per modality, `gt_bboxes_ir`.

`PairedTransform` runs a transform of mmdet on the visible half, puts the random generators back, and runs it on the
infrared half with the same boxes; then it checks that both runs drew as much and came to the same shape, scale, flip,
and boxes. So it holds for any transform that draws from random, numpy or torch, whether or not its draws are marked
with mmcv's `cache_randomness`; a transform with a generator of its own is refused by name (see `pair_pipeline`).
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import BaseBoxes, get_box_type

from shared.errors import ConfigError, DataError

from .pair_boxes import PersonRows
from .randomness import capture, restore

MODALITIES = ("vis", "ir", "both")
KEYS = {"vis": "img", "ir": "img_ir"}  # modality -> key of its image
SHARED_KEYS = (  # what a transform says about what it did: must be the same for both halves
    "img_shape", "flip", "flip_direction", "scale", "scale_factor", "scale_idx", "homography_matrix",
    "gt_bboxes", "gt_bboxes_labels", "gt_ignore_flags",
)  # fmt: skip


def build(transform: dict | Callable) -> Callable:
    """A transform from its config; mmdet's before mmcv's of the same name."""
    return TRANSFORMS.build(transform) if isinstance(transform, dict) else transform


def check_modality(modality: str, allowed: Sequence[str] = MODALITIES) -> str:
    """The modality, or a ConfigError that lists those there are."""
    if modality not in allowed:
        raise ConfigError(f"modality={modality!r} is unknown: choose one of {', '.join(map(repr, allowed))}.")
    return modality


def sample_name(results: dict) -> str:
    """A sample for messages: both its files."""
    return f"{results.get('img_path', 'an image')} + {results.get('img_ir_path', 'its infrared half')}"


# ---------------------------------------------------------------- both halves alike


@TRANSFORMS.register_module()
class PairedTransform(BaseTransform):
    """Geometric transforms with the same draws for both halves.

    Args:
        transforms: configs or transforms that act on `img` and the boxes.

    Raises:
        DataError: the halves came apart (the transform looks at pixels or at a generator of its own), a half is
            missing, or a transform gave nothing back.
    """

    paired = True

    def __init__(self, transforms: Sequence[dict | Callable]):
        self.transforms = [build(transform) for transform in transforms]

    def transform(self, results: dict) -> dict:
        for transform in self.transforms:
            results = on_both(transform, results)
        return results

    def __repr__(self) -> str:
        return f"PairedTransform({', '.join(map(repr, self.transforms))})"


def on_both(transform: Callable, results: dict) -> dict:
    """One transform on both halves; see the module's docstring."""
    parts = [results, *results.get("mix_results", [])]
    if "img_ir" not in results:
        raise DataError(f"{sample_name(results)}: only one half is loaded when {_name(transform)} runs; load both.")
    rows = PersonRows(parts) if "gt_bboxes_ir" in results else None
    infrared, before = _infrared_view(results), capture()
    first = _given(transform(results), transform, infrared)
    after = capture()
    restore(before)
    second = _given(transform(infrared), transform, infrared)
    if not capture().equals(after):
        raise _came_apart(transform, first, "it drew more random numbers for one half than for the other")
    _check_alike(transform, first, second)
    first["img_ir"] = second["img"]
    if rows:
        rows.split(first)
    return first


def _infrared_view(results: dict) -> dict:
    """A sample dict with the infrared image as `img`, sharing nothing that transforms change in place."""
    view = {key: copy.copy(value) for key, value in results.items() if key not in ("img", "img_ir", "mix_results")}
    view["img"] = results["img_ir"]
    if "gt_bboxes" in results:
        view["gt_bboxes"] = results["gt_bboxes"].clone()
    if "mix_results" in results:
        view["mix_results"] = [_infrared_view(part) for part in results["mix_results"]]
    return view


def _given(results: dict | None, transform: Callable, before: dict) -> dict:
    if results is None:
        raise DataError(
            f"{sample_name(before)}: {_name(transform)} rejected this sample, and paired data never put another in "
            "its place; let it keep samples without persons (allow_negative_crop=True, keep_empty=False...)."
        )
    return results


def _check_alike(transform: Callable, first: dict, second: dict) -> None:
    if first["img"].shape[:2] != second["img"].shape[:2]:
        raise _came_apart(transform, first, f"shapes {first['img'].shape} and {second['img'].shape}")
    for key in SHARED_KEYS:
        if not _equal(first.get(key), second.get(key)):
            raise _came_apart(transform, first, f"{key} {first.get(key)} and {second.get(key)}")


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, BaseBoxes):
        return isinstance(b, BaseBoxes) and torch.equal(a.tensor, b.tensor)
    return bool(np.array_equal(a, b)) if isinstance(a, np.ndarray) else a == b


def _came_apart(transform: Callable, results: dict, how: str) -> DataError:
    return DataError(
        f"{sample_name(results)}: {_name(transform)} treated the halves of the pair differently ({how}): "
        "it cannot be used on pairs; leave it out of the pipeline."
    )


def _name(transform: Callable) -> str:
    return type(transform).__name__


# ---------------------------------------------------------------- one half


@TRANSFORMS.register_module()
class OneModality(BaseTransform):
    """Photometric transforms on one half; with 'both', on each with draws of its own.

    Args:
        transforms: configs or transforms that change `img`'s values, not its shape.
        modality: 'vis', 'ir' or 'both'.
    """

    paired = True

    def __init__(self, transforms: Sequence[dict | Callable], modality: str = "vis"):
        self.transforms = [build(transform) for transform in transforms]
        self.modality = check_modality(modality)

    def transform(self, results: dict) -> dict:
        for modality in KEYS if self.modality == "both" else (self.modality,):
            for transform in self.transforms:
                results[KEYS[modality]] = self._changed(transform, results, KEYS[modality])
        return results

    @staticmethod
    def _changed(transform: Callable, results: dict, key: str) -> np.ndarray:
        image = results[key]
        changed = transform({"img": image, "img_shape": image.shape[:2]})["img"]
        if changed.shape != image.shape:
            raise DataError(
                f"{sample_name(results)}: {_name(transform)} changed the shape of one half from {image.shape} to "
                f"{changed.shape}: a geometric transform belongs into PairedTransform."
            )
        return changed

    def __repr__(self) -> str:
        return f"OneModality({', '.join(map(repr, self.transforms))}, modality={self.modality!r})"


# ---------------------------------------------------------------- loading


@TRANSFORMS.register_module()
class LoadImagePair(BaseTransform):
    """Reads `img_path` and `img_ir_path` with mmcv's LoadImageFromFile (whose arguments it takes).

    One channel is repeated to three. Sizes must agree with each other, and with the size the labels state.

    Raises:
        DataError: a file is missing or no image, or the sizes differ.
    """

    paired = True

    def __init__(self, **kwargs: Any):
        self.load = build({**kwargs, "type": "LoadImageFromFile"})

    def transform(self, results: dict) -> dict:
        if not results.get("img_ir_path"):
            raise DataError(f"{results.get('img_path')} comes without an infrared image: this is no paired data set.")
        stated_hw = results.get("height"), results.get("width")
        results = self._read(results)
        infrared = self._read({"img_path": results["img_ir_path"]})["img"]
        height, width = results["img"].shape[:2]
        if infrared.shape[:2] != (height, width):
            raise DataError(
                f"{results['img_path']} is {width}x{height}, its partner {results['img_ir_path']} is "
                f"{infrared.shape[1]}x{infrared.shape[0]}: halves of a pair need one size; register and resize them."
            )
        if None not in stated_hw and stated_hw != (height, width):
            raise DataError(
                f"{results['img_path']} is {width}x{height}, its labels are for {stated_hw[1]}x{stated_hw[0]}: "
                "use the images the labels were made for."
            )
        results.update(img_ir=infrared, height=height, width=width)
        return results

    def _read(self, results: dict) -> dict:
        path = results["img_path"]
        try:
            results = self.load(results)
        except FileNotFoundError:
            raise DataError(f"{path} is missing: extract the images again.") from None
        except AssertionError as error:  # mmcv's word for bytes that are no image
            raise DataError(f"{path} cannot be read as an image ({error}): extract it again.") from error
        if results is None:
            raise DataError(f"{path} cannot be read, and ignore_empty=True has no meaning for a pair; remove it.")
        results["img"] = _three_channels(results["img"], path)
        return results

    def __repr__(self) -> str:
        return f"LoadImagePair({self.load!r})"


def _three_channels(image: np.ndarray, path: str) -> np.ndarray:
    image = image[..., None] if image.ndim == 2 else image
    if image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)
    if image.shape[2] != 3:
        raise DataError(f"{path} has {image.shape[2]} channels, not 1 or 3: convert it.")
    return image


@TRANSFORMS.register_module()
class LoadPairAnnotations(BaseTransform):
    """mmdet's LoadAnnotations (whose arguments it takes), with `gt_bboxes_ir` where instances carry `bbox_ir`.

    Boxes are clipped to the image; `instances` keeps them as annotated, for evaluation.
    """

    paired = True

    def __init__(self, **kwargs: Any):
        self.load = build({**kwargs, "type": "LoadAnnotations"})

    def transform(self, results: dict) -> dict:
        results = self.load(results)
        if "gt_bboxes" not in results:
            return results
        boxes_ir = [instance["bbox_ir"] for instance in results["instances"] if "bbox_ir" in instance]
        if results.get("has_boxes_ir", bool(boxes_ir)):
            _, boxes = get_box_type(self.load.box_type)
            results["gt_bboxes_ir"] = boxes(np.asarray(boxes_ir, np.float32).reshape(-1, 4))
        for key in ("gt_bboxes", "gt_bboxes_ir"):
            if key in results and "img_shape" in results:
                results[key].clip_(results["img_shape"])
        return results

    def __repr__(self) -> str:
        return f"LoadPairAnnotations({self.load!r})"
