"""What settings must say together: list lengths, ranges, classes. Each check reads the plain mapping and returns lines.

The checks work on unchecked data, so that one message can name them beside wrong types and unknown keys: a check skips
what has another form than it expects, since the schema complains of that.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

CODES = {"center": 2, "center_z": 1, "dim": 3, "rot": 2}  # numbers that each branch regresses
Data = Mapping[str, Any]
Check = Callable[[Data], Iterator[str]]


def problems(data: Data) -> list[str]:
    """One line for each contradiction in a configuration: key = value: what it should be."""
    return [line for check in CHECKS for line in check(data)]


def at(data: Any, path: str) -> Any:
    """The value at a dotted path, None when it is not there."""
    for part in path.split("."):
        data = data.get(part) if isinstance(data, Mapping) else None
    return data


def _is_numbers(value: Any, count: int | None = None) -> bool:
    numbers = isinstance(value, Sequence) and all(isinstance(one, int | float) for one in value)
    return numbers and (count is None or len(value) == count)


# --- data -------------------------------------------------------------------------------------------------------------


def _range(data: Data) -> Iterator[str]:
    path = "DATA_CONFIG.POINT_CLOUD_RANGE"
    value = at(data, path)
    if _is_numbers(value, 6) and any(low >= high for low, high in zip(value[:3], value[3:], strict=True)):
        yield f"{path} = {value}: the first three numbers must be below the last three"


def _cells(data: Data) -> Iterator[str]:
    """The stride-8 map wants whole cells; OpenPCDet asks for multiples of 16 in x and y."""
    extent, size = at(data, "DATA_CONFIG.POINT_CLOUD_RANGE"), _processor(data, "transform_points_to_voxels")
    voxel = size.get("VOXEL_SIZE")
    if size == {}:
        yield "DATA_CONFIG.DATA_PROCESSOR: there is no transform_points_to_voxels, and so no grid"
    if not (_is_numbers(extent, 6) and _is_numbers(voxel, 3) and min(voxel) > 0):
        return
    for axis, low, high, step in zip("xyz", extent[:3], extent[3:], voxel, strict=True):
        cells = (high - low) / step
        multiple = 1 if axis == "z" else 8
        if abs(cells / multiple - round(cells / multiple)) > 1e-3:
            yield (
                f"DATA_CONFIG.DATA_PROCESSOR.VOXEL_SIZE = {voxel}: {cells:.6g} cells along {axis}; the range must hold "
                f"a multiple of {multiple}"
            )


def _processor(data: Data, name: str) -> Data:
    steps = at(data, "DATA_CONFIG.DATA_PROCESSOR")
    steps = steps if isinstance(steps, list) else []
    return next((one for one in steps if isinstance(one, Mapping) and one.get("NAME") == name), {})


def _features(data: Data) -> Iterator[str]:
    path = "DATA_CONFIG.POINT_FEATURE_ENCODING"
    used, stored = (at(data, f"{path}.{name}") for name in ("used_feature_list", "src_feature_list"))
    if not isinstance(used, list) or not isinstance(stored, list):
        return
    if used[:3] != ["x", "y", "z"] or stored[:3] != ["x", "y", "z"]:
        yield f"{path}: both lists begin with x, y, z; they are {used} and {stored}"
    if missing := [name for name in used if name not in stored]:
        yield f"{path}.used_feature_list = {used}: {', '.join(missing)} is not in src_feature_list {stored}"


def _database_features(data: Data) -> Iterator[str]:
    stored = at(data, "DATA_CONFIG.POINT_FEATURE_ENCODING.src_feature_list")
    for one in _augmentations(data, "gt_sampling"):
        count = one.get("NUM_POINT_FEATURES")
        if isinstance(stored, list) and isinstance(count, int) and count != len(stored):
            yield f"gt_sampling.NUM_POINT_FEATURES = {count}: src_feature_list has {len(stored)}"


def _augmentations(data: Data, name: str) -> list[Data]:
    found = at(data, "DATA_CONFIG.DATA_AUGMENTOR.AUG_CONFIG_LIST")
    found = found if isinstance(found, list) else []
    return [one for one in found if isinstance(one, Mapping) and one.get("NAME") == name]


def _sampled_classes(data: Data) -> Iterator[str]:
    """gt_sampling names known classes only, as class:count."""
    for one in _augmentations(data, "gt_sampling"):
        lists = {
            "SAMPLE_GROUPS": one.get("SAMPLE_GROUPS"),
            "PREPARE.filter_by_min_points": at(one, "PREPARE.filter_by_min_points"),
        }
        for name, entries in lists.items():
            for entry in entries if isinstance(entries, list) else []:
                yield from _class_count(data, f"gt_sampling.{name}", entry)


def _class_count(data: Data, where: str, entry: Any) -> Iterator[str]:
    classes, (name, colon, count) = at(data, "CLASS_NAMES"), str(entry).partition(":")
    if not colon or not count.isdigit():
        yield f"{where} has {entry!r}: write class:count, as {name or 'grader'}:15"
    elif isinstance(classes, list) and name not in classes:
        yield f"{where} has {entry!r}: {name} is not in CLASS_NAMES {classes}"


def _kitti_names(data: Data) -> Iterator[str]:
    classes, mapping = at(data, "CLASS_NAMES"), at(data, "DATA_CONFIG.MAP_CLASS_TO_KITTI")
    if isinstance(classes, list) and isinstance(mapping, Mapping):
        if missing := [name for name in classes if name not in mapping]:
            yield f"DATA_CONFIG.MAP_CLASS_TO_KITTI: {', '.join(map(str, missing))} has no name there"
    elif at(data, "MODEL.POST_PROCESSING.KITTI_MAPPING") is True:
        yield "MODEL.POST_PROCESSING.KITTI_MAPPING = True: DATA_CONFIG.MAP_CLASS_TO_KITTI gives no names"


# --- model ------------------------------------------------------------------------------------------------------------


def _sectors(data: Data) -> Iterator[str]:
    path = "MODEL.BACKBONE_3D"
    groups, size = (at(data, f"{path}.{name}") for name in ("NUM_ANGULAR_GROUPS", "ANGULAR_GROUP_SIZE"))
    if _is_numbers([groups, size]) and abs(groups * size - 360) > 1e-6:
        yield f"{path}: NUM_ANGULAR_GROUPS {groups} x ANGULAR_GROUP_SIZE {size} degrees make {groups * size:g}, not 360"
    thresholds = at(data, f"{path}.DISTANCE_THRESHOLDS")
    if _is_numbers(thresholds, 2) and thresholds[0] >= thresholds[1]:
        yield f"{path}.DISTANCE_THRESHOLDS = {thresholds}: the first must be below the second"


def _least_keep(data: Data) -> Iterator[str]:
    """R-MAE's rule is for unlucky draws; it must not replace every draw."""
    path = "MODEL.BACKBONE_3D"
    names = ("MASKED_RATIO", "USE_BERNOULLI_MASKING", "ENABLE_2STAGE_MASKING", "RADIAL_LEAST_KEEP")
    ratio, *switches, least = (at(data, f"{path}.{name}") for name in names)
    least = 0.1 if least is None else least
    if any(switches) or not _is_numbers([ratio, least]) or ratio + least <= 1 + 1e-9:
        return
    yield (
        f"{path}.RADIAL_LEAST_KEEP = {least}: sectors kept under MASKED_RATIO {ratio} hold less, so that every mask "
        f"would be a random {least:g} of the voxels instead; write RADIAL_LEAST_KEEP: 0.0"
    )


