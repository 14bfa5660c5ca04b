"""Laws of the miss rate, and a slow reference that reads like the definition."""

import math
from dataclasses import replace

import numpy as np
import pytest

from llvip_macl.evaluation.kaist_files import DAY, NIGHT, Detections, Truth, no_detections
from llvip_macl.evaluation.kaist_mr import (
    MAX_DETECTIONS,
    PROTOCOLS,
    REFERENCES_FPPI,
    RULES,
    evaluate,
    images_of,
    match,
    parse_subset,
    persons_of,
)
from shared.errors import ConfigError

SUBSETS = [f"{rule}_{time}" for rule in RULES for time in ("all", "day", "night")]


def make_truth(boxes, image_index, images=4, occlusions=None, ignore=None, size_hw=(512, 640)) -> Truth:
    count = len(image_index)
    return Truth(
        image_ids=np.arange(images), names=tuple(f"frame{i}" for i in range(images)),
        sizes_hw=np.tile(np.array(size_hw, float), (images, 1)),
        times=np.where(np.arange(images) < (images + 1) // 2, DAY, NIGHT).astype(np.int8),
        image_index=np.array(image_index, np.int64), boxes_xywh_px=np.array(boxes, float).reshape(-1, 4),
        occlusions=np.zeros(count, np.int64) if occlusions is None else np.array(occlusions),
        ignore=np.zeros(count, bool) if ignore is None else np.array(ignore, bool), version="made",
    )  # fmt: skip


def make_detections(boxes, image_index, scores) -> Detections:
    return Detections(np.array(image_index, np.int64), np.array(boxes, float).reshape(-1, 4), np.array(scores, float))


def random_case(seed: int, images: int = 6) -> tuple[Truth, Detections]:
    """Crowded images with ties: boxes on a coarse grid, near-copies of them detected, and noise."""
    rng = np.random.default_rng(seed)
    count = 40
    boxes = np.column_stack(
        [rng.integers(0, 12, (count, 2)) * 40, rng.choice([20, 30], count), rng.choice([40, 60, 90, 130], count)]
    )
    truth = make_truth(
        boxes, rng.integers(0, images, count), images, rng.integers(0, 3, count), rng.random(count) < 0.25
    )
    pick = rng.integers(0, count, 90)
    moved = truth.boxes_xywh_px[pick] + rng.integers(-12, 13, (90, 4)) * [1, 1, 0.5, 1]
    moved[:, 2:] = np.maximum(moved[:, 2:], 1)
    noise = np.column_stack([rng.uniform(0, 500, (30, 2)), rng.uniform(10, 60, 30), rng.uniform(20, 150, 30)])
    index = np.concatenate([truth.image_index[pick], rng.integers(0, images, 30)])
    index[index == images - 1] = 0  # the last image has persons but no detection
    return truth, make_detections(np.concatenate([moved, noise]), index, rng.integers(0, 25, 120) / 25)


# --- the reference: one detection after another ---


def overlap(a, b) -> float:
    return max(0.0, min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])) * max(
        0.0, min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    )


def fate(box, boxes, persons, taken) -> str:
    """What becomes of one detection; a person that it takes is added to `taken`."""
    best, choice = 0.5, None
    for number, other in enumerate(boxes):
        common = overlap(box, other)
        union = box[2] * box[3] + other[2] * other[3] - common
        if persons[number] and number not in taken and common / union >= best:
            best, choice = common / union, number
    if choice is not None:
        taken.add(choice)
        return "hit"
    covered = [overlap(box, other) / (box[2] * box[3]) for number, other in enumerate(boxes) if not persons[number]]
    return "dropped" if covered and max(covered) >= 0.5 else "false"


def slow_miss_rate(truth: Truth, detections: Detections, name: str, protocol: str) -> float:
    rule, time = parse_subset(name)
    persons, images = persons_of(RULES[rule], truth), images_of(time, truth)
    total, entries = 0, []
    for image in np.flatnonzero(images):
        own = truth.image_index == image
        rows = [i for i in range(len(detections.scores)) if detections.image_index[i] == image]
        if protocol == "matlab" or rows:
            total += int(persons[own].sum())
        taken: set[int] = set()
        for row in sorted(rows, key=lambda i: -detections.scores[i]):
            outcome = fate(detections.boxes_xywh_px[row], truth.boxes_xywh_px[own], persons[own], taken)
            if outcome != "dropped":
                entries.append((detections.scores[row], outcome == "hit"))
    return slow_average(sorted(entries, key=lambda entry: -entry[0]), total, int(images.sum()), protocol)


def slow_average(entries, total: int, images: int, protocol: str) -> float:
    if not total:
        return math.nan
    points, hits, wrong = [], 0, 0
    for _, hit in entries:
        hits, wrong = hits + hit, wrong + (not hit)
        points.append((wrong / images, hits / total))
    logs = []
    for reference in REFERENCES_FPPI[protocol]:
        reached = [recall for fppi, recall in points if fppi <= reference]
        absent = 0.0 if protocol == "matlab" or not points else points[-1][1]
        logs.append(math.log(max(1e-10, 1 - (reached[-1] if reached else absent))))
    return 100 * math.exp(sum(logs) / 9)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seed", range(6))
