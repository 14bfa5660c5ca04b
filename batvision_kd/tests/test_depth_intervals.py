"""Intervals that draw rooms within locations: laws, and a planted and an absent difference."""

import numpy as np
import pytest

from batvision_kd.intervals import Scenes, interval, paired, room_weights

ROOMS, PER_ROOM = 30, 6
SCENES = Scenes(tuple(f"r{i // PER_ROOM % 10}" for i in range(ROOMS * PER_ROOM)),
                tuple(f"place{i // (10 * PER_ROOM)}" for i in range(ROOMS * PER_ROOM)))  # fmt: skip
ALL = np.ones(ROOMS * PER_ROOM, dtype=bool)


def noise(seed: int, shape=(3, ROOMS * PER_ROOM)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_equal_room_names_in_two_locations_are_two_rooms():
    room, home = SCENES.indices()
    assert len(home) == ROOMS and np.bincount(home).tolist() == [10, 10, 10]
    assert np.bincount(room).tolist() == [PER_ROOM] * ROOMS


def test_every_location_keeps_its_number_of_rooms():
    weights, (_, home) = room_weights(SCENES, 50), SCENES.indices()
    assert all((weights[:, home == place].sum(1) == 10).all() for place in range(3))
    assert weights.std() > 0


def test_differences_between_locations_do_not_widen_the_interval():
    _, home = SCENES.indices()
    by_location = np.repeat(100.0 * home, PER_ROOM)[None]
    low, high = interval(by_location, ALL, SCENES)
    assert low == high == pytest.approx(100.0)


def test_a_data_set_without_rooms_draws_its_locations():
    scenes = Scenes(SCENES.locations, SCENES.locations)
    assert (SCENES.unit, scenes.unit) == ("rooms within locations", "locations")
    by_location = np.repeat([0.0, 1.0, 2.0], 10 * PER_ROOM)[None]
    low, high = interval(by_location, ALL, scenes)
    assert low == 0.0 and high == 2.0


def test_one_room_has_no_interval():
    scenes = Scenes(("a",) * 4, ("b",) * 4)
    assert np.isnan(interval(np.ones((1, 4)), np.ones(4, bool), scenes)).all()


def test_images_of_one_room_count_as_one():
    """Six copies of each room's value say no more than one: the interval is that of 30 values, not of 180."""
    per_room = noise(1, (1, ROOMS))
    single = Scenes(SCENES.rooms[::PER_ROOM], SCENES.locations[::PER_ROOM])
    once = interval(per_room, np.ones(ROOMS, bool), single)
    copied = interval(np.repeat(per_room, PER_ROOM, 1), ALL, SCENES)
    assert copied == pytest.approx(once)


def test_a_planted_difference_is_found_and_an_absent_one_is_not():
    hard = noise(2) * 3
    base = hard + 5
    better = base - 0.4 + 0.2 * noise(3)
    same = base + 0.2 * noise(4)
    found, none = paired(better, base, ALL, SCENES), paired(same, base, ALL, SCENES)
    assert found.high < 0 and found.mean == pytest.approx(-0.4, abs=0.05) and len(found.per_seed) == 3
    assert none.low < 0 < none.high
    assert found.high - found.low < 0.1, "what is hard for both cancels"


def test_images_that_do_not_count_are_left_out():
    values, counted = noise(5), ALL.copy()
    counted[::4] = False
    changed = np.where(counted, values, 1e9)
    assert interval(values, counted, SCENES) == interval(changed, counted, SCENES)
    assert paired(changed, values * 0, counted, SCENES).mean == pytest.approx(values[:, counted].mean())


def test_seeds_are_resampled_jointly():
    """A seed's offset moves the mean, never the width."""
    values = noise(6)
    moved = values + np.array([[10.0], [20.0], [30.0]])
    a, b = interval(values, ALL, SCENES), interval(moved, ALL, SCENES)
    assert b[1] - b[0] == pytest.approx(a[1] - a[0]) and b[0] == pytest.approx(a[0] + 20)


def test_nothing_to_judge_is_an_error():
    with pytest.raises(ValueError, match="no image counts"):
        interval(noise(0), ~ALL, SCENES)
    with pytest.raises(ValueError, match="both must be"):
        paired(noise(0), noise(0)[:2], ALL, SCENES)
