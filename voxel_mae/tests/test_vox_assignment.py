"""Target assignment and decoding: an oracle with loops, the golden radii, the borders, and what T19 asks."""

import math

import numpy as np
import pytest
import torch

from shared.errors import ConfigError, DataError
from voxel_mae.assignment import AssignmentSettings, BevMap, assign_targets, encode, gaussian_radius
from voxel_mae.decode import DecodeSettings, decode, decode_codes, is_local_maximum
from voxel_mae.detection_loss import CODE_BRANCHES

CONSTRUCTION = BevMap.of((-70.4, -70.4, -6, 70.4, 70.4, 10), (0.1, 0.1, 0.2), 8)
SMALL = BevMap((-8.0, -8.0), (0.8, 0.8), (20, 20))
SETTINGS = AssignmentSettings()


def random_sites(rng, bev, share, batch=2):
    every = np.stack(np.meshgrid(range(batch), range(bev.size_yx[0]), range(bev.size_yx[1]), indexing="ij"), -1)
    every = every.reshape(-1, 3)
    return torch.from_numpy(rng.permutation(every)[: int(share * len(every))].astype(np.int32))


def random_boxes(rng, count, labels, batch=2, reach=7.5):
    boxes = torch.zeros(batch, count + 2, 8)  # the last rows stay padding
    boxes[:, :count, :3] = torch.from_numpy(rng.uniform(-reach, reach, (batch, count, 3)))
    boxes[:, :count, 3:6] = torch.from_numpy(rng.uniform(0.5, 9, (batch, count, 3)))
    boxes[:, :count, 6] = torch.from_numpy(rng.uniform(-4, 4, (batch, count)))
    boxes[:, :count, 7] = torch.from_numpy(rng.choice(labels, (batch, count)).astype(np.float32))
    return boxes


# --- the map and the radius -------------------------------------------------------------------------------------------


def test_the_construction_map_has_176_cells_of_80_cm():
    assert CONSTRUCTION.size_yx == (176, 176)
    assert CONSTRUCTION.cell_xy_m == pytest.approx((0.8, 0.8))
    centre = CONSTRUCTION.cells(torch.tensor([0.0, 70.3]))
    torch.testing.assert_close(centre, torch.tensor([88.0, 175.875]))
    torch.testing.assert_close(CONSTRUCTION.metres(centre), torch.tensor([0.0, 70.3]))


@pytest.mark.parametrize(
    ("size", "radius"), [((6.2, 2.7), 2.152), ((8.5, 2.5), 2.346), ((5.8, 2.3), 1.908), ((8, 3), 2.548)]
)
def test_golden_radii(size, radius):
    """By hand, at 0.8 m cells."""
    found = gaussian_radius(torch.tensor(size, dtype=torch.float64) / 0.8, 0.1)
    assert found.item() == pytest.approx(radius, abs=5e-4)


# --- the oracle -------------------------------------------------------------------------------------------------------


def by_loops(sites, boxes, classes, bev):
    """The rule in words: one box, one site at a time, in float64."""
    heat = np.zeros((len(sites), len(classes)))
    chosen = {}
    for b in range(len(boxes)):
        rows = [k for k in range(len(sites)) if sites[k, 0] == b]
        for k, box in enumerate(boxes[b].double().tolist()):
            x, y = ((box[axis] - bev.origin_xy_m[axis]) / bev.cell_xy_m[axis] for axis in (0, 1))
            if int(box[7]) not in classes or min(box[3:6]) <= 0 or not rows:
                continue
            if not (0 <= x < bev.size_yx[1] and 0 <= y < bev.size_yx[0]):
                continue
            x, y = min(x, bev.size_yx[1] - 0.5), min(y, bev.size_yx[0] - 0.5)
            away = {row: (sites[row, 2] - x) ** 2 + (sites[row, 1] - y) ** 2 for row in rows}
            best = min(rows, key=lambda row: away[row])
            size = torch.tensor(box[3:5]) / torch.tensor(bev.cell_xy_m)
            sigma = (2 * max(2, int(gaussian_radius(size.double(), 0.1))) + 1) / 6
            for row in rows:
                again = (sites[row, 2] - sites[best, 2]) ** 2 + (sites[row, 1] - sites[best, 1]) ** 2
                value = max(math.exp(-away[row] / (2 * sigma**2)), math.exp(-again / (2 * sigma**2)))
                column = classes.index(int(box[7]))
                heat[row, column] = max(heat[row, column], value)
            chosen[b, k] = (best, x - sites[best, 2], y - sites[best, 1])
    return heat, chosen


