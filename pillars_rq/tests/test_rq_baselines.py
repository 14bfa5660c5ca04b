"""The baselines behind their one interface: what they send comes back within their own step."""

import numpy as np
import pytest
from rq_samples import DIM, SMALL_GRID, cells_of, features_like, real_cloud, real_encoder, real_frame

from pillars_rq.baselines import Int8, PcaScalar, QuantizedCloud, RawFp16, SplitFrame, compression_ratios
from pillars_rq.bitstream.errors import StreamError
from pillars_rq.grid import Grid


def frame_of(count, points=500, seed=0):
    coords = cells_of(count, seed).numpy()
    coords = coords[np.lexsort(coords.T[::-1])]
    cloud = np.random.default_rng(seed).random((points, 4)).astype(np.float32)
    cloud[:, :3] = cloud[:, :3] * [10.2, 10.2, 3.9] + np.array([0.02, -5.1, -2.95])
    return SplitFrame(cloud, coords, features_like(count, seed).numpy())


def every_feature_baseline():
    return [RawFp16(SMALL_GRID), Int8(SMALL_GRID), Int8(SMALL_GRID, squeezed=True),
            PcaScalar(SMALL_GRID, features_like(500, 1).numpy(), 8, 0.01)]  # fmt: skip


@pytest.mark.parametrize("count", [2, 300])
@pytest.mark.parametrize("baseline", every_feature_baseline(), ids=lambda one: one.name)
def test_features_come_back_within_their_step(baseline, count):
    frame = frame_of(count)
    sent = baseline.decode(baseline.encode(frame))
    assert np.array_equal(sent.coords, frame.coords) and sent.features.dtype == np.float32
    assert np.square(sent.features - frame.features).sum() < 0.001 * np.square(frame.features).sum()


@pytest.mark.parametrize("baseline", every_feature_baseline(), ids=lambda one: one.name)
def test_empty_frames(baseline):
    """No pillar, but as many channels as ever: the tail can be given it."""
    frame = frame_of(0)
    sent = baseline.decode(baseline.encode(frame))
    assert sent.coords.shape == (0, 2) and sent.features.shape == frame.features.shape == (0, DIM)
    assert sent.features.dtype == np.float32


def test_fp16_is_a_cast():
    frame = frame_of(50)
    sent = RawFp16(SMALL_GRID).decode(RawFp16(SMALL_GRID).encode(frame))
    assert np.array_equal(sent.features, frame.features.astype(np.float16).astype(np.float32))


def test_int8_halves_fp16_and_lzma_shortens_it():
    frame = frame_of(2000)
    raw, int8, squeezed = (len(one.encode(frame)) for one in every_feature_baseline()[:3])
    assert 0.45 < int8 / raw < 0.55 and squeezed < int8


def test_constant_channels_survive_int8():
    frame = frame_of(20)
    frame.features[:, 2] = 1.25
    sent = Int8(SMALL_GRID).decode(Int8(SMALL_GRID).encode(frame))
    assert (sent.features[:, 2] == 1.25).all()


def test_pca_with_fewer_components_or_a_larger_step_costs_less_and_errs_more():
    frame, train = frame_of(1000), features_like(2000, 5).numpy()
    results = []
    for components, step in ((8, 0.05), (8, 0.5), (3, 0.5)):
        baseline = PcaScalar(SMALL_GRID, train, components, step)
        data = baseline.encode(frame)
        results.append((len(data), float(np.square(baseline.decode(data).features - frame.features).sum())))
    assert results == sorted(results, key=lambda pair: (-pair[0], pair[1]))
    assert len({size for size, _ in results}) == 3


@pytest.mark.parametrize("count", [0, 1, 700])
def test_points_come_back_in_order_within_half_a_step(count):
    frame, cloud = frame_of(5, points=count), QuantizedCloud(SMALL_GRID, 0.02)
    sent = cloud.decode(cloud.encode(frame))
    assert sent.features is None and sent.points.shape == (count, 4) and sent.points.dtype == np.float32
    assert np.abs(sent.points[:, :3] - frame.points[:, :3]).max(initial=0) <= 0.01 + 1e-5
    assert np.abs(sent.points[:, 3] - frame.points[:, 3]).max(initial=0) <= 0.5 / 255 + 1e-6


@pytest.mark.fault(18)
def test_damaged_bytes_are_refused():
    frame = frame_of(40)
    for baseline in (*every_feature_baseline(), QuantizedCloud(SMALL_GRID)):
        data = baseline.encode(frame)
        with pytest.raises(StreamError):
            baseline.decode(data[:3])
    for baseline in (Int8(SMALL_GRID, squeezed=True), QuantizedCloud(SMALL_GRID)):
        with pytest.raises(StreamError, match="compressed part"):
            baseline.decode(baseline.encode(frame)[:-10])


def test_the_four_ratios_by_hand():
    grid = Grid.kitti()
    frame = SplitFrame(np.zeros((20_000, 4), np.float32), np.zeros((5000, 2), int), np.zeros((5000, 64), np.float32))
    ratios = compression_ratios(26_700, frame, grid)
    assert ratios["dense_fp32_canvas"] == pytest.approx(54_853_632 / 26_700)
    assert ratios["sparse_fp16"] == pytest.approx(640_000 / 26_700)
    assert ratios["raw_cloud"] == pytest.approx(320_000 / 26_700)
    assert ratios["cloud_6bit_cited"] == pytest.approx(15_000 / 26_700)


@pytest.mark.fault(18)
@pytest.mark.parametrize("baseline", [*every_feature_baseline(), QuantizedCloud(SMALL_GRID)], ids=lambda one: one.name)
def test_every_cut_and_every_surplus_is_refused(baseline):
    """No frame comes out with fewer features than cells. (A range coder reads zeros past its end: of PCA's last column
    a piece may be missing and give other levels; streams have checksums against that.)"""
    data = baseline.encode(frame_of(12, points=15))
    for end in range(len(data)):
        try:
            sent = baseline.decode(data[:end])
        except StreamError:
            continue
        assert isinstance(baseline, PcaScalar) and sent.features.shape == (12, DIM)
    with pytest.raises(StreamError):
        baseline.decode(data + bytes(DIM))


@pytest.mark.real
def test_real_frame(real_samples):
    """000134: int8 + lzma near the reference's 65-130 KB (here each channel has its own 255 steps), the cloud below."""
    model = real_encoder(real_samples)
    features, coords = real_frame(model, real_samples, "000134")
    cloud, grid = real_cloud(real_samples, "000134"), model.grid
    low, high = np.array(grid.range_m[:3]), np.array(grid.range_m[3:])
    cloud = cloud[((cloud[:, :3] > low) & (cloud[:, :3] < high)).all(1)]
    frame = SplitFrame(cloud, coords.numpy(), features.numpy())
    sizes = {}
    for baseline in (RawFp16(grid), Int8(grid), Int8(grid, squeezed=True), QuantizedCloud(grid)):
        data = baseline.encode(frame)
        sent, sizes[baseline.name] = baseline.decode(data), len(data)
        if sent.features is not None:
            error = np.square(sent.features - frame.features).sum() / np.square(frame.features).sum()
            assert error < 0.0005
    print(sizes)
    assert 65_000 < sizes["int8 + lzma"] < 145_000
    assert sizes["cloud 2 cm + lzma"] < 18_221 * 2
