"""Stage 2's data: (frame, command, box), several commands sharing a frame.

The image files may have any size; boxes are divided by the annotation frame (1600x900), never by the file. A frame is
known by its sample_token and is decoded, resized and normalised once a batch however many commands it has; the collated
batch holds it once, with `image_index` saying which command belongs to which frame.

A mirrored frame mirrors the language of all its commands, so a frame is flipped only when every command the data set
has about it can be (flips.py). Flip and colours are drawn from (seed, epoch, first command of the frame): the same for
all its commands, whatever batch, worker or process they fall into.
"""

# B commands, F distinct frames, H, W input size, L text tokens, C text width.

from collections import defaultdict
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from shared.batches import EpochBatches, Key, as_key
from shared.errors import DataError
from shared.run import sample_rng
from talk2car_kd.augment import get_augmented_transform
from talk2car_kd.boxes import to_unit_cxcywh
from talk2car_kd.flips import flip_command
from talk2car_kd.images import IMAGENET_MEAN, IMAGENET_STD, Normaliser, read_rgb, resize
from talk2car_kd.talk2car_annotations import (
    Command,
    Talk2CarLayout,
    find_talk2car,
    load_commands,
    read_commands,
    validate_talk2car,
)
from talk2car_kd.teacher import CommandTokens

__all__ = [
    "Command",
    "FrameBatchSampler",
    "Talk2CarDataset",
    "Talk2CarLayout",
    "collate_grounding",
    "find_talk2car",
    "load_commands",
    "padded",
    "read_commands",
    "validate_talk2car",
]


class Talk2CarDataset(Dataset):
    """Commands with their frames.

    Args:
        commands: from `load_commands`.
        input_hw: H, W of the model's input. frame_wh: the annotation frame, width and height.
        reader: gives the tokens of a command (a teacher.CommandReader; `texts` lists every command it will be asked
            for). None leaves them out of the items.
        train: flip frames with probability `flip` and vary colours by `colour` (0..1).
        mean, std: of the model's input.

    `texts`: the distinct commands an item can carry, mirrored ones included.
    """

    def __init__(
        self,
        commands: Sequence[Command],
        *,
        input_hw: tuple[int, int] = (448, 800),
        frame_wh: tuple[int, int] = (1600, 900),
        reader: Callable[[str], CommandTokens] | None = None,
        train: bool = False,
        flip: float = 0.5,
        colour: float = 0.2,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        seed: int = 0,
    ):
        self.commands = list(commands)
        self.input_hw, self.frame_wh, self.reader = tuple(input_hw), tuple(frame_wh), reader
        self.train, self.flip, self.seed = train, flip, seed
        self._colours = get_augmented_transform(max(input_hw), strength=0, colour=colour) if train and colour else None
        self._normalise = Normaliser(mean, std)
        self._members = frames_of(self.commands)
        self._mirrored = [flip_command(command.text) for command in self.commands] if train and flip else []
        self.texts = list(dict.fromkeys([*(c.text for c in self.commands), *filter(None, self._mirrored)]))

    def __len__(self) -> int:
        return len(self.commands)

    def names_of(self, keys: Sequence[int | Key]) -> str:
        """The commands of some keys, for messages (`shared.loader.iterate`)."""
        return ", ".join(self.commands[as_key(key)[1]].command_token for key in keys)

    def __getitem__(self, key: int | Key) -> dict:
        """One command: see `__getitems__`."""
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[int | Key]) -> list[dict]:
        """Items of several commands; those of one frame share one image tensor.

        Each: image (3, H, W) float32 normalised, command str (mirrored if the frame is), text CommandTokens (only with
        `reader`), box_cxcywh (4,) float32 in 0..1 of the frame (nan without ground truth), command_token str, frame_key
        str, index int, flipped bool. DataError for an image that cannot be read.
        """
        shown: dict[tuple[int, str], tuple[Tensor, bool]] = {}
        items = []
        for epoch, index in map(as_key, keys):
            frame = self.commands[index].sample_token
            if (epoch, frame) not in shown:
                shown[epoch, frame] = self._frame(epoch, frame)
            items.append(self._item(index, *shown[epoch, frame]))
        return items

    def is_flipped(self, epoch: int, frame: str) -> bool:
        """Whether a frame is shown mirrored in an epoch."""
        return self.train and self._draw(epoch, frame)[0]

    def _draw(self, epoch: int, frame: str) -> tuple[bool, np.random.Generator]:
        """The frame's flip, and its generator for the colours."""
        members = self._members[frame]
        rng = sample_rng(self.seed, epoch, members[0])
        wanted = bool(rng.random() < self.flip)
        return wanted and all(self._mirrored[index] is not None for index in members), rng

    def _frame(self, epoch: int, frame: str) -> tuple[Tensor, bool]:
        pixels = resize(read_rgb(self.commands[self._members[frame][0]].image_path), *self.input_hw)
        flipped = False
        if self.train:
            flipped, rng = self._draw(epoch, frame)
            pixels = cv2.flip(pixels, 1) if flipped else pixels
            pixels = self._colours(pixels, rng) if self._colours else pixels
        image = torch.empty(3, *self.input_hw)
        self._normalise(pixels, image.numpy())
        return image, flipped

    def _item(self, index: int, image: Tensor, flipped: bool) -> dict:
        command = self.commands[index]
        text = self._mirrored[index] if flipped else command.text
        item = {
            "image": image,
            "command": text,
            "box_cxcywh": self._box(command, flipped),
            "command_token": command.command_token,
            "frame_key": command.sample_token,
            "index": index,
            "flipped": flipped,
        }
        return {**item, "text": self.reader(text)} if self.reader else item

    def _box(self, command: Command, flipped: bool) -> Tensor:
        if command.box_xywh_px is None:
            return torch.full((4,), float("nan"))
        box = to_unit_cxcywh(torch.tensor(command.box_xywh_px, dtype=torch.float64), self.frame_wh)
        if flipped:
            box[0] = 1 - box[0]
        return box.float()


