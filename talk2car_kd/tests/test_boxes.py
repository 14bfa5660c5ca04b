"""Laws of boxes.py: round trips, the hand-computed overlap vectors, and gradients where training needs them."""

import numpy as np
import pytest
import torch

from talk2car_kd import boxes

FRAME_WH = (1600, 900)


def random_xywh(count=64, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator, dtype=dtype) * torch.tensor([1200.0, 600.0])
    size = 1 + torch.rand(count, 2, generator=generator, dtype=dtype) * torch.tensor([390.0, 290.0])
    return torch.cat([corner, size], dim=-1)


@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize("shape", [(64, 4), (8, 8, 4), (4,), (0, 4)])
def test_conversions_round_trip(kind, shape):
    xywh = random_xywh()[: int(np.prod(shape[:-1]))].reshape(shape)
    xywh = xywh.numpy() if kind == "numpy" else xywh
    xyxy = boxes.xywh_to_xyxy(xywh)
    assert type(xyxy) is type(xywh)
    assert np.allclose(boxes.xyxy_to_xywh(xyxy), xywh, atol=1e-9)
    assert np.allclose(boxes.cxcywh_to_xyxy(boxes.xyxy_to_cxcywh(xyxy)), xyxy, atol=1e-9)
    unit = boxes.to_unit_cxcywh(xywh, FRAME_WH)
    assert np.allclose(boxes.to_frame_xywh(unit, FRAME_WH), xywh, atol=1e-9)


def test_conversions_by_hand():
    xywh = torch.tensor([400.0, 90.0, 800.0, 180.0])
    assert boxes.xywh_to_xyxy(xywh).tolist() == [400, 90, 1200, 270]
    assert boxes.xyxy_to_cxcywh(torch.tensor([400.0, 90.0, 1200.0, 270.0])).tolist() == [800, 180, 800, 180]
    assert boxes.to_unit_cxcywh(xywh, FRAME_WH).tolist() == pytest.approx([0.5, 0.2, 0.5, 0.2])


def test_integer_boxes_keep_their_half_pixels():
    assert boxes.xyxy_to_cxcywh(np.array([0, 0, 3, 5])).tolist() == [1.5, 2.5, 3, 5]
    assert boxes.xyxy_to_cxcywh(torch.tensor([0, 0, 3, 5])).tolist() == [1.5, 2.5, 3, 5]


def test_frame_boxes_are_cut_at_the_border():
    half_out = torch.tensor([[0.0, 0.5, 0.5, 0.2], [1.0, 1.0, 0.2, 0.2]], dtype=torch.float64)
    cut = boxes.to_frame_xywh(half_out, FRAME_WH)
    assert cut.tolist() == [pytest.approx([0, 360, 400, 180]), pytest.approx([1440, 810, 160, 90])]


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"four numbers.*\(3, 5\)"):
        boxes.xywh_to_xyxy(torch.zeros(3, 5))
    with pytest.raises(ValueError, match="two equal shapes"):
        boxes.paired_iou(torch.zeros(3, 4), torch.zeros(1, 4))


VECTORS = [  # xyxy, xyxy, IoU, GIoU
    ((0, 0, 2, 2), (1, 0, 3, 2), 1 / 3, 1 / 3),
    ((0, 0, 1, 1), (2, 0, 3, 1), 0.0, -1 / 3),
    ((0, 0, 2, 1), (0, 0, 1, 1), 0.5, 0.5),
    ((0, 0, 1, 1), (9, 9, 10, 10), 0.0, -0.98),
    ((3, 4, 8, 9), (3, 4, 8, 9), 1.0, 1.0),
    ((0, 0, 4, 4), (1, 1, 2, 2), 1 / 16, 1 / 16),
]


@pytest.mark.parametrize("a, b, iou, giou", VECTORS)
def test_overlaps_by_hand(a, b, iou, giou):
    a, b = torch.tensor([a], dtype=torch.float32), torch.tensor([b], dtype=torch.float32)
    for first, second in ((a, b), (b, a)):
        assert boxes.paired_iou(first, second).item() == pytest.approx(iou, abs=1e-6)
        assert boxes.paired_giou(first, second).item() == pytest.approx(giou, abs=1e-6)


def test_half_overlap_is_exactly_half():
    a, b = torch.tensor([[0.0, 0.0, 2.0, 1.0]]), torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert boxes.paired_iou(a, b).item() == 0.5  # the strict rule `iou > 0.5` must call this a miss


def test_overlaps_do_not_change_with_place_and_scale():
    a, b = boxes.xywh_to_xyxy(random_xywh(seed=1)), boxes.xywh_to_xyxy(random_xywh(seed=2))
    for overlap in (boxes.paired_iou, boxes.paired_giou):
        assert torch.allclose(overlap(a, b), overlap(a * 0.01 + 7, b * 0.01 + 7), atol=1e-9)
    assert (boxes.paired_giou(a, b) <= boxes.paired_iou(a, b) + 1e-12).all()
    assert (boxes.paired_giou(a, b) > -1).all()


def test_disjoint_boxes_pull_together():
    a = torch.tensor([[0.1, 0.1, 0.2, 0.2]], requires_grad=True)
    b = torch.tensor([[0.7, 0.1, 0.8, 0.2]])
    (1 - boxes.paired_giou(a, b)).sum().backward()
    assert a.grad[0, 2] < 0  # a step against the gradient moves the right edge towards the other box
    assert a.grad.abs().sum() > 0


def test_gradients_match_finite_differences():
    a = boxes.xywh_to_xyxy(random_xywh(8, seed=3) / 1000).requires_grad_()
    b = boxes.xywh_to_xyxy(random_xywh(8, seed=4) / 1000)
    boxes.paired_giou(a, b).sum().backward()
    for corner in range(4):
        step = 1e-6 * torch.eye(4, dtype=a.dtype)[corner]
        slope = (boxes.paired_giou(a.detach() + step, b) - boxes.paired_giou(a.detach() - step, b)) / 2e-6
        assert torch.allclose(a.grad[:, corner], slope, atol=1e-6)


@pytest.mark.parametrize("shift", [0.0, 1e-7, 3.0])
def test_collapsed_boxes_stay_finite(shift):
    a = torch.tensor([[5.0, 5.0, 5.0, 5.0], [5.0, 5.0, 4.0, 6.0]], requires_grad=True)
    b = torch.full((2, 4), 5.0 + shift)
    giou = boxes.paired_giou(a, b)
    giou.sum().backward()
    assert torch.isfinite(giou).all() and torch.isfinite(a.grad).all()
    assert (giou >= -1).all() and (giou <= boxes.paired_iou(a, b)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_overlaps_are_float32_under_autocast(dtype):
    a, b = (boxes.xywh_to_xyxy(random_xywh(seed=s) / 1600).to(dtype) for s in (5, 6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        giou = boxes.paired_giou(a, b)
    assert giou.dtype == torch.float32
    assert torch.allclose(giou.double(), boxes.paired_giou(a.double(), b.double()), atol=1e-5)


def test_no_boxes_no_numbers():
    empty = torch.zeros(0, 4)
    assert boxes.paired_giou(empty, empty).shape == (0,)
