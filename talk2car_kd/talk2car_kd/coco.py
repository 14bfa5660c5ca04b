"""Stage 1's data: COCO objects as (crop, caption) pairs, many crops from one decoded image.

A region's crop is a square of `context` times the box's longer side, moved into the image and cut off where the image
is smaller. In training the context factor, the position and a mirror flip vary; they are drawn from (seed, view, index)
alone, with view = epoch mod `views`, never from the photometric augmentation's generator. So the teacher, which sees
the clean crop, needs to embed each (index, view) only once, and its embeddings can be kept on disk.

`__getitems__` (the loader's batch call) decodes every distinct image once; `ImageGroupedBatchSampler` puts regions of
an image into the same batch, yet at least `min_images` different images into every batch.
"""

# S side of the student's crop, St of the teacher's; V views, N regions.

import math
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from shared.batches import EpochBatches, Key, as_key
from shared.errors import DataError
from shared.run import sample_rng
from talk2car_kd.augment import Augment
from talk2car_kd.captions import mentioning_once, region_caption
from talk2car_kd.coco_annotations import (
    CocoLayout,
    CocoSplit,
    Region,
    find_coco,
    load_image_captions,
    load_regions,
    validate_coco,
)
from talk2car_kd.flips import flip_command
from talk2car_kd.images import IMAGENET_MEAN, IMAGENET_STD, BatchMemory, Normaliser, read_rgb, resize

__all__ = [
    "COCORegionTextDataset",
    "CocoLayout",
    "CocoSplit",
    "ImageGroupedBatchSampler",
    "Region",
    "crop_window",
    "find_coco",
    "load_image_captions",
    "load_regions",
    "validate_coco",
]

CAPTION_SOURCES = ("template", "coco", "mixed")
# Augmentation and captions never share a generator with the geometry.
PHOTOMETRIC_STREAM = 1_000_003  # added to the seed
CAPTION_STREAM = 2  # beside the seed


def crop_window(
    box_xywh_px: Sequence[float], image_wh: tuple[int, int], context: float, shift: tuple[float, float] = (0.0, 0.0)
) -> tuple[int, int, int, int]:
    """Window x0, y0, x1, y1 (whole pixels, end exclusive) of a region's crop; it always holds the whole box.

    A square of `context` x the longer side around the box's centre, displaced by `shift` (each in -1..1, a share of the
    room between square and box), moved inside the image, and cut off where it is larger than the image.
    """
    x, y, w, h = box_xywh_px
    side = context * max(w, h)
    x0, x1 = _span(x, w, side, shift[0], image_wh[0])
    y0, y1 = _span(y, h, side, shift[1], image_wh[1])
    return x0, y0, x1, y1


def _span(low: float, length: float, side: float, shift: float, end: int) -> tuple[int, int]:
    """One axis of the window: `side` long around low .. low + length, within 0 .. end."""
    start = low + (length - side) / 2 * (1 - shift)
    start = max(0.0, min(start, end - side))
    return int(start), min(end, math.ceil(start + side))


