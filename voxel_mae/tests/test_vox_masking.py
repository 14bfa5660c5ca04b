"""Maskings: metric and sensor-centred sectors, shares, seeds, independence of samples, no dead key, never empty."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from custom_root_samples import SMALL, ring_cloud

from shared.errors import ConfigError
from voxel_mae.masking import (
    KINDS,
    Calibrated,
    KeepShares,
    Polar,
    Radial,
    RangeAware,
    RangeOnly,
    TwoStage,
    calibrated_chance,
    mask_batch,
    mask_rng,
    seen_from,
)
from voxel_mae.voxelize import batch_voxels, voxelize

NEAR = {"bands_m": (4.0, 10.0)}  # the limits of a small cloud


def batch_of(*clouds, sensors=None):
    return batch_voxels([voxelize(cloud, SMALL) for cloud in clouds], sensors)


@pytest.fixture(scope="module")
def batch():
    return batch_of(ring_cloud(seed=0))


def keep_of(batch, masking, number=0):
    rngs = [mask_rng(0, 0, number + b) for b in range(batch.batch_size)]
    return mask_batch(batch, SMALL, masking, rngs)[0]


def polar_of(batch):
    return seen_from(batch.coords, SMALL, batch.sensor_xy[0])


def random_polar(count=20_000, seed=0, reach_m=60.0):
    rng = np.random.default_rng(seed)
    angle, distance = rng.uniform(-np.pi, np.pi, count), rng.uniform(1, reach_m, count)
    return Polar(distance * np.cos(angle), distance * np.sin(angle))


# --- geometry (trap T1) ---


def test_sectors_and_bands_are_those_of_the_centres_in_metres(batch):
    polar, centres = polar_of(batch), SMALL.centres_m(batch.coords).numpy()
    np.testing.assert_allclose(polar.dx, centres[:, 0], atol=1e-9)
    np.testing.assert_allclose(polar.dy, centres[:, 1], atol=1e-9)
    by_hand = [int((math.atan2(y, x) + math.pi) / (2 * math.pi) * 36) % 36 for x, y, _ in centres]
    assert polar.sectors(36).tolist() == by_hand
    assert polar.bands((4.0, 10.0)).tolist() == [
        sum(math.hypot(x, y) > limit for limit in (4, 10)) for x, y, _ in centres
    ]


def test_a_cloud_all_around_fills_every_sector_with_like_shares(batch):
    """Indices in place of metres, or the grid's corner in place of the sensor, would fill a quarter of the circle."""
    counts = np.bincount(polar_of(batch).sectors(36), minlength=36)
    assert (counts > 0.5 * counts.mean()).all()


def test_sectors_turn_with_the_cloud():
    polar, angle = random_polar(), 2 * math.pi / 36 * 5
    cos, sin = math.cos(angle), math.sin(angle)
    turned = Polar(polar.dx * cos - polar.dy * sin, polar.dx * sin + polar.dy * cos)
    assert ((turned.sectors(36) - polar.sectors(36) - 5) % 36 == 0).all()
    assert (turned.bands((10, 30)) == polar.bands((10, 30))).all()


def test_four_quarters_begin_at_the_back_right():
    polar = Polar(np.array([-1.0, 1.0, 1.0, -1.0]), np.array([-1.0, -1.0, 1.0, 1.0]))
    assert polar.sectors(4).tolist() == [0, 1, 2, 3]
    behind = Polar(np.array([-1.0]), np.array([0.0]))
    assert behind.sectors(4).tolist() == [0]  # pi is where the circle closes


def test_the_limit_of_a_band_belongs_to_it():
    polar = Polar(np.array([10.0, 10.001, 30.0, 30.001]), np.zeros(4))
    assert polar.bands((10, 30)).tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_mask_is_centred_at_the_sensor(kind):
    """A cloud and its sensor that are moved by whole cells have the mask of the cloud in its place."""
    still, moved = ring_cloud(reach_m=12), ring_cloud(reach_m=12)
    moved[:, 0] += 3.0
    moved[:, 1] -= 2.0
    here, there = batch_of(still), batch_of(moved, sensors=[(3.0, -2.0)])
    shift = torch.tensor([0, 0, -10, 15], dtype=torch.int32)
    common = torch.isin(SMALL.keys(there.coords), SMALL.keys(here.coords + shift))
    assert common.float().mean() > 0.97  # float32 moves a few points over a border
    polar = seen_from(there.coords, SMALL, there.sensor_xy[0])
    unmoved = seen_from(there.coords - shift, SMALL, torch.zeros(2))
    assert (polar.sectors(36) == unmoved.sectors(36)).all()
    assert (polar.bands((4, 10)) == unmoved.bands((4, 10))).all()
    kept = [KINDS[kind]().draw(one, mask_rng(0, 0, 0)) for one in (polar, unmoved)]
    assert (kept[0] == kept[1]).all()
    assert not torch.equal(
        keep_of(there, KINDS[kind]()), keep_of(replace(there, sensor_xy=torch.zeros(1, 2)), KINDS[kind]())
    )


