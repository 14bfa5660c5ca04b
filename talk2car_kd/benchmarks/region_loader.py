"""Our region loader against open-and-crop-per-annotation, on the 682 real regions, in one process.

    python benchmarks/region_loader.py

Both read the same regions in the same batches, with the same decoder (OpenCV), the same crop windows, the same resize
and the same augmentation, and both end with one float32 (3, S, S) tensor a region. The baseline is what a data set
without thought does: `__getitem__` opens the image, crops, resizes, and normalises with numpy in float32. Ours decodes
an image once for all its regions of a batch, keeps uint8 to the end and normalises through a table into memory that is
used again. "grouping alone" is ours called item by item: what is left of the ratio without the batch call.

Times are CPU seconds of this process with one thread, so other programs on the machine weigh less; rounds alternate and
the ratio is the median over rounds. Targets: 4x plain, 2.5x with the training augmentation.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from shared.batches import Key
from shared.benchmark import compared, median_ratio, parse_options, run_benchmark
from shared.errors import DataError
from shared.run import sample_rng
from talk2car_kd.augment import get_augmented_transform
from talk2car_kd.coco import (
    PHOTOMETRIC_STREAM,
    COCORegionTextDataset,
    ImageGroupedBatchSampler,
    Region,
    find_coco,
    load_regions,
)
from talk2car_kd.images import IMAGENET_MEAN, IMAGENET_STD, read_rgb, resize

ROOT = Path(__file__).resolve().parents[2]  # of the workspace
REAL_COCO = Path(os.environ.get("REAL_SAMPLES", ROOT.parent / "shared" / "real")) / "coco"
OUT = Path(__file__).parent / "results" / "region_loader.json"
TARGETS = {"plain": 4.0, "augmented": 2.5}
SEED, IMAGE_SIZE, BATCH_SIZE, MIN_IMAGES, STRENGTH = 0, 224, 256, 8, 0.5  # Stage 1 of config/default.yaml


def open_and_crop(dataset: COCORegionTextDataset, key: Key) -> torch.Tensor:
    """The baseline's item: the same crop as `dataset[key]["image"]`, from a freshly opened image."""
    epoch, index = key
    image = read_rgb(dataset.regions[index].image_path)
    (x0, y0, x1, y1), mirror = dataset.geometry(index, dataset.view(epoch), image.shape[1::-1])
    crop = resize(image[y0:y1, x0:x1], dataset.image_size, dataset.image_size)
    crop = cv2.flip(crop, 1) if mirror else crop
    if dataset.augment is not None:
        crop = dataset.augment(crop, sample_rng(dataset.seed + PHOTOMETRIC_STREAM, epoch, index))
    values = (crop.astype(np.float32) / 255 - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))


def measure(regions: Sequence[Region], augment, rounds: int) -> dict:
    """CPU milliseconds a region of each way, and the median ratios."""
    dataset = COCORegionTextDataset(regions, image_size=IMAGE_SIZE, augment=augment, seed=SEED, train=True)
    sampler = ImageGroupedBatchSampler(regions, BATCH_SIZE, min_images=MIN_IMAGES, seed=SEED, drop_last=False)
    batches = [[(0, index) for index in batch] for batch in sampler.batches(0)]
    check_same(dataset, batches[0])
    ways: dict[str, Callable[[list[Key]], object]] = {
        "ours": dataset.__getitems__,
        "item by item": lambda keys: [dataset[key] for key in keys],
        "baseline": lambda keys: [open_and_crop(dataset, key) for key in keys],
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):  # the first warms up
        for name, way in ways.items():
            started = time.process_time()
            for keys in batches:
                way(keys)
            times[name].append(1000 * (time.process_time() - started) / len(regions))
    times = {name: values[1:] for name, values in times.items()}
    return {
        "ms_per_region": {name: round(statistics.median(values), 3) for name, values in times.items()},
        "ratio": median_ratio(times["baseline"], times["ours"]),
        "ratio_grouping_alone": median_ratio(times["item by item"], times["ours"]),
        "images_decoded": sum(len({regions[index].image_path for _, index in keys}) for keys in batches),
    }


def check_same(dataset: COCORegionTextDataset, keys: Sequence[Key]) -> None:
    """Both ways give the same pixels, or there is nothing to compare."""
    for item, key in zip(dataset.__getitems__(keys), keys, strict=True):
        torch.testing.assert_close(item["image"], open_and_crop(dataset, key), rtol=0, atol=1e-5)


def benchmark(args: argparse.Namespace) -> dict[str, object]:
    rounds, every = (1, 10) if args.quick else (args.rounds, 1)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    layout = find_coco(args.coco)
    regions = (
        load_regions(layout, "train")
        if layout.official
        else [*load_regions(layout, "train"), *load_regions(layout, "val")]
    )
    regions = regions[::every]
    if not regions:
        raise DataError(f"{args.coco}: no region to read; give another root with --coco")
    result = {
        "regions": len(regions),
        "images": len({region.image_path for region in regions}),
        "settings": {"image_size": IMAGE_SIZE, "batch_size": BATCH_SIZE, "min_images": MIN_IMAGES, "rounds": rounds},
        "plain": measure(regions, None, rounds),
        "augmented": measure(regions, get_augmented_transform(IMAGE_SIZE, STRENGTH), rounds),
        "targets": TARGETS,
    }
    result["ratios"] = [
        compared(f"a region, {name}: loaded by batch against open and crop", result[name]["ms_per_region"]["baseline"],
                 result[name]["ms_per_region"]["ours"], "CPU ms", result[name]["ratio"], at_least=target)
        for name, target in TARGETS.items()
    ]  # fmt: skip
    show(result)
    return result


def show(result: dict) -> None:
    print(f"{result['regions']} regions of {result['images']} images, {IMAGE_SIZE} px, batches of {BATCH_SIZE}")
    for name, target in TARGETS.items():
        found = result[name]
        times = ", ".join(f"{way} {ms:.2f} ms" for way, ms in found["ms_per_region"].items())
        verdict = "reached" if found["ratio"] >= target else "MISSED"
        print(f"{name:9s}  {found['ratio']:.2f}x (target {target}x: {verdict})")
        print(f"           grouping alone {found['ratio_grouping_alone']:.2f}x; {found['images_decoded']} decodes")
        print(f"           a region: {times}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco", type=Path, default=REAL_COCO, help="COCO root (default: the real sample)")
    parser.add_argument("--rounds", type=int, default=5)
    args = parse_options(parser, argv, quick="a tenth of the regions, one round: it runs, measures nothing")
    return run_benchmark(benchmark, args, OUT)


if __name__ == "__main__":
    sys.exit(main())
