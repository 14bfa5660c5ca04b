import math

import pytest
import torch

from pillars_rq.detection_loss import WEIGHTS, detection_losses, flat_predictions, focal_loss, sine_difference
from pillars_rq.network import Predictions
from pillars_rq.targets import IGNORED, Targets

CLASSES, ANCHORS, SIDE = 3, 6, 2
NUMBER = ANCHORS * SIDE * SIDE


def targets(classes: dict[int, int], deltas: dict[int, list[float]] | None = None, directions=()) -> Targets:
    """One frame: anchor -> class, deltas; the rest is background."""
    found = torch.full((1, NUMBER), CLASSES)
    wanted, turned = torch.zeros(1, NUMBER, 7), torch.zeros(1, NUMBER, dtype=torch.long)
    for anchor, label in classes.items():
        found[0, anchor] = label
    for anchor, values in (deltas or {}).items():
        wanted[0, anchor] = torch.tensor(values)
    for anchor in directions:
        turned[0, anchor] = 1
    return Targets(found, wanted, turned, CLASSES)


def maps(logits: torch.Tensor, deltas: torch.Tensor, directions: torch.Tensor) -> Predictions:
    """By anchor (1,N,.) -> the head's maps."""
    return Predictions(*(part.view(1, SIDE, SIDE, -1).permute(0, 3, 1, 2) for part in (logits, deltas, directions)))


def perfect(wanted: Targets, sure: float = 20.0) -> Predictions:
    truth = torch.nn.functional.one_hot(wanted.classes.clamp(min=0), CLASSES + 1)[..., :CLASSES]
    turn = torch.nn.functional.one_hot(wanted.directions, 2)
    return maps((2 * truth - 1) * sure, wanted.deltas, (2 * turn - 1) * sure)


CAR = targets({5: 2, 9: 0, 11: IGNORED}, {5: [0.1, -0.2, 0.3, 0.1, 0, -0.1, 0.4], 9: [1, 0, 0, 0, 0, 0, -2.0]}, [9])


def test_a_perfect_answer_costs_nothing():
    losses = detection_losses(perfect(CAR), CAR)
    assert list(losses) == list(WEIGHTS) == ["cls", "reg", "dir"]
    assert all(0 <= value < 1e-6 for value in losses.values())


def test_maps_are_read_anchor_by_anchor():
    logits, deltas, directions = torch.rand(1, NUMBER, 3), torch.rand(1, NUMBER, 7), torch.rand(1, NUMBER, 2)
    found = flat_predictions(maps(logits, deltas, directions), CLASSES)
    assert torch.equal(found[0], logits) and torch.equal(found[1], deltas) and torch.equal(found[2], directions)


def test_focal_loss_by_hand():
    logits = torch.tensor([[[0.0, math.log(3)]]])  # probabilities 0.5 and 0.75
    positive = 0.25 * 0.5**2 * math.log(2) + 0.75 * 0.75**2 * math.log(4)
    assert focal_loss(logits, torch.tensor([[0]]), 2).item() == pytest.approx(positive)
    background = 0.75 * (0.5**2 * math.log(2) + 0.75**2 * math.log(4))
    assert focal_loss(logits, torch.tensor([[2]]), 2).item() == pytest.approx(background)
    assert focal_loss(logits, torch.tensor([[IGNORED]]), 2).item() == 0


def test_terms_are_means_over_the_positives():
    one, two = targets({3: 1}), targets({3: 1, 4: 1})
    deltas = torch.zeros(1, NUMBER, 7)
    deltas[0, 3, 0] = 0.5  # beyond 1/9: linear
    for wanted, share in ((one, 1), (two, 2)):
        prediction = perfect(wanted)._replace(reg=maps(deltas, deltas, deltas).reg)
        assert detection_losses(prediction, wanted)["reg"].item() == pytest.approx((0.5 - 0.5 / 9) / share)
    deltas[0, 3, 0] = 0.1  # within: quadratic
    prediction = perfect(one)._replace(reg=maps(deltas, deltas, deltas).reg)
    assert detection_losses(prediction, one)["reg"].item() == pytest.approx(0.5 * 0.1**2 * 9)


