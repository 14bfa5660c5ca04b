"""Weights that change: the schedule's shape, the balance's direction, and that a resume changes nothing."""

import math

import pytest
import torch
from torch import nn

from batvision_kd.losses.adaptive import ANNEALS, GradientBalance, anneal, gradient_norm
from batvision_kd.models import create_binaural_attention_model
from shared.errors import UserError


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize("total", [2, 14, 200])
def test_the_schedule_warms_up_then_falls_to_a_tenth(kind, total):
    factors = [anneal(step, total, kind) for step in range(total)]
    top = factors.index(max(factors))
    assert max(factors) == pytest.approx(1, abs=0.02)
    assert factors[-1] == pytest.approx(0.1)
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert top <= 0.05 * total and factors[0] > 0


def test_the_warm_up_is_linear_over_a_twentieth():
    assert [anneal(step, 200) for step in range(10)] == pytest.approx([0.1 * n for n in range(1, 11)])


def test_halfway_both_kinds_stand_at_the_middle():
    assert [anneal(50, 101, kind, warmup=0) for kind in ("cosine", "linear")] == pytest.approx([0.55, 0.55])
    assert anneal(25, 101, "cosine", warmup=0) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 4)))


def test_none_is_one_and_one_epoch_is_whole():
    assert {anneal(step, 10, "none") for step in range(10)} == {1.0}
    assert all(anneal(0, 1, kind) == 1 for kind in ANNEALS)
    with pytest.raises(UserError, match=r"'step'.*none, cosine, linear"):
        anneal(0, 10, "step")


def balanced(pairs, rho=0.5):
    balance = GradientBalance(rho)
    for task, term in pairs:
        balance.update(torch.tensor(float(task)), torch.tensor(float(term)))
    return float(balance.weight)


def test_the_balance_keeps_the_terms_pull_at_rho_times_the_tasks():
    assert balanced([(2.0, 0.1)] * 5) == pytest.approx(0.5 * 2.0 / 0.1, rel=1e-6)


def test_a_stronger_task_raises_the_weight_and_a_stronger_term_lowers_it():
    start = [(1.0, 1.0)] * 3
    assert balanced([*start, (9.0, 1.0)]) > balanced(start) > balanced([*start, (1.0, 9.0)])


def test_the_balance_averages_over_a_hundred_steps():
    means = (
        sum(0.99 ** (2 - i) * 0.01 * task for i, task in enumerate((1, 2, 3))),
        0.01 * sum(0.99**i for i in range(3)),
    )
    assert balanced([(1, 1), (2, 1), (3, 1)]) == pytest.approx(0.5 * means[0] / means[1], rel=1e-6)


def test_the_balance_is_clamped_and_neutral_without_gradients():
    assert balanced([(1e6, 1e-6)]) == 100
    assert balanced([(1e-6, 1e6)]) == pytest.approx(0.01)
    assert balanced([(0, 1)]) == pytest.approx(0.01)
    assert balanced([]) == balanced([(0, 0)]) == balanced([(3, 0)]) == 0.5


def test_a_resumed_balance_goes_on_as_if_nothing_had_happened():
    pairs = [(1.0, 2.0), (4.0, 0.5), (2.0, 2.0), (0.1, 3.0)]
    unbroken, first = GradientBalance(0.1), GradientBalance(0.1)
    weights = [unbroken.update(*map(torch.tensor, pair)) for pair in pairs]
    for pair in pairs[:2]:
        first.update(*map(torch.tensor, pair))
    saved = first.state_dict()
    first.update(torch.tensor(99.0), torch.tensor(1.0))  # what happens after saving is not in the state
    resumed = GradientBalance(0.1)
    resumed.load_state_dict(saved)
    assert [resumed.update(*map(torch.tensor, pair)) for pair in pairs[2:]] == weights[2:]


def test_rho_must_be_positive():
    with pytest.raises(UserError, match="rho 0"):
        GradientBalance(0)


class TwoProcesses:
    """The sum over two processes, the other of which always reports (3, 1)."""

    size = 2

    def sum(self, tensor):
        return tensor + torch.tensor([3.0, 1.0]).to(tensor)


def test_all_processes_get_one_weight():
    balance = GradientBalance(1.0)
    found = balance.update(torch.tensor(1.0), torch.tensor(1.0), TwoProcesses())
    assert float(found) == pytest.approx(2.0)  # means over the processes: 2 and 1


def test_gradient_norms_are_those_of_autograd_and_leave_the_graph():
    layer = nn.Linear(3, 2)
    x = torch.randn(4, 3)
    term = layer(x).square().sum()
    norm = gradient_norm(term, layer.weight)
    assert layer.weight.grad is None
    term.backward()
    torch.testing.assert_close(norm, layer.weight.grad.norm())
    assert not norm.requires_grad
    assert float(gradient_norm(layer.bias.sum(), layer.weight)) == 0
    assert float(gradient_norm(torch.ones(()), layer.weight)) == 0


def test_the_balance_works_at_the_students_shared_weight():
    torch.manual_seed(0)
    student = create_binaural_attention_model(8, output_size=None)
    depth, features = student(torch.rand(2, 2, 32, 32), return_features=True)
    task, term = depth.mean(), 1e-3 * features["x5"].square().mean()
    weight = student.shared_weight(("x5",))
    norms = [gradient_norm(loss, weight) for loss in (task, term)]
    balance = GradientBalance(0.1)
    scaled = balance.update(*norms) * term
    torch.testing.assert_close(gradient_norm(scaled, weight), 0.1 * norms[0], rtol=1e-4, atol=1e-9)
