"""The VoxelNeXt backbone: size, shapes, fusion, and the counts on real scans."""

import numpy as np
import pytest
import torch
from sparse_cases import SHAPE, WIDTHS, cloud, empty_cloud, toy_backbone

from voxel_mae.backbone import BACKBONES, UNTRAINED_BY_PRETRAINING, RMAECMAEBackbonePhase1, fused
from voxel_mae.keys import align, site_keys
from voxel_mae.twin import reached_sites

CONSTRUCTION = (81, 1408, 1408)


def tower_parameters(backbone) -> int:
    """Up to conv6, as the reference counts."""
    return sum(p.numel() for name, p in backbone.named_parameters() if not name.startswith(("conv_out", "shared_conv")))


def test_parameter_counts():
    assert tower_parameters(RMAECMAEBackbonePhase1()) == 7_072_304
    assert tower_parameters(RMAECMAEBackbonePhase1(3, SHAPE, (8, 16, 32, 32, 32), 32)) == 579_928


def test_the_registered_name_and_openpcdets_parameter_names():
    names = set(dict(toy_backbone().named_parameters()))
    assert BACKBONES["RMAECMAEBackbonePhase1"] is RMAECMAEBackbonePhase1
    assert {"conv_input.0.weight", "conv1.0.conv1.weight", "conv1.1.bn2.bias", "conv2.0.0.weight", "conv6.2.conv2.bias",
            "conv_out.0.weight", "shared_conv.0.bias"} <= names  # fmt: skip


def test_levels_halve_the_grid_and_the_sites_are_the_reached_ones():
    batch = cloud()
    levels = toy_backbone().encode(batch.features, batch.coords, batch.batch_size)
    shape, wanted = list(SHAPE), batch.coords
    for number, width in enumerate((*WIDTHS, WIDTHS[-1]), start=1):
        tensor = levels[f"conv{number}"]
        if number > 1:
            wanted, shape = reached_sites(wanted, shape)
        assert list(tensor.spatial_shape) == shape
        assert tensor.features.shape == (len(wanted), width)
        assert torch.equal(site_keys(tensor.indices, shape).sort().values, site_keys(wanted, shape).sort().values)


def test_the_view_from_above_sums_columns_of_three_levels():
    levels = toy_backbone().encode(*vars(cloud()).values())
    wanted = torch.zeros(2, 6, 6, 8)
    for name, factor in (("conv4", 1), ("conv5", 2), ("conv6", 4)):
        for (b, _, y, x), row in zip(levels[name].indices.tolist(), levels[name].features, strict=True):
            wanted[b, y * factor, x * factor] += row
    view = fused(levels)
    found = torch.zeros_like(wanted)
    found[tuple(view.indices.long().unbind(1))] = view.features
    assert list(view.spatial_shape) == [6, 6]
    assert torch.allclose(found, wanted, atol=1e-5)


def test_fusion_changes_no_level():
    levels = toy_backbone().encode(*vars(cloud()).values())
    before = {name: (t.indices.clone(), t.features.clone()) for name, t in levels.items()}
    fused(levels)
    for name, (indices, features) in before.items():
        assert torch.equal(levels[name].indices, indices)
        assert torch.equal(levels[name].features, features)


def test_forward_gives_the_levels_and_the_fused_map():
    found = toy_backbone()(cloud())
    assert list(found.levels) == [f"conv{n}" for n in range(1, 7)]
    assert found.bev.features.shape[1] == 8
    assert list(found.bev.spatial_shape) == [6, 6]


def test_row_order_changes_nothing_but_the_order():
    batch, backbone = cloud(), toy_backbone().eval()
    mixed = torch.randperm(len(batch.coords))
    a = backbone(batch).bev
    levels = backbone.encode(batch.features[mixed], batch.coords[mixed], 2)
    b = backbone.shared_conv(backbone.conv_out(fused(levels)))
    rows_a, rows_b = align(site_keys(a.indices, (6, 6)), site_keys(b.indices, (6, 6)))
    assert len(rows_a) == len(a.indices) == len(b.indices)
    assert torch.allclose(a.features[rows_a], b.features[rows_b], atol=1e-5)


def test_samples_of_a_batch_do_not_touch_each_other():
    batch, backbone = cloud(), toy_backbone().eval()
    mine = batch.coords[:, 0] == 1
    alone = batch.coords[mine].clone()
    alone[:, 0] = 0
    both = backbone.encode(batch.features, batch.coords, 2)["conv4"]
    one = backbone.encode(batch.features[mine], alone, 1)["conv4"]
    rows = (both.indices[:, 0] == 1).nonzero().squeeze(1)
    shifted = both.indices[rows].clone()
    shifted[:, 0] = 0
    rows_b, rows_o = align(site_keys(shifted, both.spatial_shape), site_keys(one.indices, one.spatial_shape))
    assert len(rows_b) == len(rows) == len(one.indices)
    assert torch.allclose(both.features[rows[rows_b]], one.features[rows_o], atol=1e-5)


@pytest.mark.fault(12)
def test_an_empty_batch_and_every_gradient():
    backbone = toy_backbone()
    for batch in (empty_cloud(), cloud()):
        backbone.zero_grad()
        backbone(batch).bev.features.sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


def test_another_number_of_point_features_is_refused():
    batch = cloud()
    with pytest.raises(ValueError, match="carry 4 features and this backbone was built for 3"):
        toy_backbone().encode(torch.ones(len(batch.coords), 4), batch.coords, 2)


@pytest.mark.parametrize("widths", [(4, 6, 8, 8), (4, 6, 8, 8, 16), (0, 6, 8, 8, 8)])
def test_widths_that_cannot_be_fused_are_refused(widths):
    with pytest.raises(ValueError, match="the last two equal"):
        RMAECMAEBackbonePhase1(3, SHAPE, widths)


def test_layers_behind_conv4_are_named():
    backbone = toy_backbone()
    levels = backbone.encode(*vars(cloud()).values(), depth=4)
    levels["conv4"].features.sum().backward()
    without = {name.split(".")[0] for name, p in backbone.named_parameters() if p.grad is None}
    assert without == set(UNTRAINED_BY_PRETRAINING)


def kitti_sites(real_samples, frame: str = "000000") -> torch.Tensor:
    """Voxels (V, 4) int32 of a real scan on the construction grid, floors in float64."""
    points = np.fromfile(real_samples / f"kitti/training/velodyne/{frame}.bin", np.float32).reshape(-1, 4)[:, :3]
    cells = np.floor((points.astype(np.float64) - [-70.4, -70.4, -6.0]) / [0.1, 0.1, 0.2]).astype(np.int64)
    cells = cells[((cells >= 0) & (cells < [1408, 1408, 80])).all(1)]
    cells = np.unique(cells[:, ::-1], axis=0)
    return torch.from_numpy(np.pad(cells, ((0, 0), (1, 0)))).int()


def level_counts(coords: torch.Tensor) -> list[int]:
    shape, counts = list(CONSTRUCTION), [len(coords)]
    for _ in range(5):
        coords, shape = reached_sites(coords, shape)
        counts.append(len(coords))
    return counts


@pytest.mark.real
def test_level_counts_on_a_real_scan(real_samples):
    coords = kitti_sites(real_samples)
    assert level_counts(coords) == [41_408, 37_346, 18_799, 8_434, 3_184, 1_277]
    kept = torch.rand(len(coords), generator=torch.Generator().manual_seed(0)) < 0.2
    wanted = [8_257, 17_789, 12_116, 6_070, 2_412, 1_035]  # another draw of 20 %
    assert np.allclose(level_counts(coords[kept]), wanted, rtol=0.03)
