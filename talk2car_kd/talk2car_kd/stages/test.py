"""Stage `test`: predictions.json, pictures, the score with its floors and controls, and report.html."""

import json
from dataclasses import dataclass
from pathlib import Path

from shared.checkpoint import write_atomic
from shared.errors import CheckpointError, DataError

from .. import baselines
from ..evaluation import Record, evaluate_talk2car, predictions_of, score_records, write_predictions
from ..inference import inference_and_visualize
from ..run_report import write_report
from ..talk2car import Command, find_talk2car, read_commands
from ..weights import BEST, load_grounding, refuse_other
from .context import Context, grounding_loader
from .ground import command_reader, commands_of
from .teacher import teacher_of

HEADLINE = ("n", "ap50", "ap50_95", "average_iou")


@dataclass(frozen=True)
class Outputs:
    """What the command line asks the test stage to leave beside scores.json and report.html."""

    visualize: bool = False
    generate_predictions: bool = False


@dataclass(frozen=True)
class SplitResult:
    records: list[Record]
    scores: dict | None  # None without ground truth
    comparison: dict[str, dict] | None  # floors and controls by name


def test(ctx: Context, outputs: Outputs, checkpoint: Path | None = None) -> dict[str, dict | None]:
    """Judge the grounding model named, or this run's best, on `val` and `test`; returns {split: scores}.

    A split without ground truth gets predictions and no score. Raises CheckpointError without a model that fits,
    DataError when no command is left.
    """
    path = checkpoint or ctx.run.path / BEST
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist: run `python main.py --stage 2` first, or name a file: --checkpoint"
        )
    model, record = load_grounding(path)
    model.to(ctx.world.device)
    teacher = teacher_of(ctx, path)
    refuse_other(path, "teacher.sha256", record["teacher"]["sha256"], teacher.sha256)
    ctx.run.log.info("testing %s (epoch %s)", path, record["epoch"])
    commands = {split: commands_of(ctx, split) for split in _splits(ctx)}
    if not any(commands.values()):
        raise DataError(f"{ctx.talk2car_root}: no command is left to test, every image is missing; see --validate")
    reader = command_reader(teacher, [c for rows in commands.values() for c in rows], record["text_len"])
    results = {split: _judge(ctx, split, model, rows, reader, outputs) for split, rows in commands.items() if rows}
    scores = {split: result.scores for split, result in results.items()}
    if ctx.world.is_main:
        write_atomic(
            ctx.run.file("scores.json"), json.dumps({"mark": ctx.config.data.mark, **_written(results)}, indent=1)
        )
        write_report(ctx.run.path, ctx.config, path, record, results)
    return scores


def _splits(ctx: Context) -> list[str]:
    present = find_talk2car(ctx.talk2car_root).commands
    splits = [split for split in ("val", "test") if split in present]
    if not splits:
        raise DataError(f"{ctx.talk2car_root}: neither val_commands.json nor test_commands.json is there")
    return splits


def _judge(ctx: Context, split: str, model, commands: list[Command], reader, outputs: Outputs) -> SplitResult:
    """Predict, draw and score one split."""
    config = ctx.config
    loader, _ = grounding_loader(ctx, commands, reader, train=False)
    folder = ctx.run.path / "visualizations" / split if outputs.visualize else None
    records = inference_and_visualize(model, loader, config, folder, world=ctx.world, device=ctx.world.device)
    if outputs.generate_predictions and ctx.world.is_main:
        name = "predictions.json" if split == "test" or len(_splits(ctx)) == 1 else f"predictions_{split}.json"
        write_predictions(ctx.run.file(name), predictions_of(records))
        ctx.run.log.info("wrote %s", ctx.run.path / name)
    if all(command.box_xywh_px is None for command in commands):
        ctx.run.log.info("%s has no ground truth: predictions only, no score", split)
        return SplitResult(records, None, None)
    scores = score_records(records, config)
    interval = " [{:.4f}, {:.4f}]".format(*scores["intervals"]["ap50"]) if "intervals" in scores else ""
    ctx.run.log.info("%s: AP50 %.4f%s, mean IoU %.4f, n %d %s", split, scores["ap50"], interval,
                     scores["average_iou"], scores["n"], config.data.mark)  # fmt: skip
    comparison = _compare(ctx, model, loader, reader, commands, scores)
    return SplitResult(records, scores, comparison)


def _compare(ctx: Context, model, loader, reader, commands: list[Command], scores: dict) -> dict[str, dict]:
    """The rows that say what a score is worth: floors without a model, and the same model with half its input gone."""

    def judged(changed) -> dict:
        return evaluate_talk2car(model, changed, ctx.config, world=ctx.world, device=ctx.world.device, intervals=False)

    rows = {"this model": scores}
    try:
        rows["the same, commands shuffled"] = judged(baselines.with_shuffled_text(loader, reader))
    except DataError as error:
        ctx.run.log.warning("no shuffled-text control: %s", error)
    rows["the same, blank images"] = judged(baselines.with_blank_images(loader))
    train = _train_boxes(ctx)
    if train:
        rows |= baselines.floors(train, commands)
    return {name: {key: row[key] for key in HEADLINE if key in row} for name, row in rows.items()}


def _train_boxes(ctx: Context) -> list[Command]:
    """Training commands for the constant baselines; none when the root has no train split (said in the log)."""
    layout = find_talk2car(ctx.talk2car_root)
    if "train" not in layout.commands:
        ctx.run.log.warning("no train split: the constant-box floors are left out")
        return []
    return read_commands(layout, "train", frame_wh=ctx.config.stage2.frame_wh)  # boxes only: no frame has to be there


def _written(results: dict[str, SplitResult]) -> dict:
    return {
        split: {"scores": result.scores, "comparison": result.comparison, "n_predicted": len(result.records)}
        for split, result in results.items()
    }
