"""Transforms on pairs: after any geometric draw, image and box agree in both halves; colours touch one half."""

import random

import numpy as np
import pytest
import torch
from llvip_pair_samples import HW, INFRARED, VISIBLE, marked_sample
from mmengine.registry import init_default_scope

from llvip_macl.data.pair_pipeline import GEOMETRIC, PHOTOMETRIC, PairedPipeline, paired_step
from llvip_macl.data.pair_transforms import OneModality, PairedTransform
from llvip_macl.data.photometric import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation
from llvip_macl.data.randomness import SampleKey, capture, sample_draws, seed_from
from shared.errors import ConfigError, DataError

NOTE = [  # geometric steps of a usual pipeline
    {"type": "Resize", "scale": [(96, 96), (120, 120), (80, 64)], "random_choice": True, "keep_ratio": True},
    {"type": "RandomFlip", "prob": 0.5, "direction": ["horizontal", "vertical"]},
    {"type": "RandomCrop", "crop_size": (0.6, 0.6), "crop_type": "relative_range", "allow_negative_crop": True},
]
SETTINGS = {  # the least each transform needs; {} runs it with its own defaults
    "Resize": {"scale": (96, 96), "keep_ratio": True},
    "FixScaleResize": {"scale": (90, 90), "keep_ratio": True},
    "FixShapeResize": {"width": 100, "height": 90, "keep_ratio": False},
    "ResizeShortestEdge": {"scale": 50, "max_size": 100},
    "RandomResize": {"scale": (100, 100), "ratio_range": (0.6, 1.4), "keep_ratio": True},
    "RandomChoiceResize": {"scales": [(60, 60), (100, 100)], "keep_ratio": True},
    "RandomFlip": {"prob": 0.5},
    "RandomShift": {"prob": 0.7, "max_shift_px": 10},
    "Pad": {"size_divisor": 32},
    "RandomCrop": {"crop_size": (60, 50), "allow_negative_crop": True},
    "Rotate": {"prob": 0.8},
    "ShearX": {"prob": 0.8},
    "ShearY": {"prob": 0.8},
    "TranslateX": {"prob": 0.8, "img_border_value": 0},
    "TranslateY": {"prob": 0.8, "img_border_value": 0},
    "RandomErasing": {"n_patches": 2, "ratio": (0.05, 0.1)},
    "CutOut": {"n_holes": 2, "cutout_shape": (4, 4)},
    "FilterAnnotations": {"min_gt_bbox_wh": (1, 1), "keep_empty": False},
}
TOLERANCE_PX = 1.5  # interpolation and rounding
RIGHT_ANGLED = sorted(GEOMETRIC - {"Rotate", "ShearX", "ShearY", "RandomAffine", "RandomErasing", "CutOut"})


