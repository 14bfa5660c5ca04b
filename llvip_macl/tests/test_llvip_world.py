"""The embedded world's content: boxes, occlusion, heat, night, what each picture hides, shift, scenes."""

from dataclasses import replace

import numpy as np
import pytest

from llvip_macl.world import WorldSpec, sensors, things
from llvip_macl.world.camera import Camera
from llvip_macl.world.canvas import SUPERSAMPLE
from llvip_macl.world.figure import draw_look, person
from llvip_macl.world.render import cut_out, make_pair, painted
from llvip_macl.world.scenes import set_stage
from llvip_macl.world.sensors import crop
from llvip_macl.world.spec import LAYOUTS, SPLITS
from shared.errors import ConfigError

SIZE_HW = (80, 100)
SEEN_ONLY = {"statue", "mannequin", "poster", "glass_mirror"}
WARM_ONLY = {"metal_mirror", "hot_pipe", "ground_mirror"}


def spec_of(layout: str, **change) -> WorldSpec:
    return WorldSpec(**{"layout": layout, "pairs": (40, 12), "size_hw": SIZE_HW} | change)


@pytest.fixture(scope="module")
def shots():
    """layout -> [(shot, pair)] of a whole train split."""
    return {
        layout: [(shot, make_pair(spec_of(layout), shot)) for shot in spec_of(layout).shots("train")]
        for layout in LAYOUTS
    }


def persons(shots, layout: str, night: bool | None = None):
    return [one for shot, pair in shots[layout] for one in pair.objects
            if one.label == "person" and night in (None, shot.night)]  # fmt: skip


def plain_stage(spec, shot):
    """The shot's stage with nobody matched to what is behind: then a person changes no pixel but their own."""
    stage = set_stage(spec, shot)
    return replace(stage, things=tuple(replace(thing, weak=None) for thing in stage.things))


def touched(stage, cuts, cut, size_hw=SIZE_HW) -> np.ndarray:
    """Canvas pixels that differ in either picture when one thing is not painted."""
    with_it = painted(stage, cuts, size_hw)
    without_it = painted(stage, [other for other in cuts if other is not cut], size_hw)
    return with_it.celsius != without_it.celsius


@pytest.mark.parametrize("layout", LAYOUTS)
def test_boxes_are_tight_around_what_is_really_drawn(layout):
    spec, checked = spec_of(layout), 0
    for shot in spec.shots("train")[:8]:
        stage = plain_stage(spec, shot)
        labels = [one for one in make_pair(spec, shot).objects if one.label == "person"]
        cuts = cut_out(stage, SIZE_HW)
        for cut, label in zip([cut for cut in cuts if cut.thing.label == "person"], labels, strict=True):
            drawn = crop(touched(stage, cuts, cut).astype(np.float32), SIZE_HW) > 0
            rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
            extent = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
            if label.visible_share == 1:
                assert extent == label.box
                checked += 1
            assert label.box[0] <= extent[0] and label.box[1] <= extent[1]
            assert label.box[2] >= extent[2] and label.box[3] >= extent[3]
    assert checked >= 5


def test_the_silhouette_fills_its_box_and_stays_inside(shots):
    for layout in LAYOUTS:
        for _, pair in shots[layout]:
            for one in pair.objects:
                x0, y0, x1, y1 = one.box
                assert 0 <= x0 < x1 <= SIZE_HW[1] and 0 <= y0 < y1 <= SIZE_HW[0]
                inner = one.silhouette[y0:y1, x0:x1]
                assert one.silhouette.sum() == inner.sum()
                assert inner[0].any() and inner[-1].any() and inner[:, 0].any() and inner[:, -1].any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_occlusion_is_the_share_of_the_drawn_person_that_is_still_seen(layout):
    """Pixels that change when a person is not painted, over those that change when nothing else is painted."""
    spec, levels = spec_of(layout), set()
    for shot in spec.shots("train")[:7]:
        stage = plain_stage(spec, shot)
        labels = [one for one in make_pair(spec, shot).objects if one.label == "person"]
        cuts = cut_out(stage, SIZE_HW)
        for cut, label in zip([cut for cut in cuts if cut.thing.label == "person"], labels, strict=True):
            frame = crop(touched(stage, cuts, cut).astype(np.float32), SIZE_HW).sum()
            alone = crop(touched(stage, [cut], cut).astype(np.float32), SIZE_HW).sum()
            assert label.visible_share == pytest.approx(frame / alone, abs=0.04)
            assert label.occlusion == (0 if label.visible_share >= 0.9 else 1 if label.visible_share >= 0.5 else 2)
            assert label.visible_share >= 0.2
            levels.add(label.occlusion)
    assert len(levels) >= 2


