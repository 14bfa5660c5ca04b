"""The vectorised KITTI evaluator against a loop over pairs in plain Python, on the same frames, in one run.

    python benchmarks/evaluator.py [--frames 500] [--rounds 3]

The loop is the protocol as a person would write it down: for every frame, class, difficulty, metric and threshold,
every object looks at every detection; rectangles are clipped corner by corner. It is also the oracle of the tests: both
must give the same numbers. Frames are made up: objects at random places, detections near most of them and elsewhere.

Target: at least 20 times faster on 500 frames, one thread.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pillars_rq.evaluation import kitti_ap
from pillars_rq.kitti.labels import MAX_OCCLUSION, MAX_TRUNCATION, MIN_HEIGHT_PX, Annotations
from shared.benchmark import compared, median_ratio, parse_options, run_benchmark

OUT = Path(__file__).parent / "results" / "evaluator.json"
CLASSES = ("Pedestrian", "Cyclist", "Car")
SIZES_LHW = {"Pedestrian": (0.8, 1.75, 0.65), "Cyclist": (1.76, 1.74, 0.6), "Car": (3.9, 1.55, 1.6),
             "Van": (5.0, 2.2, 1.9), "Person_sitting": (0.8, 1.25, 0.6)}  # fmt: skip
TARGET = 20.0
LEVELS = ("easy", "moderate", "hard")


# --- the loop over pairs ----------------------------------------------------------------------------------------------


def looped_ap(gts: Sequence[Annotations], dets: Sequence[Annotations], classes: Sequence[str]) -> dict:
    """What kitti_ap gives, by loops: {R11, R40} -> metric -> class -> level, without the means."""
    frames = [(_rows(g), _rows(d)) for g, d in zip(gts, dets, strict=True)]
    result: dict = {"R11": {}, "R40": {}}
    for metric in ("2d", "bev", "3d"):
        tables = [[[_iou(metric, g, d) for d in det] for g in gt] for gt, det in frames]
        for name in classes:
            for level in range(3):
                curves = _looped_curves(frames, tables, metric, name, level)
                for kind, curve in zip((metric, "aos"), curves, strict=False):
                    for recall, value in (("R11", sum(curve[::4]) / 11), ("R40", sum(curve[1:]) / 40)):
                        result[recall].setdefault(kind, {}).setdefault(name, {})[LEVELS[level]] = 100 * value
    return result


def _rows(found: Annotations) -> list[dict]:
    columns = found.as_json()
    return [{key: values[i] for key, values in columns.items()} for i in range(len(found))]


def _looped_curves(frames, tables, metric: str, name: str, level: int) -> list[list[float]]:
    least = 0.7 if name == "Car" else 0.5
    flags = [_flags(gt, det, name, level) for gt, det in frames]
    total = sum(flag == 0 for gt_flags, _ in flags for flag in gt_flags)
    scores: list[float] = []
    for (gt, det), table, (gf, df) in zip(frames, tables, flags, strict=True):
        scores += _looped_match(gt, det, table, gf, df, least, None, metric)[0]
    precision, orientation = [0.0] * 41, [0.0] * 41
    for i, threshold in enumerate(_looped_thresholds(scores, total)):
        hits = false = 0
        similarity = 0.0
        for (gt, det), table, (gf, df) in zip(frames, tables, flags, strict=True):
            matched, wrong, alike = _looped_match(gt, det, table, gf, df, least, threshold, metric)
            hits, false, similarity = hits + len(matched), false + wrong, similarity + alike
        if hits + false:
            precision[i], orientation[i] = hits / (hits + false), similarity / (hits + false)
    curves = [[max(curve[i:]) for i in range(41)] for curve in (precision, orientation)]
    return curves if metric == "2d" else curves[:1]


def _flags(gt: list[dict], det: list[dict], name: str, level: int) -> tuple[list[int], list[int]]:
    """0 counted, 1 ignored, -1 left out."""
    like = {"Car": "Van", "Pedestrian": "Person_sitting"}.get(name)
    gt_flags = []
    for row in gt:
        height = row["bbox"][3] - row["bbox"][1]
        hard = row["occluded"] > MAX_OCCLUSION[level] or row["truncated"] > MAX_TRUNCATION[level]
        hard = hard or height <= MIN_HEIGHT_PX[level]
        gt_flags.append((1 if hard else 0) if row["name"] == name else 1 if row["name"] == like else -1)
    det_flags = []
    for row in det:
        small = row["bbox"][3] - row["bbox"][1] < MIN_HEIGHT_PX[level]
        det_flags.append(1 if small else 0 if row["name"] == name else -1)
    return gt_flags, det_flags


def _looped_match(gt, det, table, gt_flags, det_flags, least, threshold, metric):
    """(scores of the hits, false positives, summed orientation similarity) of a frame; threshold None is pass 1."""
    taken = [False] * len(det)
    hits, similarity = [], 0.0
    for g in range(len(gt)):
        if gt_flags[g] == -1:
            continue
        best, best_is_ignored, best_value = -1, False, -math.inf
        for d in range(len(det)):
            if det_flags[d] == -1 or taken[d] or table[g][d] <= least:
                continue
            if threshold is None:
                if det[d]["score"] > best_value:
                    best, best_value, best_is_ignored = d, det[d]["score"], det_flags[d] == 1
            elif det[d]["score"] >= threshold:
                if det_flags[d] == 0 and (best == -1 or best_is_ignored or table[g][d] > best_value):
                    best, best_value, best_is_ignored = d, table[g][d], False
                elif det_flags[d] == 1 and best == -1:
                    best, best_is_ignored = d, True
        if best == -1:
            continue
        taken[best] = True
        if gt_flags[g] == 0 and not best_is_ignored:
            hits.append(det[best]["score"])
            similarity += (1 + math.cos(gt[g]["alpha"] - det[best]["alpha"])) / 2
    false = 0
    for d in range(len(det) if threshold is not None else 0):
        if not taken[d] and det_flags[d] == 0 and det[d]["score"] >= threshold:
            false += not (metric == "2d" and _in_stuff(gt, det[d], least))
    return hits, false, similarity


def _in_stuff(gt: list[dict], det: dict, least: float) -> bool:
    for row in gt:
        if row["name"] == "DontCare":
            area = (det["bbox"][2] - det["bbox"][0]) * (det["bbox"][3] - det["bbox"][1])
            if area and _image_intersection(row["bbox"], det["bbox"]) / area > least:
                return True
    return False


def _looped_thresholds(scores: list[float], total: int) -> list[float]:
    scores, chosen, recall = sorted(scores, reverse=True), [], 0.0
    for i, score in enumerate(scores):
        left, right = (i + 1) / total, (i + 2) / total
        if i == len(scores) - 1 or right - recall >= recall - left:
            chosen.append(score)
            recall += 1 / 40
    return chosen


def _image_intersection(a, b) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _iou(metric: str, a: dict, b: dict) -> float:
    if metric == "2d":
        shared = _image_intersection(a["bbox"], b["bbox"])
        sizes = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a["bbox"], b["bbox"])]
        return shared / (sum(sizes) - shared) if shared else 0.0
    shared = _clipped_area(_ground(a), _ground(b))
    areas = [row["dimensions"][0] * row["dimensions"][2] for row in (a, b)]
    if metric == "3d":  # y points down and is the bottom
        heights = [row["dimensions"][1] for row in (a, b)]
        tops = [row["location"][1] - height for row, height in zip((a, b), heights, strict=True)]
        shared *= max(0.0, min(a["location"][1], b["location"][1]) - max(tops))
        areas = [area * height for area, height in zip(areas, heights, strict=True)]
    return shared / (sum(areas) - shared) if shared > 0 else 0.0


def _ground(row: dict) -> list[tuple[float, float]]:
    """The four corners in the camera's x, z; rotation_y turns the length away from x towards -z."""
    (l, _, w), (x, _, z), turn = row["dimensions"], row["location"], row["rotation_y"]
    cos, sin = math.cos(turn), math.sin(turn)
    halves = ((l / 2, w / 2), (l / 2, -w / 2), (-l / 2, -w / 2), (-l / 2, w / 2))
    return [(x + dx * cos + dz * sin, z - dx * sin + dz * cos) for dx, dz in halves]