# --- each kind ---


def test_radial_keeps_whole_sectors_and_as_many_as_it_says(batch):
    sector = polar_of(batch).sectors(36)
    for ratio, wanted in ((0.8, 7), (0.9, 4), (0.5, 18), (0.99, 1)):
        keep = keep_of(batch, Radial(ratio)).numpy()
        kept, masked = set(sector[keep]), set(sector[~keep])
        assert len(kept) == wanted
        assert not kept & masked


def test_radial_counts_only_sectors_that_hold_something():
    front = ring_cloud()
    front = front[(np.abs(np.arctan2(front[:, 1], front[:, 0])) < math.radians(45))]
    batch = batch_of(front)
    sector = polar_of(batch).sectors(36)
    assert len(set(sector)) == 10  # 80 degrees of whole sectors, and half of either neighbour
    assert len(set(sector[keep_of(batch, Radial(0.8)).numpy()])) == 2


def test_sectors_that_hold_too_little_give_way_to_a_random_share():
    """R-MAE's rule: most voxels in one sector, so that a draw without it keeps less than a tenth."""
    angle = np.r_[np.full(1900, 0.05), np.linspace(-3.1, 3.1, 100)]
    polar = Polar(np.cos(angle), np.sin(angle))
    crowded = polar.sectors(36) == polar.sectors(36)[0]
    seen = set()
    for i in range(40):
        plain, ruled = (Radial(0.8, 36, least).draw(polar, mask_rng(0, 0, i)) for least in (0.0, 0.1))
        lucky = bool(plain[crowded].all())
        seen.add(lucky)
        assert (plain == ruled).all() if lucky else ruled.sum() == 200 and 150 < ruled[crowded].sum() < 200
    assert seen == {True, False}


def test_every_sector_has_the_same_chance():
    polar = random_polar(4000)
    sector, kept = polar.sectors(36), np.zeros(36)
    for i in range(600):
        kept[np.unique(sector[Radial().draw(polar, mask_rng(0, 0, i))])] += 1
    assert kept.sum() == 600 * 7
    expected, spread = 600 * 7 / 36, math.sqrt(600 * 7 / 36 * 29 / 36)
    assert (np.abs(kept - expected) < 4.5 * spread).all()


def shares_of(masking, polar, bands_m, draws=200):
    band, kept = polar.bands(bands_m), np.zeros(len(bands_m) + 1)
    for i in range(draws):
        kept += np.bincount(band[masking.draw(polar, mask_rng(0, 0, i))], minlength=len(kept))
    return kept / np.bincount(band, minlength=len(kept)) / draws


def test_range_only_keeps_less_of_what_is_far():
    found = shares_of(RangeOnly(), random_polar(), (10, 30), 40)
    np.testing.assert_allclose(found, [0.5, 0.25, 0.1], atol=0.006)


def test_two_stage_multiplies_both_stages():
    found = shares_of(TwoStage(), random_polar(6000), (10, 30))
    np.testing.assert_allclose(found, [0.2 * 0.5, 0.2 * 0.25, 0.2 * 0.1], rtol=0.12)


def test_range_aware_keeps_more_of_what_is_far():
    found = shares_of(RangeAware(), random_polar(6000), (30, 50))
    np.testing.assert_allclose(found, np.array([0.2, 0.4, 0.6]) * 7 / 36, rtol=0.12)
    without_sectors = RangeAware(0.5, None, (30, 50), (0, 0.2, 0.2))
    np.testing.assert_allclose(shares_of(without_sectors, random_polar(), (30, 50), 40), [0.5, 0.7, 0.7], atol=0.006)


def test_calibrated_keeps_the_share_that_is_asked_for():
    polar = random_polar(6000, reach_m=40)
    shares = [Calibrated().draw(polar, mask_rng(0, 0, i)).mean() for i in range(300)]
    assert np.mean(shares) == pytest.approx(0.2, abs=0.01)
    by_band = shares_of(Calibrated(), polar, (10, 30))
    assert by_band[0] / by_band[1] == pytest.approx(0.5 / 0.25, rel=0.15)