def _channels(data: Data) -> Iterator[str]:
    path = "MODEL.BACKBONE_3D.CHANNELS"
    widths = at(data, path)
    if _is_numbers(widths, 5) and widths[3] != widths[4]:
        yield f"{path} = {widths}: the last two must be equal, because the fusion adds conv4, conv5 and conv6"


def _modes(data: Data) -> Iterator[str]:
    """Pretraining and detection, each with what it needs."""
    backbone = at(data, "MODEL.BACKBONE_3D") or {}
    if not isinstance(backbone, Mapping):
        return
    pretraining, ratio = backbone.get("PRETRAINING", False), backbone.get("MASKED_RATIO", 0.0)
    if pretraining is True and ratio == 0:
        yield "MODEL.BACKBONE_3D.MASKED_RATIO = 0: pretraining (PRETRAINING: True) masks; take 0.8"
    if pretraining is False:
        if ratio != 0:
            yield f"MODEL.BACKBONE_3D.MASKED_RATIO = {ratio}: detection (PRETRAINING: False) never masks; write 0.0"
        if backbone.get("ENABLE_TEACHER_STUDENT") is True:
            yield "MODEL.BACKBONE_3D.ENABLE_TEACHER_STUDENT = True: there is a teacher in pretraining only"
        if at(data, "MODEL.DENSE_HEAD") is None:
            yield "MODEL.DENSE_HEAD: is missing; detection (PRETRAINING: False) needs a head"
    if backbone.get("CALIBRATED_MASKING") is True and not (
        backbone.get("USE_BERNOULLI_MASKING") is True and backbone.get("ENABLE_2STAGE_MASKING") is True
    ):
        yield "MODEL.BACKBONE_3D.CALIBRATED_MASKING = True: it calibrates ENABLE_2STAGE_MASKING with "\
              "USE_BERNOULLI_MASKING; set both to True"  # fmt: skip


