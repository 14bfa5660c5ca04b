"""Codes of a frame chosen together: the tail's first convolution, never a worse choice, and one anybody can decode."""

import pytest
import torch
from rq_samples import cells_of, features_like

from pillars_rq.bitstream.codec import Codec
from pillars_rq.bitstream.stream import compress, decompress
from pillars_rq.bitstream.tables import Tables
from pillars_rq.grid import Grid
from pillars_rq.network import PointPillars, Widths, scatter
from pillars_rq.rq.codebooks import ResidualQuantizer, quantizer_from, quantizer_state
from pillars_rq.rq.together import SLACK, SWEEPS, Scene
from pillars_rq.sensitivity import first_convolution, tail_metric
from shared.errors import CheckpointError, UserError

GRID = Grid((0.0, -2.56, -3.0, 5.12, 2.56, 1.0), (0.32, 0.32, 4.0), max_points=8)  # 16 x 16
DIM, ROWS, PILLARS = 6, 8, 60


def detector() -> PointPillars:
    torch.manual_seed(0)
    model = PointPillars(GRID, widths=Widths(pillar=DIM, blocks=(10, 8, 8), layers=(0, 0, 0), neck=4)).eval()
    bn = model.backbone.multi_blocks[0][1]
    bn.running_mean.normal_(0, 0.3)
    bn.running_var.uniform_(0.5, 2)
    return model.requires_grad_(False)


def frame(seed: int = 0, pillars: int = PILLARS) -> tuple[torch.Tensor, torch.Tensor]:
    return features_like(pillars, seed, DIM), cells_of(pillars, seed, GRID)


def two_frames() -> tuple[torch.Tensor, torch.Tensor]:
    parts = [frame(0), frame(1, 40)]
    coords = [torch.nn.functional.pad(cells, (1, 0), value=number) for number, (_, cells) in enumerate(parts)]
    return torch.cat([features for features, _ in parts]), torch.cat(coords)


def scene_of(features: torch.Tensor, coords: torch.Tensor) -> Scene:
    return Scene(features, coords, *first_convolution(detector()))


def books(joint: bool = True, n: int = 2) -> ResidualQuantizer:
    model = detector()
    quantizer = ResidualQuantizer(n, (4, ROWS), DIM, tail_metric(model), *(first_convolution(model) if joint else ()))
    for book in range(n):
        quantizer.grow(book, ROWS, quantizer.residual(features_like(300, 5, DIM), book, ROWS),
                       torch.Generator().manual_seed(book))  # fmt: skip
        quantizer.finish()
    return quantizer


def codec_with(quantizer: ResidualQuantizer) -> Codec:
    features = features_like(300, 5, DIM)
    return Codec(quantizer, Tables.counted([(2, 4), (2, ROWS)], lambda n, k: books(False).encode(features, n, k)), GRID)


def test_a_scene_sees_what_the_tail_does_before_its_relu():
    model, (features, coords) = detector(), two_frames()
    scene = scene_of(features, coords)
    conv, bn = model.backbone.multi_blocks[0][:2]
    wanted = bn(conv(scatter(features, coords, 2, GRID)))  # (2, O, 8, 8)
    seen = scene.through(features) + first_convolution(model)[1]
    seen = seen.view(2, scene._height, scene._width, -1)[:, :8, :8].permute(0, 3, 1, 2)
    assert torch.allclose(seen, wanted, atol=1e-5)
    alive = scene.weights.view(2, scene._height, scene._width, -1)[:, :8, :8].permute(0, 3, 1, 2)
    assert torch.equal(alive, torch.where(seen > 0, 1.0, SLACK))


def test_the_choice_is_that_of_trying_every_row_of_every_pillar_in_turn():
    features, coords = frame()
    scene, rows = scene_of(features, coords), books().rows(0)
    codes = torch.zeros(PILLARS, dtype=torch.int64)
    slow = codes.clone()
    for turn in scene.turns * SWEEPS:
        for pillar in turn.pillars.tolist():
            tried = slow.repeat(ROWS, 1)
            tried[:, pillar] = torch.arange(ROWS)
            slow[pillar] = torch.stack([scene.error(features - rows[one]) for one in tried]).argmin()
    fast = scene.refine(features, rows, codes)
    assert torch.equal(fast, slow)
    assert scene.error(features - rows[fast]) < 0.9 * scene.error(features - rows[codes])


