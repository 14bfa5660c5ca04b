"""OpenCLIP distilled into a small ConvNeXt that grounds spoken driving commands.

The public names load on first use, so that `import talk2car_kd` and the light command lines stay quick.
"""

from importlib import import_module

_HOMES = {
    "student": ("DistilledConvNeXtTiny", "DistilledConvNeXtTinyMultiScale"),
    "grounding": ("Talk2CarModel", "TransformerGroundingHead", "ProjectionGroundingHead"),
    "coco": ("COCORegionTextDataset",),
    "augment": ("get_augmented_transform",),
    "talk2car": ("Talk2CarDataset",),
    "losses": ("DistillationLosses", "Talk2CarLoss"),
    "training": ("train_epoch", "fine_tune_epoch"),
    "evaluation": ("evaluate_talk2car",),
    "inference": ("inference_and_visualize",),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__():
    return [*globals(), *__all__]
