"""The embedded world on disk: official layouts, the same bytes from any number of processes, nothing half-written."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import pytest

from shared.errors import ConfigError, DataError, StorageError
from talk2car_kd.coco_annotations import find_coco, load_regions, validate_coco
from talk2car_kd.talk2car_annotations import find_talk2car, load_commands, validate_talk2car
from talk2car_kd.world import WorldSpec, write_world
from talk2car_kd.world import write as writing
from talk2car_kd.world.__main__ import main

SPEC = WorldSpec(seed=3, train_frames=10, val_frames=6, test_frames=4, coco_train_images=8, coco_val_images=4)
ROW_KEYS = {
    "scene_token", "sample_token", "translation", "size", "rotation", "command", "obj_name", "box_token",
    "command_token", "2d_box", "t2c_img",
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return write_world(tmp_path_factory.mktemp("world") / "w", SPEC)


def documents(root: Path, name: str) -> dict:
    return json.loads((root / name).read_text())


def commands(root: Path, split: str) -> list[dict]:
    return documents(root, f"talk2car/commands/{split}_commands.json")["commands"]


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_workers_do_not_change_a_byte(world, tmp_path):
    assert contents(write_world(tmp_path / "w", SPEC, workers=3)) == contents(world)


def test_another_seed_is_another_world(world, tmp_path):
    other = write_world(tmp_path / "w", replace(SPEC, seed=4))
    assert documents(other, "world.json")["fingerprint"] != documents(world, "world.json")["fingerprint"]
    tokens = [
        {row["command_token"] for split in ("train", "val") for row in commands(root, split)} for root in (other, world)
    ]
    assert not tokens[0] & tokens[1]


def test_more_frames_leave_the_earlier_ones_as_they_are(world, tmp_path):
    """A frame's numbers hang on its split and index alone, not on how many there are."""
    larger = write_world(tmp_path / "w", replace(SPEC, train_frames=12))
    assert commands(larger, "train")[: len(commands(world, "train"))] == commands(world, "train")


def test_rows_have_talk2cars_keys_and_types(world):
    for split in ("train", "val", "test"):
        document = documents(world, f"talk2car/commands/{split}_commands.json")
        assert set(document) == {"commands", "scene_tokens"}
        assert set(document["scene_tokens"]) == {row["scene_token"] for row in document["commands"]}
        for row in document["commands"]:
            assert set(row) == ROW_KEYS
            assert [type(v) for v in row["rotation"]] == [str] * 4
            assert sum(float(v) ** 2 for v in row["rotation"]) == pytest.approx(1.0)
            assert [type(v) for v in row["2d_box"]] == [int] * 4
            x, y, w, h = row["2d_box"]
            assert x >= 0 and y >= 0 and w >= 14 and h >= 14 and x + w <= 1600 and y + h <= 900
            assert len(row["translation"]) == len(row["size"]) == 3
            image = cv2.imread(str(world / "talk2car/images" / row["t2c_img"]))
            assert image.shape == (225, 400, 3)


def test_splits_share_no_scene_and_tokens_are_unique(world):
    rows = {split: commands(world, split) for split in ("train", "val", "test")}
    scenes = [{row["scene_token"] for row in some} for some in rows.values()]
    assert not scenes[0] & scenes[1] and not scenes[0] & scenes[2] and not scenes[1] & scenes[2]
    tokens = [row["command_token"] for some in rows.values() for row in some]
    assert len(set(tokens)) == len(tokens)
    assert set(documents(world, "talk2car/tags.json")) == set(tokens)
    frames = {row["sample_token"] for row in rows["train"]}
    assert len(rows["train"]) / len(frames) >= 2 and len(frames) > len({row["scene_token"] for row in rows["train"]})


def test_the_package_s_own_readers_accept_it(world):
    assert validate_coco(world / "coco") == []
    assert validate_talk2car(world / "talk2car") == []
    assert len(load_commands(find_talk2car(world / "talk2car"), "train")) == len(commands(world, "train"))
    assert load_regions(find_coco(world / "coco"), "val")


def test_a_complete_world_is_reused(world):
    before = {path: path.stat().st_mtime_ns for path in world.rglob("*")}
    assert write_world(world, SPEC) == world
    assert {path: path.stat().st_mtime_ns for path in world.rglob("*")} == before


