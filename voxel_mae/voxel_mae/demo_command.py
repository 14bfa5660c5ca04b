"""The demo: pretrain, fine-tune and judge on embedded construction sites, with pictures; or look at any one cloud.

    python demo.py                                       # all of it; the same command continues a cut one
    python demo.py CLOUD [--ckpt FILE] [--html]          # .npy, .bin (KITTI, nuScenes), .pcd

The first writes output/demo/: report.html, pictures of a masked cloud reconstructed, of teacher and student, and of
detections, and cloud.html, which turns in a browser. The trainings are ordinary runs of tools/ (--extra_tag demo).
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import DataError, UserError
from shared.run import World, run_command
from shared.storage import make_folder

from .config import PACKAGE_ROOT
from .data.clouds import KITTI_FEATURES, NUSCENES_FEATURES, read_cloud, read_table
from .demo_report import Stage, write_report
from .pictures import View, detections_figure, frames_figure, occupancy_figure, similarity_figure
from .viewer import write_viewer

PRETRAIN_CFG, FINETUNE_CFG = "cfgs/custom_models/demo_pretrain.yaml", "cfgs/custom_models/demo_finetune.yaml"
TAG = "demo"
SHOWN = 4  # validation frames with detections
WITHOUT_CLASSES = ("x", "y", "z")
OCCUPANCY = ("A masked validation frame, reconstructed, from above: each square shows the most probable block of its "
             "column, ground included. Where there is no square, the student was not asked.")  # fmt: skip
MASKINGS = ("Every masking at its default values, on the same frame: kept voxels in colour, the others grey, and the "
            "share that is kept at each distance.")  # fmt: skip
SIMILARITY = ("How alike the student, which sees the masked cloud, and the teacher, which sees all of it, describe the "
              "places that both have: the cosine of their features, level by level, 1 being the same.")  # fmt: skip


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="demo.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("cloud", type=Path, nargs="?", help="a cloud to look at; without one, the whole demo runs")
    add("--ckpt", type=Path, help="with CLOUD: a fine-tuned checkpoint that looks for machines in it")
    add("--features", nargs="+", help="with CLOUD: its columns (default: by the file's kind; x y z intensity for .bin)")
    add("--html", action="store_true", help="with CLOUD: also a page that turns in a browser")
    add("--score", type=float, default=0.3, help="least score of a detection that is drawn (default: 0.3)")
    add("--out", type=Path, help="folder of the pictures (default: output/demo)")
    add("--set", dest="settings", nargs="+", default=[], metavar=("KEY", "VALUE"), help="settings of both trainings, "
        "as of tools/")  # fmt: skip
    add("--epochs", type=int, nargs=2, metavar=("PRETRAIN", "FINETUNE"), help="(default: the configurations')")
    add("--output_dir", type=Path, default=Path("output"), help="root of the runs (default: output)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code (2: a mistake of the user's)."""
    args = parse(argv)
    return run_command(lambda: look_at(args) if args.cloud else run_all(args))


def _out(args: argparse.Namespace) -> Path:
    return make_folder(args.out or PACKAGE_ROOT / "output" / TAG)


# --- one cloud --------------------------------------------------------------------------------------------------------


def look_at(args: argparse.Namespace) -> int:
    """Draw a cloud from above, with detections where a checkpoint is given. DataError: no cloud that can be read."""
    columns = tuple(args.features or columns_of(args.cloud))
    points = read_cloud(args.cloud, columns)
    view = View(args.cloud.name, points)
    if args.ckpt:
        view = _with_detections(view, args.ckpt, columns, args.score)
    folder = _out(args)
    picture = folder / f"{args.cloud.stem}.png"
    figure = detections_figure([view]) if args.ckpt else frames_figure([(view.title, points, view.boxes, view.names)])
    figure.savefig(picture, dpi=150)
    found = f", {len(view.found)} detections" if args.ckpt else ""
    print(f"{len(points):,} points{found}: wrote {picture}")
    if args.html:
        print(f"wrote {write_viewer(folder / f'{args.cloud.stem}.html', view)}")
    return 0


def columns_of(path: Path) -> tuple[str, ...]:
    """The usual columns of a kind of file. DataError when the number of columns says nothing."""
    if path.name.endswith(".pcd.bin"):
        return NUSCENES_FEATURES
    if path.suffix == ".bin":
        return KITTI_FEATURES
    if path.suffix != ".npy":
        return WITHOUT_CLASSES
    shape = read_table(path).shape
    known = {len(names): names for names in (WITHOUT_CLASSES, KITTI_FEATURES, NUSCENES_FEATURES)}
    if len(shape) != 2 or shape[1] not in known:
        raise DataError(f"{path} is a table of shape {shape}: say with --features what its columns are")
    return known[shape[1]]


def _with_detections(view: View, ckpt: Path, columns: Sequence[str], least: float) -> View:
    from .inspection import detections, open_checkpoint  # torch and spconv: only here

    trained = open_checkpoint(ckpt)
    if trained.experiment.pretraining:
        raise UserError(f"--ckpt {ckpt} is of a pretraining, which has no head: give a fine-tuned one")
    used = trained.experiment.DATA_CONFIG.POINT_FEATURE_ENCODING.used_feature_list
    if missing := [name for name in used if name not in columns]:
        raise DataError(
            f"{view.title} has the columns {', '.join(columns)}, the checkpoint needs {', '.join(missing)} too: "
            "give a cloud that has them, or name its columns with --features"
        )
    chosen = np.ascontiguousarray(view.points[:, [list(columns).index(name) for name in used]])
    boxes, names, scores = detections(trained, chosen)
    kept = scores >= least
    found = [name for name, keep in zip(names, kept, strict=True) if keep]
    return View(view.title, view.points, found=boxes[kept], found_names=found, scores=scores[kept].tolist())


