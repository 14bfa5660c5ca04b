"""Occupancy: targets against brute force, query sites, loss and its constant, and that it learns (traps T6, T7)."""

import math

import numpy as np
import pytest
import torch
from sparse_cases import SHAPE, Cloud, cloud, half, sites, toy_backbone
from test_voxel_backbone import kitti_sites

from voxel_mae.backbone import CONSTRUCTION_SHAPE_ZYX
from voxel_mae.keys import grown, look_up, site_keys
from voxel_mae.occupancy import (
    Occupancy,
    OccupancySettings,
    average_precision,
    block_keys,
    constant_loss,
    occupancy_loss,
    placed,
    query_sites,
)
from voxel_mae.sparse import sparse_tensor
from voxel_mae.twin import reached_sites

COARSE = (3, 6, 6)  # SHAPE at stride 8


def student_of(batch, keep, backbone=None):
    backbone = backbone or toy_backbone()
    return backbone.encode(batch.features[keep], batch.coords[keep], batch.batch_size, 4)["conv4"]


@pytest.mark.parametrize(("block", "low"), [("corner", 0), ("centred", -4)])
def test_targets_equal_brute_force(block, low):
    batch, keep = cloud(40), half(40)
    found = Occupancy(OccupancySettings(block=block, query="dense"), 8)(student_of(batch, keep), batch.coords, keep)
    voxels = batch.coords.tolist()
    for site, target in zip(found.sites.tolist(), found.targets.tolist(), strict=True):
        b, *cells = site
        corner = [8 * c + low for c in cells]
        held = any(v[0] == b and all(lo <= i < lo + 8 for lo, i in zip(corner, v[1:], strict=True)) for v in voxels)
        assert target == float(held)
    assert len(found.sites) == 2 * math.prod(COARSE)


def test_the_target_is_inside_the_block_not_near_its_corner():
    voxel = torch.tensor([[0, 7, 15, 8]], dtype=torch.int32)
    assert block_keys(voxel, COARSE, "corner").tolist() == site_keys(torch.tensor([[0, 0, 1, 1]]), COARSE).tolist()
    assert block_keys(voxel, COARSE, "centred").tolist() == site_keys(torch.tensor([[0, 1, 2, 1]]), COARSE).tolist()


def test_a_centred_block_beyond_the_last_site_has_no_key():
    voxel = torch.tensor([[0, 0, 47, 0]], dtype=torch.int32)
    assert len(block_keys(voxel, COARSE, "centred")) == 0
    assert len(block_keys(voxel, COARSE, "corner")) == 1


def test_query_sites_follow_from_the_visible_voxels_alone():
    student = sites(20, COARSE)
    active, dilated, dense = (query_sites(student, COARSE, 2, kind) for kind in ("active", "dilated", "dense"))
    assert torch.equal(site_keys(active, COARSE), site_keys(student, COARSE).sort().values)
    assert torch.equal(dilated, grown(student, COARSE))
    assert len(dense) == 2 * 3 * 6 * 6
    batch, keep = cloud(), half(300)
    head, hidden = Occupancy(OccupancySettings(), 8), batch.coords.clone()
    taken = set(site_keys(batch.coords, SHAPE).tolist())
    free = [row for row, key in enumerate(site_keys(sites(1000), SHAPE).tolist()) if key not in taken]
    hidden[~keep] = sites(1000)[free[: int((~keep).sum())]]  # other hidden voxels, the same visible ones
    one, other = (head(student_of(batch, keep), coords, keep) for coords in (batch.coords, hidden))
    assert torch.equal(one.sites, other.sites)
    assert torch.equal(one.logits, other.logits)
    assert not torch.equal(one.targets, other.targets)