def test_the_fast_way_equals_the_slow_one(seed, protocol):
    truth, detections = random_case(seed)
    found = evaluate(truth, detections, SUBSETS, protocol)
    slow = [slow_miss_rate(truth, detections, name, protocol) for name in SUBSETS]
    np.testing.assert_allclose([found[name].percent for name in SUBSETS], slow, rtol=1e-9)
    assert len({round(value, 3) for value in slow}) > 8  # the subsets do differ


# --- laws ---


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_subsets_in_a_row_equal_fresh_runs(protocol):
    truth, detections = random_case(11)
    together = evaluate(truth, detections, SUBSETS, protocol)
    again = evaluate(truth, detections, SUBSETS[::-1], protocol)
    for name in SUBSETS:
        alone = evaluate(truth, detections, [name], protocol)[name]
        for found in (together[name], again[name]):
            np.testing.assert_equal(found.percent, alone.percent)
            np.testing.assert_array_equal(found.recall, alone.recall)


def test_no_detection_misses_everyone_under_matlab_and_is_undefined_for_the_script():
    truth, _ = random_case(0)
    assert evaluate(truth, no_detections(), ["reasonable"])["reasonable"].percent == pytest.approx(100)
    script = evaluate(truth, no_detections(), ["reasonable"], "mlpd_script")["reasonable"]
    assert math.isnan(script.percent) and script.persons == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_perfect_detector_misses_no_one(protocol):
    truth, _ = random_case(3)
    own = truth.image_index < 6
    detections = make_detections(truth.boxes_xywh_px[own], truth.image_index[own], np.linspace(1, 0.1, own.sum()))
    distinct = replace(truth, boxes_xywh_px=truth.boxes_xywh_px + np.arange(40)[:, None] * [0.01, 0, 0, 0])
    for found in evaluate(
        distinct, replace(detections, boxes_xywh_px=distinct.boxes_xywh_px), SUBSETS, protocol
    ).values():
        assert found.persons == 0 or found.percent < 1e-6


def test_order_of_the_file_does_not_matter_when_scores_differ():
    truth, detections = random_case(5)
    rng = np.random.default_rng(0)
    detections = replace(detections, scores=rng.permutation(120) / 120)
    order = rng.permutation(120)
    shuffled = Detections(*(column[order] for column in vars(detections).values()))
    for name, found in evaluate(truth, detections, SUBSETS).items():
        np.testing.assert_equal(evaluate(truth, shuffled, [name])[name].percent, found.percent)


def test_scores_matter_by_their_order_only():
    truth, detections = random_case(6)
    found = evaluate(truth, detections, SUBSETS)
    warped = evaluate(truth, replace(detections, scores=np.exp(3 * detections.scores) - 40), SUBSETS)
    np.testing.assert_equal([r.percent for r in warped.values()], [r.percent for r in found.values()])


def test_a_false_positive_never_helps():
    truth, detections = random_case(7)
    added = make_detections(
        np.concatenate([detections.boxes_xywh_px, [[600, 450, 20, 60]]]),
        [*detections.image_index, 1],
        [*detections.scores, 2.0],
    )
    for name, found in evaluate(truth, detections, SUBSETS).items():
        worse = evaluate(truth, added, [name])[name].percent
        assert math.isnan(worse) or worse >= found.percent - 1e-9


# --- ignored boxes, ties, borders ---


def outcomes(truth: Truth, detections: Detections, rule: str = "reasonable") -> list[str]:
    """What became of the detections of one image, best first."""
    found = match(truth, detections, [rule])
    return ["hit" if hit else "dropped" if drop else "false"
            for hit, drop in zip(found.matched[0], found.dropped[0], strict=True)]  # fmt: skip


def test_an_ignored_box_absorbs_any_number_of_detections_it_covers_by_half():
    truth = make_truth([[100, 100, 100, 200]], [0], ignore=[True])
    inside = [[110, 110, 20, 60], [150, 150, 30, 80], [180, 200, 40, 60]]  # the last half outside: exactly 0.5
    assert outcomes(truth, make_detections(inside, [0, 0, 0], [3, 2, 1])) == ["dropped"] * 3
    assert outcomes(truth, make_detections([[181, 200, 40, 60]], [0], [1])) == ["false"]


def test_a_person_comes_before_an_ignored_box():
    truth = make_truth([[100, 100, 40, 100], [100, 100, 40, 100]], [0, 0], ignore=[True, False])
    twice = make_detections([[100, 100, 40, 100], [100, 100, 40, 100]], [0, 0], [2, 1])
    assert outcomes(truth, twice) == ["hit", "dropped"]


def test_a_second_detection_of_a_person_is_false():
    truth = make_truth([[100, 100, 40, 100]], [0])
    assert outcomes(truth, make_detections([[100, 100, 40, 100]] * 2, [0, 0], [1, 2])) == ["hit", "false"]


