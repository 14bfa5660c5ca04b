"""The README's pictures: a frame masked, reconstructed and detected by the finished demo; mAP by labels and epochs.

    python demo.py && python benchmarks/pictures.py --out docs

Trains nothing: it reads output/custom_models/demo_{pretrain,finetune}/demo and benchmarks/results/experiments*.json.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from shared.json_files import read_json
from shared.run import World, run_command
from shared.storage import write_atomic
from voxel_mae import commands
from voxel_mae.demo_command import FINETUNE_CFG, PRETRAIN_CFG, chosen_frames, finished, frame_view
from voxel_mae.engine.sources import open_sources
from voxel_mae.experiment_plan import Plan
from voxel_mae.experiment_report import label_efficiency
from voxel_mae.inspection import open_checkpoint, pretraining_views
from voxel_mae.pictures import summary_figure
from voxel_mae.results import read_results

NAME = "voxel_mae.jpg"
RESULTS = Path(__file__).parent / "results"
COMPARED = {"voxel_mae_labels.png": "experiments.json", "voxel_mae_lengths.png": "experiments_headline.json"}
LEAST_SCORE = 0.3


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--output_dir", type=Path, default=Path("output"), help="root of the demo's runs")
    args = parser.parse_args(argv)
    return run_command(lambda: draw(args.out, args.output_dir))


def draw(out: Path, output_dir: Path) -> int:
    out.mkdir(parents=True, exist_ok=True)
    pictures = {NAME: as_bytes(demo_figure(output_dir), "jpg", pil_kwargs={"quality": 85, "optimize": True})}
    pictures |= {name: as_bytes(compared_figure(RESULTS / found), "png") for name, found in COMPARED.items()}
    for name, content in pictures.items():
        print(f"wrote {write_atomic(out / name, content)}")
    return 0


def as_bytes(figure: Figure, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=110, **options)
    return buffer.getvalue()


def compared_figure(path: Path) -> Figure:
    found = read_json(path, "take it from the repository")["results"]
    return label_efficiency(Plan.model_validate(found["plan"]), found)


def demo_figure(output_dir: Path) -> Figure:
    pretrained = finished(commands.PRETRAIN, PRETRAIN_CFG, output_dir)
    tuned = finished(commands.TRAIN, FINETUNE_CFG, output_dir)
    student, detector = open_checkpoint(pretrained.checkpoint), open_checkpoint(tuned.checkpoint)
    sources = open_sources(detector.experiment, World())
    (index,) = chosen_frames(sources.val, 1)
    masked, _ = pretraining_views(student, (0, index), sources.val[index])
    detected = frame_view(sources.val[index], *read_results(tuned.evaluation / "result.json"), LEAST_SCORE)
    return summary_figure(masked, detected, sources.mark)


if __name__ == "__main__":
    sys.exit(main())
