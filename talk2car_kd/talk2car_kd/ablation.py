"""`--stage ablate`: what is each part of the pretraining worth, at a quarter of the labels and at all of them?

    {random, clip, clip+sim, clip+sim+cos} x {25 %, 100 % of the Stage 2 frames} x seeds

Every cell is the ordinary command line in a run folder of its own (`results/ablation/...`), so a cut ablation continues
where it stopped, and cells of one seed differ in nothing but what their name says. Two cells run side by side, one
thread each. Nothing is selected on val: a cell's score is that of its last weights.

Contrasts, paired over seeds and scenes (design: intervals resample val scenes jointly over seeds):
    region pretraining   clip - random
    distillation         clip+sim+cos - clip
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from shared.checkpoint import code_version, write_atomic
from shared.errors import UserError
from shared.metrics import paired_difference
from shared.report import Report

from .config import PACKAGE_ROOT, Config
from .evaluation import official_ious, read_predictions
from .stages.context import embedded_folder, in_package
from .stages.ground import LAST_PREDICTIONS
from .talk2car import find_talk2car, read_commands
from .weights import DISTILLED

ARMS = {
    "random": None,
    "clip": (1, 0, "0"),
    "clip+sim": (1, 1, "0"),
    "clip+sim+cos": (1, 1, "auto"),
}
FRACTIONS = (0.25, 1.0)
CONTRASTS = {"region pretraining": ("clip", "random"), "distillation": ("clip+sim+cos", "clip")}
PARALLEL = 2


def folder_name(arm: str) -> str:
    return arm.replace("+", "-")


@dataclass(frozen=True)
class Cell:
    arm: str
    fraction: float
    seed: int

    @property
    def name(self) -> str:
        return f"{folder_name(self.arm)}-{round(100 * self.fraction)}-seed{self.seed}"


@dataclass(frozen=True)
class Plan:
    """Where the ablation lies, and the arguments every one of its commands shares."""

    config: Config
    folder: Path
    shared: tuple[str, ...]  # --config and --set arguments of the user

    def command(self, stage: str, run: str, *settings: str, checkpoint: Path | None = None) -> list[str]:
        sets = [part for setting in (f"data.results_dir={self.folder}", *settings) for part in ("--set", setting)]
        extra = ["--checkpoint", str(checkpoint)] if checkpoint else []
        main = str(PACKAGE_ROOT / "main.py")
        return [sys.executable, main, "--stage", stage, "--run", run, *self.shared, *sets, *extra]


def ablate(config: Config, name: str | None, shared: tuple[str, ...]) -> int:
    """Run or continue the whole table; writes ablation.json, ablation.png and report.html into its folder."""
    if not config.embedded:
        raise UserError("--stage ablate measures on the embedded world: leave both data roots null")
    plan = Plan(config, in_package(config.data.results_dir) / (name or "ablation"), shared)
    plan.folder.mkdir(parents=True, exist_ok=True)
    seeds = config.eval.ablation_seeds
    _run(plan.command("teacher", "teacher"))
    pretrained = [(arm, seed) for seed in range(seeds) for arm in ARMS if ARMS[arm]]
    cells = [Cell(arm, fraction, seed) for seed in range(seeds) for fraction in FRACTIONS for arm in ARMS]
    with ThreadPoolExecutor(PARALLEL) as pool:  # the threads only wait for their commands
        list(pool.map(lambda job: _pretrain(plan, *job), pretrained))
        list(pool.map(lambda cell: _fine_tune(plan, cell), cells))
    write_results(plan, {cell: cell_ious(plan, cell) for cell in cells})
    return 0


def _teacher_settings(plan: Plan) -> tuple[str, ...]:
    return ("teacher.train=null", f"teacher.pretrained=local-dir:{plan.folder / 'teacher' / 'teacher'}")


def _pretrain(plan: Plan, arm: str, seed: int) -> None:
    clip, sim, cos = ARMS[arm]
    weights = (f"stage1.loss.clip={clip}", f"stage1.loss.sim={sim}", f"stage1.loss.cos={cos}")
    _run(
        plan.command(
            "1", f"stage1-{folder_name(arm)}-seed{seed}", *_teacher_settings(plan), *weights, f"training.seed={seed}"
        )
    )


def _fine_tune(plan: Plan, cell: Cell) -> None:
    """The same number of steps for every label share."""
    settings = [*_teacher_settings(plan), f"training.seed={cell.seed}", f"stage2.label_fraction={cell.fraction}",
                f"stage2.epochs={round(plan.config.stage2.epochs / cell.fraction)}"]  # fmt: skip
    checkpoint = None
    if ARMS[cell.arm]:
        checkpoint = plan.folder / f"stage1-{folder_name(cell.arm)}-seed{cell.seed}" / DISTILLED
    else:
        settings.append("stage2.init=backbone")
    _run(plan.command("2", cell.name, *settings, checkpoint=checkpoint))


def _run(command: list[str]) -> None:
    """One command, one thread. UserError with the end of its output when it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    name = command[command.index("--run") + 1]
    if done.returncode:
        raise UserError(f"{name}: exit code {done.returncode}\n{(done.stdout + done.stderr)[-1500:]}")
    print(f"ablate: {name} is there", flush=True)


