"""Task losses: the published hand values, masks, empty batches, gradients."""

import math

import pytest
import torch

from batvision_kd.losses.depth import CRITERIA, TERMS, gradient_loss, silog, smoothness, task_losses
from batvision_kd.losses.masked import masked_mean
from shared.errors import UserError

HAND = {  # g = [1, 2, 4], p = [1.25, 2, 3], to six digits
    "l1": 0.416667, "log_l1": 0.170275, "bi": 0.305430, "silog": 0.209650, "berhu": 0.952083, "hinge": 0.021513,
}  # fmt: skip


def maps(*rows):
    return [torch.tensor(row).view(1, 1, 1, -1) for row in rows]


def hand():
    depth, prediction = maps([1.0, 2.0, 4.0], [1.25, 2.0, 3.0])
    return prediction, depth, torch.ones_like(depth, dtype=torch.bool)


def scene(seed=0, valid=0.7):
    g = torch.Generator().manual_seed(seed)
    depth, prediction = (torch.rand(2, 1, 6, 8, generator=g) * 5 + 0.2 for _ in range(2))
    return prediction, depth, torch.rand(2, 1, 6, 8, generator=g) < valid


@pytest.mark.parametrize("name", HAND)
def test_hand_values(name):
    assert float(TERMS[name](*hand())) == pytest.approx(HAND[name], abs=1e-6)


def test_hand_values_with_other_weights():
    prediction, depth, valid = hand()
    assert float(silog(prediction, depth, valid, 0.85)) == pytest.approx(0.209264, abs=1e-6)
    terms = task_losses(prediction, depth, valid, criterion="Combined", silog_lambda=0.869)
    total = sum(weight * terms[name] for name, weight in CRITERIA["Combined"].items())
    assert float(total) == pytest.approx(0.232038, abs=1e-6)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_terms_are_those_that_the_criterion_names(criterion):
    terms = task_losses(*scene(), criterion=criterion, smooth=True, gradient=True)
    assert set(terms) == {*CRITERIA[criterion], "smooth", "gradient"}
    assert all(term.ndim == 0 and term > 0 for term in terms.values())


@pytest.mark.parametrize("name", [*TERMS, "gradient"])
def test_a_perfect_prediction_costs_nothing_with_finite_gradients(name):
    _, depth, valid = scene()
    prediction = depth.clone().requires_grad_()
    loss = {**TERMS, "gradient": gradient_loss}[name](prediction, depth, valid)
    loss.backward()
    assert float(loss.detach()) <= 1.01e-3  # silog's root of its epsilon
    assert prediction.grad.isfinite().all()


@pytest.mark.parametrize("name", [*TERMS, "gradient"])
@pytest.mark.parametrize("rubbish", [1e6, -1.0, 0.0, math.nan, math.inf])
def test_pixels_that_are_not_valid_change_nothing(name, rubbish):
    prediction, depth, valid = scene()
    term = {**TERMS, "gradient": gradient_loss}[name]
    before = term(prediction, depth, valid)
    assert torch.equal(before, term(prediction, torch.where(valid, depth, rubbish), valid))
    spoilt = torch.where(valid, prediction, rubbish).requires_grad_()
    after = term(spoilt, depth, valid)
    after.backward()
    assert torch.equal(before, after.detach())
    assert spoilt.grad.isfinite().all() and not spoilt.grad[~valid].any()


@pytest.mark.fault(12)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_nothing_valid_gives_zero_with_finite_gradients(criterion):
    prediction, depth, valid = scene()
    prediction.requires_grad_()
    terms = task_losses(
        prediction, torch.zeros_like(depth), torch.zeros_like(valid), criterion=criterion, gradient=True
    )
    sum(terms.values()).backward()
    assert all(term.item() == 0 for term in terms.values())
    assert prediction.grad.isfinite().all() and not prediction.grad.any()


@pytest.mark.parametrize("name", ["log_l1", "silog", "hinge"])
def test_logarithmic_terms_do_not_see_the_unit(name):
    prediction, depth, valid = scene()
    torch.testing.assert_close(TERMS[name](prediction, depth, valid), TERMS[name](7 * prediction, 7 * depth, valid))


def test_silog_forgives_the_scale_as_far_as_lambda_says():
    _, depth, valid = scene()
    found = [float(silog(2 * depth, depth, valid, l)) for l in (0.0, 0.5, 1.0)]
    assert found == pytest.approx([math.log(2), math.log(2) * math.sqrt(0.5), 1e-3], rel=1e-3)


def test_gradients_match_finite_differences():
    prediction, depth, valid = (x.double() if x.is_floating_point() else x for x in scene())
    prediction = prediction[:1, :, :3, :3].clone().requires_grad_()
    for name, term in {**TERMS, "gradient": gradient_loss}.items():
        if name != "berhu":  # its threshold is held fixed in the gradient, on purpose
            assert torch.autograd.gradcheck(
                lambda p, t=term: t(p, depth[:1, :, :3, :3], valid[:1, :, :3, :3]), prediction
            )


def test_berhu_is_straight_near_and_square_far():
    depth, prediction = maps([5.0, 5.0, 5.0], [5.1, 5.2, 6.0])  # c = 0.2
    loss = TERMS["berhu"](prediction, depth, torch.ones_like(depth, dtype=torch.bool))
    assert float(loss) == pytest.approx((0.1 + 0.2 + (1 + 0.04) / 0.4) / 3, abs=1e-5)


def test_the_gradient_term_skips_steps_over_a_hole():
    depth, prediction = maps([1.0, 1.0, 1.0, 1.0], [1.0, 1.0, math.e, math.e])
    valid = torch.tensor([True, True, True, True]).view(1, 1, 1, -1)
    assert float(gradient_loss(prediction, depth, valid)) == pytest.approx(1 / 3)
    valid[..., 2] = False
    assert float(gradient_loss(prediction, depth, valid)) == 0


def test_smoothness_is_plain_variation_until_a_picture_marks_the_edge():
    prediction = torch.ones(1, 1, 4, 4)
    prediction[..., 2:] = 3.0
    assert float(smoothness(torch.full((1, 1, 4, 4), 2.0))) == 0
    assert float(smoothness(prediction)) == pytest.approx(2 / 3)
    flat, edge = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    edge[..., 2:] = 1.0
    assert float(smoothness(prediction, flat)) == pytest.approx(2 / 3)
    assert float(smoothness(prediction, edge)) == pytest.approx(2 / 3 * math.exp(-1))


def test_smoothness_of_one_pixel_is_zero():
    assert float(smoothness(torch.ones(1, 1, 1, 1, requires_grad=True))) == 0


def test_masked_mean_counts_the_masks_pixels_only():
    values, mask = torch.tensor([1.0, 3.0, math.nan]), torch.tensor([True, True, False])
    assert float(masked_mean(values, mask)) == 2


def test_bad_calls_are_refused():
    prediction, depth, valid = scene()
    with pytest.raises(UserError, match=r"'L2'.*L1, SIlog, Combined"):
        task_losses(prediction, depth, valid, criterion="L2")
    with pytest.raises(ValueError, match="different shapes"):
        task_losses(prediction, depth[:, 0], valid)