def test_code_weights_weigh_each_number_of_the_box_and_nothing_else():
    one = targets({3: 1})
    off = torch.zeros(1, NUMBER, 7)
    off[0, 3] = torch.tensor([0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1])
    prediction = perfect(one)._replace(reg=maps(off, off, off).reg)
    terms = [*(value - 0.5 / 9 for value in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)), math.sin(1.1) - 0.5 / 9]
    plain = detection_losses(prediction, one)
    assert plain["reg"].item() == pytest.approx(sum(terms), rel=1e-5)
    for number, term in enumerate(terms):
        weights = [float(number == k) * 3 for k in range(7)]
        weighted = detection_losses(prediction, one, code_weights=weights)
        assert weighted["reg"].item() == pytest.approx(3 * term, rel=1e-5)
        assert weighted["cls"] == plain["cls"] and weighted["dir"] == plain["dir"]


def test_ignored_anchors_and_boxes_of_background_anchors_cost_nothing():
    wild = perfect(CAR)
    wild.cls[:, 11 % ANCHORS * 3 : 11 % ANCHORS * 3 + 3, 0, 1] = 30.0  # anchor 11 is the last of the second cell
    wild.reg[:, 7:14] = torch.where(torch.tensor(True), wild.reg[:, 7:14] + 5, 0)  # anchors 1, 7, 13, 19: background
    assert all(value < 1e-6 for value in detection_losses(wild, CAR).values())


def test_half_a_turn_costs_nothing_and_the_gradient_shortens_the_difference():
    wanted = torch.tensor([0.3, 0.3, 0.3], requires_grad=False)
    predicted = torch.tensor([0.3 + math.pi, 0.5, 0.1], requires_grad=True)
    found = sine_difference(predicted, wanted)
    torch.testing.assert_close(found.detach(), torch.sin(predicted.detach() - wanted), atol=1e-6, rtol=1e-5)
    found.square().sum().backward()
    assert abs(predicted.grad[0]) < 1e-5 and predicted.grad[1] > 0 > predicted.grad[2]


def test_the_published_angle_term_is_another_one():
    """The published loss's quirk: the target uses the cosine of the overwritten prediction."""
    p, t = 0.8, 0.5
    wanted = targets({3: 1}, {3: [0, 0, 0, 0, 0, 0, t]})
    off = wanted.deltas.clone()
    off[0, 3, 6] = p
    prediction = perfect(wanted)._replace(reg=maps(off, off, off).reg)
    overwritten = math.sin(p) * math.cos(t)
    expected = abs(overwritten - math.cos(overwritten) * math.sin(t)) - 0.5 / 9
    published = detection_losses(prediction, wanted, published_angle_loss=True)["reg"].item()
    assert published == pytest.approx(expected, rel=1e-4)
    assert detection_losses(prediction, wanted)["reg"].item() == pytest.approx(math.sin(0.3) - 0.5 / 9, rel=1e-4)


@pytest.mark.fault(12)
@pytest.mark.parametrize("classes", [{}, {3: IGNORED}, dict.fromkeys(range(NUMBER), IGNORED)])
def test_without_positives_everything_stays_finite(classes):
    logits, deltas, directions = (torch.randn(1, NUMBER, size, requires_grad=True) for size in (3, 7, 2))
    losses = detection_losses(maps(logits, deltas, directions), targets(classes))
    sum(losses.values()).backward()
    assert losses["reg"] == 0 and losses["dir"] == 0
    assert all(torch.isfinite(part.grad).all() for part in (logits, deltas, directions))
    assert (logits.grad != 0).any() == (len(classes) < NUMBER)


def test_half_precision_maps_give_float32_losses():
    prediction = Predictions(*(part.to(torch.bfloat16) for part in perfect(CAR)))
    assert {value.dtype for value in detection_losses(prediction, CAR).values()} == {torch.float32}
