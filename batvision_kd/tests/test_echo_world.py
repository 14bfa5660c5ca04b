"""The embedded world: delays, levels, pictures and depths obey their laws."""

import numpy as np
import pytest

from batvision_kd.audio import onset
from batvision_kd.world import WorldSpec
from batvision_kd.world import paths as sound_paths
from batvision_kd.world.building import BANDS_HZ, Rig, Room, make_building, make_room, place_rig
from batvision_kd.world.camera import camera_rays, focal_px, occluded, photograph
from batvision_kd.world.head import HEAD_RADIUS_M, ear_delay_m, shadow_gain
from batvision_kd.world.paths import Paths, all_paths, direct, face_images, scattered, wall_images
from batvision_kd.world.rays import cast, unit_sphere
from batvision_kd.world.sound import RATE, SAMPLES, chirp, impulse_response, played, record
from batvision_kd.world.surfaces import DOOR_M, NAMES, SKIRTING_M, TABLE, Look, Taste, make_look, make_taste, painted
from batvision_kd.world.write import make_shot


def bare_room(size=(6.0, 5.0, 3.0), bodies=(), absorption=0.2, scattering=0.1) -> Room:
    """A room of one material."""
    count = 6 + 6 * len(bodies)
    return Room(np.array(size), np.array(bodies, float).reshape(-1, 2, 3), np.full((count, len(BANDS_HZ)), absorption),
                np.full(count, scattering), np.full((count, 3), 0.5), np.zeros(count, bool),
                plain_look(bodies))  # fmt: skip


def plain_look(bodies, *, wall=0, door=2.0) -> Look:
    """Grey surfaces, walls of one finish (row of TABLE), a door in each wall where `door` is at most 1."""
    taste = Taste(np.full((64, 64), 0.5, np.float32), 0.2, joint=0.6, dado=0.0, trim=0.9, walls=np.ones(3) / 3, floor=3)
    finish = [wall] * 4 + [3, 5] + [6] * 6 * len(bodies)
    origin = [np.zeros((6, 3))] + [np.tile(low, (6, 1)) for low, _ in bodies]
    return Look(taste, np.array(finish), np.concatenate(origin).astype(np.float32), np.full(4, door))


def lone_path(length_m: float, arrive: np.ndarray) -> Paths:
    arrive = np.asarray(arrive, float)[None] / np.linalg.norm(arrive)
    return Paths(np.array([length_m]), arrive, arrive, np.ones((1, len(BANDS_HZ))))


def delay_of(recorded: np.ndarray) -> float:
    """Sample at which the chirp begins, by a matched filter with a parabola through its peak."""
    found = np.correlate(recorded, chirp(), "valid")
    peak = int(found.argmax())
    low, top, high = found[peak - 1 : peak + 2]
    return peak + 0.5 * (low - high) / (low - 2 * top + high)


# --- sound ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("speed", "expected"), [(343.0, 514.3), (340.0, 518.8)])
def test_a_wall_2_m_ahead_answers_after_2d_over_c(speed, expected):
    rig = Rig(np.zeros(3), 0.7)
    heard = played(impulse_response(lone_path(4.0, rig.forward), rig, start=100, speed_m_s=speed))
    for ear in heard:
        assert delay_of(ear) - 100 == pytest.approx(expected, abs=1.0)


def test_every_pulse_lies_within_a_sample_at_any_length():
    rig = Rig(np.zeros(3), 0.0)
    for length in np.random.default_rng(0).uniform(1.0, 60.0, 12):
        heard = played(impulse_response(lone_path(length, (1, 0, 0)), rig))[0]
        assert delay_of(heard) == pytest.approx(length * RATE / 343, abs=1.0)


def test_the_first_echo_of_a_bare_wall_comes_from_its_mirror_image():
    """In front of a wall 1.5 m away the shortest mirror path is speaker - wall - head; every other is longer."""
    room, rig = bare_room(), Rig(np.array([6 - 1.5, 2.5, 1.5]), 0.0)
    found = wall_images(room, rig)
    ahead = found.length_m[np.argmax(found.arrive @ rig.forward - found.length_m / 100)]
    expected = np.hypot(2 * 1.5 - 0.10, 0.15)  # the speaker is 0.10 m nearer and 0.15 m lower
    assert ahead == pytest.approx(expected, abs=1e-9)


