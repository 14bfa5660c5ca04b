import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from pillars_rq.anchors import KITTI_CLASSES
from pillars_rq.grid import Grid
from pillars_rq.network import PointPillars, Widths, decorate, scatter
from pillars_rq.voxelize import Pillars, batch_pillars, voxelize
from pillars_rq.weights import load_folded_encoder
from shared.errors import ConfigError

GRID = Grid((0.0, -2.56, -3.0, 7.68, 2.56, 1.0), (0.32, 0.32, 4.0), max_points=8)  # 16 x 24
SMALL = Widths(8, (8, 12, 16), (1, 0, 2), 4)
EMPTY = np.zeros((0, 4), np.float32)


def cloud(number: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform((0, -2.5, -3, 0), (7.6, 2.5, 1, 1), (number, 4)).astype(np.float32)


def pillars(number: int, seed: int = 0) -> Pillars:
    return voxelize(cloud(number, seed), GRID, 1000)


@pytest.fixture(scope="module")
def small() -> PointPillars:
    """A small network whose batch norms are not the identity."""
    torch.manual_seed(0)
    model = PointPillars(GRID, KITTI_CLASSES[:2], SMALL)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight, 1, 0.2)
            torch.nn.init.normal_(module.bias, 0, 0.3)
            torch.nn.init.normal_(module.running_mean, 0, 0.2)
    return model.eval()


# --- the published network ---


