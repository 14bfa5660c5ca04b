"""MACL's loss: hand values, chance, the two readings of a person's other RoIs, symmetry, extra columns, gradients."""

import ast
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from llvip_macl import models
from llvip_macl.models.finite import raise_if_not_finite
from llvip_macl.models.macl_loss import Negatives, positives_of, queue_contrast, symmetric_contrast
from shared.errors import ConfigError, NonFiniteError

MODES = ("average", "mask")


def rows(k, d=8, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return tuple(F.normalize(torch.randn(k, d, generator=g, dtype=dtype), dim=1) for _ in range(2))


def negatives(k, q, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return Negatives(torch.rand(k, q, generator=g, dtype=dtype) * 2 - 1, torch.rand(k, q, generator=g) < 0.6)


def twin(vis, ir, groups, tau, mode, extra=None):
    """The definition, one row and one column at a time."""
    total = 0.0
    for direction, (anchors, others) in enumerate(((vis, ir), (ir, vis))):
        for i, anchor in enumerate(anchors):
            together = [j for j in range(len(others)) if groups[j] == groups[i]]
            positive = together if mode == "average" else [i]
            columns = [j for j in range(len(others)) if mode == "average" or j == i or j not in together]
            scores = {j: float(anchor @ others[j]) / tau for j in columns}
            bottom = sum(math.exp(score) for score in scores.values())
            if extra is not None:
                kept = extra[direction].cosine[i][extra[direction].valid[i]]
                bottom += sum(math.exp(float(c) / tau) for c in kept)
            total += -sum(scores[j] - math.log(bottom) for j in positive) / len(positive) / len(anchors)
    return total / 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("extra", [False, True])
def test_it_is_the_definition_written_out(mode, extra):
    vis, ir = rows(6)
    groups = torch.tensor([0, 0, 1, 2, 2, 2])
    both = (negatives(6, 4, 1), negatives(6, 4, 2)) if extra else None
    keywords = {"vis_negatives": both[0], "ir_negatives": both[1]} if extra else {}
    loss = symmetric_contrast(vis, ir, groups, 0.2, multi_positive=mode, **keywords).loss
    assert float(loss) == pytest.approx(twin(vis, ir, groups, 0.2, mode, both), rel=1e-5)


def test_a_hand_value():
    """v = (1,0), (0,1); r = (1,0), (0.6,0.8); tau 0.5: rows 2, 1.2 | 0, 1.6 and columns 2, 0 | 1.2, 1.6."""
    vis, ir = torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    forth = math.log(1 + math.exp(-0.8)) + math.log(1 + math.exp(-1.6))
    back = math.log(1 + math.exp(-2.0)) + math.log(1 + math.exp(-0.4))
    contrast = symmetric_contrast(vis, ir, torch.arange(2), 0.5)
    assert float(contrast.loss) == pytest.approx((forth + back) / 4, rel=1e-6)
    assert float(contrast.accuracy) == 1.0
    assert float(contrast.chance) == pytest.approx(math.log(2))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", [2, 5, 33])
def test_embeddings_that_are_all_equal_stand_at_chance(mode, k):
    same = F.normalize(torch.ones(k, 4), dim=1)
    contrast = symmetric_contrast(same, same, torch.arange(k), 0.07, multi_positive=mode)
    assert float(contrast.loss) == pytest.approx(math.log(k), rel=1e-5)
    assert float(contrast.loss) == pytest.approx(float(contrast.chance), rel=1e-5)


def test_chance_counts_the_columns_that_are_there():
    same = F.normalize(torch.ones(4, 3), dim=1)
    groups = torch.tensor([0, 0, 1, 2])
    extra = Negatives(torch.ones(4, 5), torch.tensor([[True, True, False, False, False]] * 4))
    average = symmetric_contrast(same, same, groups, 0.1, vis_negatives=extra, ir_negatives=extra)
    assert float(average.columns) == 4 + 2
    assert float(average.loss) == pytest.approx(math.log(6), rel=1e-5)
    mask = symmetric_contrast(same, same, groups, 0.1, multi_positive="mask")
    assert float(mask.columns) == pytest.approx((3 + 3 + 4 + 4) / 4)


def test_a_perfect_match_reaches_zero_or_the_floor_of_its_persons():
    codes = torch.eye(3)[[0, 0, 1, 2, 2, 2]]
    groups = torch.tensor([0, 0, 1, 2, 2, 2])
    floor = (2 * math.log(2) + 3 * math.log(3)) / 6
    assert float(symmetric_contrast(codes, codes, groups, 0.01, multi_positive="mask").loss) == pytest.approx(0)
    assert float(symmetric_contrast(codes, codes, groups, 0.01).loss) == pytest.approx(floor, rel=1e-5)


def test_rois_of_one_person_are_never_each_others_negatives():
    """Two RoIs of one person: masked there is nothing to tell apart; averaged the best is that all are equal."""
    vis, ir = rows(2)
    one_person = torch.zeros(2, dtype=torch.long)
    assert symmetric_contrast(vis, ir, one_person, 0.1, multi_positive="mask").loss == 0
    assert symmetric_contrast(vis, ir, one_person, 0.1).loss > math.log(2)
    assert float(symmetric_contrast(vis[[0, 0]], vis[[0, 0]], one_person, 0.1).loss) == pytest.approx(math.log(2))
    assert symmetric_contrast(vis, ir, torch.arange(2), 0.1, multi_positive="mask").loss > 0


@pytest.mark.parametrize("mode", MODES)
def test_modalities_may_be_swapped_and_rows_permuted(mode):
    vis, ir = rows(7)
    groups = torch.tensor([0, 1, 1, 2, 3, 3, 3])
    first, second = negatives(7, 3, 1), negatives(7, 3, 2)
    loss = symmetric_contrast(vis, ir, groups, 0.1, multi_positive=mode, vis_negatives=first, ir_negatives=second)
    swapped = symmetric_contrast(ir, vis, groups, 0.1, multi_positive=mode, vis_negatives=second, ir_negatives=first)
    torch.testing.assert_close(loss.loss, swapped.loss)
    order = torch.tensor([6, 2, 0, 4, 5, 1, 3])
    moved = [Negatives(n.cosine[order], n.valid[order]) for n in (first, second)]
    permuted = symmetric_contrast(
        vis[order], ir[order], groups[order] + 9, 0.1, multi_positive=mode,
        vis_negatives=moved[0], ir_negatives=moved[1],
    )  # fmt: skip
    torch.testing.assert_close(loss.loss, permuted.loss)
    assert loss.accuracy == permuted.accuracy


@pytest.mark.fault(12)
@pytest.mark.parametrize("mode", MODES)
def test_no_row_gives_a_zero_that_hangs_on_everything(mode):
    vis, ir = (torch.zeros(0, 4, requires_grad=True) for _ in range(2))
    tau = torch.tensor(0.1, requires_grad=True)
    contrast = symmetric_contrast(vis, ir, torch.zeros(0, dtype=torch.long), tau, multi_positive=mode)
    contrast.loss.backward()
    assert float(contrast.loss.detach()) == float(contrast.accuracy) == float(contrast.chance) == 0
    assert vis.grad is not None and ir.grad is not None and tau.grad == 0


@pytest.mark.parametrize("mode", MODES)
def test_one_row_alone_is_exactly_zero_and_two_are_not(mode):
    vis, ir = rows(1)
    vis.requires_grad_()
    contrast = symmetric_contrast(vis, ir, torch.zeros(1, dtype=torch.long), 0.07, multi_positive=mode)
    contrast.loss.backward()
    assert contrast.loss == 0 and not vis.grad.any() and contrast.accuracy == 1 and contrast.chance == 0
    two = symmetric_contrast(*rows(2), torch.arange(2), 0.07, multi_positive=mode)
    assert two.loss > 0 and float(two.chance) == pytest.approx(math.log(2))


def test_what_is_not_valid_in_the_queue_changes_nothing_not_even_gradients():
    groups = torch.arange(4)
    tau = torch.tensor(0.1, requires_grad=True)

    def outcome(filler):
        vis, ir = (side.requires_grad_() for side in rows(4))
        extra = negatives(4, 6, 3)
        spoilt = Negatives(torch.where(extra.valid, extra.cosine, filler), extra.valid)
        loss = symmetric_contrast(vis, ir, groups, tau, vis_negatives=spoilt, ir_negatives=spoilt).loss
        return loss, *torch.autograd.grad(loss, (vis, ir, tau))

    for first, second in zip(outcome(0.0), outcome(-2.0), strict=True):
        assert torch.equal(first, second) and first.isfinite().all()


def test_more_negatives_cost_more():
    vis, ir = rows(5)
    few = negatives(5, 6)
    more = Negatives(few.cosine, torch.ones_like(few.valid))
    none = Negatives(few.cosine, torch.zeros_like(few.valid))
    losses = [
        symmetric_contrast(vis, ir, torch.arange(5), 0.1, vis_negatives=n, ir_negatives=n).loss
        for n in (none, few, more)
    ]
    assert losses[0] < losses[1] < losses[2]
    assert losses[0] == symmetric_contrast(vis, ir, torch.arange(5), 0.1).loss


def test_the_separate_term_is_each_own_half_against_its_queue():
    vis, ir = rows(3)
    first, second = negatives(3, 4, 1), negatives(3, 4, 2)
    total = 0.0
    for extra in (first, second):
        for i in range(3):
            own = float(vis[i] @ ir[i]) / 0.2
            keys = sum(math.exp(float(c) / 0.2) for c in extra.cosine[i][extra.valid[i]])
            total += -own + math.log(math.exp(own) + keys)
    assert float(queue_contrast(vis, ir, 0.2, first, second)) == pytest.approx(total / 6, rel=1e-5)


@pytest.mark.fault(12)
def test_the_separate_term_is_zero_without_keys_and_without_rows():
    vis, ir = rows(3)
    empty = Negatives(torch.zeros(3, 4), torch.zeros(3, 4, dtype=torch.bool))
    assert queue_contrast(vis, ir, 0.1, empty, empty) == 0
    none = torch.zeros(0, 8, requires_grad=True)
    nothing = Negatives(torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.bool))
    queue_contrast(none, none, 0.1, nothing, nothing).backward()
    assert none.grad is not None


def test_logits_are_float32_under_autocast_and_do_not_overflow():
    vis, ir = (side.half() for side in rows(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = symmetric_contrast(vis, ir, torch.arange(4), 0.01)
        queue = queue_contrast(vis, ir, 0.01, negatives(4, 3), negatives(4, 3))
    full = symmetric_contrast(vis.float(), ir.float(), torch.arange(4), 0.01)
    assert low.loss.dtype == queue.dtype == torch.float32
    assert torch.equal(low.loss, full.loss)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_are_right(mode):
    vis, ir = (side.requires_grad_() for side in rows(4, 3, dtype=torch.float64))
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    extra = negatives(4, 3, dtype=torch.float64)

    def loss(v, r, t):
        groups = torch.tensor([0, 0, 1, 2])
        return symmetric_contrast(
            v, r, groups, t, multi_positive=mode, vis_negatives=extra, ir_negatives=extra
        ).loss + queue_contrast(v, r, t, extra, extra)

    assert torch.autograd.gradcheck(loss, (vis, ir, tau))


def test_positives_and_what_leaves_the_denominator():
    groups = torch.tensor([3, 3, 5])
    same, dropped = positives_of(groups, "average")
    assert same.tolist() == [[True, True, False], [True, True, False], [False, False, True]] and not dropped.any()
    own, dropped = positives_of(groups, "mask")
    assert torch.equal(own, torch.eye(3, dtype=torch.bool))
    assert dropped.tolist() == [[False, True, False], [True, False, False], [False, False, False]]


def test_wrong_arguments_are_refused():
    vis, ir = rows(3)
    with pytest.raises(ConfigError, match="use one of average, mask"):
        symmetric_contrast(vis, ir, torch.arange(3), 0.1, multi_positive="mean")
    for bad in [(vis, ir[:2], torch.arange(3)), (vis, ir, torch.arange(2)), (vis[0], ir[0], torch.arange(8))]:
        with pytest.raises(ValueError, match="need vis and ir"):
            symmetric_contrast(*bad, 0.1)


def test_a_loss_that_is_not_finite_is_named():
    raise_if_not_finite({"loss_cls": torch.tensor(1.0), "loss_rpn_cls": [torch.tensor(0.0)]})
    for bad in (math.nan, math.inf):
        with pytest.raises(NonFiniteError, match=r"^loss_macl = (nan|inf) is not finite"):
            raise_if_not_finite({"loss_cls": torch.tensor(1.0), "loss_macl": torch.tensor(bad)})
    with pytest.raises(NonFiniteError, match="loss_rpn_cls"):
        raise_if_not_finite({"loss_rpn_cls": [torch.tensor(0.0), torch.tensor(math.nan)]})


@pytest.mark.parametrize("name", ["macl_loss", "domain", "fusion", "projection", "paired_boxes", "weights", "settings"])
def test_the_maths_needs_no_mmdet(name):
    tree = ast.parse((Path(models.__file__).parent / f"{name}.py").read_text())
    imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert imported and not [module for module in imported if module.startswith("mm")]
