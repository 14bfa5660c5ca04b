"""The domain term: MMD's laws and hand value, reversed gradients, a fault that must show."""

import math

import pytest
import torch

from llvip_macl.models.domain import DomainTerm, ModalityClassifier, mmd_squared, reverse_gradient
from shared.errors import ConfigError


def sets(n=6, m=5, shift=0.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=g), torch.randn(m, 4, generator=g) + shift


def test_a_hand_value():
    """x = 0, y = 3: the only distance is 9 = sigma^2, so k(x,y) = sum of exp(-1/(2s)) and k(x,x) = 3."""
    between = sum(math.exp(-1 / (2 * s)) for s in (1, 2, 4))
    value = mmd_squared(torch.tensor([[0.0]]), torch.tensor([[3.0]]))
    assert float(value) == pytest.approx(2 * 3 - 2 * between, rel=1e-6)


def test_it_is_zero_for_equal_sets_symmetric_and_never_negative():
    x, y = sets()
    assert float(mmd_squared(x, x)) == pytest.approx(0, abs=1e-6)
    assert float(mmd_squared(x, x.flip(0))) == pytest.approx(0, abs=1e-6)
    assert float(mmd_squared(x, y)) == pytest.approx(float(mmd_squared(y, x)), rel=1e-5)
    assert all(float(mmd_squared(*sets(seed=seed))) >= -1e-6 for seed in range(20))
    assert mmd_squared(torch.ones(3, 2), torch.ones(2, 2)) == 0


def test_it_grows_with_the_shift_between_the_means():
    values = [float(mmd_squared(*sets(20, 20, shift))) for shift in (0.0, 0.5, 1.0, 2.0, 4.0)]
    assert values == sorted(values) and values[-1] > 10 * values[0]


def test_it_does_not_depend_on_the_scale_of_the_features():
    x, y = sets()
    assert float(mmd_squared(x, y)) == pytest.approx(float(mmd_squared(100 * x, 100 * y)), rel=1e-4)


def test_following_the_gradient_brings_the_sets_together():
    x, y = sets(8, 8, 3.0)
    y.requires_grad_()
    before = mmd_squared(x, y)
    before.backward()
    assert mmd_squared(x, y.detach() - 2.0 * y.grad) < before


def test_it_is_float32_under_autocast_and_finite_for_a_batch_of_one():
    x, y = sets(1, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = mmd_squared(x.bfloat16(), y.bfloat16())
    assert value.dtype == torch.float32 and value.isfinite()


def test_gradients_are_right_with_sigma_held():
    """With two rows the median is the distance itself, so the detached sigma shows as a plain formula's gradient."""
    x = torch.tensor([[0.0]], dtype=torch.float64)
    y = torch.tensor([[3.0]], dtype=torch.float64, requires_grad=True)
    mmd_squared(x, y, (1.0,)).backward()
    assert float(y.grad) == pytest.approx(2 * math.exp(-0.5) * 3 / 9, rel=1e-9)


@pytest.mark.parametrize("bad", [(0, 3), (3, 0)])
def test_empty_sets_are_refused(bad):
    with pytest.raises(ValueError, match="N and M > 0"):
        mmd_squared(*(torch.zeros(n, 2) for n in bad))


def test_the_gradient_is_reversed_and_the_values_are_not():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = reverse_gradient(x)
    (y * torch.tensor([3.0, 5.0])).sum().backward()
    assert torch.equal(y, x) and x.grad.tolist() == [-3.0, -5.0]


def test_the_classifier_learns_to_tell_while_the_features_learn_to_hide():
    torch.manual_seed(0)
    classifier = ModalityClassifier(4)
    vis, ir = (rows.requires_grad_() for rows in sets(32, 32, 1.0))
    loss = classifier(vis, ir)
    assert float(loss.detach()) == pytest.approx(math.log(2), abs=0.15)
    loss.backward()
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter -= 0.1 * parameter.grad
        assert classifier(vis, ir) < loss  # the classifier's step lowers its loss
        before = classifier(vis, ir)
        assert classifier(vis - 20 * vis.grad, ir - 20 * ir.grad) > before  # the features' own step raises it


@pytest.mark.parametrize("kind", ["mmd", "reversal"])
def test_a_term_takes_levels_and_reaches_them(kind):
    term = DomainTerm(kind, 4)
    vis, ir = (torch.randn(2, 4, 5, 6, requires_grad=True) for _ in range(2))
    term(vis, ir).backward()
    assert vis.grad.abs().sum() > 0 and ir.grad.abs().sum() > 0
    assert bool(list(term.parameters())) == (kind == "reversal")


def test_an_unknown_term_is_refused():
    with pytest.raises(ConfigError, match="use one of mmd, reversal"):
        DomainTerm("coral", 4)
