"""Stage `export`: the grounding model as one ONNX file -> results/<run>/export/{model.onnx,export.json}."""

from pathlib import Path

from shared.errors import CheckpointError

from ..onnx_export import RECORD_NAME, describe, write_export
from ..single import Grounder
from ..weights import BEST
from .context import Context, in_package


def export(ctx: Context, checkpoint: Path | None = None) -> dict:
    """Export the grounding model named, else this run's best, else the newest of all runs; returns export.json.

    Raises CheckpointError without a model that fits or under torchrun, RuntimeError when ONNX Runtime does not give
    PyTorch's numbers; then nothing is written.
    """
    if ctx.world.size > 1:
        raise CheckpointError("the export runs on one process: start it without torchrun")
    own = ctx.run.path / BEST
    path = checkpoint or (own if own.exists() else None)
    grounder = Grounder.load(path, results=in_package(ctx.config.data.results_dir))
    ctx.run.log.info("exporting %s", grounder.path)
    target = ctx.run.file(f"export/{RECORD_NAME}")
    record = write_export(grounder, target.parent)
    differences = ", ".join(f"{name} {value:.1e}" for name, value in record["parity"]["max_abs_difference"].items())
    ctx.run.log.info("ONNX Runtime against PyTorch, largest difference: %s", differences)
    ctx.run.log.info("wrote %s\n%s", target.parent, describe(record))
    return record