def test_all_occlusion_levels_borders_overlaps_and_empty_pictures_occur(shots):
    for layout in LAYOUTS:
        found = persons(shots, layout)
        assert {one.occlusion for one in found} == {0, 1, 2}
        assert any(one.box[0] == 0 or one.box[2] == SIZE_HW[1] or one.box[3] == SIZE_HW[0] for one in found)
        assert any(not pair.objects for _, pair in shots[layout])
        assert any(_overlap(pair.objects) for _, pair in shots[layout])


def _overlap(objects) -> bool:
    masks = [one.silhouette for one in objects]
    return any((a & b).any() for i, a in enumerate(masks) for b in masks[i + 1 :])


def test_heights_are_those_of_the_data_sets(shots):
    for layout in LAYOUTS:
        whole = [one for one in persons(shots, layout) if one.box[1] > 0 and one.box[3] < SIZE_HW[0]]
        heights = np.array([one.box[3] - one.box[1] for one in whole]) * spec_of(layout).scale
        assert heights.min() >= 20 and heights.max() <= 240
        assert np.percentile(heights, 90) > 2 * np.percentile(heights, 10)


def test_persons_are_warm_by_night_unless_drawn_to_be_weak(shots):
    for layout in LAYOUTS:
        contrast = [one.contrast_infrared for one in persons(shots, layout, night=True) if one.weak != "infrared"]
        assert len(contrast) > 10 and np.mean(np.array(contrast) > 12) > 0.9


def test_infrared_of_a_person_is_above_the_background_not_below():
    spec = spec_of("llvip")
    for shot in [shot for shot in spec.shots("train") if shot.night][:8]:
        pair = make_pair(spec, shot)
        for one in pair.objects:
            if one.weak != "infrared" and one.occlusion == 0:
                body = pair.infrared[one.silhouette].mean()
                assert body > np.median(pair.infrared) + 10


def test_night_is_dark_in_the_visible_picture_and_evens_out_nothing_else(shots):
    for layout in LAYOUTS:
        mean = {night: np.mean([pair.visible.mean() for shot, pair in shots[layout] if shot.night == night])
                for night in (True, False)}  # fmt: skip
        assert mean[True] < 0.7 * mean[False]
        warm = {night: np.median([one.contrast_infrared for one in persons(shots, layout, night) if not one.weak])
                for night in (True, False)}  # fmt: skip
        assert warm[True] > 1.2 * warm[False]  # sun warms walls and asphalt


@pytest.mark.parametrize("half, other", [("visible", "infrared"), ("infrared", "visible")])
def test_neither_picture_shows_everybody(shots, half, other):
    """Of the persons drawn to be weak in one picture most are hardly seen there and well seen in the other."""
    for layout in LAYOUTS:
        weak = [one for one in persons(shots, layout) if one.weak == half and one.occlusion == 0]
        rest = [one for one in persons(shots, layout) if one.weak is None and one.occlusion == 0]
        assert len(weak) >= 5
        hidden = np.median([getattr(one, f"contrast_{half}") for one in weak])
        assert hidden < 0.6 * np.median([getattr(one, f"contrast_{half}") for one in rest])
        assert hidden < np.median([getattr(one, f"contrast_{other}") for one in weak])


def test_things_mistaken_in_one_picture_occur(shots):
    for layout in LAYOUTS:
        kinds = {kind for _, pair in shots[layout] for kind in pair.present}
        assert len(kinds & SEEN_ONLY) >= 3 and len(kinds & WARM_ONLY) >= 2 and kinds >= {"dog", "vent"}


def test_statues_are_as_warm_as_the_air_and_mirrored_heat_is_invisible():
    look = draw_look(np.random.default_rng(0), 33, 24)
    for build in (things.statue, things.mannequin):
        assert {part.celsius for part in build(look, 9.0)} == {9.0}
    assert all(part.infrared == 0 for part in things.mirrored_in_glass(look))
    assert [part.infrared for part in things.poster(look, 9.0)].count(1.0) == 1  # the panel, not the print
    sheet, *mirrored = things.mirrored_in_metal(look, 9.0)
    assert sheet.visible == 1 and sheet.celsius == 9.0 and all(part.visible == 0 for part in mirrored)
    assert all(part.visible == 0 for part in things.hot_pipe(np.random.default_rng(0), 9.0) if part.infrared)
    assert all(part.visible == 0 for part in things.mirrored_in_ground(person(look), 0.3))


def test_labels_are_those_of_the_layout(shots):
    labels = {layout: {one.label for _, pair in shots[layout] for one in pair.objects} for layout in LAYOUTS}
    assert labels == {"llvip": {"person"}, "kaist": {"person", "people", "cyclist", "person?"}}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pixels", [1, 5, 8])
