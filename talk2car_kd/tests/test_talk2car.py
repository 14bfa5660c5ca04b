"""Talk2Car: discovery, commands, boxes in the annotation frame, mirrored frames and words, whole-frame batches, faults.

A tiny root with frames stored at 160x90 is written for the tests that change it; real rows check the official schema.
"""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from shared.errors import DataError
from talk2car_kd import talk2car
from talk2car_kd.flips import flip_command
from talk2car_kd.images import IMAGENET_MEAN, IMAGENET_STD, read_rgb
from talk2car_kd.talk2car import (
    Command,
    FrameBatchSampler,
    Talk2CarDataset,
    collate_grounding,
    find_talk2car,
    load_commands,
    read_commands,
    validate_talk2car,
)
from talk2car_kd.teacher import CommandTokens

STORED_WH = (160, 90)  # a tenth of the annotation frame, on purpose
INPUT_HW = (64, 96)
BOX = [100, 400, 300, 200]
TEXTS = ["park on the left", "follow the red car", "stop right behind the bus"]  # mirrored, itself, never


def _row(split: str, frame: int, k: int) -> dict:
    return {
        "scene_token": f"scene-{split}-{frame // 2}",
        "sample_token": f"sample-{split}-{frame}",
        "translation": [1.0, 2.0, 3.0],
        "size": [2.0, 4.0, 1.5],
        "rotation": ["0.1", "0.2", "0.3", "0.9"],
        "command": TEXTS[(frame + k) % 2] if frame < 4 else TEXTS[2 * k],
        "obj_name": "vehicle.car",
        "box_token": f"box-{split}-{frame}-{k}",
        "command_token": f"token-{split}-{frame}-{k}",
        "2d_box": [BOX[0] + 10 * k, *BOX[1:]],
        "t2c_img": f"img_{split}_{frame}_{k}.png",
    }


def _rows(split: str) -> list[dict]:
    return [_row(split, frame, k) for frame in range(6) for k in range(2)]