def test_placing_keeps_features_and_fills_zeros():
    coords = sites(15, COARSE)
    tensor = sparse_tensor(torch.randn(15, 4, requires_grad=True), coords, COARSE, 2)
    wanted = grown(coords, COARSE)
    found = placed(tensor, wanted)
    rows = look_up(site_keys(coords, COARSE), site_keys(wanted, COARSE))
    assert torch.equal(found.features[rows >= 0], tensor.features[rows[rows >= 0]])
    assert not found.features[rows < 0].any()
    found.features.sum().backward()
    assert torch.equal(tensor.features.grad, torch.ones(15, 4))


def test_dilated_sites_hear_of_their_neighbours():
    """A site the student never reached answers differently when the student's features differ (T7)."""
    coords = torch.tensor([[0, 1, 2, 2]], dtype=torch.int32)
    head = Occupancy(OccupancySettings(), 8).eval()
    answers = [
        head(sparse_tensor(torch.full((1, 8), value), coords, COARSE, 1), coords * 8, torch.tensor([True])).logits
        for value in (0.5, 3.0)
    ]
    assert len(answers[0]) == 27
    differ = (answers[0] - answers[1]).abs() > 1e-6
    assert differ.sum() > 20  # a ReLU may be off at a site or two; one that hears nothing differs nowhere but at home


def test_loss_equals_the_formula_with_both_weightings():
    logits, targets = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([1.0, 0.0, 0.0])
    weights = torch.tensor([1.0, 1.0, 0.5])
    p = torch.sigmoid(logits)
    terms = torch.stack([-3 * p[0].log(), -(1 - p[1]).log(), -(1 - p[2]).log()])
    assert torch.allclose(occupancy_loss(logits, targets, weights, 3.0), (weights * terms).sum() / 2.5)


@pytest.mark.parametrize(("share", "entropy"), [(0.45, 0.688), (0.37, 0.659), (0.154, 0.430), (0.0186, 0.093)])
def test_the_best_constant_scores_the_entropy(share, entropy):
    assert constant_loss(torch.tensor(share)).item() == pytest.approx(entropy, abs=6e-4)


@pytest.mark.parametrize("pos_weight", [1.0, 4.0])
def test_no_constant_beats_the_constant_loss(pos_weight):
    targets = (torch.arange(100) < 23).float()
    scores = [float(occupancy_loss(torch.full((100,), float(c)), targets, torch.ones(100), pos_weight))
              for c in np.linspace(-4, 4, 801)]  # fmt: skip
    assert min(scores) == pytest.approx(constant_loss(torch.tensor(0.23), pos_weight).item(), abs=1e-4)
    assert [constant_loss(torch.tensor(q)).item() for q in (0.0, 1.0)] == [0, 0]


def test_average_precision_by_hand_and_of_a_constant():
    scores, true = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([True, False, True, False])
    assert average_precision(scores, true).item() == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(torch.zeros(4), true).item() == pytest.approx(0.5)
    assert average_precision(scores, torch.zeros(4, dtype=torch.bool)).item() == 0


def test_visible_blocks_can_be_left_out():
    batch, keep = cloud(120), half(120)
    student = student_of(batch, keep)
    torch.manual_seed(0)
    head = Occupancy(OccupancySettings(visible_weight=0.0, block="corner"), 8).eval()
    found = head(student, batch.coords, keep)
    visible = look_up(block_keys(batch.coords[keep], COARSE, "corner"), site_keys(found.sites, COARSE)) >= 0
    rest = occupancy_loss(found.logits[~visible], found.targets[~visible], torch.ones(int((~visible).sum())))
    assert visible.any()
    assert torch.allclose(found.loss, rest)