# --- results ---


def cell_ious(plan: Plan, cell: Cell) -> dict[str, float]:
    """IoU of every val command of a finished cell, by command token."""
    predictions = read_predictions(plan.folder / cell.name / LAST_PREDICTIONS)
    commands = val_commands(plan.config)
    ious = official_ious([predictions[c.command_token] for c in commands], [c.box_xywh_px for c in commands])
    return {command.command_token: float(iou) for command, iou in zip(commands, ious, strict=True)}


def val_commands(config: Config):
    return read_commands(find_talk2car(embedded_folder(config) / "talk2car"), "val", frame_wh=config.stage2.frame_wh)


def write_results(plan: Plan, ious: dict[Cell, dict[str, float]]) -> dict:
    scenes = {c.command_token: c.scene_token for c in val_commands(plan.config)}
    table = {
        f"{arm} {round(100 * fraction)} %": [_ap50(ious[c]) for c in ious if (c.arm, c.fraction) == (arm, fraction)]
        for fraction in FRACTIONS
        for arm in ARMS
    }
    contrasts = {
        f"{name} {round(100 * fraction)} %": _contrast(ious, scenes, a, b, fraction)
        for name, (a, b) in CONTRASTS.items()
        for fraction in FRACTIONS
    }
    results = {"code": code_version(), "ap50_by_seed": table, "contrasts": contrasts}
    write_atomic(plan.folder / "ablation.json", json.dumps(results, indent=1) + "\n")
    _report(plan, table, contrasts)
    for name, contrast in contrasts.items():
        print(f"{name}: {contrast['text']}")
    return results


def _ap50(ious: dict[str, float]) -> float:
    return float(np.mean([iou > 0.5 for iou in ious.values()]))


def _contrast(ious: dict, scenes: dict[str, str], a: str, b: str, fraction: float) -> dict:
    """a - b in AP50: mean, interval over scenes jointly over seeds, the difference of every seed."""
    seeds = sorted({cell.seed for cell in ious})
    tokens = sorted(scenes)

    def hits(arm: str) -> np.ndarray:
        return np.array([[ious[Cell(arm, fraction, seed)][t] > 0.5 for t in tokens] for seed in seeds], dtype=float)

    difference = paired_difference(hits(a), hits(b), groups=[scenes[t] for t in tokens])
    return {
        "text": str(difference),
        "low": difference.low,
        "high": difference.high,
        "by_seed": list(difference.per_seed),
    }


def _report(plan: Plan, table: dict[str, list[float]], contrasts: dict) -> None:
    figure = _plot(table)
    figure.savefig(plan.folder / "ablation.png", dpi=120, bbox_inches="tight")
    report = Report("Ablation of the pretraining", banner=plan.config.data.mark)
    rows = [[name, float(np.mean(values)), " ".join(f"{v:.3f}" for v in values)] for name, values in table.items()]
    report.table(["pretraining, labels", "AP50", "by seed"], rows)
    report.table(["contrast", "difference in AP50"], [[name, c["text"]] for name, c in contrasts.items()])
    report.figure(plan.folder / "ablation.png")
    report.write(plan.folder / "report.html")
    plt.close(figure)


def _plot(table: dict[str, list[float]]):
    figure, axes = plt.subplots(1, len(FRACTIONS), figsize=(9, 3.4), sharey=True)
    for panel, fraction in zip(axes, FRACTIONS, strict=True):
        for place, arm in enumerate(ARMS):
            values = table[f"{arm} {round(100 * fraction)} %"]
            panel.scatter([place] * len(values), values, s=14, color="#5b6472")
            panel.hlines(np.mean(values), place - 0.3, place + 0.3, color="#2f5fd0", lw=3)
        panel.set(title=f"{round(100 * fraction)} % of the labels", xticks=range(len(ARMS)), xticklabels=list(ARMS))
        panel.tick_params(axis="x", labelsize=8)
        panel.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("val AP50 (bar: mean, dots: seeds)")
    return figure