@pytest.mark.parametrize("classes", [(1, 2, 3, 4), (3, 1)])
def test_assignment_equals_loops(classes):
    rng = np.random.default_rng(0)
    sites, boxes = random_sites(rng, SMALL, 0.2), random_boxes(rng, 6, (1, 2, 3, 4), reach=8.6)
    targets = assign_targets(sites, boxes, classes, SMALL, SETTINGS)
    heat, chosen = by_loops(sites.numpy().astype(float), boxes, classes, SMALL)
    np.testing.assert_allclose(targets.heat, heat, atol=1e-5)
    assert {(b, k) for b, k in targets.valid.nonzero().tolist()} == set(chosen)
    assert 2 < len(chosen) < 12
    for (b, k), (row, off_x, off_y) in chosen.items():
        assert targets.site[b, k] == row and targets.heat[row, classes.index(int(boxes[b, k, 7]))] == 1
        box = boxes[b, k]
        wanted = [off_x, off_y, box[2], *box[3:6].log(), box[6].cos(), box[6].sin()]
        np.testing.assert_allclose(targets.codes[b, k], wanted, atol=1e-4)


def test_the_order_of_sites_changes_nothing():
    rng = np.random.default_rng(1)
    sites, boxes = random_sites(rng, SMALL, 0.3), random_boxes(rng, 5, (1, 2))
    order = torch.from_numpy(rng.permutation(len(sites)))
    plain = assign_targets(sites, boxes, (1, 2), SMALL, SETTINGS)
    moved = assign_targets(sites[order], boxes, (1, 2), SMALL, SETTINGS)
    torch.testing.assert_close(moved.heat, plain.heat[order])
    assert torch.equal(sites[order][moved.site[moved.valid]], sites[plain.site[plain.valid]])


def test_the_nearest_active_site_is_taken_though_the_centre_is_empty():
    sites = torch.tensor([[0, 5, 5], [0, 5, 11], [1, 5, 8]], dtype=torch.int32)
    box = torch.tensor([[[-1.2, -4.0, 0.5, 6, 2, 2, 0.1, 1.0]], [[0.0] * 8]])  # c = (8.5, 5)
    targets = assign_targets(sites, box, (1,), SMALL, SETTINGS)
    assert targets.site[0, 0] == 1 and targets.heat[1, 0] == 1  # not row 2, which is another sample's
    assert targets.codes[0, 0, :2].tolist() == pytest.approx([-2.5, 0.0], abs=1e-5)
    assert targets.heat[2, 0] == 0


# --- trap T19 ---------------------------------------------------------------------------------------------------------


def test_ground_truth_is_left_as_it_is():
    rng = np.random.default_rng(2)
    boxes = random_boxes(rng, 5, (1, 2, 3, 4))
    before = boxes.clone()
    for group in ((2, 1), (4, 3)):
        assign_targets(random_sites(rng, SMALL, 0.2), boxes, group, SMALL, SETTINGS)
    assert torch.equal(boxes, before)


def test_head_groups_in_any_order_share_the_boxes():
    rng = np.random.default_rng(3)
    sites, boxes = random_sites(rng, SMALL, 0.3), random_boxes(rng, 6, (1, 2, 3, 4))
    whole = assign_targets(sites, boxes, (1, 2, 3, 4), SMALL, SETTINGS)
    parts = {labels: assign_targets(sites, boxes, labels, SMALL, SETTINGS) for labels in ((4, 2), (3,), (1,))}
    for labels, part in parts.items():
        torch.testing.assert_close(part.heat, whole.heat[:, [label - 1 for label in labels]])
    valid = torch.stack([part.valid for part in parts.values()])
    assert (valid.sum(0) == whole.valid.int()).all()  # each box in exactly one head


@pytest.mark.parametrize(("x", "valid"), [(-8.0, True), (7.99, True), (8.0, False), (-8.01, False)])
def test_the_border_of_the_map(x, valid):
    """0 <= c < size: a centre on the far border would be a cell that does not exist."""
    sites = torch.tensor([[0, 10, 0], [0, 10, 19]], dtype=torch.int32)
    box = torch.tensor([[[x, 0.0, 0, 4, 2, 2, 0, 1]]])
    targets = assign_targets(sites, box, (1,), SMALL, SETTINGS)
    assert targets.valid[0, 0] == valid
    assert (targets.heat == 1).any() == valid
    assert targets.codes[0, 0, 0] <= 0.5