def test_an_overlap_of_one_half_counts():
    truth = make_truth([[100, 100, 40, 100]], [0])
    assert outcomes(truth, make_detections([[100, 100, 40, 200]], [0], [1])) == ["hit"]
    assert outcomes(truth, make_detections([[100, 100, 40, 201]], [0], [1])) == ["false"]


def test_of_equal_overlaps_the_later_box_is_taken():
    """The first detection fits boxes 0 and 1 alike; the second fits box 1 alone when box 1 lies to its side."""
    boxes, middle = [[100, 100, 60, 100], [120, 100, 60, 100]], [110, 100, 60, 100]
    for right, expected in ((135, ["hit", "false"]), (85, ["hit", "hit"])):
        second = [right, 100, 60, 100]
        assert outcomes(make_truth(boxes, [0, 0]), make_detections([middle, second], [0, 0], [2, 1])) == expected


@pytest.mark.parametrize(
    ("box", "counts"),
    [
        ([5, 5, 40, 55], True), ([4.9, 5, 40, 55], False), ([5, 4.9, 40, 55], False),
        ([595, 100, 40, 100], True), ([595.5, 100, 40, 100], False), ([100, 407, 40, 100], True),
        ([100, 407.5, 40, 100], False), ([100, 100, 40, 54.9], False),
    ],
)  # fmt: skip
def test_borders_and_heights_include_their_ends(box, counts):
    assert persons_of(RULES["reasonable"], make_truth([box], [0])).tolist() == [counts]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_small_images_are_judged_as_if_they_had_512_lines(protocol):
    truth, detections = random_case(8)
    small = replace(truth, boxes_xywh_px=truth.boxes_xywh_px / 4, sizes_hw=truth.sizes_hw / 4)
    shrunk = replace(detections, boxes_xywh_px=detections.boxes_xywh_px / 4)
    expected = [found.percent for found in evaluate(truth, detections, SUBSETS, protocol).values()]
    assert np.allclose(
        [r.percent for r in evaluate(small, shrunk, SUBSETS, protocol).values()], expected, equal_nan=True
    )
    given = evaluate(small, shrunk, SUBSETS, protocol, height_scale=4.0)
    assert np.allclose([r.percent for r in given.values()], expected, equal_nan=True)
    unscaled = evaluate(small, shrunk, ["reasonable"], protocol, height_scale=1.0)["reasonable"]
    assert unscaled.persons < evaluate(small, shrunk, ["reasonable"], protocol)["reasonable"].persons


def test_only_the_best_thousand_of_an_image_are_judged():
    truth = make_truth([[100, 100, 40, 100]], [0])
    boxes = [[300, 100, 40, 100]] * MAX_DETECTIONS + [[100, 100, 40, 100]]
    scores = np.linspace(2, 1, MAX_DETECTIONS + 1)
    assert "hit" not in outcomes(truth, make_detections(boxes, [0] * len(boxes), scores))
    assert outcomes(truth, make_detections(boxes, [0] * len(boxes), -scores))[0] == "hit"


def test_degenerate_detections_are_false_positives():
    truth = make_truth([[100, 100, 40, 100]], [0], ignore=[True])
    assert outcomes(truth, make_detections([[110, 110, 0, 0]], [0], [1])) == ["false"]


# --- how the protocols differ ---


def test_the_protocols_differ_where_the_curve_has_no_low_point():
    """One image of four, a false positive first: the curve starts at 0.25 false positives per image."""
    truth = make_truth([[100, 100, 40, 100]], [0])
    detections = make_detections([[300, 100, 40, 100], [100, 100, 40, 100]], [0, 0], [2, 1])
    matlab = evaluate(truth, detections, ["reasonable"])["reasonable"].percent
    script = evaluate(truth, detections, ["reasonable"], "mlpd_script")["reasonable"].percent
    assert matlab == pytest.approx(100 * (1e-10) ** (3 / 9))  # six references without a point: recall 0 there
    assert script == pytest.approx(100 * 1e-10)  # they take the last recall, 1


def test_the_script_forgets_persons_of_images_without_detections_but_counts_the_images():
    truth = make_truth([[100, 100, 40, 100], [100, 100, 40, 100]], [0, 1])
    detections = make_detections([[100, 100, 40, 100]], [0], [1])
    matlab = evaluate(truth, detections, ["reasonable"])["reasonable"]
    script = evaluate(truth, detections, ["reasonable"], "mlpd_script")["reasonable"]
    assert (matlab.persons, script.persons) == (2, 1) and matlab.images == script.images == 4
    assert matlab.percent == pytest.approx(50) and script.percent < 1e-6


def test_names_of_subsets():
    assert parse_subset("near") == ("near", "all") and parse_subset("occ_heavy_night") == ("occ_heavy", "night")
    assert parse_subset("all") == ("all", "all") and parse_subset("all_day") == ("all", "day")
    with pytest.raises(ConfigError, match="no subset 'reasonable_dusk'"):
        parse_subset("reasonable_dusk")
    with pytest.raises(ConfigError, match="matlab and mlpd_script"):
        evaluate(*random_case(0), protocol="python")
