"""Rate control and depths by error: promises about bytes are kept, and nothing better was within reach."""

import pytest
import torch
from rq_samples import cells_of, codec_of, features_like, trained

from pillars_rq.bitstream.stream import compress, decompress
from pillars_rq.rate import (
    RateError,
    choose_depths,
    compress_deep_within,
    compress_within,
    cut_to,
    errors_by_depth,
    operating_points,
)


@pytest.fixture(scope="module")
def codec():
    return codec_of(trained())


@pytest.fixture(scope="module")
def frame():
    return features_like(300, seed=4), cells_of(300, seed=4)


def error_of(stream, codec, features, coords):
    decoded = decompress(stream, codec)
    order = torch.argsort(coords[:, 0] * codec.grid.width + coords[:, 1])
    return float((features[order].double() - codec.quantizer.decode(decoded.codes).double()).square().sum())


def test_points_cost_and_leave_what_they_say(codec, frame):
    points = operating_points(*frame, codec)
    assert sorted((point.n, point.k) for point in points) == sorted(codec.quantizer.points())
    for point, stream in points.items():
        codes = codec.quantizer.encode(frame[0], point.n, point.k)
        assert stream == compress(codes, frame[1], codec, point.n, point.k) and len(stream) == point.bytes
        assert error_of(stream, codec, *frame) == pytest.approx(point.error)


def test_the_best_point_that_fits_is_taken(codec, frame):
    points = operating_points(*frame, codec)
    sizes = sorted(point.bytes for point in points)
    for target in (sizes[0], sizes[3] + 1, sizes[-1], 10**9):
        stream, best = compress_within(*frame, codec, target)
        assert len(stream) == best.bytes <= target
        assert best.error == min(point.error for point in points if point.bytes <= target)


def test_a_target_below_everything_names_the_least(codec, frame):
    least = min(point.bytes for point in operating_points(*frame, codec))
    with pytest.raises(RateError, match=f"{least} bytes at 1 codebook"):
        compress_within(*frame, codec, least - 1)


def test_an_empty_frame_has_a_rate(codec):
    stream, _ = compress_within(features_like(0), cells_of(0), codec, 200)
    assert len(decompress(stream, codec).codes) == 0
    stream, _ = compress_deep_within(features_like(0), cells_of(0), codec, 8, 200)
    assert len(decompress(stream, codec).codes) == 0


def test_errors_by_depth_are_those_of_the_sums(codec, frame):
    codes = codec.quantizer.encode(frame[0], 3, 8)
    errors = errors_by_depth(frame[0], codes, codec)
    for n in (1, 2, 3):
        expected = (frame[0].double() - codec.quantizer.decode(codes, n).double()).square().sum(1)
        torch.testing.assert_close(errors[:, n - 1], expected)


def test_depths_are_optimal_for_what_they_spend():
    """Against every assignment of a few pillars with convex errors."""
    errors = torch.tensor([[9.0, 4, 1], [5, 4.5, 4.2], [8, 2, 1.5], [1, 0.9, 0.85]], dtype=torch.float64)
    every = torch.cartesian_prod(*[torch.arange(1, 4)] * 4)
    for budget in range(4, 13):
        depths = choose_depths(errors, budget)
        spent = int(depths.sum())
        assert spent <= budget and depths.min() >= 1 and depths.max() <= 3
        mine = float(errors.gather(1, depths[:, None] - 1).sum())
        allowed = every[every.sum(1) == spent]
        best = errors[None].expand(len(allowed), -1, -1).gather(2, allowed[:, :, None] - 1).sum((1, 2)).min()
        assert mine == pytest.approx(float(best))
        if budget == 12:
            assert spent == 12
    with pytest.raises(RateError, match="fewer than the 4 pillars"):
        choose_depths(errors, 3)


def test_chosen_depths_beat_one_depth_at_the_same_number_of_codes(codec, frame):
    errors = errors_by_depth(frame[0], codec.quantizer.encode(frame[0], 3, 8), codec)
    depths = choose_depths(errors, 600)
    chosen = float(errors.gather(1, depths[:, None] - 1).sum())
    assert depths.sum() <= 600 and chosen < 0.9 * float(errors[:, 1].sum())


def test_a_deep_stream_fits_and_its_error_is_true(codec, frame):
    codes = codec.quantizer.encode(frame[0], 3, 8)
    least = len(compress(codes, frame[1], codec, 3, 8, depths=torch.ones(300, dtype=torch.int64)))
    full = len(compress(codes, frame[1], codec, 3, 8))
    for target in (least, (least + full) // 2, 2 * full):
        stream, point = compress_deep_within(*frame, codec, 8, target)
        assert len(stream) == point.bytes <= target
        assert error_of(stream, codec, *frame) == pytest.approx(point.error)
    with pytest.raises(RateError, match="does not hold one code"):
        compress_deep_within(*frame, codec, 8, 100)


def test_a_relay_cuts_without_the_features(codec, frame):
    stream = compress(codec.quantizer.encode(frame[0], 3, 8), frame[1], codec, 3, 8)
    two = compress(codec.quantizer.encode(frame[0], 2, 8), frame[1], codec, 2, 8)
    cut = cut_to(stream, len(two) + 8)
    assert torch.equal(decompress(cut, codec, 2).codes, decompress(two, codec).codes)
    assert cut_to(stream, len(stream)) == stream
    with pytest.raises(RateError, match="do not hold the first book"):
        cut_to(stream, 80)