def test_misalignment_moves_infrared_and_its_boxes_by_that_much_and_nothing_else(layout, pixels, monkeypatch):
    for key, value in sensors.SENSORS.items():
        monkeypatch.setitem(sensors.SENSORS, key, replace(value, thermal_noise=0.0, stripes=0.0))
    spec = spec_of(layout, misalignment_px=pixels)
    for shot in spec.shots("train")[:3]:
        pair, straight = make_pair(spec, shot), make_pair(spec.aligned(), shot)
        dx, dy = pair.shift_px
        assert max(abs(dx), abs(dy)) == pixels and straight.shift_px == (0, 0)
        assert np.array_equal(pair.visible, straight.visible)
        inner = slice(12, -12)  # the blur knows the border
        assert np.array_equal(np.roll(straight.infrared, (dy, dx), (0, 1))[inner, inner], pair.infrared[inner, inner])
        for one, two in zip(pair.objects, straight.objects, strict=True):
            assert one.box == two.box == two.box_infrared
            if min(one.box[:2]) > 8 and one.box[2] < SIZE_HW[1] - 8 and one.box[3] < SIZE_HW[0] - 8:
                assert one.box_infrared == tuple(edge + (dx, dy)[i % 2] for i, edge in enumerate(one.box))


def test_boxes_of_infrared_end_at_its_own_border():
    """At a border the two pictures see different parts of a person."""
    spec, other_size = spec_of("kaist", misalignment_px=8), 0
    for shot in spec.shots("train")[:16]:
        for one in make_pair(spec, shot).objects:
            if one.box_infrared is not None:
                x0, y0, x1, y1 = one.box_infrared
                assert 0 <= x0 < x1 <= SIZE_HW[1] and 0 <= y0 < y1 <= SIZE_HW[0]
                other_size += x1 - x0 != one.box[2] - one.box[0]
    assert other_size >= 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_scene_serves_two_splits_and_every_split_has_day_and_night(layout):
    spec = spec_of(layout, pairs=(40, 40))
    scenes = {split: {shot.scene for shot in spec.shots(split)} for split in SPLITS}
    assert not scenes["train"] & scenes["test"]
    streets = [set_stage(spec, shot).street for split in SPLITS for shot in spec.shots(split)]
    assert len({street.camera for street in streets}) == len(scenes["train"] | scenes["test"])
    for split in SPLITS:
        assert {shot.night for shot in spec.shots(split)} == {True, False}
    assert all(int(shot.name[3:5]) >= 6 for shot in spec_of("kaist").shots("test"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_more_pairs_keep_those_that_were_there_and_seeds_differ(layout):
    few, many = spec_of(layout, pairs=(3, 2)), spec_of(layout, pairs=(30, 9))
    names = [{shot.name for shot in spec.shots()} for spec in (few, many)]
    assert names[0] < names[1] and len(names[1]) == 39
    shot = few.shots("train")[0]
    assert np.array_equal(make_pair(few, shot).visible, make_pair(many, shot).visible)
    assert not np.array_equal(make_pair(few, shot).visible, make_pair(replace(few, seed=1), shot).visible)


def test_the_size_changes_pixels_not_content():
    small, large = spec_of("kaist"), spec_of("kaist", size_hw=(160, 200))
    compared = 0
    for shot in small.shots("train")[:5]:
        ours, theirs = make_pair(small, shot).objects, make_pair(large, shot).objects
        if len(ours) == len(theirs):
            for one, two in zip(ours, theirs, strict=True):
                assert np.abs(2 * np.array(one.box) - two.box).max() <= 4 * SUPERSAMPLE / 2
                compared += 1
    assert compared >= 4


def test_the_camera_finds_its_ground_points_again():
    camera = Camera(4.5, 0.35, 0.3, 150.0, SIZE_HW)
    for column, along in ((10.0, 6.0), (60.0, 12.0), (110.0, 30.0)):
        x, z = camera.ground(column, along)
        assert camera.project(x, 0, z)[0] == pytest.approx(column)
    foot = camera.project(*np.insert(camera.ground(60.0, camera.along_for(1.7, 30.0)), 1, 0.0))
    head = camera.project(*np.insert(camera.ground(60.0, camera.along_for(1.7, 30.0)), 1, 1.7))
    assert foot[1] - head[1] == pytest.approx(30, rel=0.12)
    ray = camera.rays(np.array(foot[0]), np.array(foot[1]))
    hit = ray * (-camera.height_m / ray[1])
    assert np.allclose((hit[0], hit[2]), camera.ground(60.0, camera.along_for(1.7, 30.0)))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"layout": "coco"}, "layout is 'coco'.*llvip, kaist"),
        ({"pairs": (0, 4)}, "pairs"),
        ({"pairs": (4,)}, "pairs"),
        ({"size_hw": (20, 160)}, "size_hw"),
        ({"seed": -1}, "seed"),
        ({"misalignment_px": 9}, "misalignment_px is 9; it must be 0 to 8"),
        ({"ir_channels": 2}, "ir_channels"),
        ({"faults": ("fire",)}, "faults.*missing_partner"),
    ],
)
def test_numbers_out_of_bounds_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        WorldSpec(**change)
