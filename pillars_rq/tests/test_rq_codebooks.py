"""The residual quantizer's laws: search, prefixes, growth, freezing, gradients."""

import pytest
import torch
from rq_samples import DIM, SCHEDULE, features_like, trained
from torch import nn

from pillars_rq.rq.codebooks import (
    ABSENT,
    OperatingPointError,
    ResidualQuantizer,
    quantizer_from,
    quantizer_state,
)
from pillars_rq.rq.losses import codebook_loss, commitment_loss, joint_codebook_loss, relative_mse, usage
from pillars_rq.rq.search import nearest_rows
from shared.errors import CheckpointError, UserError


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def by_hand(x, books):
    """Greedy residual quantization of one vector, straight from its definition."""
    codes, residual = [], x.double()
    for rows in books:
        distances = [float((residual - row.double()).square().sum()) for row in rows]
        codes.append(distances.index(min(distances)))
        residual = residual - rows[codes[-1]].double()
    return codes, x.double() - residual


def test_codes_and_sums_are_those_of_the_definition():
    quantizer, features = trained(), features_like(40, seed=5)
    codes = quantizer.encode(features, 3, 4)
    sums = quantizer.decode(codes)
    for x, code, total in zip(features, codes, sums, strict=True):
        expected, sum_by_hand = by_hand(x, [quantizer.rows(book, 4) for book in range(3)])
        assert code.tolist() == expected
        torch.testing.assert_close(total.double(), sum_by_hand, atol=1e-6, rtol=0)


def test_chunks_change_nothing():
    vectors, rows = features_like(101), features_like(7, seed=2)
    assert torch.equal(nearest_rows(vectors, rows), nearest_rows(vectors, rows, chunk_values=21))


@pytest.mark.parametrize("count", [0, 1])
def test_few_pillars(count):
    quantizer = trained()
    for beam in (1, 3):
        codes = quantizer.encode(features_like(count), 3, 8, beam)
        assert codes.shape == (count, 3) and quantizer.decode(codes).shape == (count, DIM)


def test_pillars_are_coded_one_by_one():
    quantizer, features = trained(), features_like(50, seed=3)
    order = torch.randperm(50, generator=rng())
    whole = quantizer.encode(features, 3, 8)
    assert torch.equal(quantizer.encode(features[order], 3, 8), whole[order])
    assert torch.equal(torch.cat([quantizer.encode(part, 3, 8) for part in features.split(17)]), whole)


def test_first_codes_are_the_codes_of_fewer_books():
    quantizer, features = trained(), features_like(50)
    codes = quantizer.encode(features, 3, 8)
    assert torch.equal(codes[:, :2], quantizer.encode(features, 2, 8))
    assert torch.equal(quantizer.decode(codes, 2), quantizer.decode(codes[:, :2]))


def test_a_prefix_is_the_smaller_book():
    quantizer, features = trained(), features_like(50)
    small = ResidualQuantizer(3, (2, 4), DIM)
    small.load_state_dict({**small.state_dict(), "books": quantizer.books[:, :4], "held": torch.full((3,), 4)})
    codes = quantizer.encode(features, 3, 4)
    assert torch.equal(codes, small.encode(features, 3, 4))
    assert torch.equal(quantizer.decode(codes), small.decode(codes))


def test_a_beam_of_one_is_greedy_and_wider_beams_are_better_on_average():
    quantizer, features = trained(), features_like(400, seed=8)
    errors = [relative_mse(features, quantizer.decode(quantizer.search(features, [8] * 3, beam))) for beam in (1, 2, 8)]
    assert torch.equal(quantizer.search(features, [8] * 3, 1), quantizer.encode(features, 3, 8))
    assert errors[1] < errors[0] and errors[2] <= errors[1]


def test_a_beam_that_keeps_everything_finds_the_best_sum():
    quantizer, features = trained(n=2, schedule=(3,)), features_like(30, seed=4)
    found = quantizer.decode(quantizer.search(features, [3, 3], 9))
    every = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    best = (features[:, None] - quantizer.decode(every)).square().sum(2).amin(1)
    torch.testing.assert_close((features - found).square().sum(1), best)


def test_absent_codes_add_nothing():
    quantizer, features = trained(), features_like(10)
    codes = quantizer.encode(features, 3, 8)
    cut = codes.clone()
    cut[::2, 1:] = ABSENT
    assert torch.equal(quantizer.decode(cut)[::2], quantizer.decode(codes, 1)[::2])
    assert torch.equal(quantizer.decode(cut)[1::2], quantizer.decode(codes)[1::2])


