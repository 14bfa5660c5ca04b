"""The tail's metric, the pillars that count more than once, and a quantizer that looks for rows by a metric."""

import numpy as np
import pytest
import torch

from pillars_rq.boxes import points_in_boxes
from pillars_rq.grid import Grid
from pillars_rq.network import PointPillars, Widths
from pillars_rq.rq.codebooks import ResidualQuantizer, quantizer_from, quantizer_state
from pillars_rq.rq.ema import EmaWarmup
from pillars_rq.sensitivity import counted, inside_boxes, tail_metric

GRID = Grid((0.0, -5.12, -3.0, 10.24, 5.12, 1.0), (0.32, 0.32, 4.0), max_points=8)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grown(metric: torch.Tensor | None, features: torch.Tensor, k: int = 8) -> ResidualQuantizer:
    quantizer = ResidualQuantizer(2, (k,), features.shape[1], metric)
    for book in range(2):
        quantizer.grow(book, k, quantizer.residual(features, book, k), rng(book))
        quantizer.finish()
    return quantizer


def test_the_metric_measures_what_the_first_convolution_makes_of_a_constant_shift_of_one_tap():
    torch.manual_seed(0)
    model = PointPillars(GRID, widths=Widths(pillar=6, blocks=(8, 8, 8), layers=(0, 0, 0), neck=4))
    conv, bn = model.backbone.multi_blocks[0][:2]
    bn.running_var.uniform_(0.2, 3)
    metric, weight = tail_metric(model), (conv.weight / (bn.running_var + bn.eps).sqrt()[:, None, None, None]).detach()
    shifts = torch.randn(5, 6, generator=rng())
    through = torch.einsum("oiyx,pi->poyx", weight, shifts).flatten(1).square().sum(1)
    seen = (shifts @ metric).square().sum(1)
    assert torch.allclose(seen / through, (seen / through)[:1].expand(5), rtol=1e-4)
    assert torch.allclose(metric, metric.T, atol=1e-6)
    assert metric.square().sum().item() == pytest.approx(6, rel=1e-4)


def test_a_pillar_is_inside_when_its_centre_is_in_the_grown_box():
    boxes = np.array([[3.0, 1.0, -1.7, 1.6, 3.9, 1.5, 0.6], [7.0, -2.0, -1.7, 0.6, 0.8, 1.7, -2.0]], np.float32)
    cells = torch.cartesian_prod(torch.arange(32), torch.arange(32))
    centres = cells.flip(1).numpy() * 0.32 + 0.16 + np.array([0, -5.12])
    larger = boxes.copy()
    larger[:, 3:5] += 2 * 0.32
    points = np.c_[centres, np.full(len(centres), -1.0)]
    wanted = points_in_boxes(points, larger).any(1)
    assert wanted.sum() > 60
    assert np.array_equal(inside_boxes(cells, torch.from_numpy(boxes), GRID).numpy(), wanted)
    assert not inside_boxes(cells, torch.zeros(0, 7), GRID).any()


def test_boxes_count_in_their_own_frame_alone():
    coords = torch.tensor([[0, 16, 10], [0, 1, 1], [1, 16, 10]])
    box = torch.tensor([[10 * 0.32 + 0.16, 0.16, -1.7, 1.0, 1.0, 1.5, 0.0]])
    assert counted(coords, [box, torch.zeros(0, 7)], GRID, 3).tolist() == [0, 0, 0, 1, 2]
    assert counted(coords, [box, box], GRID, 1).tolist() == [0, 1, 2]


def test_codes_are_nearest_by_the_metric_and_sums_are_of_rows_as_they_are():
    features = torch.randn(200, 5, generator=rng()) + 1
    metric = torch.diag(torch.tensor([5.0, 1.0, 1.0, 1.0, 0.1]))
    quantizer = grown(metric, features)
    codes, residual = quantizer.encode(features, 2, 8), features
    for book in range(2):
        rows = quantizer.rows(book)
        distances = ((residual[:, None] - rows[None]) @ metric).square().sum(2)
        assert torch.equal(codes[:, book], distances.argmin(1))
        assert torch.equal(codes[:, book], quantizer.nearest(residual, book))
        residual = residual - rows[codes[:, book]]
    assert torch.allclose(quantizer.decode(codes), features - residual, atol=1e-5)
    assert torch.equal(quantizer.encode(features, 2, 8, beam=1), codes)
    assert not torch.equal(grown(None, features).encode(features, 1, 8), codes[:, :1])


def test_the_identity_is_the_plain_distance_to_the_bit():
    features = torch.randn(200, 5, generator=rng())
    plain, same = grown(None, features), grown(torch.eye(5), features)
    assert torch.equal(plain.encode(features, 2, 8), same.encode(features, 2, 8))


def test_a_metric_survives_its_checkpoint_and_older_ones_have_the_plain_distance():
    features = torch.randn(100, 4, generator=rng())
    quantizer = grown(torch.diag(torch.tensor([9.0, 1.0, 1.0, 0.1])), features)
    state = quantizer_state(quantizer)
    assert torch.equal(quantizer_from(state).encode(features, 2, 8), quantizer.encode(features, 2, 8))
    del state["metric"]
    assert torch.equal(quantizer_from(state).metric, torch.eye(4))


def test_the_warm_up_averages_what_the_metric_says_is_nearest():
    features = torch.tensor([[0.0, 0.0], [1.0, 10.0]])
    quantizer = ResidualQuantizer(1, (2,), 2, torch.diag(torch.tensor([1.0, 1e-3])))
    quantizer.grow(0, 2, torch.tensor([[0.0, 9.0], [1.0, 1.0]]), rng())
    rows = quantizer.rows(0).detach().clone()
    low = int(rows[:, 0].argmin())  # the row at x = 0, though y = 9 is far away
    EmaWarmup(quantizer, 0, decay=0.5).step(quantizer, features)
    assert quantizer.rows(0)[low, 1] < rows[low, 1]