def _clipped_area(shape, window) -> float:
    """Area of a convex shape inside another, cut at one side after the other; both listed clockwise (z up)."""
    for (x1, z1), (x2, z2) in zip(window, [*window[1:], window[0]], strict=True):
        sides = [(x2 - x1) * (z - z1) - (z2 - z1) * (x - x1) for x, z in shape]
        kept = []
        for i, point in enumerate(shape):
            j = (i + 1) % len(shape)
            if sides[i] <= 0:
                kept.append(point)
            if (sides[i] < 0 < sides[j]) or (sides[j] < 0 < sides[i]):
                share = sides[i] / (sides[i] - sides[j])
                kept.append(tuple(p + share * (q - p) for p, q in zip(point, shape[j], strict=True)))
        shape = kept
    total = sum(p[0] * q[1] - q[0] * p[1] for p, q in zip(shape, [*shape[1:], *shape[:1]], strict=True))
    return abs(total) / 2


# --- made-up frames ---------------------------------------------------------------------------------------------------


def made_up(frames: int, seed: int = 0) -> tuple[list[Annotations], list[Annotations]]:
    """Labels and detections: neighbours that hide each other, Vans, DontCare regions, duplicates, false alarms."""
    rng = np.random.default_rng(seed)
    pairs = [_made_up_frame(rng) for _ in range(frames)]
    return [labels for labels, _ in pairs], [found for _, found in pairs]


