"""The embedded world on disk: whole or absent, seeded, reusable, BatVision V2; and what a linear model hears in it."""

import hashlib
import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from batvision_kd.audio import read_wav
from batvision_kd.data.layout import V2_COLUMNS, read_records
from batvision_kd.depth import load_depth_m
from batvision_kd.world import WorldSpec, ensure_world, world_folder, write_world
from batvision_kd.world.ridge import Coarse, coarse, ridge_scores
from batvision_kd.world.sound import RATE
from batvision_kd.world.spec import GENERATOR_VERSION
from shared.embedded_world import is_embedded
from shared.errors import ConfigError, DataError, StorageError

SMALL = {"train": 7, "val": 2, "test": 3, "size_hw": (18, 32)}


def digest(root: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        total.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return total.hexdigest()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world") / "w", workers=0, **SMALL)


def test_same_seed_same_bytes_whatever_the_workers(world, tmp_path):
    assert digest(write_world(tmp_path / "two", workers=2, **SMALL)) == digest(world)
    assert digest(write_world(tmp_path / "other", workers=0, seed=1, **SMALL)) != digest(world)


def test_more_samples_keep_those_that_were_there(world, tmp_path):
    larger = write_world(tmp_path / "larger", workers=0, **SMALL | {"train": 9})
    for kind in ("audio/audio_0.wav", "depth/depth_0.npy"):
        assert (larger / "Building_00" / kind).read_bytes() == (world / "Building_00" / kind).read_bytes()


def test_it_is_batvision_v2(world):
    records = read_records(world, "train")
    assert len(records) == 7 and is_embedded(world)
    assert (world / "Building_00" / "train.csv").read_text().splitlines()[0] == ",".join(V2_COLUMNS)
    assert records[0].room == "Building_00/room_00" and records[0].id == "Building_00/0"
    samples, rate = read_wav(records[0].audio[0])
    assert samples.shape == (2, 20_000) and rate == 44_100
    depth, valid = load_depth_m(records[0].depth)
    assert depth.shape == (18, 32) and valid.any() and records[0].camera.read_bytes()[:2] == b"\xff\xd8"
    for split, number in (("train", 7), ("val", 2), ("test", 3)):
        assert len({record.location for record in read_records(world, split)}) == number


def test_a_complete_world_is_used_again_and_another_is_refused(world, monkeypatch):
    monkeypatch.setattr("batvision_kd.world.write._build", lambda *a: pytest.fail("it is drawn again"))
    assert write_world(world, **SMALL) == world
    with pytest.raises(DataError, match="seed: there 0, asked 5"):
        write_world(world, **SMALL, seed=5)
    mark = json.loads((world / "world.json").read_text())
    assert mark["spec"]["size_hw"] == [18, 32] and "no real data" in mark["what"]


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(DataError, match="not empty"):
        write_world(tmp_path / "mine", **SMALL)
    (tmp_path / "file").write_text("x")
    with pytest.raises((DataError, StorageError)):
        write_world(tmp_path / "file" / "below", **SMALL)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_a_writer_that_dies_leaves_nothing_and_the_next_one_succeeds(world, tmp_path, monkeypatch):
    from batvision_kd.world import write as module

    def dies(building, spec, shot):
        if shot.building == 3:
            raise KeyboardInterrupt
        module.write_wav(building / "stray.wav", np.zeros((2, 4)), RATE)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_write_shot", dies)
        write_world(tmp_path / "w", workers=0, **SMALL)
    assert not (tmp_path / "w").exists()
    (tmp_path / ".w.building").mkdir()  # as after kill -9
    (tmp_path / ".w.building" / "half").write_text("x")
    assert digest(write_world(tmp_path / "w", workers=0, **SMALL)) == digest(world)
    assert not (tmp_path / ".w.building").exists()


def _write(root):
    write_world(root, workers=0, **SMALL)


def test_two_processes_may_write_the_same_world(world, tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(tmp_path / "w",)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert digest(tmp_path / "w") == digest(world)


def test_ensure_world_names_the_folder_by_its_spec(tmp_path):
    root = ensure_world(tmp_path, workers=0, **SMALL)
    assert root == world_folder(tmp_path, WorldSpec(**SMALL)) and root.name == f"world{GENERATOR_VERSION}-0-7-2-3-18x32"
    assert ensure_world(tmp_path, workers=0, **SMALL) == root


@pytest.mark.parametrize("wrong", [{"train": 0}, {"seed": -1}, {"size_hw": (8, 8)}])
def test_impossible_worlds_are_refused(tmp_path, wrong):
    with pytest.raises(ConfigError, match="world"):
        write_world(tmp_path / "w", **SMALL | wrong)


# --- can it be heard --------------------------------------------------------------------------------------------------


def planted(count: int, seed: int, deaf: bool) -> Coarse:
    """Depths of two halves, heard by the ear of that side (or not at all)."""
    rng = np.random.default_rng(seed)
    sides = rng.uniform(0, 1, (count, 2))
    audio = rng.normal(0, 0.1, (count, 2, 4, 8)) + (0 if deaf else sides[:, :, None, None])
    depth = np.repeat(np.exp(sides), 8, axis=1)[:, None].repeat(9, axis=1)
    return Coarse(audio, depth, np.ones(depth.shape, bool))


def test_the_ridge_check_hears_what_is_planted_and_nothing_else():
    heard = ridge_scores(planted(120, 0, False), planted(40, 1, False))
    assert heard.holds and heard.asymmetry > 0.9 and heard.audio < heard.mean_map / 2
    deaf = ridge_scores(planted(120, 0, True), planted(40, 1, True))
    assert not deaf.holds and abs(deaf.asymmetry) < 0.5


def test_a_linear_model_hears_depth_in_a_small_world(tmp_path):
    root = write_world(tmp_path / "w", train=112, val=1, test=48, size_hw=(18, 32), workers=0)
    scores = ridge_scores(coarse(root, "train"), coarse(root, "test"))
    assert scores.audio < scores.mean_map and scores.audio < scores.shuffled and scores.audio < scores.swapped
    assert scores.asymmetry > 0.3
    blind = replace(scores, audio=scores.mean_map + 1)
    assert not blind.holds