def _weights(data: Data) -> Iterator[str]:
    """The weighted terms are those of the mode, and at least one is above 0."""
    pretraining = at(data, "MODEL.BACKBONE_3D.PRETRAINING") is True
    ours, others = ("RMAE_WEIGHT", "DETECTION_WEIGHT")[:: 1 if pretraining else -1]
    values = at(data, "LOSS_CONFIG")
    if not isinstance(values, Mapping):
        return
    mode = "pretraining" if pretraining else "detection"
    for name in (others,) if pretraining else (others, "TEACHER_STUDENT_WEIGHT"):
        if values.get(name):
            yield f"LOSS_CONFIG.{name} = {values[name]}: this term is not part of {mode}; write 0.0"
    if not values.get(ours) and not (pretraining and values.get("TEACHER_STUDENT_WEIGHT")):
        yield f"LOSS_CONFIG.{ours} = {values.get(ours, 0.0)}: nothing is left to train in {mode}"


def _teacher_terms(data: Data) -> Iterator[str]:
    backbone, weight = at(data, "MODEL.BACKBONE_3D"), at(data, "LOSS_CONFIG.TEACHER_STUDENT_WEIGHT")
    if not isinstance(backbone, Mapping) or not weight:
        return
    if backbone.get("ENABLE_TEACHER_STUDENT") is not True:
        yield (
            f"LOSS_CONFIG.TEACHER_STUDENT_WEIGHT = {weight}: without MODEL.BACKBONE_3D.ENABLE_TEACHER_STUDENT "
            "there is no teacher"
        )
    switches = ("ENABLE_MLFR", "ENABLE_VOXEL_CONTRASTIVE", "ENABLE_FRAME_CONTRASTIVE")
    if not any(backbone.get(name) is True for name in switches):
        yield f"LOSS_CONFIG.TEACHER_STUDENT_WEIGHT = {weight}: none of {', '.join(switches)} is True"


# --- head -------------------------------------------------------------------------------------------------------------

HEAD = "MODEL.DENSE_HEAD"


def _scales(data: Data) -> Iterator[str]:
    path = "MODEL.BACKBONE_3D.MLFR_CONFIG"
    scales, weights = at(data, f"{path}.SCALES") or [1, 2, 3, 4], at(data, f"{path}.SCALE_WEIGHTS")
    if isinstance(weights, list) and len(weights) != len(scales):
        yield f"{path}.SCALE_WEIGHTS = {weights}: {len(weights)} values for SCALES {scales}"
    if len(set(map(str, scales))) != len(scales):
        yield f"{path}.SCALES = {scales}: each scale once"


def _head_classes(data: Data) -> Iterator[str]:
    heads, classes = at(data, f"{HEAD}.CLASS_NAMES_EACH_HEAD"), at(data, "CLASS_NAMES")
    if isinstance(heads, list) and isinstance(classes, list) and all(isinstance(one, list) for one in heads):
        named = [name for head in heads for name in head]
        if sorted(map(str, named)) != sorted(map(str, classes)):
            yield f"{HEAD}.CLASS_NAMES_EACH_HEAD = {heads}: together the heads have each of {classes} once"


