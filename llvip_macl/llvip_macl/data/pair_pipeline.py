"""A plain mmdet pipeline that works on pairs.

    [LoadImageFromFile, LoadAnnotations, Resize, RandomFlip, ColorJitter, RandomCrop, PackDetInputs]

reads both halves, resizes, flips and crops them by the same draws, jitters the visible one, and packs both. What a
transform does to a pair is decided by its name:

    loading, packing, Mosaic     their paired counterparts
    geometric                    PairedTransform: the same draws for both halves
    photometric                  OneModality: `modality='vis'` (default), 'ir' or 'both' stands in its config
    RandomApply, RandomChoice    geometric when all they hold is, photometric likewise; mixed ones are refused
    our own (`paired = True`)    as they are

Anything else is refused with the way to say what it is: wrap it in PairedTransform or OneModality.
"""

from collections.abc import Callable, Iterator, Sequence

from mmdet.registry import TRANSFORMS

from shared.errors import ConfigError

from . import photometric  # noqa: F401 - registers the transforms that mmdet lacks
from .geometry import PairedMosaic, choice_resize_config, resize_config
from .packing import PackPairedDetInputs
from .pair_transforms import LoadImagePair, LoadPairAnnotations, OneModality, PairedTransform

COUNTERPARTS = {
    "LoadImageFromFile": LoadImagePair,
    "LoadAnnotations": LoadPairAnnotations,
    "Mosaic": PairedMosaic,
    "PackDetInputs": PackPairedDetInputs,
}
GEOMETRIC = frozenset({
    "Resize", "FixScaleResize", "FixShapeResize", "ResizeShortestEdge", "RandomResize", "RandomChoiceResize",
    "RandomFlip", "RandomShift", "Pad", "RandomCrop", "MinIoURandomCrop", "Expand", "RandomAffine", "RandomErasing",
    "CutOut", "Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY", "FilterAnnotations",
})  # fmt: skip
PHOTOMETRIC = frozenset({
    "ColorJitter", "RandomBrightnessContrast", "PhotoMetricDistortion", "YOLOXHSVRandomAug", "Color", "Brightness",
    "Contrast", "Sharpness", "Solarize", "SolarizeAdd", "Posterize", "Equalize", "AutoContrast", "Invert",
})  # fmt: skip
WITH_MODALITY = frozenset({"ColorJitter", "RandomBrightnessContrast"})  # take `modality` themselves
WRAPPERS = frozenset({"RandomApply", "RandomChoice"})
MMCVS = WRAPPERS | {"RandomResize", "RandomChoiceResize"}  # registered by mmcv, where mmdet has none of that name
REBUILT = {"Resize": resize_config, "RandomResize": choice_resize_config, "RandomChoiceResize": choice_resize_config}
REFUSED = {
    "Albu": "its random generators are its own, so its draws cannot be repeated for the other half",
    "MixUp": "it blends persons of two pairs",
    "CachedMixUp": "it blends persons of two pairs, from a cache that makes samples depend on their order",
    "CachedMosaic": "its cache makes samples depend on their order; use Mosaic",
    "CopyPaste": "it needs masks",
    "InstaBoost": "it needs masks",
    "Normalize": "PairedDetDataPreprocessor normalises, each modality by its own statistics",
    "AutoAugment": "it mixes geometric and photometric changes",
    "RandAugment": "it mixes geometric and photometric changes",
    "CenterCrop": "mmcv's does not know box objects; use RandomCrop or a Resize",
    "RandomCenterCropPad": "it normalises, with one mean for both halves",
}
Fetch = Callable[[int], dict]


class PairedPipeline:
    """The steps of a pipeline on pairs, called as mmcv's Compose.

    Args:
        transforms: configs (or transform objects) as in an mmdet config.

    Raises:
        ConfigError: a transform that is refused, unknown, or badly set.
    """

    def __init__(self, transforms: Sequence[dict | Callable]):
        self.transforms = [paired_step(transform) for transform in transforms]

    def __call__(self, results: dict, fetch: Fetch | None = None, samples: int = 0) -> dict:
        """Run all steps on a sample dict.

        Args:
            fetch: gives the sample dict of an index, for steps that mix in other pairs.
            samples: how many indices there are.
        """
        return self._run(results, len(self.transforms), fetch, samples)

    def _run(self, results: dict, steps: int, fetch: Fetch | None, samples: int) -> dict:
        for number, step in enumerate(self.transforms[:steps]):
            if getattr(step, "mixes", False):
                if fetch is None or not samples:
                    raise ConfigError(f"{type(step).__name__} needs a data set to take other pairs from.")
                others = [fetch(index) for index in step.partners(samples)]
                results["mix_results"] = [self._run(other, number, fetch, samples) for other in others]
            results = step(results)
        return results

    def __repr__(self) -> str:
        return f"PairedPipeline({', '.join(map(repr, self.transforms))})"