def test_mirror_images_are_those_of_a_shoebox():
    """Counts per order, lengths by unfolding, and one factor sqrt((1 - a)(1 - s)) a reflection."""
    room, rig = bare_room(absorption=0.3, scattering=0.0), Rig(np.array([2.0, 1.7, 1.1]), 0.3)
    found, order = wall_images(room, rig), np.abs(sound_paths.LATTICE).sum(axis=1)
    assert np.bincount(order).tolist() == [0, 6, 18, 38, 66]
    spread = found.gain[:, 0] * found.length_m * 10 ** (sound_paths.AIR_DB_M[0] * found.length_m / 20)
    np.testing.assert_allclose(spread, np.sqrt(0.7) ** order, rtol=1e-9)
    low_x = np.flatnonzero((sound_paths.LATTICE == (-1, 0, 0)).all(axis=1))[0]
    speaker = sound_paths.speaker_place(rig)
    assert found.length_m[low_x] == pytest.approx(np.linalg.norm(speaker * (-1, 1, 1) - rig.position_m))
    np.testing.assert_allclose(np.linalg.norm(found.leave, axis=1), 1)
    assert found.leave[low_x, 0] < 0 and found.arrive[low_x, 0] < 0  # it goes to that wall and comes from it


def test_mirror_images_agree_with_pyroomacoustics():
    """Oracle: pyroomacoustics' image source model of an empty room (its images lie where ours do)."""
    pra = pytest.importorskip("pyroomacoustics")
    room, rig = bare_room(absorption=0.3, scattering=0.0), Rig(np.array([2.0, 1.7, 1.1]), 0.3)
    theirs = pra.ShoeBox(list(room.size_m), fs=RATE, materials=pra.Material(0.3), max_order=4)
    theirs.add_source(sound_paths.speaker_place(rig))
    theirs.add_microphone(rig.position_m)
    theirs.image_source_model()
    images = theirs.sources[0].images.T
    lengths = np.sort(np.linalg.norm(images - rig.position_m, axis=1))
    ours = np.concatenate([wall_images(room, rig).length_m, direct(rig).length_m])
    np.testing.assert_allclose(np.sort(ours), lengths, atol=1e-5)


def test_impulse_response_agrees_with_pyroomacoustics():
    """Oracle: its impulse response of a bare room, one omnidirectional microphone: arrival and relative amplitude of
    the direct sound and the six first wall images. Its fractional delay of 81 taps starts 40 samples late; its
    amplitudes are 1/d without air."""
    pra = pytest.importorskip("pyroomacoustics")
    room, rig = bare_room((7.0, 5.3, 3.1), absorption=0.3, scattering=0.0), Rig(np.array([2.9, 1.9, 1.1]), 0.3)
    theirs = pra.ShoeBox(list(room.size_m), fs=RATE, materials=pra.Material(0.3), max_order=1, air_absorption=False)
    theirs.set_sound_speed(343.0)
    theirs.add_source(sound_paths.speaker_place(rig))
    theirs.add_microphone(rig.position_m)
    theirs.compute_rir()
    response = np.asarray(theirs.rir[0][0])[40:]
    first = np.abs(sound_paths.LATTICE).sum(axis=1) == 1
    walls = wall_images(room, rig)
    length = np.concatenate([direct(rig).length_m, walls.length_m[first]])
    air = 10 ** (sound_paths.AIR_DB_M[0] * length / 20)
    ours = np.concatenate([direct(rig).gain[:, 0], walls.gain[first, 0]]) * air
    heard = []
    for place in length * RATE / 343.0:
        samples = np.arange(int(place) - 3, int(place) + 5)
        near = response[samples]
        assert abs(samples[np.abs(near).argmax()] - place) <= 1
        heard.append((near * np.sinc(samples - place)).sum())
    np.testing.assert_allclose(np.abs(heard) / abs(heard[0]), ours / ours[0], rtol=0.1)


