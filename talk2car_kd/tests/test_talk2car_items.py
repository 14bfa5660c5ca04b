"""Talk2Car items: boxes in the annotation frame, mirrored frames and words, whole-frame batches, real rows."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from talk2car_samples import INPUT_HW, TEXTS, dataset_of, write_talk2car_root
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


@pytest.fixture(scope="module")
def sound_root(tmp_path_factory) -> Path:
    return write_talk2car_root(tmp_path_factory.mktemp("talk2car") / "t2c")


@pytest.fixture(scope="module")
def commands(sound_root) -> list[Command]:
    return load_commands(find_talk2car(sound_root), "train")


# Items ----------------------------------------------------------------------------------------------------------------


def test_boxes_are_fractions_of_the_annotation_frame(commands):
    """The stored file is a tenth of the frame; the box is not scaled by it."""
    box = dataset_of(commands)[0]["box_cxcywh"]
    assert torch.allclose(box, torch.tensor([250 / 1600, 500 / 900, 300 / 1600, 200 / 900]))


def _bright(image: torch.Tensor) -> torch.Tensor:
    """x1, y1, x2, y2 in 0..1 of the pixels that the test frames paint red."""
    red = image[0] * IMAGENET_STD[0] + IMAGENET_MEAN[0] > 0.5
    rows, columns = red.any(1).nonzero(), red.any(0).nonzero()
    height, width = red.shape
    ends = [columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height]
    return torch.stack(ends)


def test_flips_move_picture_box_and_words_together(commands):
    dataset = dataset_of(commands, train=True, flip=1.0, colour=0)
    plain, item = dataset_of(commands)[0], dataset[0]
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
    dataset = dataset_of(commands, train=True, flip=1.0, colour=0)
    flipped = [item["flipped"] for item in dataset.__getitems__([(0, i) for i in range(12)])]
    assert flipped == [True] * 8 + [False] * 4
    assert dataset[8]["command"] == "park on the left"


def test_flips_are_drawn_per_frame_and_epoch(commands):
    dataset = dataset_of(commands, train=True, flip=0.5)
    drawn = [[dataset[epoch, i]["flipped"] for i in range(0, 8)] for epoch in range(30)]
    assert all(row[0::2] == row[1::2] for row in drawn)  # both commands of a frame
    assert 0.3 < np.mean(drawn) < 0.7
    assert len({tuple(row) for row in drawn}) > 5
    assert not any(item["flipped"] for item in dataset_of(commands).__getitems__(range(12)))


def test_texts_are_all_that_can_be_asked_for(commands):
    dataset = dataset_of(commands, train=True)
    asked = {dataset[epoch, i]["command"] for epoch in range(10) for i in range(12)}
    assert asked == set(dataset.texts) == {*TEXTS, flip_command(TEXTS[0])}
    assert set(dataset_of(commands).texts) == set(TEXTS)


def test_batch_equals_singles_and_decodes_once(commands, monkeypatch):
    dataset = dataset_of(commands, train=True)
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
    train = dataset_of(commands, train=True, flip=0, colour=0.5)
    assert torch.equal(train[1, 0]["image"], train[1, 0]["image"])
    shown = {train[epoch, 0]["image"].numpy().tobytes() for epoch in range(6)}
    assert len(shown) > 2
    plain = dataset_of(commands)
    assert torch.equal(plain[1, 0]["image"], plain[2, 0]["image"])


def test_without_ground_truth_the_box_is_nan(sound_root):
    dataset = dataset_of(load_commands(find_talk2car(sound_root), "test"), reader=None)
    assert dataset[0]["box_cxcywh"].isnan().all()
    assert "text" not in dataset[0]
    assert "text_emb" not in collate_grounding([dataset[0]])


# Batches --------------------------------------------------------------------------------------------------------------


def test_collated_batch_holds_each_frame_once(commands):
    dataset = dataset_of(commands, train=True)
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
    items = dataset_of(commands).__getitems__([8, 9])  # 4 and 5 words
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
    dataset = dataset_of(commands, train=True)
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
    assert Talk2CarDataset([command]).names_of([(3, 0)]) == command.command_token
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