def _frame(row: dict) -> np.ndarray:
    """A dark frame with a bright box where the annotation says, in the file's own scale."""
    pixels = np.full((STORED_WH[1], STORED_WH[0], 3), 30, np.uint8)
    x, y, w, h = (value // 10 for value in BOX)
    pixels[y : y + h, x : x + w] = (40, 40, 220)
    return pixels


def _write(path: Path, rows: object) -> None:
    path.write_text(json.dumps({"commands": rows, "scene_tokens": []} if isinstance(rows, list) else rows))


def _write_root(root: Path) -> Path:
    (root / "commands").mkdir(parents=True)
    (root / "images").mkdir()
    for split in ("train", "val", "test"):
        rows = _rows(split)
        for row in rows:
            cv2.imwrite(str(root / "images" / row["t2c_img"]), _frame(row))
            if split == "test":
                del row["2d_box"]
        _write(root / f"commands/{split}_commands.json", rows)
    return root


@pytest.fixture(scope="module")
def sound_root(tmp_path_factory) -> Path:
    return _write_root(tmp_path_factory.mktemp("talk2car") / "t2c")


@pytest.fixture
def root(sound_root, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(sound_root, tmp_path / "t2c"))


@pytest.fixture(scope="module")
def commands(sound_root) -> list[Command]:
    return load_commands(find_talk2car(sound_root), "train")


def _read(text: str) -> CommandTokens:
    words = text.split()
    return CommandTokens(torch.tensor([len(word) for word in words]), torch.full((len(words), 8), float(len(text))))


def _dataset(commands, **options) -> Talk2CarDataset:
    return Talk2CarDataset(commands, **{"input_hw": INPUT_HW, "reader": _read, **options})


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
    (root / "commands/train_commands.json").write_text(json.dumps(_rows("train")))
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
    _write(root / "tags.json", {"token-train-0-0": {"cue": "side", "same_class_distractor": True}})
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
    _write(root / "commands/train_commands.json", _rows("train")[:2])
    with pytest.raises(DataError, match="one scene"):
        load_commands(find_talk2car(root), "val")


def test_nothing_there_says_where_it_looked(tmp_path):
    with pytest.raises(DataError, match=r"no such folder"):
        find_talk2car(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"data/commands/\*_commands.json(.|\n)*expected layout"):
        find_talk2car(tmp_path)


def test_a_split_that_is_not_there(root):
    (root / "commands/test_commands.json").unlink()
    with pytest.raises(DataError, match=r"no test_commands.json \(there are: train_commands.json, val_commands.json\)"):
        load_commands(find_talk2car(root), "test")


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
        rows = _rows("train")
        change(rows)
        _write(root / "commands" / TRAIN, rows)

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
    "tags of another kind": (lambda root: _write(root / "tags.json", {"a": 1}), "tags.json", "command_token"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_found_with_place_and_remedy(root, fault):
    damage, where, what = FAULTS[fault]
    damage(root)
    problems = [problem for problem in validate_talk2car(root) if where in problem and what in problem]
    assert len(problems) == 1, validate_talk2car(root)
    assert str(root) in problems[0]
    assert ";" in problems[0]  # the remedy


def test_all_faults_at_once(root):
    chosen = ["empty command", "image cut short", "tags of another kind"]
    for name in chosen:
        FAULTS[name][0](root)
    (root / "commands/val_commands.json").write_text("{")
    problems = "\n".join(validate_talk2car(root))
    assert "val_commands.json: is not JSON" in problems
    assert all(FAULTS[name][1] in problems and FAULTS[name][2] in problems for name in chosen)


@pytest.mark.parametrize("fault", ["empty command", "duplicate token", "box outside the frame", "box missing in train"])
def test_loading_refuses_faulty_rows(root, fault):
    damage, where, what = FAULTS[fault]
    damage(root)
    with pytest.raises(DataError) as caught:
        load_commands(find_talk2car(root), "train")
    assert where in str(caught.value)
    assert what in str(caught.value)


def test_damaged_frames_are_named(root):
    _bytes(IMAGE.replace("_1.png", "_0.png"), lambda data: data[:-20])(root)
    dataset = _dataset(load_commands(find_talk2car(root), "train"))
    with pytest.raises(DataError, match=r"img_train_2_0.png: is cut short"):
        dataset[4]


# Items ----------------------------------------------------------------------------------------------------------------


def test_boxes_are_fractions_of_the_annotation_frame(commands):
    """The stored file is a tenth of the frame; the box is not scaled by it."""
    box = _dataset(commands)[0]["box_cxcywh"]
    assert torch.allclose(box, torch.tensor([250 / 1600, 500 / 900, 300 / 1600, 200 / 900]))


def _bright(image: torch.Tensor) -> torch.Tensor:
    """x1, y1, x2, y2 in 0..1 of the pixels that the test frames paint red."""
    red = image[0] * IMAGENET_STD[0] + IMAGENET_MEAN[0] > 0.5
    rows, columns = red.any(1).nonzero(), red.any(0).nonzero()
    height, width = red.shape
    ends = [columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height]
    return torch.stack(ends)


def test_flips_move_picture_box_and_words_together(commands):
    dataset = _dataset(commands, train=True, flip=1.0, colour=0)
    plain, item = _dataset(commands)[0], dataset[0]
    assert (item["flipped"], plain["flipped"]) == (True, False)
    assert (plain["command"], item["command"]) == ("park on the left", "park on the right")
    assert torch.equal(item["image"], plain["image"].flip(2))
    for shown in (plain, item):
        cx, cy, w, h = shown["box_cxcywh"]
        corners = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
        assert torch.allclose(corners, _bright(shown["image"]), atol=0.02)
    assert item["text"].states[0, 0] == len("park on the right")


def test_a_frame_is_flipped_only_with_all_its_commands(commands):
    """Frames 4 and 5 have a command with an adverb: they and their other command stay as they are."""
    dataset = _dataset(commands, train=True, flip=1.0, colour=0)
    flipped = [item["flipped"] for item in dataset.__getitems__([(0, i) for i in range(12)])]
    assert flipped == [True] * 8 + [False] * 4
    assert dataset[8]["command"] == "park on the left"


def test_flips_are_drawn_per_frame_and_epoch(commands):
    dataset = _dataset(commands, train=True, flip=0.5)
    drawn = [[dataset[epoch, i]["flipped"] for i in range(0, 8)] for epoch in range(30)]
    assert all(row[0::2] == row[1::2] for row in drawn)  # both commands of a frame
    assert 0.3 < np.mean(drawn) < 0.7
    assert len({tuple(row) for row in drawn}) > 5
    assert not any(item["flipped"] for item in _dataset(commands).__getitems__(range(12)))


def test_texts_are_all_that_can_be_asked_for(commands):
    dataset = _dataset(commands, train=True)
    asked = {dataset[epoch, i]["command"] for epoch in range(10) for i in range(12)}
    assert asked == set(dataset.texts) == {*TEXTS, flip_command(TEXTS[0])}
    assert set(_dataset(commands).texts) == set(TEXTS)


def test_batch_equals_singles_and_decodes_once(commands, monkeypatch):
    dataset = _dataset(commands, train=True)
    keys = [(3, i) for i in (1, 0, 6, 7, 10)]
    singles = [dataset[key] for key in keys]
    reads, read = [], talk2car.read_rgb
    monkeypatch.setattr(talk2car, "read_rgb", lambda path: (reads.append(path), read(path))[1])
    batch = dataset.__getitems__(keys)
    assert len(reads) == 3
    for a, b in zip(singles, batch, strict=True):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["box_cxcywh"], b["box_cxcywh"])
        assert (a["command"], a["flipped"], a["index"]) == (b["command"], b["flipped"], b["index"])


def test_colours_vary_by_epoch_and_seed_only_in_training(commands):
    train = _dataset(commands, train=True, flip=0, colour=0.5)
    assert torch.equal(train[1, 0]["image"], train[1, 0]["image"])
    shown = {train[epoch, 0]["image"].numpy().tobytes() for epoch in range(6)}
    assert len(shown) > 2
    plain = _dataset(commands)
    assert torch.equal(plain[1, 0]["image"], plain[2, 0]["image"])


def test_without_ground_truth_the_box_is_nan(sound_root):
    dataset = _dataset(load_commands(find_talk2car(sound_root), "test"), reader=None)
    assert dataset[0]["box_cxcywh"].isnan().all()
    assert "text" not in dataset[0]
    assert "text_emb" not in collate_grounding([dataset[0]])


# Batches --------------------------------------------------------------------------------------------------------------


def test_collated_batch_holds_each_frame_once(commands):
    dataset = _dataset(commands, train=True)
    items = dataset.__getitems__([(0, i) for i in (0, 8, 1, 9)])
    batch = collate_grounding(items)
    assert batch["images"].shape == (2, 3, *INPUT_HW)
    assert batch["image_index"].tolist() == [0, 1, 0, 1]
    assert batch["image_index"].dtype == torch.int64
    for item, row in zip(items, batch["image_index"], strict=True):
        assert torch.equal(batch["images"][row], item["image"])
    assert batch["boxes_cxcywh"].shape == (4, 4)
    assert batch["tokens"] == [item["command_token"] for item in items]
    assert batch["index"].tolist() == [0, 8, 1, 9]


def test_text_is_padded_and_masked(commands):
    items = _dataset(commands).__getitems__([8, 9])  # 4 and 5 words
    batch = collate_grounding(items)
    assert batch["text_emb"].shape == (2, 5, 8)
    assert batch["text_mask"].tolist() == [[True] * 4 + [False], [True] * 5]
    assert (batch["text_emb"][~batch["text_mask"]] == 0).all()
    assert torch.equal(batch["text_emb"][0, :4], items[0]["text"].states)
    assert batch["token_ids"].tolist() == [[*items[0]["text"].ids.tolist(), 0], items[1]["text"].ids.tolist()]


def test_batches_are_whole_frames(commands):
    sampler = FrameBatchSampler(commands, 2, seed=0)
    assert len(sampler) == 3
    for epoch in range(5):
        batches = sampler.batches(epoch)
        assert len(batches) == 3
        assert sorted(i for batch in batches for i in batch) == list(range(12))
        for batch in batches:
            frames = {commands[i].sample_token for i in batch}
            assert len(frames) == 2
            assert len(batch) == sum(command.sample_token in frames for command in commands)
    assert sampler.batches(0) != sampler.batches(1)
    assert sampler.batches(0) == FrameBatchSampler(commands, 2, seed=0).batches(0)


@pytest.mark.parametrize(("drop_last", "batches"), [(True, 1), (False, 2)])
def test_the_rest_is_dropped_or_kept(commands, drop_last, batches):
    sampler = FrameBatchSampler(commands, 4, seed=0, shuffle=False, drop_last=drop_last)
    assert len(sampler) == len(sampler.batches(0)) == batches
    assert sampler.batches(0)[0] == list(range(8))


def test_processes_share_whole_frames(commands):
    whole = FrameBatchSampler(commands, 3, seed=0).batches(4)
    parts = [FrameBatchSampler(commands, 3, seed=0, rank=rank, world_size=2) for rank in range(2)]
    for part in parts:
        part.set_position(4)
    for batch, *shares in zip(whole, *parts, strict=True):
        assert sorted(i for share in shares for _, i in share) == sorted(batch)
        frames = [{commands[i].sample_token for _, i in share} for share in shares]
        assert not frames[0] & frames[1]
        assert [len(f) for f in frames] == [2, 1]


def test_a_process_without_a_frame_skips_the_last_batch(commands):
    parts = [
        FrameBatchSampler(commands, 5, seed=0, rank=rank, world_size=2, shuffle=False, drop_last=False)
        for rank in range(2)
    ]
    assert [len(list(part)) for part in parts] == [2, 1]
    assert sorted(i for part in parts for batch in part for _, i in batch) == list(range(12))


def test_too_few_frames(commands):
    with pytest.raises(DataError, match=r"6 frames fill no batch of 7; lower stage2.frames_per_batch"):
        FrameBatchSampler(commands, 7, seed=0)
    with pytest.raises(ValueError, match="no frame each"):
        FrameBatchSampler(commands, 1, seed=0, world_size=2)


def test_worker_count_does_not_matter(commands):
    dataset = _dataset(commands, train=True)
    sampler = FrameBatchSampler(commands, 2, seed=0)
    sampler.set_position(1, 1)
    loaders = [DataLoader(dataset, batch_sampler=sampler, num_workers=n, collate_fn=collate_grounding) for n in (0, 2)]
    alone, two = map(list, loaders)
    assert len(alone) == len(two) == 2
    for a, b in zip(alone, two, strict=True):
        assert torch.equal(a["images"], b["images"])
        assert torch.equal(a["text_emb"], b["text_emb"]) and torch.equal(a["token_ids"], b["token_ids"])
        assert a["commands"] == b["commands"]


# Real rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_real_train_row(real_samples):
    layout = find_talk2car(real_samples / "talk2car")
    (command,) = load_commands(layout, "train")
    assert command.text == "turn left to pick up the pedestrian at the corner"
    assert command.box_xywh_px == (529, 458, 24, 41)
    item = Talk2CarDataset([command])[0]
    assert item["image"].shape == (3, 448, 800)
    assert torch.allclose(item["box_cxcywh"], torch.tensor([541 / 1600, 478.5 / 900, 24 / 1600, 41 / 900]))


@pytest.mark.real
def test_real_val_rows_have_no_images(real_samples):
    layout = find_talk2car(real_samples / "talk2car")
    with pytest.raises(DataError, match="missing 502 of 502 images"):
        load_commands(layout, "val")
    assert load_commands(layout, "val", allow_missing=True) == []
    rows = read_commands(layout, "val")
    assert len(rows) == 502
    assert len({command.sample_token for command in rows}) == 417
    assert len({command.scene_token for command in rows}) == 37
    assert [p for p in validate_talk2car(real_samples / "talk2car") if "missing 502 of 502" not in p] == []


def _overlay_root(real_samples: Path, root: Path) -> Path:
    """Train = the 38 overlay rows, val = the one train row; frames by link: real data is never copied."""
    source = real_samples / "talk2car"
    (root / "commands").mkdir()
    (root / "images").mkdir()
    for split, name in (("train", "overlay_test"), ("val", "train")):
        (root / f"commands/{split}_commands.json").symlink_to(source / f"commands/{name}_commands.json")
    for image in [*(source / "images_overlay").glob("*.jpg"), source / "images/img_train_0.jpg"]:
        (root / "images" / image.name).symlink_to(image)
    return root


def _drawn_yellow(rgb: np.ndarray) -> np.ndarray:
    """Pixels of the yellow box that is drawn on the referred object."""
    hue, saturation, value = np.moveaxis(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV).astype(int), 2, 0)
    return (abs(hue - 30) < 6) & (saturation > 180) & (value > 160)