def test_a_box_in_front_answers_earlier_than_the_wall():
    rig = Rig(np.array([1.5, 2.5, 1.0]), 0.0)
    box = [[(3.0, 1.5, 0.0), (3.6, 3.5, 2.0)]]
    empty, full = bare_room(), bare_room(bodies=box, scattering=0.3)
    near_m, far_m = 2 * 1.5, 2 * 4.5
    quiet, loud = (
        np.abs(played(impulse_response(all_paths(room, rig, np.random.default_rng(0)), rig))).sum(axis=0)
        for room in (empty, full)
    )
    window = slice(int((near_m - 0.2) * RATE / 343), int((near_m + 0.2) * RATE / 343) + 132)
    assert loud[window].max() > 1.8 * quiet[window].max()
    face = face_images(full, rig)
    ahead = face.arrive @ rig.forward > 0.9
    assert face.length_m[ahead].min() == pytest.approx(np.hypot(near_m - 0.1, 0.15), abs=1e-9)
    walls = [wall_images(room, rig) for room in (empty, full)]
    behind = np.flatnonzero((sound_paths.LATTICE == (1, 0, 0)).all(axis=1))[0]
    assert walls[0].length_m[behind] == pytest.approx(np.hypot(far_m - 0.1, 0.15))
    assert walls[1].gain[behind, 0] == pytest.approx(
        walls[0].gain[behind, 0] * np.sqrt(0.7 / 0.9) * sound_paths.BLOCKED_GAIN, rel=1e-6
    )


def test_small_faces_answer_less_and_least_at_low_frequencies():
    rig = Rig(np.array([1.5, 2.5, 1.0]), 0.0)
    gains = []
    for half in (0.1, 0.4):
        box = [[(3.0, 2.5 - half, 0.9 - half), (3.6, 2.5 + half, 0.9 + half)]]
        gains.append(face_images(bare_room(bodies=box), rig).gain[0])
    assert (gains[0] <= gains[1] + 1e-12).all() and gains[0][0] < gains[1][0] / 4
    assert gains[0][0] * 10 < gains[0][5]


def test_scattered_sound_travels_twice_the_distance_and_carries_lamberts_energy():
    room, rig = bare_room((8.0, 8.0, 8.0), absorption=0.0, scattering=1.0), Rig(np.array([4.0, 4.0, 4.0]), 0.0)
    found = scattered(room, rig, np.random.default_rng(0))
    assert found.length_m.min() == pytest.approx(8.0, abs=0.05)
    # sum over rays of dOmega cos / (pi r^2), with r = 4 / cos on each wall: 6 walls x integral of cos^3 / (16 pi)
    rays = np.abs(unit_sphere(200_000)).max(axis=0)
    expected = 4 * np.pi * (rays**3).mean() / (16 * np.pi)
    assert (found.gain[:, 0] ** 2).sum() == pytest.approx(expected, rel=0.02)
    assert abs(np.sign(found.gain[:, 0]).mean()) < 0.1


def test_the_ear_on_the_side_of_a_sound_hears_it_first_and_louder():
    rig = Rig(np.zeros(3), 1.1)
    for side, near in ((rig.left, 0), (-rig.left, 1)):
        heard = played(impulse_response(lone_path(3.0, side), rig, start=50))
        ears = [delay_of(ear) for ear in heard]
        lag_ms = 1000 * (ears[1 - near] - ears[near]) / RATE
        assert lag_ms == pytest.approx(0.656, abs=0.03)
        level = 20 * np.log10(np.linalg.norm(heard[near]) / np.linalg.norm(heard[1 - near]))
        assert 6 < level < 25
    ahead = played(impulse_response(lone_path(3.0, rig.forward), rig, start=50))
    np.testing.assert_allclose(ahead[0], ahead[1], atol=1e-6)


def test_delay_and_shadow_of_the_sphere():
    angle = np.radians([0, 30, 60, 90])
    to_left = np.sin(angle)
    itd_ms = 1000 * (ear_delay_m(-to_left) - ear_delay_m(to_left)) / 343
    np.testing.assert_allclose(itd_ms, 1000 * HEAD_RADIUS_M / 343 * (angle + np.sin(angle)), atol=1e-12)
    gain = shadow_gain(np.array([1.0, 0.0, -1.0]), 343.0)
    assert (np.diff(gain[:, -1]) < 0).all()  # lit, grazing, shadow
    np.testing.assert_allclose(shadow_gain(np.array([1.0, -1.0]), 343.0 * 1e4), 1, atol=1e-3)  # none at low frequency