def test_zero_rows_bad_sizes_and_empty_samples_give_no_nan():
    sites = torch.tensor([[0, 3, 3], [0, 4, 4]], dtype=torch.int32)  # sample 1 has none
    boxes = torch.zeros(2, 3, 8)
    boxes[:, 0] = torch.tensor([0.0, 0, 0, 4, 2, 2, 0, 1])
    boxes[0, 1] = torch.tensor([0.0, 0, 0, 0, 2, 2, 0, 1])  # no length
    targets = assign_targets(sites, boxes, (1, 2), SMALL, SETTINGS)
    assert targets.valid.tolist() == [[True, False, False], [False, False, False]]
    for part in (targets.heat, targets.codes):
        assert torch.isfinite(part).all()
    nothing = assign_targets(sites[:0], boxes, (1, 2), SMALL, SETTINGS)
    assert nothing.heat.shape == (0, 2) and not nothing.valid.any()


def test_too_many_boxes_and_bad_settings_are_refused():
    with pytest.raises(DataError, match="NUM_MAX_OBJS"):
        assign_targets(torch.zeros(0, 3), torch.zeros(1, 9, 8), (1,), SMALL, AssignmentSettings(max_boxes=8))
    with pytest.raises(ConfigError, match="GAUSSIAN_OVERLAP"):
        AssignmentSettings(gaussian_overlap=1.5)


# --- decoding ---------------------------------------------------------------------------------------------------------


def test_encode_and_decode_are_inverse():
    rng = np.random.default_rng(4)
    boxes = random_boxes(rng, 8, (1,))[0, :8, :7]
    boxes[:, 6] = (boxes[:, 6] + math.pi) % (2 * math.pi) - math.pi
    site_xy = torch.from_numpy(rng.integers(0, 20, (8, 2))).float()
    torch.testing.assert_close(decode_codes(encode(boxes, site_xy, SMALL), site_xy, SMALL), boxes, atol=1e-5, rtol=1e-5)


def test_sizes_are_clamped():
    huge = torch.tensor([[0.0, 0, 0, 9, -9, 0, 1, 0]])
    sizes = decode_codes(huge, torch.zeros(1, 2), SMALL)[0, 3:6]
    torch.testing.assert_close(sizes, torch.tensor([math.exp(5), math.exp(-5), 1.0]))


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_local_maxima_equal_a_dense_max_pool(share):
    """The oracle: -inf at empty cells (not spconv's 0), so that negative scores are compared too."""
    rng = np.random.default_rng(5)
    sites = random_sites(rng, BevMap((0, 0), (1, 1), (9, 7)), share).long()
    scores = torch.from_numpy(rng.normal(size=(len(sites), 3)))
    dense = torch.full((2, 3, 9, 7), -torch.inf, dtype=torch.float64)
    dense[sites[:, 0], :, sites[:, 1], sites[:, 2]] = scores
    pooled = torch.nn.functional.max_pool2d(dense, 3, 1, 1)[sites[:, 0], :, sites[:, 1], sites[:, 2]]
    found = is_local_maximum(scores, sites, (9, 7))
    assert torch.equal(found, pooled == scores)
    assert found.any() and (share < 0.2 or not found.all())


def test_the_first_of_equal_neighbours_stands_whatever_the_row_order():
    sites = torch.tensor([[0, 4, 5], [0, 4, 4], [0, 5, 4], [1, 4, 5]])
    kept = is_local_maximum(torch.ones(4, 1), sites, (9, 9))[:, 0]
    assert kept.tolist() == [False, True, False, True]
    flipped = is_local_maximum(torch.ones(4, 1), sites.flip(0), (9, 9))[:, 0]
    assert flipped.tolist() == [True, False, True, False]


def test_neighbours_do_not_wrap_around_the_border():
    sites = torch.tensor([[0, 0, 8], [0, 1, 0], [0, 8, 8], [1, 0, 0]])
    assert is_local_maximum(torch.tensor([[1.0], [2.0], [3.0], [4.0]]), sites, (9, 9)).all()
    assert is_local_maximum(torch.zeros(0, 4), torch.zeros(0, 3, dtype=torch.int32), (9, 9)).shape == (0, 4)


def answers_for(boxes, sites, classes, bev, score=0.9):
    """A head's perfect answers: the targets as logits and codes."""
    targets = assign_targets(sites, boxes, classes, bev, SETTINGS)
    codes = torch.zeros(len(sites), 8)
    codes[targets.site[targets.valid]] = targets.codes[targets.valid]
    parts = dict(zip(CODE_BRANCHES, codes.split([2, 1, 3, 2], 1), strict=True))
    peaks = (targets.heat == 1).float()
    return {"hm": torch.where(peaks == 1, math.log(score / (1 - score)), -9.0), **parts}


LIMITS = (-8.0, -8.0, -10.0, 8.0, 8.0, 10.0)