def mark(sample: dict, key: str, person: int) -> np.ndarray | None:
    """x1 y1 x2 y2 of the pixels that show a person; None when there are none."""
    found = np.argwhere(sample[key][..., person] > (VISIBLE if key == "img" else INFRARED) // 2)
    return None if len(found) == 0 else np.array([*found.min(0)[::-1], *found.max(0)[::-1] + 1])


def agree(sample: dict, key: str, boxes) -> int:
    """Asserts that each box lies on a person's pixels; the number of boxes checked."""
    checked, marks = 0, [found for person in range(2) if (found := mark(sample, key, person)) is not None]
    for box in boxes.tensor[~torch.from_numpy(sample["gt_ignore_flags"])].numpy():
        if (box[2:] - box[:2]).min() >= 4:  # else cut to a sliver
            assert marks and min(np.abs(found - box).max() for found in marks) <= TOLERANCE_PX, (box, marks)
            checked += 1
    return checked


def run(steps, seed, per_modality=False):
    pipeline = PairedPipeline(steps)
    with sample_draws(SampleKey(0, seed, 0)):
        return pipeline(marked_sample(seed, per_modality=per_modality))


@pytest.mark.parametrize("per_modality", [False, True])
def test_image_and_boxes_agree_in_both_halves_over_100_seeds(per_modality):
    checked, shapes, flips = 0, set(), set()
    for seed in range(100):
        sample = run(NOTE, seed, per_modality)
        assert sample["img"].shape == sample["img_ir"].shape
        assert sample["img_shape"] == sample["img"].shape[:2]
        checked += agree(sample, "img", sample["gt_bboxes"])
        checked += agree(sample, "img_ir", sample.get("gt_bboxes_ir", sample["gt_bboxes"]))
        shapes.add(sample["img_shape"])
        flips.add(sample["flip_direction"])
    assert checked > 200 and len(shapes) > 50 and flips == {None, "horizontal", "vertical"}


@pytest.mark.parametrize("name", sorted(GEOMETRIC))
def test_every_geometric_transform_keeps_the_halves_together(name):
    step = {"type": name, **SETTINGS.get(name, {})}
    for seed in range(8):
        for per_modality in (False, True):
            sample = run([step], seed, per_modality)
            if not per_modality:  # infrared is 1.25 times visible everywhere but in what a transform filled in
                visible, infrared = sample["img"].astype(float), sample["img_ir"].astype(float)
                explained = (np.abs(infrared - visible * INFRARED / VISIBLE) <= 2) | (infrared == visible)
                assert explained.mean() > 0.97
            if name in RIGHT_ANGLED:
                agree(sample, "img", sample["gt_bboxes"])
                agree(sample, "img_ir", sample.get("gt_bboxes_ir", sample["gt_bboxes"]))
            assert len(sample["gt_bboxes"]) == len(sample["gt_bboxes_labels"]) == len(sample["gt_ignore_flags"])


def test_affine_moves_pixels_and_boxes_of_both_halves():
    checked = 0
    for seed in range(30):
        step = {"type": "RandomAffine", "max_rotate_degree": 0.0, "max_shear_degree": 0.0, "border_val": (0, 0, 0)}
        sample = run([step], seed, per_modality=True)
        checked += agree(sample, "img", sample["gt_bboxes"])
        checked += agree(sample, "img_ir", sample["gt_bboxes_ir"])
    assert checked > 60


def test_a_person_lost_in_one_half_becomes_a_region_to_ignore():
    sample = marked_sample(0, per_modality=True, persons=1)
    sample["gt_bboxes"].tensor[:] = torch.tensor([2.0, 10, 12, 20])
    sample["gt_bboxes_ir"].tensor[:] = torch.tensor([30.0, 10, 40, 20])
    left = PairedTransform([_CropLeft()])(sample)
    assert left["gt_bboxes"].tensor.tolist() == left["gt_bboxes_ir"].tensor.tolist() == [[2, 10, 12, 20]]
    assert left["gt_ignore_flags"].tolist() == [True]


def test_persons_keep_their_order_and_labels_with_boxes_per_modality():
    sample = marked_sample(3, per_modality=True)
    sample["gt_bboxes_labels"] = np.array([7, 5])
    sample["gt_ignore_flags"] = np.array([False, True])
    before = [sample[key].tensor.clone() for key in ("gt_bboxes", "gt_bboxes_ir")]
    after = PairedTransform([lambda results: results])(sample)
    assert torch.equal(after["gt_bboxes"].tensor, before[0]) and torch.equal(after["gt_bboxes_ir"].tensor, before[1])
    assert after["gt_bboxes_labels"].tolist() == [7, 5] and after["gt_ignore_flags"].tolist() == [False, True]


class _CropLeft:
    """Keeps the left 20 columns."""

    def __call__(self, results):
        results["img"] = results["img"][:, :20]
        inside = results["gt_bboxes"].tensor[:, 0] < 20
        for key in ("gt_bboxes", "gt_bboxes_labels", "gt_ignore_flags"):
            results[key] = results[key][inside if key == "gt_bboxes" else inside.numpy()]
        return results


class _LooksAtPixels:
    def __call__(self, results):
        results["img"] = results["img"][: 30 if results["img"].max() > VISIBLE else 40]
        return results


class _DrawsByPixels:
    def __call__(self, results):
        np.random.rand(int(results["img"].max()))  # noqa: NPY002
        return results


class _OwnGenerator:
    generator = random.Random(0)

    def __call__(self, results):
        results["flip"] = self.generator.random()
        return results


@pytest.mark.parametrize(
    ("transform", "said"), [(_LooksAtPixels, "shapes"), (_DrawsByPixels, "random numbers"), (_OwnGenerator, "flip")]
)
def test_halves_that_come_apart_are_an_error_naming_the_transform(transform, said):
    with pytest.raises(DataError, match=rf"visible\.png \+ infrared\.png: {transform.__name__}.*{said}"):
        PairedTransform([transform()])(marked_sample(0, persons=2))


def test_one_half_and_rejected_samples_are_errors():
    sample = marked_sample(0)
    del sample["img_ir"]
    with pytest.raises(DataError, match="only one half is loaded"):
        paired_step({"type": "RandomFlip", "prob": 1.0})(sample)
    with pytest.raises(DataError, match=r"infrared\.png: FilterAnnotations rejected this sample"):
        paired_step({"type": "FilterAnnotations", "min_gt_bbox_wh": (999, 999)})(marked_sample(0))


# ---------------------------------------------------------------- mosaic


@pytest.fixture(scope="module")
def mosaic():
    """seed, per_modality -> a mosaic of four marked samples."""
    pipeline = PairedPipeline([{"type": "Mosaic", "img_scale": (80, 64)}])

    def draw(seed, per_modality=False):
        def fetch(index):
            return marked_sample(100 + index, per_modality=per_modality)

        with sample_draws(SampleKey(0, seed, 0)):
            return pipeline(marked_sample(seed, per_modality=per_modality), fetch=fetch, samples=9)

    return draw


@pytest.mark.parametrize("per_modality", [False, True])
def test_mosaic_lays_both_halves_out_alike(mosaic, per_modality):
    persons = 0
    for seed in range(20):
        sample = mosaic(seed, per_modality)
        assert sample["img"].shape == sample["img_ir"].shape == (128, 160, 3)
        assert "mix_results" not in sample
        infrared = sample["gt_bboxes_ir" if per_modality else "gt_bboxes"]
        for key, boxes, value in (("img", sample["gt_bboxes"], VISIBLE), ("img_ir", infrared, INFRARED)):
            wanted = ~sample["gt_ignore_flags"]
            for x1, y1, x2, y2 in boxes.tensor[wanted].round().int().tolist():
                assert (sample[key][y1:y2, x1:x2, :2].max(-1) == value).all(), (seed, key, (x1, y1, x2, y2))
                persons += 1
    assert persons > 100


def test_mosaic_needs_a_data_set_and_is_drawn_per_sample(mosaic):
    with pytest.raises(ConfigError, match="needs a data set"):
        PairedPipeline([{"type": "Mosaic", "img_scale": (80, 64)}])(marked_sample(0))
    first, again, other = mosaic(1), mosaic(1), mosaic(2)
    assert np.array_equal(first["img"], again["img"]) and not np.array_equal(first["img"], other["img"])


# ---------------------------------------------------------------- colours


@pytest.mark.parametrize("name", sorted(PHOTOMETRIC))
@pytest.mark.parametrize("modality", ["vis", "ir"])
def test_colours_touch_one_half_only(name, modality):
    settings = {"ColorJitter": {"brightness": 0.4, "hue": 0.1}, "RandomBrightnessContrast": {"prob": 1.0}}.get(name, {})
    step = paired_step({"type": name, "modality": modality, **settings, **({} if settings else _always(name))})
    changed = {"vis": 0, "ir": 0}
    for seed in range(6):
        seed_from(seed)
        before = _noise(seed)
        after = step({**before, "img": before["img"].copy(), "img_ir": before["img_ir"].copy()})
        changed["vis"] += not np.array_equal(before["img"], after["img"])
        changed["ir"] += not np.array_equal(before["img_ir"], after["img_ir"])
    assert changed[modality] > 0 and changed["ir" if modality == "vis" else "vis"] == 0


def _always(name):
    return {} if name in ("PhotoMetricDistortion", "YOLOXHSVRandomAug") else {"prob": 1.0}


def _noise(seed):
    draw = np.random.default_rng(seed)
    return {key: draw.integers(20, 200, (*HW, 3), dtype=np.uint8) for key in ("img", "img_ir")}


def test_both_halves_are_jittered_by_draws_of_their_own():
    step = paired_step({"type": "ColorJitter", "brightness": 0.5, "modality": "both"})
    seed_from(1)
    flat = {"img": np.full((*HW, 3), 100, np.uint8), "img_ir": np.full((*HW, 3), 100, np.uint8)}
    after = step(flat)
    assert len({100, int(after["img"][0, 0, 0]), int(after["img_ir"][0, 0, 0])}) == 3


@pytest.mark.parametrize(
    ("ours", "theirs", "factors", "tolerance"),
    [
        (adjust_brightness, "adjust_brightness", (0.5, 1.0, 1.7), 1),
        (adjust_contrast, "adjust_contrast", (0.5, 1.0, 1.7), 2),
        (adjust_saturation, "adjust_saturation", (0.0, 1.0, 1.7), 3),
        (adjust_hue, "adjust_hue", (-0.3, 0.0, 0.2), 8),  # hue in steps of 1/256
    ],
)
def test_colour_changes_are_torchvisions(ours, theirs, factors, tolerance):
    """Oracle: torchvision 0.25 on the same picture in RGB."""
    from torchvision.transforms import functional

    ramp = np.stack(np.meshgrid(np.arange(0, 250, 5), np.arange(0, 250, 5)), -1)
    bgr = np.dstack([ramp, 255 - ramp[..., :1]]).astype(np.uint8)
    rgb = torch.from_numpy(bgr[..., ::-1].copy()).permute(2, 0, 1)
    for factor in factors:
        expected = getattr(functional, theirs)(rgb, factor).permute(1, 2, 0).numpy()[..., ::-1].astype(int)
        assert np.abs(ours(bgr, factor).astype(int) - expected).max() <= tolerance


def test_colour_settings_out_of_bounds_are_refused():
    for settings in ({"type": "ColorJitter", "hue": 0.6}, {"type": "ColorJitter", "brightness": -1},
                     {"type": "ColorJitter", "modality": "thermal"},
                     {"type": "RandomBrightnessContrast", "prob": 2}):  # fmt: skip
        with pytest.raises(ConfigError):
            paired_step(settings)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"type": "Albu", "transforms": []}, "random generators are its own"),
        ({"type": "MixUp"}, "blends"),
        ({"type": "Normalize"}, "PairedDetDataPreprocessor"),
        ({"type": "CopyPaste"}, "masks"),
        ({"type": "SomethingNew"}, "SomethingNew does to a pair is unknown"),
        ({"scale": (1, 1)}, "no type"),
        ({"type": "RandomCrop", "crop_size": (9, 9)}, "allow_negative_crop=True"),
        ({"type": "Resize", "scale": [(64, 64), (80, 80)]}, "random_choice=True"),
        ({"type": "Resize", "scale": (64, 64), "random_choice": True}, "list of"),
        ({"type": "RandomApply", "transforms": [{"type": "RandomFlip"}, {"type": "ColorJitter"}]}, "one of each kind"),
    ],
)
def test_what_cannot_be_done_on_pairs_is_refused_by_name(step, said):
    with pytest.raises(ConfigError, match=said):
        paired_step(step)


