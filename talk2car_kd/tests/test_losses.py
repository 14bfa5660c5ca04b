"""Distillation terms against their identities and grounding terms against their laws."""

import math

import pytest
import torch
import torch.nn.functional as F

from talk2car_kd.losses import (
    DistillationLosses,
    Talk2CarLoss,
    clip_loss,
    clip_loss_unique,
    cosine_loss,
    gaussian_targets,
    similarity_loss,
    soft_cross_entropy,
)


def unit(n, d, seed):
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_clip_with_unique_texts_is_symmetric_cross_entropy():
    logits = 10 * unit(6, 8, 0) @ unit(6, 8, 1).T
    ids = torch.arange(6)
    expected = (F.cross_entropy(logits, ids) + F.cross_entropy(logits.T, ids)) / 2
    torch.testing.assert_close(clip_loss(logits, ids), expected)
    torch.testing.assert_close(clip_loss_unique(logits, ids), expected)


def test_clip_with_one_text_and_equal_logits_is_ln_n_and_zero_over_unique_texts():
    ids = torch.zeros(5, dtype=torch.long)
    assert clip_loss(torch.ones(5, 5), ids).item() == pytest.approx(math.log(5))
    assert clip_loss_unique(torch.ones(5, 5), ids).item() == pytest.approx(0, abs=1e-6)


def test_soft_positives_equal_one_positive_when_equal_texts_have_equal_columns():
    """With a frozen text tower, multi-positive InfoNCE has the value and the gradient of the one-positive form."""
    ids = torch.tensor([0, 1, 1, 2, 0])
    image = unit(5, 8, 0).requires_grad_()
    logits = 8 * image @ unit(3, 8, 1)[ids].T
    (soft,) = torch.autograd.grad(clip_loss(logits, ids), image, retain_graph=True)
    one = (F.cross_entropy(logits, torch.arange(5)) + F.cross_entropy(logits.T, torch.arange(5))) / 2
    torch.testing.assert_close(clip_loss(logits, ids), one)
    (hard,) = torch.autograd.grad(one, image)
    torch.testing.assert_close(soft, hard, atol=2e-7, rtol=1e-5)


def test_unique_text_clip_reaches_zero_at_a_perfect_match():
    ids = torch.tensor([3, 1, 3, 7])
    directions = torch.eye(8)
    logits = 100 * directions[ids] @ directions[ids].T
    assert clip_loss_unique(logits, ids).item() == pytest.approx(0, abs=1e-5)
    assert clip_loss(logits, ids).item() > 0.3  # the floor that repeated captions impose


def test_unique_text_clip_does_not_depend_on_the_order_of_rows():
    ids, order = torch.tensor([4, 2, 4, 9, 2]), torch.tensor([3, 0, 4, 1, 2])
    image, text = unit(5, 8, 0), unit(10, 8, 1)
    loss = clip_loss_unique(9 * image @ text[ids].T, ids)
    permuted = clip_loss_unique(9 * image[order] @ text[ids[order]].T, ids[order])
    torch.testing.assert_close(loss, permuted)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_similarity_is_zero_at_equality_and_positive_elsewhere(temperature):
    a, b = 5 * unit(4, 8, 0) @ unit(4, 8, 1).T, 5 * unit(4, 8, 2) @ unit(4, 8, 3).T
    assert similarity_loss(a, a, temperature).item() == pytest.approx(0, abs=1e-6)
    assert similarity_loss(a, b, temperature) > 0


def test_soft_cross_entropy_is_similarity_plus_the_teachers_entropy():
    student, teacher = 5 * unit(4, 8, 0) @ unit(4, 8, 1).T, 5 * unit(4, 8, 2) @ unit(4, 8, 3).T
    rows, columns = teacher.softmax(1), teacher.T.softmax(1)
    soft = (soft_cross_entropy(student, rows) + soft_cross_entropy(student.T, columns)) / 2
    entropy = (soft_cross_entropy(teacher, rows) + soft_cross_entropy(teacher.T, columns)) / 2
    torch.testing.assert_close(soft, similarity_loss(student, teacher) + entropy)


def test_mean_squared_error_of_unit_vectors_is_two_cosine_losses_over_d():
    s, v = unit(6, 16, 0), unit(6, 16, 1)
    torch.testing.assert_close(F.mse_loss(s, v), 2 * cosine_loss(s, v) / 16)


