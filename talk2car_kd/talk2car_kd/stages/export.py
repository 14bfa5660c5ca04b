"""Stage `export`: the grounding model as one ONNX file, its size and its speed beside CLIP's image towers
-> results/<run>/export/{model.onnx,export.json,report.html}."""

from pathlib import Path

from shared.errors import CheckpointError

from ..config import Export
from ..latency import as_record, check_names, clip_tower, conditions, measure, student_towers, table
from ..onnx_export import RECORD_NAME, describe, write_export
from ..run_report import write_export_report
from ..single import Grounder
from ..weights import BEST
from .context import Context, in_package


def export(ctx: Context, checkpoint: Path | None = None) -> dict:
    """Export the grounding model named, else this run's best, else the newest of all runs; returns export.json.

    Raises CheckpointError without a model that fits or under torchrun, ExportError when ONNX Runtime does not give
    PyTorch's numbers; then nothing is written.
    """
    if ctx.world.size > 1:
        raise CheckpointError("the export runs on one process: start it without torchrun")
    check_names(ctx.config.export.image_towers)
    own = ctx.run.path / BEST
    path = checkpoint or (own if own.exists() else None)
    grounder = Grounder.load(path, results=in_package(ctx.config.data.results_dir))
    ctx.run.log.info("exporting %s", grounder.path)
    target = ctx.run.file(f"export/{RECORD_NAME}")
    record = write_export(grounder, target.parent, measured=lambda: latency_of(grounder, ctx.config.export))
    differences = ", ".join(f"{name} {value:.1e}" for name, value in record["parity"]["max_abs_difference"].items())
    ctx.run.log.info("ONNX Runtime against PyTorch, largest difference: %s", differences)
    speed = record["latency"]
    ctx.run.log.info("image towers in PyTorch, %s\n%s", conditions(speed), table(speed))
    report = write_export_report(target.parent, record)
    ctx.run.log.info("wrote %s\n%s", report.parent, describe(record))
    return record


def latency_of(grounder: Grounder, settings: Export) -> dict:
    """The student at 224 and at its own input, then the towers of the settings, measured in one run."""
    towers = [*student_towers(grounder.model.encoder, grounder.input_hw), *map(clip_tower, settings.image_towers)]
    return as_record(measure(towers, settings.rounds, grounder.device), settings.rounds, grounder.device)