def _share_inside(mask: np.ndarray, x: float, y: float, w: float, h: float, margin: int) -> float:
    rows = slice(max(0, round(y) - margin), round(y + h) + margin)
    return mask[rows, max(0, round(x) - margin) : round(x + w) + margin].sum() / mask.sum()


@pytest.mark.real
def test_overlay_frames_show_their_boxes_in_the_annotation_frame(real_samples, tmp_path):
    """Files of 1296x729, boxes of 1600x900: scaled by 0.81 they hold all of the drawn box, unscaled nearly none."""
    commands = load_commands(find_talk2car(_overlay_root(real_samples, tmp_path)), "train")
    assert validate_talk2car(tmp_path) == []
    assert len(commands) == 38
    scaled, unscaled = [], []
    for command in commands:
        image = read_rgb(command.image_path)
        assert image.shape == (729, 1296, 3)
        mask, box = _drawn_yellow(image), np.array(command.box_xywh_px)
        scaled.append(_share_inside(mask, *(0.81 * box), margin=4))
        unscaled.append(_share_inside(mask, *box, margin=4))
    assert min(scaled) > 0.98
    assert max(unscaled) < 0.5


@pytest.mark.real
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_overlay_items_keep_the_box_over_the_object(real_samples, tmp_path, flip):
    """The same after resizing to the model's input and normalising, mirrored or not."""
    commands = load_commands(find_talk2car(_overlay_root(real_samples, tmp_path)), "train")
    dataset = Talk2CarDataset(commands, train=True, flip=flip, colour=0)
    flipped = 0
    for index in range(0, len(commands), 5):
        item = dataset[index]
        pixels = item["image"].permute(1, 2, 0).numpy() * IMAGENET_STD + IMAGENET_MEAN
        mask = _drawn_yellow((255 * pixels).round().clip(0, 255).astype(np.uint8))
        cx, cy, w, h = item["box_cxcywh"].numpy() * [800, 448, 800, 448]
        assert _share_inside(mask, cx - w / 2, cy - h / 2, w, h, margin=3) > 0.95
        flipped += item["flipped"]
    assert (flipped > 0) == (flip > 0)
