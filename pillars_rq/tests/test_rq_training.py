"""Warm-up, restart and Lloyd: what moves the new rows without a detector, and never the others."""

from types import SimpleNamespace

import pytest
import torch
from rq_samples import DIM, features_like

from pillars_rq.config import RqConfig
from pillars_rq.progressive import Stage
from pillars_rq.rq.codebooks import ResidualQuantizer
from pillars_rq.rq.ema import EmaWarmup, hits_and_sums
from pillars_rq.rq.lloyd import fit_dedicated, fit_nested
from pillars_rq.rq.losses import relative_mse
from pillars_rq.rq.restart import reset_moments, restart_dead
from pillars_rq.rq_training import grow
from pillars_rq.session import Pool
from shared.run import World


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def growing(k_old=4, k=8):
    quantizer, features = ResidualQuantizer(1, (k_old, k), DIM), features_like(400)
    quantizer.grow(0, k_old, features, rng(1))
    quantizer.finish()
    quantizer.grow(0, k, features, rng(2))
    return quantizer, features


def error(quantizer, features, k=8):
    return relative_mse(features, quantizer.decode(quantizer.encode(features, 1, k)))


def test_one_warm_up_step_is_the_formula():
    quantizer, features = growing()
    start = quantizer.fresh["0"].detach().clone()
    ema = EmaWarmup(quantizer, 0, decay=0.9)
    codes = quantizer.encode(features, 1, 8)[:, 0]
    hits = ema.step(quantizer, features)
    counts = torch.stack([(codes == row).sum() for row in range(8)])
    assert torch.equal(hits, counts)
    n = 0.9 + 0.1 * counts[4:].float()
    smoothed = (n + 1e-5) / (n.sum() + 4e-5) * n.sum()
    for row in range(4):
        s = 0.9 * start[row] + 0.1 * features[codes == 4 + row].sum(0)
        torch.testing.assert_close(quantizer.fresh["0"][row], s / smoothed[row])


def test_warm_up_lowers_the_error_and_leaves_frozen_rows():
    quantizer, features = growing()
    before, hash_before = error(quantizer, features), quantizer.book_hash(0, 4)
    ema = EmaWarmup(quantizer, 0)
    for _ in range(40):
        ema.step(quantizer, features)
    assert error(quantizer, features) < before
    assert quantizer.book_hash(0, 4) == hash_before


@pytest.mark.fault(12)
def test_warm_up_without_pillars_keeps_the_rows():
    quantizer, features = growing()
    before = quantizer.rows(0).detach().clone()
    hits = EmaWarmup(quantizer, 0).step(quantizer, features[:0])
    assert hits.sum() == 0
    torch.testing.assert_close(quantizer.rows(0), before, rtol=1e-4, atol=1e-6)


def test_warm_up_over_processes_is_warm_up_on_all_their_vectors():
    """Two processes with half of the vectors each, their sums added, and one with all."""
    quantizer, features = growing()
    halves = features.split(200)
    alone, _ = growing()
    EmaWarmup(alone, 0).step(alone, features)
    others = iter(hits_and_sums(halves[1], quantizer.rows(0).detach()))
    EmaWarmup(quantizer, 0).step(quantizer, halves[0], over_processes=lambda mine: mine + next(others))
    torch.testing.assert_close(quantizer.rows(0), alone.rows(0))


def test_the_averages_resume():
    one, features = growing()
    first = EmaWarmup(one, 0)
    first.step(one, features[:200])
    two, _ = growing()
    two.load_state_dict(one.state_dict())
    second = EmaWarmup(two, 0)
    second.load_state_dict(first.state_dict())
    for quantizer, ema in ((one, first), (two, second)):
        ema.step(quantizer, features[200:])
    assert torch.equal(one.rows(0), two.rows(0))


def test_warm_up_needs_a_growing_book():
    quantizer, _ = growing()
    quantizer.finish()
    with pytest.raises(ValueError, match="growing"):
        EmaWarmup(quantizer, 0)


