"""Tables of V1 and V2, the data set's samples, augmentation, splits, and the cache."""

import csv
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from batvision_kd.audio import write_wav
from batvision_kd.data.augment import augment_sample, flip_sample, hue_matrix, recoloured
from batvision_kd.data.cache import ArrayCache
from batvision_kd.data.dataset import EchoDepthDataset
from batvision_kd.data.layout import V2_COLUMNS, find_version, read_records
from batvision_kd.data.splits import hold_out, location_folds
from batvision_kd.spectrogram import SpectrogramSettings
from shared.errors import ConfigError, DataError
from shared.loader import iterate, make_loader

SETTINGS = SpectrogramSettings(size=(32, 48))
RATE = 44_100


def add_location(root, name, counts, seed=0):
    """A V2 location with small files; counts: samples of train, val, test."""
    rng, index = np.random.default_rng(seed), 0
    for kind in ("audio", "camera", "depth"):
        (root / name / kind).mkdir(parents=True)
    for split, count in zip(("train", "val", "test"), counts, strict=True):
        rows = []
        for _ in range(count):
            sound = rng.normal(0, 0.1, (2, 2000)) * np.exp(-np.arange(2000) / 500)
            write_wav(root / name / "audio" / f"audio_{index}.wav", sound, RATE)
            picture = Image.fromarray(rng.integers(0, 255, (18, 32, 3), np.uint8))
            picture.save(root / name / "camera" / f"camera_{index}.jpeg")
            depth = rng.integers(500, 9000, (18, 32)) * (rng.random((18, 32)) < 0.8)
            np.save(root / name / "depth" / f"depth_{index}.npy", depth.astype(np.uint16))
            files = [f"{name}/audio/", f"audio_{index}.wav", "0", f"{name}/camera/", f"camera_{index}.jpeg", "0",
                     f"{name}/depth/", f"depth_{index}.npy"]  # fmt: skip
            rows.append([index, "0", "0", "0", *files])
            index += 1
        with (root / name / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([V2_COLUMNS, *rows])


@pytest.fixture
def v2(tmp_path):
    root = tmp_path / "BatvisionV2"
    for number, (name, counts) in enumerate({"Cave": (2, 1, 1), "Attic": (3, 1, 1), "Barn": (1, 1, 2)}.items()):
        add_location(root, name, counts, seed=number)
    return root


@pytest.fixture
def v1(tmp_path):
    root = tmp_path / "V1"
    (root / "2019.08.26" / "audio").mkdir(parents=True)
    rng, rows = np.random.default_rng(0), []
    for index in range(3):
        names = [f"2019.08.26/{name}_{index}.npy" for name in ("depth", "audio/left", "audio/right")]
        np.save(root / names[0], np.where(rng.random((18, 32)) < 0.2, np.inf, rng.uniform(-200, 9000, (18, 32))))
        for ear in names[1:]:
            np.save(root / ear, np.pad(rng.normal(0, 0.1, 3400), (980, 0)))
        rows.append(names)
    for split in ("train", "val", "test"):
        with (root / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("depth path", "audio path left", "audio path right"), *rows])
    return root


def dataset(root, split="train", **changes):
    return EchoDepthDataset(root, split, settings=SETTINGS, **{"size": (18, 32), "max_depth_m": 5.0} | changes)


# --- tables -----------------------------------------------------------------------------------------------------------


def test_records_are_sorted_by_location_and_keep_the_tables_order(v2):
    assert [r.id for r in read_records(v2, "train")] == ["Attic/0", "Attic/1", "Attic/2", "Barn/0", "Cave/0", "Cave/1"]
    assert {r.room for r in read_records(v2, "val")} == {"Attic", "Barn", "Cave"}
    assert [r.id for r in read_records(v2, "test", locations=("Barn",))] == ["Barn/2", "Barn/3"]
    assert {r.location for r in read_records(v2, "all", blacklist=("Cave",))} == {"Attic", "Barn"}
    with pytest.raises(ConfigError, match=r"no location 'Barm'.*Barn"):
        read_records(v2, "train", locations=("Barm",))
    with pytest.raises(ConfigError, match="split 'dev'"):
        read_records(v2, "dev")


