"""What the books cost in accuracy, measured on the embedded world, paired over frames and seeds.

    python -m pillars_rq.evidence --out evidence [--seeds 3] [--books 5] [--minutes 25] [--quick]

For each seed: a base detector; books by the whole schedule, and again with det_weight 0; a dedicated model for each of
three cells (those of at most --books); all cells of the first, the one of each other. Every part is the ordinary
command line in a folder of its own, so the same command continues where the last one stopped, at most `--minutes` at a
time (exit code 143 when there is more to do). At the end `evidence.json` and `report.html`: base, every cell's loss
with its 95 % interval (frames resampled jointly over the seeds), what the detection loss is worth, nested against
dedicated, and whether a cell falls below a smaller one.
"""

# F frames, S seeds, R resamples

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared import benchmark
from shared.errors import UserError
from shared.pieces import hold_to, make_folders, recorded, time_limit
from shared.report import Report
from shared.run import run_command
from shared.storage import sha256_of, write_atomic

from . import base_training, rq_command
from .base_config import PACKAGE_ROOT
from .cells import Cell, read_cell, rows_of
from .embedded import MARK
from .evaluate import moderate_map
from .evaluation.kitti_ap import Protocol
from .kitti import prepare as preparation
from .kitti.dataset import KittiDataset
from .kitti.layout import CLASSES, KittiRoot
from .world import __main__ as world_command

CHECKPOINT = "checkpoints/final.pth"
MORE = 143  # exit code when time ran out: the same command continues


@dataclass(frozen=True)
class Plan:
    """Size of the study. cells: (n, k) that get a dedicated model; the first is the one whose detection loss is
    switched off."""

    out: Path
    seeds: int
    train_frames: int
    val_frames: int
    resamples: int
    schedule: tuple[int, ...]
    books: int
    dedicated: tuple[tuple[int, int], ...]
    base: tuple[str, ...]  # settings of train_pointpillars.py
    rq: tuple[str, ...]  # settings of train_eval_rq.py


def whole_plan(out: Path, seeds: int, books: int = 5) -> Plan:
    dedicated = tuple((n, k) for n, k in ((1, 256), (2, 64), (5, 16)) if n <= books)
    return Plan(out, seeds, 250, 200, 200, (16, 32, 64, 128, 256), books, dedicated, (), ())


def quick_plan(out: Path) -> Plan:
    """Minutes become seconds, and the numbers mean nothing: for tests of the command."""
    tiny = ("model.widths={pillar: 8, blocks: [8, 8, 8], layers: [0, 0, 0], neck: 8}", "training.epochs=1",
            "training.workers=0", "training.device=cpu", "data.val_split=null")  # fmt: skip
    rq = ("progressive_learning.embedding_stage_epochs=1", "progressive_learning.warmup_epochs=0",
          "rq_model.latent_shape=null", "rq_model.code_shape=null", "training.num_workers=0",
          "training.pool_frames=2")  # fmt: skip
    return Plan(out, 1, 4, 3, 20, (2, 4), 2, ((1, 4),), tiny, rq)


@dataclass(frozen=True)
class Job:
    """One command line of the package, in this process."""

    name: str
    main: Callable[[list[str]], int]
    argv: tuple[str, ...]


def jobs_of(plan: Plan) -> list[Job]:
    """Every command, in order."""
    world = plan.out / "world"
    size = ("--train-frames", str(plan.train_frames), "--val-frames", str(plan.val_frames), "--test-frames", "0")
    jobs = [Job("world", world_command.main, (str(world), *size)),
            Job("prepare", preparation.main, ("--data_root", str(world)))]  # fmt: skip
    for seed in range(plan.seeds):
        base = ("--config", str(PACKAGE_ROOT / "exp/base_embedded.yaml"), "--run", f"seed-{seed}",
                *_sets(f"data.dir={world}", f"data.results_dir={plan.out / 'base'}", f"training.seed={seed}",
                       *plan.base))  # fmt: skip
        jobs.append(Job(f"base-{seed}", base_training.main, base))
        jobs += [job for name, settings, cells in models_of(plan) for job in _model(plan, seed, name, settings, cells)]
    return jobs


def models_of(plan: Plan) -> list[tuple[str, tuple[str, ...], list[tuple[int, int]] | None]]:
    """(name, settings, cells to measure; None: all) of the models of one seed."""
    whole = (f"model.n_codebook={plan.books}", f"progressive_learning.embedding_schedule={list(plan.schedule)}")
    first = plan.dedicated[0]
    without = (f"model.n_codebook={first[0]}", whole[1], "loss_weights.det_weight=0")
    dedicated = [(f"dedicated-{n}x{k}", (f"model.n_codebook={n}", f"progressive_learning.embedding_schedule=[{k}]"),
                  [(n, k)]) for n, k in plan.dedicated]  # fmt: skip
    return [("nested", whole, None), ("no-det", without, [first]), *dedicated]