def _made_up_frame(rng: np.random.Generator) -> tuple[Annotations, Annotations]:
    names = rng.choice([*SIZES_LHW, "DontCare"], rng.integers(0, 16), p=[0.25, 0.2, 0.35, 0.08, 0.04, 0.08])
    centres = np.stack([rng.uniform(-15, 15, len(names)), rng.normal(1.6, 0.1, len(names)),
                        rng.uniform(5, 60, len(names))], 1)  # fmt: skip
    labels = _described(rng, names, centres, 0.0)
    repeated = np.repeat(np.arange(len(names)), rng.choice([0, 1, 1, 1, 2], len(names)))
    called = np.where(names[repeated] == "DontCare", "Car", names[repeated])
    called = np.where(np.isin(called, CLASSES), called, "Car")
    stray = rng.integers(0, 8)
    names = np.concatenate([called, rng.choice(CLASSES, stray)]).astype(str)
    places = np.concatenate([centres[repeated], np.stack([rng.uniform(-15, 15, stray), np.full(stray, 1.6),
                                                          rng.uniform(5, 60, stray)], 1)])  # fmt: skip
    turns = np.concatenate([labels.rotation_y[repeated], rng.uniform(-3, 3, stray)])
    return labels, _described(rng, names, places, 0.07, turns)


def _described(rng, names, centres, noise: float, turns=None) -> Annotations:
    count = len(names)
    sizes = np.array([SIZES_LHW.get(name, (1.0, 1.0, 1.0)) for name in names]).reshape(-1, 3)
    sizes = sizes * (1 + rng.normal(0, 0.04, (count, 3)))
    centres = centres + rng.normal(0, noise, (count, 3)) * (1, 0.3, 1)
    turns = rng.uniform(-3, 3, count) if turns is None else turns + rng.normal(0, noise, count)
    middle, width, height = 620 + 720 * centres[:, 0] / centres[:, 2], sizes[:, 0], sizes[:, 1]
    top = 180 + 720 * (centres[:, 1] - height) / centres[:, 2]
    bottom, half = 180 + 720 * centres[:, 1] / centres[:, 2], 360 * width / centres[:, 2]
    return Annotations(
        name=names, truncated=rng.choice([0, 0, 0.2, 0.6], count), occluded=rng.choice([0, 0, 1, 2, 3], count),
        alpha=turns - np.arctan2(centres[:, 0], centres[:, 2]),
        bbox=np.stack([middle - half, top, middle + half, bottom], 1), dimensions=sizes, location=centres,
        rotation_y=turns, score=rng.uniform(0.1, 1, count).round(3),
    )  # fmt: skip


# --- command line -----------------------------------------------------------------------------------------------------


def benchmark(args: argparse.Namespace) -> dict[str, object]:
    torch.set_num_threads(1)
    gts, dets = made_up(args.frames)
    ours_s, loop_s = [], []
    for _ in range(args.rounds):
        started = time.perf_counter()
        fast = kitti_ap(gts, dets, CLASSES)
        between = time.perf_counter()
        slow = looped_ap(gts, dets, CLASSES)
        ours_s.append(between - started)
        loop_s.append(time.perf_counter() - between)
    difference = largest_difference(fast, slow)
    ratio = median_ratio(loop_s, ours_s)
    print(f"{args.frames} frames, {sum(map(len, gts)):,} labels, {sum(map(len, dets)):,} detections, one thread\n"
          f"loop over pairs {statistics.median(loop_s):.2f} s, vectorised {statistics.median(ours_s):.3f} s: "
          f"{ratio:.1f}x (target {TARGET:.0f}x); largest difference {difference:.1e} AP points")  # fmt: skip
    return {"frames": args.frames, "rounds": args.rounds, "loop_s": loop_s, "vectorised_s": ours_s,
            "ratio": ratio, "target": TARGET, "largest_difference": difference,
            "ratios": [compared(f"KITTI's AP of {args.frames} frames: vectorised against a loop over pairs",
                                statistics.median(loop_s), statistics.median(ours_s), "s", ratio,
                                at_least=TARGET)]}  # fmt: skip


def largest_difference(fast: dict, slow: dict) -> float:
    """Over all figures of the loop, in AP points."""
    return max(abs(value - fast[recall][metric][name][level]) for recall, metrics in slow.items()
               for metric, names in metrics.items() for name, levels in names.items()
               for level, value in levels.items())  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    args = parse_options(parser, argv, quick="few frames, one round: it runs, and measures nothing")
    if args.quick:
        args.frames, args.rounds = 12, 1
    return run_benchmark(benchmark, args, OUT, ("numpy",))


if __name__ == "__main__":
    sys.exit(main())