def test_what_comes_from_behind_is_weaker_at_high_frequencies():
    rig = Rig(np.zeros(3), 0.4)
    front, back = (impulse_response(lone_path(3.0, side * rig.forward), rig)[0] for side in (1, -1))
    level = np.abs(back).max(axis=1) / np.abs(front).max(axis=1)
    assert level[0] > 0.85 and level[-1] < 0.2 and (np.diff(level) <= 1e-9).all()


def test_a_record_begins_with_silence_then_the_direct_sound_and_is_not_overloaded():
    building = make_building(0, 0)
    for number in range(3):
        rng = np.random.default_rng(number)
        room = make_room(building, 0, 0, number)
        heard = record(room, place_rig(room, rng), rng)
        assert heard.shape == (2, SAMPLES) and np.isfinite(heard).all() and 0.3 < np.abs(heard).max() < 1
        assert abs(onset(heard) - 288) < 24 + 45  # jitter, and the chirp's slow beginning
        loud, late = heard[:, 250:1200], heard[:, -2000:]
        assert np.sqrt((loud**2).mean()) > 10 * np.sqrt((late**2).mean())


def test_louder_walls_ring_longer():
    rig = Rig(np.array([2.0, 2.0, 1.0]), 0.0)
    late = []
    for absorption in (0.05, 0.5):
        heard = record(bare_room(absorption=absorption), rig, np.random.default_rng(0))
        late.append(np.sqrt((heard[:, 4000:8000] ** 2).mean()))
    assert late[0] > 4 * late[1]


# --- rays and camera --------------------------------------------------------------------------------------------------


def test_rays_meet_the_nearest_surface_and_know_its_normal():
    room = bare_room(bodies=[[(3.0, 2.0, 0.0), (4.0, 3.0, 2.0)]])
    origin = np.array([1.0, 2.5, 1.0])
    rays = np.array([(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 0, 0), (0.0, 0, -1)], float).T
    hits = cast(room, origin, rays)
    np.testing.assert_allclose(hits.reach, [2, 1, 2.5, 2, 1, 1], rtol=1e-6)
    assert hits.surface.tolist() == [6, 0, 3, 5, 6, 4] and hits.axis.tolist() == [0, 0, 1, 2, 0, 2]
    back = cast(room, np.array([5.0, 2.5, 1.0]), np.array([[-1.0], [0], [0]]))
    assert back.surface.tolist() == [7]


def test_rays_spread_evenly_over_the_sphere():
    rays = unit_sphere(4096)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=0), 1)
    np.testing.assert_allclose(rays.mean(axis=1), 0, atol=1e-3)
    np.testing.assert_allclose(rays @ rays.T / 4096, np.eye(3) / 3, atol=1e-3)


def test_focal_lengths_are_batvisions():
    assert focal_px((720, 1280)) == pytest.approx((663.0, 686.3), abs=0.1)


def test_depth_is_along_the_axis_and_the_right_side_is_to_the_right():
    """A wall straight ahead has one depth; a box on the right (negative y when looking along x) shows on the right."""
    rig = Rig(np.array([1.0, 2.5, 1.5]), 0.0)
    rays = camera_rays(rig, (9, 16))
    np.testing.assert_allclose(rays[0], 1)
    reach = cast(bare_room((4.0, 50.0, 50.0)), rig.position_m + np.array([0, 20, 20]), rays).reach
    np.testing.assert_allclose(reach, 3.0, rtol=1e-6)
    room = bare_room(bodies=[[(3.0, 0.0, 0.0), (3.5, 2.0, 3.0)]])
    depth = cast(room, rig.position_m, rays).reach.reshape(9, 16)
    assert depth[4, 15] < depth[4, 0] and depth[4, 10] == pytest.approx(2.0)
    floor = cast(bare_room(), rig.position_m, rays).surface.reshape(9, 16)
    assert (floor[-1] == 4).any() and (floor[0] == 5).any()