@pytest.mark.fault(15)
def test_stray_files_a_missing_table_and_missing_audio_do_not_stop_the_others(v2):
    (v2 / "notes.txt").write_text("x")
    (v2 / "Attic" / "thumbs.db").write_text("x")
    (v2 / ".git").mkdir()
    (v2 / "Attic" / "train.csv").unlink()
    (v2 / "Barn" / "audio").rename(v2 / "Barn" / "sound")
    with pytest.warns(UserWarning) as heard:
        records = read_records(v2, "train")
    assert {record.location for record in records} == {"Cave"}
    told = " ".join(str(one.message) for one in heard)
    assert "Attic/train.csv is missing" in told and "Barn/audio is missing" in told


def test_rooms_come_from_our_extra_table(v2):
    (v2 / "Cave" / "rooms.csv").write_text("index,room\n0,hall\n")
    assert [r.room for r in read_records(v2, "train", locations=("Cave",))] == ["Cave/hall", "Cave"]


@pytest.mark.fault(15)
def test_a_root_that_is_none_and_missing_files_are_named(v2, tmp_path):
    with pytest.raises(DataError, match="is no folder"):
        find_version(tmp_path / "nowhere")
    (tmp_path / "V9").mkdir()
    with pytest.raises(DataError, match="neither"):
        find_version(tmp_path / "V9")
    (v2 / "Attic" / "depth" / "depth_1.npy").unlink()
    with pytest.raises(DataError, match=r"1 files.*depth_1\.npy"):
        dataset(v2)


@pytest.mark.fault(15)
@pytest.mark.parametrize(("text", "message"), [
    (b"index,audio path\n0,x\n", "no column"), (b"\xff\xfe\x00", "not UTF-8"), (b"", "no column"),
    (",".join(V2_COLUMNS).encode() + b"\n0,1,2\n", "line 2"),
])  # fmt: skip
def test_broken_tables_are_refused(v2, text, message):
    (v2 / "Attic" / "train.csv").write_bytes(text)
    with pytest.raises(DataError, match=message):
        read_records(v2, "train")


@pytest.mark.fault(15)
def test_a_path_that_leaves_the_root_is_refused(v2):
    table = v2 / "Attic" / "train.csv"
    table.write_text(table.read_text().replace("Attic/audio/", "../secret/"))
    with pytest.raises(DataError, match="does not stay below"):
        read_records(v2, "train")


def test_v1_reads_without_pictures_and_says_so_when_they_are_needed(v1):
    sample = dataset(v1)[0]
    assert sample["audio"].shape == (2, 32, 48) and sample["location"] == "2019.08.26" and "rgb" not in sample
    assert sample["depth"].max() <= 5.0 and sample["depth"].isfinite().all() and sample["depth"].min() >= 0
    with pytest.raises(DataError, match=r"no camera column.*camera path"):
        dataset(v1, rgb=True)


def test_v1_with_a_camera_column_serves_pictures(v1):
    Image.new("RGB", (32, 18), (255, 0, 0)).save(v1 / "c.jpeg")
    table = v1 / "train.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0] + ",camera path"] + [line + ",c.jpeg" for line in lines[1:]]))
    assert dataset(v1, rgb=True)[0]["rgb"][:, 9, 16].tolist() == pytest.approx([1, 0, 0], abs=0.02)


# --- samples ----------------------------------------------------------------------------------------------------------


def test_a_sample_has_the_promised_shapes_types_and_units(v2):
    sample = dataset(v2, rgb=True, size=(9, 20))[0]
    assert {name: (tuple(v.shape), v.dtype) for name, v in sample.items() if isinstance(v, torch.Tensor)} == {
        "audio": ((2, 32, 48), torch.float32), "rgb": ((3, 9, 20), torch.float32),
        "depth": ((1, 9, 20), torch.float32), "valid": ((1, 9, 20), torch.bool)}  # fmt: skip
    assert (sample["id"], sample["location"], sample["room"]) == ("Attic/0", "Attic", "Attic")
    assert torch.equal(sample["depth"] > 0, sample["valid"]) and 0 <= sample["rgb"].min() <= sample["rgb"].max() <= 1
    assert sample["depth"].max() == 5.0  # clipped to the range, and still valid


@pytest.mark.fault(15)
def test_another_rate_is_refused_with_the_file(v2):
    write_wav(v2 / "Attic" / "audio" / "audio_0.wav", np.ones((2, 2000)) / 2, 16_000)
    with pytest.raises(DataError, match=r"audio_0\.wav has 16,000 Hz"):
        dataset(v2)[0]


def test_an_empty_depth_map_is_a_sample_without_valid_pixels(v2):
    np.save(v2 / "Attic" / "depth" / "depth_0.npy", np.zeros((18, 32), np.uint16))
    sample = dataset(v2)[0]
    assert not sample["valid"].any() and not sample["depth"].any()