def test_fingerprint_is_that_of_the_contents(world, tmp_path):
    assert documents(world, "world.json")["fingerprint"] == writing.fingerprint(world)


def _foreign(folder: Path):
    (folder / "world.json").unlink()


def _not_json(folder: Path):
    (folder / "world.json").write_text("{")


def _older(folder: Path):
    mark = json.loads((folder / "world.json").read_text())
    (folder / "world.json").write_text(json.dumps({**mark, "generator": 0}))


def _cut_short(folder: Path):
    path = folder / "talk2car/tags.json"
    path.write_bytes(path.read_bytes()[:-1])


def _image_lost(folder: Path):
    next((folder / "talk2car/images").glob("*.jpg")).unlink()


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_foreign, "holds no world.json"),
        (_not_json, "is not JSON"),
        (_older, "generator version 0"),
        (_cut_short, "tags.json is missing or not"),
        (_image_lost, "images instead of"),
    ],
)
def test_a_damaged_folder_is_named_and_left_alone(tmp_path, damage, words):
    spec = replace(SPEC, train_frames=1, val_frames=1, test_frames=1, coco_train_images=1, coco_val_images=1)
    folder = write_world(tmp_path / "w", spec)
    damage(folder)
    before = contents(folder)
    with pytest.raises(DataError, match=words):
        write_world(folder, spec)
    assert contents(folder) == before


def test_another_spec_in_the_folder_is_refused(world):
    with pytest.raises(DataError, match=r"another spec \(train_frames: there 10, asked 11\)"):
        write_world(world, replace(SPEC, train_frames=11))


@pytest.mark.fault(6)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch, workers):
    def full(folder, spec, split, index):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.talk2car_like, "write_frame", full)
    with pytest.raises(StorageError, match="No space left on device; it needs about"):
        write_world(tmp_path / "w", SPEC, workers=workers)
    assert list(tmp_path.iterdir()) == []


def test_a_drawing_process_that_dies_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(writing.talk2car_like, "write_frame", lambda *args: os._exit(9))
    with pytest.raises(RuntimeError, match="ended with code 9"):
        write_world(tmp_path / "w", SPEC, workers=2)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_is_not_taken_for_a_world_and_swept(tmp_path):
    """kill -9 in the middle: no folder at the goal; the next call clears the leftovers and writes it."""
    code = (
        "import os, sys; from pathlib import Path; from talk2car_kd.world import WorldSpec, write_world\n"
        "end = lambda done, total: os.kill(os.getpid(), 9)\n"
        "write_world(Path(sys.argv[1]), WorldSpec(train_frames=400), progress=end)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "w")], check=False)
    assert killed.returncode == -9
    left = list(tmp_path.iterdir())
    assert len(left) == 1 and left[0].name.endswith(".tmp")
    spec = replace(SPEC, train_frames=1, val_frames=1, test_frames=1, coco_train_images=1, coco_val_images=1)
    write_world(tmp_path / "w", spec)
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_progress_reaches_the_end(tmp_path):
    seen = []
    spec = replace(SPEC, train_frames=2, val_frames=1, test_frames=1, coco_train_images=2, coco_val_images=1)
    write_world(tmp_path / "w", spec, progress=lambda done, total: seen.append((done, total)), workers=2)
    assert seen[-1] == (7, 7)


def test_bad_specs_are_refused():
    with pytest.raises(ConfigError, match="train_frames is 0"):
        WorldSpec(train_frames=0)
    with pytest.raises(ConfigError, match="seed is -1"):
        WorldSpec(seed=-1)


def test_command_line(world, tmp_path, capsys):
    sizes = [
        "--train-frames",
        "1",
        "--val-frames",
        "1",
        "--test-frames",
        "1",
        "--coco-train-images",
        "1",
        "--coco-val-images",
        "1",
    ]
    assert main(["--out", str(tmp_path / "w"), *sizes]) == 0
    assert (tmp_path / "w/world.json").is_file()
    assert main(["--out", str(tmp_path / "w"), *sizes, "--seed", "9"]) == 2
    assert "error:" in capsys.readouterr().err
    assert main(["--stats", str(world)]) == 0
    printed = capsys.readouterr().out
    assert "cue, %" in printed and "small/medium/large" in printed
    assert main(["--stats", str(tmp_path)]) == 2
    with pytest.raises(SystemExit):
        main([])
