"""Talk2Car roots: discovery, commands, splits, and a corpus of faults."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from talk2car_samples import (
    dataset_of,
    rows_of,
    write_rows,
    write_talk2car_root,
)

from shared.errors import DataError
from talk2car_kd.talk2car import (
    Command,
    find_talk2car,
    load_commands,
    read_commands,
    validate_talk2car,
)


@pytest.fixture(scope="module")
def sound_root(tmp_path_factory) -> Path:
    return write_talk2car_root(tmp_path_factory.mktemp("talk2car") / "t2c")


@pytest.fixture
def root(sound_root, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(sound_root, tmp_path / "t2c"))


@pytest.fixture(scope="module")
def commands(sound_root) -> list[Command]:
    return load_commands(find_talk2car(sound_root), "train")


# Discovery and commands -----------------------------------------------------------------------------------------------


def test_sound_root_has_no_faults(sound_root):
    assert validate_talk2car(sound_root) == []


def test_command_fields(commands, sound_root):
    first = commands[0]
    assert first.text == "park on the left"
    assert first.box_xywh_px == (100, 400, 300, 200)
    assert (first.class_name, first.sample_token) == ("vehicle.car", "sample-train-0")
    assert first.image_path == sound_root / "images/img_train_0_0.png"
    assert first.tags == {}
    assert len(commands) == 12


def test_test_rows_need_no_box(sound_root):
    assert {command.box_xywh_px for command in load_commands(find_talk2car(sound_root), "test")} == {None}


def test_a_bare_list_is_accepted(root, commands):
    (root / "commands/train_commands.json").write_text(json.dumps(rows_of("train")))
    assert [c.command_token for c in load_commands(find_talk2car(root), "train")] == [c.command_token for c in commands]


@pytest.mark.parametrize("where", ["data/commands", "."])
@pytest.mark.parametrize("images", ["imgs", "data/images"])
def test_layouts(root, where, images):
    (root / "data").mkdir(exist_ok=True)
    for path in (root / "commands").glob("*.json"):
        (root / where).mkdir(parents=True, exist_ok=True)
        path.rename(root / where / path.name)
    (root / "images").rename(root / images)
    layout = find_talk2car(root)
    assert layout.images == root / images
    assert len(load_commands(layout, "val")) == 12


def test_tags_come_from_the_sidecar(root):
    write_rows(root / "tags.json", {"token-train-0-0": {"cue": "side", "same_class_distractor": True}})
    first, second = load_commands(find_talk2car(root), "train")[:2]
    assert first.tags == {"cue": "side", "same_class_distractor": True}
    assert second.tags == {}


def test_without_a_val_file_whole_scenes_are_held_out(root):
    (root / "commands/val_commands.json").unlink()
    layout = find_talk2car(root)
    train, val = load_commands(layout, "train"), load_commands(layout, "val")
    assert layout.val_from_train
    assert len(train) + len(val) == 12
    assert len({c.scene_token for c in val}) == 1
    assert not {c.scene_token for c in train} & {c.scene_token for c in val}
    assert load_commands(layout, "val") == val


def test_one_scene_cannot_be_divided(root):
    (root / "commands/val_commands.json").unlink()
    write_rows(root / "commands/train_commands.json", rows_of("train")[:2])
    with pytest.raises(DataError, match="one scene"):
        load_commands(find_talk2car(root), "val")


@pytest.mark.fault(15)
def test_nothing_there_says_where_it_looked(tmp_path):
    with pytest.raises(DataError, match=r"no such folder"):
        find_talk2car(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"data/commands/\*_commands.json(.|\n)*expected layout"):
        find_talk2car(tmp_path)


@pytest.mark.fault(15)
def test_a_split_that_is_not_there(root):
    (root / "commands/test_commands.json").unlink()
    with pytest.raises(DataError, match=r"no test_commands.json \(there are: train_commands.json, val_commands.json\)"):
        load_commands(find_talk2car(root), "test")


@pytest.mark.fault(15)
def test_missing_images_are_refused_or_dropped(root):
    for k in range(2):
        (root / f"images/img_train_3_{k}.png").unlink()
    layout = find_talk2car(root)
    with pytest.raises(DataError, match=r"missing 2 of 12 images in .*img_train_3_0.png.*Talk2CarSlim"):
        load_commands(layout, "train")
    kept = load_commands(layout, "train", allow_missing=True)
    assert len(kept) == 10
    assert "sample-train-3" not in {command.sample_token for command in kept}
    assert len(read_commands(layout, "train")) == 12


@pytest.mark.fault(15)
def test_no_image_folder_at_all(root):
    shutil.rmtree(root / "images")
    layout = find_talk2car(root)
    with pytest.raises(DataError, match=r"missing 12 of 12 images .*no such folder"):
        load_commands(layout, "val")
    assert load_commands(layout, "val", allow_missing=True) == []


# The corpus of faults -------------------------------------------------------------------------------------------------

TRAIN, IMAGE = "train_commands.json", "img_train_2_1.png"


def _edit(change):
    def damage(root: Path) -> None:
        rows = rows_of("train")
        change(rows)
        write_rows(root / "commands" / TRAIN, rows)

    return damage


def _set(**values):
    return _edit(lambda rows: rows[5].update(values))


def _bytes(name: str, change):
    def damage(root: Path) -> None:
        path = next(root.rglob(name))
        path.write_bytes(change(path.read_bytes()))

    return damage


def _other_shape(root: Path) -> None:
    cv2.imwrite(str(root / "images" / IMAGE), np.zeros((90, 90, 3), np.uint8))


ROW = "command 5 (token-train-2-1)"
FAULTS = {
    "train file missing": (lambda root: (root / "commands" / TRAIN).unlink(), "t2c", "no train_commands.json"),
    "file empty": (_bytes(TRAIN, lambda data: b""), TRAIN, "is empty"),
    "file cut short": (_bytes(TRAIN, lambda data: data[:-30]), TRAIN, "is not JSON"),
    "file not UTF-8": (_bytes(TRAIN, lambda data: data.replace(b"red", b"r\xe9d")), TRAIN, "not UTF-8"),
    "file of another kind": (_bytes(TRAIN, lambda data: b'{"rows": []}'), TRAIN, "no list of commands"),
    "no command": (_edit(lambda rows: rows.clear()), TRAIN, "holds no command"),
    "empty command": (_set(command="  "), ROW, "'command' is empty"),
    "command of another kind": (_set(command=7), ROW, "7 is no text"),
    "token missing": (_edit(lambda rows: rows[5].pop("sample_token")), ROW, "'sample_token' is missing"),
    "duplicate token": (_edit(lambda rows: rows.append(rows[0])), "token-train-0-0", "more than once"),
    "box missing in train": (_edit(lambda rows: rows[5].pop("2d_box")), ROW, "only test rows may"),
    "box outside the frame": (_set(**{"2d_box": [1500, 400, 200, 100]}), ROW, "leaves the 1600x900 frame"),
    "corners for sizes": (_set(**{"2d_box": [500, 400, -100, 300]}), ROW, "not two corners"),
    "flat box": (_set(**{"2d_box": [500, 400, 0, 300]}), ROW, "has no area"),
    "box with NaN": (_set(**{"2d_box": [500, float("nan"), 10, 300]}), ROW, "finite"),
    "box of strings": (_set(**{"2d_box": ["1", "2", "3", "4"]}), ROW, "four finite numbers"),
    "image name that leaves the folder": (_set(t2c_img="../../etc/passwd"), ROW, "leaves the image folder"),
    "image missing": (lambda root: (root / "images" / IMAGE).unlink(), IMAGE, "missing 1 of 12 images"),
    "image empty": (_bytes(IMAGE, lambda data: b""), IMAGE, "is empty"),
    "image cut short": (_bytes(IMAGE, lambda data: data[:-20]), IMAGE, "cut short"),
    "image of another shape": (_other_shape, IMAGE, "another shape"),
    "scene in two splits": (_set(scene_token="scene-val-0"), "train_commands.json and val_commands.json", "1 scenes"),
    "command in two splits": (_set(command_token="token-test-0-0"), "and test_commands.json", "1 commands"),
    "tags of another kind": (lambda root: write_rows(root / "tags.json", {"a": 1}), "tags.json", "command_token"),
}


@pytest.mark.fault(15)
@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_found_with_place_and_remedy(root, fault):
    damage, where, what = FAULTS[fault]
    damage(root)
    problems = [problem for problem in validate_talk2car(root) if where in problem and what in problem]
    assert len(problems) == 1, validate_talk2car(root)
    assert str(root) in problems[0]
    assert ";" in problems[0]  # the remedy


@pytest.mark.fault(15)
def test_all_faults_at_once(root):
    chosen = ["empty command", "image cut short", "tags of another kind"]
    for name in chosen:
        FAULTS[name][0](root)
    (root / "commands/val_commands.json").write_text("{")
    problems = "\n".join(validate_talk2car(root))
    assert "val_commands.json: is not JSON" in problems
    assert all(FAULTS[name][1] in problems and FAULTS[name][2] in problems for name in chosen)


@pytest.mark.fault(15)
@pytest.mark.parametrize("fault", ["empty command", "duplicate token", "box outside the frame", "box missing in train"])
def test_loading_refuses_faulty_rows(root, fault):
    damage, where, what = FAULTS[fault]
    damage(root)
    with pytest.raises(DataError) as caught:
        load_commands(find_talk2car(root), "train")
    assert where in str(caught.value)
    assert what in str(caught.value)


@pytest.mark.fault(15)
def test_damaged_frames_are_named(root):
    _bytes(IMAGE.replace("_1.png", "_0.png"), lambda data: data[:-20])(root)
    dataset = dataset_of(load_commands(find_talk2car(root), "train"))
    with pytest.raises(DataError, match=r"img_train_2_0.png: is cut short"):
        dataset[4]