@pytest.mark.fault(15)
def test_a_cut_picture_is_named(v2):
    path = v2 / "Attic" / "camera" / "camera_0.jpeg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"camera_0\.jpeg is no whole picture"):
        dataset(v2, rgb=True)[0]


def test_samples_make_batches(v2):
    data = dataset(v2, rgb=True, augment=True)
    batch = next(iterate(make_loader(data, [[(0, 0), (0, 4)]], workers=0)))
    assert batch["audio"].shape == (2, 2, 32, 48) and batch["room"] == ["Attic", "Cave"]


# --- augmentation -----------------------------------------------------------------------------------------------------


def test_mirroring_is_an_involution_that_moves_everything(v2):
    sample = dataset(v2, rgb=True)[0]
    flipped = flip_sample(sample, SETTINGS)
    for name in ("audio", "rgb", "depth", "valid"):
        assert not torch.equal(flipped[name], sample[name]), name
        assert torch.equal(flip_sample(flipped, SETTINGS)[name], sample[name]), name
    assert torch.equal(flipped["audio"][0], sample["audio"][1])
    assert torch.equal(flipped["depth"], sample["depth"].flip(-1)) and flipped["id"] == sample["id"]


def test_augmentation_is_joint_and_has_both_outcomes(v2):
    sample, seen = dataset(v2, rgb=True)[0], set()
    for seed in range(20):
        found = augment_sample(sample, SETTINGS, np.random.default_rng(seed))
        flipped = torch.equal(found["depth"], sample["depth"].flip(-1))
        base = flip_sample(sample, SETTINGS) if flipped else sample
        assert torch.equal(found["rgb"], base["rgb"]) and torch.equal(found["valid"], base["valid"])
        free = (found["audio"] > 0) & (found["audio"] < 1) & (base["audio"] > 0) & (base["audio"] < 1)
        shift = (found["audio"] - base["audio"])[free]  # one gain for both ears
        assert shift.std() < 1e-5 and abs(shift.mean()) <= 0.03 + 1e-5
        seen.add(flipped)
    assert seen == {True, False}


def test_random_numbers_follow_from_seed_epoch_and_index(v2):
    data, same = dataset(v2, augment=True, seed=3), dataset(v2, augment=True, seed=3)
    other = dataset(v2, augment=True, seed=4)
    keys = [(epoch, index) for epoch in range(3) for index in range(len(data))]
    first = [data[key]["audio"] for key in keys]
    backwards = [same[key]["audio"] for key in reversed(keys)]  # the order of asking changes nothing
    assert all(torch.equal(a, b) for a, b in zip(first, reversed(backwards), strict=True))
    assert not all(torch.equal(a, other[key]["audio"]) for a, key in zip(first, keys, strict=True))
    assert torch.equal(data[0]["audio"], data[(0, 0)]["audio"])
    assert any(not torch.equal(data[(0, i)]["audio"], data[(1, i)]["audio"]) for i in range(len(data)))


# --- splits -----------------------------------------------------------------------------------------------------------


def test_hold_out_has_no_location_in_two_parts(v2):
    records = read_records(v2, "all")
    train, val, test = hold_out(records, val=["Barn"], test=["Cave"])
    assert [len(part) for part in (train, val, test)] == [5, 4, 4]
    assert [{r.location for r in part} for part in (train, val, test)] == [{"Attic"}, {"Barn"}, {"Cave"}]
    narrowed = dataset(v2, "all").of_records(test)
    assert len(narrowed) == 4 and narrowed[0]["location"] == "Cave"
    for bad in ({"val": ["Barn"], "test": ["Barn"]}, {"val": ["Bern"], "test": ["Cave"]}, {"val": [], "test": ["Cave"]},
                {"val": ["Barn", "Attic"], "test": ["Cave"]}):  # fmt: skip
        with pytest.raises(ConfigError, match="hold-out"):
            hold_out(records, **bad)


def test_folds_cover_every_location_once(v2):
    records = read_records(v2, "all")
    assert sorted(location_folds(records, 3)) == [("Attic",), ("Barn",), ("Cave",)]
    assert sorted(location_folds(records, 2)) == [("Attic",), ("Barn", "Cave")]
    for k in (1, 4):
        with pytest.raises(ConfigError, match="folds"):
            location_folds(records, k)


# --- the cache --------------------------------------------------------------------------------------------------------