def _model(plan: Plan, seed: int, name: str, settings: Sequence[str], cells: Sequence | None) -> list[Job]:
    """Training of one model, and its cells."""
    saved = plan.out / f"{name}-{seed}"
    common = ("--config", str(PACKAGE_ROOT / "exp/embedded.yaml"), "--no_wandb",
              *_sets(f"dataset.dir={plan.out / 'world'}", "dataset.val_frames=null", f"training.seed={seed}",
                     f"model.pretrained_weight={plan.out / 'base' / f'seed-{seed}' / base_training.WEIGHTS}",
                     f"logging.saved_path={saved}", *plan.rq, *settings))  # fmt: skip
    chosen = "null" if cells is None else json.dumps(cells)
    grid = (*common, "--mode", "grid", "--rq_ckpt", str(saved / CHECKPOINT),
            *_sets(f"evaluation.grid_cells={chosen}",
                   f"evaluation.baseline_frames={'null' if cells is None and seed == 0 else 0}"))  # fmt: skip
    return [Job(f"{name}-{seed}", rq_command.main, common), Job(f"{name}-{seed}-grid", rq_command.main, grid)]


def _sets(*settings: str) -> tuple[str, ...]:
    return tuple(part for setting in settings for part in ("--set", setting))


# --- running ----------------------------------------------------------------------------------------------------------


def run_jobs(plan: Plan, jobs: Sequence[Job], deadline: float) -> bool:
    """Run what is not done yet, until the deadline (time.monotonic); whether everything is done.

    Raises:
        UserError: a job failed, or was done with other arguments (another number of books in the same folder).
    """
    make_folders(plan.out, "done")
    for number, job in enumerate(jobs, 1):
        record, made = plan.out / "done" / f"{job.name}.json", {"arguments": list(job.argv)}
        if record.exists():
            hold_to(record, job.name, made)
            continue
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        print(f"evidence: {number} of {len(jobs)}, {job.name}", flush=True)
        code = _within(left, job)
        if code == MORE:
            return False
        if code:
            raise UserError(f"evidence: {job.name} ended with exit code {code}; its own message stands above")
        hold_to(record, job.name, made)
    return True


def _within(seconds: float, job: Job) -> int:
    """The job's exit code; when the time is over it gets SIGTERM, which makes it save and end with 143."""
    earlier = signal.signal(signal.SIGTERM, lambda number, frame: None)  # should it ring between two commands
    try:
        with time_limit(seconds / 60):
            return job.main(list(job.argv))
    finally:
        signal.signal(signal.SIGTERM, earlier)


# --- results ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Scores:
    """mAP 3D moderate R40 of one sender: point (S,), and resampled (S,R) with the same frames drawn for all."""

    point: np.ndarray
    resampled: np.ndarray

    def minus(self, other: "Scores") -> dict[str, Any]:
        """The paired difference: mean, 95 % interval, per seed."""
        low, high = np.quantile((self.resampled - other.resampled).mean(0), (0.025, 0.975))
        return {"mean": float((self.point - other.point).mean()), "low": float(low), "high": float(high),
                "per_seed": (self.point - other.point).tolist()}  # fmt: skip


def scores_of(plan: Plan, name: str, cell: str) -> Scores:
    """Of one cell of one model over all seeds; resampled values are kept in a file each."""
    parts = [_resampled(plan, f"{name}-{seed}-grid", cell) for seed in range(plan.seeds)]
    return Scores(np.array([part["point"] for part in parts]), np.array([part["resampled"] for part in parts]))


def _resampled(plan: Plan, folder: str, name: str) -> dict[str, Any]:
    """From its file, unless the cell has been measured again since."""
    source, path = plan.out / folder / "cells" / f"{name}.json", plan.out / "resampled" / f"{folder}-{name}.json"
    cell = read_cell(source)
    if cell is None:
        raise UserError(f"{source} is missing: remove {plan.out / 'done' / folder}.json and run the same command again")
    measured, kept = sha256_of(source), recorded(path)
    if kept is None or kept.get("cell") != measured:
        kept = {"cell": measured, **_resample(plan, cell)}
        make_folders(plan.out, path.parent.name)
        write_atomic(path, json.dumps(kept) + "\n")
    return kept


def _resample(plan: Plan, cell: Cell) -> dict[str, Any]:
    val = KittiDataset(KittiRoot(plan.out / "world"), "val", CLASSES, train=True)
    protocol = Protocol(val.annotations(), rows_of(cell, val, CLASSES), CLASSES, metrics=("3d",),
                        difficulties=("moderate",))  # fmt: skip
    frames = len(val)
    draws = np.random.default_rng(0).integers(frames, size=(plan.resamples, frames))
    weights = [np.bincount(draw, minlength=frames) for draw in draws]
    return {"point": moderate_map(protocol.ap()), "resampled": [moderate_map(protocol.ap(w)) for w in weights]}