def test_choosing_together_is_better_behind_the_convolution_and_worse_pillar_by_pillar():
    features, coords = frame(3, 150)
    scene, together, alone = scene_of(features, coords), books(), books(joint=False)
    one, other = together.encode(features, 2, ROWS, coords=coords), alone.encode(features, 2, ROWS, coords=coords)
    left, left_alone = features - together.decode(one), features - alone.decode(other)
    assert scene.error(left) < scene.error(left_alone)
    metric = together.metric
    assert (left @ metric).square().sum() > (left_alone @ metric).square().sum()


def test_without_cells_each_vector_stands_alone():
    features, coords = frame()
    assert torch.equal(books().encode(features, 2, ROWS), books(joint=False).encode(features, 2, ROWS, coords=coords))


def test_a_batch_is_its_frames_and_the_order_of_pillars_does_not_matter():
    features, coords = two_frames()
    quantizer, order = books(), torch.randperm(len(features), generator=torch.Generator().manual_seed(1))
    codes = quantizer.encode(features, 2, ROWS, coords=coords)
    parts = [quantizer.encode(features[coords[:, 0] == one], 2, ROWS, coords=coords[coords[:, 0] == one, 1:])
             for one in (0, 1)]  # fmt: skip
    assert torch.equal(codes, torch.cat(parts))
    assert torch.equal(quantizer.encode(features[order], 2, ROWS, coords=coords[order]), codes[order])


def test_no_pillar_and_one_pillar():
    quantizer, (features, coords) = books(), frame()
    assert quantizer.encode(features[:0], 2, ROWS, coords=coords[:0]).shape == (0, 2)
    scene = scene_of(features[:1], coords[:1])
    rows = quantizer.rows(0)
    wanted = torch.stack([scene.error(features[:1] - row) for row in rows]).argmin()
    assert quantizer.encode(features[:1], 1, ROWS, coords=coords[:1])[0, 0] == wanted


def test_a_pillar_keeps_to_its_own_number_of_rows():
    features, coords = frame()
    quantizer = books()
    scene = quantizer.scene(features, coords)
    sizes = torch.where(torch.arange(PILLARS) % 2 == 0, 4, ROWS)
    codes = quantizer.nearest(features, 0, sizes, scene)
    assert codes[::2].max() < 4 <= codes[1::2].max()
    same = quantizer.residual(features, 2, torch.full((PILLARS,), 4), scene)
    assert torch.equal(same, quantizer.residual(features, 2, 4, scene))


def test_fewer_books_are_the_first_codes_of_more():
    features, coords = frame()
    quantizer = books()
    assert torch.equal(
        quantizer.encode(features, 1, ROWS, coords=coords)[:, 0],
        quantizer.encode(features, 2, ROWS, coords=coords)[:, 0],
    )


def test_a_beam_is_refused_where_codes_are_chosen_together():
    features, coords = frame()
    with pytest.raises(UserError, match=r"beam of 4 .* leave the beam at 1"):
        books().encode(features, 1, ROWS, beam=4, coords=coords)
    assert books(joint=False).encode(features, 1, ROWS, beam=4, coords=coords).shape == (PILLARS, 1)


def test_a_stream_of_one_encoder_is_read_behind_another():
    """Books and tables decide what a stream decodes to; the metric and the taps only which codes are in it."""
    features, coords = frame()
    ours, plain = codec_with(books()), codec_with(books(joint=False))
    other = ResidualQuantizer(2, (4, ROWS), DIM)
    other.load_state_dict(other.state_dict() | {name: books().state_dict()[name] for name in ("books", "held")})
    third = codec_with(other)
    codes = ours.quantizer.encode(features, 2, ROWS, coords=coords)
    stream = compress(codes, coords, ours, 2, ROWS)
    for codec in (plain, third):
        assert codec.identity(2, ROWS) == ours.identity(2, ROWS)
        here, there = (one.quantizer.decode(decompress(stream, one).codes) for one in (ours, codec))
        assert torch.equal(here, there)


def test_taps_survive_a_checkpoint_and_older_ones_have_none():
    features, coords = frame()
    state = quantizer_state(books())
    again = quantizer_from(state)
    assert torch.equal(again.encode(features, 2, 4, coords=coords), books().encode(features, 2, 4, coords=coords))
    del state["taps"], state["shift"]
    assert quantizer_from(state).scene(features, coords) is None


@pytest.mark.fault(8)
@pytest.mark.parametrize("damage", [{"taps": torch.zeros(3, DIM, 3, 2)}, {"shift": torch.zeros(2)},
                                    {"shift": torch.full((10,), torch.nan)}, {"metric": torch.eye(2)}])  # fmt: skip
def test_damaged_taps_are_refused(damage):
    with pytest.raises(CheckpointError, match="the file holds no usable codebooks"):
        quantizer_from(quantizer_state(books()) | damage, "the file")