def test_the_cache_changes_no_number_and_is_used(v2, tmp_path, monkeypatch):
    plain = dataset(v2, rgb=True, augment=True)
    cached = dataset(v2, rgb=True, augment=True, cache_dir=tmp_path / "cache")
    for _ in range(2):
        for name, value in plain[(1, 2)].items():
            assert value == cached[(1, 2)][name] if isinstance(value, str) else torch.equal(value, cached[(1, 2)][name])
    monkeypatch.setattr(EchoDepthDataset, "read_echo", None)
    monkeypatch.setattr(EchoDepthDataset, "read_depth", None)
    assert cached[(0, 2)]["audio"].shape == (2, 32, 48)


def test_other_settings_or_a_changed_file_never_meet_an_old_entry(v2, tmp_path):
    cache = tmp_path / "cache"
    first = dataset(v2, cache_dir=cache)[0]
    raw = SpectrogramSettings(size=(32, 48), normalisation="raw")
    assert not torch.equal(EchoDepthDataset(v2, "train", settings=raw, cache_dir=cache)[0]["audio"], first["audio"])
    assert not torch.equal(dataset(v2, cache_dir=cache, max_depth_m=4.0)[0]["audio"], first["audio"])
    np.save(v2 / "Attic" / "depth" / "depth_0.npy", np.full((18, 32), 1234, np.int64))
    assert dataset(v2, cache_dir=cache)[0]["depth"].unique().tolist() == pytest.approx([1.234])


def test_a_damaged_entry_is_made_again(tmp_path):
    source = tmp_path / "a.wav"
    source.write_bytes(b"x")
    made = []

    def make():
        made.append(1)
        return np.arange(100, dtype=np.float32)

    cache = ArrayCache(tmp_path / "cache")
    for damage in (None, lambda b: b[:50], lambda b: b[:90] + b"\xff" + b[91:], lambda b: b""):
        if damage:
            entry = next((tmp_path / "cache").rglob("*.arr"))
            entry.write_bytes(damage(entry.read_bytes()))
        np.testing.assert_array_equal(cache.get("audio", 1, [source], make), np.arange(100))
    assert len(made) == 4
    cache.get("audio", 1, [source], make)
    assert len(made) == 4 and not list((tmp_path / "cache").rglob("*.tmp"))


def test_a_clean_root_warns_of_nothing(v2):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset(v2, rgb=True)[0]


# --- colours ----------------------------------------------------------------------------------------------------------


def test_colours_change_pictures_alone_and_are_seeded(v2):
    plain, coloured = (
        dataset(v2, rgb=True, augment=True, augment_colours=colours, seed=3) for colours in (False, True)
    )
    one, other = plain[2, 0], coloured[2, 0]
    for name in ("audio", "depth", "valid"):
        assert torch.equal(one[name], other[name])
    assert not torch.allclose(one["rgb"], other["rgb"], atol=0.02)
    assert torch.equal(other["rgb"], coloured[2, 0]["rgb"])
    assert not torch.allclose(other["rgb"], coloured[3, 0]["rgb"].flip(-1), atol=0.01)
    assert other["rgb"].min() >= 0 and other["rgb"].max() <= 1
    judged = dataset(v2, rgb=True, augment=False, augment_colours=True)
    assert torch.equal(judged[2, 0]["rgb"], dataset(v2, rgb=True)[0]["rgb"])
    assert set(dataset(v2, augment=True, augment_colours=True)[0]) == set(dataset(v2)[0])  # without pictures: nothing


def test_recolouring_moves_nothing():
    """Equal pixels stay equal, others stay apart; a grey picture keeps the order of its levels."""
    grey = torch.linspace(0.3, 0.6, 16).repeat(3, 4, 1)
    for seed in range(20):
        found = recoloured(grey, np.random.default_rng(seed))
        assert torch.equal(found, found[:, :1].expand_as(found))
        assert (found[:, 0].diff(dim=-1) >= 0).all() and found[:, 0, -1].max() > found[:, 0, 0].max() + 0.1


def test_a_third_of_a_turn_exchanges_the_channels_and_greys_stay():
    turned = hue_matrix(2 * np.pi / 3, 1.0)
    assert torch.allclose(turned @ torch.eye(3)[0], torch.eye(3)[1], atol=1e-6)
    for angle, saturation in ((0.4, 1.3), (-1.0, 0.0)):
        assert torch.allclose(hue_matrix(angle, saturation) @ torch.ones(3), torch.ones(3), atol=1e-6)
    assert torch.allclose(hue_matrix(0.7, 0.0) @ torch.eye(3)[0], torch.full((3,), 1 / 3), atol=1e-6)