@pytest.mark.parametrize("wrong", [{"query": "teacher"}, {"block": "left"}, {"pos_weight": 0}, {"visible_weight": -1}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OccupancySettings(**wrong)


def plane(seed: int, batch_size: int = 3, count: int = 500) -> tuple[Cloud, torch.Tensor]:
    """Level ground at a height of its own in each cloud, and a mask that shows one quarter of the directions."""
    rng = np.random.default_rng(seed)
    coords, keep = [], []
    for b in range(batch_size):
        yx = rng.permutation(48 * 48)[:count]
        z, turn = rng.integers(0, 17), rng.uniform(0, 2 * np.pi)
        y, x = yx // 48, yx % 48
        coords.append(np.stack([np.full(count, b), np.full(count, z), y, x], 1))
        keep.append((np.arctan2(y - 24, x - 24) - turn) % (2 * np.pi) < np.pi / 2)
    coords = torch.from_numpy(np.concatenate(coords)).int()
    return Cloud(coords[:, [3, 2, 1]].float() / 16 - 1, coords, batch_size), torch.from_numpy(np.concatenate(keep))


def test_occupancy_beats_the_constant_on_new_clouds_also_where_the_student_never_was():
    backbone, head = toy_backbone(), Occupancy(OccupancySettings(), 8)
    parameters = [*backbone.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, 0.02)
    for step in range(30):
        batch, keep = plane(step)
        optimizer.zero_grad()
        head(student_of(batch, keep, backbone), batch.coords, keep).loss.backward()
        optimizer.step()
    batch, keep = plane(1000, 8)
    with torch.no_grad():
        student = student_of(batch, keep, backbone)
        found = head(student, batch.coords, keep)
    assert found.diagnostics["occupancy_excess"] < -0.1
    new = look_up(site_keys(student.indices, COARSE), site_keys(found.sites, COARSE)) < 0
    targets = found.targets[new]
    loss = occupancy_loss(found.logits[new], targets, torch.ones(len(targets)))
    assert 0 < targets.mean() < 1
    assert loss < constant_loss(targets.mean()) - 0.05


# --- real scans ---


def radial(coords: torch.Tensor, sectors: int, share: float, seed: int) -> torch.Tensor:
    """Keep a share of the sectors that hold a voxel, around the centre of the grid; written apart from masking.py."""
    y, x = (coords[:, axis].numpy() + 0.5 - 704 for axis in (2, 3))
    sector = np.floor((np.arctan2(y, x) + np.pi) / (2 * np.pi) * sectors).astype(int) % sectors
    filled = np.unique(sector)
    kept = np.random.default_rng(seed).choice(filled, max(1, round(share * len(filled))), replace=False)
    return torch.from_numpy(np.isin(sector, kept))


def shares(coords, keep, query, block):
    """Sites, share of positives, share of the occupied blocks that are asked about."""
    sites_8, shape = coords[keep], list(CONSTRUCTION_SHAPE_ZYX)
    for _ in range(3):
        sites_8, shape = reached_sites(sites_8, shape)
    keys = site_keys(query_sites(sites_8, shape, 1, query), shape)
    occupied = block_keys(coords, shape, block)
    found = (look_up(keys, occupied) >= 0).float().mean()
    return len(keys), float((look_up(occupied, keys) >= 0).float().mean()), float(found)


@pytest.mark.real
@pytest.mark.parametrize(("frame", "blocks"), [("000000", 3_095), ("000001", 6_340)])
def test_occupied_blocks_of_real_scans(real_samples, frame, blocks):
    assert len(block_keys(kitti_sites(real_samples, frame), (11, 176, 176), "corner")) == blocks


@pytest.mark.real
@pytest.mark.parametrize(
    ("sectors", "query", "block", "wanted"),
    [
        (360, "active", "corner", (4_227, 0.46, 0.63)),
        (36, "active", "corner", (2_464, 0.41, 0.32)),
        (360, "dilated", "centred", (15_112, 0.154, 0.82)),
    ],
)
def test_site_counts_and_shares_of_a_real_scan(real_samples, sectors, query, block, wanted):
    """The reference on frame 000000, 20 % of the sectors kept: theirs is one draw, so it is held to the spread of ours
    (ten degrees: a count of 1,250 to 2,500)."""
    coords = kitti_sites(real_samples)
    draws = [shares(coords, radial(coords, sectors, 0.2, seed), query, block) for seed in range(8)]
    tolerance = 3 * np.std(draws, axis=0) + 0.02 * np.array(wanted)
    assert (np.abs(np.mean(draws, axis=0) - wanted) <= tolerance).all()