def test_the_chance_of_a_calibrated_sector():
    assert calibrated_chance(0.8, np.array([0.5, 0.25, 0.357 * 3 - 0.75])) == pytest.approx(0.2 / 0.357)
    assert calibrated_chance(0.8, np.array([0.1])) == 1.0  # stage 2 alone keeps less than is asked for
    assert calibrated_chance(0.8, np.zeros(0)) == 1.0


# --- traps T2 to T5 ---


CHANGES = {
    "radial": [{"ratio": 0.6}, {"sectors": 360}, {"least_keep": 0.9}],
    "range_aware": [{"ratio": 0.6}, {"sectors": 360}, {"sectors": None}, {"bands_m": (4.0, 10.0)},
                    {"extra_keep": (0.5, 0.2, 0.4)}],
    "range_only": [{"bands_m": (4.0, 12.0)}, *[{"mask_probs": p} for p in ((0.2, 0.75, 0.9), (0.5, 0.2, 0.9))]],
    "two_stage": [{"ratio": 0.6}, {"sectors": 360}, {"bands_m": (4.0, 12.0)}, {"mask_probs": (0.1, 0.75, 0.9)}],
    "calibrated": [{"ratio": 0.6}, {"sectors": 360}, {"bands_m": (4.0, 12.0)}, {"mask_probs": (0.1, 0.75, 0.9)}],
}  # fmt: skip


def test_every_field_of_every_kind_is_changed_by_the_next_test():
    for name, kind in KINDS.items():
        assert {key for change in CHANGES[name] for key in change} == set(kind.__dataclass_fields__)


@pytest.mark.parametrize(("kind", "change"), [(kind, change) for kind, some in CHANGES.items() for change in some])
def test_changing_any_key_changes_the_mask(batch, kind, change):
    """Trap T2; the generator stays the same."""
    assert not torch.equal(keep_of(batch, KINDS[kind]()), keep_of(batch, KINDS[kind](**change)))


@pytest.mark.parametrize("far", [0.2, 0.99])
def test_the_last_probability_acts_beyond_the_last_limit(batch, far):
    base, changed = RangeOnly(**NEAR), RangeOnly(**NEAR, mask_probs=(0.5, 0.75, far))
    differs = (keep_of(batch, base) != keep_of(batch, changed)).numpy()
    assert differs.any()
    assert set(polar_of(batch).bands(NEAR["bands_m"])[differs]) == {2}


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_same_seed_draws_the_same_mask_and_any_other_another(batch, kind):
    first = keep_of(batch, KINDS[kind](), 0)
    assert torch.equal(first, keep_of(batch, KINDS[kind](), 0))
    others = [mask_rng(1, 0, 0), mask_rng(0, 1, 0), mask_rng(0, 0, 1)]
    for rng in others:
        assert not torch.equal(first, mask_batch(batch, SMALL, KINDS[kind](), [rng])[0])


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_sample_has_its_own_draw_whatever_the_batch(kind):
    """Trap T3: alone, first or last in a batch, the mask of a sample is the same; equal clouds have different ones."""
    clouds = [ring_cloud(seed=seed) for seed in (0, 1, 0)]
    masking, together = KINDS[kind](), batch_of(*clouds)
    rngs = [mask_rng(0, 3, index) for index in (7, 8, 9)]
    parts = mask_batch(together, SMALL, masking, rngs)[0].split(together.sizes())
    for cloud, index, part in zip(clouds, (7, 8, 9), parts, strict=True):
        assert torch.equal(mask_batch(batch_of(cloud), SMALL, masking, [mask_rng(0, 3, index)])[0], part)
    assert not torch.equal(parts[0], parts[2])


@pytest.mark.parametrize("kind", list(KINDS))
def test_kept_and_masked_voxels_are_all_there_and_once(batch, kind):
    """Trap T4."""
    keep = keep_of(batch, KINDS[kind]())
    seen, hidden = batch.select(keep), batch.select(~keep)
    keys = torch.cat([SMALL.keys(seen.coords), SMALL.keys(hidden.coords)])
    assert torch.equal(keys.sort().values, SMALL.keys(batch.coords).sort().values)
    assert len(keys.unique()) == len(batch)


ONE_SECTOR = np.array([[5.0, 0.05 + 0.2 * n, 0, 0] for n in range(3)], np.float32)
EXTREME = [Radial(0.999), Radial(0.001), RangeOnly(mask_probs=(1, 1, 1)), RangeOnly(mask_probs=(0, 0, 0)),
           TwoStage(0.999, mask_probs=(0.99, 0.99, 0.99)), TwoStage(0.001, mask_probs=(0, 0, 0)),
           Calibrated(0.001, mask_probs=(0, 0, 0)), RangeAware(0.001, None),
           RangeAware(0.999, extra_keep=(0, 0, 0))]  # fmt: skip