# --- all of it --------------------------------------------------------------------------------------------------------


def run_all(args: argparse.Namespace) -> int:
    """World, pretraining, fine-tuning, evaluation, pictures."""
    from . import commands

    started, folder = time.monotonic(), _out(args)
    epochs = args.epochs or (None, None)
    pretrained = _stage(args, commands.PRETRAIN, PRETRAIN_CFG, epochs[0])
    tuned = _stage(args, commands.TRAIN, FINETUNE_CFG, epochs[1], pretrained.checkpoint)
    pictures = draw_all(pretrained, tuned, folder, args.score)
    seconds = time.monotonic() - started
    write_report(folder / "report.html", pretrained, tuned, pictures, seconds)
    print(f"demo: {seconds:.0f} s; wrote {folder / 'report.html'}")
    return 0


def _stage(args: argparse.Namespace, program: str, cfg: str, epochs: int | None, weights: Path | None = None) -> Stage:
    """Run one of tools/ to its end; what is finished already is only looked up."""
    from . import commands

    argv = [*_shared_words(cfg, args.output_dir), "--workers", "1"]
    argv += ["--epochs", str(epochs)] if epochs else []
    argv += ["--pretrained_model", str(weights)] if weights else []
    argv += ["--set", *args.settings] if args.settings else []
    started = time.monotonic()
    commands.execute(program, argv)
    return finished(program, cfg, args.output_dir, time.monotonic() - started)


def _shared_words(cfg: str, output_dir: Path) -> list[str]:
    return ["--cfg_file", cfg, "--extra_tag", TAG, "--output_dir", str(output_dir)]


def finished(program: str, cfg: str, output_dir: Path = Path("output"), seconds: float = 0.0) -> Stage:
    """A stage of the demo that was trained before. UserError when it was not."""
    from . import commands
    from .engine.checkpoints import FOLDER, epoch_of, list_checkpoints

    request = commands.parse_config(program, _shared_words(cfg, output_dir))
    folder, split = request.output / TAG, request.experiment.DATA_CONFIG.DATA_SPLIT.test
    checkpoints = list_checkpoints(folder / FOLDER)
    if not checkpoints:
        raise UserError(f"{folder / FOLDER} holds no checkpoint: run `python demo.py` first")
    last = checkpoints[-1]
    return Stage(folder, last, folder / "eval/eval_with_train" / f"epoch_{epoch_of(last)}" / split, seconds)


def draw_all(pretrained: Stage, tuned: Stage, folder: Path, least: float) -> list[tuple[Path, str]]:
    """The pictures of both stages: (path, caption). The frame that shows pretraining is the one with most boxes."""
    from .engine.sources import open_sources
    from .inspection import open_checkpoint, pretraining_views
    from .masking_pictures import draw_cloud
    from .results import read_results

    student, detector = open_checkpoint(pretrained.checkpoint), open_checkpoint(tuned.checkpoint)
    sources = open_sources(detector.experiment, World())
    chosen = chosen_frames(sources.val, SHOWN)
    view, levels = pretraining_views(student, (0, chosen[0]), sources.val[chosen[0]])
    figures = {"occupancy": (occupancy_figure(view, sources.mark), OCCUPANCY)}
    if levels:
        sites = {name: student.site_m(name) for name in levels}
        figures["similarity"] = (similarity_figure(levels, sites, sources.mark), SIMILARITY)
    classes, found = read_results(tuned.evaluation / "result.json")
    views = [frame_view(sources.val[index], classes, found, least) for index in chosen]
    caption = f"Labels (solid) and detections of score {least:g} and above (dashed) in the colour of their class: "
    caption += "where a dashed outline has another colour than the solid one beneath, the class is wrong."
    figures["detections"] = (detections_figure(views, sources.mark), caption)
    write_viewer(folder / "cloud.html", views[0], sources.mark)
    for name, (figure, _) in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=130)
    drawn = [(folder / f"{name}.png", caption) for name, (_, caption) in figures.items()]
    draw_cloud(sources.val[chosen[0]].points, student.grid, folder / "maskings.png", note=sources.mark)
    return [*drawn, (folder / "maskings.png", MASKINGS)]


def chosen_frames(data: Any, count: int) -> list[int]:
    """Up to `count` frames of a labelled data set, those with the most boxes first, each of another sequence."""
    from .data.splits import sequence_of

    boxes = [len(data.truth(index)[0]) for index in range(len(data))]
    chosen: dict[str, int] = {}
    for index in sorted(range(len(data)), key=lambda one: -boxes[one]):
        chosen.setdefault(sequence_of(data.frame_ids[index]), index)
    return list(chosen.values())[:count]


def frame_view(frame: Any, classes: Sequence[str], found: dict[str, dict[str, np.ndarray]], least: float) -> View:
    """A labelled frame with its detections of result.json from a score on."""
    one = found[frame.frame_id]
    kept = one["scores"] >= least
    return View(
        frame.frame_id,
        frame.points,
        frame.boxes,
        [classes[label - 1] for label in frame.labels],
        one["boxes"][kept],
        [classes[label - 1] for label in one["labels"][kept]],
        one["scores"][kept].tolist(),
    )


if __name__ == "__main__":
    sys.exit(main())