def test_decoding_adds_in_book_order_in_float32():
    quantizer, features = trained(), features_like(20)
    codes = quantizer.encode(features, 3, 8)
    rows = [quantizer.books[book].numpy()[codes[:, book]] for book in range(3)]
    assert torch.equal(quantizer.decode(codes), torch.from_numpy((rows[0] + rows[1]) + rows[2]))


def test_residuals_behind_drawn_sizes():
    quantizer, features = trained(), features_like(60)
    ks = quantizer.draw_sizes(60, rng(1))
    assert set(ks.tolist()) == set(SCHEDULE)
    left = quantizer.residual(features, 2, ks)
    for index in range(60):
        alone = quantizer.residual(features[index : index + 1], 2, int(ks[index]))
        torch.testing.assert_close(left[index], alone[0])
    assert torch.equal(quantizer.residual(features, 0, 4), features)


# ---------------------------------------------------------------- growth and freezing


def half_grown():
    """Two finished books of 8 rows, and a third that grows from 4 to 8."""
    quantizer, features = ResidualQuantizer(3, SCHEDULE, DIM), features_like(300)
    for book, k in ((0, 8), (1, 8), (2, 4)):
        quantizer.grow(book, k, quantizer.residual(features, book, 8), rng(book))
        quantizer.finish()
    quantizer.grow(2, 8, quantizer.residual(features, 2, 8), rng(9))
    return quantizer, features


def test_growth_leaves_old_rows_and_old_outputs_bit_for_bit():
    quantizer, features = half_grown()
    before = {(book, k): quantizer.book_hash(book, k) for book in range(3) for k in (2, 4)}
    codes, sums = quantizer.encode(features, 3, 4), quantizer.decode(quantizer.encode(features, 3, 4))
    with torch.no_grad():
        quantizer.fresh["2"].normal_()
    quantizer.finish()
    assert before == {key: quantizer.book_hash(*key) for key in before}
    assert torch.equal(codes, quantizer.encode(features, 3, 4)) and torch.equal(sums, quantizer.decode(codes))
    assert quantizer.size(2) == 8 and not len(quantizer.fresh)


def test_only_new_rows_are_parameters():
    quantizer, _ = half_grown()
    assert [tuple(parameter.shape) for parameter in quantizer.parameters()] == [(4, DIM)]
    quantizer.finish()
    assert list(quantizer.parameters()) == []