def published_entries() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published checkpoint, written out."""
    entries: dict[str, tuple[int, ...]] = {"pillar_encoder.conv.weight": (64, 9, 1)}

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            entries[f"{name}.{part}"] = (channels,)
        entries[f"{name}.num_batches_tracked"] = ()

    norm("pillar_encoder.bn", 64)
    for block, (inputs, channels, convs) in enumerate(((64, 64, 4), (64, 128, 6), (128, 256, 6))):
        for k in range(convs):
            entries[f"backbone.multi_blocks.{block}.{3 * k}.weight"] = (channels, channels if k else inputs, 3, 3)
            norm(f"backbone.multi_blocks.{block}.{3 * k + 1}", channels)
    for k, (channels, size) in enumerate(((64, 1), (128, 2), (256, 4))):
        entries[f"neck.decoder_blocks.{k}.0.weight"] = (channels, 128, size, size)
        norm(f"neck.decoder_blocks.{k}.1", 128)
    for name, channels in (("conv_cls", 18), ("conv_reg", 42), ("conv_dir_cls", 12)):
        entries |= {f"head.{name}.weight": (channels, 384, 1, 1), f"head.{name}.bias": (channels,)}
    return entries


def test_the_state_has_the_126_published_entries():
    model = PointPillars(Grid.kitti())
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == published_entries()
    assert len(published_entries()) == 126
    parts = [model.pillar_encoder, model.backbone, model.neck, model.head]
    assert [sum(p.numel() for p in part.parameters()) for part in parts] == [704, 4_207_616, 598_784, 27_720]
    assert sum(p.numel() for p in model.parameters()) == 4_834_824
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.01)}


def test_the_head_starts_from_one_positive_in_a_hundred():
    head = PointPillars(GRID).head
    assert head.conv_cls.bias.sigmoid().detach().numpy() == pytest.approx(0.01, rel=1e-5)
    assert (head.conv_reg.bias == 0).all() and 0.009 < head.conv_reg.weight.std() < 0.011


@pytest.mark.parametrize(("classes", "widths"), [(1, SMALL), (3, SMALL), (2, Widths(4, (4, 4, 4), (0, 0, 0), 2))])
def test_shapes_for_any_class_set_and_width(classes, widths):
    model = PointPillars(GRID, KITTI_CLASSES[:classes], widths).eval()
    batch = batch_pillars([pillars(30), pillars(50, 1)])
    assert model.headnet(batch).shape == (len(batch), widths.pillar)
    shapes = [tuple(part.shape) for part in model(batch)]
    assert shapes == [(2, 2 * classes * channels, 8, 12) for channels in (classes, 7, 2)]


def test_widths_that_make_no_network_are_refused():
    for wrong in ({"blocks": (4, 4)}, {"pillar": 0}, {"layers": (1, -1, 1)}):
        with pytest.raises(ConfigError, match="widths"):
            Widths(**wrong)
    with pytest.raises(ConfigError, match="no classes"):
        PointPillars(GRID, ())
    assert Widths(**SMALL.as_dict()) == SMALL


# --- the encoder's habits ---


def test_the_nine_channels_of_a_point():
    points = torch.zeros(1, 3, 4)
    points[0, 0], points[0, 1] = torch.tensor([1.0, 0.2, -1, 0.5]), torch.tensor([1.2, 0.1, -2, 0.7])
    found = decorate(points, torch.tensor([2]), torch.tensor([[8, 3]]), GRID)[0]  # the cell's centre is (1.12, 0.16)
    first = [-0.12, 0.04, -1, 0.5, -0.1, 0.05, 0.5, -0.12, 0.04]
    assert found[0].tolist() == pytest.approx(first, abs=1e-6)
    assert found[1].tolist() == pytest.approx([0.08, -0.06, -2, 0.7, 0.1, -0.05, -0.5, 0.08, -0.06], abs=1e-6)
    assert (found[2] == 0).all()


def test_absolute_position_never_enters(small):
    here = pillars(60)
    shift = torch.tensor([0.32 * 3, 0.32 * -2, 0, 0])
    inside = torch.arange(GRID.max_points) < here.counts[:, None]
    there = Pillars(here.points + shift * inside[..., None], here.counts, here.coords + torch.tensor([-2, 3]))
    torch.testing.assert_close(*(small.headnet(batch_pillars([one])) for one in (here, there)), atol=1e-5, rtol=0)


def test_pillars_with_empty_slots_are_floored(small):
    encoder = small.pillar_encoder
    floor = torch.relu(encoder.bn(torch.zeros(1, SMALL.pillar)))[0]
    points = torch.rand(1, GRID.max_points, 4)
    cells = torch.zeros(1, 2, dtype=torch.long)
    full, short = (torch.tensor([n]) for n in (GRID.max_points, GRID.max_points - 1))
    floored = encoder(points * (torch.arange(GRID.max_points) < short)[..., None], short, cells)[0]
    assert floor.max() > 0 and (floored >= floor).all()
    assert (encoder(points, full, cells)[0] < floor).any()


def test_the_order_of_a_pillars_points_does_not_matter(small):
    one = pillars(400)
    shuffled = one.points.clone()
    for row, count in enumerate(one.counts):
        shuffled[row, :count] = one.points[row, torch.randperm(int(count), generator=torch.manual_seed(row))]
    found = [small.headnet(batch_pillars([Pillars(part, one.counts, one.coords)])) for part in (one.points, shuffled)]
    torch.testing.assert_close(*found, atol=1e-5, rtol=0)


def test_training_statistics_count_the_empty_slots(small):
    encoder, one = PointPillars(GRID, widths=SMALL).pillar_encoder.train(), pillars(40)
    slots = encoder.conv(decorate(one.points, one.counts, one.coords, GRID).transpose(1, 2))
    encoder(one.points, one.counts, one.coords)
    torch.testing.assert_close(encoder.bn.running_mean, 0.01 * slots.mean((0, 2)))
    assert slots.mean((0, 2)).abs().max() > 1e-3


def encoded(encoder: torch.nn.Module, form: str, one: Pillars, training: bool) -> dict[str, torch.Tensor]:
    """Features, gradients of a weighted sum of them, and buffers of a copy of the encoder after one step."""
    encoder = copy.deepcopy(encoder).double().train(training)
    features = getattr(encoder, form)(one.points.double(), one.counts, one.coords)
    weight = torch.rand(features.shape, generator=torch.manual_seed(3), dtype=torch.float64)
    (features * weight).sum().backward()
    gradients = {name: part.grad for name, part in encoder.named_parameters()}
    return {"features": features.detach(), **gradients, **dict(encoder.named_buffers())}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("points", [1, 40, 3000])  # the last fills every slot of some pillars
def test_occupied_slots_alone_are_the_same_as_every_slot(small, points, training):
    """Forward, gradients and running statistics: the encoder against its dense twin, in float64."""
    one = pillars(points)
    full = one.counts == GRID.max_points
    assert points < 3000 or (full.any() and not full.all())
    ours, twin = (encoded(small.pillar_encoder, form, one, training) for form in ("forward", "every_slot"))
    assert ours.keys() == twin.keys() and len(ours) == 7
    for name, value in twin.items():
        assert torch.allclose(ours[name], value, rtol=1e-9, atol=1e-9), name


# --- the canvas and batches ---


def test_scatter_puts_every_feature_in_its_cell_and_exact_zeros_elsewhere():
    batch = batch_pillars([pillars(20), pillars(30, 1)])
    features = torch.rand(len(batch), 5) + 1
    canvas = scatter(features, batch.coords, 2, GRID)
    b, y, x = batch.coords.unbind(1)
    assert canvas.shape == (2, 5, 16, 24) and torch.equal(canvas[b, :, y, x], features)
    assert (canvas != 0).sum() == features.numel()
    assert canvas.is_contiguous(memory_format=torch.channels_last)


def test_scatter_passes_gradients_back():
    batch = batch_pillars([pillars(20)])
    features = torch.rand(len(batch), 5, requires_grad=True)
    weight = torch.rand(1, 5, 16, 24)
    (scatter(features, batch.coords, 1, GRID) * weight).sum().backward()
    assert torch.equal(features.grad, weight[0, :, batch.coords[:, 1], batch.coords[:, 2]].T)


def test_a_batch_is_its_frames_one_by_one(small):
    frames = [pillars(30), voxelize(EMPTY, GRID, 10), pillars(60, 1), voxelize(EMPTY, GRID, 10)]
    together = small(batch_pillars(frames))
    assert len(together.cls) == 4  # the last frame is empty and does not vanish
    for number, frame in enumerate(frames):
        for whole, alone in zip(together, small(batch_pillars([frame])), strict=True):
            torch.testing.assert_close(whole[number : number + 1], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.fault(12)
def test_a_batch_without_any_pillar_trains():
    model = PointPillars(GRID, widths=SMALL).train()
    empty = batch_pillars([voxelize(EMPTY, GRID, 10)] * 2)
    assert model.headnet(empty).shape == (0, 8)
    sum(part.square().sum() for part in model(empty)).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(torch.isfinite(g).all() for g in gradients)


# --- real features ---


@pytest.fixture(scope="module")
def published_head(real_samples) -> PointPillars:
    model = PointPillars(Grid.kitti(), widths=replace(SMALL, pillar=64)).eval()
    load_folded_encoder(model, real_samples / "pointpillars/pfn_folded.npz")
    return model


FEATURE_SUMS = {
    "training/velodyne_reduced/000000": 40547.0,
    "training/velodyne_reduced/000001": 61392.2,
    "training/velodyne_reduced/000003": 41050.4,
    "training/velodyne_reduced/000005": 75802.0,
    "training/velodyne_reduced/000006": 51063.9,
    "training/velodyne_reduced/000008": 43135.7,
    "training/velodyne_reduced/000134": 53118.3,
    "testing/velodyne_reduced/000002": 51424.5,
}


@pytest.mark.real
@pytest.mark.parametrize("name", FEATURE_SUMS)
@torch.no_grad()
def test_features_of_real_frames(real_samples, published_head, name):
    """The published first layer on the real frames."""
    points = np.fromfile(real_samples / f"kitti/{name}.bin", np.float32).reshape(-1, 4)
    found = voxelize(points, published_head.grid, 40_000)
    features = published_head.headnet(batch_pillars([found])).double()
    assert features.sum().item() == pytest.approx(FEATURE_SUMS[name], rel=1e-5)
    if name.endswith("000134"):
        assert features.square().sum().item() == pytest.approx(28272.6, rel=1e-5)
        assert features.norm(dim=1).mean().item() == pytest.approx(1.9994, abs=1e-4)
        assert found.coords[:2].tolist() == [[46, 264], [47, 263]]


@pytest.mark.real
@torch.no_grad()
def test_the_published_floor(published_head):
    floor = torch.relu(published_head.pillar_encoder.bn(torch.zeros(1, 64)))
    assert int((floor > 0).sum()) == 22 and floor.norm().item() == pytest.approx(0.860, abs=1e-3)