@pytest.mark.parametrize("nms", [None, (0.2, 0.2, 0.2)])
def test_perfect_answers_decode_to_the_boxes(nms):
    rng = np.random.default_rng(6)
    sites = random_sites(rng, SMALL, 0.6)
    boxes = torch.zeros(2, 3, 8)
    boxes[0, :2] = torch.tensor([[-5.0, -5, 0.3, 4, 2, 2, 0.4, 3], [5, 5, 1, 3, 2, 1, -2.0, 1]])
    boxes[1, 0] = torch.tensor([0.0, 3, 0, 6, 2, 2, 3.0, 2])
    groups = ((3, 1), (2,))
    answers = [answers_for(boxes, sites, group, SMALL) for group in groups]
    found = decode(answers, sites, 2, groups, SMALL, DecodeSettings(LIMITS, nms_iou=nms))
    for sample, truth in zip(found, (boxes[0, :2], boxes[1, :1]), strict=True):
        order = sample.labels.argsort()
        wanted = truth[truth[:, 7].argsort()]
        assert sample.labels[order].tolist() == wanted[:, 7].tolist()
        torch.testing.assert_close(sample.boxes[order], wanted[:, :7], atol=1e-4, rtol=1e-4)
        assert sample.scores.tolist() == pytest.approx([0.9] * len(wanted), abs=1e-5)


def line_of(scores, step_cells=3, label_count=1):
    """Sites in a row, three cells apart, with these scores and boxes of 2 x 2 m."""
    count = len(scores)
    sites = torch.tensor([[0, 10, 1 + step_cells * k] for k in range(count)])
    hm = torch.full((count, label_count), -9.0)
    hm[:, 0] = torch.logit(torch.tensor(scores))
    size = torch.full((count, 3), math.log(2.0))
    answers = {"hm": hm, "center": torch.zeros(count, 2), "center_z": torch.zeros(count, 1), "dim": size}
    return {**answers, "rot": torch.tensor([[1.0, 0.0]]).repeat(count, 1)}, sites


def test_threshold_order_count_and_range():
    answers, sites = line_of([0.3, 0.05, 0.8, 0.5, 0.6])
    (found,) = decode([answers], sites, 1, ((1,),), SMALL, DecodeSettings(LIMITS))
    assert found.scores.tolist() == pytest.approx([0.8, 0.6, 0.5, 0.3])  # best first, .05 is below .1
    (two,) = decode([answers], sites, 1, ((1,),), SMALL, DecodeSettings(LIMITS, max_boxes=2))
    assert two.scores.tolist() == pytest.approx([0.8, 0.6])
    narrow = (-8.0, -8.0, -10.0, -0.4, 8.0, 10.0)
    (near,) = decode([answers], sites, 1, ((1,),), SMALL, DecodeSettings(narrow))
    assert near.scores.tolist() == pytest.approx([0.8, 0.3]) and (near.boxes[:, 0] <= 0).all()


def test_neighbouring_peaks_need_suppression_and_two_cells_apart_need_nms():
    answers, sites = line_of([0.9, 0.8, 0.7], step_cells=1)
    (free,) = decode([answers], sites, 1, ((1,),), SMALL, DecodeSettings(LIMITS))
    assert free.scores.tolist() == pytest.approx([0.9])
    answers, sites = line_of([0.9, 0.8, 0.7], step_cells=2)  # 1.6 m apart, boxes of 2 m overlap by .11
    settings = DecodeSettings(LIMITS)
    assert len(decode([answers], sites, 1, ((1,),), SMALL, settings)[0]) == 3
    (strict,) = decode([answers], sites, 1, ((1,),), SMALL, DecodeSettings(LIMITS, nms_iou=(0.05,)))
    assert strict.scores.tolist() == pytest.approx([0.9, 0.7])
    (loose,) = decode([answers], sites, 1, ((1,),), SMALL, DecodeSettings(LIMITS, nms_iou=(0.2,)))
    assert len(loose) == 3


def test_no_sites_give_no_detections():
    answers, sites = line_of([0.9])
    nothing = {name: value[:0] for name, value in answers.items()}
    found = decode([nothing], sites[:0], 3, ((1,),), SMALL, DecodeSettings(LIMITS))
    assert [len(each) for each in found] == [0, 0, 0] and found[0].boxes.shape == (0, 7)


def test_bad_decode_settings_are_refused():
    with pytest.raises(ConfigError, match="POST_CENTER_LIMIT_RANGE"):
        DecodeSettings((1, 0, 0, -1, 1, 1))
    with pytest.raises(ConfigError, match="SCORE_THRESH"):
        DecodeSettings(LIMITS, score_threshold=1.0)