class COCORegionTextDataset(Dataset):
    """Crops of objects with captions, for student and teacher.

    Args:
        regions: from `load_regions`.
        image_size: S, side of the student's crop.
        augment: photometric augmentation of the student's crop in training (`augment.get_augmented_transform`).
        context: crop side over the box's longer side; in training drawn from 1 to 2 context - 1.
        views: V, how many different crops a region has; epoch e shows view e mod V.
        caption_source: "template" ("a small car"), "coco" (a caption of the image that speaks of the region, see
            captions.py; the template where none does) or "mixed" (one or the other, evenly).
        image_captions: captions by image id (`load_image_captions`); needed for "coco" and "mixed".
        mean, std: of the student's input. teacher_mean, teacher_std: of the teacher's.
        teacher_image_size: St; None leaves the teacher's crop out.
        train: vary and augment; otherwise every epoch shows the same plain crop (view 0).

    Attributes: `texts`, the distinct captions an item can carry; `text_ids` (V, N) int64, the caption of each region in
    each view; `sizes`, the size words of the regions.
    """

    def __init__(
        self,
        regions: Sequence[Region],
        *,
        image_size: int = 224,
        augment: Augment | None = None,
        context: float = 1.25,
        views: int = 1,
        caption_source: str = "template",
        image_captions: Mapping[int, Sequence[str]] | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        teacher_image_size: int | None = None,
        teacher_mean: Sequence[float] | None = None,
        teacher_std: Sequence[float] | None = None,
        seed: int = 0,
        train: bool = False,
    ):
        if caption_source not in CAPTION_SOURCES:
            raise ValueError(f"caption_source {caption_source!r} is none of {', '.join(CAPTION_SOURCES)}")
        if caption_source != "template" and image_captions is None:
            raise ValueError(f"caption_source {caption_source!r} needs image_captions (coco.load_image_captions)")
        if teacher_image_size and (teacher_mean is None or teacher_std is None):
            raise ValueError("teacher_image_size needs the teacher's own teacher_mean and teacher_std")
        self.regions = list(regions)
        self.image_size, self.teacher_image_size = image_size, teacher_image_size
        self.augment, self.context, self.views = augment, context, views
        self.seed, self.train = seed, train
        self.sizes = [region.size for region in self.regions]
        self.texts, self.text_ids = _captions(self.regions, caption_source, image_captions or {}, views, seed)
        self._mirrorable = np.array([flip_command(text) == text for text in self.texts], dtype=bool)
        self._normalise = Normaliser(mean, std)
        self._normalise_teacher = Normaliser(teacher_mean, teacher_std) if teacher_image_size else None
        self._memory, self._teacher_memory = BatchMemory(), BatchMemory()

    def __len__(self) -> int:
        return len(self.regions)

    def names_of(self, keys: Sequence[int | Key]) -> str:
        """The images of some keys, for messages (`shared.loader.iterate`)."""
        return ", ".join(dict.fromkeys(str(self.regions[as_key(key)[1]].image_path) for key in keys))

    def __getitem__(self, key: int | Key) -> dict:
        """One region: see `__getitems__`."""
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[int | Key]) -> list[dict]:
        """Items of several regions, every distinct image decoded once.

        Each: image (3, S, S) float32 normalised, teacher_image (3, St, St) float32 in the teacher's normalisation (only
        with `teacher_image_size`), text_id int, text str, size str, index int, view int. DataError for an image that
        cannot be read.
        """
        keys = [as_key(key) for key in keys]
        students = self._memory.take(len(keys), 3, self.image_size, self.image_size)
        teachers = self._teacher_memory.take(len(keys), 3, *[self.teacher_image_size or 0] * 2)
        rows_of = defaultdict(list)
        for row, (_, index) in enumerate(keys):
            rows_of[self.regions[index].image_path].append(row)
        for path, rows in rows_of.items():
            image = read_rgb(path)
            for row in rows:
                self._fill(image, keys[row], students[row], teachers[row])
        return [self._item(key, *images) for key, *images in zip(keys, students, teachers, strict=True)]

    def _item(self, key: Key, student: np.ndarray, teacher: np.ndarray) -> dict:
        epoch, index = key
        view = self.view(epoch)
        text_id = int(self.text_ids[view, index])
        item = {
            "image": torch.from_numpy(student),
            "text_id": text_id,
            "text": self.texts[text_id],
            "size": self.sizes[index],
            "index": index,
            "view": view,
        }
        return {**item, "teacher_image": torch.from_numpy(teacher)} if self.teacher_image_size else item

    def view(self, epoch: int) -> int:
        """Which of the region's crops an epoch shows."""
        return epoch % self.views if self.train else 0

    def _fill(self, image: np.ndarray, key: Key, student: np.ndarray, teacher: np.ndarray) -> None:
        """Crop, resize, mirror, augment and normalise one region into its two places in the batch."""
        epoch, index = key
        window, mirror = self.geometry(index, self.view(epoch), image.shape[1::-1])
        x0, y0, x1, y1 = window
        crop = image[y0:y1, x0:x1]
        pixels = _square(crop, self.image_size, mirror)
        if self.teacher_image_size:
            same = self.teacher_image_size == self.image_size
            self._normalise_teacher(pixels if same else _square(crop, self.teacher_image_size, mirror), teacher)
        if self.train and self.augment is not None:
            pixels = self.augment(pixels, sample_rng(self.seed + PHOTOMETRIC_STREAM, epoch, index))
        self._normalise(pixels, student)

    def geometry(self, index: int, view: int, image_wh: tuple[int, int]) -> tuple[tuple[int, int, int, int], bool]:
        """The crop window of a region in a view, and whether the crop is mirrored: from (seed, view, index) alone."""
        box = self.regions[index].box_xywh_px
        if not self.train:
            return crop_window(box, image_wh, self.context), False
        rng = sample_rng(self.seed, view, index)
        context, dx, dy = rng.uniform(1, 2 * self.context - 1), *rng.uniform(-1, 1, size=2)
        mirror = bool(rng.random() < 0.5 and self._mirrorable[self.text_ids[view, index]])
        return crop_window(box, image_wh, context, (dx, dy)), mirror