def test_wrappers_are_what_they_hold():
    flip = {"type": "RandomApply", "prob": 0.5, "transforms": [{"type": "RandomFlip", "prob": 1.0}]}
    either = {
        "type": "RandomChoice",
        "transforms": [[flip], [{"type": "Resize", "scale": (96, 96), "keep_ratio": True}]],
    }
    assert isinstance(paired_step(either), PairedTransform)
    shapes = set()
    for seed in range(12):
        if seed == 6:
            init_default_scope("mmdet")  # as a run does: names are then looked up elsewhere
        sample = run([either], seed, per_modality=True)
        agree(sample, "img", sample["gt_bboxes"])
        agree(sample, "img_ir", sample["gt_bboxes_ir"])
        shapes.add((sample["img"].shape, sample.get("flip")))
    assert len(shapes) > 2
    colours = paired_step(
        {"type": "RandomApply", "transforms": [{"type": "ColorJitter", "hue": 0.1}], "modality": "ir"}
    )
    assert isinstance(colours, OneModality) and colours.modality == "ir"


# ---------------------------------------------------------------- draws


def test_draws_belong_to_the_key_and_leave_the_main_process_alone():
    before = capture()
    draws = []
    for key in (SampleKey(3, 0, 1), SampleKey(3, 0, 1), SampleKey(4, 0, 1), SampleKey(3, 0, 2), SampleKey(3, 1, 1)):
        with sample_draws(key):
            draws.append((random.random(), np.random.rand(), torch.rand(()).item()))  # noqa: NPY002
    assert capture().equals(before)
    assert draws[0] == draws[1] and len(set(draws)) == 4
    assert len({value for draw in draws[1:] for value in draw}) == 12
    with sample_draws(7):  # a plain index carries no seed: the generators go on as they are
        random.random()
    assert not capture().equals(before)