class FrameBatchSampler(EpochBatches):
    """Batches of whole frames: all commands of `frames_per_batch` frames, so that a frame is encoded once.

    Args:
        commands: of the dataset, in its order.
        frames_per_batch: frames of a *global* batch; each process takes every world_size-th of them, with all their
            commands. A last batch with fewer frames than processes leaves some without a share (evaluation only).
        drop_last: leave out the frames that fill no batch.
    """

    def __init__(
        self,
        commands: Sequence[Command],
        frames_per_batch: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        drop_last: bool = True,
    ):
        if frames_per_batch < world_size:
            raise ValueError(f"frames_per_batch {frames_per_batch} gives {world_size} processes no frame each")
        members = frames_of(commands)
        if drop_last and len(members) < frames_per_batch:
            raise DataError(f"{len(members)} frames fill no batch of {frames_per_batch}; lower stage2.frames_per_batch")
        batches = len(members) // frames_per_batch if drop_last else -(-len(members) // frames_per_batch)
        super().__init__(batches, rank=rank, world_size=world_size)
        self.frames_per_batch, self.seed, self.shuffle = frames_per_batch, seed, shuffle
        self._frames = list(members.values())
        self._frame_of = [command.sample_token for command in commands]

    def batches(self, epoch: int) -> list[list[int]]:
        """The global batches of an epoch, the same for any number of processes."""
        order = np.arange(len(self._frames))
        if self.shuffle:
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self._frames))
        starts = range(0, len(self) * self.frames_per_batch, self.frames_per_batch)
        return [[i for frame in order[s : s + self.frames_per_batch] for i in self._frames[frame]] for s in starts]

    def share(self, batch: list[int]) -> list[int]:
        """Every world_size-th frame of the batch, whole."""
        ours = set(list(dict.fromkeys(self._frame_of[index] for index in batch))[self.rank :: self.world_size])
        return [index for index in batch if self._frame_of[index] in ours]

    def __len__(self) -> int:
        return self.count


def frames_of(commands: Sequence[Command]) -> dict[str, list[int]]:
    """Indices of the commands of each frame (by sample_token), in order."""
    frames = defaultdict(list)
    for index, command in enumerate(commands):
        frames[command.sample_token].append(index)
    return dict(frames)


def collate_grounding(items: Sequence[dict]) -> dict:
    """A batch whose images are the distinct frames.

    Returns images (F, 3, H, W), image_index (B,) int64 into them, boxes_cxcywh (B, 4), commands and tokens (lists of
    str), index (B,) int64, flipped (B,) bool; with a reader also what `padded` returns.
    """
    frames: dict[tuple[str, bool], int] = {}
    images, image_index = [], []
    for item in items:
        key = (item["frame_key"], item["flipped"])
        if key not in frames:
            frames[key] = len(images)
            images.append(item["image"])
        image_index.append(frames[key])
    batch = {
        "images": torch.stack(images),
        "image_index": torch.tensor(image_index),
        "boxes_cxcywh": torch.stack([item["box_cxcywh"] for item in items]),
        "commands": [item["command"] for item in items],
        "tokens": [item["command_token"] for item in items],
        "index": torch.tensor([item["index"] for item in items]),
        "flipped": torch.tensor([item["flipped"] for item in items]),
    }
    return {**batch, **padded([item["text"] for item in items])} if "text" in items[0] else batch


def padded(commands: Sequence[CommandTokens]) -> dict[str, Tensor]:
    """text_emb (B, Lmax, W) and token_ids (B, Lmax) int64, both zero behind a command's end, and text_mask (B, Lmax),
    True where a token is."""
    lengths = torch.tensor([len(command.ids) for command in commands])
    return {
        "text_emb": pad_sequence([command.states for command in commands], batch_first=True),
        "token_ids": pad_sequence([command.ids for command in commands], batch_first=True),
        "text_mask": torch.arange(int(lengths.max())) < lengths[:, None],
    }