class ImageGroupedBatchSampler(EpochBatches):
    """Batches whose regions share images, so that an image is decoded once for several of them.

    Shuffled, an image gives a batch at most batch_size // min_images regions, so every batch mixes at least
    `min_images` images (the very last of an epoch may fall short where one image holds much of the data set). In order
    (`shuffle=False`), regions follow each other image by image.

    Args:
        regions: of the dataset, in its order.
        batch_size: regions of a *global* batch; each process takes every world_size-th of them.
        drop_last: leave out the regions that fill no batch (otherwise a shorter batch holds them).
    """

    def __init__(
        self,
        regions: Sequence[Region],
        batch_size: int,
        *,
        min_images: int = 8,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        drop_last: bool = True,
    ):
        if not 1 <= min_images <= batch_size or batch_size < world_size:
            raise ValueError(
                f"batch_size {batch_size} is too small for min_images {min_images}, {world_size} processes"
            )
        of_image = defaultdict(list)
        for index, region in enumerate(regions):
            of_image[region.image_path].append(index)
        self._images = list(of_image.values())
        if shuffle and len(self._images) < min_images:
            raise DataError(
                f"{len(self._images)} images cannot fill a batch that mixes {min_images}; lower stage1.min_images"
            )
        if drop_last and len(regions) < batch_size:
            raise DataError(f"{len(regions)} regions fill no batch of {batch_size}; lower stage1.batch_size")
        count = len(regions) // batch_size if drop_last else -(-len(regions) // batch_size)
        super().__init__(count, rank=rank, world_size=world_size)
        self.batch_size, self.min_images, self.seed, self.shuffle = batch_size, min_images, seed, shuffle

    def batches(self, epoch: int) -> list[list[int]]:
        """The global batches of an epoch, the same for any number of processes."""
        if self.shuffle:
            return self._mixed(np.random.default_rng((self.seed, epoch)))[: len(self)]
        flat = [index for image in self._images for index in image]
        return [flat[i : i + self.batch_size] for i in range(0, len(flat), self.batch_size)][: len(self)]

    def _mixed(self, rng: np.random.Generator) -> list[list[int]]:
        """Fill batches with chunks in turn; a chunk whose image is in the batch already waits for the next batch."""
        waiting, batches = deque(self._chunks(rng)), []
        while waiting:
            batch, images, later = [], set(), []
            while waiting and len(batch) < self.batch_size:
                image, chunk = waiting.popleft()
                room = 0 if image in images else self.batch_size - len(batch)
                batch += chunk[:room]
                images.add(image)
                if chunk[room:]:
                    later.append((image, chunk[room:]))
            while later and len(batch) < self.batch_size:  # the end of an epoch, and few images are left
                image, chunk = later.pop()
                room = self.batch_size - len(batch)
                batch += chunk[:room]
                if chunk[room:]:
                    later.append((image, chunk[room:]))
            waiting.extendleft(reversed(later))
            batches.append(batch)
        return batches

    def _chunks(self, rng: np.random.Generator) -> list[tuple[int, list[int]]]:
        """(image, some of its regions) in random order; the chunks of one image lie evenly apart in the epoch."""
        most = self.batch_size // self.min_images
        placed = []
        for image, indices in enumerate(self._images):
            order = rng.permutation(indices).tolist()
            chunks = [order[i : i + most] for i in range(0, len(order), most)]
            offset = rng.random()
            placed += [((offset + k / len(chunks)) % 1, image, chunk) for k, chunk in enumerate(chunks)]
        return [(image, chunk) for _, image, chunk in sorted(placed)]


def _captions(
    regions: Sequence[Region], source: str, image_captions: Mapping[int, Sequence[str]], views: int, seed: int
) -> tuple[list[str], np.ndarray]:
    """The distinct captions in use, and the index of each region's in each view, (V, N) int64."""
    ids: dict[str, int] = {}
    table = np.empty((views, len(regions)), dtype=np.int64)
    coins, picks = np.random.default_rng((seed, CAPTION_STREAM)).random((2, views, len(regions)))
    prominent = set() if source == "template" else _largest_of_their_kind(regions)
    for index, region in enumerate(regions):
        template = region_caption(region.category, region.size)
        candidates = image_captions.get(region.image_id, ()) if index in prominent else ()
        own = mentioning_once(candidates, region.category)
        for view in range(views):
            borrow = own and (source == "coco" or coins[view, index] < 0.5)
            text = own[int(picks[view, index] * len(own))] if borrow else template
            table[view, index] = ids.setdefault(text, len(ids))
    return list(ids), table


def _largest_of_their_kind(regions: Sequence[Region]) -> set[int]:
    """Indices of the regions that are the largest of their category in their image (the first of equals)."""
    largest: dict[tuple[int, str], int] = {}
    for index, region in enumerate(regions):
        kind = (region.image_id, region.category)
        if kind not in largest or region.mask_area_px > regions[largest[kind]].mask_area_px:
            largest[kind] = index
    return set(largest.values())


def _square(crop: np.ndarray, side: int, mirror: bool) -> np.ndarray:
    pixels = resize(crop, side, side)
    return cv2.flip(pixels, 1) if mirror else pixels