def results_of(plan: Plan) -> dict[str, Any]:
    """The figures of the study, JSON data."""
    base = scores_of(plan, "nested", "base")
    points = [(n, k) for n in range(1, plan.books + 1) for k in plan.schedule]
    nested = {point: scores_of(plan, "nested", _name(point)) for point in points}
    first = plan.dedicated[0]
    without = scores_of(plan, "no-det", _name(first))
    return {
        "mark": MARK,
        "seeds": plan.seeds,
        "val_frames": plan.val_frames,
        "base_map": {"mean": float(base.point.mean()), "per_seed": base.point.tolist()},
        "loss": {_name(point): base.minus(scores) for point, scores in nested.items()},
        "rel_mse": {_name(point): _rel_mse(plan, "nested", point) for point in points},
        "detection_loss": {"cell": _name(first), "with": base.minus(nested[first]), "without": base.minus(without),
                           "gain": nested[first].minus(without)},
        "dedicated": {_name(point): {
            "nested_minus_dedicated": nested[point].minus(scores_of(plan, f"dedicated-{_name(point)}", _name(point))),
            "rel_mse": _rel_mse(plan, f"dedicated-{_name(point)}", point)} for point in plan.dedicated},
        "below_a_smaller_cell": falls(nested),
    }  # fmt: skip


def falls(nested: dict[tuple[int, int], Scores]) -> list[dict[str, Any]]:
    """Pairs in which the cell with as many or more books and rows scores lower, by more than the half-width."""
    found = []
    for larger, ours in nested.items():
        for smaller, theirs in nested.items():
            if larger != smaller and smaller[0] <= larger[0] and smaller[1] <= larger[1]:
                difference = ours.minus(theirs)
                if difference["mean"] < -(difference["high"] - difference["low"]) / 2:
                    found.append({"cell": _name(larger), "below": _name(smaller), **difference})
    return found


def _rel_mse(plan: Plan, name: str, point: tuple[int, int]) -> list[float]:
    """By seed."""
    cells = [read_cell(plan.out / f"{name}-{seed}-grid/cells/{_name(point)}.json") for seed in range(plan.seeds)]
    return [cell.found["rel_mse"] for cell in cells]


def _name(point: tuple[int, int]) -> str:
    return f"{point[0]}x{point[1]}"


def write_results(plan: Plan, found: dict[str, Any]) -> None:
    benchmark.write(plan.out / "evidence.json", benchmark.record("evidence", found, ("torch", "numpy", "numba")))
    report = Report("What residual quantization costs", banner=MARK,
                    subtitle=f"{plan.seeds} seeds, {plan.val_frames} validation frames")  # fmt: skip
    report.highlights({"mAP 3D moderate R40 without RQ": f"{found['base_map']['mean']:.2f}"})
    report.table(["cell", "loss of mAP", "95 % interval", "by seed", "relMSE"],
                 [[name, one["mean"], _interval(one), _seeds(one), float(np.mean(found["rel_mse"][name]))]
                  for name, one in found["loss"].items()])  # fmt: skip
    det = found["detection_loss"]
    rows = [[what, det[what]["mean"], _interval(det[what]), _seeds(det[what])] for what in ("with", "without", "gain")]
    report.table([f"detection loss, {det['cell']}", "mAP", "95 % interval", "by seed"], rows)
    rows = [[name, one["nested_minus_dedicated"]["mean"], _interval(one["nested_minus_dedicated"]),
             float(np.mean(found["rel_mse"][name])), float(np.mean(one["rel_mse"]))]
            for name, one in found["dedicated"].items()]  # fmt: skip
    report.table(["cell", "nested - dedicated", "95 % interval", "relMSE nested", "dedicated"], rows)
    lines = [f"{one['cell']} below {one['below']}: {one['mean']:+.2f} {_interval(one)}"
             for one in found["below_a_smaller_cell"]]  # fmt: skip
    report.text("\n\n".join(lines) or "No cell falls below one with fewer or equal books and rows by more than its "
                "half-width.")  # fmt: skip
    report.write(plan.out / "report.html")


def _interval(difference: dict[str, Any]) -> str:
    return f"[{difference['low']:+.2f}, {difference['high']:+.2f}]"


def _seeds(difference: dict[str, Any]) -> str:
    return " ".join(f"{value:+.2f}" for value in difference["per_seed"])


# --- the command ------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pillars_rq.evidence", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of everything this command makes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--books", type=int, default=5, help="codebooks of the nested model (default: 5)")
    parser.add_argument("--minutes", type=float, default=25, help="stop after so long; the same command continues")
    parser.add_argument(
        "--quick", action="store_true", help="a few frames and rows: tries the command, measures nothing"
    )
    args = parser.parse_args(argv)
    out = args.out.resolve()
    plan = quick_plan(out) if args.quick else whole_plan(out, args.seeds, args.books)
    deadline = time.monotonic() + 60 * args.minutes
    return run_command(lambda: _execute(plan, deadline))


def _execute(plan: Plan, deadline: float) -> int:
    if not run_jobs(plan, jobs_of(plan), deadline):
        print("evidence: time is over; the same command continues", flush=True)
        return MORE
    write_results(plan, results_of(plan))
    return 0


if __name__ == "__main__":
    sys.exit(main())