def test_the_ear_and_the_picture_agree_on_sides():
    """The left half of the picture is where the left ear is."""
    rig = Rig(np.array([2.0, 2.0, 1.0]), 2.0)
    rays = camera_rays(rig, (4, 8)).reshape(3, 4, 8)
    assert (np.einsum("chw,c->hw", rays[:, :, :4], rig.left) > 0).all()


def test_a_near_thing_hides_a_strip_to_its_left_and_the_edge_is_blind():
    depth = np.full((3, 200), 4.0, np.float32)
    depth[:, 100:] = 1.0
    hidden = occluded(depth, fx_px=400.0)  # disparities 5 and 20 pixels
    assert hidden[0, 86:100].all() and not hidden[0, 5:86].any() and not hidden[0, 100:].any()
    assert hidden[0, :5].all()


def test_pictures_and_depth_are_plausible():
    spec = WorldSpec(size_hw=(45, 80))
    share, medians = [], []
    for shot in list(spec.shots())[::8]:
        _, picture, depth = make_shot(spec, shot)
        assert picture.shape == (45, 80, 3) and picture.dtype == np.uint8 and picture.std() > 5
        assert depth.shape == (45, 80) and depth.dtype == np.uint16
        share.append((depth == 0).mean())
        medians.append(np.median(depth[depth > 0]) / 1000)
    assert 0.1 < np.mean(share) < 0.35
    assert min(medians) > 0.3 and max(medians) < 12 and np.std(medians) > 0.3


def test_measured_depth_is_the_cast_depth_with_little_noise():
    room, rig = bare_room(), Rig(np.array([2.0, 2.0, 1.0]), 0.3)
    true = cast(room, rig.position_m, camera_rays(rig, (45, 80))).reach.reshape(45, 80)
    depth = photograph(room, rig, (45, 80), np.random.default_rng(0))[1] / 1000
    valid = depth > 0
    assert abs(np.median(depth[valid] / true[valid]) - 1) < 2e-3
    assert np.abs(depth[valid] - true[valid]).max() < 0.02 * true.max() ** 2


# --- surfaces ---------------------------------------------------------------------------------------------------------


def wall_seen(look: Look, u: np.ndarray, v: np.ndarray, pixel_m=1e-4) -> tuple[np.ndarray, np.ndarray]:
    """Colour and shade at u, v of the wall x = 0 of a 6 x 5 x 3 m room."""
    points = np.stack([np.zeros_like(u), u, v]).astype(np.float32)
    surface, axis = np.zeros(len(u), int), np.zeros(len(u), int)
    colours = np.full((6, 3), 0.5)
    return painted(
        look, np.array([6.0, 5.0, 3.0]), colours, surface, axis, points, np.full(len(u), pixel_m, np.float32)
    )