def _head_width(data: Data) -> Iterator[str]:
    width, features = at(data, f"{HEAD}.INPUT_FEATURES"), at(data, "MODEL.BACKBONE_3D.FEATURE_DIM")
    if at(data, HEAD) is not None and (width or 128) != (features or 128):
        yield f"{HEAD}.INPUT_FEATURES = {width or 128}: the backbone gives FEATURE_DIM {features or 128}"
    shared = at(data, f"{HEAD}.SHARED_CONV_CHANNEL")
    if at(data, HEAD) is not None and (shared or 128) != (features or 128):
        yield f"{HEAD}.SHARED_CONV_CHANNEL = {shared or 128}: the shared convolution is the backbone's, with "\
              f"FEATURE_DIM {features or 128}"  # fmt: skip


def _code_weights(data: Data) -> Iterator[str]:
    path = f"{HEAD}.LOSS_CONFIG.LOSS_WEIGHTS.code_weights"
    weights, order = at(data, path), at(data, f"{HEAD}.SEPARATE_HEAD_CFG.HEAD_ORDER") or list(CODES)
    if isinstance(weights, list) and isinstance(order, list):
        needed = sum(CODES.get(str(name), 0) for name in order)
        if len(weights) != needed:
            parts = ", ".join(f"{name} {CODES.get(str(name), 0)}" for name in order)
            yield f"{path} = {weights}: {len(weights)} values; the head regresses {needed} numbers ({parts})"


def _centre_range(data: Data) -> Iterator[str]:
    path = f"{HEAD}.POST_PROCESSING.POST_CENTER_LIMIT_RANGE"
    kept, extent = at(data, path), at(data, "DATA_CONFIG.POINT_CLOUD_RANGE")
    if _is_numbers(kept, 6) and _is_numbers(extent, 6):
        low = any(k > e for k, e in zip(kept[:3], extent[:3], strict=True))
        high = any(k < e for k, e in zip(kept[3:], extent[3:], strict=True))
        if low or high:
            yield f"{path} = {kept}: it must cover POINT_CLOUD_RANGE {extent}; objects beyond it would never be found"


def _nms(data: Data) -> Iterator[str]:
    path = f"{HEAD}.POST_PROCESSING.NMS_CONFIG"
    thresholds, per_class, classes = (at(data, f"{path}.NMS_THRESH"), at(data, f"{path}.MULTI_CLASSES_NMS"),
                                      at(data, "CLASS_NAMES"))  # fmt: skip
    if isinstance(thresholds, list) and per_class is not True:
        yield (
            f"{path}.NMS_THRESH = {thresholds}: a list is one value a class, and MULTI_CLASSES_NMS is "
            f"{per_class}; write MULTI_CLASSES_NMS: True, or one number"
        )
    if isinstance(thresholds, list) and isinstance(classes, list) and len(thresholds) != len(classes):
        yield f"{path}.NMS_THRESH = {thresholds}: {len(thresholds)} values for {len(classes)} classes {classes}"


def _rectifier(data: Data) -> Iterator[str]:
    path = f"{HEAD}.POST_PROCESSING.IOU_RECTIFIER"
    values, classes = at(data, path), at(data, "CLASS_NAMES")
    order = at(data, f"{HEAD}.SEPARATE_HEAD_CFG.HEAD_ORDER") or list(CODES)
    if values is None:
        return
    if isinstance(values, list) and isinstance(classes, list) and len(values) != len(classes):
        yield f"{path} = {values}: {len(values)} values for {len(classes)} classes {classes}"
    if "iou" not in order:
        yield f"{path} = {values}: the head has no iou branch (HEAD_ORDER {order}); remove it"


def _judged_classes(data: Data) -> Iterator[str]:
    ious, classes = at(data, "MODEL.POST_PROCESSING.EVAL_IOU"), at(data, "CLASS_NAMES")
    if isinstance(ious, Mapping) and isinstance(classes, list) and set(ious) != set(classes):
        yield f"MODEL.POST_PROCESSING.EVAL_IOU = {dict(ious)}: it needs exactly the classes {classes}"


CHECKS: tuple[Check, ...] = (
    _range, _cells, _features, _database_features, _sampled_classes, _kitti_names, _sectors, _least_keep, _channels,
    _modes, _weights, _teacher_terms, _scales, _head_classes, _head_width, _code_weights, _centre_range, _nms,
    _rectifier, _judged_classes,
)  # fmt: skip