def test_steps_with_weight_decay_and_train_mode_do_not_reach_frozen_rows():
    quantizer, features = half_grown()
    frozen = [quantizer.book_hash(0, 8), quantizer.book_hash(1, 8), quantizer.book_hash(2, 4)]
    new = quantizer.book_hash(2, 8)
    parent = nn.ModuleDict({"rq": quantizer}).train().requires_grad_(True)
    optimizer = torch.optim.AdamW(parent.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        codebook_loss(features, quantizer.decode(quantizer.encode(features, 3, 8))).backward()
        optimizer.step()
    assert frozen == [quantizer.book_hash(0, 8), quantizer.book_hash(1, 8), quantizer.book_hash(2, 4)]
    assert new != quantizer.book_hash(2, 8)


def test_gradient_steps_lower_the_distortion():
    quantizer, features = half_grown()
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        loss = codebook_loss(features, quantizer.decode(quantizer.encode(features, 3, 8)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_the_detection_loss_reaches_the_rows_by_lookup_and_not_straight_through():
    quantizer, features = half_grown()
    tail = nn.Linear(DIM, 1).requires_grad_(False)
    quantized = quantizer.decode(quantizer.encode(features, 3, 8))
    (gradient,) = torch.autograd.grad(tail(quantized).square().mean(), quantizer.fresh["2"], retain_graph=True)
    assert gradient.abs().max() > 0
    straight = features + (quantized - features).detach()
    assert not straight.requires_grad
    (zero,) = torch.autograd.grad(
        tail(straight + 0 * quantized).square().mean(), quantizer.fresh["2"], materialize_grads=True
    )
    assert not zero.any()


def test_commitment_has_the_codebook_loss_s_value_and_no_gradient():
    quantizer, features = half_grown()
    quantized = quantizer.decode(quantizer.encode(features, 3, 8))
    assert commitment_loss(features, quantized).item() == codebook_loss(features, quantized).item()
    assert not commitment_loss(features, quantized).requires_grad
    assert codebook_loss(features, quantized).requires_grad


def test_joint_training_moves_every_book():
    quantizer, features = ResidualQuantizer(3, (8,), DIM), features_like(300)
    for book in range(3):
        quantizer.grow(book, 8, quantizer.residual(features, book, 8), rng(book))
    joint_codebook_loss(features, quantizer.encode(features, 3, 8), quantizer).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in quantizer.parameters())
    assert len(list(quantizer.parameters())) == 3


@pytest.mark.fault(12)
def test_losses_without_pillars_are_zero_and_finite():
    quantizer, _ = half_grown()
    nothing = features_like(0)
    loss = codebook_loss(nothing, quantizer.decode(quantizer.encode(nothing, 3, 8)))
    loss.backward()
    assert loss.item() == 0 and not quantizer.fresh["2"].grad.any()
    assert relative_mse(nothing, nothing) == 0 and usage(torch.zeros(0, dtype=torch.int64), 4) == (0, 0)


def test_usage_and_perplexity():
    assert usage(torch.tensor([0, 1, 2, 3]), 8) == (0.5, pytest.approx(4))
    assert usage(torch.tensor([5, 5, 5]), 8) == (0.125, pytest.approx(1))


# ---------------------------------------------------------------- what is held


def test_points_and_their_refusal():
    quantizer, features = half_grown()
    assert quantizer.points() == [(n, k) for n in (1, 2, 3) for k in SCHEDULE]
    early = ResidualQuantizer(3, SCHEDULE, DIM)
    with pytest.raises(OperatingPointError, match="no finished book"):
        early.encode(features, 1, 2)
    early.grow(0, 2, features, rng())
    early.finish()
    early.grow(0, 4, features, rng())
    with pytest.raises(OperatingPointError, match=r"2 codebook\(s\) with 4.*hold 1 codebook\(s\) with 2, 4 embeddings"):
        early.encode(features, 2, 4)
    with pytest.raises(OperatingPointError, match="with 3 embeddings"):
        early.encode(features, 1, 3)


def test_state_survives_a_checkpoint(tmp_path):
    quantizer, features = half_grown()
    torch.save(quantizer_state(quantizer), tmp_path / "q.pth")
    again = quantizer_from(torch.load(tmp_path / "q.pth", weights_only=True))
    assert again.points() == quantizer.points()
    assert torch.equal(again.encode(features, 3, 8), quantizer.encode(features, 3, 8))
    quantizer.finish()
    assert again.book_hash(2, 8) == quantizer.book_hash(2, 8)


def test_a_cut_stage_resumes_from_its_state_dict():
    quantizer, _ = half_grown()
    with torch.no_grad():
        quantizer.fresh["2"].add_(0.25)
    resumed, _ = half_grown()
    resumed.load_state_dict(quantizer.state_dict())
    assert torch.equal(resumed.rows(2), quantizer.rows(2))


@pytest.mark.fault(8)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schedule", [8, 4]),
        ("schedule", "all"),
        ("books", torch.zeros(3, 5, DIM)),
        ("books", torch.full((3, 8, DIM), float("nan"))),
        ("held", torch.tensor([9, 0, 0])),
        ("held", None),
    ],
)
def test_a_state_that_is_none_is_refused_by_name(key, value):
    state = quantizer_state(trained()) | {key: value}
    with pytest.raises(CheckpointError, match=r"my\.pth holds no usable codebooks"):
        quantizer_from(state, "my.pth")


def test_misuse():
    quantizer, features = half_grown()
    with pytest.raises(UserError, match="no occupied pillar"):
        ResidualQuantizer(1, (4,), DIM).grow(0, 4, features[:0], rng())
    with pytest.raises(ValueError, match="cannot grow"):
        quantizer.grow(2, 8, features, rng())
    with pytest.raises(ValueError, match="cannot grow"):
        quantizer.grow(0, 8, features, rng())
    with pytest.raises(UserError, match="sizes that grow"):
        ResidualQuantizer(2, (4, 2), DIM)
    with pytest.raises(ValueError, match="need"):
        quantizer.encode(features[:, :3], 1, 2)
    with pytest.raises(ValueError, match="at least 1"):
        quantizer.encode(features, 1, 2, beam=0)
    with pytest.raises(ValueError, match=r"codes of book 2 lie in 0\.\.8"):
        quantizer.decode(torch.tensor([[0, 8], [0, 0]]))
    with pytest.raises(ValueError, match="cannot add 3"):
        quantizer.decode(torch.tensor([[0, 0]]), 3)
    with pytest.raises(ValueError, match="has 8 rows"):
        quantizer.book_hash(0, 9)


def test_more_new_rows_than_vectors_are_drawn_again():
    quantizer = ResidualQuantizer(1, (8,), DIM)
    rows = quantizer.grow(0, 8, features_like(3), rng())
    assert rows.shape == (8, DIM) and len(rows.detach().unique(dim=0)) == 3