@pytest.mark.parametrize("name", ["bricks", "wall tiles", "boards"])
def test_joints_stand_at_the_standard_distance(name):
    """Along a horizontal line in the middle of a course: dark places one unit apart, as wide as a joint."""
    finish = NAMES.index(name)
    width, height, joint, _ = TABLE[finish]
    u = np.arange(0.5, 3.5, 1e-4)
    v = np.full_like(u, 1.2 // height * height + height / 2 if height < 3 else 2.4)
    dark = wall_seen(plain_look([], wall=finish), u, v)[1] < 0.7
    begins = u[1:][dark[1:] & ~dark[:-1]]
    np.testing.assert_allclose(np.diff(begins), width, atol=3e-4)
    assert dark.mean() == pytest.approx(joint / width, rel=0.1)


def test_bricks_are_laid_in_bond_and_far_joints_pale():
    look, u = plain_look([], wall=NAMES.index("bricks")), np.arange(0.5, 3.5, 1e-4)
    above, below = (wall_seen(look, u, np.full_like(u, (course + 0.5) / 12))[1] < 0.7 for course in (20, 21))
    assert not (above & below).any() and above.any() and below.any()
    near, far = (wall_seen(look, u, np.full_like(u, 20.5 / 12), pixel)[1] for pixel in (1e-4, 0.05))
    assert near.min() == pytest.approx(0.4) and 0.85 < far.min() < 0.95


def test_doors_and_skirting_have_their_size_and_the_trims_colour():
    look = plain_look([], door=0.5)
    u = np.arange(0, 5, 0.005)
    door = (wall_seen(look, u, np.full_like(u, 1.5))[0] == np.float32(0.9)).all(axis=1)
    assert door.sum() * 0.005 == pytest.approx(DOOR_M[0], abs=0.02)
    v = np.arange(0, 3, 0.005)
    column = (wall_seen(look, np.full_like(v, u[door].mean()), v)[0] == np.float32(0.9)).all(axis=1)
    assert column.sum() * 0.005 == pytest.approx(DOOR_M[1], abs=0.02)
    beside = (wall_seen(plain_look([]), np.full_like(v, 1.5), v)[0] == np.float32(0.9)).all(axis=1)
    assert beside[v < SKIRTING_M].all() and not beside[(v > SKIRTING_M) & (v < 0.8)].any()
    assert not (wall_seen(plain_look([]), u, np.full_like(u, 1.5))[0] == np.float32(0.9)).all(axis=1).any()


def test_sizes_are_the_same_in_all_buildings_and_tastes_are_not():
    looks = [
        make_look(np.random.default_rng(n), make_taste(np.random.default_rng(n)), np.zeros((0, 2, 3))) for n in (1, 2)
    ]
    assert looks[0].taste.contrast != looks[1].taste.contrast and looks[0].taste.trim != looks[1].taste.trim
    assert all(set(look.finish[:4]) <= {0, 1, 2} and look.finish[4] in (3, 4) and look.finish[5] == 5 for look in looks)


def test_the_lamps_light_falls_off():
    """A wall that faces the lamp from farther away is darker."""
    means = []
    for depth in (4.0, 12.0):
        room, rig = bare_room((depth, 5.0, 3.0)), Rig(np.array([depth / 2, 2.5, 1.2]), 0.0)
        picture = photograph(room, rig, (45, 80), np.random.default_rng(0))[0]
        means.append(picture[20:25, 30:50].mean())
    assert means[0] > 1.15 * means[1]


# --- buildings --------------------------------------------------------------------------------------------------------


def test_rigs_stand_clear_of_everything():
    for number in range(12):
        building = make_building(3, number)
        room = make_room(building, 3, number, 1)
        rig = place_rig(room, np.random.default_rng(number))
        assert (rig.position_m > 0.3).all() and (room.size_m - rig.position_m > 0.3).all()
        assert 0.6 <= rig.position_m[2] <= 1.2
        inside = (rig.position_m > room.bodies_m[:, 0]) & (rig.position_m < room.bodies_m[:, 1])
        assert not inside.all(axis=1).any()
        assert (room.bodies_m[:, 0] < room.bodies_m[:, 1]).all() and (room.bodies_m >= -1e-9).all()
        assert (room.bodies_m[:, 1] <= room.size_m + 1e-9).all()
        assert len(room.absorption) == len(room.colours) == 6 + 6 * len(room.bodies_m)


def test_rooms_of_a_building_resemble_each_other_more_than_buildings():
    floors = np.array([[np.sqrt(np.prod(make_room(make_building(0, b), 0, b, r).size_m[:2])) for r in range(12)]
                       for b in range(12)])  # fmt: skip
    assert floors.mean(axis=1).std() > 0.7 * floors.std(axis=1).mean()
    materials = [make_room(make_building(0, 0), 0, 0, r).absorption[0] for r in range(2)]
    np.testing.assert_array_equal(*materials)


def test_a_full_world_has_its_buildings_and_rooms():
    shots = list(WorldSpec(train=700, val=100, test=150).shots())
    rooms: dict[str, set] = {}
    splits: dict[str, set] = {}
    for shot in shots:
        rooms.setdefault(shot.location, set()).add(shot.room)
        splits.setdefault(shot.location, set()).add(shot.split)
    assert len(shots) == 950 and len(rooms) == 24 >= 10
    assert all(len(found) >= 20 for found in rooms.values())
    assert all(len(found) == 1 for found in splits.values())
    assert sum(found == {"test"} for found in splits.values()) == 5
    assert len({(s.location, s.room, s.view) for s in shots}) == len({(s.location, s.index) for s in shots}) == 950