@pytest.mark.fault(12)
def test_only_dead_new_rows_restart_from_the_data():
    quantizer, features = growing()
    with torch.no_grad():
        quantizer.fresh["0"][1] = 1e3
        quantizer.books[0, 2] = 2e3  # a dead frozen row stays dead
    ema = EmaWarmup(quantizer, 0)
    hits = ema.step(quantizer, features)
    kept, frozen = quantizer.fresh["0"].detach().clone(), quantizer.book_hash(0, 4)
    rows = restart_dead(quantizer, 0, hits, features, rng(3), threshold=1e-6)
    assert rows.tolist() == [1] and quantizer.book_hash(0, 4) == frozen
    assert any(torch.equal(quantizer.fresh["0"][1], vector) for vector in features)
    others = [0, 2, 3]
    assert torch.equal(quantizer.fresh["0"][others], kept[others])
    ema.reset(quantizer, rows)
    assert ema.counts[1] == 1 and torch.equal(ema.sums[1], quantizer.fresh["0"][1].detach())


def test_dead_is_relative_to_an_average_row():
    quantizer, features = growing()
    hits = torch.tensor([100, 100, 100, 100, 100, 9, 11, 100])
    for scale in (1, 50):  # ten times as many batches change nothing
        rows = restart_dead(quantizer, 0, hits * scale, features, rng(), threshold=0.13)
        assert rows.tolist() == [1]
    assert len(restart_dead(quantizer, 0, hits, features[:0], rng(), threshold=0.13)) == 0
    with pytest.raises(ValueError, match="8 rows"):
        restart_dead(quantizer, 0, hits[:4], features, rng())


def test_moments_of_restarted_rows_are_forgotten():
    quantizer, features = growing()
    rows = quantizer.fresh["0"]
    optimizer = torch.optim.Adam([rows], lr=0.01)
    (rows - features[0]).square().sum().backward()
    optimizer.step()
    reset_moments(optimizer, rows, torch.tensor([2]))
    state = optimizer.state[rows]
    assert not state["exp_avg"][2].any() and not state["exp_avg_sq"][2].any()
    assert state["exp_avg"][[0, 1, 3]].any() and state["step"] == 1


def test_more_books_and_more_rows_fit_the_training_vectors_better():
    features = features_like(600)
    quantizer = fit_nested(features, 3, (2, 4, 8), rng(), passes=6)
    errors = {(n, k): relative_mse(features, quantizer.decode(quantizer.encode(features, n, k)))
              for n, k in quantizer.points()}  # fmt: skip
    for n, k in errors:
        assert n == 1 or errors[n, k] < errors[n - 1, k]
        assert k == 2 or errors[n, k] < errors[n, k // 2]


def test_as_many_rows_as_vectors_leave_no_error():
    vectors = torch.arange(8.0)[:, None] * torch.ones(DIM)
    quantizer = fit_dedicated(vectors, 1, 8, rng())
    assert torch.equal(quantizer.decode(quantizer.encode(vectors, 1, 8)), vectors)


def test_fitting_repeats_itself():
    features = features_like(200)
    one, two, other = (fit_nested(features, 2, (2, 4), rng(seed), passes=3) for seed in (0, 0, 1))
    assert torch.equal(one.books, two.books) and not torch.equal(one.books, other.books)


def test_passes_over_the_pool_bring_drawn_rows_to_the_means_of_their_vectors():
    features = features_like(400)
    pool = Pool(features, torch.zeros(400, 3, dtype=torch.int64), torch.arange(400))

    def started(passes):
        quantizer = ResidualQuantizer(1, (8,), DIM)
        config = RqConfig.model_validate({"training": {"lloyd_passes": passes}})
        grow(SimpleNamespace(config=config, pool=pool, world=World()), Stage(0, 0, 0, 8, (0,), 1, 0), quantizer)
        return quantizer

    drawn, moved = started(0), started(8)
    assert all((features == row).all(1).any() for row in drawn.rows(0))
    assert error(moved, features) < 0.9 * error(drawn, features)
