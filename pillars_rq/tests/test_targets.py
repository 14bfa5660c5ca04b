import math

import pytest
import torch

from pillars_rq.anchors import (
    KITTI_CLASSES,
    AnchorClass,
    classes_named,
    decode_boxes,
    encode_boxes,
    make_anchors,
)
from pillars_rq.boxes import nearest_axis_iou
from pillars_rq.decode import heading
from pillars_rq.grid import Grid
from pillars_rq.targets import IGNORED, assign_targets, direction_of, grid_iou
from shared.errors import ConfigError

GRID = Grid((0.0, -5.12, -3.0, 10.24, 5.12, 1.0), (0.32, 0.32, 4.0))  # 32 x 32 cells, 16 x 16 of the head
ANCHORS = make_anchors(GRID, KITTI_CLASSES)
BACKGROUND = 3


def random_boxes(number: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes near the size of a random class, labels of any class or none."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([one.size_wlh_m for one in KITTI_CLASSES])[torch.randint(3, (number,), generator=generator)]
    sizes = sizes * (0.8 + 0.4 * torch.rand(number, 3, generator=generator))
    place = torch.rand(number, 3, generator=generator) * torch.tensor([10.0, 10, 0.5]) - torch.tensor([0.0, 5, 1.5])
    theta = (torch.rand(number, 1, generator=generator) - 0.5) * 12
    return torch.cat([place, sizes, theta], 1), torch.randint(-1, 3, (number,), generator=generator)


def assign(boxes: torch.Tensor, labels: torch.Tensor):
    return assign_targets(ANCHORS, [boxes], [labels], KITTI_CLASSES)


# --- anchors ---


def test_anchors_are_laid_out_by_row_column_size_and_rotation():
    assert ANCHORS.shape == (16, 16, 3, 2, 7) and ANCHORS.dtype == torch.float32
    assert ANCHORS[0, 0, 0, 0].tolist() == pytest.approx([0.32, -4.8, -0.6, 0.6, 0.8, 1.73, 0])
    assert ANCHORS[2, 5, 2, 1].tolist() == pytest.approx(
        [0.32 + 5 * 0.64, -4.8 + 2 * 0.64, -1.78, 1.6, 3.9, 1.56, 1.57]
    )
    kitti = make_anchors(Grid.kitti(), KITTI_CLASSES)
    assert kitti.numel() // 7 == 321_408
    assert kitti[0, 0, 0, 0, :2].tolist() == pytest.approx([0.16, -39.52])
    assert kitti[-1, -1, 0, 0, :2].tolist() == pytest.approx([69.12 - 0.16, 39.52])


def test_encoding_inverts():
    boxes, _ = random_boxes(50, 0)
    anchors = ANCHORS.reshape(-1, 7)[torch.randperm(1536, generator=torch.manual_seed(0))[:50]]
    torch.testing.assert_close(decode_boxes(encode_boxes(boxes, anchors), anchors), boxes, atol=1e-4, rtol=1e-5)
    assert (encode_boxes(anchors, anchors) == 0).all()


def test_encoding_by_hand():
    anchor = torch.tensor([[1.0, 2, -1, 3, 4, 2, 1.57]])
    box = torch.tensor([[2.0, 1, -1, 6, 2, 4, 2.0]])  # same bottom, so the centre is 1 m higher
    expected = [0.2, -0.2, 0.5, math.log(2), math.log(0.5), math.log(2), 0.43]
    assert encode_boxes(box, anchor)[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_classes_by_name():
    assert [one.name for one in classes_named(["Car", "Pedestrian"])] == ["Car", "Pedestrian"]
    for names in (["Cat"], ["Car", "Car"]):
        with pytest.raises(ConfigError):
            classes_named(names)
    with pytest.raises(ConfigError, match="negative_iou"):
        AnchorClass("Cat", (0.2, 0.5, 0.3), -1, 0.3, 0.5)
    assert AnchorClass(**KITTI_CLASSES[2].as_dict()) == KITTI_CLASSES[2]


# --- assignment ---


def slow_classes(boxes: torch.Tensor, labels: torch.Tensor) -> tuple[list[int], list[int]]:
    """Readable twin: (class, box) of every anchor, one anchor after the other."""
    flat = ANCHORS.reshape(-1, 7)
    size_of = torch.arange(3).repeat_interleave(2).repeat(len(flat) // 6).tolist()
    iou = nearest_axis_iou(flat, boxes)
    best_of_box = [[max(iou[a, g].item() for a in range(len(flat)) if size_of[a] == s) for g in range(len(boxes))]
                   for s in range(3)]  # fmt: skip
    found, matched = [], []
    for a, row in enumerate(iou.tolist()):
        one, box = KITTI_CLASSES[size_of[a]], max(range(len(boxes)), key=lambda g: row[g])
        kind = (
            "positive" if row[box] >= one.positive_iou else "ignored" if row[box] >= one.negative_iou else "background"
        )
        for g in range(len(boxes)):
            if row[g] == best_of_box[size_of[a]][g] and row[g] >= one.negative_iou:
                kind, box = "positive", g
        positive = kind == "positive" and labels[box] >= 0
        found.append(int(labels[box]) if positive else IGNORED if kind == "ignored" else BACKGROUND)
        matched.append(box)
    return found, matched


@pytest.mark.parametrize("seed", range(4))
def test_targets_are_those_of_one_anchor_after_the_other(seed):
    boxes, labels = random_boxes(6, seed)
    targets = assign(boxes, labels)
    found, matched = slow_classes(boxes, labels)
    assert targets.classes[0].tolist() == found
    positive = targets.positive[0]
    assert positive.any() and (targets.classes == IGNORED).any()
    own = boxes[torch.tensor(matched)][positive]
    decoded = decode_boxes(targets.deltas[0], ANCHORS.reshape(-1, 7))[positive]
    torch.testing.assert_close(decoded, own, atol=1e-4, rtol=1e-5)
    assert torch.equal(targets.directions[0][positive], direction_of(own[:, 6]))
    assert (targets.deltas[0][~positive] == 0).all()


@pytest.mark.parametrize("size", range(3))
def test_overlaps_along_each_axis_multiply_to_those_of_the_whole_grid(size):
    boxes, _ = random_boxes(20, 7)
    anchors = ANCHORS[:, :, size]
    twin = nearest_axis_iou(anchors.reshape(-1, 7), boxes).view(16, 16, 2, 20).permute(3, 2, 0, 1)
    assert (twin > 0.4).any() and twin[:, 0].ne(twin[:, 1]).any()
    torch.testing.assert_close(grid_iou(anchors, boxes), twin, atol=2e-5, rtol=1e-5)


def test_every_size_meets_every_box():
    """A pedestrian as long as a bicycle trains anchors of the cyclist's size, with the pedestrian's label."""
    box = ANCHORS[8, 8, 1, 0][None]
    targets = assign(box, torch.tensor([0]))
    by_size = targets.classes.view(16, 16, 3, 2)
    assert by_size[8, 8, 1, 0] == 0 and (by_size[:, :, 2] == BACKGROUND).all()


def test_a_box_that_no_anchor_fits_well_takes_its_best():
    """A car between four cells at 45 degrees reaches no 0.6, but at least 0.45."""
    box = torch.tensor([[5.44, 0.32, -1.78, 1.6, 3.2, 1.56, 0.0]])
    targets = assign(box, torch.tensor([2]))
    best = nearest_axis_iou(ANCHORS[:, :, 2].reshape(-1, 7), box).max()
    smaller = torch.tensor([[5.44, 0.32, -1.78, 1.2, 2.6, 1.56, 0.0]])
    best_smaller = nearest_axis_iou(ANCHORS[:, :, 2].reshape(-1, 7), smaller).max()
    assert best > 0.6 > best_smaller > 0.45
    assert targets.positive.any() and assign(smaller, torch.tensor([2])).positive.any()


def test_a_box_of_another_class_is_background_and_no_positive():
    boxes = ANCHORS[8, 8, 2, 0][None]
    van = assign(boxes, torch.tensor([-1]))
    car = assign(boxes, torch.tensor([2]))
    assert not van.positive.any() and car.positive.any()
    assert (van.classes[car.positive] == BACKGROUND).all()


def test_frames_without_boxes_are_all_background():
    none = torch.zeros(0, 7), torch.zeros(0, dtype=torch.long)
    car = ANCHORS[8, 8, 2, 0][None], torch.tensor([2])
    targets = assign_targets(ANCHORS, [none[0], car[0]], [none[1], car[1]], KITTI_CLASSES)
    assert (targets.classes[0] == BACKGROUND).all() and targets.positive[1].any()
    assert targets.deltas.shape == (2, 1536, 7)


def test_the_order_of_the_boxes_does_not_matter():
    boxes, labels = random_boxes(6, 7)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    a, b = assign(boxes, labels), assign(boxes[order], labels[order])
    assert torch.equal(a.classes, b.classes) and torch.equal(a.deltas, b.deltas)


def test_direction_and_angle_within_half_a_turn_give_the_angle_back():
    theta = torch.linspace(-9, 9, 1800, dtype=torch.float64)  # not 0 itself, where rounding decides
    for lost in (0, math.pi, -2 * math.pi):  # what half turns the box head leaves does not matter
        back = heading(theta + lost, direction_of(theta))
        torch.testing.assert_close(torch.cos(back - theta), torch.ones_like(theta))
        assert (back >= -math.pi - 1e-9).all() and (back < math.pi + 1e-9).all()
