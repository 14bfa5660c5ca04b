"""The pictures of the README: drawn pairs, and test pairs with what the finished demo detects in them.

    python demo.py && python benchmarks/pictures.py --out docs

Trains nothing: the second picture reads work_dirs/demo.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llvip_macl.demo_command import CONFIGS, PACKAGE_ROOT, Finished, labelled_picture, one_of_each_scene, test_set
from llvip_macl.inference import PairInferencer
from llvip_macl.pictures import pair_picture, read_image, sheet, write_picture
from llvip_macl.world import ensure_world, read_truth
from shared.run import run_command

WORLD, DETECTIONS = "llvip_macl_world.jpg", "llvip_macl.jpg"
QUALITY = 70
SHOWN = 4  # pairs, of different streets
PAIRS = (300, 60)  # of the world
PERSONS = range(2, 6)
DAY, NIGHT = (3, 9), (2, 8)  # which of the test pairs with so many persons


def draw_world(out: Path) -> Path:
    """Two pairs by day and two by night with their boxes, some of persons that one of the cameras hardly sees."""
    root = ensure_world(PACKAGE_ROOT / "data/embedded", layout="kaist", pairs=PAIRS)
    rows = [row for row in read_truth(root) if row["split"] == "test" and _persons(row) in PERSONS]
    day, night = ([row for row in rows if row["night"] is dark] for dark in (False, True))
    chosen = [row for pair in zip(DAY, NIGHT, strict=True) for row in (day[pair[0]], night[pair[1]])]
    return write_picture(out / WORLD, sheet([_drawn_pair(root, row) for row in chosen], columns=2), QUALITY)


def _persons(row: dict[str, Any]) -> int:
    return sum(one["label"] == "person" for one in row["objects"])


def _drawn_pair(root: Path, row: dict[str, Any]) -> np.ndarray:
    place, video, frame = row["name"].split("/")
    halves = [read_image(root / "images" / place / video / half / f"{frame}.jpg") for half in ("visible", "lwir")]
    persons, others = ([one["box"] for one in row["objects"] if (one["label"] == "person") is wanted]
                       for wanted in (True, False))  # fmt: skip
    boxes = {"truth": np.array(persons, float), "ignored": np.array(others, float).reshape(-1, 4)}
    return pair_picture(*halves, np.zeros((0, 4)), np.zeros(0), caption=row["name"],
                        mark="EMBEDDED WORLD: no real data", **boxes)  # fmt: skip


def draw_detections(out: Path, work_dir: Path) -> Path:
    """The first test pair with persons of each of some streets, as the demo's detector sees it."""
    detector = PairInferencer(CONFIGS["stage2"], Finished(work_dir, {}).weights)
    dataset = test_set(detector.cfg)
    records = [dataset.get_data_info(index) for index in range(len(dataset))]
    pictures = [labelled_picture(detector, one) for one in one_of_each_scene(records, SHOWN)]
    return write_picture(out / DETECTIONS, sheet(pictures, columns=2), QUALITY)


def draw(out: Path, work_dir: Path) -> int:
    print(f"wrote {draw_world(out)}", flush=True)
    print(f"wrote {draw_detections(out, work_dir)}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/demo"), help="of the demo")
    args = parser.parse_args(argv)
    return run_command(lambda: draw(args.out, args.work_dir))


if __name__ == "__main__":
    sys.exit(main())
