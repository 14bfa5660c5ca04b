"""Keys that are given and change nothing, so that a run can name them: OpenPCDet's, and those of other maskings.

    without_effect(Experiment, data)     # OpenPCDet's keys that this package accepts and ignores
    unread_by_masking(experiment, data)  # masking keys that the chosen masking has no use for

`data` is the plain mapping as it was given: a default that nobody wrote is nobody's mistake.
"""

from collections.abc import Mapping
from typing import Any, get_args

from shared.config import Schema

from .config import Experiment, Ignored
from .config_checks import at

BACKBONE = "MODEL.BACKBONE_3D"
_SECTORS = ("MASKED_RATIO", "NUM_ANGULAR_GROUPS", "ANGULAR_GROUP_SIZE")
_BERNOULLI = ("DISTANCE_THRESHOLDS", "RANGE_MASK_PROBS")
READ_BY: Mapping[str, tuple[str, ...]] = {  # masking -> the keys that change its masks, beside the switches
    "radial": (*_SECTORS, "RADIAL_LEAST_KEEP"),
    "range_aware": (*_SECTORS, "RANGE_AWARE_LIMITS", "RANGE_AWARE_EXTRA_KEEP"),
    "range_only": _BERNOULLI,
    "two_stage": (*_SECTORS, *_BERNOULLI),
    "calibrated": (*_SECTORS, *_BERNOULLI),
}
MASKING_KEYS = tuple(dict.fromkeys(key for keys in READ_BY.values() for key in keys))


def without_effect(schema: type[Schema], data: Any, prefix: str = "") -> list[str]:
    """Dotted names of the given keys (values other than null) that are accepted and ignored; `data` is plain."""
    found: list[str] = []
    for name, field in schema.model_fields.items():
        if not isinstance(data, dict) or data.get(name) is None:
            continue
        if any(isinstance(mark, Ignored) for mark in field.metadata):
            found.append(prefix + name)
        for model in _schemas_in(field.annotation):
            parts = data[name] if isinstance(data[name], list) else [data[name]]
            found += [one for part in parts for one in without_effect(model, part, f"{prefix}{name}.")]
    return list(dict.fromkeys(found))


def _schemas_in(annotation: Any) -> list[type[Schema]]:
    if isinstance(annotation, type) and issubclass(annotation, Schema):
        return [annotation]
    return [model for part in get_args(annotation) for model in _schemas_in(part)]


def unread_by_masking(experiment: Experiment, data: Mapping[str, Any]) -> list[str]:
    """Dotted names of the given masking keys that the masking of the switches does not read; [] in detection, which
    refuses a mask anyway."""
    if not experiment.pretraining:
        return []
    given, read = at(data, BACKBONE) or {}, READ_BY[experiment.MODEL.BACKBONE_3D.masking]
    return [f"{BACKBONE}.{key}" for key in MASKING_KEYS if key in given and key not in read]