def test_terms_of_weight_zero_are_left_out_and_short_batches_refused():
    loss = DistillationLosses({"clip": 1.0, "sim": 0.0, "cos": 0.5})
    s, v, t, ids = unit(4, 8, 0), unit(4, 8, 1), unit(4, 8, 2), torch.arange(4)
    assert set(loss(s, v, t, ids, 14.3)) == {"clip", "cos"}
    with pytest.raises(ValueError, match="N >= 2"):
        loss(s[:1], v[:1], t[:1], ids[:1], 14.3)
    with pytest.raises(ValueError, match="teacher"):
        loss(s, v[:, :4], t, ids, 14.3)


def test_distillation_ignores_the_students_norm_and_reaches_its_logit_scale():
    loss = DistillationLosses({"clip": 1.0, "sim": 1.0, "cos": 1.0})
    s, v, t, ids = unit(4, 8, 0), unit(4, 8, 1), unit(4, 8, 2), torch.arange(4)
    small, large = loss(s, v, t, ids, 14.3), loss(100 * s, v, t, ids, 14.3)
    for name in small:
        torch.testing.assert_close(small[name], large[name], rtol=1e-4, atol=1e-5)
    sum(small.values()).backward()
    assert loss.log_scale.grad is not None and loss.log_scale.grad.abs() > 0


def test_gaussian_target_sums_to_one_and_peaks_at_the_centre():
    boxes = torch.tensor([[0.3, 0.6, 0.2, 0.3], [0.99, 0.01, 0.001, 0.001]])
    target = gaussian_targets(boxes, (10, 20))
    torch.testing.assert_close(target.sum(1), torch.ones(2))
    assert target[0].argmax() == 5 * 20 + 5 or target[0].unflatten(0, (10, 20))[5:7, 5:7].sum() > 0.3
    assert target[1].argmax() == 19  # top right cell


def dense_outputs(boxes, map_hw, correct):
    """A head's outputs whose cells all predict `boxes` (or a far box) and whose scores follow the target."""
    target = gaussian_targets(boxes, map_hw)
    candidates = boxes[:, None].expand(-1, target.shape[1], 4)
    if not correct:
        candidates = candidates * 0 + torch.tensor([0.9, 0.9, 0.05, 0.05])
    score = target.clamp(min=1e-12).log().unflatten(1, map_hw)
    return {
        "boxes_cxcywh": candidates[:, 0],
        "score_map": score,
        "cell_boxes": candidates.clone().requires_grad_(),
        "aux": [score],
    }


def test_grounding_terms_vanish_at_the_optimum():
    boxes = torch.tensor([[0.3, 0.6, 0.2, 0.3], [0.5, 0.5, 0.1, 0.1]])
    terms = Talk2CarLoss()(dense_outputs(boxes, (10, 20), True), boxes)
    assert set(terms) == {"l1", "giou", "score", "aux"}
    assert terms["l1"].item() == pytest.approx(0, abs=1e-6)
    assert terms["giou"].item() == pytest.approx(0, abs=1e-5)
    entropy = (
        -(gaussian_targets(boxes, (10, 20)) * gaussian_targets(boxes, (10, 20)).clamp(min=1e-12).log()).sum(1).mean()
    )
    torch.testing.assert_close(terms["score"], entropy, rtol=1e-4, atol=1e-4)


def test_disjoint_boxes_still_pull():
    boxes = torch.tensor([[0.2, 0.2, 0.1, 0.1]])
    outputs = dense_outputs(boxes, (4, 4), False)
    terms = Talk2CarLoss()(outputs, boxes)
    assert terms["giou"] > 1
    terms["giou"].backward()
    assert outputs["cell_boxes"].grad.abs().sum() > 0


def test_l1_sums_over_the_four_coordinates():
    outputs = {"boxes_cxcywh": torch.tensor([[0.5, 0.5, 0.2, 0.2]]), "score_map": None, "cell_boxes": None, "aux": []}
    terms = Talk2CarLoss()(outputs, torch.tensor([[0.6, 0.4, 0.3, 0.1]]))
    assert set(terms) == {"l1", "giou"}
    assert terms["l1"].item() == pytest.approx(0.4, abs=1e-6)
