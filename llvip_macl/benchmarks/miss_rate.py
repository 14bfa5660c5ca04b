"""Our miss rates against pycocotools' bbox evaluation of the same detections, both as cold processes.

    python benchmarks/miss_rate.py

Ours is the whole command: start Python, read KAIST's annotations and a result txt, print all nine `matlab` values and
the three `mlpd_script` values. The baseline is the least that pycocotools can be asked for: start Python, load the same
annotations and the same detections from JSON files made ready for it, evaluate and accumulate. Rounds alternate; times
are CPU seconds of the processes (user + system), wall seconds stand beside them; the ratio is the median over rounds.
`evaluate_only` is stricter: pycocotools' evaluate and accumulate alone, inside its process, against our whole one.
Reads $REAL_SAMPLES/kaist_eval (default: beside the workspace); without it, a drawn set of the same size. Target: 1x.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from shared.benchmark import compared, judged, median_ratio, parse_options, run_benchmark

ROOT = Path(__file__).resolve().parents[2]  # of the workspace
REAL = Path(os.environ.get("REAL_SAMPLES", ROOT.parent / "shared" / "real")) / "kaist_eval"
OUT = Path(__file__).parent / "results" / "miss_rate.json"
TARGET = 1.0
FILES = ("MBNet_result.txt", "MLPD_result.txt", "IATDNN-IAMSS_result.txt")
IMAGES = 2252
BASELINE = """
import sys, time
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
truth = COCO(sys.argv[1])
judge = COCOeval(truth, truth.loadRes(sys.argv[2]), "bbox")
judge.params.maxDets = [1, 10, 100]
started = time.process_time()
judge.evaluate()
judge.accumulate()
print("evaluate_only_s", time.process_time() - started)
judge.summarize()
"""


def draw(folder: Path, seed: int = 0) -> tuple[Path, list[Path]]:
    """Annotations and one result of about KAIST's size, for machines without the real files."""
    rng = np.random.default_rng(seed)
    where = np.sort(rng.integers(0, IMAGES, 4254))
    boxes = np.column_stack(
        [rng.integers(10, 560, (4254, 2)) % [560, 330], rng.integers(15, 50, 4254), rng.integers(40, 160, 4254)]
    )
    names = [f"set{6 + 3 * (i > 1454):02d}/V000/I{i:05d}" for i in range(IMAGES)]
    truth = {
        "info": {"version": "drawn for a benchmark"},
        "images": [{"id": i, "im_name": name, "height": 512, "width": 640} for i, name in enumerate(names)],
        "annotations": [
            {"id": i, "image_id": int(image), "category_id": 1, "bbox": box.tolist(), "occlusion": 0, "ignore": 0}
            for i, (image, box) in enumerate(zip(where, boxes, strict=True))
        ],
        "categories": [{"id": 1, "name": "person"}],
    }
    pick = rng.integers(0, 4254, 13000)
    found = np.column_stack([where[pick] + 1, boxes[pick] + rng.integers(-12, 13, (13000, 4)), rng.random(13000)])
    (folder / "truth.json").write_text(json.dumps(truth))
    np.savetxt(folder / "drawn_result.txt", found, fmt="%d,%.3f,%.3f,%.3f,%.3f,%.6f")
    return folder / "truth.json", [folder / "drawn_result.txt"]


def for_coco(truth: Path, result: Path, folder: Path) -> tuple[Path, Path]:
    """The same annotations and detections, as the files that pycocotools wants."""
    data = json.loads(truth.read_text())
    for number, entry in enumerate(data["annotations"], start=1):
        entry |= {"id": number, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": entry["ignore"]}
    rows = np.loadtxt(result, delimiter=",")
    found = [
        {"image_id": int(row[0]) - 1, "category_id": 1, "bbox": row[1:5].tolist(), "score": row[5]} for row in rows
    ]
    paths = folder / f"{result.stem}_truth.json", folder / f"{result.stem}_found.json"
    for path, content in zip(paths, (data, found), strict=True):
        path.write_text(json.dumps(content))
    return paths


def cold(command: Sequence[str]) -> tuple[float, float, str]:
    """(CPU seconds, wall seconds, what it printed) of a fresh process with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True, env=environment)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall, done.stdout


def measure(truth: Path, result: Path, folder: Path, rounds: int) -> dict[str, object]:
    """Both ways on one result file, in turn."""
    ours = ["-m", "llvip_macl.evaluation.kaist_mr", str(truth), str(result), "--protocol", "both"]
    baseline = ["-c", BASELINE, *map(str, for_coco(truth, result, folder))]
    times: dict[str, list[float]] = {
        name: [] for name in ("ours", "ours_wall", "baseline", "baseline_wall", "evaluate_only")
    }
    for _ in range(rounds + 1):  # the first warms the file cache
        for name, command in (("ours", ours), ("baseline", baseline)):
            cpu, wall, printed = cold(command)
            times[name].append(cpu)
            times[f"{name}_wall"].append(wall)
        times["evaluate_only"].append(float(printed.split("evaluate_only_s")[1].split()[0]))
    kept = {name: values[1:] for name, values in times.items()}
    return {
        "file": result.name,
        "seconds": {name: round(statistics.median(values), 3) for name, values in kept.items()},
        "ratio": median_ratio(kept["baseline"], kept["ours"]),
        "ratio_wall": median_ratio(kept["baseline_wall"], kept["ours_wall"]),
        "ratio_evaluate_only": median_ratio(kept["evaluate_only"], kept["ours"]),
    }


def show(row: Mapping[str, object], quick: bool) -> None:
    seconds = row["seconds"]
    verdict = judged(row["ratio"] >= TARGET, quick=quick)
    print(
        f"{row['file']}: ours {seconds['ours']:.2f} s (nine + three values), pycocotools {seconds['baseline']:.2f} s, "
        f"ratio {row['ratio']:.2f}x (target {TARGET:g}x: {verdict}); wall {row['ratio_wall']:.2f}x; against its "
        f"evaluate and accumulate alone {row['ratio_evaluate_only']:.2f}x"
    )


def benchmark(arguments: argparse.Namespace) -> dict[str, object]:
    rounds = 1 if arguments.quick else arguments.rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        real = (REAL / "KAIST_annotation.json").exists() and not arguments.drawn
        truth, results = (REAL / "KAIST_annotation.json", [REAL / f for f in FILES]) if real else draw(folder)
        rows = [measure(truth, result, folder, rounds) for result in results[: 1 if arguments.quick else None]]
    for row in rows:
        show(row, arguments.quick)
    ratios = [
        compared(f"all miss rates of {row['file']}, a cold process, against pycocotools", row["seconds"]["baseline"],
                 row["seconds"]["ours"], "CPU s", row["ratio"], at_least=TARGET)
        for row in rows
    ]  # fmt: skip
    return {"data": "real" if real else "drawn", "rounds": rounds, "target": TARGET, "files": rows, "ratios": ratios}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--drawn", action="store_true", help="the drawn set, even where the real files are")
    arguments = parse_options(parser, argv, quick="one round on one file: it runs, and measures little")
    return run_benchmark(benchmark, arguments, OUT, ("numpy", "pycocotools"))


if __name__ == "__main__":
    sys.exit(main())