@pytest.mark.parametrize("masking", EXTREME, ids=str)
@pytest.mark.parametrize("cloud", [ring_cloud(200), ONE_SECTOR, ONE_SECTOR[:2]], ids=len)
def test_a_mask_is_neither_empty_nor_full(masking, cloud):
    """Trap T5."""
    batch = batch_of(cloud)
    for number in range(30):
        assert 0 < keep_of(batch, masking, number).sum() < len(batch)


@pytest.mark.parametrize("kind", list(KINDS))
def test_one_voxel_stays_visible_and_no_voxel_is_no_mistake(kind):
    batch = batch_of(ONE_SECTOR[:1], np.zeros((0, 4), np.float32), ONE_SECTOR)
    keep = keep_of(batch, KINDS[kind]())
    assert keep[0]
    assert 0 < keep[1:].sum() < 3
    empty = batch_of(np.zeros((0, 4), np.float32))
    keep, shares = mask_batch(empty, SMALL, KINDS[kind](), [mask_rng(0, 0, 0)])
    assert (keep.shape, keep.dtype, shares.metrics()) == ((0,), torch.bool, {})


def test_the_one_that_stays_of_an_empty_draw_is_drawn():
    batch, masking = batch_of(ring_cloud(200)), RangeOnly(mask_probs=(1, 1, 1))
    assert len({int(keep_of(batch, masking, n).int().argmax()) for n in range(20)}) > 10


# --- shares ---


def test_realised_shares_are_counted_by_band_and_over_the_batch():
    together = batch_of(ring_cloud(seed=0), ring_cloud(seed=1))
    keep, shares = mask_batch(together, SMALL, RangeOnly(), [mask_rng(0, 0, 0), mask_rng(0, 0, 1)])
    assert shares.overall == pytest.approx(float(keep.float().mean()))
    assert shares.total.sum() == len(together)
    assert list(shares.metrics()) == ["keep", "keep_0_10m", "keep_10_30m"]  # no voxel beyond 30 m
    assert shares.metrics()["keep_0_10m"] > shares.metrics()["keep_10_30m"]
    assert KeepShares(np.array([1, 2, 3]), np.array([2, 4, 12])).metrics() == {
        "keep": 6 / 18, "keep_0_10m": 0.5, "keep_10_30m": 0.5, "keep_30m_up": 0.25}  # fmt: skip


def test_the_counts_of_a_batch_are_those_of_each_voxel_s_band():
    """The second sensor stands in a corner, so that voxels lie in every band."""
    together = batch_of(ring_cloud(seed=0), ring_cloud(seed=1), sensors=[(0.0, 0.0), (-19.0, -19.0)])
    keep, shares = mask_batch(together, SMALL, RangeOnly(), [mask_rng(0, 0, 0), mask_rng(0, 0, 1)])
    parts = zip(together.coords.split(together.sizes()), together.sensor_xy, strict=True)
    band = np.concatenate([seen_from(part, SMALL, sensor).bands((10, 30)) for part, sensor in parts])
    assert shares.total.tolist() == np.bincount(band).tolist()
    assert shares.kept.tolist() == np.bincount(band[keep.numpy()]).tolist()
    assert (shares.kept > 0).all()


# --- bad settings ---


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Radial(0.0), "leave the masking out"),
        (lambda: TwoStage(1.0), "between 0 and 1"),
        (lambda: Radial(sectors=1), "1 sectors"),
        (lambda: Radial(least_keep=1.0), "least_keep 1.0"),
        (lambda: TwoStage(mask_probs=(0.5, 0.75)), "2 mask_probs for 2 distance limits"),
        (lambda: RangeOnly((30, 10)), "ascend"),
        (lambda: RangeOnly((10, math.inf)), "ascend"),
        (lambda: RangeOnly(mask_probs=(0.5, 0.75, 1.5)), "between 0 and 1"),
        (lambda: RangeAware(extra_keep=(0, -0.1, 0)), "between 0 and 1"),
    ],
)
def test_settings_that_are_none_are_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()


def test_each_sample_needs_its_generator(batch):
    with pytest.raises(ValueError, match="2 generators for 1 samples"):
        mask_batch(batch, SMALL, Radial(), [mask_rng(0, 0, 0)] * 2)
