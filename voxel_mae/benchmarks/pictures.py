"""The picture of the READMEs: a frame masked, reconstructed and detected by the finished demo.

    python demo.py && python benchmarks/pictures.py --out docs

Trains nothing: it reads output/custom_models/demo_{pretrain,finetune}/demo.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from shared.run import World, run_command
from shared.storage import write_atomic
from voxel_mae import commands
from voxel_mae.demo_command import FINETUNE_CFG, PRETRAIN_CFG, chosen_frames, finished, frame_view
from voxel_mae.engine.sources import open_sources
from voxel_mae.inspection import open_checkpoint, pretraining_views
from voxel_mae.pictures import summary_figure
from voxel_mae.results import read_results

NAME = "voxel_mae.jpg"
LEAST_SCORE = 0.3


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--output_dir", type=Path, default=Path("output"), help="root of the demo's runs")
    args = parser.parse_args(argv)
    return run_command(lambda: draw(args.out, args.output_dir))


def draw(out: Path, output_dir: Path) -> int:
    pretrained = finished(commands.PRETRAIN, PRETRAIN_CFG, output_dir)
    tuned = finished(commands.TRAIN, FINETUNE_CFG, output_dir)
    student, detector = open_checkpoint(pretrained.checkpoint), open_checkpoint(tuned.checkpoint)
    sources = open_sources(detector.experiment, World())
    (index,) = chosen_frames(sources.val, 1)
    masked, _ = pretraining_views(student, (0, index), sources.val[index])
    detected = frame_view(sources.val[index], *read_results(tuned.evaluation / "result.json"), LEAST_SCORE)
    buffer = io.BytesIO()
    figure = summary_figure(masked, detected, sources.mark)
    figure.savefig(buffer, format="jpg", dpi=110, pil_kwargs={"quality": 85, "optimize": True})
    out.mkdir(parents=True, exist_ok=True)
    print(f"wrote {write_atomic(out / NAME, buffer.getvalue())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