def paired_step(transform: dict | Callable) -> Callable:
    """What a transform of an mmdet pipeline becomes on pairs; see the module's docstring."""
    name = _name(transform)
    if name in REFUSED:
        raise ConfigError(f"{name} cannot be used on pairs: {REFUSED[name]}.")
    if name in COUNTERPARTS:
        return _counterpart(name, transform)
    if _is_paired(name, transform):
        return TRANSFORMS.build(transform) if isinstance(transform, dict) else transform
    kind = _kind(transform)
    if kind == "photometric":
        return _photometric(name, transform)
    return PairedTransform([_checked(name, transform)])


def _counterpart(name: str, transform: dict | Callable) -> Callable:
    if not isinstance(transform, dict):
        raise ConfigError(f"give {name} as a dict(type='{name}', ...): pairs need its settings.")
    return COUNTERPARTS[name](**{key: value for key, value in transform.items() if key != "type"})


def _photometric(name: str, transform: dict | Callable) -> OneModality:
    if not isinstance(transform, dict):
        return OneModality([transform], getattr(transform, "modality", "vis"))
    config = _checked(name, dict(transform))
    modality = config.get("modality", "vis") if name in WITH_MODALITY else config.pop("modality", "vis")
    return OneModality([config], modality)


def _checked(name: str, transform: dict | Callable) -> dict | Callable:
    """Configs that would fail for some samples only are refused before the first."""
    if not isinstance(transform, dict):
        return transform
    if name == "RandomCrop" and not transform.get("allow_negative_crop", False):
        raise ConfigError(
            "RandomCrop on pairs needs allow_negative_crop=True: without it a crop without persons rejects its sample, "
            "and paired data never put another in its place."
        )
    if name in WRAPPERS:
        return {**transform, "transforms": _scoped(transform.get("transforms", []))}
    return REBUILT[name](transform) if name in REBUILT else transform


def _scoped(held: object) -> object:
    """What a wrapper of mmcv holds, by mmdet's names: mmcv's own flip and resize do not know box objects."""
    if isinstance(held, list | tuple):
        return [_scoped(one) for one in held]
    if not isinstance(held, dict):
        return held
    config = _checked(_name(held), held)
    kind = config["type"]
    return {**config, "type": kind if kind in MMCVS or not isinstance(kind, str) else f"mmdet.{_name(config)}"}


def _kind(transform: dict | Callable) -> str:
    name = _name(transform)
    if name in WRAPPERS:
        kinds = {_kind(inner) for inner in _inner(transform)}
        if len(kinds) != 1:
            raise ConfigError(f"{name} holds {' and '.join(sorted(kinds)) or 'no'} transforms: give one of each kind.")
        return kinds.pop()
    if name in GEOMETRIC or name in PHOTOMETRIC:
        return "geometric" if name in GEOMETRIC else "photometric"
    raise ConfigError(
        f"what {name} does to a pair is unknown: write dict(type='PairedTransform', transforms=[...]) around it if it "
        "moves pixels and boxes, dict(type='OneModality', transforms=[...], modality='vis') if it changes values."
    )


def _inner(transform: dict | Callable) -> Iterator[dict | Callable]:
    if not isinstance(transform, dict):
        raise ConfigError(f"give {_name(transform)} as a dict: pairs need to know what it holds.")
    held = transform.get("transforms", [])
    for one in held if isinstance(held, list | tuple) else [held]:
        yield from one if isinstance(one, list | tuple) else [one]


def _name(transform: dict | Callable) -> str:
    if not isinstance(transform, dict):
        return type(transform).__name__
    if "type" not in transform:
        raise ConfigError(f"a step of the pipeline has no type: {transform}.")
    kind = transform["type"]
    return kind.rsplit(".", 1)[-1] if isinstance(kind, str) else kind.__name__


def _is_paired(name: str, transform: dict | Callable) -> bool:
    owner = (TRANSFORMS.get(name) if isinstance(transform["type"], str) else transform["type"]) if isinstance(
        transform, dict
    ) else type(transform)  # fmt: skip
    return bool(getattr(owner, "paired", False))
